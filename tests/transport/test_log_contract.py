"""One contract for every log: in memory, on the simulated server, and on a real one."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, cast

import msgspec
import pytest
import redis
import trio
import trio.testing

from holdfast.actors.ports import (
    ActionEntry,
    Commit,
    CommitRecord,
    DeadLetter,
    ForeignDataError,
    LogError,
    LogTrimmedError,
    NewInput,
    OutcomeEntry,
    Snapshot,
    StreamFacts,
    SupersededError,
    TailLostError,
)
from holdfast.sim.draws import Draws
from holdfast.sim.faults import ServerFaults
from holdfast.sim.server import SimServer
from holdfast.transport.keys import BookKeys, action_stream_id
from holdfast.transport.memory_log import MemoryLog, MemoryStream
from holdfast.transport.redis_log import open_redis_log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from holdfast.actors.ports import ActionStream, InputEntry, Log, StreamName
    from holdfast.transport.server import EmbeddedServer


class TrioClock:
    """The loop's time as milliseconds since the epoch."""

    def now_ms(self) -> int:
        return 1_780_000_000_000 + int(trio.current_time() * 1000)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class Vandal:
    """Somebody else, who writes where only we may."""

    def spoil_type(self, book: str, stream: StreamName) -> None:
        """Make the key of *stream* something that is no stream."""
        raise NotImplementedError

    def add_outcome(self, book: str, entry_id: str) -> None:
        """Put an outcome of their own under *entry_id*."""
        raise NotImplementedError

    def trim_inputs(self, book: str, least: str) -> None:
        """Drop inputs before *least*."""
        raise NotImplementedError

    def lose_last_input(self, book: str) -> None:
        """Take the newest input away."""
        raise NotImplementedError

    def delete_inputs(self, book: str) -> None:
        """Delete the whole stream; the next append begins another one."""
        raise NotImplementedError

    def delete_actions(self, book: str, stream: ActionStream) -> None:
        """Delete the whole stream, its group with it."""
        raise NotImplementedError

    def move_group_back(self, book: str, stream: ActionStream, entry_id: str) -> None:
        """Let the group's next entry be the one after *entry_id*."""
        raise NotImplementedError


class MemoryVandal(Vandal):
    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def spoil_type(self, book: str, stream: StreamName) -> None:
        self._log.book(book).stream(stream).foreign = True

    def add_outcome(self, book: str, entry_id: str) -> None:
        ms, sequence = map(int, entry_id.split("-"))
        stream: MemoryStream[OutcomeEntry] = self._log.book(book).outcomes
        stream.add((ms, sequence), OutcomeEntry(entry_id, "accepted", b"{}"))

    def trim_inputs(self, book: str, least: str) -> None:
        ms, sequence = map(int, least.split("-"))
        self._log.book(book).inputs.trim((ms, sequence))

    def lose_last_input(self, book: str) -> None:
        stream = self._log.book(book).inputs
        stream.entries.pop()
        stream.deleted = stream.ids.pop()

    def delete_inputs(self, book: str) -> None:
        self._log.book(book).inputs = MemoryStream()

    def delete_actions(self, book: str, stream: ActionStream) -> None:
        setattr(self._log.book(book), stream, MemoryStream())

    def move_group_back(self, book: str, stream: ActionStream, entry_id: str) -> None:
        ms, sequence = map(int, entry_id.split("-"))
        self._log.book(book).actions(stream).groups[stream].last = (ms, sequence)


class RedisVandal(Vandal):
    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def spoil_type(self, book: str, stream: StreamName) -> None:
        key = BookKeys(book).stream(stream)
        self._client.delete(key)
        self._client.set(key, "not a stream")

    def add_outcome(self, book: str, entry_id: str) -> None:
        fields = {"status": "accepted", "body": "{}"}
        self._client.xadd(BookKeys(book).outcomes, fields, id=entry_id)  # type: ignore[arg-type]

    def trim_inputs(self, book: str, least: str) -> None:
        self._client.xtrim(BookKeys(book).inputs, minid=least, approximate=False)

    def lose_last_input(self, book: str) -> None:
        key = BookKeys(book).inputs
        entries = cast("list[tuple[bytes, object]]", self._client.xrevrange(key, count=1))
        self._client.xdel(key, entries[0][0])

    def delete_inputs(self, book: str) -> None:
        self._client.delete(BookKeys(book).inputs)

    def delete_actions(self, book: str, stream: ActionStream) -> None:
        self._client.delete(BookKeys(book).stream(stream))

    def move_group_back(self, book: str, stream: ActionStream, entry_id: str) -> None:
        self._client.xgroup_setid(BookKeys(book).stream(stream), stream, entry_id)


