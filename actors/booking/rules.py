"""What becomes of each command: validate everything, then change. One function per command.

A refusal is a value, never an exception, and it has changed nothing. Where several reasons apply,
the first in this file's order is the one given: what the command alone tells comes before what the
practice offers, that before the clock, and that before what others have booked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.actors.booking import availability, lifecycle, payments, zones
from holdfast.actors.booking.book import AWAITING, LIVE, Booking, Payment
from holdfast.actors.booking.calendar import mask, parse_date, parse_instant, weekday_of
from holdfast.actors.booking.messages import (
    Accepted,
    Action,
    Asked,
    Cancel,
    DefinePractice,
    Event,
    PracticeDefined,
    Refused,
    RequestAuto,
    RequestSlot,
    Service,
    SlotHeld,
    SlotRequested,
)

if TYPE_CHECKING:
    from holdfast.actors.booking.availability import Slot
    from holdfast.actors.booking.book import Book, Member, Practice
    from holdfast.machine import Emit

CREATION = "Booking creation failed"
CANCELLATION = "Booking cancellation failed"
DEFINITION = "Practice definition failed"

CONFLICT = "Time slot conflicts with another appointment"

TRANSIENT = frozenset({"forbidden", "rate_limited", "unavailable", "validation_failed"})
"""Refusals that an idempotency key does not remember: the same intention may fare better (C15)."""


def decide(
    book: Book, asked: Asked, now: int, input_id: str, emit: Emit[Action]
) -> Accepted | Refused:
    """Decide a command that is not a retry."""
    command = asked.command
    if type(command) is RequestSlot:
        return _request_slot(book, command, asked, now, input_id, emit)
    if type(command) is RequestAuto:
        return _request_auto(book, command, asked, now, input_id, emit)
    if type(command) is Cancel:
        return _cancel(book, command, asked, now, input_id, emit)
    assert isinstance(command, DefinePractice)
    return _define(book, command, asked, input_id)


# --- the practice -----------------------------------------------------------------------------


def _define(book: Book, command: DefinePractice, asked: Asked, input_id: str) -> Accepted | Refused:
    if not asked.by.startswith("service:"):
        return Refused(DEFINITION, "Only a service may define a practice", "forbidden", input_id)
    old = book.practice
    if old is not None:
        staying = {member.id for member in command.staff}
        for leaving in old.members:
            if leaving.id not in staying and _has_live(book, leaving):
                return Refused(
                    DEFINITION,
                    f"Member of staff {leaving.id} still has bookings",
                    "slot_conflict",
                    input_id,
                )
    practice = book.define(command)
    offsets = book.revisions[-1].offsets
    return Accepted((PracticeDefined(practice.number, zones.digest(offsets)),))


def _has_live(book: Book, member: Member) -> bool:
    """Scans the book: practices are redefined rarely."""
    return any(
        booking.staff == member.id and booking.status in LIVE for booking in book.bookings.values()
    )


# --- requests ---------------------------------------------------------------------------------


def _request_slot(
    book: Book, command: RequestSlot, asked: Asked, now: int, input_id: str, emit: Emit[Action]
) -> Accepted | Refused:
    practice = book.practice
    if practice is None:
        return _not_open(input_id)
    service = practice.services.get(command.service)
    if service is None:
        return Refused(CREATION, f"Service not found: {command.service}", "not_found", input_id)
    if command.staff and command.staff not in practice.staff:
        return Refused(CREATION, f"Staff not found: {command.staff}", "not_found", input_id)
    customer = _customer(command.customer, asked.by)
    if not customer:
        return _whose(command.customer, input_id)
    start_ms = _start(practice, command, service, input_id)
    if isinstance(start_ms, Refused):
        return start_ms
    slot = _find(book, practice, service, command, customer, start_ms, now, input_id)
    if isinstance(slot, Refused | Accepted):
        return slot
    refusal = _too_many(book, practice, customer, slot, input_id)
    if refusal is not None:
        return refusal
    return _take(book, practice, service, command, asked, slot, customer, now, input_id, emit)


def _start(
    practice: Practice, command: RequestSlot, service: Service, input_id: str
) -> int | Refused:
    """The instant that the command asks for, or why it is none."""
    if command.price_cents is not None and command.price_cents != service.price_cents:
        details = f"Price must be {service.price_cents} cents, not {command.price_cents}"
        return Refused(CREATION, details, "price_mismatch", input_id)
    start_ms = _instant(practice, command.start, input_id)
    if isinstance(start_ms, Refused):
        return start_ms
    if command.end:
        end_ms = _instant(practice, command.end, input_id)
        if isinstance(end_ms, Refused):
            return end_ms
        if end_ms <= start_ms:
            return Refused(
                CREATION, "End time must be after start time", "duration_mismatch", input_id
            )
        if end_ms - start_ms != service.duration_min * zones.MINUTE_MS:
            details = f"{service.name} takes {service.duration_min} minutes"
            return Refused(CREATION, details, "duration_mismatch", input_id)
    return start_ms


def _instant(practice: Practice, text: str, input_id: str) -> int | Refused:
    parsed = parse_instant(text)
    if parsed is None:
        details = f"Not a time from 2000 to 2099 in RFC 3339 form: {text}"
        return Refused(CREATION, details, "validation_failed", input_id)
    ms, local = parsed
    if not local:
        return ms
    found = practice.calendar.zone.instants(ms)
    if len(found) == 1:
        return found[0]
    if found:
        details = f"Clocks show {text} twice that day; add the offset"
        return Refused(CREATION, details, "ambiguous_local_time", input_id)
    details = f"Clocks skip {text} that day"
    return Refused(CREATION, details, "nonexistent_local_time", input_id)


def _find(
    book: Book,
    practice: Practice,
    service: Service,
    command: RequestSlot,
    customer: str,
    start_ms: int,
    now: int,
    input_id: str,
) -> Slot | Accepted | Refused:
    """The slot for an explicit request; or its refusal; or the hold that the customer has already."""
    win = availability.window(practice, now)
    day = practice.calendar.zone.day_of(start_ms)
    today = practice.calendar.day(day)
    first, odd = divmod(start_ms - today.start_ms, zones.MINUTE_MS)
    if odd or not today.grid >> first & 1:
        details = f"No appointment starts at {command.start}: starts are on the practice's grid"
        return Refused(CREATION, details, "validation_failed", input_id)
    if start_ms < win.from_ms or start_ms < now:
        return Refused(CREATION, _notice(practice), "notice_too_short", input_id)
    if day > win.last_day:
        details = (
            "Appointment cannot be booked more than "
            f"{practice.policies.advance_days_max} days in advance"
        )
        return Refused(CREATION, details, "too_far_ahead", input_id)
    wanted = mask(first, service.duration_min)
    members = [practice.staff[command.staff]] if command.staff else practice.members
    at_work = [m for m in members if m.calendar.day(day).open & wanted == wanted]
    if not at_work:
        return _shut(practice, members, day, input_id)
    own = _own_overlap(book, customer, service, day, wanted)
    if own is not None:
        return _duplicate(practice, own, input_id)
    free = [
        member
        for member in at_work
        if availability.free_minutes(book, member, day) & wanted == wanted
    ]
    if not free:
        return Refused(CREATION, CONFLICT, "slot_conflict", input_id)
    member = availability.best_member(book, free, day, first)
    return availability.Slot(member.id, day, first, start_ms)


def _notice(practice: Practice) -> str:
    minutes = practice.policies.minimum_notice_min
    if not minutes:
        return "Appointment time has passed"
    return f"Appointment must be booked at least {_hours(minutes)} hours in advance"


def _hours(minutes: int) -> str:
    return f"{minutes / 60:g}"


def _shut(practice: Practice, members: list[Member], day: int, input_id: str) -> Refused:
    if not any(member.calendar.day(day).open for member in members):
        return Refused(CREATION, "Business is closed on this day", "closed", input_id)
    member = next(member for member in members if member.calendar.day(day).open)
    hours = ", ".join(
        f"{first} - {last}" for first, last in member.calendar.hours_of(weekday_of(day))
    )
    details = f"Appointment time is outside business hours ({hours})"
    return Refused(CREATION, details, "outside_hours", input_id)


def _own_overlap(
    book: Book, customer: str, service: Service, day: int, wanted: int
) -> Booking | None:
    """The customer's own live booking of that service at that time (F-200); confirmed ones first."""
    own = [
        booking
        for booking in book.customer_days.get((customer, day), ())
        if booking.service == service.id and booking.mask & wanted
    ]
    if not own:
        return None
    return min(own, key=lambda b: (b.status != "confirmed", b.created_ms, b.id))


