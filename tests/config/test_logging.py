"""Logs: one line each, JSON for machines, and nothing about people in them."""

from __future__ import annotations

import datetime
import io
import json
import logging
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.booking.messages import RequestSlot
from holdfast.config.logging import PERSONAL, configure, without_personal_data
from holdfast.config.settings import Log

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """A stream to log to; what logging is in this process is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_json_with_time_level_and_actor(out: io.StringIO) -> None:
    configure(Log(format="json"), "booking", out)
    structlog.get_logger().bind(book="demo").info("slot_held", slot="2026-06-02T10:00+02:00", n=3)
    (line,) = lines(out)
    when = datetime.datetime.fromisoformat(line.pop("timestamp"))
    assert when.tzinfo == datetime.UTC
    assert line == {
        "event": "slot_held",
        "level": "info",
        "actor": "booking",
        "book": "demo",
        "slot": "2026-06-02T10:00+02:00",
        "n": 3,
    }


def test_auto_is_json_where_nobody_looks(out: io.StringIO) -> None:
    configure(Log(format="auto"), "booking", out)
    structlog.get_logger().info("started")
    assert lines(out)[0]["event"] == "started"


def test_console_is_readable(out: io.StringIO) -> None:
    configure(Log(format="console"), "booking", out)
    structlog.get_logger().warning("provider_away", attempt=2)
    assert "provider_away" in out.getvalue()
    assert "attempt=2" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_lines_below_the_level_are_dropped(out: io.StringIO) -> None:
    configure(Log(format="json", level="warning"), "booking", out)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in lines(out)] == ["loud"]


def test_setting_up_again_replaces_what_was(out: io.StringIO) -> None:
    configure(Log(format="json"), "booking", out)
    log = structlog.get_logger()
    second = io.StringIO()
    configure(Log(format="json"), "payment", second)
    log.info("started")
    logging.getLogger("x").warning("once")
    assert out.getvalue() == ""
    assert [line["actor"] for line in lines(second)] == ["payment", "payment"]


def test_libraries_come_through_the_same_way_from_warnings_on(out: io.StringIO) -> None:
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.addHandler(logging.StreamHandler(out))
    configure(Log(format="json", level="debug"), "sandbox", out)
    uvicorn.info("Started server")
    uvicorn.warning("from %s", "joe@example.org")
    logging.getLogger("httpx").info("HTTP Request: POST https://pay.example")
    (line,) = lines(out)
    assert (line["event"], line["logger"], line["actor"]) == (
        "from ***",
        "uvicorn.error",
        "sandbox",
    )


def test_python_warnings_become_lines(out: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure(Log(format="json"), "booking", out)
        warnings.warn("careful", stacklevel=1)
        logging.captureWarnings(capture=False)
    assert "careful" in lines(out)[0]["event"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_is_told_without_local_variables(out: io.StringIO, form: str) -> None:
    """Locals hold whole requests."""
    configure(Log(format=form), "booking", out)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    facts = {"local": "hunter2"}
    try:
        raise ValueError(f"bad address joe@example.org in {len(facts)} fact")
    except ValueError:
        structlog.get_logger().exception("decode_failed")
    text = out.getvalue()
    assert "ValueError: bad address ***" in text
    assert "hunter2" not in text
    assert "joe" not in text


def blanked(**fields: object) -> dict[str, Any]:
    return dict(without_personal_data(None, "info", dict(fields)))


@pytest.mark.parametrize("key", sorted(PERSONAL))
def test_personal_fields_are_blanked_at_any_depth(key: str) -> None:
    assert blanked(**{key: "Ann"}) == {key: "***"}
    assert blanked(m={"x": [{key: "Ann"}]}) == {"m": {"x": [{key: "***"}]}}
    assert blanked(**{key: {"first": "Ann"}}) == {key: "***"}
    assert blanked(**{key: ""}) == {key: ""}


def test_a_principal_keeps_its_role() -> None:
    assert blanked(by="customer:K1", who="customer:K1 asked", by2="service:web") == {
        "by": "customer:***",
        "who": "customer:*** asked",
        "by2": "service:web",
    }


def test_a_whole_message_may_be_logged_by_mistake() -> None:
    message = RequestSlot(service="checkup", start="x", name="Ann", email="ann@example.org")
    shown = blanked(message=message)["message"]
    assert shown["service"] == "checkup"
    assert shown["name"] == shown["email"] == "***"


def test_secrets_in_urls_and_raw_bytes_are_blanked() -> None:
    assert blanked(url="redis://u:p@h/0", raw=b"Ann", why="tried redis://u:p@h twice") == {
        "url": "redis://***@h/0",
        "raw": "3 bytes",
        "why": "tried redis://***@h twice",
    }


def test_facts_stay_as_they_are() -> None:
    facts: dict[str, Any] = {"n": 1, "s": 0.5, "ok": True, "none": None, "id": "1-0:2", "l": [1]}
    assert blanked(**facts) == facts


words = st.text("abcXYZ0189.-_+", min_size=1).filter(lambda word: word.strip(".-_+") != "")


@given(before=st.text(), local=words, host=words, after=st.text())
def test_no_address_survives_in_any_text(before: str, local: str, host: str, after: str) -> None:
    text = blanked(event=f"{before} Q{local}Q@{host} {after}")["event"]
    assert f"Q{local}Q@{host}" not in text


@pytest.mark.slow
def test_a_process_writes_json_to_standard_error() -> None:
    """As it is in service: a pipe, no terminal."""
    code = (
        "import structlog\n"
        "from holdfast.config.logging import configure\n"
        "from holdfast.config.settings import Log\n"
        "configure(Log(), 'booking')\n"
        "structlog.get_logger().info('started', email='a@b.c')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    line = json.loads(done.stderr)
    assert (line["event"], line["email"], line["actor"]) == ("started", "***", "booking")
