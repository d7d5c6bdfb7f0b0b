"""What the tests of the booking domain share: practices, a desk that sends inputs, a provider."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from holdfast.actors.booking import wire
from holdfast.actors.booking.invariants import check_touched, full_scan
from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.booking.messages import (
    Accepted,
    Action,
    Asked,
    Cancel,
    Capture,
    CheckStatus,
    Command,
    DefinePractice,
    DeliveryReport,
    Event,
    Message,
    Notify,
    Outcome,
    PaymentResult,
    Policies,
    Preauthorize,
    Refund,
    Refused,
    RequestAuto,
    RequestSlot,
    Service,
    SlotHeld,
    SlotRequested,
    Staff,
    TakenOver,
    Tick,
    TimeRange,
    Void,
)
from holdfast.actors.ports import InputEntry
from holdfast.machine import Completed, Emit, Normal, StateMachine, Tracked, Untracked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from holdfast.actors.booking.book import Book, Booking

AnyInput = Normal[Message] | Completed[PaymentResult]
Machine = StateMachine["Book", Message, PaymentResult, Outcome, Action]
ResultStatus = Literal[
    "authorized",
    "captured",
    "voided",
    "refunded",
    "declined",
    "expired",
    "pending",
    "none",
    "unknown",
    "failed",
]
STATUSES: tuple[ResultStatus, ...] = (
    "authorized",
    "captured",
    "voided",
    "refunded",
    "declined",
    "expired",
    "pending",
    "none",
    "unknown",
    "failed",
)

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


def ms(text: str) -> int:
    """Milliseconds since the epoch of an RFC 3339 time with an offset; by datetime alone."""
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo is not None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


NOW = ms("2026-06-01T06:00+02:00")
"""A Monday, three hours before the dentist opens."""

SERVICES = [
    Service("cleaning", "Cleaning", 15, 5_000),
    Service("checkup", "Check-up", 30, 7_500),
    Service("filling", "Filling", 45, 15_000),
    Service("root-canal", "Root canal", 60, 20_000),
    Service("advice", "Advice", 15, 0),
]

HOURS: dict[str, list[TimeRange]] = {
    "1": [("09:00", "12:00"), ("14:00", "17:00")],
    "2": [("09:00", "12:00"), ("13:00", "16:00")],
    "3": [("09:00", "12:00"), ("14:00", "18:00")],
    "4": [("10:00", "13:00"), ("14:00", "17:00")],
    "5": [("09:00", "15:00")],
}
"""The dentist's week, domain U-01."""


def dentist(
    *,
    staff: Iterable[str | Staff] = ("dentist",),
    hours: dict[str, list[TimeRange]] | None = None,
    zone: str = "Europe/Berlin",
    grid_min: int = 15,
    services: list[Service] | None = None,
    currency: str = "EUR",
    **policies: Any,  # noqa: ANN401 - the fields of Policies
) -> DefinePractice:
    """The dentist's practice of S0, with other *policies*."""
    return DefinePractice(
        "Dentist",
        zone,
        currency,
        services or SERVICES,
        [who if isinstance(who, Staff) else Staff(who, who.title()) for who in staff],
        HOURS if hours is None else hours,
        grid_min,
        Policies(**policies),
    )


def slot(start: str = "2026-06-02T10:00", service: str = "checkup", **more: Any) -> RequestSlot:  # noqa: ANN401
    """An explicit request; Tuesday at ten unless told."""
    return RequestSlot(service, start, **more)


