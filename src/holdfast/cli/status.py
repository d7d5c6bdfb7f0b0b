"""``holdfast status``: how the service, its server and the books fare, and whether anything is wrong."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from holdfast.cli.common import (
    EXIT_FAILED,
    EXIT_GOOD,
    CliError,
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
    from holdfast.config.settings import Settings
    from holdfast.tools.status import BookStatus, StreamStatus
    from holdfast.transport.about import ServerFacts
    from holdfast.transport.durability import Disk
    from holdfast.transport.tails import LostTail

IN_TROUBLE: Final = ("waiting", "restarting")
"""The states of a part that are problems."""

NOT_ALLOWED: Final = "not allowed to ask"

LOSSES_SHOWN: Final = 5
"""So many lost tails of a book are shown to people, the last ones; ``--json`` has all."""

CAUSES: Final = {
    "failover": "a failover",
    "cut": "going back in its history",
    "other history": "a restart, or other data",
}


def status(
    books: Annotated[
        list[str] | None, typer.Argument(metavar="[BOOK]...", help="Which.  \\[default: all]")
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
    """Show how the service, its server and each book fare, who leads it, and what is wrong.

    Exit 1 if anything is. Changes nothing.

    Examples:

      holdfast status

      holdfast status demo --late 5 --json
    """
    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)

    async def main() -> int:
        from holdfast.actors.ports import GENESIS, LogError
        from holdfast.bootstrap import open_operator
        from holdfast.cli.follow import check_book, require_book
        from holdfast.cli.service import log_to_look_at
        from holdfast.tools.status import book_status
        from holdfast.transport.about import ServerFacts

        service, server = await _look_at_service(settings)
        found: list[BookStatus] = []
        if server is None:
            try:
                async with (
                    log_to_look_at(settings) as (located, log),
                    open_operator(located) as operator,
                ):
                    server = await operator.about(*_promised(service))
                    for book in books or await log.wait_books(0, 0):
                        check_book(book)
                        one = await book_status(log, operator, book, late_s=late, quick=quick)
                        if books and one.last == GENESIS:
                            await require_book(log, book)
                        found.append(one)
            except LogError as error:
                if service is None:
                    raise
                server = ServerFacts(problems=[str(error)])
        in_trouble = service is not None and any(
            part.health in IN_TROUBLE for part in service.parts.values()
        )
        healthy = not (in_trouble or server.problems or any(one.problems for one in found))
        if as_json:
            shown = None if service is None else _without_secrets(service)
            told = {"healthy": healthy, "service": shown, "server": server, "books": found}
            print_json(told)
        else:
            _print(service, server, found)
        return EXIT_GOOD if healthy else EXIT_FAILED

    run(main)


async def _look_at_service(settings: Settings) -> tuple[Status | None, ServerFacts | None]:
    """The service that works on the server, and what its server is where that does not answer.

    Raises:
      CliError: The server does not answer, and no service of the data folder works on it.
    """
    from holdfast.cli.pulse import pulse
    from holdfast.cli.service import locate
    from holdfast.cli.status_file import read_status
    from holdfast.transport.about import ServerFacts

    service = read_status(settings.data)
    if service is not None and not service.redis and settings.redis_url is None:
        return service, ServerFacts(problems=["the server is not ready yet: ask again soon"])
    located = locate(settings)
    url = "" if located is None else located.redis_url or ""
    if service is not None and service.redis != url:
        service = None  # it works on another server
    why = await pulse(url) if url else ""
    if why and service is None:
        raise CliError(why, EXIT_FAILED)
    return service, ServerFacts(problems=[why]) if why else None


def _without_secrets(service: Status) -> Status:
    import msgspec

    from holdfast.config.redact import redacted

    urls = {"redis": redacted(service.redis), "provider": redacted(service.provider)}
    return msgspec.structs.replace(service, **urls)


def _promised(service: Status | None) -> tuple[Disk | None, int]:
    """What *service* promises: how soon an outcome is on disk, and how many replicas have it."""
    if service is None:
        return None, 0
    return "relaxed" if service.durability == "relaxed" else "durable", service.replicas


def _print(service: Status | None, server: ServerFacts, books: list[BookStatus]) -> None:
    if service is None:
        print("No service of this data folder works on this server.")
    else:
        _print_service(service)
    _print_server(server)
    if not books and server.name is not None:
        print("There is no book yet.")
    for book in books:
        print()
        _print_book(book)


def _print_service(service: Status) -> None:
    from rich.table import Table

    print(f"Service {service.pid} runs, {service.durability}.")
    table = Table("part", "process", "health", "started again", box=None, padding=(0, 2))
    for name, part in service.parts.items():
        table.add_row(
            name, f"{part.pid}", part.health, f"{part.restarts}×" if part.restarts else ""
        )
    console().print(table)
    now_ms = time.time_ns() // 1_000_000
    for name, part in service.parts.items():
        for trouble in part.troubles:
            lasting = _age(max(0, now_ms - trouble.since_ms) / 1000)
            print(f"  ✗ {name}, {part.health} for {lasting}: {trouble.why}")


def _print_server(server: ServerFacts) -> None:
    facts: list[str] = []
    if server.name is not None:
        facts.append(f"{server.name} {server.version}")
        facts.append(f"{server.role} with {server.replicas} replicas")
        limit = _megabytes(server.memory_max_bytes) if server.memory_max_bytes else "no limit"
        facts.append(f"memory {_megabytes(server.memory_bytes or 0)} of {limit}")
        facts.append(f"appendonly {'yes' if server.appendonly else 'no'}")
        facts.append(f"appendfsync {server.appendfsync or NOT_ALLOWED}")
        print(f"Server: {', '.join(facts)}.")
    elif server.problems:
        print("Server: it does not answer as it should.")
    else:
        print(f"Server: {NOT_ALLOWED}.")
    for problem in server.problems:
        print(f"  ✗ {problem}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _print_book(book: BookStatus) -> None:
    from rich.table import Table

    out = console()
    if not book.position:
        print(f"{book.book}: it cannot be read as it is.")
        for problem in book.problems:
            print(f"  ✗ {problem}")
        return
    print(f"{book.book}: decided up to {book.position}, {book.lag} inputs behind the last.")
    print(
        f"  epoch {book.epoch} of {_owner(book)}, machine version {book.version}, "
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
    for lost in book.losses[-LOSSES_SHOWN:]:
        print(f"  {_lost(lost)}")
    for problem in book.problems:
        print(f"  ✗ {problem}")


def _owner(book: BookStatus) -> str:
    if not book.owner:
        return "nobody"
    if book.lease_s is None:
        return f"{book.owner} (lease {NOT_ALLOWED})"
    if book.lease_s == 0:
        return f"{book.owner} (no lease)"
    if book.lease_s == math.inf:
        return f"{book.owner} (lease without end)"
    return f"{book.owner} (lease {book.lease_s:.1f} s)"


def _lost(lost: LostTail) -> str:
    gone = [
        f"{what} after {kept} up to {to}"
        for what, kept, to in (
            ("inputs", lost.inputs_kept, lost.inputs_lost_to),
            ("outcomes", lost.decided_kept, lost.decided_lost_to),
        )
        if kept != to
    ]
    size = f", at least {lost.bytes:,} bytes of the server's history" if lost.bytes > 0 else ""
    return f"lost by {CAUSES[lost.cause]}: {' and '.join(gone)}{size}"


def _row(stream: StreamStatus) -> tuple[str, str, str, str, str]:
    waiting = "?" if stream.waiting < 0 else f"{stream.waiting}"
    oldest = f"{stream.oldest}, {_age(stream.oldest_s)}" if stream.oldest else ""
    return stream.stream, f"{stream.length}", waiting, f"{stream.pending}", oldest


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"