@pytest.fixture(params=["memory", "simulated", "redis"])
async def world(
    request: pytest.FixtureRequest, real_server: EmbeddedServer
) -> AsyncIterator[tuple[Log, Vandal]]:
    """A log and its vandal."""
    if request.param == "memory":
        memory = MemoryLog(TrioClock())
        yield memory, MemoryVandal(memory)
        return
    if request.param == "simulated":  # without faults, a process's connection is a log like others
        async with trio.open_nursery() as nursery:
            server = SimServer(TrioClock(), Draws(1), ServerFaults(), nursery)
            yield server.connect("test"), MemoryVandal(server.log)
        return
    with redis.Redis(unix_socket_path=str(real_server.socket)) as client:
        async with open_redis_log(real_server.url, rng=random.Random(1)) as log:
            yield log, RedisVandal(client)


@pytest.fixture
def log(world: tuple[Log, Vandal]) -> Log:
    return world[0]


@pytest.fixture
def vandal(world: tuple[Log, Vandal]) -> Vandal:
    return world[1]


def new_input(number: int) -> NewInput:
    return NewInput("cancel", b'{"booking":"b"}', f"k-{number}", "customer:K1")


async def all_inputs(log: Log, book: str) -> list[InputEntry]:
    return (await log.read_inputs({book: "0-0"}, 1000, 0)).get(book, [])


async def led_book(log: Log, book: str, inputs: int = 3) -> tuple[CommitRecord, list[str]]:
    """A book that "me" leads, with the ids of its inputs; the first is the takeover."""
    record = await log.take_over(book, "me")
    ids = await log.append(book, [new_input(number) for number in range(inputs)])
    return record, [(await all_inputs(log, book))[0].id, *ids]


def action(input_id: str, number: int = 0) -> ActionEntry:
    stream_id = action_stream_id(input_id, number)
    return ActionEntry(stream_id, f"{input_id}:{number}", "capture", b'{"payment":"p"}')


def commit(
    book: str,
    ids: list[str],
    *,
    after: str = "0-0",
    epoch: int = 1,
    owner: str = "me",
    payments: list[ActionEntry] | None = None,
    notifications: list[ActionEntry] | None = None,
    dead_letters: list[DeadLetter] | None = None,
    decided: str = "",
) -> Commit:
    return Commit(
        book=book,
        epoch=epoch,
        owner=owner,
        after=after,
        position=ids[-1],
        version=7,
        digest=f"d-{ids[-1]}",
        outcomes=[OutcomeEntry(id_, "accepted", b'{"events":[]}') for id_ in ids],
        payments=payments or [],
        notifications=notifications or [],
        dead_letters=dead_letters or [],
        decided=decided,
    )


_STREAMS: tuple[StreamName, ...] = (
    "outcomes",
    "payments",
    "notifications",
    "deadletters",
)


async def lengths(log: Log, book: str) -> dict[str, int]:
    return {name: (await log.facts(book, name)).length for name in _STREAMS}


# -- producers and followers -----------------------------------------------------------------


async def test_appended_inputs_come_back_in_their_order(log: Log, book: str) -> None:
    new = [NewInput("tick", b"{}", by="service:booking"), new_input(1), new_input(2)]
    new.append(NewInput("cancel", '{"reason":"à"}'.encode(), "ключ", "staff:S1", "00-ab-cd-01"))
    ids = await log.append(book, new)
    assert ids == sorted(set(ids), key=lambda id_: tuple(map(int, id_.split("-"))))
    entries = await all_inputs(log, book)
    assert [entry.id for entry in entries] == ids
    assert [
        NewInput(entry.type, entry.body, entry.key, entry.by, entry.trace) for entry in entries
    ] == new
    assert not any(entry.problem or entry.raw for entry in entries)


