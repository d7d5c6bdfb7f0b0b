"""One scenario, one seed, so many operations: every one decided, checked, and hashed.

An operation is one input: a command, a result, a report, a tick, a takeover. After each,
the invariants of what it touched are checked, and what customers and the provider could see;
now and then the whole book is scanned, a step is audited, the book is thrown away and read back.
At the end nobody asks any more, the provider answers, time passes: everything must come to an end.

All is a function of scenario, seed and options: the :class:`Outcome`'s digest covers every input,
answer and action in order, and the book before the end phase.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, cast

import msgspec

from holdfast.actors.booking import messages as m
from holdfast.actors.booking.invariants import InvariantError, check_touched, full_scan
from holdfast.actors.booking.machine import BookingMachine
from holdfast.machine import Completed, Emit, Normal
from holdfast.machine.audit import Audited, AuditError
from holdfast.sim.tier1.checks import ViolationError, compare_answer, compare_book, compare_booking
from holdfast.sim.tier1.dice import Dice, below
from holdfast.sim.tier1.model import Model
from holdfast.sim.tier1.till import Till
from holdfast.sim.tier1.traffic import Past, Traffic

if TYPE_CHECKING:
    from holdfast.actors.booking.wire import BookingInput
    from holdfast.sim.tier1.scenarios import Scenario
    from holdfast.sim.tier1.till import Status
    from holdfast.sim.tier1.traffic import Past

LINK_EVERY: Final = 1_000
"""A link of the hash chain is kept for so many operations, to find where two runs part."""

END_STEPS_MAX: Final = 12
"""So many operations per booking that is left are enough for the end phase."""

_ENCODER = msgspec.msgpack.Encoder()


class Options(msgspec.Struct, frozen=True):
    """How closely to look. Counts are of operations; 0 is never.

    Attributes:
      operations: How many, before the end phase.
      scan_every: Full scan of the book.
      audit_every: One step under the framework's audit.
      model: Compare every operation with the reference model; a hundred times slower.
    """

    operations: int = 20_000
    scan_every: int = 5_000
    audit_every: int = 10_000
    model: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to.

    Attributes:
      digest: Equal digests, equal runs.
      links: The hash chain's link after each ``LINK_EVERY`` operations.
      operations: All of them; ``end_operations`` belong to the end phase.
      commands: Those of them that asked for something, and how many were accepted.
      counts: Events by type, refusals by code, in alphabetical order.
      preauthorized: How many the provider put on hold, and how many it declined.
      bookings: How many were in the book before the end phase.
    """

    scenario: str
    seed: int
    digest: str
    links: tuple[str, ...]
    operations: int
    end_operations: int
    commands: int
    accepted: int
    counts: dict[str, int]
    preauthorized: int
    declined: int
    bookings: int

    @property
    def accepted_share(self) -> float:
        """Of the commands, 0 to 1."""
        return self.accepted / max(self.commands, 1)

    @property
    def declined_share(self) -> float:
        """Of the preauthorizations, 0 to 1."""
        return self.declined / max(self.declined + self.preauthorized, 1)


def run(scenario: Scenario, seed: int, options: Options | None = None) -> Outcome:
    """Run one seed of a scenario.

    Raises:
      ViolationError: The machine broke a promise; the message says which, where, and how to see it
        again.
    """
    running = Run(scenario, seed, options or Options())
    try:
        return running.run()
    except ViolationError as error:
        raise _located(error, running) from error
    except InvariantError as error:
        raise _located(ViolationError("invariants", str(error)), running) from error
    except AuditError as error:
        raise _located(ViolationError("audit", str(error)), running) from error
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise _located(ViolationError("crash", what), running) from error


def _located(error: ViolationError, running: Run) -> ViolationError:
    what = str(error).removeprefix(f"{error.check}: ")
    where = (
        f"{what} (scenario {running.scenario.name}, seed {running.seed}, operation "
        f"{running.operation}; holdfast.sim.tier1.volume.run(BY_NAME[{running.scenario.name!r}], "
        f"{running.seed}) repeats it)"
    )
    return ViolationError(error.check, where, running.operation)


