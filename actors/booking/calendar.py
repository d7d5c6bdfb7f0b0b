"""A day as one integer: a bit per minute of elapsed time since local midnight.

Opening hours, appointments and the grid of starts are masks over the same bits, so that "which
starts are free for thirty minutes" is a handful of shifts over a whole day at once. A day has 1,380,
1,440 or 1,500 bits where clocks change; that is decided here, once per day, and nowhere else.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from holdfast.actors.booking.zones import DAY_MS, FIRST_DAY, LAST_DAY, MINUTE_MS, Zone

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.actors.booking.messages import TimeRange

_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]([01]\d|2[0-3]):\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII
)
"""What RFC 3339 allows, and seconds may be missing; the library's parser varies with its version."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_NAIVE = datetime(1970, 1, 1)  # noqa: DTZ001 - local wall time has no zone
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


MOMENTS_MAX = 16_384
"""Most starts that are remembered by their text; people ask for the same few again and again."""


def mask(first: int, length: int) -> int:
    """*length* bits from bit *first* on."""
    return ((1 << length) - 1) << first


def starts(free: int, length: int) -> int:
    """Bits from which *length* free bits run without a gap.

    Args:
      free: The free minutes.
      length: At least 1.
    """
    run = 1
    while run * 2 <= length:
        free &= free >> run
        run *= 2
    return free & (free >> (length - run))


def lowest(bits: int) -> int:
    """Number of the lowest bit that is set; -1 where none is."""
    return (bits & -bits).bit_length() - 1


def minute_of(local: str) -> int:
    """Minutes after midnight of ``HH:MM``; ``24:00`` is 1,440."""
    return int(local[:2]) * 60 + int(local[3:])


@lru_cache(maxsize=4096)  # a practice's few ranges, over and over
def _plain_span(opening: TimeRange) -> tuple[int, int]:
    return minute_of(opening[0]), minute_of(opening[1])


def weekday_of(day: int) -> int:
    """Weekday of a date, Sunday 0 to Saturday 6 (domain C2); the only place that knows."""
    return (day + 4) % 7  # 1970-01-01 was a Thursday


def parse_date(text: str) -> int | None:
    """Days since 1970-01-01 of ``YYYY-MM-DD``; None where there is no such day in the calendar."""
    try:
        day = date.fromisoformat(text).toordinal() - _EPOCH_ORDINAL
    except ValueError:
        return None
    return day if FIRST_DAY <= day < LAST_DAY else None


