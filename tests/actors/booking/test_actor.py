"""The booking actor: takes over, decides, commits, ticks, leaves; and dies at every point of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.keeping import RETAKE_S
from holdfast.actors.booking.leading import LOOK_AGAIN_S, TICK_AGAIN_S_MAX
from holdfast.actors.booking.loading import DivergedError
from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.booking.runner import BookBugError, VersionError
from holdfast.actors.health import Health
from holdfast.actors.ports import (
    GENESIS,
    CommitUnknownError,
    LogError,
    LogUnavailableError,
    OutcomeEntry,
    TailLostError,
)
from holdfast.machine import Emit, Normal
from holdfast.transport.memory_log import MemoryLog, MemoryStream

from .acting import (
    BEGIN_MS,
    BOOK,
    HOUR_MS,
    MONDAY_TEN,
    PRACTICE,
    Crash,
    FailingLog,
    VirtualClock,
    assert_sound,
    booking_actor,
    every,
    new,
    result_of,
    wait_decided,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from holdfast.actors.booking.book import Book
    from holdfast.actors.booking.wire import BookingInput
    from holdfast.actors.ports import Log, Snapshot

# --- a life without troubles ------------------------------------------------------------------


async def test_every_input_gets_one_outcome_under_its_own_id(autojump_clock: MockClock) -> None:
    clock = VirtualClock()
    log = MemoryLog(clock)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, log, clock, stop)
        first, second, third = await log.append(
            BOOK,
            [
                new(PRACTICE, "p"),
                new(m.RequestSlot("checkup", MONDAY_TEN), "k1", "customer:K1"),
                new(m.RequestSlot("checkup", MONDAY_TEN), "k2", "customer:K2"),
            ],
        )
        statuses = [(await wait_decided(log, BOOK, id_)).status for id_ in (first, second, third)]
        assert statuses == ["accepted", "accepted", "refused"]
        stop.set()
    await assert_sound(log, BOOK)


async def test_a_hold_expires_by_a_tick_of_the_actors_own(autojump_clock: MockClock) -> None:
    clock = VirtualClock()
    log = MemoryLog(clock)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, log, clock, stop)
        ids = await log.append(
            BOOK,
            [
                new(PRACTICE, "p"),
                new(m.RequestSlot("checkup", MONDAY_TEN), "k1", "customer:K1"),
            ],
        )
        await wait_decided(log, BOOK, ids[1])
        taken_over = await log.read_inputs({BOOK: ids[1]}, 10, 1.0)
        assert [entry.type for entry in taken_over[BOOK]] == ["taken_over"]
        (tick,) = (await log.read_inputs({BOOK: taken_over[BOOK][0].id}, 10, 3_600.0))[BOOK]
        assert tick.type == "tick"
        assert tick.ms - int(ids[1].split("-")[0]) == 600_000
        outcome = await wait_decided(log, BOOK, tick.id)
        assert b"hold_expired" in outcome.timers
        stop.set()
    await assert_sound(log, BOOK)


@pytest.mark.parametrize("ahead_ms", [2 * HOUR_MS, -2 * HOUR_MS])
async def test_a_wrong_clock_that_is_set_right_delays_no_timer(
    autojump_clock: MockClock, ahead_ms: int
) -> None:
    """Nobody else comes: an input of any kind would fire the timer too."""
    log, clock = MemoryLog(VirtualClock()), VirtualClock(ahead_ms)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, log, clock, stop)
        ids = await log.append(
            BOOK,
            [
                new(PRACTICE, "p"),
                new(m.RequestSlot("checkup", MONDAY_TEN), "k1", "customer:K1"),
            ],
        )
        await trio.sleep(60)
        clock.ahead_ms = 0
        await trio.sleep(540 + LOOK_AGAIN_S + 1)
        stop.set()
    due_ms = int(ids[1].split("-")[0]) + 600_000
    outcomes = await every(log.read_outcomes, BOOK)
    (expired,) = [outcome for outcome in outcomes if b"hold_expired" in outcome.timers]
    assert 0 <= int(expired.id.split("-")[0]) - due_ms <= LOOK_AGAIN_S * 1000


async def test_a_clock_that_is_ahead_does_not_flood_the_log(autojump_clock: MockClock) -> None:
    """Only the log's time fires a timer; until then a tick changes nothing."""
    log = MemoryLog(VirtualClock())
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, log, VirtualClock(2 * HOUR_MS), stop)
        ids = await log.append(
            BOOK,
            [
                new(PRACTICE, "p"),
                new(m.RequestSlot("checkup", MONDAY_TEN), "k1", "customer:K1"),
            ],
        )
        await trio.sleep(605)
        stop.set()
    due_ms = int(ids[1].split("-")[0]) + 600_000
    ticks = [entry.ms for entry in await every(log.read_inputs, BOOK) if entry.type == "tick"]
    assert len([ms for ms in ticks if ms <= due_ms]) < 600 / TICK_AGAIN_S_MAX + 10
    assert min(ms for ms in ticks if ms >= due_ms) - due_ms <= TICK_AGAIN_S_MAX * 1000


