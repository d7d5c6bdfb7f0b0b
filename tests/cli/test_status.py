"""How books fare, and what is told of one that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from holdfast.cli.common import EXIT_FAILED, EXIT_GOOD

from .books import ask, entries_of, make_book, requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

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


def test_all_books_of_a_server_are_shown(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    books = {new_book(), new_book()}
    for book in books:
        make_book(server_url, book, [])
    done = invoke("status", "--redis", server_url, "--quick", "--late", "86400", "--json")
    told = msgspec.json.decode(done.stdout)
    assert books <= {book["book"] for book in told["books"]}


def test_there_is_no_such_book(invoke: Invoke, server_url: str) -> None:
    failed = invoke("status", "nobody", "--redis", server_url)
    assert failed.exit_code == EXIT_FAILED
    assert "there is no book nobody" in failed.stderr