class Desk:
    """Sends inputs to one book, one at a time, and checks the invariants after each.

    Attributes:
      now: The time of the next input; tests move it.
      actions: All that was emitted, in order.
      scan: Run the full scan after each input as well.
    """

    def __init__(
        self,
        practice: DefinePractice | None = None,
        *,
        machine: Machine | None = None,
        scan: bool = True,
        now: int = NOW,
        limit: int = 4096,
    ) -> None:
        self.machine: Machine = BookingMachine() if machine is None else machine
        self.state: Book = self.machine.genesis()
        self.now = now
        self.scan = scan
        self.emit: Emit[Action] = Emit(limit)
        self.actions: list[Tracked[Action] | Untracked[Action]] = []
        self.outcome = Outcome(Accepted())
        self.inputs = 0
        self.this_id = self.last_id = "0-0"
        if practice is not None:
            defined = self.ask(practice, by="service:setup").result
            assert isinstance(defined, Accepted), defined

    # -- inputs -------------------------------------------------------------------------------

    def next_id(self) -> str:
        """The id of the next input."""
        self.inputs += 1
        self.last_id = self.this_id
        self.this_id = f"{self.now}-{self.inputs}"
        return self.this_id

    def put(self, entry: AnyInput) -> Outcome:
        """Decide one input."""
        self.emit.begin(entry.id)
        self.outcome = self.machine.transition(self.state, entry, self.emit)
        check_touched(self.state)
        if self.scan:
            assert full_scan(self.state) == []
        self.actions.extend(self.emit.actions)
        return self.outcome

    def ask(self, command: Command, by: str = "customer:K1", key: str | None = None) -> Outcome:
        """Send a command; under a key of its own unless one is given."""
        input_id = self.next_id()
        name = f"key-{input_id}" if key is None else key
        asked = wire.asked(command, name, by)
        return self.put(Normal(input_id, self.now, asked))

    def tick(self, now: int | None = None) -> Outcome:
        """Let time pass up to *now*; the next timer's time unless told."""
        due = self.state.next_due_ms() if now is None else now
        assert due is not None
        self.now = max(self.now, due)
        return self.put(Normal(self.next_id(), self.now, Tick()))

    def answer(
        self, action_id: str, status: ResultStatus, payment: str = "", reason: str = ""
    ) -> Outcome:
        """Bring the result of a payment action."""
        if not payment:
            payment = self.payment_of(action_id)
        result = PaymentResult(action_id, payment, status, reason=reason)
        return self.put(Completed(self.next_id(), self.now, action_id, result))

    def settle(self, booking: Booking, status: ResultStatus, reason: str = "") -> Outcome:
        """Answer the call that *booking*'s payment waits for."""
        payment = booking.payment
        assert payment.in_flight, payment
        return self.answer(payment.in_flight, status, payment.id, reason)

    def report(self, booking: str, status: Literal["delivered", "duplicate", "failed"]) -> Outcome:
        """Bring a delivery report."""
        report = DeliveryReport("1-1:0", booking, status)
        return self.put(Normal(self.next_id(), self.now, report))

    def take_over(self, after: str = "") -> Outcome:
        """Another booking actor takes the book over."""
        input_id = self.next_id()
        message = TakenOver(2, "token", self.last_id, after)
        return self.put(Normal(input_id, self.now, message))

    def crash(self) -> None:
        """Lose the process: all that is left is the encoded book."""
        self.state = self.machine.decode(self.machine.encode(self.state))

    # -- shortcuts ----------------------------------------------------------------------------

    def hold(self, command: Command | None = None, by: str = "customer:K1") -> Booking:
        """Ask for a slot, which must work, and give the booking."""
        outcome = self.ask(slot() if command is None else command, by)
        assert isinstance(outcome.result, Accepted), outcome.result
        return self.state.bookings[booked(outcome)]

    def confirmed(self, command: Command | None = None, by: str = "customer:K1") -> Booking:
        """The same, and its payment succeeds."""
        booking = self.hold(command, by)
        self.settle(booking, "authorized")
        assert booking.status == "confirmed", booking
        return booking

    def cancel(self, booking: Booking, by: str = "customer:K1") -> Outcome:
        """Give *booking* back."""
        return self.ask(Cancel(booking.id), by)

    # -- looking ------------------------------------------------------------------------------

    def payment_of(self, action_id: str) -> str:
        """The payment an emitted action was about."""
        for emitted in self.actions:
            if emitted.id == action_id and not isinstance(emitted.action, Notify):
                return emitted.action.payment
        raise AssertionError(f"no such action: {action_id}")

    def calls(self, payment: str = "") -> list[str]:
        """The kinds of payment calls emitted so far, of one payment or all, in order."""
        return [
            tag_of(emitted.action)
            for emitted in self.actions
            if not isinstance(emitted.action, Notify) and payment in ("", emitted.action.payment)
        ]

    def told(self) -> list[str]:
        """The kinds of notifications so far, in order."""
        return [e.action.kind for e in self.actions if isinstance(e.action, Notify)]

    def digest(self) -> bytes:
        """The book in its canonical form."""
        return self.machine.encode(self.state)


def tag_of(action: Action) -> str:
    """``preauthorize`` and so on."""
    tag = action.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def booked(outcome: Outcome) -> str:
    """The id of the booking that a request was given."""
    assert isinstance(outcome.result, Accepted), outcome.result
    first = outcome.result.events[0]
    assert isinstance(first, SlotHeld | SlotRequested), first
    return first.booking


