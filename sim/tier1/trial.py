"""The booking machine on trial: one input after the other, each decided, checked, and hashed.

A :class:`Trial` does not care where inputs come from: :mod:`holdfast.sim.tier1.volume` draws them
from a seed, :mod:`holdfast.sim.tier1.cases` reads them from a file. After each input the invariants of
what it touched are checked, and what customers and the provider could see; now and then the whole
book is scanned, a step is audited. At the end nobody asks any more, the provider answers, time
passes: everything must come to an end.

This runs ten million times for every change of the product, so it is written to be fast: what an
operation does not need is not asked for it, and types are compared, which takes a third of
``isinstance``.
"""

from __future__ import annotations

from contextlib import contextmanager
from hashlib import blake2b
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from holdfast.actors.booking import messages as m
from holdfast.actors.booking.invariants import InvariantError, check_touched, full_scan
from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.booking.rules import TRANSIENT
from holdfast.machine import Completed, Emit, Normal
from holdfast.machine.audit import Audited, AuditError
from holdfast.sim.tier1.checks import ViolationError, compare_answer, compare_book, compare_booking
from holdfast.sim.tier1.model import Model
from holdfast.sim.tier1.till import Till

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from holdfast.actors.booking.wire import BookingInput
    from holdfast.sim.tier1.till import Status

LINK_EVERY: Final = 1_024
"""A link of the hash chain is kept for so many operations, to find where two runs part."""

HASH_EVERY: Final = 64
"""So many operations are hashed at once: one by one takes longer, and so do many, out of the cache."""

END_STEPS_MAX: Final = 12
"""So many operations per booking that is left are enough for the end phase."""

NEVER: Final = 1 << 62
"""An operation that no run reaches."""

ANSWER_MS: Final = 200
"""How long the provider takes when all is well."""

_ENCODER = msgspec.msgpack.Encoder()

Wait = tuple[int, int, str, "m.PaymentResult | None", "m.PaymentAction | None"]
"""When, in which order, for which action: the result to bring, or the call to carry out late."""


class Options(msgspec.Struct, frozen=True):
    """How closely to look. Counts are of operations; 0 is never.

    Attributes:
      operations: How many, before the end phase.
      scan_every: Full scan of the book.
      audit_every: One step under the framework's audit.
      model: Compare every operation with the reference model; a hundred times slower.
    """

    operations: int = 25_000
    scan_every: int = 20_000
    audit_every: int = 20_000
    model: bool = False


