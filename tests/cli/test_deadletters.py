"""Dead letters: listed, shown, sent again once, and dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from holdfast.actors.ports import DeadLetter
from holdfast.cli.common import EXIT_FAILED, EXIT_USAGE
from holdfast.transport.redis_log import open_redis_log

from .books import ask, entries_of, make_book, requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    from holdfast.actors.ports import ActionEntry

    Invoke = Callable[..., Result]

pytestmark = pytest.mark.slow

BODY = '{"service":"checkup","first":"2031-03-03"}'


@pytest.fixture
def poisoned(server_url: str, new_book: Callable[[], str]) -> str:
    """A book with one dead letter of an input, whose bytes are no text."""
    book = new_book()
    make_book(server_url, book, requests(4), bad=1)
    return book


def told(result: Result) -> Any:  # noqa: ANN401 - whatever was printed
    assert result.exit_code == 0, result.stderr
    return msgspec.json.decode(result.stdout)


def only_letter(invoke: Invoke, url: str, book: str) -> dict[str, Any]:
    (letter,) = told(invoke("deadletters", "list", book, "--redis", url, "--json"))
    return dict(letter)


def test_a_letter_says_where_it_is_from_and_why(
    invoke: Invoke, server_url: str, poisoned: str
) -> None:
    letter = only_letter(invoke, server_url, poisoned)
    assert letter["stream"] == "inputs"
    assert letter["entry"] in dict(entries_of(server_url, poisoned))
    assert "unknown field" in letter["why"]
    args = ("deadletters", "show", poisoned, letter["id"], "--redis", server_url)
    assert told(invoke(*args, "--json")) == letter
    assert "  body: \\xff\\xfe{}" in invoke(*args).stdout


def test_an_input_that_is_put_right_is_appended_once(
    invoke: Invoke, server_url: str, poisoned: str
) -> None:
    letter = only_letter(invoke, server_url, poisoned)
    before = entries_of(server_url, poisoned)
    args = ("deadletters", "retry", poisoned, letter["id"], "--redis", server_url)
    right = ("--set", "type=request_auto", "--set", f"body={BODY}", "--set", "key=again")
    as_it_is = invoke(*args, "--yes")
    assert as_it_is.exit_code == EXIT_FAILED
    assert "it would come back" in as_it_is.stderr
    unasked = invoke(*args, *right)
    assert unasked.exit_code == EXIT_USAGE
    assert "an input is appended: say --yes to do it" in unasked.stderr
    assert entries_of(server_url, poisoned) == before
    done = told(invoke(*args, *right, "--yes", "--json"))
    *rest, (entry_id, fields) = entries_of(server_url, poisoned)
    assert rest == before
    assert entry_id == done["id"]
    assert fields == {
        b"type": b"request_auto", b"body": BODY.encode(), b"key": b"again", b"by": b"customer:K1",
    }  # fmt: skip
    again = invoke(*args, *right, "--yes")
    assert again.exit_code == EXIT_FAILED
    assert "has no dead letter" in again.stderr
    assert len(entries_of(server_url, poisoned)) == len(before) + 1


async def give_up_one_action(url: str, book: str) -> str:
    """What the payment actor does with an action that it cannot carry out; the action's entry."""
    async with open_redis_log(url) as log:
        (_, action), *_ = await log.read_actions("payments", [book], "mine", 1, 0)
        letter = DeadLetter("payments", action.id, "the post was away", (b"type", b"preauthorize"))
        await log.finish_actions("payments", book, [(action.id, None)], [letter])
        return action.id


async def claim(url: str, book: str) -> list[ActionEntry]:
    async with open_redis_log(url) as log:
        found = await log.claim_actions("payments", [book], "executor", 10, 30.0)
    return [action for _, action in found]


def test_an_action_is_handed_out_again_under_its_own_id(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    book = new_book()
    make_book(server_url, book, requests(4))
    action = trio.run(give_up_one_action, server_url, book)
    letter = only_letter(invoke, server_url, book)
    assert (letter["stream"], letter["entry"]) == ("payments", action)
    assert trio.run(claim, server_url, book) == []
    payments = entries_of(server_url, book, "payments")
    args = ("deadletters", "retry", book, letter["id"], "--redis", server_url, "--yes", "--json")
    assert told(invoke(*args))["id"] == action
    assert entries_of(server_url, book, "payments") == payments  # nothing was added
    (claimed,) = trio.run(claim, server_url, book)
    assert claimed.id == action
    assert entries_of(server_url, book, "deadletters") == []


def test_an_action_that_was_trimmed_away_can_only_be_dropped(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    book = new_book()
    make_book(server_url, book, requests(4))
    action = trio.run(give_up_one_action, server_url, book)
    ask(server_url, "XDEL", f"holdfast:{{{book}}}:payments", action)
    letter = only_letter(invoke, server_url, book)["id"]
    failed = invoke("deadletters", "retry", book, letter, "--redis", server_url, "--yes")
    assert failed.exit_code == EXIT_FAILED
    assert "was trimmed away, drop the letter" in failed.stderr
    args = ("deadletters", "drop", book, letter, "--redis", server_url)
    assert invoke(*args).exit_code == EXIT_USAGE
    assert len(entries_of(server_url, book, "deadletters")) == 1
    assert told(invoke(*args, "--yes", "--json"))["dropped"] == 1
    assert entries_of(server_url, book, "deadletters") == []
    assert invoke(*args, "--yes").exit_code == EXIT_FAILED
