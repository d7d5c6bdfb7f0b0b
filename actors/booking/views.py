"""A book as people look at it: calendar, holds, payments. Reads only.

Every function takes the book and gives plain structs; who shows them formats them.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from holdfast.actors.booking.book import AWAITING, OCCUPYING
from holdfast.actors.booking.calendar import parse_date
from holdfast.actors.booking.payments import is_at_rest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from holdfast.actors.booking.book import Book, Booking


class Appointment(msgspec.Struct, frozen=True):
    """One live booking in the calendar.

    Attributes:
      status: ``held``, ``confirmed`` or ``completed``; ``requested`` among the holds.
      start: Local time with its offset, RFC 3339; ``end`` likewise.
      deadline_ms: Of a slot hold; 0 for anything else.
    """

    booking: str
    customer: str
    service: str
    staff: str
    status: str
    start: str
    end: str
    deadline_ms: int = 0


class PaymentView(msgspec.Struct, frozen=True):
    """One payment as the book knows it.

    Attributes:
      in_flight: The id of the action whose result is awaited, or "".
      due_ms: When its status is checked next; 0 where no check is due.
      at_rest: Nothing more happens to it unless somebody asks, or the appointment's time comes.
    """

    payment: str
    booking: str
    amount_cents: int
    currency: str
    desired: str
    observed: str
    in_flight: str
    due_ms: int = 0
    at_rest: bool = False


def calendar(book: Book, first: date, last: date) -> list[Appointment]:
    """The appointments and held slots from local date *first* to *last*, in order of time."""
    begin, end = parse_date(first.isoformat()), parse_date(last.isoformat())
    if begin is None or end is None:
        return []
    return _appointments(
        book,
        (
            booking
            for booking in book.bookings.values()
            if booking.status in OCCUPYING and begin <= booking.day <= end
        ),
    )


def whole_calendar(book: Book) -> list[Appointment]:
    """All appointments and held slots, in order of time."""
    return _appointments(
        book, (booking for booking in book.bookings.values() if booking.status in OCCUPYING)
    )


def holds(book: Book) -> list[Appointment]:
    """All requests that wait for a payment, in order of time."""
    return _appointments(
        book, (booking for booking in book.bookings.values() if booking.status in AWAITING)
    )


def _appointments(book: Book, bookings: Iterable[Booking]) -> list[Appointment]:
    ordered = sorted(bookings, key=lambda booking: (booking.start_ms, booking.staff, booking.id))
    return [
        Appointment(
            booking.id,
            booking.customer,
            booking.service,
            booking.staff,
            booking.status,
            booking.start,
            book.practices[booking.revision].calendar.zone.text(booking.end_ms),
            booking.due_ms if booking.status in AWAITING else 0,
        )
        for booking in ordered
    ]


def calendar_digest(book: Book) -> str:
    """A digest of who is booked with whom from when to when, and of nothing else.

    Two runs over the same requests can be compared by it, although their ids and times differ.
    """
    lines = sorted(
        f"{booking.start_ms} {booking.end_ms} {booking.staff} {booking.customer}"
        for booking in book.bookings.values()
        if booking.status in OCCUPYING
    )
    return blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def payments(book: Book) -> list[PaymentView]:
    """All payments of bookings that cost something, in order of the requests."""
    return [
        PaymentView(
            payment.id,
            booking.id,
            payment.amount_cents,
            payment.currency,
            payment.desired,
            payment.observed,
            payment.in_flight,
            payment.due_ms,
            is_at_rest(payment),
        )
        for booking in book.bookings.values()
        if (payment := booking.payment).amount_cents
    ]