Wait = tuple[int, int, str, "m.PaymentResult | None", "m.Action | None"]
"""When, in which order, for which action: the result to bring, or the call to carry out late."""


class Run:
    """One run while it goes on.

    Attributes:
      operation: How many inputs there were.
      now: Milliseconds since the epoch.
    """

    def __init__(self, scenario: Scenario, seed: int, options: Options) -> None:
        self.scenario, self.seed, self.options = scenario, seed, options
        self.operation = 0
        self.machine = BookingMachine()
        self.book = self.machine.genesis()
        self.till = Till()
        self.traffic = Traffic(scenario, seed)
        self.now = self.traffic.begin_ms
        self.commands = self.accepted = 0
        self.counts: dict[str, int] = {}
        self._emit: Emit[m.Action] = Emit()
        self._audited = Audited(self.machine, reemitting=m.TakenOver)
        self._model = Model() if options.model else None
        self._dice = Dice(scenario.name, seed)
        self._hash = blake2b(digest_size=16)
        self._links: list[str] = []
        self._waiting: list[Wait] = []
        self._order = 0
        self._reports: deque[m.DeliveryReport] = deque()
        self._last_id = "0-0"

    # -- the two phases -------------------------------------------------------------------------

    def run(self) -> Outcome:
        """All of it; see :func:`run`."""
        options = self.options
        self._command(self.traffic.open(), (0,) * 16)
        roll, step = self._dice.roll, self._step
        while self.operation < options.operations:
            step(roll(self.operation))
            if options.scan_every and self.operation % options.scan_every == 0:
                self._scan()
        self._scan()
        state = self.machine.encode(self.book)
        bookings, before = len(self.book.bookings), self.operation
        self._end()
        self._hash.update(state)
        return Outcome(
            self.scenario.name,
            self.seed,
            self._hash.hexdigest(),
            tuple(self._links),
            self.operation,
            self.operation - before,
            self.commands,
            self.accepted,
            dict(sorted(self.counts.items())),
            self.till.authorized,
            self.till.declined,
            bookings,
        )

    def _step(self, words: tuple[int, ...]) -> None:
        """The next input: what is under way first, in the order of time; then a customer."""
        waiting = self._waiting
        if waiting and waiting[0][0] <= self.now:
            self._arrive(words)
        elif self._reports:
            self.decide(Normal(self._id(), self.now, self._reports.popleft()), words)
        elif words[15] < self.scenario.takeovers * 4_295:  # of a million, in 2**32
            self._crash(words)
        else:
            burst = below(words[12], 1000) < self.scenario.bursts
            gap_ms = 100 if burst else 2 * self.scenario.gap_ms
            then = self.now + 1 + below(words[0], gap_ms)
            due = self.book.next_due_ms() if words[1] & 3 else None  # else they fire with the rest
            if waiting and waiting[0][0] <= then and (due is None or waiting[0][0] < due):
                self.now = max(self.now, waiting[0][0])
                self._arrive(words)
            elif due is not None and due <= then:
                self.now = max(self.now, due)
                self.decide(Normal(self._id(), self.now, m.Tick()), words)
            else:
                self.now = then
                self._command(self.traffic.next(self.now, words, burst), words)

    def _end(self) -> None:
        """Nobody asks any more; the provider answers; time passes until nothing is left."""
        steps = END_STEPS_MAX * (len(self.book.bookings) + len(self._waiting) + 10)
        steps += len(self.book.keys)
        while True:
            due = self.book.next_due_ms()
            if self._waiting and (due is None or self._waiting[0][0] <= due):
                self.now = max(self.now, self._waiting[0][0])
                self._arrive(())
            elif due is not None:
                self.now = max(self.now, due)
                self.decide(Normal(self._id(), self.now, m.Tick()), ())
            elif self.book.key_queue:
                self.now = max(self.now, self.book.key_queue[0].until_ms)
                self.decide(Normal(self._id(), self.now, m.Tick()), ())
            else:
                break
            steps -= 1
            if steps < 0:
                raise ViolationError("end", "the book does not come to rest")
        book = self.book
        left = {
            "bookings": len(book.bookings),
            "calls": len(book.in_flight),
            "sheets": len(book.sheets),
            "holds": len(book.customer_holds),
            "contenders": len(book.contenders),
            "customers": len(book.customer_days),
            "keys": len(book.keys),
            "payments at the provider": len(self.till.accounts),
        }
        for what, count in left.items():
            if count:
                raise ViolationError("end", f"{count} {what} are left when all is over")
        self._scan()

    # -- inputs ---------------------------------------------------------------------------------

    def _id(self) -> str:
        return f"{self.now}-{self.operation}"

    def _command(self, asked: m.Asked, words: tuple[int, ...]) -> None:
        traffic = self.traffic
        past = traffic.past(asked)
        outcome = self.decide(Normal(self._id(), self.now, asked), words)
        self.commands += 1
        result = outcome.result
        if type(result) is m.Accepted:
            self.accepted += 1
        if past is not None:
            self._check_retry(asked, past, outcome)
        elif outcome.replayed:
            raise ViolationError("keys", f"{asked.key} of {asked.by} is new, and was replayed")
        traffic.decided(asked, past, outcome, self.now)

    def _check_retry(self, asked: m.Asked, past: Past, outcome: m.Outcome) -> None:
        """A retry gets the first answer again; another intention under the same key is refused."""
        remembered = past.result is not None and self.now < past.until_ms
        if not remembered:
            if outcome.replayed:
                raise ViolationError("keys", f"{asked.key} was not to be remembered")
            return
        same = past.digest == asked.digest
        if same and not (outcome.replayed and outcome.result == past.result):
            raise ViolationError("keys", f"a retry of {asked.key} got another answer")
        if not same:
            result = outcome.result
            if type(result) is not m.Refused or result.code != "idempotency_key_reused":
                raise ViolationError("keys", f"{asked.key} was used for two things")

    def _arrive(self, words: tuple[int, ...]) -> None:
        """A result comes in, or a call takes its effect late."""
        _, _, action_id, result, action = heappop(self._waiting)
        if action is not None:
            refusal = self._dice.fate(action_id)[3]
            self.till.do(action, below(refusal, 1000) < self.scenario.declined)
            return
        assert result is not None
        self.decide(Completed(self._id(), self.now, action_id, result), words)

    def _crash(self, words: tuple[int, ...]) -> None:
        """The process dies; another one reads the book and takes it over."""
        state = self.machine.encode(self.book)
        expected = self.machine.outstanding(self.book)
        self.book = self.machine.decode(state)
        if self.machine.encode(self.book) != state:
            raise ViolationError("restore", "a book read back is another book")
        self._scan()
        position = self._last_id
        self.decide(Normal(self._id(), self.now, m.TakenOver(2, "owner", position)), words, True)
        fresh = self._last_id + ":"  # timers may be due as well
        asked = [a.id for a in self._emit.actions if not a.id.startswith(fresh)]
        if asked != expected:
            raise ViolationError("restore", "a takeover does not ask about every call under way")

    # -- deciding and checking ------------------------------------------------------------------

    def decide(
        self, entry: BookingInput, words: tuple[int, ...], reemits: bool = False
    ) -> m.Outcome:
        """Decide one input and ask everything that can be asked of the answer."""
        self.operation += 1
        emit, book = self._emit, self.book
        emit.begin(entry.id)
        quiet = not book.timers or book.timers[0][0] > entry.now
        every = self.options.audit_every
        if every and self.operation % every == 0:
            outcome = self._audited.transition(book, entry, emit)
        else:
            outcome = self.machine.transition(book, entry, emit)
        check_touched(book)
        actions = emit.actions
        result = outcome.result
        refused = type(result) is m.Refused or outcome.replayed
        if quiet and refused and (actions or book.touched):
            raise ViolationError("refusal", f"{entry.id} is refused and changed something")
        if book.timers and book.timers[0][0] <= entry.now:
            due = book.next_due_ms()
            if due is not None and due <= entry.now:
                raise ViolationError("timers", f"something due at {due} waits after {entry.id}")
        for event in outcome.timers:
            self._see(event)
        if type(result) is m.Accepted:
            if not outcome.replayed:
                for event in result.events:
                    self._see(event)
        else:
            code = cast("m.Refused", result).code
            self.counts[code] = self.counts.get(code, 0) + 1
        if self._model is not None:
            self._compare(self._model, entry, outcome)
        if actions:
            self._carry_out(entry.id, words, reemits)
        self._hash.update(_ENCODER.encode((entry.id, outcome, actions)))
        if self.operation % LINK_EVERY == 0:
            self._links.append(self._hash.hexdigest())
        self._last_id = entry.id
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

    def _see(self, event: m.Event) -> None:
        """What a customer is told."""
        kind = type(event)
        self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1
        if kind is m.SlotHeld or kind is m.SlotRequested:
            held = cast("m.SlotHeld", event)
            if not held.repeated:
                self.till.promise(held, self.traffic.prices)
                self.traffic.entered(held.booking, held.customer)
        elif kind is m.BookingConfirmed:
            booking = cast("m.BookingConfirmed", event).booking
            self.till.confirmed(booking)
            self.traffic.entered(booking, self.book.bookings[booking].customer)
        elif kind is m.BookingCompleted:
            self.till.completed(cast("m.BookingCompleted", event).booking)
            self.traffic.left(cast("m.BookingCompleted", event).booking)
        elif kind is m.BookingDropped:
            self.till.dropped(cast("m.BookingDropped", event).booking)
        elif kind in _OVER:
            self.traffic.left(cast("m.HoldExpired", event).booking)

    def _carry_out(self, input_id: str, words: tuple[int, ...], reemits: bool) -> None:
        """Give each action to whom it is for, and let chance decide how that goes."""
        last = -1
        for number, emitted in enumerate(self._emit.actions):
            action_id, action = emitted.id, emitted.action
            origin, _, own = action_id.rpartition(":")
            if origin == input_id and int(own) > last:
                last = int(own)
            elif not reemits:
                raise ViolationError("ids", f"{action_id} is no new id of {input_id}")
            if type(action) is m.Notify:
                if words and below(words[13 + (number & 1)], 1000) < self.scenario.reports:
                    report = m.DeliveryReport(action_id, action.booking, "delivered")
                    self._reports.append(report)
            else:
                self._call(action_id, cast("m.PaymentAction", action), chance=bool(words))

    def _call(self, action_id: str, action: m.PaymentAction, chance: bool) -> None:
        scenario, till = self.scenario, self.till
        if not chance:
            self._later(200, action_id, action.payment, till.do(action, decline=False))
            return
        luck, kind, delay, refusal, lapse, twice, again, away = self._dice.fate(action_id)[:8]
        decline = below(refusal, 1000) < scenario.declined
        if below(luck, 1000) < scenario.unknown:
            if kind & 3 == 0:
                till.do(action, decline)
            elif kind & 3 == 1:  # it arrives when nobody waits for it any more
                self._order += 1
                due = self.now + 1 + below(delay, 50_000)
                heappush(self._waiting, (due, self._order, action_id, None, action))
            self._later(5_000, action_id, action.payment, "unknown")
            return
        state: Status = till.do(action, decline)
        if state == "authorized" and below(lapse, 1000) < scenario.lapsed:
            till.lapse(action.payment)
        wait = 50 + below(delay, 1_000)
        if below(kind, 1000) < scenario.slow:
            wait = below(delay, 2 * scenario.hold_s * 1000)
            if away & 15 == 0:  # the executors are away for hours
                wait += below(away, 10_800_000)
        self._later(wait, action_id, action.payment, state)
        if below(twice, 1000) < scenario.doubled:
            wait += 20_000 if again & 3 else 108_000_000  # soon, or when the booking has left
            self._later(wait, action_id, action.payment, state)

    def _later(self, wait_ms: int, action_id: str, payment: str, status: Status) -> None:
        self._order += 1
        result = m.PaymentResult(action_id, payment, status)
        heappush(self._waiting, (self.now + wait_ms, self._order, action_id, result, None))

    def _scan(self) -> None:
        problems = full_scan(self.book)
        if problems:
            raise ViolationError("full scan", "; ".join(problems))
        self.till.balance()
        if self._model is not None:
            compare_book(self._model, self.book)


_OVER: Final = frozenset({m.HoldExpired, m.PaymentDeclined, m.SlotLost, m.BookingCancelled})