async def test_nothing_to_append_registers_nothing(log: Log, book: str) -> None:
    assert await log.append(book, []) == []
    assert book not in await log.wait_books(0, 0)


async def test_a_body_too_large_is_refused_before_it_is_written(log: Log, book: str) -> None:
    with pytest.raises(ValueError, match="at most 65536 fit"):
        await log.append(book, [new_input(1), NewInput("cancel", b" " * 65_537)])
    assert await all_inputs(log, book) == []


async def test_large_bodies_come_back_whole(log: Log, book: str) -> None:
    body = b'"' + b"x" * 65_534 + b'"'
    await log.append(book, [NewInput("cancel", body, f"k-{n}") for n in range(20)])
    assert [entry.body for entry in await all_inputs(log, book)] == [body] * 20


@pytest.mark.parametrize("name", ["", "Demo", "-x", "a" * 65, "a}b", "a b", "é", "a\n"])
async def test_a_wrong_book_name_is_refused(log: Log, name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a book"):
        await log.append(name, [new_input(1)])


async def test_reading_is_by_book_and_position(log: Log, new_book: Callable[[], str]) -> None:
    one, two, empty = new_book(), new_book(), new_book()
    ids = await log.append(one, [new_input(number) for number in range(5)])
    other = await log.append(two, [new_input(9)])
    found = await log.read_inputs({one: ids[1], two: "0-0", empty: "0-0"}, 2, 0)
    assert {name: [entry.id for entry in entries] for name, entries in found.items()} == {
        one: ids[2:4],
        two: other,
    }
    assert await log.read_inputs({one: ids[-1], empty: "0-0"}, 2, 0) == {}
    assert await log.read_inputs({}, 2, 0) == {}


async def test_a_blocking_read_wakes_for_any_of_its_books(
    log: Log, new_book: Callable[[], str]
) -> None:
    one, two = new_book(), new_book()
    found: dict[str, list[InputEntry]] = {}

    async def read() -> None:
        found.update(await log.read_inputs({one: "0-0", two: "0-0"}, 10, 60))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            ids = await log.append(two, [new_input(1)])
    assert {name: [entry.id for entry in entries] for name, entries in found.items()} == {two: ids}


async def test_a_blocking_read_gives_up_in_time(log: Log, book: str) -> None:
    with trio.fail_after(10):
        assert await log.read_inputs({book: "0-0"}, 10, 0.03) == {}
        assert await log.read_outcomes({book: "0-0"}, 10, 0.03) == {}
        assert await log.read_actions("payments", [book], "c1", 10, 0.03) == []


async def test_books_are_registered_once_in_order(log: Log, new_book: Callable[[], str]) -> None:
    names = [new_book() for _ in range(3)]
    known = len(await log.wait_books(0, 0))
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(log.append, names[0], [new_input(1)])
    await log.append(names[1], [new_input(1)])
    await log.take_over(names[2], "me")
    await log.append(names[0], [new_input(2)])
    books = await log.wait_books(known, 0)
    assert [name for name in books if name in names] == names
    assert await log.wait_books(len(books), 0.01) == books


async def test_waiting_for_books_wakes_up(log: Log, book: str) -> None:
    known = len(await log.wait_books(0, 0))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.append, book, [new_input(1)])
            assert book in await log.wait_books(known, 60)


# -- taking over and committing ----------------------------------------------------------------


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


# -- leases ------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("stream", _STREAMS)
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
    for name in _STREAMS:
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


# -- executors -----------------------------------------------------------------------------------


async def with_payments(log: Log, book: str, count: int = 3) -> list[ActionEntry]:
    """A led book with *count* payment actions of one input."""
    _, ids = await led_book(log, book, inputs=0)
    actions = [action(ids[0], number) for number in range(count)]
    assert await log.commit([commit(book, ids, payments=actions)]) == [None]
    return actions


def ids_of(found: list[tuple[str, ActionEntry]]) -> list[str]:
    return [entry.id for _, entry in found]


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


# -- snapshots, trimming -------------------------------------------------------------------------


def snapshot(position: str, state: bytes = b"book") -> Snapshot:
    return Snapshot(position, 7, f"d-{position}", state + position.encode())


