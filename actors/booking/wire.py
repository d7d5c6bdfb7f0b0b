"""Messages to and from JSON: what an entry of the log means, and how an outcome is written.

Decoding is where bad input ends: whatever is wrong with an entry becomes a :class:`WireError` with
one sentence, never another exception. Encoding is canonical, since the hash chain covers it.
"""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.actors.booking import messages as m
from holdfast.machine import Completed, Normal

if TYPE_CHECKING:
    from holdfast.actors.ports import InputEntry

BookingInput = Normal[m.Message] | Completed[m.PaymentResult]

MS_MAX: Final = 1 << 52
"""Latest time of an input, far in the future: times computed from it still fit every encoding."""

KEY_MAX: Final = 255
"""Longest idempotency key; the book keeps it for a day or longer."""

SEQUENCE_MAX: Final = 1 << 51
"""Largest sequence number of an input: its actions' stream ids are 4,096 times as large."""

_SAFE_DIGITS: Final = 15
"""A number of no more digits is surely below that."""

COMMANDS: Final[dict[str, type[m.Command]]] = {
    "define_practice": m.DefinePractice,
    "request_slot": m.RequestSlot,
    "request_auto": m.RequestAuto,
    "cancel": m.Cancel,
}
"""Commands by the entry's ``type``."""

REPORTS: Final[dict[str, type[m.Tick | m.TakenOver | m.DeliveryReport | m.PaymentResult]]] = {
    "tick": m.Tick,
    "taken_over": m.TakenOver,
    "delivery_report": m.DeliveryReport,
    "payment_result": m.PaymentResult,
}
"""Other inputs by the entry's ``type``; only services send them."""

TYPES: Final = {kind: name for name, kind in (*COMMANDS.items(), *REPORTS.items())}

_DECODE_COMMAND = {name: msgspec.json.Decoder(kind).decode for name, kind in COMMANDS.items()}
_DECODE_REPORT = {name: msgspec.json.Decoder(kind).decode for name, kind in REPORTS.items()}
_FRESH = blake2b(digest_size=8)
_encode = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode
_principal = re.compile(
    r"(customer|staff|service):[A-Za-z0-9][A-Za-z0-9_.:@-]{0,63}", re.ASCII
).fullmatch


class WireError(ValueError):
    """The entry is no message of ours; one sentence says why."""


def decode(entry: InputEntry) -> BookingInput:
    """What *entry* asks or reports.

    Raises:
      WireError: It is not one of our messages.
    """
    if entry.problem:
        raise WireError(entry.problem)
    ms, _, sequence = entry.id.partition("-")
    now = int(ms)
    if now >= MS_MAX:
        raise WireError(f"the id's time is beyond {MS_MAX}; let the server set ids")
    if len(sequence) > _SAFE_DIGITS and int(sequence) >= SEQUENCE_MAX:
        raise WireError(
            f"the id's sequence number is beyond {SEQUENCE_MAX}; let the server set ids"
        )
    kind, body, by = entry.type, entry.body, entry.by
    decode_command = _DECODE_COMMAND.get(kind)
    try:
        if decode_command is not None:
            command = decode_command(body)
            if _principal(by) is None:
                raise WireError("field 'by' must be customer:ID, staff:ID or service:NAME")
            if len(entry.key) > KEY_MAX:
                raise WireError(f"the idempotency key may be {KEY_MAX} characters long, not longer")
            canonical = _encode(command)
            if body != canonical:
                _check_unique(body, command, canonical)
            return Normal(
                entry.id, now, m.Asked(command, entry.key, by, _digest(canonical, entry.key, by))
            )
        decode_report = _DECODE_REPORT.get(kind)
        if decode_report is None:
            raise WireError(f"unknown type {kind[:64]!r}")
        report = decode_report(body)
        canonical = _encode(report)
        if body != canonical:
            _check_unique(body, report, canonical)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise WireError(f"{kind}: {error}") from None
    if not by.startswith("service:"):
        raise WireError(f"only a service may send {kind}")
    if type(report) is m.PaymentResult:
        return Completed(entry.id, now, report.action, report)
    return Normal(entry.id, now, report)


def _check_unique(body: bytes, message: msgspec.Struct, canonical: bytes) -> None:
    """Refuse a field that is there twice: decoders differ in which one they take.

    Without escapes each name and each text takes two quotes, so where *body* has as many as the
    message in canonical form, which leaves defaults out, no name is there twice.
    """
    surely = (
        type(message) is not m.DefinePractice  # it says its defaults
        and b"\\" not in body
        and body.count(b'"') == canonical.count(b'"')
    )
    if not surely:
        json.loads(body, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, object]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise WireError(f"field {name[:64]!r} is there twice: send it once")
        names.add(name)


def asked(command: m.Command, key: str, by: str) -> m.Asked:
    """What an entry with *command* asks."""
    return m.Asked(command, key, by, _digest(_encode(command), key, by))


def _digest(canonical: bytes, key: str, by: str) -> str:
    """Of a command in canonical form, so that a retry with other spacing is one, and of who asks."""
    digest = _FRESH.copy()  # two thirds of the time that making one takes
    digest.update(f"{by} {len(key)} {key} ".encode())  # nobody's name has a space in it
    digest.update(canonical)
    return digest.hexdigest()


def encode_result(result: m.Accepted | m.Refused) -> bytes:
    """An answer as JSON; the same answer gives the same bytes."""
    return _encode(result)


def encode_events(events: tuple[m.Event, ...]) -> bytes:
    """Events as a JSON array."""
    return _encode(events)


def encode_action(action: m.Action) -> bytes:
    """An action as JSON, its ``type`` inside."""
    return _encode(action)


def encode_message(message: msgspec.Struct) -> bytes:
    """A command or report as the JSON body of an entry."""
    return _encode(message)


def encode_step(
    entry_id: str, body: bytes, timers: bytes, actions: list[bytes], touched: list[bytes]
) -> bytes:
    """Everything that one input did, for the hash chain.

    That is: what was answered, what is to be done, and what is left of the bookings it touched, in
    their canonical form.
    """
    return _pack((entry_id, body, timers, actions, touched))