async def test_a_new_book_is_owned_while_the_actor_waits_for_others(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    log = MemoryLog(clock)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, log, clock, stop)
        for book in ("one", "two", "three"):
            begun = trio.current_time()
            (mine,) = await log.append(book, [new(PRACTICE, "p")])
            await wait_decided(log, book, mine)
            assert trio.current_time() - begun < 0.1
        stop.set()
    for book in ("one", "two", "three"):
        await assert_sound(log, book)


async def test_a_book_that_is_there_is_led_soon_though_the_first_answer_is_lost(
    autojump_clock: MockClock,
) -> None:
    """A call whose answer is lost is given up a while after it might have waited for something."""

    class LostAnswer(MemoryLog):
        lost = False

        async def wait_books(self, known: int, wait_s: float) -> list[str]:
            if not self.lost:
                self.lost = True
                await trio.sleep(wait_s + 30)
                raise LogUnavailableError("no answer")
            return await super().wait_books(known, wait_s)

    clock, stop = VirtualClock(), trio.Event()
    log = LostAnswer(clock)
    (mine,) = await log.append(BOOK, [new(PRACTICE, "p")])
    options = BookingOptions(wait_s=3600)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(run_booking, log, clock, owner="a", options=options, stop=stop))
        with trio.fail_after(30 + options.retry_s + 1):
            await wait_decided(log, BOOK, mine)
        stop.set()


