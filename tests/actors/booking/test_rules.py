"""What becomes of each command: every refusal with its sentence, in order; deadlines to the minute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from holdfast.actors.booking.messages import Accepted, Cancel, RequestAuto, Staff

from .world import DAY, HOUR, MINUTE, NOW, Desk, booked, dentist, kinds, ms, refused, slot

if TYPE_CHECKING:
    from holdfast.actors.booking.messages import Command, TimeRange

TEN = "2026-06-02T10:00"
TEN_MS = ms("2026-06-02T10:00+02:00")

REFUSED: list[tuple[str, Command, str, str, str]] = [
    ("service", slot(service="nose"), "customer:K1", "not_found", "Service not found: nose"),
    ("staff", slot(staff="zoe"), "customer:K1", "not_found", "Staff not found: zoe"),
    ("whose", slot(customer="K2"), "customer:K1", "forbidden",
     "Customers may book for themselves only"),
    ("nobody", slot(), "staff:dentist", "validation_failed", "The customer is missing"),
    ("nobody, service", slot(), "service:web", "validation_failed", "The customer is missing"),
    ("price", slot(price_cents=1), "customer:K1", "price_mismatch",
     "Price must be 7500 cents, not 1"),
    ("no time", slot("tomorrow at ten!!"), "customer:K1", "validation_failed",
     "Not a time from 2000 to 2099 in RFC 3339 form: tomorrow at ten!!"),
    ("week date", slot("2026-W23-2T10:00"), "customer:K1", "validation_failed",
     "Not a time from 2000 to 2099 in RFC 3339 form: 2026-W23-2T10:00"),
    ("year", slot("1999-06-02T10:00"), "customer:K1", "validation_failed",
     "Not a time from 2000 to 2099 in RFC 3339 form: 1999-06-02T10:00"),
    ("no such day", slot("2026-02-30T10:00"), "customer:K1", "validation_failed",
     "Not a time from 2000 to 2099 in RFC 3339 form: 2026-02-30T10:00"),
    ("half second", slot("2026-06-02T10:00:00.5"), "customer:K1", "validation_failed",
     "Not a time from 2000 to 2099 in RFC 3339 form: 2026-06-02T10:00:00.5"),
    ("skipped", slot("2027-03-28T02:30"), "customer:K1", "nonexistent_local_time",
     "Clocks skip 2027-03-28T02:30 that day"),
    ("twice", slot("2026-10-25T02:30"), "customer:K1", "ambiguous_local_time",
     "Clocks show 2026-10-25T02:30 twice that day; add the offset"),
    ("bad end", slot(end="some day or other"), "customer:K1", "validation_failed",
     "Not a time from 2000 to 2099 in RFC 3339 form: some day or other"),
    ("end first", slot(end="2026-06-02T10:00"), "customer:K1", "duration_mismatch",
     "End time must be after start time"),
    ("end late", slot(end="2026-06-02T11:00"), "customer:K1", "duration_mismatch",
     "Check-up takes 30 minutes"),
    ("grid", slot("2026-06-02T10:07"), "customer:K1", "validation_failed",
     "No appointment starts at 2026-06-02T10:07+02:00: starts are on the practice's grid"),
    ("seconds", slot("2026-06-02T10:00:30"), "customer:K1", "validation_failed",
     "No appointment starts at 2026-06-02T10:00+02:00: starts are on the practice's grid"),
    ("notice", slot("2026-06-01T09:45"), "customer:K1", "notice_too_short",
     "Appointment must be booked at least 4 hours in advance"),
    ("ahead", slot("2026-07-02T10:00"), "customer:K1", "too_far_ahead",
     "Appointment cannot be booked more than 30 days in advance"),
    ("sunday", slot("2026-06-07T10:00"), "customer:K1", "closed",
     "Business is closed on this day"),
    ("lunch", slot("2026-06-02T12:00"), "customer:K1", "outside_hours",
     "Appointment time is outside business hours (09:00 - 12:00, 13:00 - 16:00)"),
    ("into lunch", slot("2026-06-02T11:45"), "customer:K1", "outside_hours",
     "Appointment time is outside business hours (09:00 - 12:00, 13:00 - 16:00)"),
    ("auto service", RequestAuto("nose"), "customer:K1", "not_found", "Service not found: nose"),
    ("auto staff", RequestAuto("checkup", staff=["dentist", "zoe"]), "customer:K1", "not_found",
     "Staff not found: zoe"),
    ("auto whose", RequestAuto("checkup", customer="K2"), "customer:K1", "forbidden",
     "Customers may book for themselves only"),
    ("auto price", RequestAuto("checkup", price_cents=0), "customer:K1", "price_mismatch",
     "Price must be 7500 cents, not 0"),
    ("auto date", RequestAuto("checkup", ["2026-02-30"]), "customer:K1", "validation_failed",
     "Not a date from 2000 to 2099: 2026-02-30"),
    ("auto first", RequestAuto("checkup", first="2150-01-01"), "customer:K1", "validation_failed",
     "Not a date from 2000 to 2099: 2150-01-01"),
    ("auto range", RequestAuto("checkup", ranges=[("10:00", "10:00")]), "customer:K1",
     "validation_failed", "A preferred range must end after it begins: 10:00 - 10:00"),
    ("auto nothing", RequestAuto("checkup", [0]), "customer:K1", "no_slot_found",
     "No free slot within the preferences"),
    ("auto past", RequestAuto("checkup", ["2026-05-29"]), "customer:K1", "no_slot_found",
     "No free slot within the preferences"),
    ("cancel", Cancel("b1-1"), "customer:K1", "not_found", "Booking not found: b1-1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "by", "code", "details"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_each_refusal_has_its_code_and_sentence(
    command: Command, by: str, code: str, details: str
) -> None:
    desk = Desk(dentist(minimum_notice_min=240, advance_days_max=30))
    before = without_keys(desk)
    outcome = desk.ask(command, by, key="")  # a key is asked for first
    assert refused(outcome)[0] == "idempotency_key_required"
    outcome = desk.ask(command, by)
    assert refused(outcome) == (code, details)
    assert not isinstance(outcome.result, Accepted)
    assert outcome.result.operation_id == desk.this_id
    assert outcome.result.error == (
        "Booking cancellation failed" if isinstance(command, Cancel) else "Booking creation failed"
    )
    assert desk.actions == []
    assert without_keys(desk) == before


def without_keys(desk: Desk) -> bytes:
    """The book but for what it remembers of keys: all that a refusal may change."""
    state = desk.machine.decode(desk.digest())
    state.keys.clear()
    state.key_queue.clear()
    return desk.machine.encode(state)


PRECEDENCE: list[tuple[dict[str, Any], str]] = [
    ({"service": "nose", "staff": "zoe", "customer": "K2"}, "not_found"),
    ({"staff": "zoe", "customer": "K2"}, "not_found"),
    ({"customer": "K2", "price_cents": 1}, "forbidden"),
    ({"price_cents": 1, "start": "yesterday at ten"}, "price_mismatch"),
    ({"start": "2026-06-07T03:07", "end": "2026-06-07T03:08"}, "duration_mismatch"),
    ({"start": "2026-05-31T03:07"}, "validation_failed"),
    ({"start": "2026-05-31T03:00"}, "notice_too_short"),
    ({"start": "2026-09-06T03:00"}, "too_far_ahead"),
    ({"start": "2026-06-02T12:00"}, "outside_hours"),
]


@pytest.mark.parametrize(("fields", "code"), PRECEDENCE)
def test_of_several_reasons_the_first_is_given(fields: dict[str, Any], code: str) -> None:
    """What is asked for must exist before the clock is looked at, and that before bookings."""
    desk = Desk(dentist(minimum_notice_min=240, advance_days_max=30))
    desk.confirmed(slot("2026-06-02T11:30"), by="customer:K9")
    request = {"start": TEN, "service": "checkup", **fields}
    assert refused(desk.ask(slot(**request)))[0] == code


def test_a_conflict_is_told_after_hours_and_before_the_customers_limit() -> None:
    desk = Desk(dentist(holds_per_customer_max=1))
    desk.hold(slot(TEN), by="customer:K9")
    desk.hold(slot("2026-06-02T11:00"))
    assert refused(desk.ask(slot(TEN))) == (
        "slot_conflict",
        "Time slot conflicts with another appointment",
    )
    assert refused(desk.ask(slot("2026-06-02T09:00"))) == (
        "rate_limited",
        "The customer has 1 unconfirmed requests; confirm or cancel one first",
    )
    assert refused(desk.ask(RequestAuto("checkup")))[0] == "rate_limited"


def test_without_a_practice_the_book_takes_no_requests() -> None:
    desk = Desk()
    for command in (slot(), RequestAuto("checkup")):
        code, details = refused(desk.ask(command))
        assert (code, details) == (
            "unavailable",
            "This book has no practice yet: send define_practice first",
        )
    assert refused(desk.ask(Cancel("b1-1")))[0] == "not_found"


def test_only_services_define_a_practice() -> None:
    desk = Desk()
    for by in ("customer:K1", "staff:dentist"):
        assert refused(desk.ask(dentist(), by)) == (
            "forbidden",
            "Only a service may define a practice",
        )
    assert kinds(desk.ask(dentist(), "service:web")) == ["practice_defined"]


def test_defining_the_same_again_adds_no_revision() -> None:
    desk = Desk(dentist())
    assert kinds(desk.ask(dentist(), "service:web")) == ["practice_defined"]
    assert len(desk.state.revisions) == 1
    desk.ask(dentist(grid_min=30), "service:web")
    assert len(desk.state.revisions) == 2


def test_staff_with_bookings_cannot_leave() -> None:
    desk = Desk(dentist(staff=["ann", "bob"]))
    booking = desk.hold(slot(staff="bob"))
    assert refused(desk.ask(dentist(staff=["ann"]), "service:web")) == (
        "slot_conflict",
        "Member of staff bob still has bookings",
    )
    desk.cancel(booking)
    assert kinds(desk.ask(dentist(staff=["ann"]), "service:web")) == ["practice_defined"]


def test_clocks_cannot_change_under_live_bookings() -> None:
    """A day's minutes are counted from local midnight: under another zone they would not compare."""
    desk = Desk(dentist())
    booking = desk.hold()
    assert refused(desk.ask(dentist(zone="America/New_York"), "service:web")) == (
        "slot_conflict",
        "The zone's clocks differ from those by which there are bookings",
    )
    same_clocks = dentist(zone="Europe/Paris")
    assert kinds(desk.ask(same_clocks, "service:web")) == ["practice_defined"]
    desk.cancel(booking)
    assert kinds(desk.ask(dentist(zone="America/New_York"), "service:web")) == ["practice_defined"]


