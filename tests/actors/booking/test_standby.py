"""Standing by: following a warm book, leases, and takeovers from the dead and from the living."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking.keeping import LEAD_AT_ONCE, RETAKE_S
from holdfast.actors.booking.lease import LOOKS, RENEWALS
from holdfast.actors.booking.loading import DivergedError
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.ports import LogUnavailableError
from holdfast.transport.memory_log import MemoryLog

from .acting import (
    BOOK,
    PRACTICE,
    VirtualClock,
    assert_sound,
    booking_actor,
    new,
    wait_decided,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from trio.testing import MockClock

    from holdfast.actors.ports import Commit, CommitRecord, InputEntry, Log, LogError

LEASE_S = BookingOptions().lease_s
PATIENCE_S = 1_000.0
"""Of trio's time, which jumps."""


class Process:
    """One life of a booking actor, to be killed, paused or stopped; it notes its calls.

    Those of the name ``mute`` are never answered.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        log: MemoryLog,
        clock: VirtualClock,
        owner: str,
        place: str = "",
    ) -> None:
        self.owner = owner
        self.calls: list[str] = []
        self.replayed = 0
        self.stop = trio.Event()
        self.ended = trio.Event()
        self.error: Exception | None = None
        self.away = False
        self.take_over_s = 0.0
        self.mute = ""
        self.records_read = 0
        self._log = log
        self._resumed = trio.Event()
        self._resumed.set()
        self._scope = trio.CancelScope()
        self._dead = False
        nursery.start_soon(self._live, clock, place)

    async def _live(self, clock: VirtualClock, place: str) -> None:
        with self._scope:
            try:
                await booking_actor(cast("Log", self), clock, self.stop, self.owner, place)
            except Exception as error:  # the test looks at it
                self.error = error
        self.ended.set()

    def kill(self) -> None:
        """SIGKILL: not even a lease is given up."""
        self._dead = True
        self._scope.cancel()

    def pause(self) -> None:
        """SIGSTOP."""
        self._resumed = trio.Event()

    def resume(self) -> None:
        """SIGCONT."""
        self._resumed.set()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method of the port
        real = getattr(self._log, name)

        async def call(*args: object, **kwargs: object) -> object:
            self.calls.append(name)
            await self._resumed.wait()
            if self._dead:
                await trio.sleep_forever()
            if self.away:
                await trio.lowlevel.checkpoint()
                raise LogUnavailableError("away")
            if name == "take_over":
                await trio.sleep(self.take_over_s)
            answer = await real(*args, **kwargs)
            if name == "read_records":
                self.records_read += len(cast("list[CommitRecord]", answer))
            if name == self.mute:
                await trio.sleep_forever()
            await self._resumed.wait()
            return answer

        return call


async def ask(log: MemoryLog, book: str, key: str) -> str:
    """Push a request and wait until it is decided; return its id."""
    request = new(m.RequestAuto("checkup", days=[1, 2]), key, f"customer:{key}")
    (mine,) = await log.append(book, [request])
    with trio.fail_after(PATIENCE_S):
        await wait_decided(log, book, mine)
    return mine


async def define(log: MemoryLog, *books: str) -> None:
    """Define the practice of each of *books* and wait until it is decided."""
    for book in books:
        (mine,) = await log.append(book, [new(PRACTICE, "p")])
        with trio.fail_after(PATIENCE_S):
            await wait_decided(log, book, mine)


async def led_by(log: MemoryLog, owner: str, *books: str) -> float:
    """Wait until *owner* leads *books*; return how long that took, seconds."""
    since_s = trio.current_time()
    with trio.fail_after(PATIENCE_S):
        while any(  # noqa: ASYNC110 - nothing tells
            log.book(book).record.owner != owner for book in books or (BOOK,)
        ):
            await trio.sleep(0.01)
    return trio.current_time() - since_s


class Stage:
    """A log, and the processes on it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._clock = VirtualClock()
        self.log = MemoryLog(self._clock)
        self._nursery = nursery
        self._processes: list[Process] = []

    def begin(self, owner: str, place: str = "") -> Process:
        """Let another process begin."""
        self._processes.append(Process(self._nursery, self.log, self._clock, owner, place))
        return self._processes[-1]

    def both(self) -> tuple[Process, Process]:
        """Two that begin at once."""
        return self.begin("first"), self.begin("second")

    async def pair(self, *books: str) -> tuple[Process, Process]:
        """One that leads *books*, and one that begins when it does."""
        first = self.begin("first")
        await define(self.log, *books)
        return first, self.begin("second")

    async def stop(self) -> None:
        """Let all that still live leave in order."""
        for process in self._processes:
            process.stop.set()
        for process in self._processes:
            await process.ended.wait()


