"""The operator: what a person does to a live log harms nothing, and what destroys it ends with an error."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
import structlog
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.loading import DivergedError
from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.booking.runner import BookRunner, VersionError
from holdfast.actors.ports import (
    CommitRecord,
    ForeignDataError,
    LogError,
    LogTrimmedError,
    NewInput,
    OutcomeEntry,
    Snapshot,
)
from holdfast.sim import operator
from holdfast.sim.clock import START_MS, WorldClock
from holdfast.sim.crowd import Crowd
from holdfast.sim.marks import Marks
from holdfast.sim.operator import changed
from holdfast.sim.operator_faults import OPERATOR_MARKS
from holdfast.sim.run import listening, run_world
from holdfast.transport.keys import parse_id
from holdfast.transport.memory_log import MemoryLog, MemoryStream

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from holdfast.actors.ports import Log
    from holdfast.transport.memory_log import MemoryBook

BOOK = "demo"
PRACTICE = m.DefinePractice(
    name="Practice",
    zone="Europe/Berlin",
    currency="EUR",
    services=[m.Service("checkup", "Check-up", 30, 7_500)],
    staff=[m.Staff("s1", "First"), m.Staff("s2", "Second")],
    hours={str(day): [("08:00", "18:00")] for day in range(7)},
)


# --- what harms nothing ---------------------------------------------------------------------


@pytest.mark.slow
def test_everything_that_an_operator_does_happens_and_harms_nothing() -> None:
    seen: dict[str, None] = {}
    for seed in range(45):
        result, _ = run_world(seed, "mixed", ("operator", "provider"))
        assert result.violation is None, seed
        seen |= dict.fromkeys(result.marks)
    assert [name for name in OPERATOR_MARKS if name not in seen] == []


def _violations(seeds: range, *groups: str) -> list[str]:
    found = [run_world(seed, "mixed", ("operator", *groups))[0].violation for seed in seeds]
    return [violation.details for violation in found if violation is not None]


@pytest.mark.slow
def test_a_replay_that_differs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(BookRunner):
        @property
        def digest(self) -> str:
            return "00" + super().digest[2:]

    monkeypatch.setattr(operator, "BookRunner", Forgetful)
    details = _violations(range(8))
    assert details
    assert all("beside its owner" in one for one in details)


@pytest.mark.slow
def test_a_second_run_that_is_answered_otherwise_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = Crowd.outcome

    async def other(self: Crowd, log: Log, book: str, input_id: str) -> OutcomeEntry | None:
        found = await outcome(self, log, book, input_id)
        if found is not None and found.replayed:
            return msgspec.structs.replace(found, body=found.body + b" ")
        return found

    monkeypatch.setattr(Crowd, "outcome", other)
    details = _violations(range(8))
    assert any("under the same key" in one for one in details)


@pytest.mark.slow
def test_a_trim_without_its_guard_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: MemoryLog, book: str, keep: str = "") -> dict[str, int]:
        del keep
        inputs = self.book(book).inputs
        return {"inputs": inputs.trim(inputs.last)}

    monkeypatch.setattr(MemoryLog, "trim_nowait", careless)
    assert _violations(range(20), "process")


def test_a_holiday_closes_the_day_of_the_slots_and_no_other() -> None:
    closed = changed(PRACTICE, "holiday", 0, START_MS)
    assert [day for day in PRACTICE.hours if day not in closed.hours] == ["1"]  # a Monday


@pytest.mark.parametrize("change", ["prices", "hours", "policies", "holiday", "staff"])
def test_each_change_of_a_practice_is_one_that_can_be_sent(change: str) -> None:
    body = wire.encode_message(changed(PRACTICE, change, 2, START_MS))
    again = msgspec.json.decode(body, type=m.DefinePractice)
    assert again != PRACTICE
    assert again.policies.check_settle_s == PRACTICE.policies.check_settle_s


# --- two releases -----------------------------------------------------------------------------

RELEASE = ContextVar("RELEASE", default=1)


class _Release:
    """The machine's version, by the task that asks: processes of two releases in one run."""

    def __get__(self, *_: object) -> int:
        return RELEASE.get()


