"""Executors: each action goes to one of them, and is finished or claimed by another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from holdfast.actors.ports import ActionEntry, DeadLetter, ForeignDataError, NewInput, StreamFacts

from .books import action, all_inputs, commit, ids_of, led_book, new_input, snapshot, with_payments

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.actors.ports import Log

    from .vandals import Vandal


async def test_each_action_goes_to_one_consumer(log: Log, book: str) -> None:
    actions = await with_payments(log, book)
    first = await log.read_actions("payments", [book], "c1", 2, 0)
    second = await log.read_actions("payments", [book], "c2", 2, 0)
    assert ids_of(first + second) == [entry.id for entry in actions]
    assert await log.read_actions("payments", [book], "c1", 2, 0) == []
    facts = await log.facts(book, "payments")
    assert (facts.pending, facts.lag, facts.length) == (3, 0, 3)


async def test_a_share_for_each_book_and_the_rest_for_the_busy(
    log: Log, new_book: Callable[[], str]
) -> None:
    busy, quiet = new_book(), new_book()
    await with_payments(log, busy, 20)
    await with_payments(log, quiet, 1)
    found = await log.read_actions("payments", [busy, quiet], "c1", 10, 0)
    assert len(found) == 10
    assert [name for name, _ in found].count(quiet) == 1


async def test_a_blocked_consumer_wakes(log: Log, book: str) -> None:
    _, ids = await led_book(log, book, inputs=0)
    found: list[tuple[str, ActionEntry]] = []

    async def read() -> None:
        found.extend(await log.read_actions("payments", [book], "c1", 10, 60))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await log.commit([commit(book, ids, payments=[action(ids[0])])])
    assert ids_of(found) == [action(ids[0]).id]


async def test_a_group_that_is_missing_is_made(log: Log, book: str) -> None:
    assert await log.read_actions("payments", [book], "c1", 10, 0) == []
    assert await log.claim_actions("notifications", [book], "c1", 10, 0) == []
    await log.keep_claim("payments", book, "c1", ["1-1"])


async def test_a_dead_consumers_actions_are_claimed(log: Log, book: str) -> None:
    actions = await with_payments(log, book)
    await log.read_actions("payments", [book], "dead", 10, 0)
    assert await log.claim_actions("payments", [book], "c2", 10, 60) == []
    claimed = await log.claim_actions("payments", [book], "c2", 2, 0)
    assert ids_of(claimed) == [entry.id for entry in actions[:2]]
    assert [entry.deliveries for _, entry in claimed] == [2, 2]
    again = await log.claim_actions("payments", [book], "c3", 10, 0)
    assert [entry.deliveries for _, entry in again] == [3, 3, 2]
    assert (await log.facts(book, "payments")).pending == 3


async def test_a_claim_that_is_kept_is_not_taken(log: Log, book: str) -> None:
    actions = await with_payments(log, book, 2)
    await log.read_actions("payments", [book], "slow", 10, 0)
    with trio.fail_after(10):
        claimed: list[tuple[str, ActionEntry]] = []
        while not claimed:
            await log.keep_claim("payments", book, "slow", [actions[0].id])
            claimed = await log.claim_actions("payments", [book], "c2", 10, 0.1)
    assert ids_of(claimed) == [actions[1].id]


async def test_a_claim_that_was_lost_is_not_stolen_back(log: Log, book: str) -> None:
    actions = await with_payments(log, book, 1)
    await log.read_actions("payments", [book], "slow", 10, 0)
    await log.claim_actions("payments", [book], "c2", 10, 0)
    with trio.fail_after(10):
        while not await log.claim_actions("payments", [book], "c3", 10, 0.05):
            await log.keep_claim("payments", book, "slow", [actions[0].id])


async def test_finishing_appends_results_and_acknowledges(log: Log, book: str) -> None:
    actions = await with_payments(log, book)
    await log.read_actions("payments", [book], "c1", 10, 0)
    result = NewInput("payment_result", b'{"status":"voided"}', by="service:payment", trace="t")
    letter = DeadLetter("payments", actions[2].id, "the provider refuses it", (b"a", b"b"))
    await log.finish_actions(
        "payments", book, [(actions[0].id, result), (actions[2].id, None)], [letter]
    )
    last = (await all_inputs(log, book))[-1]
    assert NewInput(last.type, last.body, last.key, last.by, last.trace) == result
    assert (await log.facts(book, "deadletters")).length == 1
    left = await log.claim_actions("payments", [book], "c2", 10, 0)
    assert ids_of(left) == [actions[1].id]


async def test_finishing_is_all_or_nothing(log: Log, vandal: Vandal, book: str) -> None:
    actions = await with_payments(log, book, 1)
    await log.read_actions("payments", [book], "c1", 10, 0)
    before = len(await all_inputs(log, book))
    vandal.spoil_type(book, "deadletters")
    letter = DeadLetter("payments", actions[0].id, "why", ())
    with pytest.raises(ForeignDataError):
        await log.finish_actions("payments", book, [(actions[0].id, new_input(1))], [letter])
    assert len(await all_inputs(log, book)) == before
    assert (await log.facts(book, "payments")).pending == 1


async def test_finishing_nothing_does_nothing(log: Log, book: str) -> None:
    await log.finish_actions("payments", book, [])
    assert await log.facts(book, "inputs") == StreamFacts()


@pytest.mark.parametrize("wrong", ["", "abc", "1", "1-", "01-1", "99999999999999999999-0"])
async def test_an_id_that_is_none_is_refused_before_anything_is_done(
    log: Log, book: str, wrong: str
) -> None:
    """The server would refuse it in the middle of a script, and what came before would stay."""
    actions = await with_payments(log, book, 1)
    await log.read_actions("payments", [book], "c1", 10, 0)
    before = len(await all_inputs(log, book))
    with pytest.raises(ValueError, match="is no entry id"):
        await log.finish_actions(
            "payments", book, [(actions[0].id, new_input(1)), (wrong, new_input(2))]
        )
    with pytest.raises(ValueError, match="is no entry id"):
        await log.keep_claim("payments", book, "c1", [wrong])
    with pytest.raises(ValueError, match="is no entry id"):
        await log.read_inputs({book: wrong}, 10, 0)
    with pytest.raises(ValueError, match="is no entry id"):
        await log.read_outcomes({book: wrong}, 10, 0)
    with pytest.raises(ValueError, match="is no entry id"):
        await log.save_snapshot(book, snapshot(wrong), 1, "me")
    assert len(await all_inputs(log, book)) == before
    assert (await log.facts(book, "payments")).pending == 1


async def test_a_result_too_large_is_refused_before_it_is_written(log: Log, book: str) -> None:
    """It would lie in the log as an input that nobody can read."""
    actions = await with_payments(log, book, 1)
    await log.read_actions("payments", [book], "c1", 10, 0)
    result = NewInput("payment_result", b"x" * 65_537)
    with pytest.raises(ValueError, match="at most 65536 fit"):
        await log.finish_actions("payments", book, [(actions[0].id, result)])
    assert (await log.facts(book, "payments")).pending == 1


async def test_claiming_keeps_what_it_got_where_another_book_has_no_group(
    log: Log, new_book: Callable[[], str]
) -> None:
    """The claim was made again for all books, and what the first one had got was lost with it."""
    with_group, without = new_book(), new_book()
    actions = await with_payments(log, with_group, 3)
    await log.read_actions("payments", [with_group], "dead", 10, 0)
    with trio.fail_after(10):
        claimed: list[tuple[str, ActionEntry]] = []
        while not claimed:  # the server's clock must move on: only then are they idle enough
            claimed = await log.claim_actions("payments", [with_group, without], "c2", 10, 0.002)
            without = new_book()
    assert ids_of(claimed) == [entry.id for entry in actions]
    assert [entry.deliveries for _, entry in claimed] == [2, 2, 2]


async def test_a_key_of_another_type_keeps_no_actions(
    log: Log, vandal: Vandal, new_book: Callable[[], str]
) -> None:
    """A read that fails for one book has handed nothing out of another one."""
    good, bad = new_book(), new_book()
    await with_payments(log, good, 2)
    vandal.spoil_type(bad, "payments")
    with pytest.raises(ForeignDataError):
        await log.read_actions("payments", [good, bad], "c1", 10, 0)
    assert (await log.facts(good, "payments")).pending == 0
    with pytest.raises(ForeignDataError):
        await log.keep_claim("payments", bad, "c1", ["1-1"])
    with pytest.raises(ForeignDataError):
        await log.trim(bad)
    assert await log.facts(bad, "payments") == StreamFacts()
