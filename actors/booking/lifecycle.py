"""How a booking goes from one status to the next, whatever the cause.

Commands, payment results and timers all end here, so that "confirmed", "expired" or "cancelled"
each mean one thing: the calendar, the timer, what is wanted of the money, and who is told.

    held ──────────┬─ paid ──────────> confirmed ── its time is over ──> completed
    (or requested) ├─ declined ──────> payment_failed
                   ├─ deadline ──────> expired ── paid late, still free ──> confirmed
                   ├─ paid, taken ───> slot_lost        (only ``requested``)
                   └─ cancel ────────> cancelled <── cancel ── confirmed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.actors.booking import payments
from holdfast.actors.booking.availability import free_minutes, pick
from holdfast.actors.booking.book import AWAITING, HOUR_MS
from holdfast.actors.booking.messages import (
    Action,
    BookingCancelled,
    BookingCompleted,
    BookingConfirmed,
    BookingDropped,
    Event,
    HoldExpired,
    Notify,
    PaymentDeclined,
    PaymentResult,
    SlotLost,
    SlotMoved,
)
from holdfast.actors.booking.zones import MINUTE_MS

if TYPE_CHECKING:
    from holdfast.actors.booking.book import Book, Booking, Practice, Status
    from holdfast.machine import Emit

ACTIONS_PER_STEP = 4
"""Most actions that one command, result or timer emits."""


def confirm(book: Book, booking: Booking, emit: Emit[Action], events: list[Event]) -> None:
    """The slot is the customer's. It must be free, or held by this very booking."""
    if booking.status == "held":
        book.confirm(booking, booking.end_ms)
    else:
        book.move_to(booking, "confirmed", booking.end_ms)
    booking.version += 1
    moved = bool(events) and type(events[-1]) is SlotMoved  # a customer must hear of the new time
    events.append(BookingConfirmed(booking.id, booking.version, booking.staff, booking.start))
    tell(book, booking, "moved" if moved else "confirmed", emit)


def end(book: Book, booking: Booking, status: Status, now: int, emit: Emit[Action]) -> None:
    """The request came to nothing: its slot is free, its money is wanted back, it leaves later."""
    policies = book.practices[booking.revision].policies
    book.move_to(booking, status, now + policies.keep_failed_h * HOUR_MS)
    booking.version += 1
    booking.payment.desired = "released"
    payments.drive(book, booking, now, emit)


def cancel(
    book: Book, booking: Booking, by: str, now: int, emit: Emit[Action], events: list[Event]
) -> None:
    """Give a live booking back."""
    end(book, booking, "cancelled", now, emit)
    events.append(BookingCancelled(booking.id, booking.version, by))
    tell(book, booking, "cancelled", emit)


def take_result(
    book: Book,
    booking: Booking,
    action_id: str,
    result: PaymentResult,
    now: int,
    emit: Emit[Action],
    events: list[Event],
) -> None:
    """Take in a payment result and let the booking follow."""
    settle_ms = book.practices[booking.revision].policies.check_settle_s * 1000
    changed = payments.observe(book, booking, action_id, result, now, settle_ms, emit, events)
    observed = booking.payment.observed
    if not changed:
        pass
    elif booking.status == "confirmed":
        _keep(booking)
    elif observed == "authorized":
        _paid(book, booking, now, emit, events)
    elif observed in payments.CLOSED and booking.status in AWAITING:
        # Whatever closed it, no money is on hold for this request any more.
        end(book, booking, "payment_failed", now, emit)
        events.append(PaymentDeclined(booking.id, result.reason))
        tell(book, booking, "declined", emit)
    payments.drive(book, booking, now, emit)


def _keep(booking: Booking) -> None:
    """The provider changed its mind on a confirmed booking, which keeps its slot whatever it says.

    Where the money is gone, nothing is wanted of it any more; where it is back, it is.
    """
    payment = booking.payment
    if payment.amount_cents:
        payment.desired = "released" if payment.observed in payments.GONE else "authorized"


def _paid(book: Book, booking: Booking, now: int, emit: Emit[Action], events: list[Event]) -> None:
    """The money is on hold: give the customer the slot, or the money back."""
    if booking.status == "held":
        confirm(book, booking, emit, events)
        return
    practice = book.practices[-1]  # what is given now is given under what holds now
    late = booking.status == "expired" and practice.policies.late_authorization
    if not late and booking.status != "requested":
        return
    offered = booking.service in practice.services
    if offered and (
        _still_free(book, practice, booking, now) or _moved(book, practice, booking, now, events)
    ):
        booking.revision = practice.number
        booking.payment.desired = "authorized"
        confirm(book, booking, emit, events)
    elif not late:
        end(book, booking, "slot_lost", now, emit)
        events.append(SlotLost(booking.id))
        tell(book, booking, "lost", emit)


def _still_free(book: Book, practice: Practice, booking: Booking, now: int) -> bool:
    member = practice.staff.get(booking.staff)
    if member is None or booking.start_ms <= now:
        return False
    wanted = booking.mask
    day_ms = member.calendar.day(booking.day).start_ms
    return (
        free_minutes(book, member, booking.day) & wanted == wanted
        and booking.start_ms == day_ms + booking.first * MINUTE_MS  # clocks as when it was made
        and not any(  # the customer did not take the same elsewhere meanwhile (F-200)
            other is not booking and other.service == booking.service and other.mask & wanted
            for other in book.customer_days.get((booking.customer, booking.day), ())
        )
    )


def _moved(book: Book, practice: Practice, booking: Booking, now: int, events: list[Event]) -> bool:
    """Offer the loser of an auto-selection another slot inside the same preferences."""
    if booking.auto is None:
        return False
    service = practice.services[booking.service]
    if service.duration_min != booking.duration_min:
        return False  # the practice has changed what was asked for
    slot = pick(book, practice, service, booking.auto, booking.customer, now, booking)
    if slot is None:
        return False
    start = practice.calendar.zone.text(slot.start_ms)
    book.place(booking, slot.staff, slot.day, slot.first, slot.start_ms, start)
    events.append(SlotMoved(booking.id, slot.staff, start))
    return True


def fire(
    book: Book,
    booking: Booking,
    is_payment: bool,
    now: int,
    emit: Emit[Action],
    events: list[Event],
) -> None:
    """Do what a timer was set for."""
    if is_payment:
        payments.check(book, booking, emit)
        return
    policies = book.practices[booking.revision].policies
    if booking.status in AWAITING:
        end(book, booking, "expired", now, emit)
        events.append(HoldExpired(booking.id))
        tell(book, booking, "expired", emit)
    elif booking.status == "confirmed":
        book.move_to(booking, "completed", now + policies.keep_past_days * 24 * HOUR_MS)
        booking.version += 1
        if booking.payment.desired == "authorized":
            booking.payment.desired = "captured"
            payments.drive(book, booking, now, emit)
        events.append(BookingCompleted(booking.id))
    elif payments.is_settled(booking.payment):
        book.drop(booking)
        events.append(BookingDropped(booking.id))
    else:
        book.rearm(booking, now + HOUR_MS)  # money is never forgotten: look again later


def tell(book: Book, booking: Booking, kind: str, emit: Emit[Action]) -> None:
    """Tell the customer what happened."""
    practice = book.practices[booking.revision]
    emit.untracked(
        Notify(
            booking.id,
            booking.version,
            kind,
            booking.recipient,
            booking.name,
            practice.name,
            practice.services[booking.service].name,
            booking.start,
            booking.duration_min,
        )
    )