def _duplicate(practice: Practice, own: Booking, input_id: str) -> Accepted | Refused:
    if own.status == "confirmed":
        details = f"The customer already has this appointment: {own.id}"
        return Refused(CREATION, details, "duplicate_booking", input_id)
    return Accepted((_held(practice, own, repeated=True),))


def _request_auto(
    book: Book, command: RequestAuto, asked: Asked, now: int, input_id: str, emit: Emit[Action]
) -> Accepted | Refused:
    practice = book.practice
    if practice is None:
        return _not_open(input_id)
    service = practice.services.get(command.service)
    if service is None:
        return Refused(CREATION, f"Service not found: {command.service}", "not_found", input_id)
    for name in command.staff:
        if name not in practice.staff:
            return Refused(CREATION, f"Staff not found: {name}", "not_found", input_id)
    customer = _customer(command.customer, asked.by)
    if not customer:
        return _whose(command.customer, input_id)
    if command.price_cents is not None and command.price_cents != service.price_cents:
        details = f"Price must be {service.price_cents} cents, not {command.price_cents}"
        return Refused(CREATION, details, "price_mismatch", input_id)
    problem = _wish_problem(practice, command, now)
    if problem:
        return Refused(CREATION, problem, "validation_failed", input_id)
    slot = availability.pick(book, practice, service, command, customer, now)
    if slot is None:
        details = "No free slot within the preferences"
        return Refused(CREATION, details, "no_slot_found", input_id)
    refusal = _too_many(book, practice, customer, slot, input_id)
    if refusal is not None:
        return refusal
    return _take(book, practice, service, command, asked, slot, customer, now, input_id, emit)


