"""What becomes of each command: validate everything, then change. One function per command.

A refusal is a value, never an exception, and it has changed nothing. Where several reasons apply,
the first in this file's order is the one given: what the command alone tells comes before what the
practice offers, that before the clock, and that before what others have booked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.actors.booking import availability, lifecycle, payments, zones
from holdfast.actors.booking.book import AWAITING, LIVE, Booking, Payment
from holdfast.actors.booking.calendar import Calendar, parse_date
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
    from holdfast.actors.booking.calendar import Moment
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
        if book.revisions[-1].definition == command:
            return _defined(book)  # a service that starts again says the same again
        staying = {member.id for member in command.staff}
        for leaving in old.members:
            if leaving.id not in staying and _has_live(book, leaving):
                return Refused(
                    DEFINITION,
                    f"Member of staff {leaving.id} still has bookings",
                    "slot_conflict",
                    input_id,
                )
        if _clocks_change(book, command):
            details = "The zone's clocks differ from those by which there are bookings"
            return Refused(DEFINITION, details, "slot_conflict", input_id)
    book.define(command)
    return _defined(book)


def _defined(book: Book) -> Accepted:
    offsets = book.revisions[-1].offsets
    return Accepted((PracticeDefined(len(book.revisions) - 1, zones.digest(offsets)),))


def _clocks_change(book: Book, command: DefinePractice) -> bool:
    """Whether a live booking would begin at another minute of its day: masks would not compare."""
    offsets = list(zones.load(command.zone))
    if offsets == book.revisions[-1].offsets:
        return False
    calendar = Calendar(zones.Zone(offsets), {}, command.grid_min)
    return any(
        booking.start_ms != calendar.day(booking.day).start_ms + booking.first * zones.MINUTE_MS
        for booking in book.bookings.values()
        if booking.status in LIVE
    )


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
    if command.price_cents is not None and command.price_cents != service.price_cents:
        return _wrong_price(service, command.price_cents, input_id)
    moment = practice.calendar.moment(command.start)
    if moment.problem:
        return Refused(CREATION, moment.details, moment.problem, input_id)
    if command.end:
        refusal = _wrong_end(practice, service, moment, command.end, input_id)
        if refusal is not None:
            return refusal
    refusal = _off_limits(practice, moment, now, input_id)
    if refusal is not None:
        return refusal
    slot = _find(book, practice, service, command.staff, customer, moment, input_id)
    if type(slot) is not availability.Slot:
        return slot
    refusal = _too_many(book, practice, customer, input_id)
    if refusal is not None:
        return refusal
    return _take(book, practice, service, command, asked, slot, customer, now, input_id, emit)


def _wrong_price(service: Service, price_cents: int, input_id: str) -> Refused:
    """Why the price that a client sent is wrong (C29)."""
    details = f"Price must be {service.price_cents} cents, not {price_cents}"
    return Refused(CREATION, details, "price_mismatch", input_id)


def _wrong_end(
    practice: Practice, service: Service, moment: Moment, end: str, input_id: str
) -> Refused | None:
    """Why the end that a client sent is wrong (C29)."""
    ends = practice.calendar.moment(end)
    if ends.problem:
        return Refused(CREATION, ends.details, ends.problem, input_id)
    if ends.start_ms <= moment.start_ms:
        details = "End time must be after start time"
    elif ends.start_ms - moment.start_ms != service.duration_min * zones.MINUTE_MS:
        details = f"{service.name} takes {service.duration_min} minutes"
    else:
        return None
    return Refused(CREATION, details, "duration_mismatch", input_id)


def _off_limits(practice: Practice, moment: Moment, now: int, input_id: str) -> Refused | None:
    """Why the practice offers nothing then, whoever is booked: the grid, notice, advance."""
    if not moment.on_grid:
        details = f"No appointment starts at {moment.text}: starts are on the practice's grid"
        return Refused(CREATION, details, "validation_failed", input_id)
    if moment.start_ms < now + practice.notice_ms:
        return Refused(CREATION, _notice(practice), "notice_too_short", input_id)
    if moment.day > practice.today(now) + practice.policies.advance_days_max:
        details = (
            "Appointment cannot be booked more than "
            f"{practice.policies.advance_days_max} days in advance"
        )
        return Refused(CREATION, details, "too_far_ahead", input_id)
    return None


def _find(
    book: Book,
    practice: Practice,
    service: Service,
    staff: str,
    customer: str,
    moment: Moment,
    input_id: str,
) -> Slot | Accepted | Refused:
    """The slot for an explicit request; or its refusal; or the hold that the customer has already."""
    day = moment.day
    wanted = ((1 << service.duration_min) - 1) << moment.first
    members = [practice.staff[staff]] if staff else practice.members
    at_work = members
    if practice.own_hours:
        at_work = [m for m in members if m.calendar.day(day).open & wanted == wanted]
    elif moment.open & wanted != wanted:
        at_work = []
    if not at_work:
        return _shut(members, day, input_id)
    mine = book.customer_days.get((customer, day))  # F-200
    own = None if mine is None else _own_overlap(mine, service, wanted)
    if own is not None:
        return _duplicate(own, input_id)
    sheets = book.sheets
    free: list[Member] = []
    for member in at_work:
        sheet = sheets.get((member.id, day))
        if sheet is None or not sheet.taken & wanted:
            free.append(member)
    if not free:
        return Refused(CREATION, CONFLICT, "slot_conflict", input_id)
    if book.contenders:
        free = [m for m in free if not availability.is_crowded(book, m.id, moment.start_ms)]
        if not free:
            waiting = practice.policies.contenders_max
            details = f"{waiting} requests already compete for this slot"
            return Refused(CREATION, details, "slot_conflict", input_id)
    best = free[0] if len(free) == 1 else availability.best_member(book, free, day, moment.first)
    return availability.Slot(best.id, day, moment.first, moment.start_ms)


def _notice(practice: Practice) -> str:
    minutes = practice.policies.minimum_notice_min
    if not minutes:
        return "Appointment time has passed"
    return f"Appointment must be booked at least {_hours(minutes)} hours in advance"


def _hours(minutes: int) -> str:
    return f"{minutes / 60:g}"


def _shut(members: list[Member], day: int, input_id: str) -> Refused:
    for member in members:
        if member.calendar.day(day).open:
            hours = member.calendar.hours_text(day)
            details = f"Appointment time is outside business hours ({hours})"
            return Refused(CREATION, details, "outside_hours", input_id)
    return Refused(CREATION, "Business is closed on this day", "closed", input_id)


def _own_overlap(mine: list[Booking], service: Service, wanted: int) -> Booking | None:
    """Of a customer's live bookings of a day that of *service* at that time; confirmed ones first."""
    own = [b for b in mine if b.service == service.id and b.mask & wanted]
    if not own:
        return None
    return min(own, key=lambda b: (b.status != "confirmed", b.created_ms, b.id))


