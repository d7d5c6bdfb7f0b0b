"""Writes ``messages.json`` and ``asyncapi.json``, the contract with producers in any language.

Both are made from the message structs and kept in the repository; a test says when they are old.
After a change of a message, from the top of the repository::

    python docs/generate.py

``messages.json`` is a JSON Schema (2020-12) with every message under ``$defs``; ``asyncapi.json``
is an AsyncAPI 3 document of a book's streams: the fields of an entry other than ``body`` are the
message's headers, ``body`` is its payload.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from holdfast.actors.booking import wire
from holdfast.actors.booking.messages import Accepted, Action, Event, Notify, PaymentAction, Refused

HERE: Final = Path(__file__).parent
VERSION: Final = "1.0.0"
"""Of the contract: grows when a message does."""

Json = dict[str, Any]
Kinds = dict[str, type[msgspec.Struct]]

_PRINCIPAL = r"^(customer|staff|service):[A-Za-z0-9][A-Za-z0-9_.:@-]{0,63}$"
_TRACE: Final[Json] = {"type": "string", "description": "W3C traceparent; may be missing."}


def tagged(union: object) -> Kinds:
    """The structs of a union by the tag that tells them apart."""
    return {str(kind.__struct_config__.tag): kind for kind in get_args(union)}


INPUTS: Final[Kinds] = {**wire.COMMANDS, **wire.REPORTS}
EVENTS: Final = tagged(Event)
ACTIONS: Final = tagged(Action)
PAYMENTS: Final = tagged(PaymentAction)
RESULTS: Final[Kinds] = {"accepted": Accepted, "refused": Refused}


def schemas(ref_template: str) -> Json:
    """The schema of every message by its struct's name."""
    kinds = [*INPUTS.values(), *RESULTS.values(), *EVENTS.values(), *ACTIONS.values()]
    _, components = msgspec.json.schema_components(kinds, ref_template=ref_template)
    return dict(sorted(components.items()))


def messages() -> Json:
    """The JSON Schema of all messages."""

    def names(kinds: Kinds) -> Json:
        return {name: {"$ref": f"#/$defs/{kind.__name__}"} for name, kind in kinds.items()}

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Holdfast's messages",
        "description": "Under x-types, by stream: the schema of an entry's body by its type.",
        "x-types": {
            "inputs": names(INPUTS),
            "outcomes": names(RESULTS),
            "events": names(EVENTS),
            "payments": names(PAYMENTS),
            "notifications": names({"notify": Notify}),
        },
        "$defs": schemas("#/$defs/{name}"),
    }


def _fields(required: list[str], **properties: Json) -> Json:
    return {"type": "object", "required": required, "properties": properties}


def _text(description: str, **more: object) -> Json:
    return {"type": "string", "description": description, **more}


def _input_headers(kind: str) -> Json:
    kind_field: Json = {"type": "string", "const": kind}
    if kind not in wire.COMMANDS:
        by = _text("Only services send this.", pattern="^service:")
        return _fields(["type", "by"], type=kind_field, by=by, trace=_TRACE)
    return _fields(
        ["type", "key", "by"],
        type=kind_field,
        key=_text(
            "Idempotency key: the caller's name for one intention, the same in every retry.",
            minLength=1,
            maxLength=wire.KEY_MAX,
        ),
        by=_text("Principal: customer:ID, staff:ID or service:NAME.", pattern=_PRINCIPAL),
        trace=_TRACE,
    )


def _message(kind: type[msgspec.Struct], headers: Json, name: str) -> Json:
    return {
        "name": name,
        "summary": (kind.__doc__ or name).strip().partition("\n")[0],
        "contentType": "application/json",
        "headers": headers,
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
    }


def _outcome_headers(statuses: list[str]) -> Json:
    events: Json = {"$ref": "#/components/schemas/Event"}
    return _fields(
        ["status"],
        status={"type": "string", "enum": statuses},
        timers={
            "description": "Events of timers that fired first, as a JSON array; may be missing.",
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"type": "array", "items": events},
        },
        replayed=_text("There where the answer is an earlier input's.", const="1"),
    )


def _action_headers(kind: str) -> Json:
    action = _text("The action's own id, <input id>:<n>; a result names it.")
    return _fields(
        ["action", "type"], action=action, type={"type": "string", "const": kind}, trace=_TRACE
    )


def _all_messages() -> dict[str, dict[str, Json]]:
    """The messages of each stream, by stream and name."""
    letter = {
        "name": "dead_letter",
        "summary": "An entry that could not be decoded or carried out, kept for a person.",
        "payload": {"type": "null"},
        "headers": _fields(
            ["stream", "id", "why"],
            stream=_text("Where it came from."),
            id=_text("Its id there."),
            why=_text("One sentence."),
            fields=_text("Its fields, name and value in turn, as a JSON array."),
        ),
    }
    statuses = {"accepted": ["accepted"], "refused": ["refused", "invalid"]}
    return {
        "inputs": {n: _message(k, _input_headers(n), n) for n, k in INPUTS.items()},
        "outcomes": {n: _message(k, _outcome_headers(statuses[n]), n) for n, k in RESULTS.items()},
        "payments": {n: _message(k, _action_headers(n), n) for n, k in PAYMENTS.items()},
        "notifications": {"notify": _message(Notify, _action_headers("notify"), "notify")},
        "deadletters": {"dead_letter": letter},
    }


_STREAMS: Final = {
    "inputs": ("receive", "The log: one total order of everything that was asked and reported."),
    "outcomes": ("send", "What became of each input, under the input's own id."),
    "payments": ("send", "What the payment provider is to be asked; read by a consumer group."),
    "notifications": ("send", "What customers are to be told; read by a consumer group."),
    "deadletters": ("send", "Entries that could not be understood or carried out."),
}


def asyncapi() -> Json:
    """The AsyncAPI document of one book's streams."""
    channels: Json = {}
    operations: Json = {}
    found = _all_messages()
    for stream, (action, description) in _STREAMS.items():
        channels[stream] = {
            "address": f"holdfast:{{book}}:{stream}",
            "description": description,
            "parameters": {
                "book": {"description": "The book's name with braces around it: {demo}."}
            },
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in found[stream]},
        }
        operations[f"{action}_{stream}"] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{stream}"},
            "summary": description,
        }
    components = schemas("#/components/schemas/{name}")
    components["Event"] = {
        "oneOf": [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in EVENTS.values()],
        "discriminator": "type",
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Holdfast",
            "version": VERSION,
            "description": "The streams of one book on a Redis or Valkey server.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {name: one for group in found.values() for name, one in group.items()},
            "schemas": components,
        },
    }


def documents() -> dict[str, str]:
    """The text of each file by its name."""
    made = {"messages.json": messages(), "asyncapi.json": asyncapi()}
    return {name: json.dumps(it, indent=2, ensure_ascii=False) + "\n" for name, it in made.items()}


def main() -> None:
    """Write the files beside this script."""
    for name, text in documents().items():
        (HERE / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{HERE / name}\n")


if __name__ == "__main__":
    main()
