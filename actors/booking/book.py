"""The book: the state of one practice, and the only code that changes it.

What is kept is what :class:`BookState` lists; everything else here is an index derived from it
(who occupies which minutes, which timers are due, whose hold it is) and can be made anew. The rules
of what may happen are elsewhere; the functions here keep state and indexes together.

Everything that decides iterates over lists and dicts, whose order the log gives, never over sets.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import msgspec

from holdfast.actors.booking import zones
from holdfast.actors.booking.calendar import Calendar, mask
from holdfast.actors.booking.messages import (
    Accepted,
    DefinePractice,
    Refused,
    RequestAuto,
    Service,
)
from holdfast.machine import action_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Status = Literal[
    "held",
    "requested",
    "confirmed",
    "completed",
    "payment_failed",
    "expired",
    "slot_lost",
    "cancelled",
]
"""``requested`` is ``held`` without the slot: the policy ``first_payment_wins``. The last four are
terminal for a request that came to nothing, ``completed`` for an appointment that is over."""

OCCUPYING: Final = frozenset({"held", "confirmed", "completed"})
"""States whose minutes are taken."""

AWAITING: Final = frozenset({"held", "requested"})
"""States that wait for a payment and have a deadline."""

LIVE: Final = frozenset({"held", "requested", "confirmed"})

Desired = Literal["authorized", "captured", "released"]
Observed = Literal[
    "none",
    "requested",
    "authorized",
    "captured",
    "voided",
    "refunded",
    "declined",
    "expired",
    "unknown",
]
Call = Literal["", "preauthorize", "capture", "void", "refund", "check_status"]

ORPHANS_MAX = 256

LEFTOVERS_SPARE = 64
"""So many timers that no booking wants any more may lie about, besides half of those set."""

HOUR_MS = 3_600_000

PIECE_ITEMS: Final = 1_024
"""Bookings or keys in a piece of a book's form: some hundred kilobytes, made within a millisecond."""

_Key = TypeVar("_Key")


class Payment(msgspec.Struct, array_like=True, gc=False):
    """The money of one booking: what we want, what the provider says (domain 7.3).

    Attributes:
      id: See :func:`~holdfast.actors.booking.payments.name_of`.
      in_flight: Id of the one action whose result is awaited, or "".
      call: What that action is.
      calls: Calls other than status checks so far.
      since_ms: When the last of them was emitted.
      checks: Status checks in a row that told nothing final.
      due_ms: When to check next; 0 where no check is due.
    """

    id: str
    amount_cents: int
    currency: str
    desired: Desired = "authorized"
    observed: Observed = "none"
    in_flight: str = ""
    call: Call = ""
    calls: int = 0
    since_ms: int = 0
    checks: int = 0
    due_ms: int = 0


class Booking(msgspec.Struct, array_like=True, gc=False):
    """One request and what it became.

    Attributes:
      id: ``b`` and the id of its input.
      day: Local date, days since 1970-01-01; ``first`` is the minute it begins, elapsed.
      start: Local time with its offset.
      revision: Of the practice under which it was accepted.
      auto: The preferences of an auto-selected request, which bind it for ever.
      asked_ms: The start that an explicit request asked for; 0 for an auto-selected one.
      recipient: Where notifications go: an e-mail address, or the customer's id.
      due_ms: When its timer fires: the deadline of a hold, the end of an appointment, the moment to
        leave the book.
      delivered: Delivery reports of its notifications.
    """

    id: str
    customer: str
    service: str
    staff: str
    day: int
    first: int
    duration_min: int
    start_ms: int
    start: str
    status: Status
    created_ms: int
    due_ms: int
    revision: int
    payment: Payment
    recipient: str
    name: str = ""
    auto: RequestAuto | None = None
    asked_ms: int = 0
    version: int = 1
    delivered: int = 0

    @property
    def end_ms(self) -> int:
        """The instant it ends."""
        return self.start_ms + self.duration_min * zones.MINUTE_MS

    @property
    def mask(self) -> int:
        """Its minutes of the day."""
        return mask(self.first, self.duration_min)