def _wish_problem(practice: Practice, wish: RequestAuto, now: int) -> str:
    """Why preferences make no sense, or ""."""
    for text in (wish.first, wish.last, *wish.days):
        if isinstance(text, str) and text and parse_date(text) is None:
            return f"Not a date from 2000 to 2099: {text}"
    for first, last in wish.ranges:
        if last <= first:
            return f"A preferred range must end after it begins: {first} - {last}"
    if wish.days and all(isinstance(day, str) for day in wish.days):
        return ""
    first_day, last_day = availability.wish_window(wish, availability.window(practice, now))
    if last_day - first_day >= availability.WINDOW_DAYS_MAX:
        return f"The window may be {availability.WINDOW_DAYS_MAX} days long, not longer"
    return ""


def _customer(named: str, by: str) -> str:
    """Whose booking it is: customers book for themselves, services and staff for the one named."""
    kind, _, name = by.partition(":")
    if kind == "customer":
        return name if not named or named == name else ""
    return named


def _whose(named: str, input_id: str) -> Refused:
    if named:
        details = "Customers may book for themselves only"
        return Refused(CREATION, details, "forbidden", input_id)
    return Refused(CREATION, "The customer is missing", "validation_failed", input_id)


def _too_many(
    book: Book, practice: Practice, customer: str, slot: Slot, input_id: str
) -> Refused | None:
    policies = practice.policies
    limit = policies.holds_per_customer_max
    if limit and book.customer_holds.get(customer, 0) >= limit:
        details = f"The customer has {limit} unconfirmed requests; confirm or cancel one first"
        return Refused(CREATION, details, "rate_limited", input_id)
    if policies.contention == "first_payment_wins":
        waiting = book.contenders.get((slot.staff, slot.start_ms), 0)
        if waiting >= policies.contenders_max:
            details = f"{waiting} requests already compete for this slot"
            return Refused(CREATION, details, "slot_conflict", input_id)
    return None


