"""A crowd of customers for measurements: a seeded stream of inputs that keeps a book busy.

The mix resembles a practice's day: requests for named slots (many of them taken, closed or outside
hours, so that 30 to 70 % are accepted), auto-selections, cancellations, and for every payment call
its result, for every message its delivery report. Recorded once, it can be replayed and timed
without the generator's own cost.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.booking.zones import DAY_MS, MINUTE_MS, Zone, load
from holdfast.machine import Completed, Emit, Normal

if TYPE_CHECKING:
    from holdfast.actors.booking.book import Book
    from holdfast.actors.booking.wire import BookingInput

ZONE = "Europe/Berlin"
BEGIN_MS = 1_764_547_200_000  # 2025-12-01, a Monday
_HOURS: dict[str, list[m.TimeRange]] = {
    str(weekday): [("09:00", "12:00"), ("14:00", "17:00")] for weekday in range(1, 6)
}
_RESULTS = {"capture": "captured", "void": "voided", "refund": "refunded"}


def practice(staff: int) -> m.DefinePractice:
    """A practice with *staff* people."""
    return m.DefinePractice(
        name="Practice",
        zone=ZONE,
        currency="EUR",
        services=[
            m.Service("cleaning", "Cleaning", 15, 5_000),
            m.Service("checkup", "Checkup", 30, 7_500),
        ],
        staff=[m.Staff(f"s{n}", f"Member {n}") for n in range(staff)],
        hours=_HOURS,
        policies=m.Policies(advance_days_max=3_660),
    )


def slots(days: int, first_day: int = 1, begin_ms: int = BEGIN_MS) -> list[str]:
    """Half-hour starts from half past eight to five of working days ahead, as RFC 3339 text."""
    zone = Zone(load(ZONE))
    first = begin_ms // DAY_MS
    return [
        zone.text(zone.day_start(first + day) + minute * MINUTE_MS)
        for day in range(first_day, days)
        if (first + day + 4) % 7 in range(1, 6)
        for minute in range(8 * 60 + 30, 17 * 60, 30)
    ]


class Crowd:
    """Makes inputs, decides them on a book of its own, and records them.

    Args:
      seed: Same seed, same inputs.
      staff: People at the practice.
      days: How far ahead customers book.
      named_staff: Whether customers ask for a certain person.
      begin_ms: When the first input comes.
    """

    def __init__(
        self,
        seed: int,
        staff: int = 3,
        days: int = 60,
        named_staff: bool = False,
        begin_ms: int = BEGIN_MS,
    ) -> None:
        self._random = random.Random(seed)
        self.machine = BookingMachine()
        self.book: Book = self.machine.genesis()
        self.emit: Emit[m.Action] = Emit()
        self.inputs: list[BookingInput] = []
        self.accepted = 0
        self.asked = 0
        self._begin_ms = begin_ms
        self._slots = slots(days, begin_ms=begin_ms)
        self._staff = staff if named_staff else 0
        self._now = begin_ms
        self._results: deque[tuple[str, m.PaymentResult]] = deque()
        self._reports: deque[m.DeliveryReport] = deque()
        self._booked: list[tuple[str, str]] = []
        self._ask(practice(staff), "service:bench")

    def run(self, count: int, cancel: float = 0.15) -> None:
        """Make *count* more inputs."""
        end = len(self.inputs) + count
        while len(self.inputs) < end:
            self._now += self._random.randrange(2_000)
            if self._results:
                action_id, result = self._results.popleft()
                self._step(Completed(self._id(), self._now, action_id, result))
            elif self._reports:
                self._step(Normal(self._id(), self._now, self._reports.popleft()))
            else:
                self._customer(cancel)

    def fill(self, bookings: int, first_day: int) -> None:
        """Confirm *bookings* bookings from day *first_day* on, without recording the inputs."""
        recorded, self.inputs = self.inputs, []
        book = self.book
        staff = [member.id for member in book.practices[0].members]
        for text in slots(3_600, first_day, self._begin_ms):
            for name in staff:
                if len(book.bookings) >= bookings:
                    self.inputs = recorded
                    return
                self._now += 1
                command = m.RequestSlot("checkup", text, staff=name)
                self._ask(command, f"customer:F{len(book.bookings)}")
                while self._results:
                    action_id, result = self._results.popleft()
                    paid = m.PaymentResult(action_id, result.payment, "authorized")
                    self._step(Completed(self._id(), self._now, action_id, paid))
                self._reports.clear()
        raise ValueError("the practice has no room for so many bookings")

    def _customer(self, cancel: float) -> None:
        draw = self._random.random()
        customer = f"customer:K{self._random.randrange(20_000)}"
        if draw < cancel and self._booked:
            at = self._random.randrange(len(self._booked))
            self._booked[at], self._booked[-1] = self._booked[-1], self._booked[at]
            booking, owner = self._booked.pop()
            self._ask(m.Cancel(booking), owner)
        elif draw < cancel + 0.1:
            days: list[str | int] = [self._random.randrange(1, 6), self._random.randrange(1, 6)]
            self._ask(m.RequestAuto("checkup", days=days, ranges=[("09:00", "12:00")]), customer)
        else:
            named = f"s{self._random.randrange(self._staff)}" if self._staff else ""
            start = self._random.choice(self._slots)
            self._ask(m.RequestSlot("checkup", start, staff=named), customer)

    def _ask(self, command: m.Command, by: str) -> None:
        key = f"k{len(self.inputs)}"
        self._step(Normal(self._id(), self._now, wire.asked(command, key, by)), by)

    def _id(self) -> str:
        return f"{self._now}-{len(self.inputs)}"

    def _step(self, made: BookingInput, by: str = "") -> None:
        self.inputs.append(made)
        self.emit.begin(made.id)
        outcome = self.machine.transition(self.book, made, self.emit)
        if by:
            self.asked += 1
            self.accepted += type(outcome.result) is m.Accepted
        if type(outcome.result) is m.Accepted:
            for event in outcome.result.events:
                if type(event) is m.BookingConfirmed:
                    owner = self.book.bookings[event.booking].customer
                    self._booked.append((event.booking, f"customer:{owner}"))
        for emitted in self.emit.actions:
            action = emitted.action
            if isinstance(action, m.Notify):
                self._reports.append(m.DeliveryReport(emitted.id, action.booking, "delivered"))
                continue
            if isinstance(action, m.Preauthorize):
                status = "declined" if self._random.random() < 0.1 else "authorized"
            else:
                status = _RESULTS.get(str(action.__struct_config__.tag), "authorized")
            result = m.PaymentResult(emitted.id, action.payment, status)  # type: ignore[arg-type]
            self._results.append((emitted.id, result))