def test_a_late_payment_after_clocks_changed_takes_no_other_minutes() -> None:
    desk = Desk(dentist())
    booking = desk.hold()
    desk.tick()
    assert booking.status == "expired"
    desk.ask(dentist(zone="America/New_York"), "service:web")
    desk.settle(booking, "authorized")
    assert booking.status == "expired"
    assert booking.payment.call == "void"


def test_a_changed_practice_keeps_earlier_bookings_as_they_are() -> None:
    desk = Desk(dentist())
    booking = desk.confirmed()
    other = dentist(hours={"5": [("09:00", "15:00")]}, currency="CHF", cancellation_deadline_min=0)
    desk.ask(other, "service:web")
    assert booking.status == "confirmed"
    assert booking.payment.currency == "EUR"
    desk.now = TEN_MS - 2 * HOUR  # the deadline of the practice as it was: a day
    assert refused(desk.cancel(booking))[0] == "deadline_passed"


def test_the_end_that_fits_and_the_price_that_fits_are_accepted() -> None:
    desk = Desk(dentist())
    desk.hold(slot(end="2026-06-02T08:30Z", price_cents=7_500))


@pytest.mark.parametrize(
    "start",
    [TEN, "2026-06-02 10:00", "2026-06-02t10:00:00+02:00", "2026-06-02T08:00:00.000Z",
     "2026-06-02T08:00:00z", "2026-06-02T03:00:00-05:00"],
)  # fmt: skip
def test_a_start_is_an_instant_however_it_is_written(start: str) -> None:
    desk = Desk(dentist())
    booking = desk.hold(slot(start))
    assert (booking.start_ms, booking.start) == (TEN_MS, "2026-06-02T10:00+02:00")


