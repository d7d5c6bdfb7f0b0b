"""Logs of facts: one line each, readable on a terminal, JSON elsewhere.

``log.info("slot_held", book=…, booking=…)``: the event's name, then facts by name. Every line carries
its time (UTC), its level and the actor that wrote it. What goes through the standard library's
``logging`` (uvicorn, httpx) comes out in the same form, from warnings on.

Personal data does not belong in logs. Nobody is to put it there; :func:`without_personal_data` is the
safety net under whoever does.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, TextIO, cast

import msgspec
import structlog

from holdfast.config.redact import HIDDEN, redacted

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from structlog.typing import Processor, WrappedLogger

    from holdfast.config.settings import Log

PERSONAL = frozenset({"body", "by", "customer", "email", "name", "notes", "phone", "recipient"})
"""Fields whose values are never written. ``by`` keeps its role: ``customer:***``."""

DEPTH_MAX = 6
"""How deep facts may be nested; what lies deeper is not written."""

_EMAIL = re.compile(r"[^\s@<>\"'(),;:=]+@[^\s@<>\"'(),;]+")
_PRINCIPAL = re.compile(r"\b(customer|staff):[^\s\"',)}\]]+")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(log: Log, actor: str, stream: TextIO | None = None) -> None:
    """Set up logging for this process. Calling it again replaces what was set up.

    A uvicorn server in this process needs ``log_config=None``, or it sets up its own.

    Args:
      log: Format and level.
      actor: What this process is, such as ``booking``; on every line.
      stream: Where lines go; None for standard error.
    """
    out = sys.stderr if stream is None else stream
    readable = log.format == "console" or (log.format == "auto" and out.isatty())

    def add_actor(
        _logger: WrappedLogger, _method: str, event: MutableMapping[str, object]
    ) -> MutableMapping[str, object]:
        event.setdefault("actor", actor)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_actor,
        structlog.processors.StackInfoRenderer(),
        # Rendered to text here, and without local variables: those hold personal data.
        structlog.processors.format_exc_info,
        without_personal_data,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if readable
        else structlog.processors.JSONRenderer(serializer=_to_json)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log.level]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,  # or a logger would keep what was set up before
    )
    _route_standard_logging(out, shared, renderer)


def without_personal_data(
    _logger: WrappedLogger, _method: str, event: MutableMapping[str, object]
) -> MutableMapping[str, object]:
    """A structlog processor: *event* with personal data and secrets blanked.

    Blanked are the values of the fields in ``PERSONAL`` at any depth, whatever looks like an e-mail
    address or a principal in any text, and secrets in URLs.
    """
    return {key: _clean(key, value, DEPTH_MAX) for key, value in event.items()}


def _clean(key: str, value: object, depth: int) -> object:
    """*value* as it may be written under *key*."""
    if key in PERSONAL and value not in ("", None):
        role, colon, _ = value.partition(":") if isinstance(value, str) else ("", "", "")
        return f"{role}:{HIDDEN}" if key == "by" and colon and role.isalpha() else HIDDEN
    if isinstance(value, str):
        return _clean_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth == 0:
        return HIDDEN
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"  # most likely a body
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, dict):
        entries = cast("dict[object, object]", value)
        return {str(k): _clean(str(k), v, depth - 1) for k, v in entries.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", item, depth - 1) for item in cast("list[object]", value)]
    return _clean_text(str(value))


def _clean_text(text: str) -> str:
    if "@" in text or "?" in text:
        text = " ".join(
            redacted(word) if "://" in word else _EMAIL.sub(HIDDEN, word)
            for word in text.split(" ")
        )
    return _PRINCIPAL.sub(rf"\1:{HIDDEN}", text) if ":" in text else text


def _to_json(event: object, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def _route_standard_logging(out: TextIO, shared: list[Processor], renderer: Processor) -> None:
    """Send what goes through ``logging`` the same way, from warnings on."""
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *shared,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in list(logging.Logger.manager.loggerDict):
        if name.partition(".")[0] in {"uvicorn", "httpx", "httpcore"}:
            library = logging.getLogger(name)
            library.handlers.clear()
            library.propagate = True
            library.setLevel(logging.NOTSET)
    logging.captureWarnings(capture=True)