@pytest.fixture
async def stage(autojump_clock: MockClock) -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        yield Stage(nursery)
        nursery.cancel_scope.cancel()


async def test_who_finds_a_book_led_stands_by(stage: Stage, autojump_clock: MockClock) -> None:
    log = stage.log
    _, second = await stage.pair(BOOK)
    for number in range(3):
        await ask(log, BOOK, f"k{number}")
        await trio.sleep(10 * LEASE_S)
    assert log.book(BOOK).record == msgspec.structs.replace(
        log.book(BOOK).record, epoch=1, owner="first"
    )
    assert {"append", "commit", "take_over"}.isdisjoint(second.calls)
    await stage.stop()
    await assert_sound(log, BOOK)


async def test_of_two_that_begin_at_once_one_leads_each_book(
    stage: Stage, autojump_clock: MockClock
) -> None:
    log = stage.log
    books = ["one", "two", "three"]
    stage.both()
    await define(log, *books)
    await trio.sleep(10 * LEASE_S)
    assert [log.book(book).record.epoch for book in books] == [1, 1, 1]
    await stage.stop()


async def test_who_stands_by_leads_soon_after_the_leaders_lease_has_lapsed(
    stage: Stage, autojump_clock: MockClock
) -> None:
    log = stage.log
    books = [f"book{number}" for number in range(20)]
    first, _ = await stage.pair(*books)
    await trio.sleep(2 * LEASE_S)
    first.kill()
    took_s = await led_by(log, "second", *books)
    assert LEASE_S * (1 - 1 / RENEWALS) <= took_s <= LEASE_S * (1 + 1 / LOOKS) + 0.1
    for book in books:
        await ask(log, book, "k")
    await stage.stop()
    for book in books:
        await assert_sound(log, book)


async def test_takeovers_of_many_books_wait_for_the_server_together(
    stage: Stage, autojump_clock: MockClock
) -> None:
    log = stage.log
    books = [f"book{number}" for number in range(2 * LEAD_AT_ONCE)]
    first, second = await stage.pair(*books)
    await trio.sleep(2 * LEASE_S)
    second.take_over_s = 0.5
    first.kill()
    took_s = await led_by(log, "second", *books)
    assert took_s <= LEASE_S * (1 + 1 / LOOKS) + 2 * second.take_over_s + 0.1
    await stage.stop()
    for book in books:
        await assert_sound(log, book)


async def test_who_stands_by_has_nothing_left_to_replay(
    stage: Stage, autojump_clock: MockClock
) -> None:
    """What was decided before the takeover is read once, while the leader still leads."""
    log = stage.log
    first, second = await stage.pair(BOOK)
    for number in range(5):
        await ask(log, BOOK, f"k{number}")
    await trio.sleep(1)
    read = second.calls.count("read_inputs")
    first.kill()
    await led_by(log, "second")
    await trio.sleep(1)
    between = second.calls[second.calls.index("take_over") :]
    assert between[1] in ("read_inputs", "read_records")  # the first read of who leads
    assert "read_snapshot" not in between
    assert second.calls[: second.calls.index("take_over")].count("read_inputs") == read
    await stage.stop()
    await assert_sound(log, BOOK)


async def test_a_clean_stop_hands_the_books_over_at_once(
    stage: Stage, autojump_clock: MockClock
) -> None:
    log = stage.log
    first, _ = await stage.pair(BOOK)
    await ask(log, BOOK, "k1")
    first.stop.set()
    await first.ended.wait()
    assert "first" not in log.leases
    assert await led_by(log, "second") <= LEASE_S / LOOKS
    await ask(log, BOOK, "k2")
    await stage.stop()
    await assert_sound(log, BOOK)