# --- deadlines, to the millisecond ---------------------------------------------------------------


@pytest.mark.parametrize(("late_ms", "code"), [(-1, ""), (0, ""), (1, "notice_too_short")])
@pytest.mark.parametrize("notice_min", [0, 120])
def test_exactly_the_notice_is_enough(notice_min: int, late_ms: int, code: str) -> None:
    desk = Desk(dentist(minimum_notice_min=notice_min))
    desk.now = TEN_MS - notice_min * MINUTE + late_ms
    outcome = desk.ask(slot())
    if code:
        assert refused(outcome)[0] == code
    else:
        assert kinds(outcome) == ["slot_held"]


def test_a_start_that_is_past_says_so() -> None:
    desk = Desk(dentist())
    desk.now = TEN_MS + 1
    assert refused(desk.ask(slot()))[1] == "Appointment time has passed"


@pytest.mark.parametrize(("day", "code"), [("02", ""), ("03", "too_far_ahead")])
def test_the_advance_counts_local_dates(day: str, code: str) -> None:
    desk = Desk(dentist(advance_days_max=1), now=ms("2026-06-01T23:59+02:00"))
    outcome = desk.ask(slot(f"2026-06-{day}T15:30" if day == "02" else f"2026-06-{day}T09:00"))
    assert (refused(outcome)[0] if code else kinds(outcome)[0]) == (code or "slot_held")