def _take(
    book: Book,
    practice: Practice,
    service: Service,
    command: RequestSlot | RequestAuto,
    asked: Asked,
    slot: Slot,
    customer: str,
    now: int,
    input_id: str,
    emit: Emit[Action],
) -> Accepted:
    """Hold the slot (or note the request) and ask for the money. Nothing can go wrong any more."""
    policies = practice.policies
    price = service.price_cents
    auto = command if type(command) is RequestAuto else None
    booking = Booking(
        id=f"b{input_id}",
        customer=customer,
        service=service.id,
        staff=slot.staff,
        day=slot.day,
        first=slot.first,
        duration_min=service.duration_min,
        start_ms=slot.start_ms,
        start=practice.calendar.zone.text(slot.start_ms),
        status="held" if policies.contention == "hold" or not price else "requested",
        created_ms=now,
        due_ms=min(now + policies.hold_s * 1000, slot.start_ms),
        revision=practice.number,
        payment=Payment(f"p{input_id}", price, practice.currency, asked.digest),
        recipient=command.email or customer,
        name=command.name,
        auto=auto,
        asked_ms=0 if auto is not None else slot.start_ms,
    )
    book.add(booking)
    held = _held(practice, booking)
    if price:
        payments.drive(book, booking, now, emit)
        return Accepted((held,))
    booking.payment.desired = "released"  # there is nothing to pay, and nothing to release
    events: list[Event] = [held]
    lifecycle.confirm(book, booking, emit, events)
    return Accepted(tuple(events))


def _held(practice: Practice, booking: Booking, repeated: bool = False) -> SlotHeld | SlotRequested:
    kind = SlotRequested if booking.status == "requested" else SlotHeld
    return kind(
        booking.id,
        booking.customer,
        booking.service,
        booking.staff,
        booking.start,
        booking.duration_min,
        booking.payment.amount_cents,
        practice.currency,
        booking.due_ms,
        repeated,
    )


def _not_open(input_id: str) -> Refused:
    details = "This book has no practice yet: send define_practice first"
    return Refused(CREATION, details, "unavailable", input_id)


# --- cancelling -------------------------------------------------------------------------------


def _cancel(
    book: Book, command: Cancel, asked: Asked, now: int, input_id: str, emit: Emit[Action]
) -> Accepted | Refused:
    booking = book.bookings.get(command.booking)
    kind, _, name = asked.by.partition(":")
    # To a customer, somebody else's booking does not exist.
    if booking is None or (kind == "customer" and booking.customer != name):
        details = f"Booking not found: {command.booking}"
        return Refused(CANCELLATION, details, "not_found", input_id)
    if booking.status not in LIVE:
        code, details = _OVER[booking.status]
        return Refused(CANCELLATION, details, code, input_id)
    policies = book.practices[booking.revision].policies
    if kind == "customer" and booking.status not in AWAITING:
        deadline = booking.start_ms - policies.cancellation_deadline_min * zones.MINUTE_MS
        cooling = booking.created_ms + policies.cooling_off_min * zones.MINUTE_MS
        if now > deadline and (now > cooling or now >= booking.start_ms):
            details = (
                "Cancellation deadline has passed. Must cancel at least "
                f"{_hours(policies.cancellation_deadline_min)} hours before appointment."
            )
            return Refused(CANCELLATION, details, "deadline_passed", input_id)
    events: list[Event] = []
    lifecycle.cancel(book, booking, asked.by, now, emit, events)
    return Accepted(tuple(events))


_OVER = {
    "completed": ("deadline_passed", "The appointment is over"),
    "payment_failed": ("payment_declined", "The payment failed; there is nothing to cancel"),
    "expired": ("hold_expired", "The hold has expired; there is nothing to cancel"),
    "slot_lost": ("slot_conflict", "The slot was lost; there is nothing to cancel"),
    "cancelled": ("not_found", "The booking is cancelled already"),
}
