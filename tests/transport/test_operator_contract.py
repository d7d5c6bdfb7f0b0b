"""One contract for every operator's access: in memory and on a real server."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
import redis
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.ports import GENESIS, DeadLetter, LogError, NewInput
from holdfast.bootstrap import SystemClock
from holdfast.sim.memory_files import MemoryFolder
from holdfast.sim.server import fingerprint
from holdfast.tools.archive import Archive
from holdfast.tools.export import export_log
from holdfast.tools.replay import replay
from holdfast.tools.restore import restore_log
from holdfast.tools.sources import LogSource
from holdfast.transport.codec import decode_action, decode_input, decode_outcome
from holdfast.transport.keys import parse_id
from holdfast.transport.memory_log import MemoryLog
from holdfast.transport.memory_operator import MemoryOperator
from holdfast.transport.operator import open_operator
from holdfast.transport.redis_log import open_redis_log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from holdfast.actors.ports import CommitRecord, Log
    from holdfast.tools.ports import Operator
    from holdfast.transport.server import EmbeddedServer

PRACTICE = m.DefinePractice(
    name="Practice",
    zone="Europe/Berlin",
    currency="EUR",
    services=[m.Service("checkup", "Check-up", 30, 7_500)],
    staff=[m.Staff("s1", "First")],
    hours={str(day): [("08:00", "18:00")] for day in range(7)},
    policies=m.Policies(advance_days_max=3660),
)
BAD = NewInput("cancel", b"not JSON", "bad", "customer:K1")
WAIT_S = 20


class Place(NamedTuple):
    """Where books are: the two ways to them, all that is there, and a way to make a book unknown."""

    log: Log
    operator: Operator
    content: Callable[[], object]
    forget: Callable[[str], object]


@pytest.fixture(params=["memory", "redis"])
async def place(
    request: pytest.FixtureRequest, real_server: EmbeddedServer
) -> AsyncIterator[Place]:
    if request.param == "memory":
        log = MemoryLog(SystemClock())
        yield Place(log, MemoryOperator(log), partial(fingerprint, log), log.registered.remove)
        return
    with redis.Redis(unix_socket_path=str(real_server.socket)) as connection:
        client: Any = connection

        def content() -> object:
            return {key: client.dump(key) for key in sorted(client.keys("*"))}

        def forget(book: str) -> None:
            client.srem("{holdfast:books}:known", book)
            for entry_id, fields in client.xrange("holdfast:books"):
                if fields[b"book"] == book.encode():
                    client.xdel("holdfast:books", entry_id)

        async with (
            open_redis_log(real_server.url, rng=random.Random(1)) as redis_log,
            open_operator(real_server.url) as operator,
        ):
            yield Place(redis_log, operator, content, forget)


async def decide_all(log: Log, book: str) -> CommitRecord:
    """Let a booking actor take *book* over, decide what there is, and leave with a snapshot."""
    stop = trio.Event()
    options = BookingOptions(wait_s=0.05)
    epoch = (await log.read_record(book)).epoch
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            serve = partial(run_booking, owner="t", options=options, stop=stop, books=[book])
            nursery.start_soon(serve, log, SystemClock())
            while True:
                record = await log.read_record(book)
                last_id = (await log.facts(book, "inputs")).last_id
                if record.epoch > epoch and record.position == last_id:
                    break
                await trio.sleep(0.005)
            stop.set()
    return await log.read_record(book)


async def make_book(log: Log, book: str, requests: int = 4) -> CommitRecord:
    """A book with some requests and one dead letter, decided, with a snapshot at its position."""
    body = wire.encode_message(PRACTICE)
    await log.append(book, [NewInput("define_practice", body, "p", "service:x")])
    for number in range(requests):
        auto = wire.encode_message(m.RequestAuto("checkup", customer=f"K{number}"))
        await log.append(book, [NewInput("request_auto", auto, f"k{number}", "service:x")])
    await log.append(book, [BAD])
    return await decide_all(log, book)


def tell(_done: int, _total: int) -> None:
    pass


async def test_entries_are_read_as_they_lie_there(place: Place, book: str) -> None:
    await make_book(place.log, book)
    entries = await place.operator.read(book, "inputs", GENESIS, 100)
    decoded = [decode_input(entry.id.encode(), list(entry.fields)) for entry in entries]
    assert decoded == (await place.log.read_inputs({book: GENESIS}, 100, 0))[book]
    assert [one.id for one in await place.operator.read(book, "inputs", entries[1].id, 2)] == [
        entry.id for entry in entries[2:4]
    ]
    outcomes = await place.operator.read(book, "outcomes", GENESIS, 100)
    decoded_outcomes = [decode_outcome(one.id.encode(), list(one.fields)) for one in outcomes]
    assert decoded_outcomes == (await place.log.read_outcomes({book: GENESIS}, 100, 0))[book]
    assert await place.operator.read_one(book, "outcomes", outcomes[2].id) == outcomes[2]
    assert await place.operator.read_one(book, "outcomes", "1-1") is None
    for action in await place.operator.read(book, "payments", GENESIS, 100):
        assert decode_action(action.id.encode(), list(action.fields)).type == "preauthorize"


async def test_what_only_looks_leaves_all_as_it_is_to_the_byte(place: Place, book: str) -> None:
    record = await make_book(place.log, book)
    before = place.content()
    operator = place.operator
    await operator.read(book, "deadletters", GENESIS, 10, 0.01)
    await operator.read(book, "deadletters", "9999999999999-0", 1, 0.01)
    await operator.read_one(book, "inputs", record.position)
    await operator.pending(book, "payments")
    await operator.now_ms()
    await operator.oldest_snapshot(book)
    await operator.least_needed(book)
    await replay(
        await LogSource.open(place.log, book, operator=operator), until_violation=True, tell=tell
    )
    file = MemoryFolder().file("log")
    await export_log(place.log, book, file, operator=operator, tell=tell)
    assert place.content() == before


async def test_what_a_group_holds_and_what_waits_for_it_are_told_apart(
    place: Place, book: str
) -> None:
    await make_book(place.log, book)
    waits = await place.operator.pending(book, "payments")
    assert (waits.count, waits.oldest, waits.waiting) == (0, "", 4)
    (_, held), *_ = await place.log.read_actions("payments", [book], "c", 1, 0)
    waits = await place.operator.pending(book, "payments")
    assert (waits.count, waits.oldest, waits.waiting, waits.first) == (1, held.id, 3, held.id)
    assert (await place.operator.pending("nobody", "payments")).waiting == 0


async def test_trimming_keeps_what_the_older_snapshot_and_the_operator_need(
    place: Place, book: str
) -> None:
    older = await make_book(place.log, book)
    assert await place.operator.least_needed(book) == ""
    assert await place.operator.trim(book, older.position) == {
        "inputs": 0, "outcomes": 0, "payments": 0, "notifications": 0,
    }  # fmt: skip
    newer = await decide_all(place.log, book)
    assert await place.operator.least_needed(book) == older.position
    snapshot = await place.operator.oldest_snapshot(book)
    assert snapshot is not None
    assert snapshot.position == older.position
    entries = await place.operator.read(book, "inputs", GENESIS, 100)
    with pytest.raises(LogError, match="nothing was trimmed, do it again"):
        await place.operator.trim(book, entries[2].id, "another history")
    assert len(await place.operator.read(book, "inputs", GENESIS, 100)) == len(entries)
    assert (await place.operator.trim(book, entries[2].id))["inputs"] == 2
    history = await place.operator.history()
    assert history
    removed = await place.operator.trim(book, newer.position, history)
    assert removed["inputs"] == len(entries) - 4
    (first, *_) = await place.operator.read(book, "inputs", GENESIS, 1)
    assert first.id == older.position


async def test_an_exported_log_becomes_a_book_with_the_same_digest(
    place: Place, new_book: Callable[[], str]
) -> None:
    book, copy = new_book(), new_book()
    record = await make_book(place.log, book)
    await place.log.append(book, [BAD])  # not decided yet

    async def agree(under_way: int, undecided: int) -> bool:
        assert (under_way, undecided) == (4, 1)
        return True

    file = MemoryFolder().file("log")
    header, problem = await export_log(place.log, book, file, operator=place.operator, tell=tell)
    assert problem == ""
    done = await restore_log(Archive(file), place.operator, copy, tell, agree)
    assert (done.position, done.digest) == (record.position, record.digest)
    again = await replay(await LogSource.open(place.log, copy), tell=tell)
    assert (again.digest, again.position) == (header.link, header.last)
    assert copy in await place.log.wait_books(0, 0)
    held = await place.log.read_record(copy)
    assert held == msgspec.structs.replace(record, owner="")
    for stream in ("inputs", "outcomes"):
        assert await place.log.facts(copy, stream) == await place.log.facts(book, stream)
    assert (await decide_all(place.log, copy)).epoch == record.epoch + 1
    with pytest.raises(LogError, match="there is a book"):
        await place.operator.prepare(copy)


async def test_a_restored_book_that_was_not_made_known_is_so_by_the_next_attempt(
    place: Place, book: str
) -> None:
    """A connection may break between the two, and a book that nobody knows is served by nobody."""
    await make_book(place.log, book)
    place.forget(book)
    assert book not in await place.log.wait_books(0, 0)
    with pytest.raises(LogError, match="there is a book"):
        await place.operator.prepare(book)
    assert book in await place.log.wait_books(0, 0)


async def test_somebody_else_who_prepares_the_same_book_is_noticed(place: Place, book: str) -> None:
    operator = place.operator
    await operator.prepare(book)
    await operator.write(book, "inputs", [("5-0", ["type", "x", "body", b"{}"])])
    with pytest.raises(LogError, match="somebody else"):
        await operator.write(book, "inputs", [("4-0", ["type", "x", "body", b"{}"])])
    await operator.abandon(book)
    await operator.write(book, "inputs", [("4-0", ["type", "x", "body", b"{}"])])
    await operator.abandon(book)


async def test_a_dead_letter_is_sent_again_once(place: Place, book: str) -> None:
    await make_book(place.log, book)
    (letter,) = await place.operator.read(book, "deadletters", GENESIS, 10)
    fields = {"type": b"cancel", "body": b'{"booking":"b1-0"}', "key": b"k", "by": b"customer:K1"}
    new = await place.operator.retry_input(book, letter.id, fields)
    last = await place.operator.read_one(book, "inputs", new)
    assert last is not None
    assert last.fields[1::2] == tuple(fields.values())
    assert await place.operator.read(book, "deadletters", GENESIS, 10) == []
    with pytest.raises(LogError, match="no longer there"):
        await place.operator.retry_input(book, letter.id, fields)
    assert (await place.log.facts(book, "inputs")).last_id == new
    assert await place.operator.drop_letters(book, [letter.id]) == 0


async def test_an_action_that_was_given_up_is_handed_out_again_under_its_own_id(
    place: Place, book: str
) -> None:
    await make_book(place.log, book)
    found = await place.log.read_actions("payments", [book], "c", 4, 0)
    given_up = found[1][1]
    letters = [
        DeadLetter("payments", entry, "cannot be carried out", (b"a", b"b"))
        for entry in (given_up.id, "1-1")
    ]
    await place.log.finish_actions("payments", book, [(given_up.id, None)], letters)
    kept = await place.operator.read(book, "deadletters", GENESIS, 10)
    (letter, of_nothing) = kept[-2:]
    retry = place.operator.retry_action
    assert await retry(book, letter.id, "payments", given_up.id) == given_up.id
    with pytest.raises(LogError, match="no longer there"):
        await retry(book, letter.id, "payments", given_up.id)
    with pytest.raises(LogError, match="trimmed away"):
        await retry(book, of_nothing.id, "payments", "1-1")
    ((_, again),) = await place.log.claim_actions("payments", [book], "d", 10, 3_600)
    assert (again.id, again.action) == (given_up.id, given_up.action)
    assert await place.operator.drop_letters(book, [of_nothing.id]) == 1


async def test_the_time_is_the_servers(place: Place, book: str) -> None:
    (entry,) = await place.log.append(book, [BAD])
    assert abs(await place.operator.now_ms() - parse_id(entry)[0]) < 60_000


async def test_how_long_a_lease_lasts_is_told(place: Place) -> None:
    await place.log.hold_lease("one", "here", 60.0)
    left_s = await place.operator.lease_left_s("one")
    assert left_s is not None
    assert 30 < left_s <= 60
    await place.log.drop_lease("one")
    assert await place.operator.lease_left_s("one") == 0.0