@pytest.mark.parametrize(
    ("by", "before_start", "code"),
    [
        ("customer:K1", DAY, ""),
        ("customer:K1", DAY - 1, "deadline_passed"),
        ("staff:dentist", DAY - 1, ""),
        ("staff:dentist", -29 * MINUTE, ""),
        ("service:web", 0, ""),
    ],
)
def test_exactly_the_deadline_is_in_time(by: str, before_start: int, code: str) -> None:
    desk = Desk(dentist())
    booking = desk.confirmed(slot("2026-06-05T10:00"))
    desk.now = booking.start_ms - before_start
    outcome = desk.cancel(booking, by)
    if code:
        assert refused(outcome) == (
            code,
            "Cancellation deadline has passed. Must cancel at least 24 hours before appointment.",
        )
    else:
        assert kinds(outcome) == ["booking_cancelled"]


@pytest.mark.parametrize(("after_min", "ok"), [(15, True), (16, False)])
def test_within_the_cooling_off_customers_may_cancel(after_min: int, ok: bool) -> None:
    desk = Desk(dentist())
    booking = desk.confirmed(slot("2026-06-01T09:00"))
    desk.now = NOW + after_min * MINUTE
    outcome = desk.cancel(booking)
    found = kinds(outcome) if ok else [refused(outcome)[0]]
    assert found == ["booking_cancelled" if ok else "deadline_passed"]


def test_cooling_off_ends_at_the_start() -> None:
    desk = Desk(dentist())
    start = ms("2026-06-01T09:00+02:00")
    desk.now = start - 5 * MINUTE
    booking = desk.confirmed(slot("2026-06-01T09:00"))
    desk.now = start
    assert refused(desk.cancel(booking))[0] == "deadline_passed"


def test_a_hold_may_be_given_back_at_any_time() -> None:
    desk = Desk(dentist())
    desk.now = TEN_MS - HOUR
    assert kinds(desk.cancel(desk.hold())) == ["booking_cancelled"]


def test_to_a_customer_other_peoples_bookings_do_not_exist() -> None:
    desk = Desk(dentist())
    booking = desk.confirmed(by="customer:K1")
    assert refused(desk.cancel(booking, by="customer:K2")) == (
        "not_found",
        f"Booking not found: {booking.id}",
    )


