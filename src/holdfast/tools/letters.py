"""Dead letters: reading them, sending them again, dropping them.

An input that could not be understood is sent again as a new input, with what was wrong put right; as
it is it would come back. An action that could not be carried out is handed to its executors again as
it is, under its own id: the same idempotency keys, so at most one effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.actors.booking import wire
from holdfast.actors.ports import GENESIS, ForeignDataError, InputEntry
from holdfast.tools.errors import ToolError
from holdfast.transport.codec import decode_action, decode_dead_letter, decode_input
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.actors.ports import ActionStream, DeadLetter
    from holdfast.tools.ports import Operator
    from holdfast.transport.operator import RawEntry

PAGE: Final = 512
FIELDS: Final = ("type", "body", "key", "by", "trace")


class Letter(msgspec.Struct, frozen=True):
    """A dead letter.

    Attributes:
      id: Its id among the dead letters.
      stream: Where the entry came from; ``entry`` is its id there. "" where it cannot be read.
      why: Why it is here.
      fields: The entry's names and values in turn; what is no text with backslashes.
    """

    id: str
    stream: str
    entry: str
    why: str
    fields: list[str]


async def read_letters(operator: Operator, book: str, count: int) -> list[Letter]:
    """The oldest *count* dead letters of *book*."""
    found: list[Letter] = []
    after = GENESIS
    while len(found) < count:
        entries = await operator.read(book, "deadletters", after, min(PAGE, count - len(found)))
        if not entries:
            break
        found += [_letter(entry) for entry in entries]
        after = entries[-1].id
    return found


async def read_letter(operator: Operator, book: str, letter: str) -> Letter:
    """One dead letter.

    Raises:
      ToolError: There is no such letter.
    """
    return _letter(await _entry(operator, book, letter))


async def retry_letter(
    operator: Operator, book: str, letter: str, changes: Mapping[str, str], *, dry: bool
) -> tuple[str, str]:
    """Send one again, and remove it from the dead letters.

    Args:
      operator: Where the book lies.
      book: Which.
      letter: The letter's id.
      changes: Fields of an input that are to be put right, by name.
      dry: Only see whether it could be.

    Returns:
      The stream and the entry's id there; "" for the id of an input that was not sent.

    Raises:
      ToolError: It would come back, or cannot be sent again.
    """
    raw = await _entry(operator, book, letter)
    try:
        dead = decode_dead_letter(list(raw.fields))
    except ForeignDataError as error:
        raise ToolError(f"the dead letter {letter} cannot be sent again: {error}") from None
    if dead.stream == "inputs":
        fields = _corrected(dead, changes)
        return "inputs", "" if dry else await operator.retry_input(book, letter, fields)
    if changes:
        raise ToolError("an action is sent again as it is: --set is for inputs")
    if dead.stream not in ("payments", "notifications"):
        raise ToolError(f"a dead letter of {dead.stream} cannot be sent again: drop it")
    stream: ActionStream = dead.stream
    await _require_readable(operator, book, stream, dead.id)
    if dry:
        return stream, dead.id
    return stream, await operator.retry_action(book, letter, stream, dead.id)


async def _entry(operator: Operator, book: str, letter: str) -> RawEntry:
    entry = await operator.read_one(book, "deadletters", letter)
    if entry is None:
        raise ToolError(f"book {book} has no dead letter {letter}: list them first")
    return entry


async def _require_readable(
    operator: Operator, book: str, stream: ActionStream, entry_id: str
) -> None:
    entry = await operator.read_one(book, stream, entry_id)
    if entry is None:
        raise ToolError(
            f"the action {entry_id} is no longer in {stream}: it was trimmed away, drop the letter"
        )
    try:
        decode_action(entry.id.encode(), list(entry.fields))
    except ForeignDataError as error:
        raise ToolError(f"it would come back: {error}; drop the letter") from None


def _corrected(dead: DeadLetter, changes: Mapping[str, str]) -> dict[str, bytes]:
    """The fields of an input as they are to be sent, once they can be understood."""
    fields = {
        name.decode("utf-8", "backslashreplace"): value
        for name, value in zip(dead.fields[::2], dead.fields[1::2], strict=True)
        if name.decode("utf-8", "replace") in FIELDS and value
    }
    for name, value in changes.items():
        if name not in FIELDS:
            raise ToolError(f"an input has no field {name}: it has {', '.join(FIELDS)}")
        fields[name] = value.encode()
    flat = [part for name, value in fields.items() for part in (name.encode(), value)]
    entry: InputEntry = decode_input(f"{parse_id(dead.id)[0]}-0".encode(), flat)
    try:
        wire.decode(entry)
    except wire.WireError as error:
        raise ToolError(
            f"it would come back: {error}; put it right with --set FIELD=VALUE, or drop it"
        ) from None
    return {name: fields[name] for name in FIELDS if name in fields}


def _letter(entry: RawEntry) -> Letter:
    try:
        dead = decode_dead_letter(list(entry.fields))
    except ForeignDataError as error:
        shown = [_text(part) for part in entry.fields]
        return Letter(entry.id, "", "", str(error), shown)
    return Letter(entry.id, dead.stream, dead.id, dead.why, [_text(part) for part in dead.fields])


def _text(part: bytes) -> str:
    return part.decode("utf-8", "backslashreplace")
