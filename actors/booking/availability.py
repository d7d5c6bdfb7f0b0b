"""Which slots are free: the one function behind listing, holding, booking and auto-selection.

A slot that is listed can be booked at the same state of the book, because nothing else is asked
when it is booked (domain section 5, lesson 1).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, final

import msgspec

from holdfast.actors.booking.calendar import lowest, mask, minute_of, parse_date, starts, weekday_of
from holdfast.actors.booking.zones import FIRST_DAY, LAST_DAY, MINUTE_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from holdfast.actors.booking.book import Book, Booking, Member, Practice
    from holdfast.actors.booking.calendar import Day
    from holdfast.actors.booking.messages import RequestAuto, Service, TimeRange

WINDOW_DAYS_MAX = 92
"""Most days that one auto-selection looks at."""

WINDOW_DAYS = 14
"""The window where the request names no last day."""


@final
class Slot(msgspec.Struct, frozen=True, gc=False):
    """A member of staff and a minute of a day."""

    staff: str
    day: int
    first: int
    start_ms: int


class Window(msgspec.Struct, frozen=True, gc=False):
    """When appointments may start, by the practice's notice and advance policies."""

    from_ms: int
    today: int
    last_day: int


def window(practice: Practice, now: int) -> Window:
    """The practice's window of starts at *now*: exactly the least notice is enough (C21)."""
    today = practice.today(now)
    # Far enough from the calendar's ends that each start can be asked for, whatever the zone.
    last_day = min(today + practice.policies.advance_days_max, LAST_DAY - 3)
    return Window(now + practice.notice_ms, max(today, FIRST_DAY + 2), last_day)


def free_minutes(book: Book, member: Member, day: int) -> int:
    """The minutes in which *member* is at work on *day* and nobody is booked."""
    sheet = book.sheets.get((member.id, day))
    opened = member.calendar.day(day).open
    return opened if sheet is None else opened & ~sheet.taken


