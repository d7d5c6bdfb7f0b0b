"""Availability against a reference that knows nothing of bits: lists of minutes, and the clock itself."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.actors.booking import availability, calendar, zones
from holdfast.actors.booking.calendar import Calendar, parse_date, parse_instant, weekday_of
from holdfast.actors.booking.messages import Accepted, RequestAuto, RequestSlot, TimeRange

from .world import DAY, MINUTE, Desk, booked, dentist, ms, run

if TYPE_CHECKING:
    from holdfast.actors.booking.book import Booking, Member

PROFILE = settings(derandomize=True, deadline=None, max_examples=60, database=None)

CHANGES = [
    ("Europe/Berlin", "2026-03-29", 1380),
    ("Europe/Berlin", "2026-10-25", 1500),
    ("Europe/Berlin", "2026-06-02", 1440),
    ("America/New_York", "2026-03-08", 1380),
    ("America/New_York", "2026-11-01", 1500),
    ("Australia/Lord_Howe", "2026-04-05", 1470),
    ("Australia/Lord_Howe", "2026-10-04", 1410),
    ("America/Havana", "2025-03-09", 1380),  # midnight is skipped
    ("America/Havana", "2025-11-02", 1500),  # midnight comes twice
    ("America/Sao_Paulo", "2018-11-04", 1380),
    ("America/Sao_Paulo", "2018-02-17", 1500),
    ("Asia/Kolkata", "2026-06-02", 1440),
    ("Pacific/Chatham", "2026-09-27", 1380),
    ("UTC", "2026-06-02", 1440),
]


def clock(zone: str) -> ZoneInfo:
    """The zone as the package knows it: the machine's own files may be older."""
    with files("tzdata").joinpath("zoneinfo", *zone.split("/")).open("rb") as source:
        return ZoneInfo.from_file(source, key=zone)


def number_of(text: str) -> int:
    day = parse_date(text)
    assert day is not None
    return day


def wall_minutes(zone: str, text: str) -> list[tuple[int, str]]:
    """All minutes of a local date in order, as instants and what clocks show; by zoneinfo alone."""
    tz, wanted = clock(zone), date.fromisoformat(text)
    at = datetime(wanted.year, wanted.month, wanted.day, tzinfo=UTC) - timedelta(hours=15)
    found: list[tuple[int, str]] = []
    for _ in range(55 * 60):
        shown = at.astimezone(tz)
        if shown.date() == wanted:
            found.append((int(at.timestamp()) * 1000, f"{shown:%H:%M}"))
        at += timedelta(minutes=1)
    return found


@pytest.mark.parametrize(("zone", "text", "minutes"), CHANGES)
def test_a_day_is_as_long_as_its_clocks_say(zone: str, text: str, minutes: int) -> None:
    wall = wall_minutes(zone, text)
    table = zones.Zone(zones.load(zone))
    day = Calendar(table, {}, 15).day(number_of(text))
    assert (day.start_ms, day.minutes, len(wall)) == (wall[0][0], minutes, minutes)
    assert day.plain is (minutes == 1440)
    grid = [at for at, (_, shown) in enumerate(wall) if int(shown[3:]) % 15 == 0]
    assert [at for at in range(1500) if day.grid >> at & 1] == grid
    for instant, shown in wall[::7]:
        text_of = table.text(instant)
        assert text_of.startswith(f"{text}T{shown}")
        assert parse_instant(text_of) == (instant, False)
        assert instant in table.instants(day.number * DAY + _minute(shown) * MINUTE)


def _minute(shown: str) -> int:
    return int(shown[:2]) * 60 + int(shown[3:])