def parse_instant(text: str) -> tuple[int, bool] | None:
    """Milliseconds since the epoch of an RFC 3339 time, and whether they are local wall time.

    Returns:
      None where *text* is no such time or lies outside the calendar.
    """
    if _INSTANT.fullmatch(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    local = moment.tzinfo is None
    since = moment - (_EPOCH_NAIVE if local else _EPOCH)
    if since.microseconds or not FIRST_DAY < since.days < LAST_DAY - 1:
        return None
    return since.days * DAY_MS + since.seconds * 1000, local


class Day(msgspec.Struct, frozen=True):
    """One local date of a practice.

    Attributes:
      number: Days since 1970-01-01.
      start_ms: Its first instant.
      minutes: Its length.
      plain: Clocks do not change on it: minutes are those of the wall clock.
      grid: The minutes at which appointments may start, by the wall clock.
      open: The practice's opening hours.
      ranges: The same, range by range, as masks; ascending.
    """

    number: int
    start_ms: int
    minutes: int
    plain: bool
    grid: int
    open: int
    ranges: tuple[int, ...]


class Moment(msgspec.Struct, frozen=True, gc=False):
    """A start that somebody asked for, found in the calendar.

    Attributes:
      problem: "" or the code of why it is none; then only ``details`` is filled.
      day: Local date, days since 1970-01-01.
      first: Minute of the day, elapsed.
      on_grid: Whether appointments may start then.
      open: The practice's opening hours that day.
      text: Local time with its offset.
    """

    problem: str = ""
    details: str = ""
    start_ms: int = 0
    day: int = 0
    first: int = 0
    on_grid: bool = False
    open: int = 0
    text: str = ""


class Calendar:
    """The days of one practice, made when they are first asked for.

    Args:
      zone: The practice's.
      hours: Opening hours by weekday, "0" is Sunday; a missing day is closed.
      grid_min: Starts lie on multiples of so many wall-clock minutes after midnight.
    """

    __slots__ = ("_grid_min", "_hours", "_hours_texts", "_moments", "_plain_grid", "days", "zone")

    def __init__(self, zone: Zone, hours: Mapping[str, Sequence[TimeRange]], grid_min: int) -> None:
        self.zone = zone
        self._hours = [hours.get(str(weekday), ()) for weekday in range(7)]
        self._hours_texts = [
            ", ".join(f"{first} - {last}" for first, last in ranges) for ranges in self._hours
        ]
        self._grid_min = grid_min
        self._plain_grid = sum(1 << minute for minute in range(0, 1440, grid_min))
        self.days: dict[int, Day] = {}
        self._moments: dict[str, Moment] = {}

    def day(self, number: int) -> Day:
        """The day *number*, within the calendar."""
        found = self.days.get(number)
        if found is None:
            found = self.days[number] = self._make(number)
        return found

    def moment(self, text: str) -> Moment:
        """The start that *text* means; see :func:`parse_instant`."""
        found = self._moments.get(text)
        if found is None:
            if len(self._moments) >= MOMENTS_MAX:
                self._moments.clear()
            found = self._moments[text] = self._find_moment(text)
        return found

    def _find_moment(self, text: str) -> Moment:
        parsed = parse_instant(text)
        if parsed is None:
            details = f"Not a time from 2000 to 2099 in RFC 3339 form: {text}"
            return Moment("validation_failed", details)
        ms, local = parsed
        if local:
            found = self.zone.instants(ms)
            if not found:
                return Moment("nonexistent_local_time", f"Clocks skip {text} that day")
            if len(found) > 1:
                details = f"Clocks show {text} twice that day; add the offset"
                return Moment("ambiguous_local_time", details)
            ms = found[0]
        day = self.day(self.zone.day_of(ms))
        first, odd = divmod(ms - day.start_ms, MINUTE_MS)
        on_grid = not odd and bool(day.grid >> first & 1)
        return Moment("", "", ms, day.number, first, on_grid, day.open, self.zone.text(ms))

    def hours_text(self, day: int) -> str:
        """The opening hours of a day as they were defined, such as ``09:00 - 12:00, 14:00 - 17:00``."""
        return self._hours_texts[weekday_of(day)]

    def _make(self, number: int) -> Day:
        start = self.zone.day_start(number)
        minutes = (self.zone.day_start(number + 1) - start) // MINUTE_MS
        plain = minutes == 1440 and self.zone.offset_min(start) == self.zone.offset_min(
            start + DAY_MS - MINUTE_MS
        )
        grid = self._plain_grid
        if not plain:
            wall = [self._wall_minute(start + minute * MINUTE_MS) for minute in range(minutes)]
            grid = sum(1 << at for at, shown in enumerate(wall) if shown % self._grid_min == 0)
        ranges: list[int] = []
        for opening in self._hours[weekday_of(number)]:
            first, end = _plain_span(opening) if plain else self._changing_span(start, opening)
            if end > first:
                ranges.append(mask(first, end - first))
        union = 0
        for part in ranges:
            union |= part
        return Day(number, start, minutes, plain, grid, union, tuple(ranges))

    def _wall_minute(self, ms: int) -> int:
        return (ms + self.zone.offset_min(ms) * MINUTE_MS) % DAY_MS // MINUTE_MS

    def span(self, number: int, opening: TimeRange) -> tuple[int, int]:
        """First minute and end minute of a local time range on a day, in elapsed minutes.

        A time that the clocks skip counts as the instant of the skip; of one that they show twice
        the first is a range's begin and the last its end.
        """
        day = self.day(number)
        return _plain_span(opening) if day.plain else self._changing_span(day.start_ms, opening)

    def _changing_span(self, start: int, opening: TimeRange) -> tuple[int, int]:
        """The same on the day that begins at *start* and on which clocks change."""
        number = self.zone.day_of(start)
        edges: list[int] = []
        for text, pick in ((opening[0], 0), (opening[1], -1)):
            minute = minute_of(text)
            local = number * DAY_MS + minute * MINUTE_MS
            found = self.zone.instants(local)
            if minute == 1440:
                instant = self.zone.day_start(number + 1)
            elif found:
                instant = found[pick]
            else:
                instant = self._after_gap(local)
            edges.append((instant - start) // MINUTE_MS)
        return edges[0], edges[1]

    def _after_gap(self, local: int) -> int:
        """The instant at which clocks jump over the local time *local*."""
        early = local - self.zone.offset_min(local - DAY_MS) * MINUTE_MS
        late = local - self.zone.offset_min(local + DAY_MS) * MINUTE_MS
        low, high = min(early, late) // MINUTE_MS, max(early, late) // MINUTE_MS
        before = self.zone.offset_min(low * MINUTE_MS)
        while high - low > 1:
            middle = (low + high) // 2
            if self.zone.offset_min(middle * MINUTE_MS) == before:
                low = middle
            else:
                high = middle
        return high * MINUTE_MS