def test_what_is_over_cannot_be_cancelled_and_says_why() -> None:
    desk = Desk(dentist(contention="first_payment_wins", late_authorization=False))
    winner = desk.hold(slot(TEN), "customer:K1")
    loser = desk.hold(slot(TEN), "customer:K2")
    declined = desk.hold(slot("2026-06-02T09:00"), "customer:K3")
    expired = desk.hold(slot("2026-06-02T13:00"), "customer:K4")
    desk.settle(winner, "authorized")
    desk.settle(loser, "authorized")
    desk.settle(declined, "declined")
    desk.tick(NOW + HOUR)
    assert expired.status == "expired"
    for booking, code, details in (
        (loser, "slot_conflict", "The slot was lost; there is nothing to cancel"),
        (declined, "payment_declined", "The payment failed; there is nothing to cancel"),
        (expired, "hold_expired", "The hold has expired; there is nothing to cancel"),
    ):
        assert refused(desk.cancel(booking, "staff:dentist")) == (code, details)
    desk.tick(TEN_MS + HOUR)
    assert winner.status == "completed"
    assert refused(desk.cancel(winner)) == ("deadline_passed", "The appointment is over")


def test_a_booking_is_cancelled_once() -> None:
    desk = Desk(dentist())
    booking = desk.hold()
    desk.cancel(booking)
    assert refused(desk.cancel(booking)) == ("not_found", "The booking is cancelled already")


# --- who ----------------------------------------------------------------------------------------


def test_services_and_staff_book_for_those_they_name() -> None:
    desk = Desk(dentist())
    for by, at in (("service:web", TEN), ("staff:dentist", "2026-06-02T11:00")):
        booking = desk.hold(slot(at, customer="K7", email="k7@example.org"), by)
        assert (booking.customer, booking.recipient) == ("K7", "k7@example.org")
    assert desk.hold(slot("2026-06-02T09:00", customer="K1")).customer == "K1"


def test_a_customer_who_asks_again_gets_the_hold_there_is() -> None:
    """The natural duplicate guard, F-200, for a retry under another key."""
    desk = Desk(dentist(staff=["ann", "bob"]))
    booking = desk.hold()
    before = desk.state.bookings.copy()
    again = desk.ask(slot("2026-06-02T10:15"))
    assert booked(again) == booking.id
    assert isinstance(again.result, Accepted)
    assert getattr(again.result.events[0], "repeated", False)
    assert desk.state.bookings == before
    desk.settle(booking, "authorized")
    assert refused(desk.ask(slot())) == (
        "duplicate_booking",
        f"The customer already has this appointment: {booking.id}",
    )
    desk.hold(slot(service="cleaning"))  # another service with another member of staff


def test_anybody_means_who_has_least_to_do_that_day() -> None:
    """F-211: fewest minutes, then idle for longest, then the first by id."""
    desk = Desk(dentist(staff=["bob", "ann", "cyd"], holds_per_customer_max=0))
    at = [desk.hold(slot(f"2026-06-02T{hour}:00"), f"customer:{n}").staff
          for n, hour in enumerate(["10", "10", "10", "11"])]  # fmt: skip
    assert at == ["ann", "bob", "cyd", "ann"]
    early = Desk(dentist(staff=["ann", "bob"], holds_per_customer_max=0))
    early.hold(slot("2026-06-02T10:00", staff="ann"), "customer:1")
    early.hold(slot("2026-06-02T09:00", staff="bob"), "customer:2")
    assert early.hold(slot("2026-06-02T11:00"), "customer:3").staff == "bob"


def test_own_hours_replace_the_practices() -> None:
    own: dict[str, list[TimeRange]] = {"0": [("20:00", "22:00")]}
    desk = Desk(dentist(staff=["ann", Staff("bob", "Bob", own)]))
    assert desk.hold(slot("2026-06-07T20:00")).staff == "bob"
    assert refused(desk.ask(slot("2026-06-02T10:00", staff="bob")))[0] == "closed"
    assert refused(desk.ask(slot("2026-06-07T10:00"))) == (
        "outside_hours",
        "Appointment time is outside business hours (20:00 - 22:00)",
    )


def test_a_free_service_is_confirmed_at_once() -> None:
    desk = Desk(dentist(contention="first_payment_wins"))
    outcome = desk.ask(slot(service="advice"))
    assert kinds(outcome) == ["slot_held", "booking_confirmed"]
    assert desk.calls() == []
    booking = desk.state.bookings[booked(outcome)]
    desk.tick(booking.end_ms)
    assert booking.status == "completed"
    assert desk.calls() == []


