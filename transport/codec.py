"""Entries as structs, and as the field lists that lie in a stream.

Whatever somebody put into ``inputs`` gives an :class:`InputEntry`: one that cannot be read has a
``problem`` and its ``raw`` fields, and becomes a dead letter. Nothing that a producer writes raises
here. What only we write (outcomes, actions) is different: if that cannot be read, somebody else
writes to our keys, and a :class:`ForeignDataError` says so.

Decoding an input is the hot path, so the usual orders of fields are tried first; everything else
takes the general way.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from holdfast.actors.ports import (
    BODY_BYTES_MAX,
    ActionEntry,
    DeadLetter,
    ForeignDataError,
    InputEntry,
    OutcomeEntry,
    StreamName,
)
from holdfast.transport.keys import SEQUENCE_MAX, parse_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.ports import NewInput

ENTRY_BYTES_MAX = BODY_BYTES_MAX + 4096
"""Most bytes of all names and values of an input together."""

Argument: TypeAlias = str | bytes | int
RawEntry: TypeAlias = tuple[bytes, list[bytes]] | list[bytes | list[bytes]]
"""An entry as the server sends it: its id, and its fields' names and values in turn."""

_INPUT_FIELDS = (b"type", b"body", b"key", b"by", b"trace")
_BODY_KEY_BY = [b"type", b"body", b"key", b"by"]
_KEY_BY_BODY = [b"type", b"key", b"by", b"body"]
_BODY_BY = [b"type", b"body", b"by"]
_SAFE_ID_LENGTH = 29
"""13 digits of milliseconds, a dash and 15 of sequence: surely within SEQUENCE_MAX."""


def encode_input(new: NewInput) -> list[Argument]:
    """The field list of an input; empty optional fields are left out.

    Raises:
      ValueError: The body or the whole entry is too large; the log would take it for a dead letter.
    """
    fields: list[Argument] = ["type", new.type, "body", new.body]
    if new.key:
        fields += ("key", new.key)
    if new.by:
        fields += ("by", new.by)
    if new.trace:
        fields += ("trace", new.trace)
    if len(new.body) > BODY_BYTES_MAX:
        raise ValueError(
            f"the body of {new.type[:80]!r} has {len(new.body)} bytes: at most {BODY_BYTES_MAX} fit"
        )
    others = len(new.type) + len(new.key) + len(new.by) + len(new.trace)
    if 4 * others + 32 > ENTRY_BYTES_MAX - BODY_BYTES_MAX:
        raise ValueError(f"type, key, by and trace of an input are too long: {others} characters")
    return fields


def check_finished(finished: Sequence[tuple[str, NewInput | None]]) -> None:
    """Make sure that the server can refuse to finish actions only as a whole.

    Raises:
      ValueError: An entry id is none, or a result is too large.
    """
    for entry_id, result in finished:
        parse_id(entry_id)
        if result is not None:
            encode_input(result)


def decode_input(entry_id: bytes, fields: list[bytes]) -> InputEntry:
    """An input from its id and field list. Never raises: see ``InputEntry.problem``."""
    names = fields[::2]
    key = b""
    try:
        if names == _BODY_KEY_BY:
            _, type_, _, body, _, key, _, by = fields
        elif names == _KEY_BY_BODY:
            _, type_, _, key, _, by, _, body = fields
        elif names == _BODY_BY:
            _, type_, _, body, _, by = fields
        else:
            return _decode_input(entry_id, fields)
        if (
            type_
            and 0 < len(body) <= BODY_BYTES_MAX
            and len(type_) + len(key) + len(by) < 2048
            and len(entry_id) <= _SAFE_ID_LENGTH
            and body.isascii()
        ):
            return InputEntry(entry_id.decode(), type_.decode(), body, key.decode(), by.decode())
    except ValueError:  # a name without a value, or no UTF-8
        pass
    return _decode_input(entry_id, fields)


def _decode_input(entry_id: bytes, fields: list[bytes]) -> InputEntry:
    """The general way: any order, optional fields, every check."""
    id_ = entry_id.decode("ascii")
    problem, values = _check_fields(fields)
    if not problem and parse_id(id_)[1] > SEQUENCE_MAX:
        problem = f"the id's sequence is greater than {SEQUENCE_MAX}: let the server choose ids"
    if problem:
        return InputEntry(id=id_, type="", body=b"", problem=problem, raw=tuple(fields))
    get = values.get
    return InputEntry(
        id_,
        values[b"type"].decode(),
        values[b"body"],
        get(b"key", b"").decode(),
        get(b"by", b"").decode(),
        get(b"trace", b"").decode(),
    )


