"""What tests of the booking actor share: a practice, a clock, a log that fails, and how to look at both."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.invariants import full_scan
from holdfast.actors.booking.loading import order
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.ports import GENESIS, NewInput

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from holdfast.actors.ports import ActionEntry, Log, OutcomeEntry
    from holdfast.transport.memory_log import MemoryLog

BEGIN_MS = 1_764_547_200_000  # 2025-12-01, a Monday, 01:00 in Berlin
HOUR_MS = 3_600_000
BOOK = "demo"

PRACTICE = m.DefinePractice(
    name="Practice",
    zone="Europe/Berlin",
    currency="EUR",
    services=[m.Service("checkup", "Checkup", 30, 7_500)],
    staff=[m.Staff("s1", "First")],
    hours={"1": [("09:00", "12:00")], "2": [("09:00", "12:00")]},
)


class VirtualClock:
    """Trio's time, which tests let jump, as milliseconds since the epoch; *ahead_ms* of the right one."""

    def __init__(self, ahead_ms: int = 0) -> None:
        self._origin_s = trio.current_time()
        self.ahead_ms = ahead_ms

    def now_ms(self) -> int:
        return BEGIN_MS + round((trio.current_time() - self._origin_s) * 1000) + self.ahead_ms


class Crash(BaseException):
    """The process dies here."""


class FailingLog:
    """Makes one call of a log fail: the *at*-th of all calls.

    Args:
      log: The real one.
      at: Which call, from 1; 0 for none.
      error: What is raised.
      after: Whether the call has had its effect by then.
      only: Only a call of this method fails; "" for any.
      never: A call of this method does not fail.
    """

    def __init__(
        self,
        log: Log,
        at: int,
        error: BaseException,
        after: bool,
        only: str = "",
        never: str = "",
    ) -> None:
        self._log = log
        self._at = at
        self._error = error
        self._after = after
        self._only = only
        self._never = never
        self.calls = 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method of the port
        real = getattr(self._log, name)

        async def call(*args: object, **kwargs: object) -> object:
            self.calls += 1
            fails = self.calls == self._at and name != self._never and self._only in ("", name)
            if fails and not self._after:
                raise self._error
            result = await real(*args, **kwargs)
            if fails:
                raise self._error
            return result

        return call


def new(command: m.Command, key: str, by: str = "service:web") -> NewInput:
    """A command as an input."""
    return NewInput(wire.TYPES[type(command)], wire.encode_message(command), key=key, by=by)


def result_of(action: ActionEntry, status: str) -> NewInput:
    """The result of a payment action, as the payment actor posts it."""
    payment = msgspec.json.decode(action.body)["payment"]
    body = m.PaymentResult(action.action, payment, status)  # type: ignore[arg-type]
    return NewInput("payment_result", wire.encode_message(body), by="service:payment")


async def booking_actor(
    log: Log, clock: VirtualClock, stop: trio.Event, owner: str = "a", place: str = ""
) -> None:
    """Run the booking actor."""
    await run_booking(log, clock, owner=owner, options=BookingOptions(), stop=stop, place=place)


async def wait_decided(log: Log, book: str, entry_id: str) -> OutcomeEntry:
    """The outcome of an input, once it is there."""
    at = GENESIS
    while True:
        for outcome in (await log.read_outcomes({book: at}, 1_000, 60.0)).get(book, []):
            at = outcome.id
            if at == entry_id:
                return outcome


async def every(
    read: Callable[[dict[str, str], int, float], Awaitable[dict[str, list[Any]]]], book: str
) -> list[Any]:
    """All entries of one of the log's streams."""
    return [entry async for entry in _each(read, book)]


async def _each(
    read: Callable[[dict[str, str], int, float], Awaitable[dict[str, list[Any]]]], book: str
) -> AsyncIterator[Any]:
    at = GENESIS
    while found := (await read({book: at}, 500, 0.0)).get(book):
        for entry in found:
            yield entry
        at = found[-1].id


async def assert_sound(log: MemoryLog, book: str) -> BookRunner:
    """One outcome for each input, the same that a replay gives; each action once; no rule broken."""
    inputs = await every(log.read_inputs, book)
    outcomes = await every(log.read_outcomes, book)
    record = await log.read_record(book)
    decided = [entry for entry in inputs if order(entry.id) <= order(record.position)]
    runner = BookRunner(book)
    replayed = runner.decide(decided)
    assert outcomes == replayed.outcomes
    assert runner.digest == record.digest
    assert full_scan(runner.state) == []
    held = log.book(book)
    actions = held.payments.entries + held.notifications.entries
    assert sorted(actions, key=lambda a: order(a.id)) == sorted(
        replayed.payments + replayed.notifications, key=lambda a: order(a.id)
    )
    assert max(Counter(action.id for action in actions).values(), default=1) == 1
    return runner


MONDAY_TEN = "2025-12-01T10:00"