OPENINGS: list[TimeRange] = [
    ("00:00", "24:00"), ("09:00", "12:00"), ("02:30", "04:00"), ("01:00", "02:30"),
    ("01:45", "02:15"), ("00:15", "00:45"), ("00:00", "01:30"), ("22:00", "24:00"),
]  # fmt: skip


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize(("zone", "text", "minutes"), CHANGES)
def test_opening_hours_on_days_whose_clocks_change(
    zone: str, text: str, minutes: int, opening: TimeRange
) -> None:
    """From the first time its begin is shown or skipped, to the last time its end is reached."""
    wall = wall_minutes(zone, text)
    weekday = str(weekday_of(number_of(text)))
    days = Calendar(zones.Zone(zones.load(zone)), {weekday: [opening]}, 15)
    shown = [at for _, at in wall]
    # The first minute at or after the begin; the minute after the last one that is before the end.
    first = next((n for n, at in enumerate(shown) if at >= opening[0]), minutes)
    last = max((n for n, at in enumerate(shown) if at < opening[1]), default=-1) + 1
    if opening[1] in shown:
        last = len(shown) - 1 - shown[::-1].index(opening[1])
    day = days.day(number_of(text))
    assert [at for at in range(minutes + 60) if day.open >> at & 1] == list(range(first, last))
    assert days.span(day.number, opening)[0] == first


@pytest.mark.parametrize("zone", sorted(zones.names())[::23])
def test_offsets_are_those_of_the_zone(zone: str) -> None:
    table = zones.Zone(zones.load(zone))
    tz = clock(zone)
    at = datetime(2000, 1, 2, 0, 30, tzinfo=UTC)
    while at.year < 2099:
        offset = at.astimezone(tz).utcoffset()
        assert offset is not None
        assert table.offset_min(int(at.timestamp()) * 1000) == offset // timedelta(minutes=1), at
        at += timedelta(hours=97 if at.year < 2040 else 997)


def test_a_zone_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown time zone 'Mars/Olympus': use an IANA name"):
        zones.load("Mars/Olympus")
    assert zones.digest(zones.load("UTC")) != zones.digest(zones.load("Europe/Berlin"))


def test_times_before_and_after_the_calendar_have_a_date_all_the_same() -> None:
    """The time of an entry may be anything; nothing can be booked then, and nothing breaks."""
    for now in (0, 1, ms("1998-12-31T00:00Z"), ms("2101-01-01T00:00Z"), 1 << 51):
        desk = Desk(dentist(), now=now)
        assert not isinstance(desk.ask(RequestAuto("checkup")).result, Accepted)
        assert not isinstance(desk.ask(RequestAuto("checkup", [1])).result, Accepted)
        desk.ask(RequestSlot("checkup", "2026-06-02T10:00"))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "TEXTS_MAX", 10)
    monkeypatch.setattr(calendar, "MOMENTS_MAX", 10)
    zone = zones.Zone(zones.load("Europe/Berlin"))
    days = Calendar(zone, {}, 15)
    for minute in range(0, 1440, 15):
        text = f"2026-06-02T{minute // 60:02d}:{minute % 60:02d}"
        assert days.moment(text).text == f"{text}+02:00"
        assert days.moment(text) is days.moment(text)
    assert len(days._moments) <= 10  # pyright: ignore[reportPrivateUsage]
    assert len(zone._texts) <= 10  # pyright: ignore[reportPrivateUsage]


# --- a book's free starts -----------------------------------------------------------------------


def naive_starts(
    desk: Desk, member: Member, text: str, duration_min: int, own: list[Booking] | None = None
) -> list[int]:
    """The instants at which an appointment may start, minute by minute."""
    practice = desk.state.practices[-1]
    definition = desk.state.revisions[-1].definition
    policies = definition.policies
    zone = definition.zone
    tz = clock(zone)
    today = datetime.fromtimestamp(desk.now / 1000, tz=UTC).astimezone(tz).date()
    if not 0 <= (date.fromisoformat(text) - today).days <= policies.advance_days_max:
        return []
    own_hours = next(s.hours for s in definition.staff if s.id == member.id)
    hours = definition.hours if own_hours is None else own_hours
    weekday = date.fromisoformat(text).isoweekday() % 7
    wall = wall_minutes(zone, text)
    opened: set[int] = set()
    for first, last in hours.get(str(weekday), ()):
        opened |= {at for at, shown in wall if first <= shown < last}
    for booking in desk.state.bookings.values():
        mine = booking.staff == member.id and booking.status in ("held", "confirmed", "completed")
        if mine or booking in (own or ()):
            opened -= set(range(booking.start_ms, booking.end_ms, MINUTE))
    found: list[int] = []
    for at, shown in wall:
        if (
            _minute(shown) % definition.grid_min
            or at < desk.now + policies.minimum_notice_min * MINUTE
        ):
            continue
        waiting = sum(
            b.status == "requested" and (b.staff, b.start_ms) == (member.id, at)
            for b in desk.state.bookings.values()
        )
        if policies.contention == "first_payment_wins" and waiting >= policies.contenders_max:
            continue
        if all(at + n * MINUTE in opened for n in range(duration_min)):
            found.append(at)
    assert practice.staff[member.id] is member
    return found


