"""Time zones as plain tables of offsets, so that the book decides by data that lies in its state.

Zones come from the ``tzdata`` package alone, never from the machine's own files, so that every
process knows the same ones. A table is made once, when a practice is decoded; the transition finds
it here and copies it into the book, where an upgrade of the package does not change it.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, date, datetime
from functools import cache, lru_cache
from hashlib import blake2b
from importlib.resources import files
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

MINUTE_MS = 60_000
DAY_MS = 86_400_000

FIRST_DAY = 10_957
"""2000-01-01, in days since 1970-01-01: the calendar's first day."""

LAST_DAY = 47_482
"""2100-01-01: the calendar's end; no appointment lies on it or after it."""

_STEP_MS = 3 * DAY_MS
"""How far apart offsets are looked at to find where they change; no zone changes twice within."""

TEXTS_MAX = 16_384
"""Most times that are remembered as text; the same few starts are asked for again and again."""

Offsets = list[tuple[int, int]]
"""``(from_ms, offset_min)`` ascending: the zone's offset from UTC, from that instant on."""


@cache
def names() -> frozenset[str]:
    """Every IANA name there is."""
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="ascii").split())


@cache
def load(name: str) -> tuple[tuple[int, int], ...]:
    """The offsets of zone *name* over the calendar's range.

    Offsets are whole minutes; since 2000 no zone has had others.

    Raises:
      ValueError: There is no such zone.
    """
    if name not in names():
        raise ValueError(f"unknown time zone {name!r}: use an IANA name such as Europe/Berlin")
    package, _, file = f"tzdata/zoneinfo/{name}".rpartition("/")
    with files(package.replace("/", ".")).joinpath(file).open("rb") as source:
        zone = ZoneInfo.from_file(source, key=name)

    def offset_min(ms: int) -> int:
        moment = datetime.fromtimestamp(ms / 1000, tz=UTC).astimezone(zone)
        offset = moment.utcoffset()
        assert offset is not None  # it is aware
        return round(offset.total_seconds()) // 60

    first, end = (FIRST_DAY - 2) * DAY_MS, (LAST_DAY + 2) * DAY_MS
    table = [(first, offset_min(first))]
    for left in range(first, end, _STEP_MS):
        right = left + _STEP_MS
        before, after = table[-1][1], offset_min(right)
        if before != after:
            low, high = left // MINUTE_MS, right // MINUTE_MS
            while high - low > 1:
                middle = (low + high) // 2
                if offset_min(middle * MINUTE_MS) == before:
                    low = middle
                else:
                    high = middle
            table.append((high * MINUTE_MS, after))
    return tuple(table)


def digest(offsets: Sequence[tuple[int, int]]) -> str:
    """A short digest of a table, so that two machines that know a zone differently can tell."""
    text = ",".join(f"{start}:{offset}" for start, offset in offsets)
    return blake2b(text.encode(), digest_size=8).hexdigest()


class Zone:
    """Local time in one zone.

    Args:
      offsets: The table; not empty.
    """

    __slots__ = ("_offsets", "_starts", "_texts")

    def __init__(self, offsets: Sequence[tuple[int, int]]) -> None:
        self._texts: dict[int, str] = {}
        self._starts = [start for start, _ in offsets]
        self._offsets = [offset for _, offset in offsets]

    def offset_min(self, ms: int) -> int:
        """The offset from UTC at an instant, minutes; before the table, its first."""
        return self._offsets[max(bisect_right(self._starts, ms) - 1, 0)]

    def day_of(self, ms: int) -> int:
        """The local date at an instant, in days since 1970-01-01."""
        return (ms + self.offset_min(ms) * MINUTE_MS) // DAY_MS

    def instants(self, local_ms: int) -> list[int]:
        """The instants at which local clocks show *local_ms*: none in a gap, two in a fold.

        Args:
          local_ms: Local time as if it were UTC, milliseconds since the epoch.

        Returns:
          Shape: none, one or two instants, ascending.
        """
        near = bisect_right(self._starts, local_ms) - 1
        found: list[int] = []
        for offset in self._offsets[max(near - 1, 0) : near + 3]:
            ms = local_ms - offset * MINUTE_MS
            if self.offset_min(ms) == offset and ms not in found:
                found.append(ms)
        return sorted(found)

    def day_start(self, day: int) -> int:
        """The first instant of a local date. Where midnight is skipped, the instant after the gap."""
        found = self.instants(day * DAY_MS)
        if found:
            return found[0]
        ms = day * DAY_MS - self.offset_min(day * DAY_MS - DAY_MS) * MINUTE_MS
        return ms  # the clock's jump over midnight begins the day

    def text(self, ms: int) -> str:
        """Local time with its offset, RFC 3339, such as ``2026-06-02T10:00+02:00``."""
        text = self._texts.get(ms)
        if text is None:
            offset = self.offset_min(ms)
            day, rest = divmod(ms + offset * MINUTE_MS, DAY_MS)
            text = f"{date_text(day)}T{_CLOCK[rest // MINUTE_MS]}{_offset_text(offset)}"
            if len(self._texts) >= TEXTS_MAX:
                self._texts.clear()
            self._texts[ms] = text
        return text


_CLOCK = [f"{minute // 60:02d}:{minute % 60:02d}" for minute in range(1440)]
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


@lru_cache(maxsize=4096)
def date_text(day: int) -> str:
    """``YYYY-MM-DD`` of a day number, days since 1970-01-01."""
    return date.fromordinal(day + _EPOCH_ORDINAL).isoformat()


@lru_cache(maxsize=256)
def _offset_text(offset_min: int) -> str:
    sign, size = ("+", offset_min) if offset_min >= 0 else ("-", -offset_min)
    return f"{sign}{size // 60:02d}:{size % 60:02d}"
