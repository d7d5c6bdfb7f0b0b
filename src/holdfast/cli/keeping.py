"""``holdfast snapshot``, ``trim`` and ``drain``: what is kept, what goes, and a clean stop."""

from __future__ import annotations

import math
import os
import signal
from contextlib import suppress
from pathlib import Path
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
    errors_of_one_sentence,
    print_json,
    run,
    settings_of,
)
from holdfast.cli.confirm import YesOption, confirmed

if TYPE_CHECKING:
    from holdfast.config.settings import Settings

LOOK_S: Final = 0.05
"""How often to look whether a service has stopped."""

STOP_S_MAX: Final = 60.0
"""Longest wait for that, beyond the booking actor's own grace."""

BookArgument = Annotated[str, typer.Argument(help="The book's name, such as demo.")]


def snapshot(
    book: BookArgument,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="Into a new file; the log stays as it is."),
    ] = None,
    yes: YesOption = False,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a snapshot of a book as it is committed, into the log or a file.

    The book's owner goes on meanwhile and does not notice. In the log it replaces the older of the
    two that are kept, so it asks first; a file can be replayed, or begun from.

    Examples:

      holdfast snapshot demo --yes

      holdfast snapshot demo --to demo.snapshot
    """
    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)

    async def main() -> int:
        from holdfast.bootstrap import open_operator
        from holdfast.cli.follow import require_book
        from holdfast.cli.progress import progress_shown
        from holdfast.cli.service import log_to_look_at
        from holdfast.tools.snapshots import save_snapshot, write_snapshot_file

        async with log_to_look_at(settings) as (found, log), open_operator(found) as operator:
            await require_book(log, book)
            if to is None and not await confirmed(f"A snapshot of {book} goes into its log", yes):
                return EXIT_FAILED
            with progress_shown(f"deciding {book}") as show:
                if to is None:
                    done = await save_snapshot(log, operator, book, show)
                else:
                    done = await write_snapshot_file(log, operator, book, to, show)
        if as_json:
            print_json(done)
        elif to is None and not done.saved:
            print(
                f"The booking actor has a newer snapshot of {book} than the one at {done.position}."
            )
        else:
            where = "in the log" if to is None else f"in {to}"
            print(f"{book} at {done.position} is {where}, {done.bytes:,} bytes.")
        return EXIT_GOOD

    run(main)


def trim(
    book: BookArgument,
    archive: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An export that has what goes.", dir_okay=False),
    ] = None,
    without_archive: Annotated[
        bool, typer.Option("--without-archive", help="Let the history go for good.")
    ] = False,
    yes: YesOption = False,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trim a book's streams: what is older than two snapshots, and what is carried out.

    Without --archive it only tells what would go. With it, every input that would go is compared
    with the export first. Changes the book; asks first.

    Examples:

      holdfast trim demo

      holdfast trim demo --archive demo.jsonl.gz --yes
    """
    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)
        if archive is not None and without_archive:
            raise CliError("give --archive or --without-archive, not both")

    async def main() -> int:
        from holdfast.bootstrap import open_operator
        from holdfast.cli.follow import require_book
        from holdfast.cli.progress import progress_shown
        from holdfast.cli.service import log_to_look_at
        from holdfast.tools.archive import Archive
        from holdfast.tools.trim import require_archived, trimmable

        async with log_to_look_at(settings) as (found, log), open_operator(found) as operator:
            await require_book(log, book)
            going = await trimmable(operator, book)
            if not going.keep:
                raise CliError(
                    f"nothing of {book} may be trimmed: it has no two snapshots yet", EXIT_FAILED
                )
            if archive is None and not without_archive:
                if as_json:
                    print_json({"trimmable": going, "removed": None})
                else:
                    print(f"{going.inputs} inputs of {book}, those before {going.keep}, could go.")
                    print("Nothing was done: name the export that has them with --archive.")
                return EXIT_GOOD
            if archive is not None:
                with progress_shown("comparing") as show:
                    await require_archived(operator, Archive(archive), going, show)
            if not await confirmed(f"{going.inputs} inputs of {book} go for good", yes):
                return EXIT_FAILED
            removed = await operator.trim(book, going.keep, going.history)
        if as_json:
            print_json({"trimmable": going, "removed": removed})
        else:
            what = ", ".join(f"{count} {stream}" for stream, count in removed.items())
            print(f"Removed {what}; {book} begins with {going.keep} now.")
        return EXIT_GOOD

    run(main)


def drain(
    yes: YesOption = False,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop the service of a data folder cleanly, and make sure of a snapshot of every book.

    The booking actor finishes its batch, commits, and writes a snapshot of each book; what is
    appended from then on waits. Exit 1 if a book has no snapshot at its position, or is led by
    another process now. Asks first.

    Examples:

      holdfast drain --yes

      holdfast drain --data /var/lib/holdfast --yes --json
    """
    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)

    async def main() -> int:
        from holdfast.cli.status_file import read_status

        service = read_status(settings.data)
        if service is None or settings.redis_url not in (None, service.redis):
            raise CliError(
                f"no service runs in {settings.data}: end the booking actors where they run with "
                "SIGTERM, which drains them, then run 'holdfast snapshot' on each book",
                EXIT_FAILED,
            )
        doing = f"The service {service.pid} in {settings.data} is stopped"
        if not await confirmed(doing, yes):
            return EXIT_FAILED
        await _stop(settings, service.pid)
        return await _tell_drained(settings, as_json)

    run(main)


async def _stop(settings: Settings, pid: int) -> None:
    """Ask the supervisor to stop, and wait until it has given up its lock."""
    import trio

    from holdfast.cli.status_file import read_status

    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    for _ in range(math.ceil((settings.booking.grace_s + STOP_S_MAX) / LOOK_S)):
        if read_status(settings.data) is None:
            return
        await trio.sleep(LOOK_S)
    raise CliError(f"the service {pid} does not stop: look into its logs", EXIT_FAILED)


async def _tell_drained(settings: Settings, as_json: bool) -> int:
    import trio

    from holdfast.actors.booking.lease import LOOKS
    from holdfast.bootstrap import open_operator
    from holdfast.cli.service import log_to_look_at
    from holdfast.tools.drained import look_drained

    if settings.redis_url is not None:  # others may be there, and take over when they look
        await trio.sleep(2 * settings.booking.lease_s / LOOKS)
    async with log_to_look_at(settings) as (found, log), open_operator(found) as operator:
        books = [await look_drained(log, operator, book) for book in await log.wait_books(0, 0)]
    good = all(one.drained for one in books)
    if as_json:
        print_json({"drained": good, "books": books})
        return EXIT_GOOD if good else EXIT_FAILED
    for one in books:
        if one.drained:
            print(f"{one.book} is drained at {one.position}; {one.waiting} inputs wait.")
        elif one.led:
            print(
                f"✗ {one.book} is led by another booking process: end that too, with SIGTERM or "
                "'holdfast drain' where it runs"
            )
        else:
            print(
                f"✗ {one.book} has no snapshot at {one.position}: run 'holdfast snapshot {one.book}'"
            )
    return EXIT_GOOD if good else EXIT_FAILED
