"""What the original got wrong, each by a name that says the rule (issue 2; domain section 3)."""

from __future__ import annotations

import msgspec
import pytest

from holdfast.actors.booking import payments, wire
from holdfast.actors.booking.messages import CheckStatus, Preauthorize, RequestAuto, Void
from holdfast.actors.ports import InputEntry
from holdfast.machine.hosts import restored

from .world import HOUR, Desk, Till, dentist, kinds, refused, serve, slot


def test_a_duplicate_success_changes_nothing() -> None:
    """It turned a confirmed request into "slot taken" and released its money."""
    desk = Desk(dentist(contention="first_payment_wins"))
    booking = desk.confirmed()
    first = desk.actions[0].id
    before = desk.digest()
    for _ in range(3):
        assert kinds(desk.answer(first, "authorized")) == ["result_ignored"]
    assert desk.digest() == before
    assert booking.status == "confirmed"
    assert desk.calls() == ["preauthorize"]


def test_a_release_survives_a_crash() -> None:
    """After a lost race the release was not stored, so that a crash left the money on hold."""
    desk = Desk(dentist(contention="first_payment_wins"))
    winner, loser = desk.hold(by="customer:K1"), desk.hold(by="customer:K2")
    desk.settle(winner, "authorized")
    assert kinds(desk.settle(loser, "authorized")) == ["payment_observed", "slot_lost"]
    void = desk.actions[-2]
    assert isinstance(void.action, Void)
    desk.crash()  # the void was decided and never sent
    asked = list(restored(desk.machine, desk.state))
    assert [(a.id, a.action) for a in asked] == [(void.id, CheckStatus(loser.payment.id))]
    till = Till()
    till.payments = {winner.payment.id: "authorized", loser.payment.id: "authorized"}
    desk.take_over()
    serve(desk, till)
    assert till.payments[loser.payment.id] == "voided"


def test_a_decline_after_the_confirmation_does_not_take_the_booking_away() -> None:
    desk = Desk(dentist())
    booking = desk.confirmed()
    desk.answer(desk.actions[0].id, "declined")
    desk.settle(booking, "declined")  # even where the provider insists
    assert booking.status == "confirmed"
    assert desk.told() == ["confirmed"]


def test_a_success_after_a_decline_does_not_bring_the_booking_back() -> None:
    desk = Desk(dentist())
    booking = desk.hold()
    first = desk.actions[0].id
    desk.settle(booking, "declined")
    desk.hold(by="customer:K2")
    desk.answer(first, "authorized")
    desk.settle(booking, "authorized")  # the check says so too: then the money is released
    assert booking.status == "payment_failed"
    assert booking.payment.call == "void"
    desk.settle(booking, "voided")
    assert payments.is_settled(booking.payment)


def test_a_check_that_answers_pending_is_repeated() -> None:
    desk = Desk(dentist())
    booking = desk.hold()
    desk.settle(booking, "unknown")
    for _ in range(5):
        desk.tick()
        assert booking.payment.call == "check_status"
        assert kinds(desk.settle(booking, "pending")) == ["check_scheduled"]


def test_a_preauthorization_that_was_never_sent_is_sent_after_a_crash() -> None:
    desk = Desk(dentist())
    booking = desk.hold()
    desk.crash()  # before anybody saw the action
    desk.take_over()
    serve(desk, till := Till())
    assert desk.state.bookings[booking.id].status == "confirmed"
    assert till.payments == {booking.payment.id: "authorized"}
    assert desk.calls() == ["preauthorize", "check_status", "preauthorize"]


def test_restore_goes_up_by_id() -> None:
    """It went through a hash map."""
    desk = Desk(dentist(contention="first_payment_wins"), scan=False)
    for number in range(30):
        desk.hold(by=f"customer:K{number}")
    expected = [e.id for e in desk.actions if isinstance(e.action, Preauthorize)]
    for page in (1, 7, 100):
        assert [a.id for a in restored(desk.machine, desk.state, page)] == expected
    desk.crash()
    assert [a.id for a in restored(desk.machine, desk.state, 7)] == expected
    assert desk.machine.outstanding(desk.state) == expected