@pytest.mark.slow
@PROFILE
@given(st.integers(0, 2**32), st.sampled_from(["hold", "first_payment_wins"]))
def test_free_starts_are_those_of_the_reference(seed: int, contention: str) -> None:
    desk = Desk(scan=False)
    run(desk, seed, 60, contention)
    rng = random.Random(seed)
    practice = desk.state.practices[-1]
    win = availability.window(practice, desk.now)
    for member in practice.members:
        day = win.today + rng.randint(-1, 4)
        text = zones.date_text(day)
        for duration_min in (15, 45):
            bits = availability.free_starts(desk.state, member, day, duration_min, win)
            start = member.calendar.day(day).start_ms
            found = [start + at * MINUTE for at in range(1500) if bits >> at & 1]
            assert found == naive_starts(desk, member, text, duration_min)


@pytest.mark.slow
@settings(PROFILE, max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from(["hold", "first_payment_wins"]))
def test_a_listed_slot_can_be_booked_and_no_other(seed: int, contention: str) -> None:
    """At the same state of the book (domain section 5, lesson 1)."""
    desk = Desk(scan=False)
    run(desk, seed, 60, contention)
    practice = desk.state.practices[-1]
    win = availability.window(practice, desk.now)
    data = desk.digest()
    rng = random.Random(seed)
    for member in practice.members:
        day = win.today + rng.randint(0, 3)
        bits = availability.free_starts(desk.state, member, day, 30, win)
        start = practice.calendar.day(day).start_ms
        for first in rng.sample(range(1440), 12) + [at for at in range(1440) if bits >> at & 1][:6]:
            text = practice.calendar.zone.text(start + first * MINUTE)
            desk.state = desk.machine.decode(data)
            wish = RequestSlot("checkup", text, "new", member.id)
            accepted = isinstance(desk.ask(wish, "service:web").result, Accepted)
            assert accepted is bool(bits >> first & 1), (text, desk.outcome)


def naive_pick(desk: Desk, wish: RequestAuto, customer: str) -> tuple[int, set[str]] | None:
    """The documented order, spelt out (U-06): days, schedule ranges, preferred ranges, grid."""
    practice = desk.state.practices[-1]
    definition = desk.state.revisions[-1].definition
    duration_min = practice.services[wish.service].duration_min
    tz = clock(definition.zone)
    today = datetime.fromtimestamp(desk.now / 1000, tz=UTC).astimezone(tz).date()
    first = max(date.fromisoformat(wish.first) if wish.first else today, today)
    named = bool(wish.days) and all(isinstance(day, str) for day in wish.days)
    if wish.last:
        last = date.fromisoformat(wish.last)
    else:
        last = date(2099, 1, 1) if named else first + timedelta(days=13)
    window = [first + timedelta(days=n) for n in range(40) if first + timedelta(days=n) <= last]
    days: list[date] = []
    for wanted in wish.days or window:
        if isinstance(wanted, date):
            days.append(wanted)
        elif isinstance(wanted, str):
            days += [day for day in window if day.isoformat() == wanted]
        else:
            days += [day for day in window if day.isoweekday() % 7 == wanted]
    members = [m for m in practice.members if not wish.staff or m.id in wish.staff]
    live = [b for b in desk.state.bookings.values()
            if b.customer == customer and b.status in ("held", "requested", "confirmed")]  # fmt: skip
    for day in days:
        free = {m.id: naive_starts(desk, m, day.isoformat(), duration_min, live) for m in members}
        ranges = definition.hours.get(str(day.isoweekday() % 7), [])
        for opened in [*ranges, ("00:00", "24:00")]:
            for wanted_range in wish.ranges or [("00:00", "24:00")]:
                for at in sorted({at for starts in free.values() for at in starts}):
                    begin = datetime.fromtimestamp(at / 1000, tz=UTC).astimezone(tz)
                    begin_min = begin.hour * 60 + begin.minute
                    if not wish.ranges or (
                        opened[0] <= f"{begin:%H:%M}" < opened[1]
                        and _minute(wanted_range[0]) <= begin_min
                        and begin_min + duration_min <= _minute(wanted_range[1])
                    ):
                        return at, {name for name, starts in free.items() if at in starts}
    return None


