"""What must hold of every run, as named checks of one sentence each.

Safety is checked at every commit, as the server takes it: by deciding the same inputs anew on a book of
our own (*shadow*), and by rules that are written down here a second time, without the product's
indexes. What the provider's ledger says is compared at rest. Liveness is asked for after the faults
have stopped: within a bounded time nothing may be left to do.

The letters and numbers are those of the properties in the documentation of the simulator.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import msgspec

from holdfast.actors.booking import messages as m
from holdfast.actors.booking.book import AWAITING, LIVE, OCCUPYING, ORPHANS_MAX
from holdfast.actors.booking.invariants import full_scan
from holdfast.actors.booking.payments import is_at_rest
from holdfast.actors.booking.runner import BookBugError, BookRunner, Decided
from holdfast.actors.notification.text import dedupe_key
from holdfast.actors.ports import GENESIS
from holdfast.sim.contract import Contract
from holdfast.transport.keys import format_id, parse_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdfast.actors.booking.book import Book, Booking
    from holdfast.actors.ports import (
        ActionEntry,
        ActionStream,
        Commit,
        InputEntry,
        OutcomeEntry,
        Snapshot,
    )
    from holdfast.sim.crowd import Crowd
    from holdfast.sim.history import RecordingLog, Written
    from holdfast.sim.mailer import SimMailer
    from holdfast.sim.marks import Marks
    from holdfast.sim.provider import SimProvider
    from holdfast.sim.trace import Trace
    from holdfast.transport.memory_log import MemoryBook

CHECKS: Final[Mapping[str, str]] = {
    "S1 no overlap": "no member of staff has two slots at one time, no customer the same one twice",
    "S2 opening hours": "every live booking lies on the grid, inside the hours it was accepted under",
    "S3 calendar": "calendar and bookings say the same, both ways",
    "S4 money": "at rest the provider's ledger equals the book, and money is conserved",
    "S5 confirmed": "what is confirmed had an effective preauthorization at that commit",
    "S6 one effect": "a payment is put on hold, taken and given back once at most",
    "S7 one outcome": "every input has one outcome, and what was acknowledged is never lost",
    "S8 store": "positions and epochs grow, each input is one link, none writes after a newer epoch",
    "S9 actions": "no action is seen before its commit, each is emitted once and known to the book",
    "S10 replay": "replay from the beginning and from every snapshot gives the same book",
    "S11 sealed": "nothing reaches for a clock, randomness or a file, and a refusal changes nothing",
    "S12 linearizable": "what was acknowledged before another was sent comes before it",
    "S13 messages": "people are told committed facts, and what became of each message is reported",
    "S14 poison": "an entry that is no message becomes one dead letter, and the log goes on",
    "S15 no live effect": "replaying calls nobody",
    "S16 bounds": "pending entries, orphans, repeats, a customer's holds and waits are bounded",
    "timers": "what is due happens before the next input is decided, and nothing sooner",
    "idempotency": "a command under a used key gets the first one's answer, another one gets none",
    "restore": "a takeover asks about every call under way, in order",
    "invariants": "the product's own scan of the whole book finds nothing",
    "L1 terminal": "every request comes to an end",
    "L2 no lag": "nothing is left to decide, to carry out or to acknowledge",
    "L3 leader": "a living booking actor holds each book, and who holds none has stepped down",
    "L4 no livelock": "a run has a bounded number of events",
    "L5 clean stop": "a process that is asked to stop has ended within its grace",
    "L7 no deadlock": "there is always something that can happen",
    "L8 no orphan": "no money is on hold for a booking that does not want it",
    "no bug": "no process ends by an error that our own bug would cause",
}
"""Name and sentence of each check."""

REPEATS_MAX: Final = 64
SNAPSHOT_REPLAYS_MAX: Final = 4
SCAN_EVERY: Final = 8
_MINUTE_MS: Final = 60_000
_STREAMS: Final[tuple[ActionStream, ...]] = ("payments", "notifications")


class Violation(msgspec.Struct, frozen=True):
    """A check that failed.

    Attributes:
      check: Its name, of ``CHECKS``.
      details: What was seen.
      order: How many events the trace had when it was seen.
    """

    check: str
    details: str
    order: int


class ViolationError(Exception):
    """Ends a run at its first violation."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(f"{violation.check}: {violation.details}")
        self.violation = violation


