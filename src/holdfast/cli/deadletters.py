"""``holdfast deadletters``: what could not be understood or carried out, and what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from holdfast.actors.ports import Log
    from holdfast.tools.letters import Letter
    from holdfast.transport.operator import Operator

deadletters = typer.Typer(
    help="List, show, send again or drop what could not be understood or carried out.",
    no_args_is_help=True,
)

BookArgument = Annotated[str, typer.Argument(help="The book's name, such as demo.")]
LetterArgument = Annotated[str, typer.Argument(metavar="ID", help="As list shows it.")]


@deadletters.command(name="list")
def list_letters(
    book: BookArgument,
    count: Annotated[int, typer.Option("-n", "--count", help="At most so many.", min=1)] = 100,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a book's dead letters, the oldest first. Changes nothing.

    Examples:

      holdfast deadletters list demo
    """

    async def work(_: Log, operator: Operator) -> int:
        from holdfast.tools.letters import read_letters

        letters = await read_letters(operator, book, count)
        if as_json:
            print_json(letters)
            return EXIT_GOOD
        for letter in letters:
            print(f"{letter.id}  {letter.stream or '?'} {letter.entry}  {letter.why}")
        print(f"Dead letters: {len(letters)}.")
        return EXIT_GOOD

    _run(book, data, redis, config, work)


@deadletters.command()
def show(
    book: BookArgument,
    letter: LetterArgument,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one dead letter with all of its fields. Changes nothing.

    Examples:

      holdfast deadletters show demo 1780000000000-0
    """
    with errors_of_one_sentence():
        _check_ids([letter])

    async def work(_: Log, operator: Operator) -> int:
        from holdfast.tools.letters import read_letter

        found = await read_letter(operator, book, letter)
        if as_json:
            print_json(found)
        else:
            _print(found)
        return EXIT_GOOD

    _run(book, data, redis, config, work)


@deadletters.command()
def retry(
    book: BookArgument,
    letter: LetterArgument,
    fields: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Put a field of an input right."),
    ] = None,
    yes: YesOption = False,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a dead letter again, and remove it. Changes the book; asks first.

    An input is appended as a new one, with what was wrong put right. An action is handed to its
    executors once more, under the id that it had.

    Examples:

      holdfast deadletters retry demo 1780000000000-0 --set by=customer:K1 --yes
    """
    with errors_of_one_sentence():
        _check_ids([letter])
        changes = _pairs(fields or [])

    async def work(_: Log, operator: Operator) -> int:
        from holdfast.tools.letters import retry_letter

        stream, _entry = await retry_letter(operator, book, letter, changes, dry=True)
        what = (
            "an input is appended" if stream == "inputs" else f"one of its {stream} is done again"
        )
        if not await confirmed(f"In book {book} {what}", yes):
            return EXIT_FAILED
        stream, entry = await retry_letter(operator, book, letter, changes, dry=False)
        if as_json:
            print_json({"book": book, "letter": letter, "stream": stream, "id": entry})
        else:
            print(f"{letter} is {entry} of {stream} now")
        return EXIT_GOOD

    _run(book, data, redis, config, work)


@deadletters.command()
def drop(
    book: BookArgument,
    letters: Annotated[list[str], typer.Argument(metavar="ID...", help="As list shows them.")],
    yes: YesOption = False,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove dead letters for good. Asks first. What they came from stays in the log.

    Examples:

      holdfast deadletters drop demo 1780000000000-0 --yes
    """
    with errors_of_one_sentence():
        _check_ids(letters)

    async def work(_: Log, operator: Operator) -> int:
        if not await confirmed(f"Dropping {len(letters)} dead letters of {book} for good", yes):
            return EXIT_FAILED
        dropped = await operator.drop_letters(book, letters)
        if as_json:
            print_json({"book": book, "dropped": dropped})
        else:
            print(f"{dropped} of {len(letters)} dead letters dropped")
        return EXIT_GOOD if dropped == len(letters) else EXIT_FAILED

    _run(book, data, redis, config, work)


def _run(
    book: str,
    data: Path | None,
    redis: str | None,
    config: Path | None,
    work: Callable[[Log, Operator], Awaitable[int]],
) -> None:
    """Do *work* on the log of *book*."""
    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)

    async def main() -> int:
        from holdfast.bootstrap import open_operator
        from holdfast.cli.follow import require_book
        from holdfast.cli.service import log_to_look_at

        async with log_to_look_at(settings) as (found, log), open_operator(found) as operator:
            await require_book(log, book)
            return await work(log, operator)

    run(main)


def _check_ids(letters: list[str]) -> None:
    from holdfast.cli.export import check_id

    for letter in letters:
        check_id(letter)


def _pairs(fields: list[str]) -> dict[str, str]:
    pairs = [field.partition("=") for field in fields]
    for name, found, _ in pairs:
        if not found or not name:
            raise CliError(f"--set wants FIELD=VALUE, not {name!r}")
    return {name: value for name, _, value in pairs}


def _print(letter: Letter) -> None:
    print(f"{letter.id}  {letter.stream or '?'} {letter.entry}")
    print(f"  {letter.why}")
    for name, value in zip(letter.fields[::2], letter.fields[1::2], strict=False):
        print(f"  {name}: {value}")