def test_the_window_of_an_auto_selection_is_bounded() -> None:
    desk = Desk(dentist(advance_days_max=3_660))
    far = RequestAuto("checkup", [1], first="2026-06-01", last="2026-09-01")
    assert refused(desk.ask(far)) == (
        "validation_failed",
        "The window may be 92 days long, not longer",
    )
    desk.hold(RequestAuto("checkup", [1], first="2026-06-01", last="2026-08-31"))
    named = desk.hold(RequestAuto("checkup", ["2030-01-07"]))
    assert named.start == "2030-01-07T09:00+01:00"


# --- idempotency --------------------------------------------------------------------------------


def test_the_same_key_and_body_replay_the_answer() -> None:
    desk = Desk(dentist())
    first = desk.ask(slot(), key="k")
    desk.ask(slot(), "customer:K2")
    before = len(desk.actions)
    again = desk.ask(slot(), key="k")
    assert again.replayed
    assert again.result == first.result
    assert len(desk.actions) == before


def test_refusals_are_replayed_too() -> None:
    desk = Desk(dentist())
    booking = desk.hold(by="customer:K9")
    first = desk.ask(slot(), key="k")
    desk.cancel(booking, by="customer:K9")
    again = desk.ask(slot(), key="k")
    assert refused(first)[0] == "slot_conflict"
    assert again.replayed
    assert again.result == first.result


def test_a_key_for_another_body_is_refused_and_not_remembered() -> None:
    desk = Desk(dentist())
    first = desk.ask(slot(), key="k")
    other = desk.ask(slot("2026-06-02T11:00"), key="k")
    assert refused(other) == (
        "idempotency_key_reused",
        "This idempotency key was used for another request",
    )
    assert not other.replayed
    assert desk.ask(slot(), key="k").result == first.result


def test_a_key_belongs_to_a_principal_and_a_command() -> None:
    desk = Desk(dentist())
    booking = desk.hold(slot(), "customer:K1")
    assert desk.ask(slot("2026-06-02T11:00"), "customer:K2", key="k").replayed is False
    assert desk.ask(slot("2026-06-02T13:00"), "customer:K1", key="k").replayed is False
    assert kinds(desk.ask(Cancel(booking.id), "customer:K1", key="k")) == ["booking_cancelled"]


def test_transient_refusals_are_not_remembered() -> None:
    desk = Desk(dentist(holds_per_customer_max=1))
    booking = desk.hold(slot("2026-06-02T11:00"))
    assert refused(desk.ask(slot(), key="k"))[0] == "rate_limited"
    desk.settle(booking, "authorized")
    assert kinds(desk.ask(slot(), key="k")) == ["slot_held"]


@pytest.mark.parametrize(("after_ms", "replayed"), [(-1, True), (0, False)])
def test_memory_ends_after_its_hours(after_ms: int, replayed: bool) -> None:
    desk = Desk(dentist(idempotency_h=24))
    desk.ask(slot(), key="k")
    desk.now = NOW + DAY + after_ms
    assert desk.ask(slot(), key="k").replayed is replayed


def test_keys_are_forgotten_a_few_at_a_time() -> None:
    desk = Desk(dentist(), scan=False)
    for number in range(200):
        desk.ask(Cancel(f"b{number}-1"))
    assert len(desk.state.keys) == 201
    desk.now += DAY
    for left in (137, 73, 9, 0):
        desk.tick(desk.now)
        assert len(desk.state.keys) == left


def test_a_key_taken_again_after_its_time_survives_the_old_memory() -> None:
    desk = Desk(dentist(), scan=False)
    for _ in range(100):
        desk.ask(Cancel("b1-1"))
    desk.ask(Cancel("b1-1"), key="k")
    desk.now += DAY
    desk.ask(Cancel("b1-1"), key="k")  # 64 others went first
    desk.tick(desk.now)
    assert desk.ask(Cancel("b1-1"), key="k").replayed