async def test_the_next_life_in_the_same_place_waits_for_no_lease(
    stage: Stage, autojump_clock: MockClock
) -> None:
    log = stage.log
    first = stage.begin("first", "here")
    await define(log, BOOK)
    first.kill()
    stage.begin("elsewhere", "there")
    await trio.sleep(0.1)
    stage.begin("second", "here")
    assert await led_by(log, "second") < 0.1
    await stage.stop()


async def test_who_slept_longer_than_its_lease_stands_by_when_it_wakes(
    stage: Stage, autojump_clock: MockClock
) -> None:
    """It decides with old beliefs, and nothing of that is written."""
    log = stage.log
    first, second = await stage.pair(BOOK)
    await trio.sleep(1)
    for sleeper, other in ((first, second), (second, first), (first, second)):
        sleeper.pause()
        (mine,) = await log.append(BOOK, [new(m.RequestAuto("checkup"), "late", "customer:K")])
        await led_by(log, other.owner)
        await wait_decided(log, BOOK, mine)
        sleeper.resume()
        await trio.sleep(3 * LEASE_S)
        assert log.book(BOOK).record.owner == other.owner
    assert first.error is None
    assert second.error is None
    await stage.stop()
    await assert_sound(log, BOOK)


async def test_a_leader_whose_lease_was_lost_is_taken_over_from_once(
    stage: Stage, autojump_clock: MockClock
) -> None:
    """All leases vanish: whoever takes the book has a lease, so that it is not taken back."""
    log = stage.log
    stage.both()
    await define(log, BOOK)
    await trio.sleep(LEASE_S / RENEWALS + 0.1)  # just after a renewal
    log.leases.clear()
    await trio.sleep(10 * LEASE_S)
    assert log.book(BOOK).record.epoch <= 2
    await ask(log, BOOK, "k")
    await stage.stop()
    await assert_sound(log, BOOK)


async def test_a_leader_whose_read_is_never_answered_learns_of_its_successor(
    stage: Stage, autojump_clock: MockClock
) -> None:
    """It stands by again before it is needed, and does not wait for the answer."""
    log = stage.log
    first, second = await stage.pair(BOOK)
    await trio.sleep(2 * LEASE_S)
    first.mute = "read_inputs"
    while log.book(BOOK).record.owner == "first":
        log.leases.pop("first", None)
        await trio.sleep(LEASE_S / LOOKS / 2)
    first.mute = ""
    await trio.sleep(2 * LEASE_S)
    second.kill()
    assert await led_by(log, "first") <= LEASE_S * (1 + 1 / LOOKS) + 0.1
    await ask(log, BOOK, "k")
    await stage.stop()
    await assert_sound(log, BOOK)


async def test_a_record_is_read_once_in_a_leases_time_while_its_leader_lives(
    stage: Stage, autojump_clock: MockClock
) -> None:
    """Who stands by for many books looks at one lease often, and not at all their records."""
    log = stage.log
    books = [f"book{number}" for number in range(50)]
    both = stage.both()
    await define(log, *books)
    await trio.sleep(2 * LEASE_S)
    for process in both:
        process.records_read = 0
    await trio.sleep(10 * LEASE_S)
    for process in both:
        assert 9 * len(books) <= process.records_read <= 11 * len(books)
        process.stop.set()
    await stage.stop()


async def test_nobody_is_judged_by_a_lease_that_lapsed_while_the_log_was_away(
    stage: Stage, autojump_clock: MockClock
) -> None:
    log = stage.log
    first, second = await stage.pair(BOOK)
    await trio.sleep(1)
    for process in (first, second):
        process.away = True
    await trio.sleep(3 * LEASE_S)
    second.away = False  # it is back first
    await trio.sleep(LEASE_S / 2)
    first.away = False
    await trio.sleep(3 * LEASE_S)
    assert log.book(BOOK).record.epoch == 1
    await stage.stop()