def test_requests_for_one_slot_are_limited() -> None:
    desk = Desk(dentist(contention="first_payment_wins", contenders_max=3))
    for number in range(3):
        desk.hold(by=f"customer:K{number}")
    assert refused(desk.ask(slot(), "customer:K9")) == (
        "slot_conflict",
        "3 requests already compete for this slot",
    )
    held = Desk(dentist())
    held.hold()
    assert refused(held.ask(slot(), "customer:K2"))[0] == "slot_conflict"


def test_a_crowded_slot_is_not_listed_nor_picked() -> None:
    """What is listed can be booked; who is free for requests is asked before who is best."""
    desk = Desk(dentist(staff=["ann", "bob"], contention="first_payment_wins", contenders_max=1))
    assert desk.hold(by="customer:K1").staff == "ann"
    assert desk.hold(by="customer:K2").staff == "bob"
    wish = RequestAuto("checkup", ["2026-06-02"], [("10:00", "11:00")])
    assert desk.hold(wish, by="customer:K3").start == "2026-06-02T10:15+02:00"


def test_the_loser_of_an_auto_selection_is_given_another_slot() -> None:
    desk = Desk(dentist(contention="first_payment_wins"))
    wish = RequestAuto("checkup", ["2026-06-02"], [("10:00", "12:00")])
    winner = desk.hold(wish, "customer:K1")
    loser = desk.hold(wish, "customer:K2")
    assert winner.start == loser.start == "2026-06-02T10:00+02:00"
    desk.settle(winner, "authorized")
    outcome = desk.settle(loser, "authorized")
    assert kinds(outcome) == ["payment_observed", "slot_moved", "booking_confirmed"]
    assert loser.start == "2026-06-02T10:30+02:00"
    assert desk.told() == ["confirmed", "moved"]


def test_the_slot_a_loser_is_given_may_overlap_the_one_it_lost() -> None:
    desk = Desk(dentist(staff=["ann", "bob"], contention="first_payment_wins"))
    wish = RequestAuto("checkup", ["2026-06-02"], [("10:00", "10:30")])
    winner, loser = desk.hold(wish, "customer:K1"), desk.hold(wish, "customer:K2")
    assert winner.staff == loser.staff == "ann"
    desk.settle(winner, "authorized")
    desk.settle(loser, "authorized")
    assert (loser.staff, loser.start, loser.status) == ("bob", winner.start, "confirmed")


def test_a_loser_is_never_moved_outside_its_preferences() -> None:
    desk = Desk(dentist(contention="first_payment_wins"))
    wish = RequestAuto("checkup", ["2026-06-02"], [("10:00", "10:45")])
    winner, loser = desk.hold(wish, "customer:K1"), desk.hold(wish, "customer:K2")
    desk.settle(winner, "authorized")
    assert kinds(desk.settle(loser, "authorized")) == ["payment_observed", "slot_lost"]
    explicit = Desk(dentist(contention="first_payment_wins"))
    one, other = explicit.hold(by="customer:K1"), explicit.hold(by="customer:K2")
    explicit.settle(one, "authorized")
    assert kinds(explicit.settle(other, "authorized")) == ["payment_observed", "slot_lost"]


def test_a_loser_is_not_moved_where_its_service_takes_another_time_now() -> None:
    desk = Desk(dentist(contention="first_payment_wins"))
    wish = RequestAuto("checkup", ["2026-06-02"])
    winner, loser = desk.hold(wish, "customer:K1"), desk.hold(wish, "customer:K2")
    desk.settle(winner, "authorized")
    longer = [msgspec.structs.replace(s, duration_min=60) for s in dentist().services]
    desk.ask(dentist(services=longer, contention="first_payment_wins"), "service:web")
    desk.settle(loser, "authorized")
    assert loser.status == "slot_lost"