class Fate(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How a call fares; the default is dull.

    Attributes:
      declined: If it is a preauthorization.
      effect: ``late`` is when nobody waits for it any more.
      known: The provider's answer comes through.
      lapsed: The preauthorization ends by itself right away.
    """

    declined: bool = False
    effect: Literal["at once", "late", "never"] = "at once"
    known: bool = True
    lapsed: bool = False


class Past(msgspec.Struct, gc=False):
    """A command that was decided, and the answer that its key keeps; None where it keeps none."""

    asked: m.Asked
    result: m.Accepted | m.Refused | None = None
    until_ms: int = 0

    def check(self, asked: m.Asked, outcome: m.Outcome, now: int) -> None:
        """A retry gets the first answer again; another intention under the same key is refused.

        Raises:
          ViolationError: It is not so.
        """
        if self.result is None or now >= self.until_ms:
            if outcome.replayed:
                raise ViolationError("keys", f"{asked.key} was not to be remembered")
            return
        if self.asked.digest == asked.digest:
            if not (outcome.replayed and outcome.result == self.result):
                raise ViolationError("keys", f"a retry of {asked.key} got another answer")
            return
        result = outcome.result
        if type(result) is not m.Refused or result.code != "idempotency_key_reused":
            raise ViolationError("keys", f"{asked.key} was used for two things")


@contextmanager
def guarded(trial: Trial) -> Generator[None]:
    """Whatever is raised within is a violation at the operation where *trial* is.

    Raises:
      ViolationError: Something was raised.
    """
    try:
        yield
    except ViolationError as error:
        error.operation = trial.operation
        raise
    except InvariantError as error:
        raise ViolationError("invariants", str(error), trial.operation) from error
    except AuditError as error:
        raise ViolationError("audit", str(error), trial.operation) from error
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise ViolationError("crash", what, trial.operation) from error


def _nothing(*_: str) -> None:
    pass


class Trial:
    """A booking machine, its provider, and all that is asked of them.

    Attributes:
      operation: How many inputs there were.
      now: Milliseconds since the epoch.
      prices: What each service costs now.
      ending: Nobody asks any more, and all goes well.
    """

    def __init__(self, options: Options, begin_ms: int) -> None:
        self.options = options
        self.operation = 0
        self.now: int = begin_ms
        self.machine = BookingMachine()
        self.book = self.machine.genesis()
        self.till = Till()
        self.prices: Mapping[str, int] = {}
        self.commands = self.accepted = 0
        self.links: list[str] = []
        self._seen: dict[type[Any], int] = {}
        self._codes: dict[str, int] = {}
        self._emit: Emit[m.Action] = Emit()
        self._transition = self.machine.transition
        self._audited = Audited(self.machine, reemitting=m.TakenOver)
        self._audit_at = options.audit_every or NEVER
        self._scan_at = options.scan_every or NEVER
        self._model = Model() if options.model else None
        self._hash = blake2b(digest_size=16)
        self._written: list[tuple[str, m.Outcome, object]] = []
        self._waiting: list[Wait] = []
        self._order: int = 0
        self.ending = False
        self._last_id = "0-0"
        self._key_ms = 0
        self.entered: Callable[[str, str], None] = _nothing  # a booking or hold, and whose
        self.left: Callable[[str], None] = _nothing  # it is over, one way or another
        self._watchers: dict[type[Any], Callable[[Any], None]] = {
            m.SlotHeld: self._promised,
            m.SlotRequested: self._promised,
            m.BookingConfirmed: self._confirmed,
            m.BookingCompleted: self._completed,
            m.BookingDropped: self._dropped,
            m.HoldExpired: self._over,
            m.PaymentDeclined: self._over,
            m.SlotLost: self._over,
            m.BookingCancelled: self._over,
        }

    # -- what those who bring the inputs fill in -------------------------------------------------

    def call(self, action_id: str, action: m.PaymentAction) -> None:
        """A call for the provider leaves; when all is well, it is carried out and answered."""
        state = self.till.do(action, decline=False)
        self._later(ANSWER_MS, action_id, action.payment, state)

    def tell(self, action_id: str, notify: m.Notify) -> None:
        """A message for a customer leaves."""

    def carry_out_late(self, action_id: str, action: m.PaymentAction) -> None:
        """A call that nobody waits for any more takes its effect."""

    # -- inputs ---------------------------------------------------------------------------------

    def input_id(self) -> str:
        """The id of the next input."""
        return f"{self.now}-{self.operation}"

    def ask(self, asked: m.Asked, past: Past | None) -> m.Outcome:
        """A customer's command; *past* is what is known of it if it is a retry."""
        now = self.now
        outcome = self.decide(Normal(self.input_id(), now, asked))
        self.commands += 1
        result = outcome.result
        accepted = type(result) is m.Accepted
        if accepted:
            self.accepted += 1
        if past is not None:
            past.check(asked, outcome, now)
        elif outcome.replayed:
            raise ViolationError("keys", f"{asked.key} of {asked.by} is new, and was replayed")
        if accepted and type(asked.command) is m.DefinePractice and not outcome.replayed:
            self.prices = {s.id: s.price_cents for s in asked.command.services}
            self._key_ms = asked.command.policies.idempotency_h * 3_600_000
        return outcome

    def remember(self, asked: m.Asked, past: Past | None, outcome: m.Outcome) -> Past | None:
        """What its customer knows of a command from now on; None for nothing new."""
        if outcome.replayed or not asked.key:
            return None
        result: m.Accepted | m.Refused | None = outcome.result
        if type(result) is m.Refused:
            code = result.code
            if code == "idempotency_key_reused":
                return None
            if code in TRANSIENT:
                result = None
        if past is None:
            return Past(asked, result, self.now + self._key_ms)
        past.asked, past.result, past.until_ms = asked, result, self.now + self._key_ms
        return past

    def provide(self, action: m.PaymentAction, fate: Fate) -> Status:
        """Let the provider carry a call out, if it does so now, and say what it will answer."""
        if fate.effect != "at once":
            return "unknown"
        state = self.till.do(action, fate.declined)
        if fate.lapsed and state == "authorized":
            self.till.lapse(action.payment)
        return state if fate.known else "unknown"

    def report(self, report: m.DeliveryReport) -> None:
        """A message has been delivered."""
        self.decide(Normal(self.input_id(), self.now, report))

    def tick(self) -> None:
        """The timer's input."""
        self.decide(Normal(self.input_id(), self.now, m.Tick()))

    def answer(self, action_id: str, result: m.PaymentResult) -> None:
        """The provider's answer comes in."""
        self.decide(Completed(self.input_id(), self.now, action_id, result))

    def kill(self) -> None:
        """The process dies; another one reads the book and takes it over."""
        state = self.machine.encode(self.book)
        expected = self.machine.outstanding(self.book)
        self.book = self.machine.decode(state)
        if self.machine.encode(self.book) != state:
            raise ViolationError("restore", "a book read back is another book")
        self.scan()
        position = self._last_id
        taken_over = m.TakenOver(2, "owner", position)
        self.decide(Normal(self.input_id(), self.now, taken_over), reemits=True)
        fresh = self._last_id + ":"  # timers may be due as well
        asked = [a.id for a in self._emit.actions if not a.id.startswith(fresh)]
        if asked != expected:
            raise ViolationError("restore", "a takeover does not ask about every call under way")

    def _arrive(self) -> None:
        """A result comes in, or a call takes its effect late."""
        _, _, action_id, result, action = heappop(self._waiting)
        if result is not None:
            self.answer(action_id, result)
        elif action is not None:
            self.carry_out_late(action_id, action)

    def _later(self, wait_ms: int, action_id: str, payment: str, status: Status) -> None:
        self._order += 1
        result = m.PaymentResult(action_id, payment, status)
        heappush(self._waiting, (self.now + wait_ms, self._order, action_id, result, None))

    # -- deciding and checking ------------------------------------------------------------------

    def audit_next(self) -> None:
        """Put the next operation under the framework's audit."""
        self._audit_at = self.operation + 1

    def decide(self, entry: BookingInput, reemits: bool = False) -> m.Outcome:
        """Decide one input and ask everything that can be asked of the answer."""
        self.operation = operation = self.operation + 1
        emit, book, now, input_id = self._emit, self.book, entry.now, entry.id
        timers = book.timers
        emit.begin(input_id)
        quiet = not timers or timers[0][0] > now
        if operation < self._audit_at:
            outcome = self._transition(book, entry, emit)
        else:
            self._audit_at += self.options.audit_every
            outcome = self._audited.transition(book, entry, emit)
        actions, result = emit.actions, outcome.result
        if book.touched:
            check_touched(book)
        if quiet:
            if (outcome.replayed or type(result) is m.Refused) and (actions or book.touched):
                raise ViolationError("refusal", f"{input_id} is refused and changed something")
        elif timers and timers[0][0] <= now:
            due = book.next_due_ms()
            if due is not None and due <= now:
                raise ViolationError("timers", f"something due at {due} waits after {input_id}")
        if outcome.timers:
            self._see(outcome.timers)
        if type(result) is m.Refused:
            self._codes[result.code] = self._codes.get(result.code, 0) + 1
        elif type(result) is m.Accepted and not outcome.replayed:
            self._see(result.events)
        if self._model is not None:
            self._compare(self._model, entry, outcome)
        if actions:
            self._carry_out(input_id, reemits)
        self._written.append((input_id, outcome, actions))
        if operation % HASH_EVERY == 0:
            self._link()
        self._last_id = input_id
        if operation >= self._scan_at:
            self._scan_at += self.options.scan_every
            self.scan()
        return outcome

    def _compare(self, model: Model, entry: BookingInput, outcome: m.Outcome) -> None:
        compare_answer(model.take(entry), outcome, self._emit.actions)
        touched = [booking.id for booking in self.book.touched]
        if self.operation % 64 == 0:
            compare_book(model, self.book)
            return
        for kept in model.bookings:
            if kept.id in touched:
                compare_booking(kept, self.book)

    def _carry_out(self, input_id: str, reemits: bool) -> None:
        """Give each action to whom it is for."""
        for number, emitted in enumerate(self._emit.actions):
            action_id, action = emitted.id, emitted.action
            # What a takeover asks about has its old ids; :meth:`kill` knows which they must be.
            if action_id != f"{input_id}:{number}" and not reemits:
                raise ViolationError("ids", f"{action_id} is no new id of {input_id}")
            if isinstance(action, m.Notify):
                self.tell(action_id, action)
            else:
                self.call(action_id, action)

    def scan(self) -> None:
        """Look at all of the book, and at all of the money.

        Raises:
          ViolationError: Something is wrong.
        """
        problems = full_scan(self.book)
        if problems:
            raise ViolationError("full scan", "; ".join(problems))
        self.till.balance()
        if self._model is not None:
            compare_book(self._model, self.book)

    def _link(self) -> None:
        """Take what happened since the last time into the hash, and keep a link now and then."""
        self._hash.update(_ENCODER.encode(self._written))
        self._written.clear()
        if self.operation % LINK_EVERY == 0:
            self.links.append(self._hash.hexdigest())

    def digest(self) -> str:
        """Of every input, answer and action so far, and of the book."""
        hashed = self._hash.copy()
        hashed.update(_ENCODER.encode(self._written))
        hashed.update(self.machine.encode(self.book))
        return hashed.hexdigest()

    def counts(self) -> dict[str, int]:
        """Events by type, refusals by code, in alphabetical order."""
        seen = {kind.__name__: count for kind, count in self._seen.items()}
        return dict(sorted({**seen, **self._codes}.items()))

    # -- what customers see ---------------------------------------------------------------------

    def _see(self, events: tuple[m.Event, ...]) -> None:
        seen, watchers = self._seen, self._watchers
        for event in events:
            kind = type(event)
            seen[kind] = seen.get(kind, 0) + 1
            watch = watchers.get(kind)
            if watch is not None:
                watch(event)

    def _promised(self, event: m.SlotHeld | m.SlotRequested) -> None:
        if not event.repeated:
            self.till.promise(event, self.prices)
            self.entered(event.booking, event.customer)

    def _confirmed(self, event: m.BookingConfirmed) -> None:
        self.till.confirmed(event.booking)
        self.entered(event.booking, self.book.bookings[event.booking].customer)

    def _completed(self, event: m.BookingCompleted) -> None:
        self.till.completed(event.booking)
        self.left(event.booking)

    def _dropped(self, event: m.BookingDropped) -> None:
        self.till.dropped(event.booking)

    def _over(
        self, event: m.HoldExpired | m.PaymentDeclined | m.SlotLost | m.BookingCancelled
    ) -> None:
        self.left(event.booking)

    # -- the end --------------------------------------------------------------------------------

    def end(self) -> None:
        """Nobody asks any more; the provider answers; time passes until nothing is left.

        Raises:
          ViolationError: Something is left.
        """
        self.ending = True
        book = self.book
        steps = END_STEPS_MAX * (len(book.bookings) + len(self._waiting) + 10) + len(book.keys)
        while True:
            due = book.next_due_ms()
            if self._waiting and (due is None or self._waiting[0][0] <= due):
                self.now = max(self.now, self._waiting[0][0])
                self._arrive()
            elif due is not None:
                self.now = max(self.now, due)
                self.tick()
            elif book.key_queue:
                self.now = max(self.now, book.key_queue[0].until_ms)
                self.tick()
            else:
                break
            steps -= 1
            if steps < 0:
                raise ViolationError("end", "the book does not come to rest")
        for what, count in self._left().items():
            if count:
                raise ViolationError("end", f"{count} {what} are left when all is over")
        self.scan()

    def _left(self) -> dict[str, int]:
        book = self.book
        return {
            "bookings": len(book.bookings),
            "calls": len(book.in_flight),
            "sheets": len(book.sheets),
            "holds": len(book.customer_holds),
            "contenders": len(book.contenders),
            "customers": len(book.customer_days),
            "keys": len(book.keys),
            "payments at the provider": len(self.till.accounts),
        }