def refused(outcome: Outcome) -> tuple[str, str]:
    """Code and sentence of a refusal."""
    assert isinstance(outcome.result, Refused), outcome.result
    return outcome.result.code, outcome.result.details


def kinds(outcome: Outcome) -> list[str]:
    """The types of an accepted outcome's events."""
    assert isinstance(outcome.result, Accepted), outcome.result
    return event_kinds(outcome.result.events)


def event_kinds(events: tuple[Event, ...]) -> list[str]:
    """The types of *events*."""
    return [str(event.__struct_config__.tag) for event in events]


class Till:
    """A small provider: one payment is in one state, and calls do what they say.

    Args:
      declines: Customers whose card is declined.
    """

    def __init__(self, declines: frozenset[str] = frozenset()) -> None:
        self.declines = declines
        self.payments: dict[str, ResultStatus] = {}
        self.holds: dict[str, set[str]] = {}  # preauthorization keys by payment

    def do(self, action: Action) -> ResultStatus:
        """Carry *action* out and say what the payment is afterwards."""
        assert not isinstance(action, Notify)
        now = self.payments.get(action.payment, "none")
        if isinstance(action, Preauthorize):
            self.holds.setdefault(action.payment, set()).add(action.key)
            if now == "none":
                now = "declined" if action.customer in self.declines else "authorized"
        elif isinstance(action, Capture) and now == "authorized":
            now = "captured"
        elif isinstance(action, Void) and now == "authorized":
            now = "voided"
        elif isinstance(action, Refund) and now == "captured":
            now = "refunded"
        else:
            assert isinstance(action, Capture | Void | Refund | CheckStatus)
        if now != "none":
            self.payments[action.payment] = now
        return now


def serve(desk: Desk, till: Till, limit: int = 100_000) -> None:
    """Carry out every payment action that waits, and those that follow, until none does."""
    done = 0
    while desk.state.in_flight:
        action_id, booking = next(iter(desk.state.in_flight.items()))
        actions = [e.action for e in desk.actions if e.id == action_id]
        desk.answer(action_id, till.do(actions[-1]), booking.payment.id)
        done += 1
        assert done < limit


# --- random runs ------------------------------------------------------------------------------


def practices(rng: random.Random, contention: str) -> DefinePractice:
    """A practice with several staff, some with own hours."""
    own: dict[str, list[TimeRange]] = {"1": [("08:00", "11:00")], "2": [("10:00", "20:00")]}
    staff: list[str | Staff] = ["ann", Staff("bob", "Bob", own), "cyd"]
    return dentist(
        staff=staff[: rng.randint(1, 3)],
        hours=HOURS if rng.random() < 0.7 else {str(day): [("09:00", "13:00")] for day in range(7)},
        grid_min=rng.choice([5, 15, 15, 20, 60]),
        contention=contention,
        hold_s=rng.choice([1, 60, 600]),
        minimum_notice_min=rng.choice([0, 0, 120]),
        advance_days_max=rng.choice([0, 3, 30]),
        cancellation_deadline_min=rng.choice([0, 1440]),
        holds_per_customer_max=rng.choice([0, 2, 3]),
        contenders_max=rng.choice([1, 3, 1024]),
        late_authorization=rng.random() < 0.7,
        keep_past_days=rng.choice([0, 1]),
        keep_failed_h=rng.choice([0, 1]),
        check_settle_s=rng.choice([0, 60]),
    )


def _some_start(rng: random.Random, now: int) -> str:
    if rng.random() < 0.1:
        return rng.choice(
            ["garbage-time-16chars", "2026-13-01T10:00", "1999-01-01T10:00Z", "2026-06-02T10:07",
             "2026-03-29T02:30", "2026-10-25T02:30", "9999-12-31T23:59Z", "2026-06-02T10:00:01Z"]
        )  # fmt: skip
    moment = datetime.fromtimestamp(now / 1000, tz=UTC) + timedelta(
        days=rng.choice([0, 0, 1, 1, 2])
    )
    return f"{moment:%Y-%m-%d}T{rng.choice([8, 9, 9, 10, 11, 14]):02d}:{rng.choice([0, 0, 15, 20, 30, 45]):02d}"


