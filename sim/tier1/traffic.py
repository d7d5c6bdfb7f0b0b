"""What customers ask, one command after the other, out of a scenario and the operation's numbers.

It remembers what customers would: which bookings they have, what they asked under which key, and
what the practice offers. It never looks into the book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.actors.booking import messages as m
from holdfast.actors.booking.calendar import minute_of, weekday_of
from holdfast.actors.booking.zones import DAY_MS, MINUTE_MS, Zone, date_text, load
from holdfast.sim.tier1.scenarios import AFTERNOON, BEGIN_MS, MORNING, WEEKS

if TYPE_CHECKING:
    from holdfast.sim.tier1.scenarios import Scenario
    from holdfast.sim.tier1.trial import Past

RETRIES_MAX: Final = 64
"""How many of the last commands may come again."""

_NONSENSE: Final = (
    m.RequestSlot("checkup", "2026-13-01T10:00"),
    m.RequestSlot("checkup", "2026-03-29T02:30"),  # skipped by the clocks
    m.RequestSlot("checkup", "2026-10-25T02:30"),  # shown twice
    m.RequestSlot("checkup", "2026-04-01T10:07"),
    m.RequestSlot("checkup", "2031-04-01T10:00"),
    m.RequestSlot("no-such-service", "2026-04-01T10:00"),
    m.RequestSlot("checkup", "2026-04-01T10:00", staff="nobody"),
    m.RequestSlot("checkup", "2026-04-01T10:00", customer="K-other"),
    m.RequestSlot("checkup", "2026-04-01T10:00", price_cents=1),
    m.RequestSlot("checkup", "2026-04-01T10:00", end="2026-04-01T11:00"),
    m.RequestAuto("checkup", ["2026-02-30"]),
    m.RequestAuto("checkup", ranges=[("12:00", "09:00")]),
    m.RequestAuto("checkup", first="2026-04-01", last="2027-04-01"),
    m.Cancel("b1-1"),
)

_RANGES: Final[tuple[list[m.TimeRange], ...]] = (
    [MORNING],
    [AFTERNOON],
    [AFTERNOON, MORNING],
    [("10:00", "10:45")],
    [("16:30", "17:30"), ("08:00", "09:30")],
    [("01:30", "04:00"), ("09:00", "24:00")],
    [("10:30", "12:00"), ("09:00", "10:30"), ("15:30", "17:00"), ("14:00", "15:30")],
    [],
)


class Traffic:
    """The customers of one run.

    Attributes:
      begin_ms: When the practice opens.
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.begin_ms = BEGIN_MS
        self._scenario, self._seed = scenario, seed
        self._practice = scenario.practice(seed)
        self._variants = 0
        self._services = [service.id for service in self._practice.services]
        self._zone = Zone(load(self._practice.zone))
        self._customers = [f"customer:K{n}" for n in range(scenario.customers)]
        self._staff = [member.id for member in self._practice.staff]
        self._starts: dict[int, list[str]] = {}
        self._bookings: list[str] = []  # live ones; a list to choose from, a dict to find in
        self._places: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        self._past: list[Past] = []
        self._retrying: Past | None = None
        self._rebooking = ""
        self._last: m.Asked | None = None  # that asked for a certain slot
        self._asked = 0
        auto = scenario.auto
        self._bounds = (
            scenario.cancel,
            scenario.cancel + auto,
            scenario.cancel + auto + scenario.retry,
            scenario.cancel + auto + scenario.retry + scenario.probe,
            scenario.cancel + auto + scenario.retry + scenario.probe + scenario.redefine,
        )

    # -- what happened --------------------------------------------------------------------------

    def entered(self, booking: str, customer: str) -> None:
        """A customer has a booking or a hold."""
        if booking not in self._places:
            self._places[booking] = len(self._bookings)
            self._bookings.append(booking)
            self._owners[booking] = f"customer:{customer}"

    def left(self, booking: str) -> None:
        """It is over, one way or another."""
        place = self._places.pop(booking, None)
        if place is None:
            return
        last = self._bookings.pop()
        if last != booking:
            self._bookings[place] = last
            self._places[last] = place
        del self._owners[booking]

    def past(self, asked: m.Asked) -> Past | None:
        """What is known of a command that comes again; None for one that is new."""
        past, self._retrying = self._retrying, None
        return past if past is not None and past.asked.key == asked.key else None

    def may_ask_again(self, past: Past) -> None:
        """One of the last commands, which may come again."""
        if len(self._past) < RETRIES_MAX:
            self._past.append(past)
        else:
            self._past[self._asked % RETRIES_MAX] = past

    # -- what is asked --------------------------------------------------------------------------

    def open(self) -> m.Asked:
        """The first command: the practice."""
        return m.Asked(self._practice, "open", "service:setup", "open")

    def next(self, now: int, words: tuple[int, ...], burst: bool) -> m.Asked:
        """The next command; in a *burst* of the same customer, or for the same slot."""
        self._asked += 1
        cancels, autos, retries, probes, redefines = self._bounds
        by = self._customers[words[2] * len(self._customers) >> 32]
        if burst and self._last is not None:
            if words[11] & 1:
                return self._fresh(self._last.command, by)
            by = self._last.by
        draw = words[3] * 1000 >> 32
        if self._rebooking:
            by, self._rebooking = self._rebooking, ""
            return self._fresh(self._slot(now, words), by)
        if draw < cancels:
            return self._cancel(by, words)
        if draw < autos:
            return self._fresh(self._auto(now, words), by)
        if draw < retries and self._past:
            return self._again(by, words)
        if draw < probes:
            return self._fresh(_NONSENSE[words[4] * len(_NONSENSE) >> 32], by, words[5] & 15 == 0)
        if draw < redefines:
            self._variants += 1
            practice = self._scenario.practice(self._seed, 1 + (words[4] * 420 >> 32))
            return self._fresh(practice, by if words[5] & 15 == 0 else "service:setup")
        self._last = self._fresh(self._slot(now, words), by)
        return self._last

    def _fresh(self, command: m.Command, by: str, keyless: bool = False) -> m.Asked:
        name = str(self._asked)
        return m.Asked(command, "" if keyless else f"k{name}", by, name)

    def _again(self, by: str, words: tuple[int, ...]) -> m.Asked:
        """The same under the same key; sometimes another key, another body, another customer's."""
        past = self._past[words[4] * len(self._past) >> 32]
        asked = past.asked
        turn = words[5] & 31
        if turn == 0:
            self._retrying = past
            return m.Asked(asked.command, asked.key, asked.by, "another")
        if turn == 1 and not isinstance(asked.command, m.Cancel | m.DefinePractice):
            return m.Asked(asked.command, asked.key, f"customer:X{self._asked}", asked.digest)
        if 2 <= turn < 8:
            return self._fresh(asked.command, asked.by)  # pressed twice: the same, a new key
        self._retrying = past
        return asked

    def _cancel(self, by: str, words: tuple[int, ...]) -> m.Asked:
        if not self._bookings:
            return self._fresh(m.Cancel("b0-0"), by)
        booking = self._bookings[words[4] * len(self._bookings) >> 32]
        turn = words[5] & 31
        owner = self._owners[booking]
        if (words[6] * 1000 >> 32) < self._scenario.rebook:
            self._rebooking = owner
        if turn == 0:
            return self._fresh(m.Cancel(booking), by)  # hardly ever the owner
        return self._fresh(m.Cancel(booking), "staff:s0" if turn < 4 else owner)

    def _slot(self, now: int, words: tuple[int, ...]) -> m.RequestSlot:
        scenario = self._scenario
        today = (now + 2 * 3_600_000) // DAY_MS
        if scenario.hot:
            # Everybody wants the next working day's first starts, and the next hour others.
            day = today + 1 + (words[5] * 2 >> 32)
            starts = self._open_starts(day)
            at = now // (4 * 3_600_000) * scenario.hot + (words[6] * scenario.hot >> 32)
            start = starts[at % len(starts)]
        else:
            starts = self._open_starts(today + (words[5] * (scenario.days + 1) >> 32))
            start = starts[words[6] * len(starts) >> 32]
        service = self._services[words[7] * len(self._services) >> 32]
        staff = ""
        if words[8] & 0xFFFF >= scenario.anybody * 66:
            staff = self._staff[words[8] * len(self._staff) >> 32]
        return m.RequestSlot(service, start, staff=staff)

    def _auto(self, now: int, words: tuple[int, ...]) -> m.RequestAuto:
        service = self._services[words[7] * len(self._services) >> 32]
        weekday = words[5] * 6 >> 32
        if not self._scenario.wishes:
            other = words[6] * 7 >> 32
            return m.RequestAuto(service, [weekday, other], _RANGES[words[4] * 3 >> 32])
        today = (now + 2 * 3_600_000) // DAY_MS
        near = date_text(today + (words[6] * self._scenario.days >> 32))
        far = date_text(today + (words[8] * self._scenario.days >> 32))
        kind = words[9] & 7
        days: list[m.LocalDate | m.Weekday] = [weekday]
        if kind < 3:
            days = [near, far]
        elif kind == 3:
            days = [far, weekday, near]
        elif kind == 4:
            days = []
        staff: list[str] = []
        if words[10] & 3 == 0:
            staff = [self._staff[words[8] * len(self._staff) >> 32]]
        ranges = _RANGES[words[4] * len(_RANGES) >> 32]
        window = words[10] >> 2 & 7
        last = far if window == 0 else ""
        return m.RequestAuto(service, days, ranges, staff, last=last)

    def _open_starts(self, day: int) -> list[str]:
        """Of *day* or the first after it that is not closed."""
        for later in range(7):
            found = self._starts.get(day + later)
            if found is None:
                found = self._starts_of(day + later)
            if found:
                return found
        raise ValueError(f"scenario {self._scenario.name} is never open")

    def _starts_of(self, day: int) -> list[str]:
        """What customers ask for on a day: each half hour that is open, and one before and after."""
        midnight = self._zone.day_start(day)
        starts: dict[int, None] = {}
        for first, last in WEEKS[self._scenario.week].get(str(weekday_of(day)), ()):
            begin, end = minute_of(first) // 30 * 30 - 30, minute_of(last)
            starts.update(dict.fromkeys(range(max(begin, 0), min(end + 1, 1_439), 30)))
        if len(self._starts) > 400:
            self._starts.clear()
        found = [self._zone.text(midnight + minute * MINUTE_MS) for minute in starts]
        self._starts[day] = found
        return found
