"""A second opinion: the booking machine once more, as plainly as it can be written.

It keeps one list of bookings and scans all of it for every question. There is no bit mask, no
index, no heap, no cache of anything that changes: a day is the list of its minutes, found by asking
the standard library's time zones for each; a timer is a number in a booking, and the next one is
the least of all. So it is slow, and it is easy to see that it is right.

:class:`Model` takes the machine's own inputs and says what must come of each: refused with which
code or accepted, for which booking, replayed or not, with which calls and messages under which
ids. Its ``bookings`` say which slot was chosen and where status and money stand.

What it leaves out: sentences, delivery reports' counts, the bounds of one input's actions (no test
comes near 4,096), a restore of several pages, and zones whose clocks change at midnight.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from holdfast.actors.booking import messages as m
from holdfast.machine import Completed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from holdfast.actors.booking.wire import BookingInput

SECOND: Final = 1_000
MINUTE: Final = 60_000
HOUR: Final = 3_600_000
DAY: Final = 86_400_000

OCCUPYING: Final = ("held", "confirmed", "completed")
WAITING: Final = ("held", "requested")
LIVE: Final = ("held", "requested", "confirmed")
FINISHED: Final = ("captured", "voided", "refunded", "declined", "expired")
FORGETTABLE: Final = ("forbidden", "rate_limited", "unavailable", "validation_failed")
NOT_LIVE: Final = {
    "completed": "deadline_passed",
    "payment_failed": "payment_declined",
    "expired": "hold_expired",
    "slot_lost": "slot_conflict",
    "cancelled": "not_found",
}


@dataclass
class Entry:
    """One booking, with its payment. Times are milliseconds since the epoch.

    Attributes:
      day: Its local date when it was accepted; ``first`` is its minute, elapsed since midnight.
      due: When its own timer fires; ``check_due`` when its payment is to be asked about, or 0.
      offer: Which definition of the practice it was accepted under.
    """

    id: str
    customer: str
    service: str
    staff: str
    day: date
    first: int
    start: int
    minutes: int
    price: int
    status: str
    created: int
    due: int
    offer: int
    wish: m.RequestAuto | None
    payment: str
    desired: str = "authorized"
    observed: str = "none"
    in_flight: str = ""
    call: str = ""
    checks: int = 0
    since: int = 0
    check_due: int = 0

    @property
    def end(self) -> int:
        """When it is over."""
        return self.start + self.minutes * MINUTE


@dataclass(frozen=True)
class Answer:
    """What must come of one input.

    Attributes:
      code: Why it is refused; "" where it is accepted.
      booking: The booking that a request was given, or "".
      repeated: The customer had it before.
      replayed: The answer is an earlier one.
      actions: ``(id, kind, payment)`` of each call, ``(id, "notify", kind)`` of each message.
    """

    code: str
    booking: str = ""
    repeated: bool = False
    replayed: bool = False
    actions: tuple[tuple[str, str, str], ...] = ()


@dataclass
class Remembered:
    """What an idempotency key was given."""

    by: str
    kind: str
    key: str
    digest: str
    until: int
    answer: Answer


@dataclass(frozen=True)
class Place:
    """A slot: with whom, and when."""

    staff: str
    day: date
    first: int
    start: int


# --- clocks -----------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as source:
        return ZoneInfo.from_file(source, key=name)


def _ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _date(zone: str, now: int) -> date:
    return datetime.fromtimestamp(now / 1000, tz=UTC).astimezone(_zone(zone)).date()


@lru_cache(maxsize=2048)
def day_minutes(zone: str, day: date) -> tuple[tuple[int, int], ...]:
    """Every minute of a local date in the order in which they pass.

    Returns:
      Shape: ``(instant in ms, minute after midnight that the clocks show)``.
    """
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    found: list[tuple[int, int]] = []
    for minute in range(-16 * 60, 40 * 60):
        moment = midnight + timedelta(minutes=minute)
        local = moment.astimezone(_zone(zone))
        if local.date() == day:
            found.append((_ms(moment), local.hour * 60 + local.minute))
    return tuple(found)


@lru_cache(maxsize=8192)
def span(zone: str, day: date, hours: tuple[str, str]) -> tuple[int, int]:
    """From which to before which minute of *day* a local range such as 09:00 to 12:00 goes."""
    begin, end = (int(text[:2]) * 60 + int(text[3:]) for text in hours)
    first = last = -1
    for number, (_, shown) in enumerate(day_minutes(zone, day)):
        if first < 0 and shown >= begin:
            first = number
        if shown < end:
            last = number + 1
    return (first, last) if 0 <= first < last else (0, 0)


class Model:
    """The whole state, in lists.

    Attributes:
      offers: The definitions of the practice so far; the last one holds.
      bookings: All that have not left the book, in the order in which they came.
      left: Bookings that have left it.
    """

    def __init__(self) -> None:
        self.offers: list[m.DefinePractice] = []
        self.bookings: list[Entry] = []
        self.left: list[Entry] = []
        self._memory: list[Remembered] = []
        self._id = ""
        self._now = 0
        self._actions: list[tuple[str, str, str]] = []

    def take(self, entry: BookingInput) -> Answer:
        """Take one input in and say what must come of it."""
        self._id, self._now, self._actions = entry.id, entry.now, []
        self._pass_time()
        if isinstance(entry, Completed):
            self._result(entry.action_id, entry.result)
            answer = Answer("")
        elif isinstance(entry.message, m.Asked):
            answer = self._asked(entry.message)
        else:
            if isinstance(entry.message, m.TakenOver):
                self._taken_over(entry.message.position)
            answer = Answer("")
        return Answer(
            answer.code, answer.booking, answer.repeated, answer.replayed, tuple(self._actions)
        )

    # -- time -----------------------------------------------------------------------------------

    def _pass_time(self) -> None:
        """Do what was to be done by now, the earliest first."""
        while True:
            timers = [(b.due, b.id, 0, b) for b in self.bookings]
            timers += [(b.check_due, b.id, 1, b) for b in self.bookings if b.check_due]
            due = [timer for timer in timers if timer[0] <= self._now]
            if not due:
                return
            _, _, is_payment, booking = min(due, key=lambda timer: timer[:3])
            if is_payment:
                booking.check_due = 0
                self._call(booking, "check_status")
            else:
                self._is_due(booking)

    def _is_due(self, booking: Entry) -> None:
        policies = self.offers[booking.offer].policies
        if booking.status in WAITING:
            self._end(booking, "expired")
            self._tell("expired")
        elif booking.status == "confirmed":
            booking.status = "completed"
            booking.due = self._now + policies.keep_past_days * DAY
            if booking.desired == "authorized":
                booking.desired = "captured"
                self._drive(booking)
        elif self._settled(booking):
            self.bookings.remove(booking)
            self.left.append(booking)
        else:
            booking.due = self._now + HOUR

    @staticmethod
    def _settled(booking: Entry) -> bool:
        if booking.in_flight or booking.check_due:
            return False
        if booking.observed == "captured":
            return booking.desired == "captured"
        if booking.observed == "none":
            return booking.desired == "released"
        return booking.observed in FINISHED

    # -- commands -------------------------------------------------------------------------------

    def _asked(self, asked: m.Asked) -> Answer:
        if not asked.key:
            return Answer("idempotency_key_required")
        kind = type(asked.command).__name__
        for old in reversed(self._memory):
            if (old.by, old.kind, old.key) == (asked.by, kind, asked.key):
                if old.until <= self._now:
                    break
                if old.digest != asked.digest:
                    return Answer("idempotency_key_reused")
                first = old.answer
                return Answer(first.code, first.booking, first.repeated, replayed=True)
        answer = self._decide(asked)
        if answer.code not in FORGETTABLE:
            hours = self.offers[-1].policies.idempotency_h if self.offers else 24
            until = self._now + hours * HOUR
            self._memory.append(Remembered(asked.by, kind, asked.key, asked.digest, until, answer))
        return answer

    def _decide(self, asked: m.Asked) -> Answer:
        command = asked.command
        if isinstance(command, m.DefinePractice):
            return Answer(self._define(command, asked.by))
        if isinstance(command, m.Cancel):
            return Answer(self._cancel(command.booking, asked.by))
        if not self.offers:
            return Answer("unavailable")
        offer = self.offers[-1]
        service = next((s for s in offer.services if s.id == command.service), None)
        if service is None:
            return Answer("not_found")
        wanted = command.staff if isinstance(command, m.RequestAuto) else [command.staff]
        if any(name and name not in [who.id for who in offer.staff] for name in wanted):
            return Answer("not_found")
        customer = command.customer
        if asked.by.startswith("customer:"):
            customer = asked.by.removeprefix("customer:")
            if command.customer not in ("", customer):
                return Answer("forbidden")
        if not customer:
            return Answer("validation_failed")
        if command.price_cents not in (None, service.price_cents):
            return Answer("price_mismatch")
        if isinstance(command, m.RequestAuto):
            if self._foolish(offer, command):
                return Answer("validation_failed")
            place = self._best(offer, service, command, customer, None)
            if place is None:
                return Answer("no_slot_found")
        else:
            found = self._explicit(offer, service, command, customer)
            if isinstance(found, Answer):
                return found
            place = found
        waiting = [b for b in self.bookings if b.customer == customer and b.status in WAITING]
        most = offer.policies.holds_per_customer_max
        if most and len(waiting) >= most:
            return Answer("rate_limited")
        return self._accept(offer, service, command, asked.digest, customer, place)

    def _explicit(
        self, offer: m.DefinePractice, service: m.Service, command: m.RequestSlot, customer: str
    ) -> Place | Answer:
        start = self._instant(offer, command.start)
        if isinstance(start, str):
            return Answer(start)
        if command.end:
            end = self._instant(offer, command.end)
            if isinstance(end, str):
                return Answer(end)
            if end - start != service.duration_min * MINUTE:
                return Answer("duration_mismatch")
        day = _date(offer.zone, start)
        minutes = day_minutes(offer.zone, day)
        on_grid = [
            number
            for number, (instant, shown) in enumerate(minutes)
            if instant == start and shown % offer.grid_min == 0
        ]
        if not on_grid:
            return Answer("validation_failed")
        if start < self._now + offer.policies.minimum_notice_min * MINUTE:
            return Answer("notice_too_short")
        if (day - _date(offer.zone, self._now)).days > offer.policies.advance_days_max:
            return Answer("too_far_ahead")
        first = on_grid[0]
        asked = [who for who in offer.staff if command.staff in ("", who.id)]
        at_work = [w for w in asked if self._works(offer, w, day, first, service.duration_min)]
        if not at_work:
            some = any(self._opening(offer, who, day) for who in asked)
            return Answer("outside_hours" if some else "closed")
        end = start + service.duration_min * MINUTE
        own = [b for b in self._live_of(customer, start, end) if b.service == service.id]
        if own:
            best = min(own, key=lambda b: (b.status != "confirmed", b.created, b.id))
            if best.status == "confirmed":
                return Answer("duplicate_booking")
            return Answer("", best.id, repeated=True)
        free = [who for who in at_work if not self._taken(who.id, start, end)]
        free = [who for who in free if not self._crowded(offer, who.id, start)]
        if not free:
            return Answer("slot_conflict")
        return Place(self._least_busy(free, day, start), day, first, start)

    @staticmethod
    def _instant(offer: m.DefinePractice, text: str) -> int | str:
        """The instant that *text* means, or the code of why it means none."""
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return "validation_failed"
        if not 2000 <= moment.year <= 2099:
            return "validation_failed"
        if moment.tzinfo is not None:
            return _ms(moment)
        found: list[int] = []
        for fold in (0, 1):
            local = moment.replace(tzinfo=_zone(offer.zone), fold=fold)
            instant = local.astimezone(UTC)
            back = instant.astimezone(_zone(offer.zone)).replace(tzinfo=None)
            if back == moment and _ms(instant) not in found:
                found.append(_ms(instant))
        if not found:
            return "nonexistent_local_time"
        return found[0] if len(found) == 1 else "ambiguous_local_time"

    def _accept(
        self,
        offer: m.DefinePractice,
        service: m.Service,
        command: m.RequestSlot | m.RequestAuto,
        digest: str,
        customer: str,
        place: Place,
    ) -> Answer:
        price = service.price_cents
        holds = offer.policies.contention == "hold" or not price
        booking = Entry(
            id="b" + self._id,
            customer=customer,
            service=service.id,
            staff=place.staff,
            day=place.day,
            first=place.first,
            start=place.start,
            minutes=service.duration_min,
            price=price,
            status="held" if holds else "requested",
            created=self._now,
            due=min(self._now + offer.policies.hold_s * SECOND, place.start),
            offer=len(self.offers) - 1,
            wish=command if isinstance(command, m.RequestAuto) else None,
            payment=f"p{self._id}-{digest}",
        )
        self.bookings.append(booking)
        if price:
            self._drive(booking)
        else:
            booking.desired = "released"
            self._confirm(booking, moved=False)
        return Answer("", booking.id)

    def _cancel(self, name: str, by: str) -> str:
        booking = next((b for b in self.bookings if b.id == name), None)
        kind, _, who = by.partition(":")
        if booking is None or (kind == "customer" and who != booking.customer):
            return "not_found"
        if booking.status not in LIVE:
            return NOT_LIVE[booking.status]
        policies = self.offers[booking.offer].policies
        if kind == "customer" and booking.status == "confirmed":
            in_time = self._now <= booking.start - policies.cancellation_deadline_min * MINUTE
            regrets = self._now <= booking.created + policies.cooling_off_min * MINUTE
            if not in_time and not (regrets and self._now < booking.start):
                return "deadline_passed"
        self._end(booking, "cancelled")
        self._tell("cancelled")
        return ""

    def _define(self, offer: m.DefinePractice, by: str) -> str:
        if not by.startswith("service:"):
            return "forbidden"
        if self.offers and self.offers[-1] == offer:
            return ""
        for booking in self.bookings:
            if booking.status not in LIVE:
                continue
            known = [who.id for who in self.offers[-1].staff]
            if booking.staff in known and booking.staff not in [who.id for who in offer.staff]:
                return "slot_conflict"
            midnight = day_minutes(offer.zone, booking.day)[0][0]
            if booking.start != midnight + booking.first * MINUTE:
                return "slot_conflict"
        self.offers.append(offer)
        return ""

    # -- what is free ---------------------------------------------------------------------------

    @staticmethod
    def _opening(offer: m.DefinePractice, who: m.Staff | None, day: date) -> list[tuple[int, int]]:
        hours = offer.hours if who is None or who.hours is None else who.hours
        spans = [span(offer.zone, day, r) for r in hours.get(str(day.isoweekday() % 7), ())]
        return [(first, end) for first, end in spans if first < end]

    def _works(
        self, offer: m.DefinePractice, who: m.Staff, day: date, first: int, minutes: int
    ) -> bool:
        opening = self._opening(offer, who, day)
        return all(
            any(begin <= minute < end for begin, end in opening)
            for minute in range(first, first + minutes)
        )

    def _taken(self, staff: str, start: int, end: int) -> bool:
        return any(
            b.staff == staff and b.status in OCCUPYING and b.start < end and start < b.end
            for b in self.bookings
        )

    def _live_of(self, customer: str, start: int, end: int) -> list[Entry]:
        return [
            b
            for b in self.bookings
            if b.customer == customer and b.status in LIVE and b.start < end and start < b.end
        ]

    def _crowded(self, offer: m.DefinePractice, staff: str, start: int) -> bool:
        if offer.policies.contention == "hold":
            return False
        rivals = [
            b
            for b in self.bookings
            if b.status == "requested" and b.staff == staff and b.start == start
        ]
        return len(rivals) >= offer.policies.contenders_max

    def _least_busy(self, members: Sequence[m.Staff], day: date, start: int) -> str:
        """Least booked that day, then idle for longest, then first by name."""

        def load(who: m.Staff) -> tuple[int, int, str]:
            theirs = [
                b
                for b in self.bookings
                if b.staff == who.id and b.status in OCCUPYING and b.day == day
            ]
            before = [min(b.end, start) for b in theirs if b.start < start]
            return sum(b.minutes for b in theirs), max(before, default=0), who.id

        return min(members, key=load).id

    # -- auto-selection -------------------------------------------------------------------------

    def _last_day(self, offer: m.DefinePractice, today: date) -> date:
        return today + timedelta(days=offer.policies.advance_days_max)

    def _foolish(self, offer: m.DefinePractice, wish: m.RequestAuto) -> bool:
        for text in (wish.first, wish.last, *wish.days):
            if isinstance(text, str) and text:
                try:
                    date.fromisoformat(text)
                except ValueError:
                    return True
        if any(end <= begin for begin, end in wish.ranges):
            return True
        if wish.days and all(isinstance(day, str) for day in wish.days):
            return False
        first, last = self._wish_days(offer, wish)
        return (last - first).days >= 92

    def _wish_days(self, offer: m.DefinePractice, wish: m.RequestAuto) -> tuple[date, date]:
        today = _date(offer.zone, self._now)
        first = date.fromisoformat(wish.first) if wish.first else today
        if wish.last:
            last = date.fromisoformat(wish.last)
        elif wish.days and all(isinstance(day, str) for day in wish.days):
            last = self._last_day(offer, today)
        else:
            last = first + timedelta(days=13)
        return max(first, today), min(last, self._last_day(offer, today))

    def _days(self, offer: m.DefinePractice, wish: m.RequestAuto) -> Iterator[date]:
        first, last = self._wish_days(offer, wish)
        window = [first + timedelta(days=n) for n in range((last - first).days + 1)]
        if not wish.days:
            yield from window
        for wanted in wish.days:
            if isinstance(wanted, str):
                if first <= date.fromisoformat(wanted) <= last:
                    yield date.fromisoformat(wanted)
            else:
                yield from [day for day in window if day.isoweekday() % 7 == wanted]

    def _best(
        self,
        offer: m.DefinePractice,
        service: m.Service,
        wish: m.RequestAuto,
        customer: str,
        moving: Entry | None,
    ) -> Place | None:
        members = [
            next(who for who in offer.staff if who.id == name)
            for name in wish.staff
            if name in [who.id for who in offer.staff]
        ]
        if not wish.staff:
            members = list(offer.staff)
        for day in self._days(offer, wish):
            place = self._best_on(offer, service, wish, customer, moving, members, day)
            if place is not None:
                return place
        return None

    def _best_on(
        self,
        offer: m.DefinePractice,
        service: m.Service,
        wish: m.RequestAuto,
        customer: str,
        moving: Entry | None,
        members: Sequence[m.Staff],
        day: date,
    ) -> Place | None:
        """Of all starts of a day the first: by schedule range, by preferred range, by time."""
        minutes, best = day_minutes(offer.zone, day), None
        everywhere = [(0, len(minutes))]
        schedule = self._opening(offer, None, day) + everywhere
        preferred = [span(offer.zone, day, wanted) for wanted in wish.ranges] or everywhere
        if not wish.ranges:
            schedule = everywhere
        earliest = self._now + offer.policies.minimum_notice_min * MINUTE
        for first, (start, shown) in enumerate(minutes):
            if shown % offer.grid_min or start < earliest:
                continue
            last = first + service.duration_min
            rank = min(
                (
                    (opened, wanted)
                    for opened, (begin, end) in enumerate(schedule)
                    for wanted, (low, high) in enumerate(preferred)
                    if begin <= first < end and low <= first and last <= high
                ),
                default=None,
            )
            if rank is None or (best is not None and best[0] <= (*rank, first)):
                continue
            free = self._who_can(offer, service, customer, moving, members, day, first, start)
            if free:
                best = ((*rank, first), start, free)
        if best is None:
            return None
        (_, _, first), start, free = best
        return Place(self._least_busy(free, day, start), day, first, start)

    def _who_can(
        self,
        offer: m.DefinePractice,
        service: m.Service,
        customer: str,
        moving: Entry | None,
        members: Sequence[m.Staff],
        day: date,
        first: int,
        start: int,
    ) -> list[m.Staff]:
        end = start + service.duration_min * MINUTE
        if any(b is not moving for b in self._live_of(customer, start, end)):
            return []
        return [
            who
            for who in members
            if self._works(offer, who, day, first, service.duration_min)
            and not self._taken(who.id, start, end)
            and not self._crowded(offer, who.id, start)
        ]

    # -- statuses -------------------------------------------------------------------------------

    def _confirm(self, booking: Entry, moved: bool) -> None:
        booking.status = "confirmed"
        booking.due = booking.end
        self._tell("moved" if moved else "confirmed")

    def _end(self, booking: Entry, status: str) -> None:
        booking.status = status
        booking.due = self._now + self.offers[booking.offer].policies.keep_failed_h * HOUR
        booking.desired = "released"
        self._drive(booking)

    def _paid(self, booking: Entry) -> None:
        """The money is on hold."""
        if booking.status == "held":
            self._confirm(booking, moved=False)
            return
        offer = self.offers[-1]
        late = booking.status == "expired" and offer.policies.late_authorization
        if not late and booking.status != "requested":
            return
        service = next((s for s in offer.services if s.id == booking.service), None)
        moved, given = False, service is not None and self._as_it_was(offer, booking)
        if service is not None and not given and booking.wish is not None:
            same = service.duration_min == booking.minutes
            place = (
                self._best(offer, service, booking.wish, booking.customer, booking)
                if same
                else None
            )
            if place is not None:
                booking.staff, booking.day = place.staff, place.day
                booking.first, booking.start = place.first, place.start
                moved = given = True
        if given:
            booking.offer = len(self.offers) - 1
            booking.desired = "authorized"
            self._confirm(booking, moved)
        elif not late:
            self._end(booking, "slot_lost")
            self._tell("lost")

    def _as_it_was(self, offer: m.DefinePractice, booking: Entry) -> bool:
        """Whether the very slot that was asked for can be given now."""
        who = next((member for member in offer.staff if member.id == booking.staff), None)
        if who is None or booking.start <= self._now:
            return False
        midnight = day_minutes(offer.zone, booking.day)[0][0]
        if booking.start != midnight + booking.first * MINUTE:
            return False
        rivals = self._live_of(booking.customer, booking.start, booking.end)
        return (
            self._works(offer, who, booking.day, booking.first, booking.minutes)
            and not self._taken(who.id, booking.start, booking.end)
            and not any(b is not booking and b.service == booking.service for b in rivals)
        )

    # -- money ----------------------------------------------------------------------------------

    def _drive(self, booking: Entry) -> None:
        """Make the call that brings what is nearer to what is wanted."""
        if booking.in_flight or booking.check_due:
            return
        gap = (booking.observed, booking.desired)
        if gap == ("none", "authorized"):
            booking.observed = "requested"
            call = "preauthorize"
        elif gap == ("authorized", "captured"):
            call = "capture"
        elif gap == ("authorized", "released"):
            call = "void"
        elif gap == ("captured", "released"):
            call = "refund"
        else:
            return
        booking.since = self._now
        self._call(booking, call)

    def _call(self, booking: Entry, call: str) -> None:
        booking.call = call
        booking.in_flight = self._act(call, booking.payment)

    def _result(self, action: str, result: m.PaymentResult) -> None:
        booking = next((b for b in self.bookings if b.payment == result.payment), None)
        if booking is None:
            return
        if booking.in_flight != action:
            news = result.status not in (booking.observed, "unknown", "pending", "failed", "none")
            if not booking.in_flight and news:
                booking.check_due = 0
                self._call(booking, "check_status")
        elif self._learn(booking, action, result.status):
            self._follow(booking)
        self._drive(booking)

    def _learn(self, booking: Entry, action: str, status: str) -> bool:
        """Take in what the provider said; True if it changed what we know of the money."""
        booking.in_flight = ""
        asked, known = booking.call == "check_status", booking.observed
        if not asked and status in ("none", known):
            status = "pending"
        if status == "failed" and booking.call == "preauthorize":
            status = "declined"
        if status == "none":
            if known in ("voided", "refunded", "declined", "expired"):
                return False
            settle = self.offers[booking.offer].policies.check_settle_s * SECOND
            never = known in ("none", "requested", "unknown")
            again = never and booking.desired != "released"
            if not again and _numbers(action)[0] < booking.since + settle:
                self._check_later(booking)
                return False
            status = "none" if never else "expired"
        elif status in ("unknown", "pending", "failed"):
            if status == "unknown":
                booking.since = self._now
            if known == "requested":
                booking.observed = "unknown"
            self._check_later(booking)
            return False
        elif status == known:
            return False
        booking.observed, booking.checks = status, 0
        return True

    def _check_later(self, booking: Entry) -> None:
        delays = (5, 10, 20, 40, 60)
        booking.check_due = self._now + delays[min(booking.checks, 4)] * SECOND
        booking.checks += 1

    def _follow(self, booking: Entry) -> None:
        """The money changed: the booking follows."""
        gone = booking.observed in ("voided", "refunded", "declined", "expired")
        if booking.status == "confirmed":
            if booking.price:
                booking.desired = "released" if gone else "authorized"
        elif booking.observed == "authorized":
            self._paid(booking)
        elif booking.observed in FINISHED and booking.status in WAITING:
            self._end(booking, "payment_failed")
            self._tell("declined")

    def _taken_over(self, position: str) -> None:
        """Somebody else carries on, and asks about every call that was under way."""
        asked: list[tuple[tuple[int, ...], Entry]] = []
        for booking in self.bookings:
            if booking.in_flight:
                order = _numbers(booking.in_flight)
                if order[:2] <= _numbers(position):
                    asked.append((order, booking))
        for _, booking in sorted(asked, key=lambda pair: pair[0]):
            booking.call = "check_status"
            self._actions.append((booking.in_flight, "check_status", booking.payment))

    # -- actions --------------------------------------------------------------------------------

    def _tell(self, kind: str) -> None:
        self._act("notify", kind)

    def _act(self, kind: str, what: str) -> str:
        action = f"{self._id}:{len(self._actions)}"
        self._actions.append((action, kind, what))
        return action


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.replace(":", "-").split("-"))