async def test_who_stands_by_and_falls_behind_a_trim_loads_the_book_anew(
    stage: Stage, autojump_clock: MockClock
) -> None:
    log = stage.log
    first, second = await stage.pair(BOOK)
    await trio.sleep(1)
    second.pause()
    for number in range(4):
        await ask(log, BOOK, f"k{number}")
    runner = await assert_sound(log, BOOK)
    await log.save_snapshot(BOOK, runner.snapshot(), 1, "first")
    inputs, outcomes = log.book(BOOK).inputs, log.book(BOOK).outcomes
    inputs.trim(inputs.last)
    outcomes.trim(outcomes.last)
    second.resume()
    await ask(log, BOOK, "k4")
    first.kill()
    await led_by(log, "second")
    await ask(log, BOOK, "k5")
    assert second.error is None
    await stage.stop()


async def test_who_comes_to_another_outcome_than_the_leader_does_not_lead(
    stage: Stage, autojump_clock: MockClock
) -> None:
    log = stage.log
    _, second = await stage.pair(BOOK)
    await trio.sleep(1)
    second.pause()
    mine = await ask(log, BOOK, "k1")
    inputs = log.book(BOOK).inputs
    at = [entry.id for entry in inputs.entries].index(mine)
    altered = inputs.entries[at].body.replace(b"checkup", b"checkout")
    inputs.entries[at] = msgspec.structs.replace(inputs.entries[at], body=altered)
    second.resume()
    await second.ended.wait()  # it has no other book
    assert isinstance(second.error, DivergedError)
    assert "take_over" not in second.calls
    await stage.stop()


async def test_a_book_that_was_given_up_is_led_again_when_it_is_mended(
    stage: Stage, autojump_clock: MockClock
) -> None:
    log = stage.log
    stage.begin("only")
    await define(log, BOOK, "other")
    log.book(BOOK).inputs.foreign = True
    log.ring(BOOK, "inputs")
    await trio.sleep(3 * RETAKE_S)
    await ask(log, "other", "k1")
    assert log.book(BOOK).record.epoch == 1  # nothing is taken that would be given up again
    log.book(BOOK).inputs.foreign = False
    await ask(log, BOOK, "k2")
    assert log.book(BOOK).record.epoch == 2
    await stage.stop()
    await assert_sound(log, BOOK)


class RivalLog:
    """A rival takes the book at the next commit, and dies; what is read meanwhile comes late.

    Attributes:
      armed: Whether that is still to come.
    """

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.armed = False
        self._took = trio.Event()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method of the port
        return getattr(self._log, name)

    async def commit(self, commits: Sequence[Commit]) -> list[LogError | None]:
        if self.armed:
            self.armed = False
            await self._log.take_over(BOOK, "rival")
            self._took.set()
        return await self._log.commit(commits)

    async def read_inputs(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[InputEntry]]:
        found = await self._log.read_inputs(after, count, wait_s)
        if self._took.is_set() and wait_s and found:
            self._took = trio.Event()
            with trio.CancelScope(shield=True):
                while self._log.book(BOOK).record.epoch < 3:  # noqa: ASYNC110 - nothing tells
                    await trio.sleep(0.01)
                await trio.sleep(0.1)
        return found


async def test_a_read_from_before_a_takeover_is_not_decided_after_it(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    log = MemoryLog(clock)
    rival = RivalLog(log)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, cast("Log", rival), clock, stop)
        await define(log, BOOK)
        rival.armed = True
        await ask(log, BOOK, "k1")
        await ask(log, BOOK, "k2")
        assert not rival.armed
        stop.set()
    await assert_sound(log, BOOK)


async def test_a_takeover_whose_answer_was_lost_is_not_made_twice(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    log = MemoryLog(clock)
    lost = [True]
    real = log.take_over

    async def take_over(book: str, owner: str, seen: int | None = None) -> CommitRecord:
        record = await real(book, owner, seen)
        if lost.pop() if lost else False:
            raise LogUnavailableError("the answer was lost")
        return record

    log.take_over = take_over  # type: ignore[method-assign]
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, log, clock, stop)
        await define(log, BOOK)
        stop.set()
    assert not lost
    assert log.book(BOOK).record.epoch == 1