class Sheet(msgspec.Struct, gc=False):
    """One day of one member of staff.

    Attributes:
      taken: The minutes that are occupied.
      minutes: The sum of the occupying bookings' durations; equal to the bits of ``taken`` exactly
        if no two of them overlap.
    """

    taken: int = 0
    minutes: int = 0


class Keyed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An idempotency key's memory.

    Attributes:
      name: Principal, command and key, a space between them: as one text it takes a third of the room
        of three, and knows its hash.
      digest: The command's.
      until_ms: Kept until then.
      answer: What it was answered, encoded: there are many, and hardly one is ever asked for again.
    """

    name: str
    digest: str
    until_ms: int
    answer: bytes

    @property
    def result(self) -> Accepted | Refused:
        """What it was answered."""
        return _ANSWER.decode(self.answer)


class Revision(msgspec.Struct, frozen=True):
    """What the practice offered from some input on. The zone's offsets are part of the log's truth."""

    definition: DefinePractice
    offsets: list[tuple[int, int]]


class BookState(msgspec.Struct, array_like=True):
    """All that a book is; its canonical form.

    Attributes:
      bookings: Each in its own canonical form, so that one which did not change is not encoded anew.
      orphans: Ids of results' actions whose payment the book does not know; the last few.
      deliveries: Delivery reports by status.
    """

    revisions: list[Revision]
    bookings: list[bytes]
    keys: list[Keyed]
    orphans: list[str]
    deliveries: dict[str, int]


class Member:
    """A member of staff and the calendar that holds for them."""

    __slots__ = ("calendar", "id", "name")

    def __init__(self, member_id: str, name: str, calendar: Calendar) -> None:
        self.id = member_id
        self.name = name
        self.calendar = calendar


class Practice:
    """One revision of the practice, ready to be asked."""

    __slots__ = (
        "_today",
        "_today_from",
        "_today_until",
        "calendar",
        "currency",
        "key_ms",
        "members",
        "name",
        "notice_ms",
        "number",
        "own_hours",
        "policies",
        "services",
        "staff",
    )

    def __init__(self, number: int, revision: Revision) -> None:
        definition = revision.definition
        zone = zones.Zone(revision.offsets)
        self.number = number
        self.name = definition.name
        self.currency = definition.currency
        self.policies = definition.policies
        self.calendar = Calendar(zone, definition.hours, definition.grid_min)
        self.services: dict[str, Service] = {service.id: service for service in definition.services}
        self.members = [
            Member(
                member.id,
                member.name,
                self.calendar
                if member.hours is None
                else Calendar(zone, member.hours, definition.grid_min),
            )
            for member in definition.staff
        ]
        self.staff = {member.id: member for member in self.members}
        self.own_hours = any(member.calendar is not self.calendar for member in self.members)
        self.key_ms = definition.policies.idempotency_h * HOUR_MS
        self.notice_ms = definition.policies.minimum_notice_min * zones.MINUTE_MS
        self._today = self._today_from = self._today_until = 0

    def today(self, now: int) -> int:
        """The local date at *now*; time in the log never runs backwards, so one is remembered."""
        if not self._today_from <= now < self._today_until:
            self._today = self.calendar.zone.day_of(now)
            self._today_from = self.calendar.zone.day_start(self._today)
            self._today_until = self.calendar.zone.day_start(self._today + 1)
        return self._today


class Book:
    """The state of one practice with its indexes."""

    __slots__ = (
        "bookings",
        "contenders",
        "customer_days",
        "customer_holds",
        "deliveries",
        "forms",
        "in_flight",
        "key_queue",
        "keys",
        "orphans",
        "practice",
        "practices",
        "revisions",
        "sheets",
        "sweep_at",
        "timers",
        "touched",
    )

    def __init__(self) -> None:
        self.revisions: list[Revision] = []
        self.bookings: dict[str, Booking] = {}
        self.keys: dict[str, Keyed] = {}
        self.orphans: list[str] = []
        self.deliveries: dict[str, int] = {}
        # derived
        self.practices: list[Practice] = []
        self.practice: Practice | None = None  # the last of them, which holds now
        self.sheets: dict[tuple[str, int], Sheet] = {}
        self.timers: list[tuple[int, str, int]] = []  # (due, booking, 0 its own or 1 its payment's)
        self.sweep_at = LEFTOVERS_SPARE  # so many timers are swept before another is added
        self.in_flight: dict[str, Booking] = {}  # by action id, in the order of emission
        self.customer_days: dict[tuple[str, int], list[Booking]] = {}  # live ones
        self.customer_holds: dict[str, int] = {}
        self.contenders: dict[tuple[str, int], int] = {}  # requested, by staff and start
        self.key_queue: deque[Keyed] = deque()
        self.touched: list[Booking] = []  # by the input being decided
        self.forms: dict[str, bytes] = {}  # of each booking, in the same order, as of the last seal

    # -- changes ------------------------------------------------------------------------------

    def define(self, definition: DefinePractice) -> Practice:
        """Add a revision of the practice; it holds from now on."""
        revision = Revision(definition, list(zones.load(definition.zone)))
        self.revisions.append(revision)
        self.practice = Practice(len(self.practices), revision)
        self.practices.append(self.practice)
        return self.practice

    def add(self, booking: Booking) -> None:
        """Take a new booking in; it is live."""
        self.bookings[booking.id] = booking
        self._enter(booking)
        if len(self.timers) >= self.sweep_at:
            self._sweep()
        else:
            heappush(self.timers, (booking.due_ms, booking.id, 0))
        self.touch(booking)

    def move_to(self, booking: Booking, status: Status, due_ms: int) -> None:
        """Change a booking's status and timer; occupancy and indexes follow."""
        self._leave(booking)
        booking.status = status
        booking.due_ms = due_ms
        self._enter(booking)
        heappush(self.timers, (due_ms, booking.id, 0))
        self.touch(booking)

    def confirm(self, booking: Booking, due_ms: int) -> None:
        """``held`` to ``confirmed``: the minutes stay taken, so only the hold's indexes change."""
        holds = self.customer_holds[booking.customer] - 1
        if holds:
            self.customer_holds[booking.customer] = holds
        else:
            del self.customer_holds[booking.customer]
        booking.status = "confirmed"
        booking.due_ms = due_ms
        heappush(self.timers, (due_ms, booking.id, 0))
        self.touch(booking)

    def touch(self, booking: Booking) -> None:
        """Note that the input being decided changed *booking*."""
        if not self.touched or self.touched[-1] is not booking:
            self.touched.append(booking)

    def place(
        self, booking: Booking, staff: str, day: int, first: int, start_ms: int, start: str
    ) -> None:
        """Give a booking that occupies nothing another slot."""
        assert booking.status not in OCCUPYING
        self._leave(booking)
        booking.staff, booking.day, booking.first = staff, day, first
        booking.start_ms, booking.start = start_ms, start
        self._enter(booking)
        self.touch(booking)

    def rearm(self, booking: Booking, due_ms: int) -> None:
        """Set a booking's timer anew."""
        booking.due_ms = due_ms
        heappush(self.timers, (due_ms, booking.id, 0))
        self.touch(booking)

    def drop(self, booking: Booking) -> None:
        """Let a booking that is over leave the book."""
        self._leave(booking)
        del self.bookings[booking.id]
        self.forms.pop(booking.id, None)

    def check_at(self, booking: Booking, due_ms: int) -> None:
        """Set the timer of a payment's next status check."""
        booking.payment.due_ms = due_ms
        heappush(self.timers, (due_ms, booking.id, 1))
        self.touch(booking)

    def keep_key(self, keyed: Keyed) -> None:
        """Remember an idempotency key's outcome."""
        self.keys[keyed.name] = keyed
        self.key_queue.append(keyed)

    def forget_keys(self, now: int, limit: int = 64) -> None:
        """Forget keys whose time is over, a few at a time; more come and go than that never."""
        queue = self.key_queue
        while queue and queue[0].until_ms <= now and limit:
            old = queue.popleft()
            if self.keys.get(old.name) is old:
                del self.keys[old.name]
            limit -= 1

    def next_due_ms(self) -> int | None:
        """When the earliest timer is due; None where there is none."""
        timers = self.timers
        while timers and not self._is_set(timers[0]):
            heappop(timers)
        return timers[0][0] if timers else None

    def pop_due(self, now: int) -> tuple[Booking, bool] | None:
        """The next booking whose timer is due at *now*, and whether it is its payment's."""
        timers = self.timers
        while timers and timers[0][0] <= now:
            timer = heappop(timers)
            if self._is_set(timer):
                return self.bookings[timer[1]], timer[2] == 1
        return None

    def _is_set(self, timer: tuple[int, str, int]) -> bool:
        """Whether a timer is still what its booking says; others are leftovers."""
        booking = self.bookings.get(timer[1])
        if booking is None:
            return False
        return timer[0] == (booking.payment.due_ms if timer[2] else booking.due_ms)

    def _sweep(self) -> None:
        """Let go of leftovers: that of a cancelled appointment would stay until its time comes."""
        timers = [(booking.due_ms, booking.id, 0) for booking in self.bookings.values()]
        timers += [
            (booking.payment.due_ms, booking.id, 1)
            for booking in self.bookings.values()
            if booking.payment.due_ms
        ]
        heapify(timers)
        self.timers = timers
        self.sweep_at = len(timers) * 3 // 2 + LEFTOVERS_SPARE

    # -- indexes ------------------------------------------------------------------------------

    def _enter(self, booking: Booking) -> None:
        status = booking.status
        if status in OCCUPYING:
            sheet = self.sheets.get((booking.staff, booking.day))
            if sheet is None:
                sheet = self.sheets[booking.staff, booking.day] = Sheet()
            sheet.taken |= ((1 << booking.duration_min) - 1) << booking.first
            sheet.minutes += booking.duration_min
        if status in LIVE:
            key = (booking.customer, booking.day)
            mine = self.customer_days.get(key)
            if mine is None:
                self.customer_days[key] = [booking]
            else:
                mine.append(booking)
            if status != "confirmed":
                holds = self.customer_holds
                holds[booking.customer] = holds.get(booking.customer, 0) + 1
                if status == "requested":
                    slot = (booking.staff, booking.start_ms)
                    self.contenders[slot] = self.contenders.get(slot, 0) + 1

    def _leave(self, booking: Booking) -> None:
        status = booking.status
        if status in OCCUPYING:
            at = (booking.staff, booking.day)
            sheet = self.sheets[at]
            sheet.taken &= ~(((1 << booking.duration_min) - 1) << booking.first)
            sheet.minutes -= booking.duration_min
            if not sheet.minutes and not sheet.taken:
                del self.sheets[at]
        if status in LIVE:
            key = (booking.customer, booking.day)
            mine = self.customer_days[key]
            if len(mine) == 1:
                del self.customer_days[key]
            else:
                # By identity: two bookings are never the same, and comparing all fields is slow.
                self.customer_days[key] = [other for other in mine if other is not booking]
            if status != "confirmed":
                _decrease(self.customer_holds, booking.customer)
                if status == "requested":
                    _decrease(self.contenders, (booking.staff, booking.start_ms))

    # -- canonical form -----------------------------------------------------------------------

    def encode(self) -> bytes:
        """The book in its canonical form."""
        bookings = [_ENCODER.encode(booking) for booking in self.bookings.values()]
        keys = list(self.key_queue)
        return _ENCODER.encode(
            BookState(self.revisions, bookings, keys, self.orphans, self.deliveries)
        )

    def seal(self) -> list[bytes]:
        """Note what the last input left of the bookings that it touched.

        Returns:
          Their canonical forms, in the order of :attr:`touched`.
        """
        sealed: list[bytes] = []
        for booking in self.touched:
            form = _ENCODER.encode(booking)
            sealed.append(form)
            if booking.id in self.bookings:
                self.forms[booking.id] = form
        return sealed

    def pieces(self) -> Pieces:
        """What :meth:`encode` gives, at once and to be written later.

        Every input must have been sealed: what changed without being touched would be missing.
        """
        assert len(self.forms) == len(self.bookings)
        keys = list(self.key_queue)
        rest = BookState(list(self.revisions), [], [], list(self.orphans), dict(self.deliveries))
        return Pieces(rest, list(self.forms.values()), keys)

    @staticmethod
    def decode(data: bytes) -> Book:
        """The book that :meth:`encode` wrote, with its indexes made anew."""
        state = _DECODER.decode(data)
        book = Book()
        book.revisions = state.revisions
        book.practices = [Practice(n, revision) for n, revision in enumerate(state.revisions)]
        book.practice = book.practices[-1] if book.practices else None
        book.orphans = state.orphans
        book.deliveries = state.deliveries
        in_flight: list[Booking] = []
        for booking in map(_BOOKING.decode, state.bookings):
            book.bookings[booking.id] = booking
            book._enter(booking)
            if booking.payment.in_flight:
                in_flight.append(booking)
        book.forms = dict(zip(book.bookings, state.bookings, strict=True))
        book._sweep()
        in_flight.sort(key=lambda booking: action_order(booking.payment.in_flight))
        book.in_flight = {booking.payment.in_flight: booking for booking in in_flight}
        book.keys = {keyed.name: keyed for keyed in state.keys}
        book.key_queue = deque(state.keys)
        return book


