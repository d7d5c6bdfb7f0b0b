"""The five integration tests of S0 (F-041), and a thousand customers for one slot."""

from __future__ import annotations

import random
from collections import Counter
from datetime import date as day_of

import pytest

from holdfast.actors.booking import views
from holdfast.actors.booking.invariants import full_scan
from holdfast.actors.booking.messages import Accepted, Preauthorize, RequestAuto, TimeRange

from .world import DAY, HOUR, NOW, Desk, Till, dentist, kinds, refused, serve, slot


def test_basic_booking_flow() -> None:
    """Request, preauthorization, confirmation; and at the end the money is taken."""
    desk, till = Desk(dentist()), Till()
    outcome = desk.ask(slot(name="Ada", email="ada@example.org"))
    assert kinds(outcome) == ["slot_held"]
    (call,) = desk.actions
    assert isinstance(call.action, Preauthorize)
    assert (call.action.amount_cents, call.action.currency) == (7_500, "EUR")
    serve(desk, till)
    assert kinds(desk.outcome) == ["payment_observed", "booking_confirmed"]
    assert desk.told() == ["confirmed"]
    (booking,) = desk.state.bookings.values()
    assert (booking.status, booking.version) == ("confirmed", 2)
    desk.tick(booking.end_ms)
    serve(desk, till)
    assert till.payments == {booking.payment.id: "captured"}
    desk.tick(booking.end_ms + 31 * DAY)
    assert desk.state.bookings == {}
    assert desk.state.sheets == {}


def test_slot_conflict() -> None:
    """Several customers, one slot; the declined one's slot is the next one's."""
    desk, till = Desk(dentist()), Till(frozenset({"K1"}))
    desk.hold(by="customer:K1")
    assert refused(desk.ask(slot(), "customer:K2"))[0] == "slot_conflict"
    assert refused(desk.ask(slot("2026-06-02T10:15"), "customer:K2"))[0] == "slot_conflict"
    serve(desk, till)
    assert desk.told() == ["declined"]
    booking = desk.hold(by="customer:K2")
    serve(desk, till)
    assert booking.status == "confirmed"
    desk.hold(slot("2026-06-02T10:30"), "customer:K3")  # half-open: back to back is no conflict
    desk.hold(slot("2026-06-02T09:30"), "customer:K4")


def test_auto_selection() -> None:
    desk = Desk(dentist())
    found = [
        desk.hold(wish, f"customer:{n}").start
        for n, wish in enumerate(
            [
                RequestAuto("checkup"),  # the first there is
                RequestAuto("checkup", [5]),
                RequestAuto("filling", [3], [("16:00", "18:00")]),
                RequestAuto("root-canal", ["2026-06-10", "2026-06-09"], [("13:30", "15:00")]),
                RequestAuto("cleaning", first="2026-06-06", last="2026-06-09"),
                RequestAuto("checkup", ["2026-06-01"]),  # after the first customer
            ]
        )
    ]
    assert found == [
        "2026-06-01T09:00+02:00",
        "2026-06-05T09:00+02:00",
        "2026-06-03T16:00+02:00",
        "2026-06-10T14:00+02:00",
        "2026-06-08T09:00+02:00",
        "2026-06-01T09:30+02:00",
    ]
    assert refused(desk.ask(RequestAuto("checkup", [6, 0])))[0] == "no_slot_found"


def test_invariants_after_operations() -> None:
    """The desk checks all rules after each input, incrementally and by a full scan."""
    rng = random.Random(7)
    desk, till = Desk(dentist(holds_per_customer_max=0)), Till(frozenset({"K3"}))
    for number in range(300):
        at = f"2026-06-0{rng.randint(2, 5)}T{rng.randint(9, 17):02d}:{rng.choice(['00', '15', '30'])}"
        service = rng.choice(["cleaning", "checkup", "filling", "root-canal"])
        desk.ask(slot(at, service), f"customer:K{number % 7}")
        if rng.random() < 0.3:
            serve(desk, till)
        if rng.random() < 0.2 and desk.state.bookings:
            desk.cancel(rng.choice(list(desk.state.bookings.values())), "staff:dentist")
        desk.now += 1_000
    serve(desk, till)
    assert full_scan(desk.state) == []
    status = Counter(booking.status for booking in desk.state.bookings.values())
    assert {"confirmed", "cancelled", "payment_failed"} == set(status)
    for booking in desk.state.bookings.values():
        wanted = "authorized" if booking.status == "confirmed" else ("voided", "declined")
        assert booking.payment.observed in wanted


