"""``holdfast push``: append a command to a book's log, and wait for its outcome if asked to."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from holdfast.actors.ports import Log, NewInput, OutcomeEntry
    from holdfast.config.settings import Settings

WAIT_STEP_S: Final = 5.0
"""Longest single blocking read."""


def push(
    book: Annotated[str, typer.Argument(help="The book's name, such as demo.")],
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="The command, such as request_slot.")],
    body: Annotated[str, typer.Option(help="The command's fields, a JSON object.")],
    key: Annotated[str, typer.Option(help="Idempotency key: the same intention, the same key.")],
    by: Annotated[str, typer.Option(help="Principal: customer:ID, staff:ID or service:NAME.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the outcome; exit 1 if refused.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Longest wait, seconds.", min=0.1)] = 30.0,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send type and body as they are, unchecked.")
    ] = False,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Append a command to a book's log.

    Examples:

      holdfast push demo request_auto --key k-1 --by customer:K1 --body '{"service":"checkup"}' --wait

      holdfast push demo cancel --key k-2 --by customer:K1 --body '{"booking":"b1780000000000-0"}'
    """
    from holdfast.cli.commands import decode_body, encode_command
    from holdfast.cli.mapping import BOOK_NAME

    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)
        if not BOOK_NAME.match(book):
            raise CliError(f"{book!r} is no book's name: use a-z, 0-9, - and _, 64 at most")
        if raw:
            from holdfast.actors.ports import NewInput

            new = NewInput(type=kind, body=body.encode(), key=key, by=by)
        else:
            new = encode_command(kind, decode_body(body), key=key, by=by)

    async def main() -> int:
        return await _push(settings, book, new, timeout if wait else 0.0, as_json)

    run(main)


async def _push(settings: Settings, book: str, new: NewInput, wait_s: float, as_json: bool) -> int:
    from holdfast.cli.service import log_of_running_service

    async with log_of_running_service(settings) as (_, log):
        [entry_id] = await log.append(book, [new])
        if not wait_s:
            if as_json:
                print_json({"book": book, "id": entry_id})
            else:
                print(entry_id)
            return EXIT_GOOD
        outcome = await wait_outcome(log, book, entry_id, wait_s)
        is_lost = outcome is None and not await _is_in_log(log, book, entry_id)
    if is_lost:
        raise CliError(
            f"{entry_id} is not in the log of {book} any more, as after a failover that lost its "
            "tail: push it again under the same key",
            EXIT_FAILED,
        )
    if outcome is None:
        raise CliError(
            f"{entry_id} is in the log of {book}, but was not decided within {wait_s:g} s: "
            "is a booking actor running?",
            EXIT_FAILED,
        )
    _tell(book, outcome, as_json)
    return EXIT_GOOD if outcome.status == "accepted" else EXIT_FAILED


async def wait_outcome(log: Log, book: str, entry_id: str, wait_s: float) -> OutcomeEntry | None:
    """The outcome of the input *entry_id*; None if there is none within *wait_s*."""
    import trio

    from holdfast.cli.follow import id_before

    after = {book: id_before(entry_id)}
    with trio.move_on_after(wait_s):
        while True:
            found = await log.read_outcomes(after, 1, min(wait_s, WAIT_STEP_S))
            if book in found and found[book][0].id == entry_id:
                return found[book][0]
            if book in found:  # of an input that came later: ours will never be there
                return None
    return None


async def _is_in_log(log: Log, book: str, entry_id: str) -> bool:
    from holdfast.actors.ports import TailLostError
    from holdfast.cli.follow import id_before

    try:
        found = await log.read_inputs({book: id_before(entry_id)}, 1, 0.0)
    except TailLostError:
        return False
    return book in found and found[book][0].id == entry_id


def _tell(book: str, outcome: OutcomeEntry, as_json: bool) -> None:
    import msgspec

    result: object = msgspec.json.decode(outcome.body)
    if as_json:
        print_json({"book": book, "id": outcome.id, "status": outcome.status, "outcome": result})
        return
    print(f"{outcome.id} {outcome.status}")
    print(msgspec.json.format(outcome.body, indent=2).decode())