async def committed(log: Log, book: str, inputs: int = 6) -> list[str]:
    """A led book, everything decided, one input a commit."""
    _, ids = await led_book(log, book, inputs=inputs)
    after = "0-0"
    for id_ in ids:
        assert await log.commit([commit(book, [id_], after=after)]) == [None]
        after = id_
    return ids


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


async def test_a_reader_whose_position_is_gone_is_told(log: Log, vandal: Vandal, book: str) -> None:
    ids = await committed(log, book)
    vandal.trim_inputs(book, ids[3])
    for position in ("0-0", ids[0], ids[2]):
        with pytest.raises(LogTrimmedError, match="begin from the newest snapshot"):
            await log.read_inputs({book: position}, 10, 0)
    found = await log.read_inputs({book: ids[3]}, 10, 0)
    assert [entry.id for entry in found[book]] == ids[4:]
    vandal.trim_inputs(book, "9999999999999-0")
    with pytest.raises(LogTrimmedError):
        await log.read_inputs({book: ids[4]}, 10, 0)


async def test_a_reader_that_lags_is_told_when_trimming_overtakes_it(
    log: Log, vandal: Vandal, book: str
) -> None:
    _, ids = await led_book(log, book, inputs=20)
    found = await log.read_inputs({book: "0-0"}, 4, 0)
    assert len(found[book]) == 4
    vandal.trim_inputs(book, ids[10])
    with pytest.raises(LogTrimmedError):
        await log.read_inputs({book: ids[3]}, 4, 0)


async def test_a_reader_of_inputs_that_somebody_deleted_is_told(
    log: Log, vandal: Vandal, book: str
) -> None:
    """What had not been read by then is gone, also where the stream has new entries since."""
    ids = await committed(log, book)
    vandal.delete_inputs(book)
    with pytest.raises(LogTrimmedError, match="lost its tail"):
        await log.read_inputs({book: ids[3]}, 10, 0)
    await log.take_over(book, "you")
    with pytest.raises(LogTrimmedError, match=r"begun anew|lost its tail"):
        await log.read_inputs({book: ids[3]}, 10, 0)
    assert len((await log.read_inputs({book: "0-0"}, 10, 0))[book]) == 1


async def test_a_reader_ahead_of_the_log_is_told(log: Log, book: str) -> None:
    """After a failover lost the tail, a follower must not wait for ids that come again."""
    await led_book(log, book)
    with pytest.raises(TailLostError, match="lost its tail"):
        await log.read_inputs({book: "9999999999999-0"}, 10, 0)


# -- wrong arguments, and what a differential test of the two logs found --------------------------


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


async def test_nobody_may_write_before_the_first_takeover(log: Log, book: str) -> None:
    ids = await log.append(book, [new_input(1)])
    results = await log.commit([commit(book, ids, epoch=0, owner="")])
    assert [type(result) for result in results] == [SupersededError]
    with pytest.raises(SupersededError):
        await log.save_snapshot(book, snapshot("0-0"), 0, "")


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


async def test_an_input_without_type_or_body_cannot_be_read(log: Log, book: str) -> None:
    await log.append(book, [NewInput("", b"{}"), NewInput("cancel", b""), NewInput("c", b"\xff")])
    problems = [entry.problem for entry in await all_inputs(log, book)]
    assert ["type" in problems[0], "body" in problems[1], "UTF-8" in problems[2]] == [True] * 3


async def test_a_read_for_no_entries_is_refused(log: Log, book: str) -> None:
    """To the server, COUNT 0 means all of them."""
    await log.append(book, [new_input(1)])
    with pytest.raises(ValueError, match="at least one entry"):
        await log.read_inputs({book: "0-0"}, 0, 0)
    with pytest.raises(ValueError, match="no name of a book"):
        await log.read_inputs({"Wrong": "0-0"}, 1, 0)


async def test_what_was_decided_of_another_input_under_the_same_id_cannot_be_committed(
    log: Log, book: str
) -> None:
    """Two servers that took inputs at the same time, before and after a failover, gave out the same id."""
    _, ids = await led_book(log, book)
    results = await log.commit([commit(book, ids, decided="another's")])
    assert [type(result) for result in results] == [TailLostError]
    assert await lengths(log, book) == dict.fromkeys(_STREAMS, 0)
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
