"""The booking machine and the reference model, side by side, on whatever Hypothesis thinks of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.invariants import check_touched, full_scan
from holdfast.actors.booking.machine import BookingMachine
from holdfast.machine import Completed, Emit, Normal
from holdfast.machine.audit import Audited
from holdfast.sim.tier1.checks import ViolationError, compare_answer, compare_book
from holdfast.sim.tier1.model import Model
from holdfast.sim.tier1.scenarios import BEGIN_MS, SERVICES

from .planted import PLANTED  # noqa: TID251 - the tests' own package sim

if TYPE_CHECKING:
    from holdfast.actors.booking.wire import BookingInput
    from holdfast.sim.tier1.till import Status

PROFILE = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=150,
    stateful_step_count=50,
    print_blob=False,
)

_NIGHT: list[m.TimeRange] = [("01:15", "04:00")]
_DAY: list[m.TimeRange] = [("09:00", "10:30"), ("14:00", "15:00")]
_LONG: list[m.TimeRange] = [("08:00", "11:00"), ("11:00", "16:00")]
_WEEKS: list[dict[str, list[m.TimeRange]]] = [
    dict.fromkeys("0123456", _DAY),
    {"0": _NIGHT, **dict.fromkeys("12345", _LONG)},
]


def _practice(
    staff: list[str],
    own: str,
    zone: str,
    grid_min: int,
    week: dict[str, list[m.TimeRange]],
    services: int,
    policies: m.Policies,
) -> m.DefinePractice:
    """A practice in which *own*, if there is such a member, has hours of their own."""
    hours: dict[str, list[m.TimeRange]] = {"5": _DAY, "0": _NIGHT}
    members = [m.Staff(name, name, hours if own == name else None) for name in staff]
    offered = list(SERVICES[:services])
    return m.DefinePractice("Practice", zone, "EUR", offered, members, week, grid_min, policies)


PRACTICES = st.builds(
    _practice,
    staff=st.sampled_from([["ann"], ["ann", "bob"], ["bob", "ann", "cyd"]]),
    own=st.sampled_from(["", "", "ann", "bob"]),
    zone=st.sampled_from(["Europe/Berlin", "Europe/Berlin", "Europe/Rome", "Europe/London"]),
    grid_min=st.sampled_from([15, 15, 30, 20]),
    week=st.sampled_from(_WEEKS),
    services=st.sampled_from([5, 5, 5, 2]),
    policies=st.builds(
        m.Policies,
        contention=st.sampled_from(["hold", "first_payment_wins"]),
        hold_s=st.sampled_from([600, 1, 60]),
        minimum_notice_min=st.sampled_from([0, 0, 120]),
        advance_days_max=st.sampled_from([3, 0, 30]),
        cancellation_deadline_min=st.sampled_from([1_440, 0]),
        cooling_off_min=st.sampled_from([15, 0]),
        holds_per_customer_max=st.sampled_from([1, 1, 3, 0]),
        contenders_max=st.sampled_from([1_024, 1, 2]),
        late_authorization=st.booleans(),
        keep_past_days=st.sampled_from([1, 0]),
        keep_failed_h=st.sampled_from([1, 0]),
        check_settle_s=st.sampled_from([60, 0]),
    ),
)
CUSTOMERS = st.sampled_from(["K1", "K2", "K3"])
BY = st.sampled_from(
    [*["customer:K1", "customer:K2", "customer:K3"] * 3, "staff:ann", "service:web"]
)
NAMED = st.sampled_from(["", "", "", "K1", "K2"])
NAMES = st.sampled_from([service.id for service in SERVICES])
KEYS = st.sampled_from([*["fresh"] * 12, "", "same"])
STARTS = st.one_of(
    st.builds(
        "2026-{}T{}:{}".format,
        st.sampled_from(["03-26", "03-27", "03-27", "03-28", "03-29", "03-30"]),
        st.sampled_from(["09", "09", "10", "08", "14", "15", "01", "03"]),
        st.sampled_from(["00", "00", "30", "15", "20", "45"]),
    ),
    st.sampled_from(["2026-03-27T09:00", "2026-03-27T09:30", "2026-03-27T14:00"]),  # hot ones
    st.sampled_from(
        ["2026-03-29T02:30", "2026-10-25T02:30", "2026-03-27T09:07", "2026-03-27T09:00+00:00",
         "2026-13-27T09:00", "2026-03-27T08:00:30Z"]
    ),
)  # fmt: skip
DAYS: st.SearchStrategy[list[str | int]] = st.sampled_from(
    [
        [],
        [5],
        [5, 6],
        [6, 5, 0],
        ["2026-03-28", "2026-03-27"],
        ["2026-03-27", 6],
        [0],
        ["2026-02-30"],
    ]
)
RANGES: st.SearchStrategy[list[m.TimeRange]] = st.sampled_from(
    [[], [("09:00", "10:00")], [("14:00", "15:00"), ("09:00", "10:30")],
     [("10:00", "11:00"), ("08:00", "10:00")], [("02:30", "04:00")], [("10:00", "09:00")]]
)  # fmt: skip
_STATUSES: list[Status] = [
    "authorized", "authorized", "authorized", "authorized", "authorized", "authorized",
    "declined", "declined", "unknown", "unknown", "none", "pending",
    "captured", "voided", "refunded", "expired", "failed",
]  # fmt: skip
STATUSES = st.sampled_from(_STATUSES)
PAUSES = st.sampled_from([0, 0, 1, 1_000, 5_000, 60_000, 600_000, 3_600_000, 50_000_000])


class Lockstep(RuleBasedStateMachine):
    """Every rule is one input, given to both."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = BookingMachine()
        self.audited = Audited(self.machine, every=3, reemitting=m.TakenOver)
        self.book = self.machine.genesis()
        self.model = Model()
        self.now, self.inputs, self.last = BEGIN_MS, 0, "0-0"
        self.asked: list[m.Asked] = []
        self.calls: list[tuple[str, str]] = []
        self.names: list[str] = ["b1-1"]

    # -- inputs -------------------------------------------------------------------------------

    def put(self, message: m.Message | tuple[str, m.PaymentResult]) -> None:
        """Give one input to both, and compare all there is."""
        self.inputs += 1
        name = f"{self.now}-{self.inputs}"
        entry: BookingInput
        if isinstance(message, tuple):
            entry = Completed(name, self.now, *message)
        else:
            entry = Normal(name, self.now, message)
        emit: Emit[m.Action] = Emit()
        emit.begin(name)
        outcome = self.audited.transition(self.book, entry, emit)
        check_touched(self.book)
        compare_answer(self.model.take(entry), outcome, emit.actions)
        compare_book(self.model, self.book)
        self.last = name
        for emitted in emit.actions:
            if not isinstance(emitted.action, m.Notify):
                self.calls.append((emitted.id, emitted.action.payment))
        self.names += [b.id for b in self.book.touched if b.id not in self.names]

    def ask(self, command: m.Command, by: str, key: str) -> None:
        name = f"k{self.inputs}" if key == "fresh" else key
        asked = wire.asked(command, name, by)
        self.asked.append(asked)
        self.put(asked)

    @initialize(practice=PRACTICES, early=st.sampled_from([False, False, False, True]))
    def open(self, practice: m.DefinePractice, early: bool) -> None:
        if early:
            self.ask(m.RequestSlot("checkup", "2026-03-27T09:00"), "customer:K1", "early")
        self.ask(practice, "service:setup", "fresh")

    @rule(practice=PRACTICES, by=st.sampled_from(["service:setup", "customer:K1"]), pause=PAUSES)
    def define(self, practice: m.DefinePractice, by: str, pause: int) -> None:
        self.now += pause
        self.ask(practice, by, "fresh")

    @rule(
        service=NAMES,
        start=STARTS,
        staff=st.sampled_from(["", "", "ann", "bob"]),
        by=BY,
        customer=NAMED,
        key=KEYS,
        end=st.sampled_from(["", "", "", "", "2026-03-27T09:30"]),
        price=st.sampled_from([None, None, None, 7_500]),
    )
    def request(
        self, service: str, start: str, staff: str, by: str, customer: str, key: str, end: str,
        price: int | None,
    ) -> None:  # fmt: skip
        command = m.RequestSlot(service, start, customer, staff, end=end, price_cents=price)
        self.ask(command, by, key)

    @rule(
        service=NAMES,
        days=DAYS,
        ranges=RANGES,
        staff=st.sampled_from([[], [], ["ann"], ["bob", "ann"], ["nobody"]]),
        by=BY,
        customer=NAMED,
        key=KEYS,
        last=st.sampled_from(["", "", "2026-03-28", "2027-03-28"]),
    )
    def choose(
        self, service: str, days: list[str | int],
        ranges: list[m.TimeRange], staff: list[str], by: str,
        customer: str, key: str, last: str,
    ) -> None:  # fmt: skip
        self.ask(m.RequestAuto(service, days, ranges, staff, "", last, customer), by, key)

    @rule(which=st.integers(0, 9), by=BY, own=st.booleans(), key=KEYS)
    def cancel(self, which: int, by: str, own: bool, key: str) -> None:
        name = self.names[-1 - which % len(self.names)]
        if own and name in self.book.bookings:
            by = f"customer:{self.book.bookings[name].customer}"
        self.ask(m.Cancel(name), by, key)

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 9), same=st.sampled_from([True, True, False]))
    def retry(self, which: int, same: bool) -> None:
        asked = self.asked[-1 - which % len(self.asked)]
        self.put(asked if same else m.Asked(asked.command, asked.key, asked.by, "another"))

    @precondition(lambda self: self.book.in_flight)
    @rule(which=st.integers(0, 4), status=STATUSES, pause=PAUSES)
    def answer(self, which: int, status: Status, pause: int) -> None:
        self.now += pause if pause < 3_600_000 else 0
        waiting = list(self.book.in_flight.items())
        action, booking = waiting[which % len(waiting)]
        self.put((action, m.PaymentResult(action, booking.payment.id, status)))

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 9), status=STATUSES)
    def answer_late(self, which: int, status: Status) -> None:
        action, payment = self.calls[-1 - which % len(self.calls)]
        self.put((action, m.PaymentResult(action, payment, status)))

    @rule(pause=PAUSES)
    def tick(self, pause: int) -> None:
        self.now += pause
        self.put(m.Tick())

    @precondition(lambda self: self.book.next_due_ms())
    @rule(early=st.sampled_from([0, 0, 1]))
    def tick_when_due(self, early: int) -> None:
        due = self.book.next_due_ms()
        assert due is not None
        self.now = max(self.now, due - early)
        self.put(m.Tick())

    @rule()
    def crash(self) -> None:
        self.book = self.machine.decode(self.machine.encode(self.book))
        self.put(m.TakenOver(2, "owner", self.last))

    @rule(which=st.integers(0, 9))
    def report(self, which: int) -> None:
        name = self.names[-1 - which % len(self.names)]
        self.put(m.DeliveryReport("1-1:0", name, "delivered"))

    @invariant()
    def all_is_well(self) -> None:
        assert full_scan(self.book) == []


def lockstep(profile: settings = PROFILE) -> None:
    """Let Hypothesis try."""
    run_state_machine_as_test(Lockstep, settings=profile)


@pytest.mark.slow
def test_the_machine_does_what_the_model_says() -> None:
    lockstep()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first-member", "anybodys-booking", "one-hold-more"])
def test_hypothesis_finds_planted_bugs(name: str) -> None:
    """The comparison can fail. What Hypothesis tries changes with any line of ours: some need more luck."""
    bug = next(bug for bug in PLANTED if bug.name == name)
    unshrunk = settings(
        PROFILE, max_examples=3_000, phases=[Phase.generate], report_multiple_bugs=False
    )
    with bug.planted(), pytest.raises(ViolationError, match="model"):
        lockstep(unshrunk)
