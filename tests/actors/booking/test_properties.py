"""What holds for any history: invariants in both forms, one canonical book, the machine's rules."""

from __future__ import annotations

import random
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.actors.booking import book, payments
from holdfast.actors.booking import runner as runner_module
from holdfast.actors.booking.invariants import InvariantError, check_touched, full_scan
from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.booking.messages import Action, RequestAuto, TakenOver, TimeRange
from holdfast.actors.booking.runner import BookBugError, BookRunner, VersionError
from holdfast.machine import Emit
from holdfast.machine.audit import Audited
from holdfast.machine.processes import check_across_processes

from .world import (
    DAY,
    HOUR,
    Desk,
    Till,
    dentist,
    entries_of_random_run,
    ms,
    random_inputs,
    run,
    serve,
    slot,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.actors.booking.book import Booking
    from holdfast.actors.ports import ActionEntry, OutcomeEntry, Snapshot

PROFILE = settings(derandomize=True, deadline=None, max_examples=60, database=None)
SEEDS = st.integers(0, 2**32)
POLICIES = st.sampled_from(["hold", "first_payment_wins"])


@pytest.mark.slow
@PROFILE
@given(SEEDS, POLICIES)
def test_the_invariants_hold_after_every_input(seed: int, contention: str) -> None:
    """Garbage times, retries, ticks, any result in any order, changes of the practice."""
    run(Desk(scan=True), seed, 150, contention)


@pytest.mark.slow
@settings(PROFILE, max_examples=30)
@given(SEEDS, POLICIES)
def test_after_the_faults_stop_everything_comes_to_an_end(seed: int, contention: str) -> None:
    """Liveness, 7.8 (15): with a provider that answers, no hold and no open payment remains."""
    desk, till = Desk(), Till()
    run(desk, seed, 120, contention)
    for booking in desk.state.bookings.values():
        if booking.payment.observed in ("authorized", "captured"):
            till.payments[booking.payment.id] = booking.payment.observed
    for _ in range(2_000):
        serve(desk, till)
        if desk.state.next_due_ms() is None:
            break
        desk.tick()
    assert desk.state.bookings == {}
    assert desk.state.sheets == {}
    assert desk.state.in_flight == {}
    assert set(till.payments.values()) <= {"captured", "voided", "refunded", "declined"}


@pytest.mark.slow
@pytest.mark.parametrize("contention", ["hold", "first_payment_wins"])
@pytest.mark.parametrize("seed", range(10))
def test_the_machine_keeps_every_rule_of_the_framework(seed: int, contention: str) -> None:
    audited = Audited(BookingMachine(), reemitting=TakenOver)
    desk = Desk(machine=audited, scan=False)
    run(desk, seed, 80, contention)
    assert audited.steps >= 80
    few: Emit[Action] = Emit(4)
    complete = audited.restore(desk.state, few)
    assert complete is (len(desk.state.in_flight) <= 4)


@pytest.mark.slow
@settings(PROFILE, max_examples=25)
@given(SEEDS, POLICIES)
def test_a_book_from_its_snapshot_goes_on_as_the_one_that_went_on(
    seed: int, contention: str
) -> None:
    """At every point of the run: same outcomes, actions and digests, to the end."""
    live = Desk(scan=False)
    copies: list[Desk] = []
    rng = random.Random(seed)
    for number, entry in enumerate(random_inputs(live, seed, 100, contention)):
        if number % 9 == 0:
            copy = Desk(scan=False)
            copy.state = copy.machine.decode(live.digest())
            copies.append(copy)
            if len(copies) > 4:
                del copies[rng.randrange(len(copies))]
        outcome = live.put(entry)
        after = live.digest()
        for copy in copies:
            assert copy.put(entry) == outcome
            assert copy.emit.actions == live.emit.actions
            assert copy.digest() == after
            assert copy.state.next_due_ms() == live.state.next_due_ms()
            assert full_scan(copy.state) == []


# --- corruption ---------------------------------------------------------------------------------


def _overlap(desk: Desk, booking: Booking) -> None:
    sheet = desk.state.sheets[booking.staff, booking.day]
    sheet.minutes += booking.duration_min  # as two bookings in the same minutes would


def _unoccupied(desk: Desk, booking: Booking) -> None:
    desk.state.sheets[booking.staff, booking.day].taken &= ~booking.mask


def _no_sheet(desk: Desk, booking: Booking) -> None:
    del desk.state.sheets[booking.staff, booking.day]


def _outside(desk: Desk, booking: Booking) -> None:
    booking.first -= 600


def _another_minute(desk: Desk, booking: Booking) -> None:
    booking.start_ms += 60_000


def _not_as_asked(desk: Desk, booking: Booking) -> None:
    booking.asked_ms += 900_000


def _not_preferred(desk: Desk, booking: Booking) -> None:
    booking.auto = RequestAuto("checkup", [1])


def _not_that_date(desk: Desk, booking: Booking) -> None:
    booking.auto = RequestAuto("checkup", ["2026-06-03"])


def _not_that_range(desk: Desk, booking: Booking) -> None:
    booking.auto = RequestAuto("checkup", [2], [("09:00", "10:15"), ("10:15", "12:00")])


def _not_that_staff(desk: Desk, booking: Booking) -> None:
    booking.auto = RequestAuto("checkup", staff=["bob"])


def _no_end(desk: Desk, booking: Booking) -> None:
    booking.due_ms += 1


def _unpaid(desk: Desk, booking: Booking) -> None:
    booking.payment.observed = "declined"


def _unwanted(desk: Desk, booking: Booking) -> None:
    booking.payment.desired = "released"


def _two_ways(desk: Desk, booking: Booking) -> None:
    booking.payment.in_flight, booking.payment.due_ms = "1-1:0", 1
    desk.state.in_flight["1-1:0"] = booking


def _unknown_call(desk: Desk, booking: Booking) -> None:
    booking.payment.in_flight = "1-1:0"


def _nobody_asks(desk: Desk, booking: Booking) -> None:
    booking.payment.observed = "unknown"


CONFIRMED: list[tuple[Callable[[Desk, Booking], None], str]] = [
    (_overlap, "1 "),
    (_unoccupied, "1 calendar"),
    (_no_sheet, "1 calendar"),
    (_outside, "2 hours"),
    (_another_minute, "2 hours"),
    (_not_as_asked, "10 request"),
    (_not_preferred, "10 preferences"),
    (_not_that_date, "10 preferences"),
    (_not_that_range, "10 preferences"),
    (_not_that_staff, "10 preferences"),
    (_no_end, "3 timer"),
    (_unpaid, "4 confirmed"),
    (_unwanted, "5 desired"),
    (_two_ways, "7 calls"),
    (_unknown_call, "7 calls"),
    (_nobody_asks, "5 payment"),
]


@pytest.mark.parametrize(("corrupt", "rule"), CONFIRMED, ids=[c[0].__name__ for c in CONFIRMED])
def test_both_forms_notice_a_planted_corruption(
    corrupt: Callable[[Desk, Booking], None], rule: str
) -> None:
    desk = Desk(dentist(staff=["ann", "bob"]))
    booking = desk.confirmed(slot("2026-06-02T10:00"))
    desk.confirmed(slot("2026-06-02T13:00"), "customer:K2")
    corrupt(desk, booking)
    problems = full_scan(desk.state)
    assert any(problem.startswith(rule) for problem in problems), problems
    desk.state.touched = [booking]
    with pytest.raises(InvariantError, match=rule):
        check_touched(desk.state)


def test_both_forms_notice_two_bookings_in_the_same_minutes() -> None:
    desk = Desk(dentist())
    first = desk.hold()
    second = desk.hold(slot("2026-06-02T11:00"), "customer:K2")
    desk.state._leave(second)  # pyright: ignore[reportPrivateUsage]
    second.first, second.start_ms, second.asked_ms = first.first, first.start_ms, first.asked_ms
    desk.state._enter(second)  # pyright: ignore[reportPrivateUsage]
    assert any(problem.startswith("1 overlap") for problem in full_scan(desk.state))
    for booking in (first, second):
        desk.state.touched = [booking]
        with pytest.raises(InvariantError, match="1 overlap"):
            check_touched(desk.state)


def test_both_forms_notice_a_hold_without_a_deadline_and_a_leak() -> None:
    desk = Desk(dentist())
    held, cancelled = desk.hold(), desk.hold(slot("2026-06-02T11:00"), "customer:K2")
    desk.cancel(cancelled, "customer:K2")
    held.due_ms = held.start_ms + 1
    cancelled.payment.desired = "authorized"
    problems = full_scan(desk.state)
    desk.state.touched = [held, cancelled]
    with pytest.raises(InvariantError) as seen:
        check_touched(desk.state)
    for rule in ("3 timer", "5 desired"):
        assert rule in str(seen.value)
        assert any(problem.startswith(rule) for problem in problems)


def test_the_full_scan_compares_every_index() -> None:
    """The incremental form looks at what an input touched; indexes at large are the scan's."""
    corruptions: list[tuple[Callable[[Desk, Booking], object], str]] = [
        (lambda d, b: d.state.customer_holds.clear(), "index: holds"),
        (lambda d, b: d.state.contenders.clear(), "index: contenders"),
        (lambda d, b: d.state.in_flight.clear(), "index: payments in flight"),
        (lambda d, b: d.state.customer_days.clear(), "index: customers' days"),
        (lambda d, b: d.state.timers.clear(), "3 timer"),
        (lambda d, b: d.state.sheets.update({("ann", 1): next(iter(d.state.sheets.values()))}),
         "1 calendar: ann is taken on day 1 by nobody"),
    ]  # fmt: skip
    for corrupt, rule in corruptions:
        desk = Desk(dentist(contention="first_payment_wins"))
        desk.confirmed(by="customer:K2")
        booking = desk.hold(slot("2026-06-02T11:00"))
        corrupt(desk, booking)
        assert any(problem.startswith(rule) for problem in full_scan(desk.state)), rule
    desk = Desk(dentist())
    booking = desk.hold()
    desk.settle(booking, "unknown")
    desk.state.timers.clear()
    assert any(problem.startswith("5 timer") for problem in full_scan(desk.state))


# --- the runner ---------------------------------------------------------------------------------


def _decided(
    runner: BookRunner, size: int, seed: int
) -> tuple[list[OutcomeEntry], list[ActionEntry], str, bytes]:
    entries = entries_of_random_run(seed, 120)
    outcomes: list[OutcomeEntry] = []
    actions: list[ActionEntry] = []
    for start in range(0, len(entries), size):
        decided = runner.decide(entries[start : start + size])
        outcomes += decided.outcomes
        actions += decided.payments + decided.notifications
        if size == 7:
            runner = BookRunner("b", runner.snapshot())
    return outcomes, sorted(actions, key=lambda a: a.id), runner.digest, runner.snapshot().state


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_batches_single_entries_and_snapshots_give_the_same(seed: int) -> None:
    one = _decided(BookRunner("b"), 1, seed)
    assert _decided(BookRunner("b"), 1_000, seed) == one
    assert _decided(BookRunner("b"), 7, seed) == one
    assert len(one[0]) == 120
    assert _decided(BookRunner("b", check=False), 64, seed) == one


@pytest.mark.slow
@pytest.mark.parametrize("contention", ["hold", "first_payment_wins"])
@pytest.mark.parametrize("piece_items", [1, 3, 1_024])
def test_a_snapshot_is_the_book_encoded_anew_and_stays_so(
    monkeypatch: pytest.MonkeyPatch, piece_items: int, contention: str
) -> None:
    """It is made of what earlier inputs left, and may be written long after the book went on."""
    monkeypatch.setattr(book, "PIECE_ITEMS", piece_items)
    runner = BookRunner("b")
    taken: list[tuple[Snapshot, bytes]] = []
    sizes: list[int] = []
    for number, entry in enumerate(entries_of_random_run(3, 400, contention)):
        runner.decide([entry])
        taken.append((runner.snapshot(), runner.machine.encode(runner.state)))
        sizes.append(len(runner.state.bookings))
        if number % 40 == 39:
            runner = BookRunner("b", runner.snapshot())
    assert max(sizes) > 16  # a list's head is longer then
    assert any(later < sooner for sooner, later in pairwise(sizes))  # some left the book
    for snapshot, state in taken:
        assert snapshot.state == state


def test_a_replay_checks_nothing_anew_and_what_is_decided_after_it_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = entries_of_random_run(5, 60)
    live, again = BookRunner("b"), BookRunner("b")
    live.decide(entries[:40])

    def broken(_: object) -> None:
        raise InvariantError("1 overlap")

    monkeypatch.setattr(runner_module, "check_touched", broken)
    again.replay(entries[:40])
    assert again.snapshot() == live.snapshot()
    with pytest.raises(BookBugError, match="1 overlap"):
        again.decide(entries[40:])


def test_a_snapshot_of_another_version_is_refused() -> None:
    snapshot = BookRunner("b").snapshot()
    other = type(snapshot)(snapshot.position, 99, "", snapshot.state)
    with pytest.raises(VersionError, match="drain with the old release"):
        BookRunner("b", other)


def digest_of_a_run() -> str:
    """For other processes: the hash chain's last link and the state's digest."""
    runner = BookRunner("b")
    for contention in ("hold", "first_payment_wins"):
        runner = BookRunner("b")
        runner.decide(entries_of_random_run(5, 150, contention))
    return runner.digest


@pytest.mark.slow
def test_digests_are_equal_whatever_the_hash_seed() -> None:
    path = [str(Path(__file__).parents[1])]
    found = check_across_processes("booking.test_properties:digest_of_a_run", path=path)
    assert found == digest_of_a_run()


# --- cost ---------------------------------------------------------------------------------------


def _calls_per_input(bookings: int) -> int:
    """How many Python and C calls a few inputs take on a book of so many bookings."""
    hours: dict[str, list[TimeRange]] = {str(day): [("00:00", "24:00")] for day in range(7)}
    staff = [f"s{n}" for n in range(20)]
    practice = dentist(staff=staff, hours=hours, advance_days_max=3_000)
    desk = Desk(practice, scan=False)
    day_ms = ms("2026-06-02T00:00+02:00")
    for number in range(bookings):
        place, who = divmod(number, 20)
        day, quarter = divmod(place, 40)
        at = desk.state.practices[0].calendar.zone.text(day_ms + day * DAY + quarter * 900_000 * 2)
        desk.confirmed(slot(at, staff=f"s{who}"), f"customer:K{number}")
    desk.tick(desk.now + HOUR)  # takes the leftovers of confirmed holds out: one each, amortized
    count = 0

    def profile(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        booking = desk.hold(slot("2026-06-20T23:00"), "customer:new")
        desk.settle(booking, "authorized")
        desk.ask(slot("2026-06-20T23:00", staff=booking.staff), "customer:late")
        desk.cancel(booking, "customer:new")
        desk.settle(booking, "voided")
        desk.tick(desk.now + HOUR)
    finally:
        sys.setprofile(None)
    assert payments.is_settled(booking.payment)
    return count


@pytest.mark.slow
def test_the_cost_of_an_input_does_not_grow_with_the_book() -> None:
    small, large = _calls_per_input(300), _calls_per_input(6_000)
    assert large <= small * 1.1 + 10, (small, large)