def test_booking_preferences_honored() -> None:
    """Every booking lies inside what its customer asked for."""
    rng = random.Random(11)
    desk = Desk(dentist(staff=["ann", "bob"], holds_per_customer_max=0), scan=False)
    wishes: dict[str, RequestAuto] = {}
    for number in range(250):
        days: list[str | int] = list(rng.sample(range(7), rng.randint(0, 3)))
        begin = rng.randint(8, 15)
        ranges: list[TimeRange] = [(f"{begin:02d}:00", f"{begin + rng.randint(1, 3):02d}:30")]
        wish = RequestAuto(
            rng.choice(["cleaning", "checkup", "filling"]),
            days,
            ranges if rng.random() < 0.8 else [],
            rng.choice([[], ["ann"]]),
        )
        outcome = desk.ask(wish, f"customer:K{number}")
        if isinstance(outcome.result, Accepted):
            wishes[f"K{number}"] = wish
    assert len(wishes) > 100
    for booking in desk.state.bookings.values():
        wish = wishes[booking.customer]
        date, clock = booking.start[:10], booking.start[11:16]
        weekday = day_of.fromisoformat(date).isoweekday() % 7
        assert not wish.days or weekday in wish.days
        assert not wish.staff or booking.staff in wish.staff
        end_min = int(clock[:2]) * 60 + int(clock[3:]) + booking.duration_min
        end = f"{end_min // 60:02d}:{end_min % 60:02d}"
        assert not wish.ranges or any(a <= clock and end <= b for a, b in wish.ranges)


@pytest.mark.slow
@pytest.mark.parametrize("contention", ["hold", "first_payment_wins"])
def test_a_thousand_customers_for_one_slot(contention: str) -> None:
    """One is confirmed; nobody else's money stays on hold."""
    desk, till = Desk(dentist(contention=contention), scan=False), Till()
    accepted = 0
    for number in range(1_000):
        outcome = desk.ask(slot(), f"customer:K{number}")
        accepted += isinstance(outcome.result, Accepted)
        desk.now += 1
    assert accepted == (1 if contention == "hold" else 1_000)
    if contention == "first_payment_wins":
        assert len(views.holds(desk.state)) == 1_000
    serve(desk, till)
    statuses = Counter(booking.status for booking in desk.state.bookings.values())
    assert statuses["confirmed"] == 1
    assert statuses["slot_lost"] == accepted - 1
    assert Counter(till.payments.values()) == Counter(
        {"authorized": 1} if accepted == 1 else {"authorized": 1, "voided": 999}
    )
    assert full_scan(desk.state) == []
    assert desk.state.next_due_ms() is not None
    assert not desk.state.in_flight
    (appointment,) = views.whole_calendar(desk.state)
    assert (appointment.customer, appointment.status) == ("K0", "confirmed")


def test_people_see_calendar_holds_and_payments() -> None:
    desk = Desk(dentist(hold_s=600))
    held, done = desk.hold(slot("2026-06-02T11:00")), desk.confirmed(slot("2026-06-02T10:00"))
    days = day_of(2026, 6, 2), day_of(2026, 6, 2)
    assert [
        (a.booking, a.status, a.end, a.deadline_ms) for a in views.calendar(desk.state, *days)
    ] == [
        (done.id, "confirmed", "2026-06-02T10:30+02:00", 0),
        (held.id, "held", "2026-06-02T11:30+02:00", NOW + 600_000),
    ]
    assert views.calendar(desk.state, day_of(1990, 1, 1), days[1]) == []
    assert views.calendar(desk.state, day_of(2026, 6, 3), day_of(2026, 6, 9)) == []
    assert [a.booking for a in views.holds(desk.state)] == [held.id]
    desk.settle(held, "unknown")
    assert [(p.payment, p.observed, p.due_ms, p.in_flight) for p in views.payments(desk.state)] == [
        (held.payment.id, "unknown", NOW + 5_000, ""),
        (done.payment.id, "authorized", 0, ""),
    ]
    other = Desk(dentist(), now=NOW + HOUR)
    other.confirmed(slot("2026-06-02T10:00"))
    other.confirmed(slot("2026-06-02T11:00"))
    assert views.calendar_digest(other.state) == views.calendar_digest(desk.state)
    other.report(next(iter(other.state.bookings)), "delivered")
    assert other.state.deliveries == {"delivered": 1}
    other.hold(slot("2026-06-02T09:00"))
    assert views.calendar_digest(other.state) != views.calendar_digest(desk.state)
