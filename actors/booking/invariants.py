"""What must be true of a book after every input (domain 7.8, F-040), in two forms.

:func:`check_touched` looks at what the last input touched, in time that does not grow with the book;
the host calls it after every input. :func:`full_scan` knows nothing of indexes: it derives
everything from the bookings alone, by brute force, and compares. A property test shows that both
agree. The numbers in the sentences are those of domain 7.8; F-040's six are among them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from holdfast.actors.booking import payments
from holdfast.actors.booking.book import AWAITING, LIVE, OCCUPYING
from holdfast.actors.booking.calendar import parse_date, weekday_of
from holdfast.actors.booking.payments import GONE

if TYPE_CHECKING:
    from holdfast.actors.booking.book import Book, Booking


class InvariantError(AssertionError):
    """The book broke a rule of its own: a bug of ours, never a user's mistake."""


def check_touched(book: Book) -> None:
    """Check what the last input touched.

    Raises:
      InvariantError: With every rule that is broken.
    """
    problems: list[str] = []
    for booking in book.touched:
        if booking.id in book.bookings:
            sheet = book.sheets.get((booking.staff, booking.day))
            if sheet is not None and sheet.taken.bit_count() != sheet.minutes:
                problems.append(f"1 overlap: {booking.staff} on day {booking.day}")
            if booking.status in OCCUPYING:
                wanted = ((1 << booking.duration_min) - 1) << booking.first
                if sheet is None or sheet.taken & wanted != wanted:
                    problems.append(f"1 calendar: {booking.id} does not occupy its minutes")
            _check_one(book, booking, problems)
    if problems:
        raise InvariantError("; ".join(problems))


def _check_one(book: Book, booking: Booking, problems: list[str]) -> None:
    """The rules that concern one booking and nothing else."""
    status = booking.status
    payment = booking.payment
    if status in LIVE:
        practice = book.practices[booking.revision]
        wanted = ((1 << booking.duration_min) - 1) << booking.first
        opened = practice.staff[booking.staff].calendar.day(booking.day)
        if opened.open & wanted != wanted:
            problems.append(f"2 hours: {booking.id} lies outside opening hours")
        if booking.start_ms != opened.start_ms + booking.first * 60_000:
            problems.append(f"2 hours: {booking.id} begins at another minute than its start")
        if booking.auto is not None:
            if not _preferred(book, booking):
                problems.append(f"10 preferences: {booking.id} lies outside them")
        elif booking.start_ms != booking.asked_ms:
            problems.append(f"10 request: {booking.id} is not when it was asked for")
        if status == "confirmed":
            lapsed = payment.observed in GONE and payment.desired == "released"
            if payment.amount_cents and not (
                lapsed or payment.observed in ("authorized", "captured")
            ):
                problems.append(f"4 confirmed: {booking.id} has payment {payment.observed}")
            if booking.due_ms != booking.end_ms:
                problems.append(f"3 timer: {booking.id} does not end with its appointment")
        elif not booking.created_ms <= booking.due_ms <= booking.start_ms:
            problems.append(f"3 timer: {booking.id} has no deadline before its start")
        if payment.amount_cents and not (
            payment.desired == "authorized" or (status == "confirmed" and payment.observed in GONE)
        ):
            problems.append(f"5 desired: {booking.id} is live and wants {payment.desired}")
    elif payment.desired == "authorized":
        problems.append(f"5 desired: {booking.id} is {status} and wants its hold kept")
    if payment.in_flight:
        if payment.due_ms:
            problems.append(f"7 calls: {payment.id} has a call in flight and a check due")
        if book.in_flight.get(payment.in_flight) is not booking:
            problems.append(f"7 calls: {payment.in_flight} is not among those in flight")
    elif not payment.due_ms and (
        payment.observed in ("requested", "unknown") or payments.wanted_call(payment)
    ):
        problems.append(f"5 payment: {payment.id} is {payment.observed} and nothing is under way")


def _preferred(book: Book, booking: Booking) -> bool:
    """Whether an auto-selected slot lies inside what was asked for."""
    wish = booking.auto
    assert wish is not None
    if wish.staff and booking.staff not in wish.staff:
        return False
    if wish.days and not any(
        parse_date(day) == booking.day if isinstance(day, str) else day == weekday_of(booking.day)
        for day in wish.days
    ):
        return False
    if not wish.ranges:
        return True
    calendar = book.practices[booking.revision].calendar
    end = booking.first + booking.duration_min
    for wanted in wish.ranges:
        first, last = calendar.span(booking.day, wanted)
        if first <= booking.first and end <= last:
            return True
    return False


def full_scan(book: Book) -> list[str]:
    """Every rule, over the whole book.

    Returns:
      What is broken, a sentence each; empty where all is well.
    """
    problems: list[str] = []
    occupied: dict[tuple[str, int], list[tuple[int, int, str]]] = {}
    holds: dict[str, int] = {}
    contenders: dict[tuple[str, int], int] = {}
    days: dict[tuple[str, int], list[str]] = {}
    in_flight: dict[str, str] = {}
    set_timers = set(book.timers)
    for booking in book.bookings.values():
        _check_one(book, booking, problems)
        if booking.status in OCCUPYING:
            occupied.setdefault((booking.staff, booking.day), []).append(
                (booking.start_ms, booking.end_ms, booking.id)
            )
        if booking.status in AWAITING:
            holds[booking.customer] = holds.get(booking.customer, 0) + 1
        if booking.status == "requested":
            slot = (booking.staff, booking.start_ms)
            contenders[slot] = contenders.get(slot, 0) + 1
        if booking.status in LIVE:
            days.setdefault((booking.customer, booking.day), []).append(booking.id)
        if booking.payment.in_flight:
            in_flight[booking.payment.in_flight] = booking.id
        if (booking.due_ms, booking.id, 0) not in set_timers:
            problems.append(f"3 timer: {booking.id} has none")
        if booking.payment.due_ms and (booking.payment.due_ms, booking.id, 1) not in set_timers:
            problems.append(f"5 timer: {booking.payment.id} is due and has none")
    _compare_calendar(book, occupied, problems)
    for name, kept, derived in (
        ("holds", book.customer_holds, holds),
        ("contenders", book.contenders, contenders),
        ("payments in flight", {k: b.id for k, b in book.in_flight.items()}, in_flight),
        (
            "customers' days",
            {k: sorted(b.id for b in bs) for k, bs in book.customer_days.items()},
            {k: sorted(ids) for k, ids in days.items()},
        ),
    ):
        if kept != derived:
            problems.append(f"index: {name} differ from the bookings")
    return problems


def _compare_calendar(
    book: Book, occupied: dict[tuple[str, int], list[tuple[int, int, str]]], problems: list[str]
) -> None:
    """No overlap by comparing neighbours; and the sheets say what the bookings say, both ways."""
    for (staff, day), spans in occupied.items():
        spans.sort()
        for one, other in pairwise(spans):
            if other[0] < one[1]:
                problems.append(f"1 overlap: {one[2]} and {other[2]}, {staff} on day {day}")
        sheet = book.sheets.get((staff, day))
        minutes = sum((end - start) // 60_000 for start, end, _ in spans)
        taken = 0
        for _, _, booking_id in spans:
            taken |= book.bookings[booking_id].mask
        if sheet is None or (sheet.taken, sheet.minutes) != (taken, minutes):
            problems.append(f"1 calendar: the sheet of {staff} on day {day} differs")
    problems.extend(
        f"1 calendar: {staff} is taken on day {day} by nobody"
        for staff, day in book.sheets
        if (staff, day) not in occupied
    )