class _Shadow:
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
    ) -> None:
        self._server = server
        self._provider = provider
        self._mailer = mailer
        self._trace = trace
        self._marks = marks
        self._read_max = read_max
        self._shadows = {book: _Shadow(book, self.fail) for book in books}
        self._accepted = msgspec.json.Decoder(m.Accepted | m.Refused)
        self._events = msgspec.json.Decoder(list[m.Event])
        self._action = msgspec.json.Decoder(m.PaymentAction)
        self._notify = msgspec.json.Decoder(m.Notify)
        self._zones: dict[str, ZoneInfo] = {}
        self._excused: dict[str, None] = {}
        self.messages_lost = False
        """Whether messages may be lost: a consumer was deleted with what it held."""
        self.failover = False
        """Whether acknowledged writes may have been lost, as the world's options declare."""

    def state_of(self, book: str) -> Book:
        """The book as it must be, by deciding its inputs anew."""
        return self._shadows[book].runner.state

    def rewind(self, book: str, position: str, remember: bool = False) -> None:
        """Go back to *position*, after a failover that lost what was written after it.

        What has been acted on since is beyond what anybody can promise: such payments and messages
        are excused, until they are wanted again.

        Args:
          book: Which book.
          position: Of the replica's commit record; the log has its inputs already.
          remember: Remember the actions and digests that came after it all the same.
        """
        self.failover = True
        before = self._shadows[book]
        shadow = self._shadows[book] = _Shadow(book, self.fail)
        for entry in self._between(book, GENESIS, position):
            shadow.contract.decide(shadow.runner, entry)
        last = parse_id(position)
        shadow.digests = {
            known: digest
            for known, digest in before.digests.items()
            if remember or parse_id(known) <= last
        }
        for written in self._server.of(book).commits:
            if parse_id(written.commit.position) > last:
                self._excuse(book, written.commit)
        shadow.actions = {
            action: order
            for action, order in before.actions.items()
            if remember or parse_id(action.partition(":")[0]) <= last
        }
        shadow.provider_keys, shadow.mail_keys = before.provider_keys, before.mail_keys
        shadow.mail_actions = before.mail_actions

    def on_old_commit(self, commit: Commit) -> None:
        """Take note of a commit that an old primary took: it is lost from the first."""
        shadow = self._shadows[commit.book]
        order = len(self._trace.lines)
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
            self._excused[f"{book}:{self._action.decode(entry.body).payment}"] = None
        for entry in commit.notifications:
            self._excused[dedupe_key(book, self._notify.decode(entry.body))] = None

    def fail(self, check: str, details: str) -> None:
        """Say that *check* does not hold."""
        assert check in CHECKS, check
        raise ViolationError(Violation(check, details, len(self._trace.lines)))

    # -- at every commit -----------------------------------------------------

    def on_commit(self, book: str, written: Written) -> None:
        """Check a commit that the server has just taken."""
        shadow = self._shadows[book]
        commit = written.commit
        self._check_store(shadow, written)
        entries = self._between(book, commit.after, commit.position)
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
            self._marks.hit("batch_of_many")
        self._note_actions(book, shadow, written.order, commit.payments, commit.notifications)
        self.check_calendar(shadow.runner.state)
        self._check_pending(book)
        shadow.commits += 1
        if shadow.commits % SCAN_EVERY == 0:
            self._scan(book)

    def _check_store(self, shadow: _Shadow, written: Written) -> None:
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

    def _between(self, book: str, after: str, until: str) -> list[InputEntry]:
        first, last = parse_id(after), parse_id(until)
        stream = self._server.book(book).inputs
        if stream.ids and first < stream.ids[0]:
            stream = self._server.whole_inputs(book)
        return stream.between(first, last)

    def _note_actions(
        self,
        book: str,
        shadow: _Shadow,
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
            self._excused.pop(key, None)
            self._note_once(shadow, entry, order)

    def _note_once(self, shadow: _Shadow, entry: ActionEntry, order: int) -> None:
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
        held = self._server.book(book)
        for stream in self._read_max:
            group = held.actions(stream).groups.get(stream)
            counts: dict[str, int] = {}
            for pending in group.pending.values() if group else ():
                counts[pending.consumer] = counts.get(pending.consumer, 0) + 1
            for consumer, count in counts.items():
                if count > self._read_max[stream]:
                    self.fail("S16 bounds", f"{consumer} has {count} entries of {stream} pending")
        if len(self._shadows[book].runner.state.orphans) > ORPHANS_MAX:
            self.fail("S16 bounds", f"{book} has too many orphans")

    def _scan(self, book: str) -> None:
        problems = full_scan(self._shadows[book].runner.state)
        if problems:
            self.fail("invariants", f"{book}: {'; '.join(problems)}")

    # -- what the events tell ------------------------------------------------

    def _look(self, book: str, state: Book, entry: InputEntry, outcome: OutcomeEntry) -> None:
        """Check confirmations against the ledger, and count marks."""
        marks = self._marks
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
                self._marks.hit(name)
            match event:
                case m.BookingConfirmed():
                    self._check_confirmed(book, state.bookings[event.booking])
                case m.HoldExpired() if booking := state.bookings.get(event.booking):
                    if booking.payment.in_flight:
                        self._marks.hit("expired_in_flight")
                case m.BookingCancelled() if booking := state.bookings.get(event.booking):
                    payment = booking.payment
                    if payment.in_flight and payment.call in ("preauthorize", "check_status"):
                        self._marks.hit("cancelled_in_flight")
                    if booking.version >= 3:
                        self._marks.hit("cancelled_confirmed")
                case m.PaymentObserved(observed="declined"):
                    booking = state.bookings.get(f"b{event.payment[1:]}")
                    if booking is not None and booking.status == "cancelled":
                        self._marks.hit("provider_declined_after_cancel")
                case m.PaymentObserved(observed="captured"):
                    self._marks.hit("captured")
                case m.ResultIgnored():
                    if event.why.startswith("contradicts"):
                        self._marks.hit("contradiction")
                case m.BookTakenOver():
                    if event.restored:
                        self._marks.hit("restored_calls")
                case _:
                    pass

    def _check_confirmed(self, book: str, booking: Booking) -> None:
        if booking.version >= 3:
            self._marks.hit("confirmed_late")
        if not booking.payment.amount_cents:
            return
        reference = f"{book}:{booking.payment.id}"
        if reference in self._excused:
            return
        payment = self._provider.book_of_record.payment(reference)
        status = payment.status if payment else "none"
        if status not in ("authorized", "captured") and reference not in self._provider.lapsed:
            self.fail("S5 confirmed", f"{booking.id} is confirmed, its payment is {status}")

    # -- at rest -------------------------------------------------------------

    def unrest(self, owners: Sequence[str], over_ms: int) -> tuple[str, str]:
        """The check that fails as long as something is left to do, and what; two "" at rest.

        Args:
          owners: Tokens of the living booking actors.
          over_ms: Appointments that end before then must be over.
        """
        if self._provider.under_way:
            return "S4 money", f"the provider has {self._provider.under_way} calls under way"
        leaders: dict[str, None] = {}
        for book, shadow in self._shadows.items():
            held = self._server.book(book)
            record = held.record
            if not held.inputs.added and self.failover:
                continue  # the whole book is lost
            if not held.inputs.added:
                return "L2 no lag", f"nobody has defined {book}"
            if record.owner not in owners:
                return "L3 leader", f"nobody who lives holds {book}"
            leaders[record.owner] = None
            if parse_id(record.position) != held.inputs.last:
                waiting = format_id(*held.inputs.last)
                return "L2 no lag", f"{book} is decided to {record.position}, not to {waiting}"
            if why := _left(held):
                return "L2 no lag", f"{book}: {why}"
            for booking in shadow.runner.state.bookings.values():
                if booking.status in AWAITING:
                    return "L1 terminal", f"{book}: {booking.id} is still {booking.status}"
                payment = booking.payment
                if payment.amount_cents and not is_at_rest(payment):
                    state = f"{payment.desired}/{payment.observed}"
                    return "L1 terminal", f"{book}: payment {payment.id} is {state}, not at rest"
                if booking.status == "confirmed" and booking.end_ms < over_ms:
                    return "L1 terminal", f"{book}: {booking.id} is not over yet"
        for owner in owners:
            if owner and owner not in leaders:
                return "L3 leader", f"{owner} holds no book and does not step down"
        return "", ""

    def at_rest(self) -> None:
        """Compare the book with the world, where nothing is left to do."""
        for book, shadow in self._shadows.items():
            self._scan(book)
            self._check_money(book, shadow.runner.state)
        self._check_ledger()

    def _check_money(self, book: str, state: Book) -> None:
        provider = self._provider
        prefix = f"{book}:"
        wanted: dict[str, Booking] = {}
        for booking in state.bookings.values():
            payment = booking.payment
            if not payment.amount_cents:
                continue
            reference = prefix + payment.id
            wanted[reference] = booking
            if reference in self._excused:
                continue
            known = provider.book_of_record.payment(reference)
            status = known.status if known else "none"
            if known is not None and known.amount_cents != payment.amount_cents:
                self.fail("S4 money", f"{reference}: the amounts differ")
            lapsed = reference in provider.lapsed and payment.observed == "authorized"
            turned_away = reference in provider.turned_away and status == "none"
            no_hold = turned_away and payment.observed == "declined"
            if status != payment.observed and not (lapsed or no_hold):
                check = "L8 no orphan" if status in ("authorized", "pending") else "S4 money"
                said = f"the book says {payment.observed}, the provider {status}"
                self.fail(check, f"{reference} of a {booking.status} booking: {said}")
        for known in provider.book_of_record.payments():
            if not known.reference.startswith(prefix) or known.reference in self._excused:
                continue
            if known.status in ("authorized", "pending"):
                owner = wanted.get(known.reference)
                if owner is None or owner.status != "confirmed":
                    what = "forgotten" if owner is None else owner.status
                    self.fail("L8 no orphan", f"{known.reference} is {known.status} and {what}")

    def _check_ledger(self) -> None:
        for currency, total in self._provider.book_of_record.totals().items():
            if (
                total.authorized != total.captured + total.voided + total.held
                or total.captured != total.retained + total.refunded
            ):
                self.fail("S4 money", f"money is not conserved: {currency} {total}")

    # -- at the end ----------------------------------------------------------

    def at_end(self, crowd: Crowd) -> None:
        """What can be said of the whole history."""
        if self._provider.waited_out:
            self.fail("S16 bounds", "somebody waited for the provider until it gave up")
        self._check_calls()
        self._check_mail()
        for book in self._shadows:
            self._check_inputs(book, crowd)
            self._check_order(book, crowd)
            self._check_poison(book)
            calls = len(self._provider.calls), len(self._mailer.arrivals)
            self._check_replay(book)
            if calls != (len(self._provider.calls), len(self._mailer.arrivals)):
                self.fail("S15 no live effect", f"replaying {book} called somebody")

    def _check_calls(self) -> None:
        effects: dict[tuple[str, str], int] = {}
        for call in self._provider.calls:
            book = call.payment.partition(":")[0]
            known = self._shadows[book].provider_keys.get(call.key)
            if known is None or known > call.order:
                self.fail("S9 actions", f"{call.kind} {call.key} was called before its commit")
            if call.first and not call.refused:
                what = (call.kind, call.payment)
                effects[what] = effects.get(what, 0) + 1
                if effects[what] > 1:
                    self.fail("S6 one effect", f"{call.kind} of {call.payment} happened twice")

    def _check_mail(self) -> None:
        counts: dict[str, int] = {}
        for arrival in self._mailer.arrivals:
            key = arrival.message.key
            known = self._shadows[arrival.message.book].mail_keys.get(key)
            if known is None or known > arrival.order:
                self.fail("S13 messages", f"{key} was told before it was committed")
            counts[key] = counts.get(key, 0) + 1
            if counts[key] > REPEATS_MAX:
                self.fail("S16 bounds", f"{key} was delivered more than {REPEATS_MAX} times")
        for book, shadow in self._shadows.items():
            if self.messages_lost:
                continue
            reports = self._reports(book)
            for key, action in shadow.mail_actions.items():
                if key in self._excused:
                    continue
                if key not in counts and reports.get(action) != "failed":
                    self.fail("S13 messages", f"{key} was never delivered, nor reported as failed")
                if action not in reports and not self.failover:
                    self.fail("S13 messages", f"nobody reported what became of {key}")

    def _reports(self, book: str) -> dict[str, str]:
        """What was reported of notifications, by their actions' ids."""
        decoder = msgspec.json.Decoder(m.DeliveryReport)
        reports = [
            decoder.decode(entry.body)
            for entry in self._server.of(book).inputs
            if entry.type == "delivery_report" and not entry.problem
        ]
        return {report.action: report.status for report in reports}

    def _check_inputs(self, book: str, crowd: Crowd) -> None:
        inputs, outcomes = self._server.whole_inputs(book), self._server.whole_outcomes(book)
        position = parse_id(self._server.book(book).record.position)
        decided = [id_ for id_ in inputs.ids if id_ <= position]
        if decided != outcomes.ids:
            self.fail("S7 one outcome", f"{book}: inputs and outcomes differ")
        names = [(entry.by, entry.type, entry.key) for entry in inputs.entries if entry.key]
        if len(names) > len(dict.fromkeys(names)):
            self._marks.hit("append_twice")
        if self.failover:
            return
        epochs = self._server.of(book).epochs
        if any(later <= earlier for earlier, later in pairwise(epochs)):
            self.fail("S8 store", f"{book}: takeovers gave out the epochs {epochs}")
        if len(self._server.of(book).inputs) != len(inputs.ids):
            self.fail("S7 one outcome", f"{book}: an input was lost")
        for known in crowd.acknowledged:
            if known.book == book and inputs.get(parse_id(known.id)) is None:
                self.fail("S7 one outcome", f"{book}: {known.id} was acknowledged and is gone")
        for missed_book, missed in crowd.missed:
            kept = self._server.book(book).outcomes.get(parse_id(missed)) is not None
            if missed_book == book and kept:  # what was trimmed meanwhile is passed by all
                self.fail("S7 one outcome", f"{book}: a reader passed the outcome of {missed}")
        for seen_book, seen in crowd.seen:
            if seen_book == book and outcomes.get(parse_id(seen.id)) != seen:
                self.fail("S7 one outcome", f"{book}: the outcome of {seen.id} changed")

    def _check_order(self, book: str, crowd: Crowd) -> None:
        """Whatever was sent after an acknowledgement has a greater id."""
        if self.failover:
            return
        events: list[tuple[int, int, tuple[int, int]]] = []
        for known in crowd.acknowledged:
            if known.book == book:
                events.append((known.sent, 1, parse_id(known.id)))
                events.append((known.order, 0, parse_id(known.id)))
        newest = (0, 0)
        for _, is_sending, id_ in sorted(events):
            if not is_sending:
                newest = max(newest, id_)
            elif id_ <= newest:
                self.fail("S12 linearizable", f"{book}: {format_id(*id_)} is before {newest}")

    def _check_poison(self, book: str) -> None:
        held = self._server.book(book)
        letters = [letter.id for letter in held.deadletters.entries if letter.stream == "inputs"]
        outcomes = self._server.whole_outcomes(book).entries
        invalid = [outcome.id for outcome in outcomes if outcome.status == "invalid"]
        if letters != invalid:
            self.fail("S14 poison", f"{book}: invalid {invalid}, dead letters {letters}")
        others = [letter for letter in held.deadletters.entries if letter.stream != "inputs"]
        if others:
            self.fail(
                "S14 poison", f"{book}: an action of ours was not understood: {others[0].why}"
            )

    def _check_replay(self, book: str) -> None:
        shadow = self._shadows[book].runner
        entries = self._between(book, GENESIS, shadow.position)
        live = shadow.snapshot()
        snapshots = self._server.of(book).snapshots
        digests = self._shadows[book].digests
        for snapshot in snapshots:
            if digests.get(snapshot.position) != snapshot.digest:
                self.fail("S10 replay", f"{book}: the snapshot at {snapshot.position} differs")
        step = max(1, len(snapshots) // SNAPSHOT_REPLAYS_MAX)
        starts: list[Snapshot | None] = [None, *snapshots[::-step][:SNAPSHOT_REPLAYS_MAX]]
        for start in starts:
            again = BookRunner(book, start, check=False)
            after = parse_id(again.position)
            try:
                again.decide([entry for entry in entries if parse_id(entry.id) > after])
            except BookBugError as error:
                self.fail("S10 replay", str(error))
            if again.snapshot() != live:
                self.fail("S10 replay", f"{book}: a replay from {start and start.position} differs")


def _left(held: MemoryBook) -> str:
    """What executors have left to do."""
    for stream in _STREAMS:
        facts = held.actions(stream).facts(stream)
        if facts.lag or facts.pending:
            return f"{stream} has {facts.lag} not handed out and {facts.pending} pending"
        if stream not in held.actions(stream).groups and facts.length:
            return f"{stream} has no group"
    return ""


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
