"""``holdfast status``: how the books fare, and whether anything is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.common import (
    EXIT_FAILED,
    EXIT_GOOD,
    ConfigOption,
    DataOption,
    JsonOption,
    RedisOption,
    console,
    errors_of_one_sentence,
    print_json,
    run,
    settings_of,
)

if TYPE_CHECKING:
    from holdfast.cli.status_file import Status
    from holdfast.tools.status import BookStatus, StreamStatus


def status(
    books: Annotated[
        list[str] | None, typer.Argument(metavar="[BOOK]...", help="Which.  [default: all]")
    ] = None,
    late: Annotated[
        float, typer.Option(metavar="SECONDS", help="What waits longer is a problem.", min=0)
    ] = 30.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out holds and payments: decide nothing anew.")
    ] = False,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far each book is decided and carried out, who leads it, and what is wrong.

    Exit 1 if anything is. Changes nothing.

    Examples:

      holdfast status

      holdfast status demo --late 5 --json
    """
    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)

    async def main() -> int:
        from holdfast.bootstrap import open_operator
        from holdfast.cli.follow import require_book
        from holdfast.cli.service import log_to_look_at
        from holdfast.cli.status_file import read_status
        from holdfast.tools.status import book_status

        service = read_status(settings.data)
        found: list[BookStatus] = []
        async with log_to_look_at(settings) as (located, log), open_operator(located) as operator:
            if service is not None and service.redis != located.redis_url:
                service = None  # it works on another server
            for book in books or await log.wait_books(0, 0):
                await require_book(log, book)
                found.append(await book_status(log, operator, book, late_s=late, quick=quick))
        healthy = not any(one.problems for one in found)
        if as_json:
            print_json({"healthy": healthy, "service": service, "books": found})
        else:
            _print(service, found)
        return EXIT_GOOD if healthy else EXIT_FAILED

    run(main)


def _print(service: Status | None, books: list[BookStatus]) -> None:
    if service is None:
        print("No service of this data folder works on this server.")
    else:
        parts = ", ".join(
            f"{name} {part.pid}" + (f" (started again {part.restarts}×)" if part.restarts else "")
            for name, part in service.parts.items()
        )
        print(f"Service {service.pid} runs: {parts}.")
    if not books:
        print("There is no book yet.")
    for book in books:
        print()
        _print_book(book)


def _print_book(book: BookStatus) -> None:
    from rich.table import Table

    out = console()
    print(f"{book.book}: decided up to {book.position}, {book.lag} inputs behind the last.")
    print(
        f"  epoch {book.epoch} of {book.owner or 'nobody'}, machine version {book.version}, "
        f"digest {book.digest or 'none'}"
    )
    if book.snapshot:
        since = f", {book.since_snapshot} inputs since" if book.since_snapshot >= 0 else ""
        print(f"  snapshot at {book.snapshot}, {_age(book.snapshot_age_s)} old{since}")
    else:
        print("  no snapshot yet")
    if book.holds is not None:
        print(f"  {book.holds} slot holds, {book.payments_under_way} payments under way")
    if book.dead_letters:
        print(f"  dead letters: {book.dead_letters}; see 'holdfast deadletters list {book.book}'")
    table = Table("stream", "entries", "waiting", "pending", "oldest", box=None, padding=(0, 2))
    for stream in book.streams:
        table.add_row(*_row(stream))
    out.print(table)
    for problem in book.problems:
        print(f"  ✗ {problem}")


def _row(stream: StreamStatus) -> tuple[str, str, str, str, str]:
    waiting = "?" if stream.waiting < 0 else f"{stream.waiting}"
    oldest = f"{stream.oldest}, {_age(stream.oldest_s)}" if stream.oldest else ""
    return stream.stream, f"{stream.length}", waiting, f"{stream.pending}", oldest


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"
