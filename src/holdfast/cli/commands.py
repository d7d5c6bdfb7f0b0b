"""What a producer sends: a command's type and body, checked against the messages before it leaves."""

from __future__ import annotations

from typing import Final

import msgspec

from holdfast.actors.booking import wire
from holdfast.actors.ports import BODY_BYTES_MAX, InputEntry, NewInput

KEY_CHARACTERS_MAX: Final = 255
"""Longest idempotency key we send."""


class MessageError(Exception):
    """A command that the booking actor would not understand. The message says why."""


def encode_command(kind: str, body: object, *, key: str, by: str) -> NewInput:
    """A command ready to append.

    Args:
      kind: The message's type, such as ``request_slot``.
      body: What the message holds, as JSON would give it.
      key: Idempotency key.
      by: Principal.

    Raises:
      MessageError: There is no such command, its body is wrong, or key or principal are missing.
    """
    struct = wire.COMMANDS.get(kind)
    if struct is None:
        raise MessageError(f"there is no command {kind!r}; it is one of {', '.join(wire.COMMANDS)}")
    if not 1 <= len(key) <= KEY_CHARACTERS_MAX:
        raise MessageError(f"a command needs a key of 1 to {KEY_CHARACTERS_MAX} characters")
    try:
        data = wire.encode_message(msgspec.convert(body, struct))
        wire.decode(InputEntry(id="1-0", type=kind, body=data, key=key, by=by))
    except msgspec.ValidationError as error:
        raise MessageError(f"{kind}: {error}") from None
    except wire.WireError as error:
        raise MessageError(str(error)) from None
    if len(data) > BODY_BYTES_MAX:
        raise MessageError(f"the body has {len(data)} bytes; {BODY_BYTES_MAX} are allowed")
    return NewInput(type=kind, body=data, key=key, by=by)


def decode_body(text: str) -> object:
    """The JSON that somebody typed.

    Raises:
      MessageError: It is no JSON.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise MessageError(f"the body is no JSON: {error}") from None
