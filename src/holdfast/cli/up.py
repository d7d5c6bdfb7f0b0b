"""``holdfast up``: the whole service, until Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from holdfast.cli.common import (
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
    from holdfast.actors.booking.messages import DefinePractice
    from holdfast.cli.supervisor import Supervisor

BOOK: Final = "demo"
"""The book of ``up`` and ``demo`` where none is named."""

OPERATOR: Final = "service:holdfast"
"""The principal under which the command line opens books."""

DECIDED_S_MAX: Final = 30.0
"""Longest wait for the practice to be decided."""


def up(
    data: DataOption = None,
    redis: RedisOption = None,
    practice: Annotated[
        str, typer.Option(metavar="FILE", help="A practice in TOML, or dentist, salon, bay.")
    ] = "dentist",
    book: Annotated[str, typer.Option(metavar="NAME", help="The practice's book.")] = BOOK,
    port: Annotated[
        int,
        typer.Option(help="TCP port on 127.0.0.1 for the embedded server too.", min=0, max=65_535),
    ] = 0,
    script: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="How the sandbox payment provider misbehaves.", dir_okay=False
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the service: embedded server, sandbox provider and the actors, until Ctrl-C.

    Each part is a process of its own and is started again when it dies.

    Examples:

      holdfast up

      holdfast up --data /var/lib/holdfast --practice practice.toml --book smile
    """
    from holdfast.cli.mapping import BOOK_NAME
    from holdfast.cli.practice import load_practice

    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)
        definition = load_practice(practice)
        if not BOOK_NAME.match(book):
            raise CliError(f"{book!r} is no book's name: use a-z, 0-9, - and _, 64 at most")

    async def main() -> int:
        import trio

        from holdfast.cli.supervisor import Supervisor

        supervisor = Supervisor(settings, script=script, port=port, on_event=_tell_event)
        async with supervisor.running():
            await open_book(supervisor, book, definition)
            _greet(supervisor, book, as_json)
            await trio.sleep_forever()

    run(main, sigterm_code=EXIT_GOOD)


async def open_book(supervisor: Supervisor, book: str, practice: DefinePractice) -> int:
    """Define *book*'s practice, unless it is defined so already; return the server's time, ms.

    Raises:
      CliError: It was refused, or is not decided in time.
    """
    import msgspec

    from holdfast.bootstrap import open_log
    from holdfast.cli.follow import follow
    from holdfast.cli.practice import define
    from holdfast.cli.push import wait_outcome

    async with open_log(supervisor.settings) as log:
        revisions = (await follow(log, book)).state.revisions
        is_current = bool(revisions) and revisions[-1].definition == practice
        command = define(practice, OPERATOR, len(revisions) - is_current)
        [entry_id] = await log.append(book, [command])
        outcome = await wait_outcome(log, book, entry_id, DECIDED_S_MAX)
    if outcome is None:
        raise CliError(f"the practice of {book} was not decided within {DECIDED_S_MAX:g} s", 1)
    if outcome.status != "accepted":
        why: dict[str, object] = msgspec.json.decode(outcome.body, type=dict[str, object])
        raise CliError(f"the practice of {book} was refused: {why.get('details')}")
    return int(entry_id.partition("-")[0])


def _tell_event(part: str, what: str) -> None:
    print(f"holdfast: {part} {what}", file=sys.stderr, flush=True)


def _greet(supervisor: Supervisor, book: str, as_json: bool) -> None:
    from holdfast.config.redact import redacted

    url = redacted(supervisor.settings.redis_url or "")
    if as_json:
        print_json(
            {
                "redis": url,
                "provider": supervisor.settings.provider.url,
                "book": book,
                "data": str(supervisor.data),
                "pids": supervisor.pids,
            }
        )
        return
    body = '{"service":"checkup"}'
    server = f"-s {url.removeprefix('unix://')}" if url.startswith("unix://") else f"-u {url}"
    print(
        f"Holdfast is up.\n"
        f"  server    {url}\n"
        f"  provider  {supervisor.settings.provider.url}\n"
        f"  data      {supervisor.data}\n"
        f"  book      {book}\n"
        f"\n"
        f"Push a request, with any Redis client or with ours:\n"
        f"  redis-cli {server} XADD 'holdfast:{{{book}}}:inputs' '*' type request_auto key k-1 \\\n"
        f"    by customer:K1 body '{body}'\n"
        f"  holdfast push {book} request_auto --data {supervisor.data} --key k-1 \\\n"
        f"    --by customer:K1 --body '{body}' --wait\n"
        f"\n"
        f"Look at it with 'holdfast show {book} --data {supervisor.data}'. Stop with Ctrl-C.",
        flush=True,
    )
