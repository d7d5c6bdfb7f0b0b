"""Looks at every commit as the server takes it, and remembers what the later checks need.

Safety is checked by deciding the same inputs anew on a book of our own (*shadow*), and by rules that are
written down here a second time, without the product's indexes. ``rest`` compares the books with the
world where nothing is left to do, ``ending`` looks at the whole history.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import msgspec

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import payments
from holdfast.actors.booking.book import LIVE, OCCUPYING, ORPHANS_MAX
from holdfast.actors.booking.invariants import full_scan
from holdfast.actors.booking.runner import BookRunner, Decided
from holdfast.actors.notification.text import dedupe_key
from holdfast.actors.ports import GENESIS
from holdfast.sim import ending, rest
from holdfast.sim.contract import Contract
from holdfast.sim.promises import Promises
from holdfast.sim.violations import CHECKS, Violation, ViolationError
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdfast.actors.booking.book import Book, Booking
    from holdfast.actors.ports import (
        ActionEntry,
        ActionStream,
        Commit,
        InputEntry,
        OutcomeEntry,
    )
    from holdfast.sim.crowd import Crowd
    from holdfast.sim.history import RecordingLog, Written
    from holdfast.sim.mailer import SimMailer
    from holdfast.sim.marks import Marks
    from holdfast.sim.provider import SimProvider
    from holdfast.sim.trace import Trace

SCAN_EVERY: Final = 8
_MINUTE_MS: Final = 60_000


class Shadow:
    """What a book must be, by deciding its inputs anew."""

    def __init__(self, book: str, fail: Callable[[str, str], None]) -> None:
        self.runner = BookRunner(book, check=False)
        self.contract = Contract(fail)
        self.commits = 0
        self.digests: dict[str, str] = {}
        self.epoch = 0
        self.actions: dict[str, int] = {}
        self.provider_keys: dict[str, int] = {}
        self.mail_keys: dict[str, int] = {}
        self.mail_actions: dict[str, str] = {}


class Checks:
    """The checks of one run. Every method raises :class:`ViolationError` at the first violation.

    Args:
      server: The log, with its history.
      provider: Whose ledger is the oracle for money.
      mailer: What arrived.
      trace: Numbers of events.
      marks: Counted from what the books decide.
      books: Names.
      read_max: Most entries that one consumer may have pending, by stream; where a stream is missing
        there is no such bound.
      replicated: What was called written, or carried out, is never lost: nothing is excused.
    """

    def __init__(
        self,
        server: RecordingLog,
        provider: SimProvider,
        mailer: SimMailer,
        trace: Trace,
        marks: Marks,
        books: Sequence[str],
        read_max: Mapping[ActionStream, int],
        *,
        replicated: bool = False,
    ) -> None:
        self.server = server
        self.provider = provider
        self.mailer = mailer
        self.trace = trace
        self.marks = marks
        self._read_max = read_max
        self._replicated = replicated
        self.promises = Promises(server, marks, self.fail, self.digest_at, kept=replicated)
        self.shadows = {book: Shadow(book, self.fail) for book in books}
        self._accepted = msgspec.json.Decoder(m.Accepted | m.Refused)
        self._events = msgspec.json.Decoder(list[m.Event])
        self._action = msgspec.json.Decoder(m.PaymentAction)
        self._notify = msgspec.json.Decoder(m.Notify)
        self._zones: dict[str, ZoneInfo] = {}
        self.excused: dict[str, None] = {}
        self.messages_lost = False
        """Whether messages may be lost: a consumer was deleted with what it held."""
        self.failover = False
        """Whether acknowledged writes may have been lost, as the world's options declare."""

    def state_of(self, book: str) -> Book:
        """The book as it must be, by deciding its inputs anew."""
        return self.shadows[book].runner.state

    def digest_at(self, book: str, position: str) -> str:
        """The link at *position*, where a commit ended; "" where none did."""
        return self.shadows[book].digests.get(position, "")

    def rewind(self, book: str, position: str, remember: bool = False) -> None:
        """Go back to *position*, after a failover that lost what was written after it.

        At ``replicated`` nobody has been told of that, or acted on it. At the other levels what has
        been acted on is beyond what anybody can promise: such payments and messages are excused, until
        they are wanted again.

        Args:
          book: Which book.
          position: Of the replica's commit record; the log has its inputs already.
          remember: Remember the actions and digests that came after it all the same.
        """
        self.failover = True
        before = self.shadows[book]
        shadow = self.shadows[book] = Shadow(book, self.fail)
        for entry in self.between(book, GENESIS, position):
            shadow.contract.decide(shadow.runner, entry)
        last = parse_id(position)
        shadow.digests = {
            known: digest
            for known, digest in before.digests.items()
            if remember or parse_id(known) <= last
        }
        shadow.provider_keys, shadow.mail_keys = before.provider_keys, before.mail_keys
        shadow.mail_actions = before.mail_actions
        for written in self.server.of(book).commits:
            if parse_id(written.commit.position) > last:
                self._lose(shadow, written)
        shadow.actions = {
            action: order
            for action, order in before.actions.items()
            if remember or parse_id(action.partition(":")[0]) <= last
        }

    def _lose(self, shadow: Shadow, written: Written) -> None:
        """A failover forgot what was *written*."""
        commit = written.commit
        if not self._replicated:
            self._excuse(commit.book, commit)
            return
        self.marks.hit("copies_forgotten")
        for entry in commit.payments:
            action = self._action.decode(entry.body)
            if not isinstance(action, m.CheckStatus):
                _forget(shadow.provider_keys, f"{commit.book}:{action.key}", written.order)
        for entry in commit.notifications:
            key = dedupe_key(commit.book, self._notify.decode(entry.body))
            if _forget(shadow.mail_keys, key, written.order):
                del shadow.mail_actions[key]

    def on_old_commit(self, commit: Commit) -> None:
        """Take note of a commit that an old primary took: it is lost from the first."""
        if self._replicated:
            return
        shadow = self.shadows[commit.book]
        order = len(self.trace.lines)
        for entry in commit.payments:
            action = self._action.decode(entry.body)
            if not isinstance(action, m.CheckStatus):
                shadow.provider_keys.setdefault(f"{commit.book}:{action.key}", order)
        for entry in commit.notifications:
            key = dedupe_key(commit.book, self._notify.decode(entry.body))
            shadow.mail_keys.setdefault(key, order)
        self._excuse(commit.book, commit)

    def _excuse(self, book: str, commit: Commit) -> None:
        """The actions of *commit* may have been carried out, and the book does not know."""
        for entry in commit.payments:
            self.excused[f"{book}:{self._action.decode(entry.body).payment}"] = None
        for entry in commit.notifications:
            self.excused[dedupe_key(book, self._notify.decode(entry.body))] = None

    def on_release(self, payment: str, key: str, *, misled: bool = False) -> None:
        """An operator's tool is about to release *payment* under *key*: no book may want it.

        Where nothing could tell the tool that it is *misled*, the book is told in the end.
        """
        book, _, name = payment.partition(":")
        shadow = self.shadows[book]
        for booking in shadow.runner.state.bookings.values():
            if booking.payment.id == name and not misled:
                self.fail("S4 money", f"{payment} is released, and {booking.id} wants it")
        shadow.provider_keys.setdefault(key, len(self.trace.lines))

    def fail(self, check: str, details: str) -> None:
        """Say that *check* does not hold."""
        assert check in CHECKS, check
        raise ViolationError(Violation(check, details, len(self.trace.lines)))

    # -- at every commit -----------------------------------------------------

    def on_commit(self, book: str, written: Written) -> None:
        """Check a commit that the server has just taken."""
        shadow = self.shadows[book]
        commit = written.commit
        self._check_store(shadow, written)
        entries = self.between(book, commit.after, commit.position)
        ids = [entry.id for entry in entries]
        if ids != [outcome.id for outcome in commit.outcomes]:
            self.fail("S7 one outcome", f"inputs {ids}, outcomes for others at {commit.position}")
        decided = Decided([], [], [], [])
        for entry, outcome in zip(entries, commit.outcomes, strict=True):
            one = shadow.contract.decide(shadow.runner, entry)
            decided.outcomes += one.outcomes
            decided.payments += one.payments
            decided.notifications += one.notifications
            decided.dead_letters += one.dead_letters
            if one.outcomes != [outcome]:
                self.fail("S10 replay", f"{book} {entry.id}: the outcome differs from a replay")
            self._look(book, shadow.runner.state, entry, outcome)
        for name in ("payments", "notifications", "dead_letters"):
            if getattr(decided, name) != getattr(commit, name):
                self.fail("S10 replay", f"{book} {commit.position}: {name} differ from a replay")
        if shadow.runner.digest != commit.digest:
            self.fail("S10 replay", f"{book} {commit.position}: the digest differs from a replay")
        if len(entries) >= 5:
            self.marks.hit("batch_of_many")
        self._note_actions(book, shadow, written.order, commit.payments, commit.notifications)
        self.check_calendar(shadow.runner.state)
        self._check_pending(book)
        shadow.commits += 1
        if shadow.commits % SCAN_EVERY == 0:
            self.scan(book)

    def _check_store(self, shadow: Shadow, written: Written) -> None:
        commit = written.commit
        if written.epoch != commit.epoch or commit.epoch < shadow.epoch:
            self.fail(
                "S8 store",
                f"{commit.book} {commit.position} was written by epoch {commit.epoch} "
                f"when {max(written.epoch, shadow.epoch)} held the book",
            )
        if written.owner != commit.owner:
            self.fail(
                "S8 store",
                f"{commit.book} {commit.position} was written by one who does not hold the book, "
                f"in the epoch {commit.epoch} that came again",
            )
        shadow.epoch = commit.epoch
        if commit.after != shadow.runner.position or not (
            parse_id(commit.position) > parse_id(commit.after)
        ):
            self.fail(
                "S8 store",
                f"{commit.book}: a commit from {commit.after} to {commit.position}, but the book is "
                f"at {shadow.runner.position}",
            )
        known = shadow.digests.setdefault(commit.position, commit.digest)
        if known != commit.digest:
            self.fail("S8 store", f"{commit.book} {commit.position} has two digests")

    def between(self, book: str, after: str, until: str) -> list[InputEntry]:
        """The inputs of *book* after one id up to another, trimmed ones too."""
        first, last = parse_id(after), parse_id(until)
        stream = self.server.book(book).inputs
        if stream.ids and first < stream.ids[0]:
            stream = self.server.whole_inputs(book)
        return stream.between(first, last)

    def _note_actions(
        self,
        book: str,
        shadow: Shadow,
        order: int,
        payments: Sequence[ActionEntry],
        notifications: Sequence[ActionEntry],
    ) -> None:
        for entry in payments:
            action = self._action.decode(entry.body)
            if isinstance(action, m.CheckStatus):
                continue  # a takeover asks again, under the call's own id
            shadow.provider_keys.setdefault(f"{book}:{action.key}", order)
            self._note_once(shadow, entry, order)
        for entry in notifications:
            notify = self._notify.decode(entry.body)
            key = dedupe_key(book, notify)
            shadow.mail_keys.setdefault(key, order)
            shadow.mail_actions[key] = entry.action
            self.excused.pop(key, None)
            self._note_once(shadow, entry, order)

    def _note_once(self, shadow: Shadow, entry: ActionEntry, order: int) -> None:
        if entry.action in shadow.actions:
            self.fail("S9 actions", f"action {entry.action} ({entry.type}) was emitted twice")
        shadow.actions[entry.action] = order

    def check_calendar(self, book: Book) -> None:
        """Check overlap, hours, and both directions of the calendar, from the bookings alone."""
        spans: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        taken: dict[tuple[str, int], int] = {}
        for booking in book.bookings.values():
            if booking.status in OCCUPYING:
                span = (booking.start_ms, booking.end_ms, booking.id)
                spans.setdefault((booking.staff, ""), []).append(span)
                key = (booking.staff, booking.day)
                taken[key] = taken.get(key, 0) | booking.mask
            if booking.status in LIVE:
                span = (booking.start_ms, booking.end_ms, booking.id)
                spans.setdefault((booking.customer, booking.service), []).append(span)
                self._check_hours(book, booking)
        for (whose, _), held in spans.items():
            held.sort()
            for one, other in pairwise(held):
                if other[0] < one[1]:
                    self.fail("S1 no overlap", f"{whose}: {one[2]} and {other[2]}")
        kept = {key: sheet.taken for key, sheet in book.sheets.items() if sheet.taken}
        if kept != taken:
            self.fail("S3 calendar", f"sheets {kept}, bookings {taken}")

    def _check_hours(self, book: Book, booking: Booking) -> None:
        definition = book.revisions[booking.revision].definition
        hours = definition.hours
        for member in definition.staff:
            if member.id == booking.staff and member.hours is not None:
                hours = member.hours
        zone = self._zones.get(definition.zone)
        if zone is None:
            zone = self._zones[definition.zone] = ZoneInfo(definition.zone)
        local = datetime.fromtimestamp(booking.start_ms / 1000, UTC).astimezone(zone)
        first = local.hour * 60 + local.minute
        last = first + booking.duration_min
        if first % definition.grid_min:
            self.fail("S2 opening hours", f"{booking.id} at {local.isoformat()} is off the grid")
        for begin, end in hours.get(str(local.isoweekday() % 7), []):
            if _minutes(begin) <= first and last <= _minutes(end):
                return
        self.fail("S2 opening hours", f"{booking.id} at {local.isoformat()} is outside them")

    def _check_pending(self, book: str) -> None:
        held = self.server.book(book)
        for stream in self._read_max:
            group = held.actions(stream).groups.get(stream)
            counts: dict[str, int] = {}
            for pending in group.pending.values() if group else ():
                counts[pending.consumer] = counts.get(pending.consumer, 0) + 1
            for consumer, count in counts.items():
                if count > self._read_max[stream]:
                    self.fail("S16 bounds", f"{consumer} has {count} entries of {stream} pending")
        if len(self.shadows[book].runner.state.orphans) > ORPHANS_MAX:
            self.fail("S16 bounds", f"{book} has too many orphans")

    def scan(self, book: str) -> None:
        """Let the product scan the whole of *book*."""
        problems = full_scan(self.shadows[book].runner.state)
        if problems:
            self.fail("invariants", f"{book}: {'; '.join(problems)}")

    # -- what the events tell ------------------------------------------------

    def _look(self, book: str, state: Book, entry: InputEntry, outcome: OutcomeEntry) -> None:
        """Check confirmations against the ledger, and count marks."""
        marks = self.marks
        if outcome.status == "invalid":
            marks.hit("invalid")
            return
        if outcome.timers:
            marks.hit("timers_in_batch")
            self._look_at(book, state, self._events.decode(outcome.timers))
        if outcome.replayed:
            marks.hit("replayed")
            return
        result = self._accepted.decode(outcome.body)
        command = entry.type in ("request_slot", "request_auto", "cancel")
        if isinstance(result, m.Refused):
            marks.hit("refused")
            return
        if command:
            marks.hit("accepted")
        if entry.type == "request_auto":
            marks.hit("auto_accepted")
        self._look_at(book, state, result.events)

    def _look_at(self, book: str, state: Book, events: Sequence[m.Event]) -> None:
        for event in events:
            name = _SIMPLE_MARKS.get(type(event))
            if name is not None:
                self.marks.hit(name)
            match event:
                case m.BookingConfirmed():
                    self._check_confirmed(book, state.bookings[event.booking])
                case m.HoldExpired() if booking := state.bookings.get(event.booking):
                    if booking.payment.in_flight:
                        self.marks.hit("expired_in_flight")
                case m.BookingCancelled() if booking := state.bookings.get(event.booking):
                    payment = booking.payment
                    if payment.in_flight and payment.call in ("preauthorize", "check_status"):
                        self.marks.hit("cancelled_in_flight")
                    if booking.version >= 3:
                        self.marks.hit("cancelled_confirmed")
                case m.PaymentObserved(observed="declined"):
                    booking = state.bookings.get(f"b{payments.request_of(event.payment)}")
                    if booking is not None and booking.status == "cancelled":
                        self.marks.hit("provider_declined_after_cancel")
                case m.PaymentObserved(observed="captured"):
                    self.marks.hit("captured")
                case m.ResultIgnored():
                    if event.why.startswith("contradicts"):
                        self.marks.hit("contradiction")
                case m.BookTakenOver():
                    if event.restored:
                        self.marks.hit("restored_calls")
                case _:
                    pass

    def _check_confirmed(self, book: str, booking: Booking) -> None:
        if booking.version >= 3:
            self.marks.hit("confirmed_late")
        if not booking.payment.amount_cents:
            return
        reference = f"{book}:{booking.payment.id}"
        if reference in self.excused:
            return
        payment = self.provider.book_of_record.payment(reference)
        status = payment.status if payment else "none"
        if status not in ("authorized", "captured") and reference not in self.provider.lapsed:
            self.fail("S5 confirmed", f"{booking.id} is confirmed, its payment is {status}")

    # -- afterwards ------------------------------------------------------------

    def unrest(self, owners: Sequence[str], over_ms: int) -> tuple[str, str]:
        """See ``rest.unrest``."""
        return rest.unrest(self, owners, over_ms)

    def at_rest(self) -> None:
        """Compare the book with the world, where nothing is left to do."""
        rest.at_rest(self)

    def at_end(self, crowd: Crowd) -> None:
        """What can be said of the whole history."""
        ending.at_end(self, crowd)


def _forget(orders: dict[str, int], key: str, order: int) -> bool:
    """Take *key* out of *orders*, unless an earlier commit had it too; whether it was taken out."""
    first = orders.get(key) == order
    if first:
        del orders[key]
    return first


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


_SIMPLE_MARKS: Final[Mapping[type, str]] = {
    m.HoldExpired: "expired",
    m.SlotLost: "slot_lost",
    m.SlotMoved: "slot_moved",
    m.BookingCompleted: "completed",
    m.BookingDropped: "dropped",
    m.PaymentDeclined: "declined",
    m.ResultIgnored: "result_ignored",
}