def _check_fields(fields: list[bytes]) -> tuple[str, dict[bytes, bytes]]:
    """Why the fields of an input cannot be read, or "" with the values by name."""
    size = sum(map(len, fields))
    values: dict[bytes, bytes] = {}
    for index in range(0, len(fields) - 1, 2):
        name, value = fields[index], fields[index + 1]
        if name not in _INPUT_FIELDS:
            return f"unknown field {_shown(name)}: send type, body, key, by, trace", values
        if name in values:
            return f"the field {name.decode()} is there twice: send it once", values
        values[name] = value
    for name in (b"type", b"body"):
        if not values.get(name):
            return f"the field {name.decode()} is missing or empty: send it", values
    if len(values[b"body"]) > BODY_BYTES_MAX:
        return f"the body has {len(values[b'body'])} bytes: at most {BODY_BYTES_MAX} fit", values
    if size > ENTRY_BYTES_MAX:
        return f"the entry has {size} bytes: at most {ENTRY_BYTES_MAX} fit", values
    for name, value in values.items():
        try:
            value.decode()
        except UnicodeDecodeError:
            return f"the field {name.decode()} is not UTF-8: send text as UTF-8", values
    return "", values


def _shown(name: bytes) -> str:
    return repr(name[:40].decode("utf-8", "backslashreplace"))


def encode_outcome(outcome: OutcomeEntry) -> list[Argument]:
    """The field list of an outcome; ``timers`` and ``replayed`` only where there is something."""
    fields: list[Argument] = ["status", outcome.status, "body", outcome.body]
    if outcome.timers:
        fields += ("timers", outcome.timers)
    if outcome.replayed:
        fields += ("replayed", "1")
    return fields


def decode_outcome(entry_id: bytes, fields: list[bytes]) -> OutcomeEntry:
    """An outcome from its id and field list.

    Raises:
      ForeignDataError: The booking actor did not write this.
    """
    try:
        if len(fields) == 4 and fields[0] == b"status" and fields[2] == b"body":
            return OutcomeEntry(entry_id.decode("ascii"), fields[1].decode(), fields[3])
        values = _unique(fields)
        return OutcomeEntry(
            entry_id.decode("ascii"),
            values.pop(b"status").decode(),
            values.pop(b"body"),
            values.pop(b"timers", b""),
            values.pop(b"replayed", b"") == b"1",
        )
    except (KeyError, ValueError):
        raise ForeignDataError(
            f"outcome {entry_id.decode('ascii', 'replace')} was not written by a booking actor: "
            "find out who else writes to the stream"
        ) from None


def encode_action(action: ActionEntry) -> list[Argument]:
    """The field list of an action; an empty ``trace`` is left out."""
    fields: list[Argument] = ["action", action.action, "type", action.type, "body", action.body]
    if action.trace:
        fields += ("trace", action.trace)
    return fields


def decode_action(entry_id: bytes, fields: list[bytes], deliveries: int = 0) -> ActionEntry:
    """An action from its id and field list.

    Raises:
      ForeignDataError: The booking actor did not write this.
    """
    try:
        values = _unique(fields)
        action = ActionEntry(
            entry_id.decode("ascii"),
            values.pop(b"action").decode(),
            values.pop(b"type").decode(),
            values.pop(b"body"),
            values.pop(b"trace", b"").decode(),
            deliveries,
        )
        if values:
            raise ValueError(values)
        return action
    except (KeyError, ValueError):
        raise ForeignDataError(
            f"action {entry_id.decode('ascii', 'replace')} was not written by a booking actor: "
            "find out who else writes to the stream"
        ) from None


def _unique(fields: list[bytes]) -> dict[bytes, bytes]:
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    if 2 * len(values) != len(fields):
        raise ValueError("a field is there twice")
    return values


def encode_raw(fields: Sequence[bytes]) -> bytes:
    """Raw fields as a JSON array: text as it is, anything else as ``{"base64": …}``."""
    shown: list[str | dict[str, str]] = []
    for field in fields:
        try:
            shown.append(field.decode())
        except UnicodeDecodeError:
            shown.append({"base64": base64.b64encode(field).decode()})
    return msgspec.json.encode(shown)


def decode_raw(data: bytes) -> tuple[bytes, ...]:
    """What :func:`encode_raw` was given.

    Raises:
      ValueError: It did not write this.
    """
    shown = msgspec.json.decode(data, type=list[str | dict[str, str]])
    return tuple(
        item.encode() if isinstance(item, str) else base64.b64decode(item.get("base64", ""))
        for item in shown
    )


def encode_dead_letter(letter: DeadLetter) -> list[Argument]:
    """The field list of a dead letter."""
    return [
        *("stream", letter.stream),
        *("id", letter.id),
        *("why", letter.why),
        *("fields", encode_raw(letter.fields)),
    ]


def decode_dead_letter(fields: list[bytes]) -> DeadLetter:
    """A dead letter from its field list.

    Raises:
      ForeignDataError: None of our actors wrote this.
    """
    try:
        values = _unique(fields)
        stream: StreamName = msgspec.convert(values[b"stream"].decode(), StreamName)
        return DeadLetter(
            stream, values[b"id"].decode(), values[b"why"].decode(), decode_raw(values[b"fields"])
        )
    except (KeyError, ValueError):
        raise ForeignDataError(
            "a dead letter was not written by our actors: find out who else writes to the stream"
        ) from None
