"""``holdfast tail``: the end of one of a book's streams, as it lies there."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
import typer

from holdfast.cli.common import (
    EXIT_GOOD,
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
    from collections.abc import Iterable

    from holdfast.transport.operator import RawEntry

Stream = Literal["inputs", "outcomes", "payments", "notifications", "deadletters"]

WAIT_S: Final = 5.0
"""Longest single wait for the next entry."""

PAGE: Final = 512
HEADS: Final = {
    "inputs": ("type", "by", "key"),
    "outcomes": ("status", "replayed"),
    "payments": ("type", "action"),
    "notifications": ("type", "action"),
    "deadletters": ("stream", "id", "why"),
}
"""The fields that are shown first, without their names."""

WIDTH: Final = 200
"""So much of a value is shown."""


def tail(
    book: Annotated[str, typer.Argument(help="The book's name, such as demo.")],
    stream: Annotated[Stream, typer.Argument(help="Which of its streams.")] = "inputs",
    count: Annotated[int, typer.Option("-n", "--count", help="So many entries.", min=0)] = 10,
    after: Annotated[
        str, typer.Option(metavar="ID", help="The entries after this one instead.")
    ] = "",
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last entries of a book's log, or of another of its streams. Changes nothing.

    With --json one line of JSON for each entry; what is no text has backslashes.

    Examples:

      holdfast tail demo -f

      holdfast tail demo outcomes -n 50 --json
    """
    from holdfast.cli.export import check_id

    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)
        if after:
            check_id(after)

    async def main() -> int:
        from holdfast.bootstrap import open_operator
        from holdfast.cli.follow import require_book
        from holdfast.cli.service import log_to_look_at

        async with log_to_look_at(settings) as (found, log), open_operator(found) as operator:
            await require_book(log, book)
            if after:
                entries = await operator.read(book, stream, after, count or PAGE)
            else:
                entries = await operator.read_last(book, stream, count) if count else []
            _print(stream, entries, as_json)
            position = entries[-1].id if entries else after
            if not position:
                position = (await log.facts(book, stream)).last_id
            while follow:
                entries = await operator.read(book, stream, position, PAGE, WAIT_S)
                _print(stream, entries, as_json)
                position = entries[-1].id if entries else position
        return EXIT_GOOD

    run(main)


def _print(stream: Stream, entries: Iterable[RawEntry], as_json: bool) -> None:
    for entry in entries:
        pairs = zip(entry.fields[::2], entry.fields[1::2], strict=False)
        fields = [(_text(name), _text(value)) for name, value in pairs]
        if as_json:
            print_json({"id": entry.id, "stream": stream, "fields": dict(fields)})
            continue
        values = dict(fields)
        heads = [values.pop(name) for name in HEADS[stream] if values.get(name)]
        rest = [
            value if name == "body" else f"{name}={value}"
            for name, value in values.items()
            if value
        ]
        shown = "  ".join(_short(value) for value in (*heads, *rest))
        print(f"{entry.id}  {_time(entry.id)}  {shown}")
    sys.stdout.flush()


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _short(value: str) -> str:
    shown = value if len(value) <= WIDTH else f"{value[:WIDTH]}…"
    return shown if shown.isprintable() else msgspec.json.encode(shown).decode()


def _time(entry_id: str) -> str:
    ms = int(entry_id.partition("-")[0])
    try:
        when = datetime.fromtimestamp(ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return "(no date)"
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
