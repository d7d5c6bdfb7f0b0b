"""How books fare, and what is told of one that does not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from holdfast.cli.common import EXIT_FAILED, EXIT_GOOD
from holdfast.cli.status_file import LOCK_FILE, PartStatus, Status, Trouble, write_status
from holdfast.transport.keys import lease_key

from .books import ask, entries_of, make_book, requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    from holdfast.cli.status_file import PartHealth

    Invoke = Callable[..., Result]

pytestmark = pytest.mark.slow


def status(invoke: Invoke, url: str, book: str, *more: str) -> tuple[int, dict[str, Any]]:
    done = invoke("status", book, "--redis", url, "--json", *more)
    assert done.stderr == ""
    told = msgspec.json.decode(done.stdout)
    assert told["healthy"] == (done.exit_code == EXIT_GOOD)
    return done.exit_code, told["books"][0]


def test_a_book_that_fares_well(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    book = new_book()
    record = make_book(server_url, book, requests(30), bad=2)
    code, told = status(invoke, server_url, book)
    assert code == EXIT_GOOD
    assert (told["position"], told["digest"]) == (record.position, record.digest)
    assert (told["last"], told["lag"]) == (record.position, 0)
    assert (told["epoch"], told["owner"]) == (1, "tests")
    assert (told["snapshot"], told["since_snapshot"]) == (record.position, 0)
    assert told["dead_letters"] == 2
    assert told["problems"] == []
    payments = {stream["stream"]: stream for stream in told["streams"]}["payments"]
    asked = entries_of(server_url, book, "payments")
    # Each hold asks for money once, and nobody has paid.
    assert told["holds"] == told["payments_under_way"] == payments["waiting"] == len(asked) > 0
    assert payments["oldest"] == asked[0][0]
    shown = invoke("status", book, "--redis", server_url).stdout
    assert f"decided up to {record.position}, 0 inputs behind" in shown
    assert f"{len(asked)} slot holds" in shown


def test_what_waits_too_long_is_a_problem(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    book = new_book()
    make_book(server_url, book, requests(5), undecided=3)
    # Handed out to an executor that has gone: not waiting any more, but not carried out either.
    key = f"holdfast:{{{book}}}:payments"
    ask(server_url, "XREADGROUP", "GROUP", "payments", "gone", "COUNT", "2", "STREAMS", key, ">")
    code, told = status(invoke, server_url, book, "--late", "0")
    assert code == EXIT_FAILED
    undecided, unpaid = told["problems"]
    assert undecided.startswith("3 inputs are not decided, the oldest for ")
    assert "payments are not carried out" in unpaid
    streams = {stream["stream"]: stream for stream in told["streams"]}
    assert streams["payments"]["pending"] == 2
    assert streams["payments"]["oldest"] == entries_of(server_url, book, "payments")[0][0]
    assert status(invoke, server_url, book)[0] == EXIT_GOOD  # not so long


def test_a_lost_tail_is_a_problem(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    book = new_book()
    record = make_book(server_url, book, requests(3))
    ask(server_url, "HSET", f"holdfast:{{{book}}}:commit", "position", "9" * 15 + "-0")
    code, told = status(invoke, server_url, book, "--quick")
    assert code == EXIT_FAILED
    assert f"the log ends at {record.position}" in told["problems"][0]


def test_a_book_that_somebody_spoilt_is_told_and_the_others_are_shown(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    spoilt, other = new_book(), new_book()
    for book in (spoilt, other):
        make_book(server_url, book, [])
    key = f"holdfast:{{{spoilt}}}:inputs"
    ask(server_url, "DEL", key)
    ask(server_url, "SET", key, "mine")
    try:
        done = invoke("status", spoilt, other, "--redis", server_url, "--json")
        shown = invoke("status", spoilt, other, "--redis", server_url).stdout
    finally:
        ask(server_url, "DEL", key)
    assert done.exit_code == EXIT_FAILED
    first, second = msgspec.json.decode(done.stdout)["books"]
    assert "somebody else writes to our keys" in first["problems"][0]
    assert (second["book"], second["problems"]) == (other, [])
    assert f"{spoilt}: it cannot be read as it is." in shown
    assert f"{other}: decided up to" in shown


def test_a_service_whose_server_is_not_ready_yet_is_shown(invoke: Invoke, tmp_path: Path) -> None:
    write_status(tmp_path, Status(6, "", "", 1, {"server": PartStatus(7, 0, "starting")}))
    with (tmp_path / LOCK_FILE).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shown = invoke("status", "--data", tmp_path)
    assert shown.exit_code == EXIT_FAILED
    assert "starting" in shown.stdout
    assert "the server is not ready yet: ask again soon" in shown.stdout


def test_a_tail_that_was_seen_to_be_lost_is_told_with_its_range(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    """It is no problem: nobody could end it."""
    book = new_book()
    make_book(server_url, book, requests(3))
    lost = {
        "book": book,
        "inputs_kept": "5-0",
        "inputs_lost_to": "7-1",
        "decided_kept": "4-0",
        "decided_lost_to": "4-0",
        "cause": "failover",
        "bytes": 1234,
    }
    fields = [str(part) for pair in lost.items() for part in pair]
    ask(server_url, "XADD", f"holdfast:{{{book}}}:losses", "*", *fields)
    code, told = status(invoke, server_url, book)
    assert (code, told["losses"]) == (EXIT_GOOD, [lost])
    shown = invoke("status", book, "--redis", server_url).stdout
    assert "lost by a failover: inputs after 5-0 up to 7-1, at least 1,234 bytes" in shown


def test_the_lease_of_the_owner_is_shown(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    book = new_book()
    make_book(server_url, book, [])
    ask(server_url, "HSET", f"holdfast:{{{book}}}:commit", "owner", book)  # nobody else's name
    assert status(invoke, server_url, book)[1]["lease_s"] == 0.0
    assert f"of {book} (no lease)" in invoke("status", book, "--redis", server_url).stdout
    ask(server_url, "SET", lease_key(book), "here", "PX", "600000")
    assert 0 < status(invoke, server_url, book)[1]["lease_s"] <= 600
    assert f"of {book} (lease " in invoke("status", book, "--redis", server_url).stdout


def test_what_is_no_lease_is_not_shown_as_one(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    """A key of another type is none to those who stand by; a text without end is one to them, for ever."""
    book = new_book()
    make_book(server_url, book, [])
    ask(server_url, "HSET", f"holdfast:{{{book}}}:commit", "owner", book)
    ask(server_url, "LPUSH", lease_key(book), "foreign")
    ask(server_url, "PEXPIRE", lease_key(book), "600000")
    code, told = status(invoke, server_url, book)
    assert (code, told["lease_s"]) == (EXIT_GOOD, 0.0)
    ask(server_url, "DEL", lease_key(book))
    ask(server_url, "SET", lease_key(book), "foreign")
    code, told = status(invoke, server_url, book)
    assert code == EXIT_FAILED
    assert told["lease_s"] is None
    assert f"the lease of {book} never lapses" in told["problems"][0]
    assert "(lease without end)" in invoke("status", book, "--redis", server_url).stdout
    ask(server_url, "DEL", lease_key(book))


def test_the_server_is_shown_as_far_as_one_may_ask(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    book = new_book()
    make_book(server_url, book, [])
    told = msgspec.json.decode(invoke("status", book, "--redis", server_url, "--json").stdout)
    assert (told["server"]["role"], told["server"]["appendfsync"]) == ("primary", "everysec")
    shown = invoke("status", book, "--redis", server_url).stdout
    assert "primary with 0 replicas" in shown
    assert "appendfsync everysec" in shown
    ask(server_url, "ACL", "SETUSER", "looker", "reset", "on", ">open-sesame", "~*", "+@read", "+info",
        "+ping", "+time", "-pttl")  # fmt: skip
    poor = server_url.replace("unix://", "unix://looker:open-sesame@")
    shown = invoke("status", book, "--redis", poor).stdout
    assert "appendonly yes, appendfsync not allowed to ask" in shown
    assert "(lease not allowed to ask)" in shown


def test_a_server_that_is_not_there_is_told_in_one_sentence(invoke: Invoke) -> None:
    failed = invoke("status", "--redis", "redis://:open-sesame@127.0.0.1:1")
    assert failed.exit_code == EXIT_FAILED
    assert "no connection to 127.0.0.1:1" in failed.stderr
    assert "open-sesame" not in failed.output


@pytest.mark.parametrize("health", ["waiting", "restarting"])
def test_a_part_of_the_service_in_trouble_is_a_problem_and_its_url_shows_no_secret(
    invoke: Invoke, server_url: str, tmp_path: Path, health: PartHealth
) -> None:
    """A service as its status file shows it: who holds the lock runs."""
    url = server_url.replace("unix://", "unix://default:open-sesame@")
    trouble = Trouble("log", "the server's memory is full", 1_700_000_000_000)
    parts = {"server": PartStatus(7), "payment": PartStatus(8, 2, health, [trouble])}
    write_status(tmp_path, Status(6, url, "", 1, parts, "relaxed"))
    with (tmp_path / LOCK_FILE).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        arguments = ("status", "--quick", "--late", "86400", "--data", tmp_path)
        told = invoke(*arguments, "--json")
        shown = invoke(*arguments)
    assert (told.exit_code, shown.exit_code) == (EXIT_FAILED, EXIT_FAILED)
    service = msgspec.json.decode(told.stdout)["service"]
    assert service["parts"]["payment"]["troubles"][0]["why"] == "the server's memory is full"
    assert f"payment, {health} for " in shown.stdout
    assert "the server's memory is full" in shown.stdout
    assert "open-sesame" not in told.output + shown.output


def test_all_books_of_a_server_are_shown(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    books = {new_book(), new_book()}
    for book in books:
        make_book(server_url, book, [])
    done = invoke("status", "--redis", server_url, "--quick", "--late", "86400", "--json")
    told = msgspec.json.decode(done.stdout)
    assert books <= {book["book"] for book in told["books"]}


def test_a_reader_that_goes_away_is_no_error(
    server_url: str, new_book: Callable[[], str], tmp_path: Path
) -> None:
    """As behind ``| head``."""
    book = new_book()
    make_book(server_url, book, requests(3))
    for more in ((), ("--json",)):
        command = [sys.executable, "-m", "holdfast", "status", book, "--redis", server_url, *more]
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
            )
        finally:
            os.close(writer)
        assert done.stderr == b""


def test_there_is_no_such_book(invoke: Invoke, server_url: str) -> None:
    failed = invoke("status", "nobody", "--redis", server_url)
    assert failed.exit_code == EXIT_FAILED
    assert "there is no book nobody" in failed.stderr