@pytest.mark.slow
@settings(PROFILE, max_examples=40)
@given(
    st.integers(0, 2**32),
    st.lists(
        st.one_of(st.integers(0, 6), st.sampled_from(["2026-06-02", "2026-06-03"])), max_size=3
    ),
    st.lists(
        st.sampled_from(
            [("09:00", "10:30"), ("14:00", "18:00"), ("08:00", "24:00"), ("11:30", "12:00")]
        ),
        max_size=3,
    ),
    st.sampled_from([[], ["ann"], ["bob", "ann"]]),
    st.sampled_from(["", "2026-06-03"]),
    st.sampled_from(["", "2026-06-08"]),
)
def test_auto_selection_is_the_first_in_the_documented_order(
    seed: int,
    days: list[str | int],
    ranges: list[TimeRange],
    staff: list[str],
    first: str,
    last: str,
) -> None:
    desk = Desk(scan=False)
    run(desk, seed, 50, "hold")
    practice = desk.state.practices[-1]
    names = [name for name in staff if name in practice.staff]
    wish = RequestAuto("filling", days, ranges, names, first, last)
    expected = naive_pick(desk, wish, "K1")
    outcome = desk.ask(msgspec_replace(wish), "customer:K1")
    if expected is None:
        assert not isinstance(outcome.result, Accepted)
    elif isinstance(outcome.result, Accepted):
        booking = desk.state.bookings[booked(outcome)]
        assert booking.start_ms == expected[0]
        assert booking.staff in expected[1]
    else:
        assert outcome.result.code == "rate_limited"


def msgspec_replace(wish: RequestAuto) -> RequestAuto:
    """The same wish, as another object."""
    return msgspec.json.decode(msgspec.json.encode(wish), type=RequestAuto)


def test_auto_selection_on_a_day_whose_clocks_change() -> None:
    hours: dict[str, list[TimeRange]] = {"0": [("00:00", "24:00")]}
    desk = Desk(dentist(hours=hours, grid_min=30), now=ms("2026-10-24T12:00+02:00"))
    wish = RequestAuto("root-canal", ["2026-10-25"], [("02:00", "03:00")])
    found = [desk.hold(wish, f"customer:{n}").start for n in range(2)]
    assert found == ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"]
    spring = Desk(dentist(hours=hours, grid_min=30), now=ms("2026-03-28T12:00+01:00"))
    early = RequestAuto("cleaning", ["2026-03-29"], [("01:30", "03:30")])
    found = [spring.hold(early, f"customer:{n}").start for n in range(2)]
    assert found == ["2026-03-29T01:30+01:00", "2026-03-29T03:00+02:00"]


def test_the_last_days_of_the_calendar_are_not_offered() -> None:
    hours: dict[str, list[TimeRange]] = {str(day): [("00:00", "24:00")] for day in range(7)}
    for zone in ("Pacific/Honolulu", "Pacific/Kiritimati"):
        desk = Desk(dentist(hours=hours, zone=zone), now=ms("2099-12-20T12:00Z"))
        practice = desk.state.practices[0]
        win = availability.window(practice, desk.now)
        assert zones.date_text(win.last_day) == "2099-12-29"
        last = practice.calendar.day(win.last_day)
        at = practice.calendar.zone.text(last.start_ms + 23 * 60 * MINUTE)
        desk.hold(RequestSlot("checkup", at))
