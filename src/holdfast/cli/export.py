"""``holdfast export``: a book's log as a file; and what ``import`` makes of such a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
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
from holdfast.cli.confirm import confirmed

if TYPE_CHECKING:
    from holdfast.config.settings import Settings


def export(
    book: Annotated[str, typer.Argument(help="The book's name, such as demo.")],
    file: Annotated[Path, typer.Argument(help="A new file, such as demo.jsonl.gz.")],
    after: Annotated[
        str, typer.Option(metavar="ID", help="Only the inputs after this one.")
    ] = "0-0",
    to: Annotated[str, typer.Option(metavar="ID", help="Only the inputs up to this one.")] = "",
    from_snapshot: Annotated[
        bool, typer.Option("--from-snapshot", help="Only what follows the newest snapshot.")
    ] = False,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a book's log, or a range of it, into a file. Changes nothing.

    The file can be replayed, compared, and imported as another book. Exit 1 if the book cannot be
    decided as it is; the file is written all the same.

    Examples:

      holdfast export demo demo.jsonl.gz

      holdfast export demo may.jsonl.gz --after 1777586400000-0 --to 1780264800000-0
    """
    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)
        check_id(after)
        if to:
            check_id(to)

    async def main() -> int:
        from holdfast.bootstrap import open_operator
        from holdfast.cli.follow import check_book
        from holdfast.cli.progress import progress_shown
        from holdfast.cli.service import log_to_look_at
        from holdfast.tools.export import export_log

        check_book(book)
        async with log_to_look_at(settings) as (found, log), open_operator(found) as operator:
            with progress_shown(f"exporting {book}") as show:
                header, problem = await export_log(
                    log,
                    book,
                    file,
                    after=after,
                    to=to,
                    newest=from_snapshot,
                    operator=operator,
                    tell=show,
                )
        if as_json:
            size = {"file": str(file), "bytes": file.stat().st_size, "problem": problem}
            print_json({**msgspec.to_builtins(header), **size})
        else:
            print(
                f"{header.inputs} inputs of {book}, {header.first} to {header.last}, are in {file} "
                f"({file.stat().st_size:,} bytes)."
            )
            print(f"Digest of the file {header.digest}, of the book {header.link or 'unknown'}.")
        if problem:
            print(f"holdfast: exported without links: {problem}", file=sys.stderr)
        return EXIT_FAILED if problem else EXIT_GOOD

    run(main)


def import_log(settings: Settings, file: Path, book: str, yes: bool, as_json: bool) -> None:
    """Make a book of an exported log, and say what was made."""

    async def main() -> int:
        from holdfast.bootstrap import open_operator
        from holdfast.cli.follow import check_book
        from holdfast.cli.progress import progress_shown
        from holdfast.cli.service import log_to_look_at
        from holdfast.tools.archive import Archive
        from holdfast.tools.restore import restore_log

        archive = Archive(file)
        name = book or archive.header.book
        check_book(name)
        async with (
            log_to_look_at(settings, new=True) as (found, _),
            open_operator(found) as operator,
        ):

            async def agree(under_way: int, undecided: int) -> bool:
                return await confirmed(
                    f"{under_way} payments of {name} are under way or on hold and {undecided} inputs "
                    "are not decided, so a service that has the book will go on with them at its provider",
                    yes,
                )

            with progress_shown(f"importing {name}") as show:
                result = await restore_log(archive, operator, name, show, agree)
        if as_json:
            print_json(result)
        else:
            print(f"{result.inputs} inputs are the book {name} now, up to {result.last}.")
            print(
                f"Decided up to {result.position}, digest {result.digest}; "
                f"{result.undecided} inputs wait behind it."
            )
        return EXIT_GOOD

    run(main)


def check_id(text: str) -> None:
    """Make sure that somebody typed an entry's id.

    Raises:
      CliError: It is none.
    """
    from holdfast.transport.keys import parse_id

    try:
        parse_id(text)
    except ValueError as error:
        raise CliError(str(error)) from None