def _some_command(rng: random.Random, desk: Desk) -> Command:
    kind = rng.random()
    if kind < 0.55:
        return slot(
            _some_start(rng, desk.now),
            rng.choice(["cleaning", "checkup", "checkup", "filling", "root-canal", "advice"]),
            staff=rng.choice(["", "", "", "", "ann", "ann", "bob"]),
            customer=rng.choice(["", "", "", "K1"]),
            price_cents=rng.choice([None, None, None, 7_500]),
        )
    if kind < 0.8:
        ranges: list[TimeRange] = [("09:00", "10:30")]
        afternoon: list[TimeRange] = [("14:00", "18:00"), ("09:00", "12:00")]
        return RequestAuto(
            rng.choice(["cleaning", "checkup", "filling", "advice"]),
            rng.choice([[], [], [2, 1], [1, 2, 3, 4, 5], ["2026-06-03", 2], ["2026-06-02"]]),
            rng.choice([[], ranges, afternoon]),
            rng.choice([[], [], ["ann"], ["bob", "ann"]]),
            customer=rng.choice(["", "K1", "K3"]),
        )
    ids = list(desk.state.bookings)
    return Cancel(rng.choice(ids) if ids and rng.random() < 0.9 else "b1-1")


def random_inputs(desk: Desk, seed: int, steps: int, contention: str) -> Iterator[AnyInput]:
    """Random inputs, made of what *desk*'s book is at that moment; the caller puts them."""
    rng = random.Random(seed)
    seen: list[tuple[str, str]] = []
    past: list[Asked] = []
    for _ in range(steps):
        seen.extend(
            (i, b.payment.id)
            for i, b in desk.state.in_flight.items()
            if (i, b.payment.id) not in seen[-40:]
        )
        desk.now += rng.choice([0, 0, 0, 1, 1, 1_000, 1_000, 5_000, 5_000, 60_000, 600_000])
        if rng.random() < 0.02:
            desk.now += 2 * HOUR
        input_id, kind = desk.next_id(), rng.random()
        if kind < 0.02 or not desk.state.practices:
            command: Command = practices(rng, contention)
            asked = wire.asked(command, f"k{input_id}", "service:setup")
            yield Normal(input_id, desk.now, asked)
        elif kind < 0.45:
            command = _some_command(rng, desk)
            by = rng.choice(
                ["customer:K1", "customer:K2", "customer:K3", "staff:ann", "service:web"]
            )
            key = rng.choice(["", "same", *[f"k{input_id}"] * 18])
            asked = wire.asked(command, key, by)
            past.append(asked)
            yield Normal(input_id, desk.now, asked)
        elif kind < 0.5 and past:
            yield Normal(input_id, desk.now, rng.choice(past))
        elif kind < 0.8 and seen:
            action, payment = rng.choice(seen[-8:]) if rng.random() < 0.8 else rng.choice(seen)
            waiting = list(desk.state.in_flight.items())
            if waiting and rng.random() < 0.5:
                action, payment = waiting[0][0], waiting[0][1].payment.id
            if rng.random() < 0.05:
                payment = "p0-1"
            likely: list[ResultStatus] = ["authorized"] * 8
            result = PaymentResult(action, payment, rng.choice([*likely, *STATUSES]))
            yield Completed(input_id, desk.now, action, result)
        elif kind < 0.83:
            yield Normal(input_id, desk.now, TakenOver(1, "o", desk.last_id))
        elif kind < 0.86:
            booking = rng.choice([*desk.state.bookings, "b0-1"])
            yield Normal(input_id, desk.now, DeliveryReport("1-1:0", booking, "delivered"))
        else:
            if rng.random() < 0.5:
                desk.now = max(desk.now, desk.state.next_due_ms() or 0)
                input_id = desk.next_id()
            yield Normal(input_id, desk.now, Tick())


def run(desk: Desk, seed: int, steps: int, contention: str) -> None:
    """Put random inputs."""
    for entry in random_inputs(desk, seed, steps, contention):
        desk.put(entry)


def as_entry(entry: AnyInput) -> InputEntry:
    """The entry of the log that means *entry*."""
    if isinstance(entry, Completed):
        body = msgspec.json.encode(entry.result)
        return InputEntry(entry.id, "payment_result", body, by="service:payment")
    message = entry.message
    if isinstance(message, Asked):
        kind, body = wire.TYPES[type(message.command)], wire.encode_message(message.command)
        return InputEntry(entry.id, kind, body, message.key, message.by)
    return InputEntry(
        entry.id, wire.TYPES[type(message)], wire.encode_message(message), by="service:booking"
    )


def entries_of_random_run(seed: int, steps: int, contention: str = "hold") -> list[InputEntry]:
    """A random run as entries of the log."""
    desk = Desk(scan=False)
    found: list[InputEntry] = []
    for entry in random_inputs(desk, seed, steps, contention):
        found.append(as_entry(entry))
        desk.put(entry)
    return found