class Pieces(msgspec.Struct, frozen=True, gc=False):
    """The canonical form of a book as it was, in pieces that are made one by one, when asked for.

    Nothing in it changes with the book, so another thread may write it while inputs are decided.

    Attributes:
      rest: The book without its bookings and keys.
    """

    rest: BookState
    bookings: list[bytes]
    keys: list[Keyed]

    def __iter__(self) -> Iterator[bytes]:
        """The pieces, small enough that making one keeps nobody waiting."""
        rest = self.rest
        yield _ENCODER.encode(rest)[:1] + _ENCODER.encode(rest.revisions)
        yield from _listed(self.bookings)
        yield from _listed(self.keys)
        yield _ENCODER.encode(rest.orphans) + _ENCODER.encode(rest.deliveries)


def encode_answer(result: Accepted | Refused) -> bytes:
    """An answer as :class:`Keyed` keeps it."""
    return _ENCODER.encode(result)


def _listed(items: Sequence[bytes | Keyed]) -> Iterator[bytes]:
    """A list as the encoder writes it: its head, then so many items at a time without a head."""
    yield _list_head(len(items))
    for start in range(0, len(items), PIECE_ITEMS):
        part = items[start : start + PIECE_ITEMS]
        yield _ENCODER.encode(part)[len(_list_head(len(part))) :]


def _list_head(count: int) -> bytes:
    """What the encoder writes of a list before its items."""
    written = _ENCODER.encode([None] * count)  # each of them is one byte
    return written[: len(written) - count]


def _decrease(counts: dict[_Key, int], key: _Key) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]


_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_DECODER = msgspec.msgpack.Decoder(BookState)
_BOOKING = msgspec.msgpack.Decoder(Booking)
_ANSWER: msgspec.msgpack.Decoder[Accepted | Refused] = msgspec.msgpack.Decoder(Accepted | Refused)
