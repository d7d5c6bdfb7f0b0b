"""Who leads a book: takeovers, leases, and commits that are whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from holdfast.actors.ports import (
    Commit,
    CommitRecord,
    DeadLetter,
    ForeignDataError,
    LogError,
    NewInput,
    OutcomeEntry,
    SupersededError,
    TailLostError,
)

from .books import WRITTEN, action, all_inputs, commit, led_book, lengths, new_input, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.actors.ports import Log, StreamName

    from .vandals import Vandal


async def test_taking_over_raises_the_epoch_and_is_an_input(log: Log, book: str) -> None:
    assert await log.read_record(book) == CommitRecord()
    assert await log.take_over(book, "a") == CommitRecord(epoch=1, owner="a")
    record = await log.take_over(book, "b")
    assert record == CommitRecord(epoch=2, owner="b") == await log.read_record(book)
    entries = await all_inputs(log, book)
    assert [(entry.type, entry.by) for entry in entries] == [("taken_over", "service:booking")] * 2
    assert [msgspec.json.decode(entry.body) for entry in entries] == [
        {"epoch": 1, "owner": "a", "position": "0-0"},
        {"epoch": 2, "owner": "b", "position": "0-0"},
    ]


async def test_a_book_is_taken_over_only_at_the_epoch_that_was_seen(log: Log, book: str) -> None:
    assert (await log.take_over(book, "a", 0)).epoch == 1
    with pytest.raises(SupersededError):
        await log.take_over(book, "b", 0)
    assert (await log.take_over(book, "b", 1)).owner == "b"
    with pytest.raises(TailLostError):
        await log.take_over(book, "a", 7)
    assert len(await all_inputs(log, book)) == 2


async def test_a_takeover_that_is_asked_for_again_is_made_once(log: Log, book: str) -> None:
    record = await log.take_over(book, "a", 0)
    assert await log.take_over(book, "a", 0) == record
    assert len(await all_inputs(log, book)) == 1
    assert (await log.take_over(book, "a", 1)).epoch == 2  # with what it sees now it may


async def test_records_of_many_books_come_in_their_order(
    log: Log, new_book: Callable[[], str]
) -> None:
    books = [new_book() for _ in range(3)]
    await log.take_over(books[1], "a")
    records = [CommitRecord(), CommitRecord(epoch=1, owner="a"), CommitRecord()]
    assert await log.read_records(books) == records
    assert await log.read_records([]) == []


async def test_a_lease_is_held_until_it_is_given_up(log: Log, book: str) -> None:
    mine, other = f"{book}-mine", f"{book}-other"
    assert await log.read_leases([mine, other]) == {}
    await log.hold_lease(mine, "here", 60.0)
    await log.hold_lease(other, "", 60.0)
    assert await log.read_leases([other, mine]) == {mine: "here", other: ""}
    await log.drop_lease(mine)
    await log.drop_lease(mine)
    assert await log.read_leases([mine, other]) == {other: ""}
    assert await log.read_leases([]) == {}


async def test_a_lease_lapses_unless_it_is_renewed(log: Log, book: str) -> None:
    await log.hold_lease(book, "", 0.05)
    with trio.fail_after(30):
        while await log.read_leases([book]):  # noqa: ASYNC110 - nothing tells
            await trio.sleep(0.01)
    await log.hold_lease(book, "", 60.0)
    await log.hold_lease(book, "", 60.0)
    assert await log.read_leases([book]) == {book: ""}


async def test_a_commit_writes_everything_under_explicit_ids(log: Log, book: str) -> None:
    record, ids = await led_book(log, book)
    letter = DeadLetter("inputs", ids[2], "not JSON", (b"body", b"\xff\x00"))
    first = commit(
        book,
        ids[:3],
        payments=[action(ids[0]), action(ids[0], 1), action(ids[2], 4095)],
        notifications=[msgspec.structs.replace(action(ids[1]), trace="00-ab-cd-01")],
        dead_letters=[letter],
    )
    first.outcomes[1] = OutcomeEntry(ids[1], "refused", b'{"code":"taken"}', b"[1]")
    assert await log.commit([first]) == [None]
    assert await log.read_outcomes({book: "0-0"}, 10, 0) == {book: first.outcomes}
    assert await log.read_record(book) == CommitRecord(ids[2], 1, "me", 7, f"d-{ids[2]}")
    payments = await log.read_actions("payments", [book], "c", 10, 0)
    assert payments == [
        (book, msgspec.structs.replace(entry, deliveries=1)) for entry in first.payments
    ]
    notifications = await log.read_actions("notifications", [book], "c", 10, 0)
    assert [entry.trace for _, entry in notifications] == ["00-ab-cd-01"]
    assert (await log.facts(book, "deadletters")).length == 1
    assert await log.commit([commit(book, ids[3:], after=ids[2])]) == [None]
    assert (await log.read_record(book)).position == ids[3]
    assert record.epoch == 1


async def test_commits_of_many_books_stand_alone(log: Log, new_book: Callable[[], str]) -> None:
    books = [new_book() for _ in range(4)]
    batches = [(name, (await led_book(log, name))[1]) for name in books]
    await log.take_over(books[1], "other")
    results = await log.commit([commit(name, ids) for name, ids in batches])
    assert [type(result) for result in results] == [
        type(None),
        SupersededError,
        type(None),
        type(None),
    ]
    assert [(await log.facts(name, "outcomes")).length for name in books] == [4, 0, 4, 4]


@pytest.mark.parametrize(("epoch", "owner"), [(1, "me"), (2, "thief"), (3, "you")])
async def test_a_superseded_commit_writes_nothing(
    log: Log, book: str, epoch: int, owner: str
) -> None:
    _, ids = await led_book(log, book)
    await log.take_over(book, "you")
    stale = commit(book, ids, epoch=epoch, owner=owner, payments=[action(ids[0])])
    results = await log.commit([stale])
    kind = SupersededError if epoch < 3 else TailLostError  # epochs grow: a takeover was forgotten
    assert [type(result) for result in results] == [kind]
    assert [type(result) for result in await log.resolve([stale])] == [kind]
    assert sum((await lengths(log, book)).values()) == 0
    assert (await log.read_record(book)).position == "0-0"


async def test_a_commit_from_another_position_writes_nothing(log: Log, book: str) -> None:
    _, ids = await led_book(log, book)
    results = await log.commit([commit(book, ids[2:], after=ids[1])])
    assert [type(result) for result in results] == [TailLostError]
    assert (await log.facts(book, "outcomes")).length == 0
    assert await log.commit([commit(book, ids[:2])]) == [None]
    results = await log.commit([commit(book, ids)])
    assert [type(result) for result in results] == [ForeignDataError]
    assert (await log.facts(book, "outcomes")).length == 2


async def test_a_commit_sent_twice_is_written_once(log: Log, book: str) -> None:
    _, ids = await led_book(log, book)
    same = commit(book, ids, payments=[action(ids[0])])
    assert await log.resolve([same]) == [False]
    assert await log.commit([same]) == [None]
    assert await log.resolve([same]) == [True]
    assert await log.commit([same]) == [None]
    assert await lengths(log, book) == {
        "outcomes": 4,
        "payments": 1,
        "notifications": 0,
        "deadletters": 0,
    }


async def test_of_two_owners_one_writes(log: Log, book: str) -> None:
    """Both decided the same inputs; the one with the older epoch is told to step down."""
    _, ids = await led_book(log, book)
    record = await log.take_over(book, "you")
    ours = commit(book, ids)
    theirs = commit(book, ids, epoch=record.epoch, owner="you")
    results: dict[str, list[LogError | None]] = {}

    async def write(name: str, what: Commit) -> None:
        results[name] = await log.commit([what])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, "ours", ours)
        nursery.start_soon(write, "theirs", theirs)
    assert results["theirs"] == [None]
    assert isinstance(results["ours"][0], SupersededError)
    assert (await log.facts(book, "outcomes")).added == len(ids)


async def test_a_foreign_outcome_stops_the_commit_whole(
    log: Log, vandal: Vandal, book: str
) -> None:
    _, ids = await led_book(log, book)
    vandal.add_outcome(book, ids[2])
    results = await log.commit([commit(book, ids, payments=[action(ids[0])])])
    assert [type(result) for result in results] == [ForeignDataError]
    assert "somebody else writes to our keys" in str(results[0])
    assert await lengths(log, book) == {
        "outcomes": 1,
        "payments": 0,
        "notifications": 0,
        "deadletters": 0,
    }
    assert (await log.read_record(book)).position == "0-0"


@pytest.mark.parametrize("stream", WRITTEN)
async def test_a_key_of_another_type_stops_the_commit_whole(
    log: Log, vandal: Vandal, book: str, stream: StreamName
) -> None:
    _, ids = await led_book(log, book)
    vandal.spoil_type(book, stream)
    batch = commit(
        book,
        ids,
        payments=[action(ids[0])],
        notifications=[action(ids[0])],
        dead_letters=[DeadLetter("inputs", ids[1], "why", ())],
    )
    results = await log.commit([batch])
    assert [type(result) for result in results] == [ForeignDataError]
    for name in WRITTEN:
        if name != stream:
            assert (await log.facts(book, name)).length == 0
    assert (await log.read_record(book)).position == "0-0"
    with pytest.raises(ForeignDataError):
        await log.take_over(book, "you")
    assert (await log.read_record(book)).epoch == 1


async def test_inputs_of_another_type_are_refused(log: Log, vandal: Vandal, book: str) -> None:
    await led_book(log, book)
    vandal.spoil_type(book, "inputs")
    with pytest.raises(ForeignDataError):
        await log.append(book, [new_input(1)])
    with pytest.raises(ForeignDataError, match=book):
        await log.read_inputs({book: "0-0"}, 1, 0)
    with pytest.raises(ForeignDataError):
        await log.finish_actions("payments", book, [("1-1", new_input(1))])


async def test_a_key_that_is_no_stream_is_named(log: Log, vandal: Vandal, book: str) -> None:
    await led_book(log, book)
    vandal.spoil_type(book, "outcomes")
    vandal.spoil_type(book, "payments")
    with pytest.raises(ForeignDataError, match=f"outcomes.*{book}|{book}.*outcomes"):
        await log.read_outcomes({book: "0-0"}, 1, 0)
    with pytest.raises(ForeignDataError, match=f"payments.*{book}|{book}.*payments"):
        await log.read_actions("payments", [book], "c", 1, 0)


async def test_a_commit_that_could_be_cut_is_our_bug(log: Log, book: str) -> None:
    _, ids = await led_book(log, book)
    with pytest.raises(ValueError, match="must ascend"):
        await log.commit([commit(book, [ids[1], ids[0], ids[2]])])
    with pytest.raises(ValueError, match="last outcome"):
        await log.commit([msgspec.structs.replace(commit(book, ids), position=ids[1])])
    assert (await log.facts(book, "outcomes")).length == 0


async def test_a_batch_of_thousands_is_written(log: Log, book: str) -> None:
    """Longer than Lua's stack: entries must be passed without one long unpack."""
    _, ids = await led_book(log, book, inputs=1999)
    actions = [action(id_, number) for id_ in ids for number in (0, 1)]
    big = commit(book, ids, payments=actions, notifications=[action(id_) for id_ in ids])
    assert await log.commit([big]) == [None]
    assert await lengths(log, book) == {
        "outcomes": 2000,
        "payments": 4000,
        "notifications": 2000,
        "deadletters": 0,
    }