@pytest.mark.parametrize("cents", [b"75.0", b"7500.5", b"-1", b"1e3", b'"7500"', b"100000001"])
def test_amounts_are_whole_and_bounded(cents: bytes) -> None:
    """They were floats, and nobody looked at them."""
    body = b'{"service":"checkup","start":"2026-06-02T10:00","price_cents":' + cents + b"}"
    with pytest.raises(wire.WireError):
        wire.decode(InputEntry("1-1", "request_slot", body, "k", "customer:K1"))
    price = [msgspec.structs.replace(s, price_cents=7_501) for s in dentist().services]
    desk = Desk(dentist(services=price))
    desk.hold(slot(price_cents=7_501))
    assert refused(desk.ask(slot(price_cents=7_500), "customer:K2"))[0] == "price_mismatch"


@pytest.mark.parametrize("start", ["09:01", "09:07", "09:20", "09:59"])
def test_starts_off_the_grid_are_refused(start: str) -> None:
    desk = Desk(dentist())
    assert refused(desk.ask(slot(f"2026-06-02T{start}")))[0] == "validation_failed"


def test_preferences_are_honoured_in_their_order() -> None:
    desk = Desk(dentist())
    wish = RequestAuto(
        "checkup", [4, 2], [("14:00", "16:00"), ("09:00", "12:00")], last="2026-06-07"
    )
    found = [desk.hold(wish, f"customer:{n}").start for n in range(11)]
    # Thursday's morning opens first, and the preferred morning covers two hours of it.
    assert found[:5] == [f"2026-06-04T{at}+02:00" for at in
                         ("10:00", "10:30", "11:00", "11:30", "14:00")]  # fmt: skip
    assert found[8:] == [f"2026-06-02T{at}+02:00" for at in ("09:00", "09:30", "10:00")]


def test_a_refusal_changes_nothing_but_the_memory_of_its_key() -> None:
    """Refusals changed the state unseen."""
    desk = Desk(dentist())
    desk.hold()
    before = desk.digest()
    assert refused(desk.ask(slot(), "customer:K2", key=""))[0] == "idempotency_key_required"
    assert desk.digest() == before
    counts = len(desk.state.keys)
    assert refused(desk.ask(slot(), "customer:K2", key="k"))[0] == "slot_conflict"
    assert len(desk.state.keys) == counts + 1
    del desk.state.keys["customer:K2 RequestSlot k"]
    desk.state.key_queue.pop()
    assert desk.digest() == before


def test_a_held_slot_is_nobody_elses_from_the_first_moment_to_the_last() -> None:
    """A pending request held nothing (U-02)."""
    desk = Desk(dentist(hold_s=600))
    desk.hold()
    desk.now += 600_000 - 1
    assert refused(desk.ask(slot(), "customer:K2"))[0] == "slot_conflict"
    desk.now += 1
    outcome = desk.ask(slot(), "customer:K2")
    assert kinds(outcome) == ["slot_held"]
    assert [type(e).__name__ for e in outcome.timers] == ["HoldExpired"]


def test_timers_fire_in_order_before_any_input_and_without_ticks() -> None:
    desk = Desk(dentist(hold_s=60, keep_failed_h=1))
    first, second = desk.hold(by="customer:K1"), desk.hold(slot("2026-06-02T11:00"), "customer:K2")
    desk.now += 2 * HOUR
    outcome = desk.report("b1-1", "failed")
    assert [getattr(e, "booking", "") for e in outcome.timers] == [first.id, second.id]
    assert kinds(outcome) == ["delivery_recorded"]


def test_a_crowd_of_timers_is_fired_in_several_inputs() -> None:
    """One outcome must not grow without bound; what is left goes with the next input."""
    desk = Desk(dentist(contention="first_payment_wins", contenders_max=5_000), scan=False)
    for number in range(1_500):
        desk.hold(by=f"customer:K{number}")
    desk.now += HOUR
    fired = [len(desk.tick(desk.now).timers) for _ in range(3)]
    assert fired == [1_024, 476, 0]
    small = Desk(dentist(contention="first_payment_wins"), scan=False, limit=20)
    for number in range(30):
        small.hold(by=f"customer:K{number}")
    small.now += HOUR
    assert [len(small.tick(small.now).timers) for _ in range(3)] == [13, 13, 4]