def free_starts(
    book: Book, member: Member, day: int, duration_min: int, win: Window, within: int = -1
) -> int:
    """The minutes at which an appointment may start, as bits.

    Args:
      book: The book.
      member: With whom.
      day: Local date.
      duration_min: How long it takes.
      win: When it may start.
      within: The minutes in which it must lie; -1 for any. On a full day this alone answers.
    """
    if not win.today <= day <= win.last_day:
        return 0
    today = member.calendar.day(day)
    free = today.open & within
    sheet = book.sheets.get((member.id, day))
    if sheet is not None:
        free &= ~sheet.taken
    if not free:
        return 0
    found = starts(free, duration_min) & today.grid
    if win.from_ms > today.start_ms:
        first = -(-(win.from_ms - today.start_ms) // MINUTE_MS)
        found = found >> first << first
    if found and book.contenders:
        found = _without_crowded(book, member, today, found)
    return found


def _without_crowded(book: Book, member: Member, day: Day, found: int) -> int:
    """*found* without the starts for which no more requests may compete; at most a day's grid."""
    rest = found
    while rest:
        first = lowest(rest)
        rest &= rest - 1
        if is_crowded(book, member.id, day.start_ms + first * MINUTE_MS):
            found &= ~(1 << first)
    return found


def is_crowded(book: Book, staff: str, start_ms: int) -> bool:
    """Whether as many requests compete for a slot as the practice allows."""
    policies = book.practices[-1].policies
    return (
        policies.contention == "first_payment_wins"
        and book.contenders.get((staff, start_ms), 0) >= policies.contenders_max
    )


def best_member(book: Book, members: Sequence[Member], day: int, first: int) -> Member:
    """Who gets it of those who could (F-211).

    Who has least to do that day, then who has been idle for longest, then the first by id.
    """
    best = members[0]
    least: tuple[int, int, str] | None = None
    for member in members:
        sheet = book.sheets.get((member.id, day))
        if sheet is None:
            load = (0, 0, member.id)
        else:
            busy_until = (sheet.taken & ((1 << first) - 1)).bit_length()
            load = (sheet.minutes, busy_until, member.id)
        if least is None or load < least:
            best, least = member, load
    return best


def pick(
    book: Book,
    practice: Practice,
    service: Service,
    wish: RequestAuto,
    customer: str,
    now: int,
    moving: Booking | None = None,
) -> Slot | None:
    """The best slot inside the preferences, or None; *moving* is the booking that it is for, if any.

    Days in the order given, on each the schedule's ranges, in each the preferred ranges in the order
    given, in each the grid's starts (U-06); never outside the preferences, and never at a time when
    the customer is already booked.
    """
    win = window(practice, now)
    members = (
        [practice.staff[name] for name in wish.staff if name in practice.staff]
        if wish.staff
        else practice.members
    )
    plain = _plain_minutes(tuple(wish.ranges)) if wish.ranges else -1
    for day in _days(wish, win):
        within = plain
        if wish.ranges and not practice.calendar.day(day).plain:
            within = _union(practice.calendar.span(day, wanted) for wanted in wish.ranges)
        possible = [
            free_starts(book, member, day, service.duration_min, win, within) for member in members
        ]
        if not any(possible):
            continue
        busy = 0
        for own in book.customer_days.get((customer, day), ()):
            if own is not moving:
                busy |= own.mask
        slot = _pick_on(book, practice, members, possible, busy, service.duration_min, wish, day)
        if slot is not None:
            return slot
    return None


def _days(wish: RequestAuto, win: Window) -> Iterator[int]:
    """The days of a wish in the order of preference, each once."""
    first, last = wish_window(wish, win)
    seen: set[int] = set()
    for wanted in wish.days:
        if isinstance(wanted, str):
            day = parse_date(wanted)
            days: Sequence[int] = () if day is None else (day,)
        else:
            days = range(first + (wanted - weekday_of(first)) % 7, last + 1, 7)
        for day in days:
            if first <= day <= last and day not in seen:
                seen.add(day)
                yield day
    if not wish.days:
        yield from range(first, last + 1)


def wish_window(wish: RequestAuto, win: Window) -> tuple[int, int]:
    """First and last day that a wish allows; named dates need no window of their own."""
    first = (parse_date(wish.first) if wish.first else None) or win.today
    last = parse_date(wish.last) if wish.last else None
    if last is None:
        named = wish.days and all(isinstance(day, str) for day in wish.days)
        last = win.last_day if named else first + WINDOW_DAYS - 1
    return max(first, win.today), min(last, win.last_day)


def _pick_on(
    book: Book,
    practice: Practice,
    members: Sequence[Member],
    possible: Sequence[int],
    busy: int,
    duration_min: int,
    wish: RequestAuto,
    day: int,
) -> Slot | None:
    """The best slot on a day, of each member's *possible* starts; not in *busy* minutes."""
    anybody = 0
    for bits in possible:
        anybody |= bits
    if busy:
        anybody &= starts(((1 << 1500 + duration_min) - 1) & ~busy, duration_min)
    if not anybody:
        return None
    first = _first_by_preference(practice, anybody, duration_min, wish, day)
    if first < 0:
        return None
    free = [member for member, bits in zip(members, possible, strict=True) if bits >> first & 1]
    member = best_member(book, free, day, first)
    return Slot(member.id, day, first, practice.calendar.day(day).start_ms + first * MINUTE_MS)


@lru_cache(maxsize=4096)
def _plain_minutes(ranges: tuple[TimeRange, ...]) -> int:
    """The minutes that lie in any of *ranges*, on a day without a change of clocks."""
    return _union((minute_of(first), minute_of(last)) for first, last in ranges)


def _union(spans: Iterable[tuple[int, int]]) -> int:
    minutes = 0
    for first, end in spans:
        if end > first:
            minutes |= mask(first, end - first)
    return minutes


def _first_by_preference(
    practice: Practice, possible: int, duration_min: int, wish: RequestAuto, day: int
) -> int:
    """The start that the preferences put first among *possible*; -1 where none is inside them."""
    if not wish.ranges:
        return lowest(possible)
    calendar = practice.calendar
    # A member's own hours may lie outside the practice's: then the whole day is one range.
    schedule = (*calendar.day(day).ranges, (1 << 1500) - 1)
    for opened in schedule:
        for wanted in wish.ranges:
            first, end = calendar.span(day, wanted)
            if end - first < duration_min:
                continue
            inside = possible & opened & mask(first, end - first - duration_min + 1)
            if inside:
                return lowest(inside)
    return -1