def _duplicate(own: Booking, input_id: str) -> Accepted | Refused:
    if own.status == "confirmed":
        details = f"The customer already has this appointment: {own.id}"
        return Refused(CREATION, details, "duplicate_booking", input_id)
    return Accepted((_held(own, repeated=True),))


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
        return _wrong_price(service, command.price_cents, input_id)
    problem = _wish_problem(practice, command, now)
    if problem:
        return Refused(CREATION, problem, "validation_failed", input_id)
    slot = availability.pick(book, practice, service, command, customer, now)
    if slot is None:
        details = "No free slot within the preferences"
        return Refused(CREATION, details, "no_slot_found", input_id)
    refusal = _too_many(book, practice, customer, input_id)
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
    if not wish.last or (wish.days and all(isinstance(day, str) for day in wish.days)):
        return ""  # the window is two weeks, or the days are named
    first_day, last_day = availability.wish_window(wish, availability.window(practice, now))
    if last_day - first_day >= availability.WINDOW_DAYS_MAX:
        return f"The window may be {availability.WINDOW_DAYS_MAX} days long, not longer"
    return ""


def _customer(named: str, by: str) -> str:
    """Whose booking it is: customers book for themselves, services and staff for the one named."""
    if by.startswith("customer:"):
        name = by[len("customer:") :]
        return name if not named or named == name else ""
    return named


def _whose(named: str, input_id: str) -> Refused:
    if named:
        details = "Customers may book for themselves only"
        return Refused(CREATION, details, "forbidden", input_id)
    return Refused(CREATION, "The customer is missing", "validation_failed", input_id)


def _too_many(book: Book, practice: Practice, customer: str, input_id: str) -> Refused | None:
    limit = practice.policies.holds_per_customer_max
    if limit and book.customer_holds.get(customer, 0) >= limit:
        details = f"The customer has {limit} unconfirmed requests; confirm or cancel one first"
        return Refused(CREATION, details, "rate_limited", input_id)
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
        f"b{input_id}",
        customer,
        service.id,
        slot.staff,
        slot.day,
        slot.first,
        service.duration_min,
        slot.start_ms,
        practice.calendar.zone.text(slot.start_ms),
        "held" if policies.contention == "hold" or not price else "requested",
        now,
        min(now + policies.hold_s * 1000, slot.start_ms),
        practice.number,
        Payment(payments.name_of(input_id, asked.digest), price, practice.currency),
        command.email or customer,
        command.name,
        auto,
        0 if auto is not None else slot.start_ms,
    )
    book.add(booking)
    held = _held(booking)
    if price:
        payments.drive(book, booking, now, emit)
        return Accepted((held,))
    booking.payment.desired = "released"  # there is nothing to pay, and nothing to release
    events: list[Event] = [held]
    lifecycle.confirm(book, booking, emit, events)
    return Accepted(tuple(events))


def _held(booking: Booking, repeated: bool = False) -> SlotHeld | SlotRequested:
    kind = SlotRequested if booking.status == "requested" else SlotHeld
    return kind(
        booking.id,
        booking.customer,
        booking.service,
        booking.staff,
        booking.start,
        booking.duration_min,
        booking.payment.amount_cents,
        booking.payment.currency,
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
