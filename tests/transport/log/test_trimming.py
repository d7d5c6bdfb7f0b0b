"""Snapshots, and what may be trimmed below them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from holdfast.actors.ports import ForeignDataError, NewInput, SupersededError, TailLostError

from .books import action, commit, committed, ids_of, led_book, snapshot

if TYPE_CHECKING:
    from holdfast.actors.ports import ActionStream, Log

    from .vandals import Vandal


async def test_the_newest_snapshot_comes_back(log: Log, book: str) -> None:
    assert await log.read_snapshot(book) is None
    ids = await committed(log, book)
    for id_ in ids[:4]:
        saved = snapshot(id_, random.Random(1).randbytes(200_000))
        await log.save_snapshot(book, saved, 1, "me")
        assert await log.read_snapshot(book) == saved
        assert (await log.read_record(book)).snapshot == id_
    await log.save_snapshot(book, snapshot(ids[0]), 1, "me")
    assert (await log.read_record(book)).snapshot == ids[3]


async def test_a_superseded_snapshot_is_refused(log: Log, book: str) -> None:
    ids = await committed(log, book)
    await log.take_over(book, "you")
    with pytest.raises(SupersededError):
        await log.save_snapshot(book, snapshot(ids[0]), 1, "me")
    assert await log.read_snapshot(book) is None
    assert (await log.read_record(book)).snapshot == ""


async def test_a_snapshot_of_what_is_not_committed_is_refused(log: Log, book: str) -> None:
    """An actor saves what it was told is written: if it is not, the log has forgotten it."""
    _, ids = await led_book(log, book)
    await log.commit([commit(book, ids[:2])])
    with pytest.raises(TailLostError, match=f"ends at {ids[1]}, before the snapshot"):
        await log.save_snapshot(book, snapshot(ids[2]), 1, "me")
    assert await log.read_snapshot(book) is None


async def test_nothing_is_trimmed_before_two_snapshots(log: Log, book: str) -> None:
    ids = await committed(log, book)
    nothing = {"inputs": 0, "outcomes": 0, "payments": 0, "notifications": 0}
    assert await log.trim(book) == nothing
    await log.save_snapshot(book, snapshot(ids[3]), 1, "me")
    assert await log.trim(book) == nothing


async def test_trimming_stops_at_the_older_snapshot(log: Log, book: str) -> None:
    ids = await committed(log, book)
    await log.save_snapshot(book, snapshot(ids[2]), 1, "me")
    await log.save_snapshot(book, snapshot(ids[4]), 1, "me")
    removed = await log.trim(book)
    assert (removed["inputs"], removed["outcomes"]) == (2, 2)
    for stream in ("inputs", "outcomes"):
        facts = await log.facts(book, stream)
        assert (facts.first_id, facts.length, facts.added) == (ids[2], 5, 7)
    found = await log.read_inputs({book: ids[2]}, 10, 0)
    assert [entry.id for entry in found[book]] == ids[3:]


@pytest.mark.parametrize("stream", ["payments", "notifications"])
async def test_trimming_keeps_what_no_consumer_has_finished(
    log: Log, book: str, stream: ActionStream
) -> None:
    _, ids = await led_book(log, book, inputs=0)
    actions = [action(ids[0], number) for number in range(6)]
    if stream == "payments":
        await log.commit([commit(book, ids, payments=actions)])
    else:
        await log.commit([commit(book, ids, notifications=actions)])
    assert (await log.trim(book))[stream] == 0
    await log.read_actions(stream, [book], "c1", 4, 0)
    assert (await log.trim(book))[stream] == 0
    done: list[tuple[str, NewInput | None]] = [(actions[n].id, None) for n in (0, 1, 3)]
    await log.finish_actions(stream, book, done)
    assert (await log.trim(book))[stream] == 2
    await log.finish_actions(stream, book, [(actions[2].id, None)])
    assert (await log.trim(book))[stream] == 1
    assert ids_of(await log.read_actions(stream, [book], "c1", 4, 0)) == [
        entry.id for entry in actions[4:]
    ]


@pytest.mark.parametrize("stream", ["payments", "notifications"])
async def test_a_stream_that_was_deleted_with_our_actions_is_told_until_the_book_is_taken_over(
    log: Log, vandal: Vandal, book: str, stream: ActionStream
) -> None:
    """Whoever takes over asks for all that is under way; an executor has begun the stream anew by then."""
    _, ids = await led_book(log, book)
    ours = action(ids[0])
    first = commit(book, ids[:1])
    first = msgspec.structs.replace(first, **{stream: [ours]})
    assert await log.commit([first]) == [None]
    vandal.delete_actions(book, stream)
    assert await log.read_actions(stream, [book], "c1", 4, 0) == []
    (error,) = await log.commit([commit(book, ids[1:2], after=ids[0])])
    assert isinstance(error, ForeignDataError)
    assert f"was deleted with what we wrote up to {ours.id}: somebody else writes" in str(error)
    assert (await log.read_record(book)).position == ids[0]
    await log.take_over(book, "me")
    assert await log.commit([commit(book, ids[1:2], after=ids[0], epoch=2)]) == [None]


async def test_trimming_keeps_what_a_group_that_was_moved_back_is_given_again(
    log: Log, vandal: Vandal, book: str
) -> None:
    """Seed 61742 of ``upkeep``: what was pending was later than where the group stood by then."""
    _, ids = await led_book(log, book, inputs=0)
    actions = [action(ids[0], number) for number in range(4)]
    await log.commit([commit(book, ids, payments=actions)])
    await log.read_actions("payments", [book], "c1", 4, 0)
    await log.finish_actions("payments", book, [(entry.id, None) for entry in actions[:3]])
    vandal.move_group_back(book, "payments", actions[1].id)
    assert (await log.trim(book))["payments"] == 1
    again = await log.read_actions("payments", [book], "c1", 4, 0)
    assert ids_of(again) == [actions[2].id, actions[3].id]