def test_two_releases_that_alternate_leave_the_book_to_the_one_that_decided_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other one says so and ends, whether the owner lives or not; nothing is decided anew."""
    monkeypatch.setattr(BookingMachine, "version", _Release())
    clock = WorldClock()
    log = MemoryLog(clock)

    async def serve(release: int, owner: str, stop: trio.Event) -> None:
        RELEASE.set(release)
        await run_booking(log, clock, owner=owner, options=BookingOptions(), stop=stop)

    async def refuse(owner: str) -> None:
        async with trio.open_nursery() as nursery:  # a task, and so a context, of its own
            nursery.start_soon(serve, 2, owner, trio.Event())

    async def main() -> None:
        body = wire.encode_message(PRACTICE)
        for life in range(3):
            stop = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, 1, f"old{life}", stop)
                await log.append(BOOK, [NewInput("define_practice", body, f"p{life}", "service:x")])
                await trio.sleep(1)
                with pytest.raises(ExceptionGroup) as refused:
                    await refuse(f"new{life}")
                assert refused.group_contains(VersionError, match="drain it with the old release")
                await log.append(BOOK, [NewInput("define_practice", body, f"q{life}", "service:x")])
                await trio.sleep(1)
                stop.set()
            with pytest.raises(ExceptionGroup) as refused:
                await refuse(f"late{life}")
            assert refused.group_contains(VersionError)

    with listening(Marks()):
        clock.run(main)
    book = log.book(BOOK)
    assert (book.record.epoch, book.record.version) == (3, 1)
    assert [outcome.status for outcome in book.outcomes.entries] == ["accepted"] * 9


# --- what destroys --------------------------------------------------------------------------


def _live(vandal: Callable[[MemoryBook], None]) -> MemoryBook:
    """Let a book live, stop it, let *vandal* at it, and start it again; raises what that raises."""
    clock = WorldClock()
    log = MemoryLog(clock)
    options = BookingOptions(snapshot_inputs=2)

    async def serve(owner: str) -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            serving = partial(run_booking, owner=owner, options=options, stop=stop)
            nursery.start_soon(serving, log, clock)
            for number in range(4):
                day = f"2026-01-0{6 + number}T10:00:00+01:00"
                body = wire.encode_message(m.RequestSlot("checkup", day, customer="K1"))
                await log.append(
                    BOOK, [NewInput("request_slot", body, f"{owner}{number}", "service:x")]
                )
                await trio.sleep(1)
            stop.set()

    async def main() -> None:
        body = wire.encode_message(PRACTICE)
        await log.append(BOOK, [NewInput("define_practice", body, "p", "service:x")])
        await serve("a")
        vandal(log.book(BOOK))
        await serve("b")

    with listening(Marks()):
        try:
            clock.run(main)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
    return log.book(BOOK)


def _delete_inputs(book: MemoryBook) -> None:
    book.inputs = MemoryStream()


def _delete_inputs_and_snapshots(book: MemoryBook) -> None:
    book.inputs = MemoryStream()
    book.snapshots.clear()


def _trim_undecided(book: MemoryBook) -> None:
    last = book.inputs.last
    book.inputs.add((last[0] + 500, 0), book.inputs.entries[-1])
    book.inputs.trim((last[0] + 501, 0))


def _lose_the_outcomes(book: MemoryBook) -> None:
    book.outcomes = MemoryStream()


def _trim_everything(book: MemoryBook) -> None:
    book.inputs.trim((book.inputs.last[0] + 1, 0))


def _lose_the_record(book: MemoryBook) -> None:
    book.record = CommitRecord()
    book.snapshots.clear()


def _alter_the_snapshot(book: MemoryBook) -> None:
    newest = book.snapshots[-1]
    book.snapshots[-1] = Snapshot(newest.position, newest.version, "ab" * 16, newest.state)


def _put_back_what_cannot_be_followed(book: MemoryBook) -> None:
    book.snapshots = [msgspec.structs.replace(book.snapshots[0], position="1-0")]
    book.inputs.trim(book.inputs.ids[2])


@pytest.mark.parametrize(
    ("vandal", "error", "says"),
    [
        (_delete_inputs, LogTrimmedError, "begun anew"),
        (_delete_inputs_and_snapshots, DivergedError, "restore them, or start from a snapshot"),
        (_trim_everything, LogTrimmedError, "bring the stream back from a backup"),
        (_lose_the_record, ForeignDataError, "somebody else writes to our keys"),
        (_alter_the_snapshot, DivergedError, "holdfast check demo"),
        (_put_back_what_cannot_be_followed, LogTrimmedError, "trimmed away"),
    ],
)
def test_what_destroys_a_log_ends_its_service_with_a_way_out(
    vandal: Callable[[MemoryBook], None], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        _live(vandal)


def test_a_stream_of_actions_that_was_deleted_is_begun_anew_and_its_calls_are_asked_for() -> None:
    """The takeover asks what became of every call under way, so that none waits for ever."""

    def vandal(book: MemoryBook) -> None:
        assert len(book.payments.entries) == 3  # as many as one customer may hold
        book.payments = MemoryStream()

    book = _live(vandal)
    asked = [entry.type for entry in book.payments.entries]
    assert asked[:3] == ["check_status"] * 3


@pytest.mark.parametrize(
    ("vandal", "says"),
    [
        (_delete_inputs, "it was deleted and begun anew"),
        (_trim_undecided, "were trimmed away"),
        (_lose_the_record, "somebody else writes to our keys"),
        (_lose_the_outcomes, ""),
    ],
)
def test_what_destroys_a_book_beside_its_owner_is_said_and_the_other_book_goes_on(
    vandal: Callable[[MemoryBook], None], says: str
) -> None:
    """Outcomes are only written, so without those that were deleted both books go on."""
    clock = WorldClock()
    log = MemoryLog(clock)
    lines: list[str] = []

    def take(_logger: object, _method: str, event: MutableMapping[str, object]) -> str:
        lines.append(f"{event.get('event')} {event.get('book')} {event.get('why')}")
        raise structlog.DropEvent

    async def ask(book: str, number: int) -> None:
        body = wire.encode_message(m.RequestAuto("checkup", customer=f"K{number}"))
        await log.append(book, [NewInput("request_auto", body, f"k{number}", "service:x")])
        await trio.sleep(1)

    async def serve(stop: trio.Event) -> None:
        """As its supervisor does: an owner that ends is followed by another one."""
        for life in range(3):
            options = BookingOptions(wait_s=1.0)
            try:
                await run_booking(log, clock, owner=f"o{life}", options=options, stop=stop)
            except (LogError, DivergedError) as error:
                lines.append(f"ended {error}")
            else:
                return

    async def main() -> None:
        stop = trio.Event()
        body = wire.encode_message(PRACTICE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, stop)
            for book in (BOOK, "other"):
                await log.append(book, [NewInput("define_practice", body, "p", "service:x")])
                await ask(book, 0)
            vandal(log.book(BOOK))
            for number in range(1, 4):
                await ask(BOOK, number)
                await ask("other", number)
            await trio.sleep(5)
            stop.set()

    before = structlog.get_config()
    structlog.configure(processors=[take], cache_logger_on_first_use=False)
    try:
        clock.run(main)
    finally:
        structlog.configure(**before)
    other = log.book("other")
    assert parse_id(other.record.position) == other.inputs.last
    assert [one.status for one in other.outcomes.entries].count("accepted") >= 5
    spoilt = log.book(BOOK)
    if says:
        assert any(line.startswith(f"book_given_up {BOOK} ") and says in line for line in lines)
    else:
        assert parse_id(spoilt.record.position) == spoilt.inputs.last
        assert not any("given_up" in line for line in lines)