async def test_a_clean_stop_leaves_a_snapshot_from_which_the_next_owner_goes_on(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    log = MemoryLog(clock)
    for owner in ("a", "b", "c"):
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(booking_actor, log, clock, stop, owner)
            request = m.RequestSlot("checkup", MONDAY_TEN)
            ids = await log.append(BOOK, [new(PRACTICE, "p"), new(request, "k", "customer:K")])
            await wait_decided(log, BOOK, ids[-1])
            stop.set()
        snapshot = await log.read_snapshot(BOOK)
        assert snapshot is not None
        assert snapshot.position == (await log.read_record(BOOK)).position
    runner = await assert_sound(log, BOOK)
    assert len(runner.state.bookings) == 1


# --- dying at every point ---------------------------------------------------------------------


async def _play(
    log: MemoryLog, faulty: MemoryLog | FailingLog, clock: VirtualClock, stop: trio.Event
) -> None:
    """Bookings with results, on an actor that sees *faulty* while the crowd sees *log*."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, cast("Log", faulty), clock, stop, "owner")
        nursery.start_soon(_pay, log, stop)
        await _crowd(log)
        stop.set()


async def _crowd(log: MemoryLog) -> None:
    """Push commands and wait for each outcome; harmless to do again."""
    (mine,) = await log.append(BOOK, [new(PRACTICE, "p")])
    await wait_decided(log, BOOK, mine)
    for number in range(3):
        by = f"customer:K{number}"
        request = new(m.RequestAuto("checkup", days=[1]), f"k{number}", by)
        (mine,) = await log.append(BOOK, [request])
        await wait_decided(log, BOOK, mine)
    await trio.sleep(1)


async def _pay(log: MemoryLog, stop: trio.Event) -> None:
    """Answer each payment action, as a payment actor would."""
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            while True:
                found = await log.read_actions("payments", [BOOK], "p1", 10, 60.0)
                for book, action in found:
                    result = result_of(action, "authorized")
                    await log.finish_actions("payments", book, [(action.id, result)])

        nursery.start_soon(answer)
        await stop.wait()
        nursery.cancel_scope.cancel()


async def _calls_of_a_quiet_run() -> int:
    clock = VirtualClock()
    log = MemoryLog(clock)
    counting = FailingLog(log, 0, Crash(), after=False)
    await _play(log, counting, clock, trio.Event())
    return counting.calls


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_call_of_the_log_loses_nothing(
    autojump_clock: MockClock, after: bool
) -> None:
    """The actor dies at its n-th call, before or after the effect; the next one finishes the work."""
    calls = await _calls_of_a_quiet_run()
    assert calls > 15
    for at in range(1, calls + 1):
        clock = VirtualClock()
        log = MemoryLog(clock)
        with trio.move_on_after(30):
            try:
                await _play(log, FailingLog(log, at, Crash(), after), clock, trio.Event())
            except* Crash:
                pass
        await _play(log, log, clock, trio.Event())
        runner = await assert_sound(log, BOOK)
        assert [b.status for b in runner.state.bookings.values()] == ["confirmed"] * 3


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [LogUnavailableError("away"), CommitUnknownError("cut")])
async def test_an_actor_outlives_a_log_that_fails_at_any_call(
    autojump_clock: MockClock, after: bool, error: Exception
) -> None:
    """The same actor goes on after any one call failed, whether or not it had its effect."""
    calls = await _calls_of_a_quiet_run()
    for at in range(1, calls + 1):
        clock = VirtualClock()
        log = MemoryLog(clock)
        # A commit that is written says so, or says that it is unknown; nothing else is unknown.
        only, never = ("commit", "") if isinstance(error, CommitUnknownError) else ("", "commit")
        faulty = FailingLog(log, at, error, after, only, never if after else "")
        await _play(log, faulty, clock, trio.Event())
        runner = await assert_sound(log, BOOK)
        assert [b.status for b in runner.state.bookings.values()] == ["confirmed"] * 3


# --- refusing to start ------------------------------------------------------------------------


async def _left_book(clock: VirtualClock) -> MemoryLog:
    log = MemoryLog(clock)
    await _play(log, log, clock, trio.Event())
    return log


async def test_an_altered_log_is_noticed_before_anything_is_decided(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    log = await _left_book(clock)
    held = log.book(BOOK)
    held.snapshots.clear()
    inputs = held.inputs.entries
    at = next(n for n, entry in enumerate(inputs) if entry.type == "request_auto")
    inputs[at] = msgspec.structs.replace(inputs[at], by="customer:SOMEBODY")
    before = len(held.outcomes.entries)
    with pytest.raises(DivergedError, match="holdfast check demo"):
        await booking_actor(log, clock, trio.Event())
    assert len(held.outcomes.entries) == before


async def test_a_book_of_another_machine_version_is_refused(autojump_clock: MockClock) -> None:
    clock = VirtualClock()
    log = await _left_book(clock)
    held = log.book(BOOK)
    held.record = msgspec.structs.replace(held.record, version=99)
    with pytest.raises(VersionError, match="version 99"):
        await booking_actor(log, clock, trio.Event())


async def test_a_process_of_another_release_leaves_a_book_to_its_owner(
    autojump_clock: MockClock,
) -> None:
    """Taking it over would stop the owner, and then nobody would decide for the book."""
    clock = VirtualClock()
    log = await _left_book(clock)
    held = log.book(BOOK)
    held.record = msgspec.structs.replace(held.record, version=99)
    record, count = held.record, held.inputs.added
    with pytest.raises(VersionError):
        await booking_actor(log, clock, trio.Event())
    assert (held.record, held.inputs.added) == (record, count)


class PausedLog:
    """Lets something happen before the first call of a method, as to a process that is paused."""

    def __init__(self, log: Log, name: str, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._log = log
        self._name = name
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method of the port
        real = getattr(self._log, name)
        if name != self._name:
            return real

        async def call(*args: object) -> object:
            self._name = ""
            await self._meanwhile()
            return await real(*args)

        return call


@pytest.mark.parametrize("call", ["read_snapshot", "read_inputs"])
async def test_who_slept_through_a_takeover_stands_by_and_does_not_blame_the_log(
    autojump_clock: MockClock, call: str
) -> None:
    """What it would have read next is trimmed by now, and nothing is wrong with the log."""
    clock = VirtualClock()
    log = await _left_book(clock)

    async def another_takes_over() -> None:
        await trio.sleep(1)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(booking_actor, log, clock, stop, "b", "here")
            (mine,) = await log.append(BOOK, [new(m.RequestAuto("checkup", days=[1]), "late")])
            await wait_decided(log, BOOK, mine)
            stop.set()
        inputs = log.book(BOOK).inputs
        inputs.trim(inputs.last)

    paused = cast("Log", PausedLog(log, call, another_takes_over))
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, paused, clock, stop, "a", "here")
        await trio.sleep(10)
        (mine,) = await log.append(BOOK, [new(m.RequestAuto("checkup", days=[1]), "later")])
        await wait_decided(log, BOOK, mine)
        stop.set()


async def test_a_book_that_came_in_the_place_of_one_that_a_failover_lost_is_owned(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    log = MemoryLog(clock)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, log, clock, stop)
        (mine,) = await log.append("first", [new(PRACTICE, "p")])
        await wait_decided(log, "first", mine)
        log.registered.remove("first")
        (mine,) = await log.append("second", [new(PRACTICE, "p")])
        await wait_decided(log, "second", mine)
        stop.set()
    await assert_sound(log, "second")


async def test_inputs_that_are_gone_end_the_service_of_their_book_alone(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    log = MemoryLog(clock)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, log, clock, stop)
        for book in (BOOK, "other"):
            (mine,) = await log.append(book, [new(PRACTICE, "p")])
            await wait_decided(log, book, mine)
        before = log.book(BOOK).record
        await log.append(BOOK, [new(PRACTICE, "gone"), new(PRACTICE, "p")])
        inputs = log.book(BOOK).inputs
        inputs.trim(inputs.last)
        (mine,) = await log.append("other", [new(m.RequestAuto("checkup", days=[1]), "r")])
        await wait_decided(log, "other", mine)
        stop.set()
    assert log.book(BOOK).record == before
    await assert_sound(log, "other")


@pytest.mark.parametrize("forgotten", ["inputs", "decisions", "takeover"])
async def test_an_actor_whose_log_forgot_what_it_knew_ends_with_all_its_books(
    autojump_clock: MockClock, forgotten: str
) -> None:
    """A failover befalls every book of the server: whoever runs the actor begins anew."""
    clock = VirtualClock()
    log = MemoryLog(clock)

    async def fail_over() -> None:
        for book in (BOOK, "other"):
            (mine,) = await log.append(book, [new(PRACTICE, "p")])
            await wait_decided(log, book, mine)
        held = log.book(BOOK)
        match forgotten:
            case "inputs":
                held.inputs = MemoryStream()
            case "decisions":
                held.record = msgspec.structs.replace(held.record, position=GENESIS)
            case _:
                held.record = msgspec.structs.replace(held.record, epoch=0, owner="")
        if forgotten != "inputs":
            await log.append(BOOK, [new(m.RequestAuto("checkup", days=[1]), "r")])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_over)
        with pytest.raises(TailLostError, match="lost its tail"):
            await booking_actor(log, clock, trio.Event())


async def test_inputs_of_a_wrong_type_end_the_service_of_their_book_alone(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    log = MemoryLog(clock)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, log, clock, stop)
        for book in (BOOK, "other"):
            (mine,) = await log.append(book, [new(PRACTICE, "p")])
            await wait_decided(log, book, mine)
        log.book(BOOK).inputs.foreign = True
        (mine,) = await log.append("other", [new(m.RequestAuto("checkup", days=[1]), "r")])
        await wait_decided(log, "other", mine)
        stop.set()
    await assert_sound(log, "other")


class NoSnapshots:
    """A log that refuses snapshots of ``BOOK``."""

    def __init__(self, log: MemoryLog, why: LogError) -> None:
        self._log = log
        self._why = why

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method of the port
        return getattr(self._log, name)

    async def save_snapshot(self, book: str, snapshot: Snapshot, epoch: int, owner: str) -> None:
        if book == BOOK:
            raise self._why
        await self._log.save_snapshot(book, snapshot, epoch, owner)


def no_snapshots(log: MemoryLog, why: LogError | None = None) -> Log:
    return cast("Log", NoSnapshots(log, why or LogError("the snapshot cannot be written")))


async def test_what_follows_on_a_commit_that_was_refused_is_no_lost_tail(
    autojump_clock: MockClock,
) -> None:
    """Found by the simulator (seed 60154 of ``upkeep`` then): it ended the process with all its books."""
    clock = VirtualClock()
    memory = MemoryLog(clock)
    for book in (BOOK, "other"):
        await memory.append(book, [new(PRACTICE, "p")])

    async def somebody_writes_an_outcome() -> None:
        await memory.append(BOOK, [new(m.RequestAuto("checkup", days=[1]), "next")])
        await trio.sleep(1)  # it is decided by now, and waits for the commit before it
        ahead = (clock.now_ms() + HOUR_MS, 0)
        memory.book(BOOK).outcomes.add(ahead, OutcomeEntry(f"{ahead[0]}-0", "accepted", b"{}"))

    paused = cast("Log", PausedLog(memory, "commit", somebody_writes_an_outcome))
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, paused, clock, stop)
        await trio.sleep(10)
        (mine,) = await memory.append("other", [new(m.RequestAuto("checkup", days=[1]), "r")])
        await wait_decided(memory, "other", mine)
        stop.set()
    assert memory.book(BOOK).record.position == GENESIS


async def test_a_snapshot_that_is_refused_ends_the_service_of_its_book_alone(
    autojump_clock: MockClock,
) -> None:
    """Found by the simulator (seed 104887): it ended the process, which said nothing of the reason."""
    clock = VirtualClock()
    memory = MemoryLog(clock)
    options = BookingOptions(snapshot_inputs=1)
    stop = trio.Event()
    for book in (BOOK, "other"):
        await memory.append(book, [new(PRACTICE, "p")])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(run_booking, no_snapshots(memory), clock, owner="a", options=options, stop=stop)
        )
        (mine,) = await memory.append("other", [new(m.RequestAuto("checkup", days=[1]), "r")])
        await wait_decided(memory, "other", mine)
        stop.set()
    await assert_sound(memory, "other")


async def test_an_actor_that_saves_a_snapshot_of_what_the_log_forgot_ends_with_all_its_books(
    autojump_clock: MockClock,
) -> None:
    """Between two commits that may be the first that it hears of a failover."""
    clock = VirtualClock()
    memory = MemoryLog(clock)
    for book in (BOOK, "other"):
        await memory.append(book, [new(PRACTICE, "p")])
    log = no_snapshots(memory, TailLostError("it has lost its tail"))
    options = BookingOptions(snapshot_inputs=1)
    with trio.fail_after(60), pytest.raises(TailLostError):
        await run_booking(log, clock, owner="a", options=options, stop=trio.Event())


async def test_whose_last_book_is_given_up_for_its_snapshot_says_why(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    memory = MemoryLog(clock)
    await memory.append(BOOK, [new(PRACTICE, "p")])
    options = BookingOptions(snapshot_inputs=1)
    with pytest.raises(LogError, match="the snapshot cannot be written"):
        await run_booking(
            no_snapshots(memory), clock, owner="a", options=options, stop=trio.Event()
        )


async def test_who_stays_goes_on_with_its_only_book_once_that_is_put_right(
    autojump_clock: MockClock,
) -> None:
    clock, stop = VirtualClock(), trio.Event()
    memory = MemoryLog(clock)
    (mine,) = await memory.append(BOOK, [new(PRACTICE, "p")])
    record = memory.book(BOOK).record
    memory.book(BOOK).record = msgspec.structs.replace(record, version=99)
    health = Health()
    run = partial(run_booking, owner="a", options=BookingOptions(stay=True), health=health)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(run, memory, clock, stop=stop))
        await trio.sleep(RETAKE_S + 1)
        assert "version 99" in health.troubles[f"book {BOOK}"]
        memory.book(BOOK).record = record
        with trio.fail_after(3 * RETAKE_S):
            await wait_decided(memory, BOOK, mine)
        assert health.troubles == {}
        stop.set()
    await assert_sound(memory, BOOK)


async def test_a_book_that_comes_just_as_the_last_one_is_given_up_is_not_left_in_silence(
    autojump_clock: MockClock,
) -> None:
    """It once had the actor end as if it had been asked to, with nobody to serve the new book."""
    clock = VirtualClock()
    memory = MemoryLog(clock)
    options = BookingOptions(snapshot_inputs=1)
    serving = partial(run_booking, no_snapshots(memory), clock, owner="a", options=options)
    ended: list[str] = []

    async def serve() -> None:
        with pytest.raises(LogError, match="the snapshot cannot be written"):
            await serving(stop=trio.Event())
        ended.append("a")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        (mine,) = await memory.append(BOOK, [new(PRACTICE, "p")])
        await wait_decided(memory, BOOK, mine)
        await memory.append("other", [new(PRACTICE, "p")])
    assert ended == ["a"]


async def test_a_log_that_is_shorter_than_its_commit_record_is_refused(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    log = await _left_book(clock)
    held = log.book(BOOK)
    held.snapshots.clear()
    ahead = msgspec.structs.replace(held.record, position=f"{BEGIN_MS + 86_400_000}-0")
    held.record = ahead
    with pytest.raises(DivergedError, match="not all in the log"):
        await booking_actor(log, clock, trio.Event())


async def test_a_book_that_cannot_be_decided_for_does_not_keep_others_from_it(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    log = await _left_book(clock)
    held = log.book(BOOK)
    held.record = msgspec.structs.replace(held.record, version=99)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booking_actor, log, clock, stop)
        (mine,) = await log.append("other", [new(PRACTICE, "p")])
        await wait_decided(log, "other", mine)
        stop.set()
    await assert_sound(log, "other")


async def test_a_bug_stops_its_book_at_its_input_and_no_other_book(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came before the input in the same batch is answered; the input itself never is."""
    transition = BookingMachine.transition

    def buggy(self: BookingMachine, state: Book, made: BookingInput, emit: Emit[m.Action]) -> Any:  # noqa: ANN401
        if isinstance(made, Normal) and isinstance(made.message, m.Asked):
            assert made.message.key != "bug", "planted"
        return transition(self, state, made, emit)

    monkeypatch.setattr(BookingMachine, "transition", buggy)
    clock = VirtualClock()
    log = MemoryLog(clock)
    stop = trio.Event()
    request = m.RequestAuto("checkup", days=[1])
    async with trio.open_nursery() as nursery:
        first = await log.append("other", [new(PRACTICE, "p")])
        ids = await log.append(
            BOOK,
            [
                new(PRACTICE, "p"),
                new(request, "k", "customer:K1"),
                new(request, "bug", "customer:K2"),
                new(request, "k", "customer:K3"),
            ],
        )
        nursery.start_soon(booking_actor, log, clock, stop)
        await wait_decided(log, "other", first[0])
        await wait_decided(log, BOOK, ids[1])
        second = await log.append("other", [new(request, "k", "customer:K1")])
        await wait_decided(log, "other", second[0])
        stop.set()
    assert (await log.read_record(BOOK)).position == ids[1]
    assert log.book(BOOK).snapshots == []
    with pytest.raises(BookBugError, match=f"at input {ids[2]}.*planted"):
        await run_booking(
            log, clock, owner="b", options=BookingOptions(), stop=trio.Event(), books=[BOOK]
        )
    await assert_sound(log, BOOK)


# --- taking over ------------------------------------------------------------------------------


async def test_a_takeover_asks_about_every_call_under_way_under_its_old_id(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    log = MemoryLog(clock)
    for owner in ("a", "b"):
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(booking_actor, log, clock, stop, owner)
            await _crowd(log)
            stop.set()
    payments = log.book(BOOK).payments.entries
    assert [p.type for p in payments] == ["preauthorize"] * 3 + ["check_status"] * 3
    assert [p.action for p in payments[:3]] == [p.action for p in payments[3:]]
    assert len({p.id for p in payments}) == 6
    await assert_sound(log, BOOK)


@pytest.mark.slow
async def test_a_takeover_with_more_calls_than_an_input_may_emit_takes_several(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    log = MemoryLog(clock)
    staff = [m.Staff(f"s{number}", "Member") for number in range(200)]
    hours: dict[str, list[m.TimeRange]] = {str(day): [("00:00", "24:00")] for day in range(7)}
    practice = msgspec.structs.replace(PRACTICE, staff=staff, hours=hours)
    count = 5_000
    requests = [
        new(m.RequestAuto("checkup"), f"k{number}", f"customer:K{number}")
        for number in range(count)
    ]
    for owner in ("a", "b"):
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(booking_actor, log, clock, stop, owner)
            ids = await log.append(BOOK, [new(practice, "p"), *requests])
            await wait_decided(log, BOOK, ids[-1])
            await trio.sleep(1)
            stop.set()
    payments = log.book(BOOK).payments.entries
    checked = [p.action for p in payments if p.type == "check_status"]
    assert checked == [p.action for p in payments if p.type == "preauthorize"]
    assert len(checked) == count
    await assert_sound(log, BOOK)