async def test_nobody_may_write_before_the_first_takeover(log: Log, book: str) -> None:
    ids = await log.append(book, [new_input(1)])
    results = await log.commit([commit(book, ids, epoch=0, owner="")])
    assert [type(result) for result in results] == [SupersededError]
    with pytest.raises(SupersededError):
        await log.save_snapshot(book, snapshot("0-0"), 0, "")


async def test_what_was_decided_of_another_input_under_the_same_id_cannot_be_committed(
    log: Log, book: str
) -> None:
    """Two servers that took inputs at the same time, before and after a failover, gave out the same id."""
    _, ids = await led_book(log, book)
    results = await log.commit([commit(book, ids, decided="another's")])
    assert [type(result) for result in results] == [TailLostError]
    assert await lengths(log, book) == dict.fromkeys(WRITTEN, 0)
    (last,) = (await log.read_inputs({book: ids[-2]}, 1, 0))[book]
    assert await log.commit([commit(book, ids, decided=last.fingerprint)]) == [None]


async def test_an_input_is_known_by_all_that_is_in_it(log: Log, book: str) -> None:
    new = [
        NewInput("cancel", '{"reason":"à"}'.encode(), "ключ", "staff:S1", "00-ab-cd-01"),
        NewInput("cancel", b"{}", by="staff:S1"),
        NewInput("cancel", b"{}", "staff:S1"),
        NewInput("cancel", b'"\x00\xff"'),
        NewInput("tick", b"{}"),
    ]
    await log.take_over(book, "me")
    await log.append(book, new)
    entries = await all_inputs(log, book)
    assert len({entry.fingerprint for entry in entries}) == len(entries)
    after = "0-0"
    for entry in entries:
        one = commit(book, [entry.id], after=after, decided=entry.fingerprint)
        assert await log.commit([one]) == [None]
        after = entry.id


async def test_what_the_log_has_lost_cannot_be_committed(
    log: Log, vandal: Vandal, book: str
) -> None:
    """A failover took back an input that was read and decided: its outcome would have no input."""
    _, ids = await led_book(log, book)
    vandal.lose_last_input(book)
    (more,) = await log.append(book, [new_input(9)])
    stale = commit(book, ids)
    results = await log.commit([stale])
    assert [type(result) for result in results] == [TailLostError]
    assert "lost its tail" in str(results[0])
    assert sum((await lengths(log, book)).values()) == 0
    assert await log.commit([commit(book, [*ids[:-1], more])]) == [None]
