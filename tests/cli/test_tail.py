"""The end of a stream, as it lies there."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from holdfast.cli.common import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE

from .books import ask, entries_of, make_book, requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Invoke = Callable[..., Result]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def book(server_url: str) -> str:
    make_book(server_url, "tailed", requests(20), bad=1)
    return "tailed"


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [msgspec.json.decode(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("stream", ["inputs", "outcomes", "payments", "deadletters"])
def test_every_stream_shows_its_last_entries(
    invoke: Invoke, server_url: str, book: str, stream: str
) -> None:
    found = lines(invoke("tail", book, stream, "-n", 3, "--redis", server_url, "--json"))
    wanted = [entry_id for entry_id, _ in entries_of(server_url, book, stream)[-3:]]
    assert wanted
    assert [line["id"] for line in found] == wanted
    shown = invoke("tail", book, stream, "-n", 3, "--redis", server_url).stdout
    assert [line.split()[0] for line in shown.splitlines()] == wanted


def test_bytes_that_are_no_text_are_shown(invoke: Invoke, server_url: str, book: str) -> None:
    *_, last = lines(invoke("tail", book, "-n", 2, "--redis", server_url, "--json"))[:1]
    assert last["fields"]["body"] == "\\xff\\xfe{}"


def test_entries_after_an_id(invoke: Invoke, server_url: str, book: str) -> None:
    ids = [entry_id for entry_id, _ in entries_of(server_url, book)]
    args = ("tail", book, "--after", ids[4], "-n", 2, "--redis", server_url, "--json")
    assert [line["id"] for line in lines(invoke(*args))] == ids[5:7]


def test_following_shows_what_comes_and_ends_with_ctrl_c(
    server_url: str, new_book: Callable[[], str]
) -> None:
    book = new_book()
    make_book(server_url, book, [])
    command = ["tail", book, "-n", "0", "-f", "--json", "--redis", server_url]
    with subprocess.Popen(
        [sys.executable, "-m", "holdfast", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            while not ask(server_url, "CLIENT", "LIST").count(b"cmd=xread"):
                assert process.poll() is None  # until it waits
            key = f"holdfast:{{{book}}}:inputs"
            new = ask(server_url, "XADD", key, "*", "type", "tick", "body", "{}")
            line = msgspec.json.decode(process.stdout.readline())
            assert line["id"] == new.decode()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
            assert (process.returncode, out, err) == (EXIT_INTERRUPTED, "", "")
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        (("nobody",), EXIT_FAILED, "there is no book nobody"),
        (("A B",), EXIT_USAGE, "'A B' is no name of a book"),
        (("tailed", "--after", "now"), EXIT_USAGE, "'now' is no entry id"),
    ],
)
def test_a_mistake_is_one_sentence(
    invoke: Invoke, server_url: str, book: str, args: tuple[str, ...], code: int, sentence: str
) -> None:
    failed = invoke("tail", *args, "--redis", server_url)
    assert (failed.exit_code, failed.stdout) == (code, "")
    assert sentence in failed.stderr
    assert failed.stderr.count("\n") == 1
