"""One world: the production actors in one trio run, through faults, healing and rest.

A seed decides everything. Booking actors and executors are the production's, run by its ``bootstrap``, each
in a process of its own with its own connection; only the ports are simulated. A run has four
parts: processes start and a crowd begins to ask while faults happen; the faults stop, and in half of
the worlds nothing that lives is restarted, since a restart would hide lost work; the world must come
to rest within a bounded time; everything is stopped cleanly and the whole history is checked.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, cast

import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.invariants import InvariantError
from holdfast.actors.booking.keeping import RETAKE_S_MAX
from holdfast.actors.booking.lease import LOOKS
from holdfast.actors.booking.loading import DivergedError
from holdfast.actors.booking.runner import BookBugError
from holdfast.actors.ports import LogError, LogTrimmedError, TailLostError
from holdfast.bootstrap import BookingPorts, NotificationPorts, PaymentPorts, run_with
from holdfast.sim import upkeep
from holdfast.sim.action_letters import ActionLetters
from holdfast.sim.checks import Checks
from holdfast.sim.clock import START_MS, WorldClock
from holdfast.sim.crowd import Crowd
from holdfast.sim.draining import Draining
from holdfast.sim.history import RecordingLog
from holdfast.sim.leaks import LeakError
from holdfast.sim.mailer import SimMailer
from holdfast.sim.marks import Marks
from holdfast.sim.meddling import Meddling
from holdfast.sim.moving import Moving
from holdfast.sim.operator import Operator
from holdfast.sim.processes import (
    RUNNING,
    Bound,
    Gate,
    GatedLog,
    GatedMailer,
    GatedProvider,
    SkewedClock,
)
from holdfast.sim.provider import SimProvider
from holdfast.sim.reconciling import Reconciling
from holdfast.sim.server import SimServer
from holdfast.sim.toolbox import Toolbox
from holdfast.sim.trace import TooManyEventsError, Trace
from holdfast.sim.troubles import STORM_RESTART_MS_MAX, Slot, Troubles
from holdfast.sim.violations import Violation, ViolationError
from holdfast.sim.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.actors.ports import ActionStream, Clock, Commit, InputEntry, Log
    from holdfast.bootstrap import Ports
    from holdfast.sim.draws import Draws
    from holdfast.sim.history import Written
    from holdfast.sim.options import Options
    from holdfast.sim.troubles import Kind
    from holdfast.transport.tails import LostTail

_Args = ParamSpec("_Args")

CROWD_S_MAX: Final = 3_600.0
"""Longest time that the crowd may need after the faults have stopped."""

RECONCILED_MAX: Final = 20
"""How often an operator reconciles at rest, until there is nothing left to do."""

RECONCILE_AGAIN_S: Final = 60.0
"""After how long he does so again: a provider may refuse until a hold lapses."""

POLL_S: Final = 2.0
POLL_S_MAX: Final = 60.0
STOP_SLACK_S: Final = 1.0
"""What a clean stop may take beyond its grace: the time of calls under way."""

HAND_OVER_SLACK_S: Final = 3.0
"""What a takeover may take after the look at a lease that was given up: the time of its calls."""

_BEGIN_MS_MAX: Final = 2_000


class World:
    """One world; :meth:`main` is what trio runs.

    Args:
      draws: Everything that is drawn.
      options: What was drawn beforehand.
      clock: The run's clock.
    """

    def __init__(self, draws: Draws, options: Options, clock: WorldClock) -> None:
        self.draws = draws
        self.options = options
        self.clock = clock
        self.marks = Marks()
        self.trace = Trace(clock.now_ms)
        self.books = [f"book{number}" for number in range(1, options.books + 1)]
        self.violation: Violation | None = None
        self.owners: dict[str, str] = {}
        """The processes that took books over, by the tokens that they wrote."""
        self._root = trio.CancelScope()
        self._closing = False
        self._is_replicated = options.durability == "replicated"
        self._turn: trio.Semaphore | None = None
        self.lives: list[Gate] = []
        counts: dict[Kind, int] = {
            "booking": options.booking_actors,
            "payment": options.payment_executors,
            "notification": options.notification_executors,
        }
        self._slots = [
            Slot(kind, number) for kind in counts for number in range(1, counts[kind] + 1)
        ]
        self.troubles = Troubles(
            draws,
            options.process,
            clock,
            self.trace,
            self.marks,
            self._slots,
            self._stop_in_time,
        )

    # -- the run -------------------------------------------------------------

    async def main(self) -> None:
        """Live through everything; the first violation ends it."""
        with self._root:
            try:
                async with trio.open_nursery() as nursery:
                    self._build(nursery)
                    await self._through()
                    nursery.cancel_scope.cancel()
            except ViolationError as error:
                self._violated(error.violation)
            except ExceptionGroup as group:
                violation = self._known(group)
                if violation is None and isinstance(_first_leaf(group), BookBugError):
                    violation = _ended_by("a tool", group, len(self.trace.lines))
                if violation is None:
                    raise  # a bug of the simulator's own
                self._violated(violation)

    def _build(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        options, draws = self.options, self.draws
        trace, marks = self.trace, self.marks
        self.server = SimServer(
            self.clock,
            draws,
            options.server,
            nursery,
            make_log=self._make_log,
            options=options.connections,
            on_fault=self._on_fault,
            on_foreign=self._on_foreign,
            on_failover=self._on_failover,
            on_old_commit=lambda commit: self.checks.on_old_commit(commit),
            on_written=self._on_written,
            on_lost_tail=self._on_lost_tail,
            mark=marks.hit,
        )
        self.provider = SimProvider(
            draws, options.provider, trace, marks, nursery, self.clock.now_ms
        )
        self.mailer = SimMailer(draws, options.mailer, trace, marks)
        self.checks = Checks(
            self.log,
            self.provider,
            self.mailer,
            trace,
            marks,
            self.books,
            self._pending_max(),
            replicated=self._is_replicated,
        )
        self.crowd = Crowd(
            self.server.connect_client,
            draws,
            options.crowd,
            marks,
            trace,
            self.books,
            options.practice,
            options.changed,
        )
        self.log.on_trim = self._watching(partial(upkeep.on_trim, self.checks))
        self.log.on_snapshot = self._watching(partial(upkeep.on_snapshot, self.checks))
        auto = m.RequestAuto(options.practice.services[0].id, customer="L1")
        self.reconciling = Reconciling(
            self.server,
            self.provider,
            self.checks,
            draws,
            marks,
            trace,
            self.books,
        )
        bench = Workbench(self.server, self.log, self.checks, draws, marks, trace)
        self.moving = Moving(bench, nursery, options.booking)
        self.letters = ActionLetters(bench, self.provider, options.payment)
        self.meddling = Meddling(bench, self.letters, self._slots)
        draining = Draining(
            *(bench, self._slots, self._stop_in_time, self.books), options.booking.lease_s
        )
        self.toolbox = Toolbox(
            bench,
            self.moving,
            draining,
            self.meddling,
            self.letters,
            self.reconciling,
            self.crowd,
            options.booking,
            ("request_auto", wire.encode_message(auto)),
        )
        self.operator = Operator(
            self.server.connect_client,
            self.log,
            self.crowd,
            self.checks,
            draws,
            options.operator,
            marks,
            trace,
            self.books,
            options.practice,
            options.crowd.starts_ms,
            self.toolbox,
        )
        if options.turns:
            self._turn = trio.Semaphore(1)

    def _pending_max(self) -> dict[ActionStream, int]:
        """Most entries pending for one consumer; empty where there is no such bound.

        A read and a claim may each bring as many as there was room for, and one a book. What was
        handed out in an answer that got lost is pending for a consumer that knows nothing of it.
        """
        options = self.options
        if options.server.loses_answers:
            return {}
        return {
            "payments": 2 * options.payment.read_max + len(self.books),
            "notifications": 2 * options.notification.read_max + len(self.books),
        }

    async def _through(self) -> None:
        options = self.options
        async with trio.open_nursery() as processes:
            for slot in self._slots:
                processes.start_soon(self._supervise, slot)
            if self.troubles.storms:
                processes.start_soon(self.troubles.storm, options.fault_s)
            async with trio.open_nursery() as crowd:
                crowd.start_soon(self.crowd.run)
                crowd.start_soon(self.operator.run)
                await trio.sleep(options.fault_s)
                self._heal()
                crowd.cancel_scope.deadline = trio.current_time() + CROWD_S_MAX
            if options.operator.spoils:
                await self._put_right()
            await self._rest()
            if self.checks.failover and not self._is_replicated:
                await self._reconcile()
            self.checks.at_rest()
            if options.lose_leader:
                await self._lose_leader()
            await self._close(processes)
        if options.operator.uses_tools:
            await self.toolbox.look_at_stopped(self.books)
            self.toolbox.at_end()
        self.checks.at_end(self.crowd)

    def _make_log(self, clock: Clock) -> RecordingLog:
        self.log = RecordingLog(clock, self.trace, self.marks, self._on_commit, self._on_take_over)
        return self.log

    def _heal(self) -> None:
        """Stop all faults; start what is dead, and in half of the worlds everything."""
        self.trace.note("world", "heal")
        self.server.heal()
        self.provider.heal()
        self.mailer.heal()
        self.moving.heal()
        self.troubles.heal(self.options.restart)
        if not self.options.restart:
            self.marks.hit("healed_without_restart")

    async def _put_right(self) -> None:
        """A person puts right what is still spoilt."""
        await self.toolbox.put_right()
        if self.letters.restart:
            for slot in self._slots:
                if slot.kind == "booking" and slot.gate is not None:
                    slot.gate.crash("to ask for what is under way")

    async def _rest(self) -> None:
        """Wait until nothing is left to do."""
        deadline = trio.current_time() + self.options.rest_s_max
        poll_s = POLL_S
        over_ms = START_MS + self.options.over_s * 1000
        while True:
            check, why = self._unrest(over_ms)
            if not check:
                self.trace.note("world", "rest")
                return
            if trio.current_time() >= deadline:
                self.checks.fail(check, f"{why}, {self.options.rest_s_max} s after the faults")
            await trio.sleep(poll_s)
            poll_s = min(poll_s * 1.25, POLL_S_MAX)

    def _unrest(self, over_ms: int) -> tuple[str, str]:
        if self.server.under_way:
            return "L2 no lag", f"{self.server.under_way} requests are on their way to the log"
        for slot in self._slots:
            unreported = slot.gate and self.checks.promises.unreported(slot.gate.name)
            if unreported:
                return "S7 one outcome", unreported
        lives = [slot for slot in self._slots if slot.lives_now]
        check, why = self.checks.unrest([slot.owner for slot in lives], over_ms)
        if check:
            return check, why
        for slot in lives:
            assert slot.gate is not None
            for subject, why in slot.gate.health.troubles.items():
                if subject == "log" or subject.startswith("book "):
                    what = f"{slot.gate.name} says of the {subject} that is well: {why}"
                    return "L9 health", what
        return "", ""

    async def _lose_leader(self) -> None:
        """Let a leader die or stop for good: who stands by must lead all of its books in time."""
        led = {book: self.log.book(book).record.owner for book in self.books}
        led = {book: owner for book, owner in led.items() if owner}  # a failover may have lost one
        lives = [slot for slot in self._slots if slot.kind == "booking" and slot.gate is not None]
        leader = next((slot for slot in lives if slot.owner in led.values()), None)
        left = [slot for slot in lives if slot is not leader]
        if leader is None or not left:
            return
        assert leader.gate is not None
        stops = self.options.stop_leader
        if stops:
            # Who found the log away judges nobody for so long; only then is this a matter of a look.
            await trio.sleep(self.options.booking.lease_s)
        leader.gone = True
        troubled = any(
            slot.gate is not None and (slot.gate.troubled or slot.gate.was_paused) for slot in left
        )
        if stops:
            self.trace.note(leader.gate.name, "stop", "for good")
            await self._stop_in_time(leader, leader.gate)
        else:
            leader.gate.crash("for good")
        await trio.sleep(self._takeover_s(stops=stops, troubled=troubled))
        owners = [slot.owner for slot in left]
        for book in led:
            if self.log.book(book).record.owner not in owners:
                gone = "stopped" if stops else "dead"
                self.checks.fail("L3 leader", f"nobody took {book} over from its {gone} leader")
        self.marks.hit("handed_over_at_the_end" if stops else "took_over_at_the_end")
        await self._rest()
        self.checks.at_rest()

    async def _reconcile(self) -> None:
        """Bring the provider's ledger and the books together, now that nothing is under way."""
        for _ in range(RECONCILED_MAX):
            if not await self.reconciling.at_rest():
                return
            await trio.sleep(RECONCILE_AGAIN_S)
            await self._rest()

    def _takeover_s(self, *, stops: bool, troubled: bool) -> float:
        """How long a takeover may take where nothing is wrong any more.

        Who stops gives its lease up, and the next look misses it. Else a lease is renewed at the last
        moment, seen by one look and missed by the next; and nobody judges for a lease's time after the
        log was away. Who looks may wait for an answer that never comes. Who had other troubles may leave a book alone for long, and a
        sweep may pause who is left.
        """
        options = self.options
        lease_s = options.booking.lease_s
        in_time_s = lease_s / LOOKS + HAND_OVER_SLACK_S if stops else 3 * lease_s + 1.0
        if options.server.silent or options.server.partition:
            in_time_s += options.connections.reply_s
        return in_time_s + (RETAKE_S_MAX if troubled else 0.0)

    async def _close(self, processes: trio.Nursery) -> None:
        """Stop everything cleanly."""
        self._closing = True
        self.trace.note("world", "stop")
        async with trio.open_nursery() as nursery:
            for slot in self._slots:
                if slot.lives_now and slot.stop is not None:
                    nursery.start_soon(self._stop_in_time, slot, slot.gate)
        processes.cancel_scope.cancel()

    async def _stop_in_time(self, slot: Slot, gate: Gate | None) -> None:
        assert slot.stop is not None
        slot.stop.set()
        if gate is not None:
            gate.stopping = True
        grace_s = self._grace_s(slot.kind)
        await trio.sleep(grace_s)
        if slot.gate is gate and gate is not None and not gate.dead and not gate.was_paused:
            self.checks.fail("L5 clean stop", f"{gate.name} still runs {grace_s} s after its stop")

    def _grace_s(self, kind: Kind) -> float:
        if kind == "booking":
            return 2 * self.options.booking.grace_s + STOP_SLACK_S
        options = self.options.payment if kind == "payment" else self.options.notification
        return options.stop_grace_s + STOP_SLACK_S

    def count_faults(self) -> None:
        """Let the server's faults be marks: each that fired, and each that mattered."""
        for kind, times in self.server.counts.fired.items():
            self.marks.hit(f"server_{kind}", times)
        for kind, times in self.server.counts.mattered.items():
            self.marks.hit(f"server_{kind}_mattered", times)

    # -- processes -----------------------------------------------------------

    async def _supervise(self, slot: Slot) -> None:
        """Let one life after the other happen."""
        draws = self.draws
        await trio.sleep(draws.below("world.begin_ms", _BEGIN_MS_MAX, slot.name) / 1000)
        while not self._closing and not slot.gone:
            await slot.may_begin.wait()
            if self._turn is not None and slot.kind == "booking":
                async with self._turn:
                    ending = await self._live(slot)
            else:
                ending = await self._live(slot)
            self.trace.note(slot.name, "ended", ending)
            bound = 1000 * self.options.process.restart_s_max + 1
            if self.troubles.storming:
                bound = STORM_RESTART_MS_MAX
            await trio.sleep(draws.below("world.restart_ms", bound, slot.name, slot.lives) / 1000)

    async def _live(self, slot: Slot) -> str:
        """One life of a process, to its end; how it ended."""
        slot.lives += 1
        error: Exception | None = None
        scope = trio.CancelScope()
        gate = Gate(f"{slot.name}.{slot.lives}", scope, self.trace, self.marks)
        stop = trio.Event()
        slot.gate, slot.stop = gate, stop
        if slot.kind == "booking":  # the others know no clock
            gate.clock = SkewedClock(self.clock)
        self.lives.append(gate)
        with scope:
            self.trace.note(gate.name, "start")
            async with trio.open_nursery() as nursery:
                self.troubles.begin(nursery, slot, gate, stop)
                token = RUNNING.set(gate)
                try:
                    await self._run(slot, gate, stop)
                except Exception as caught:  # whatever it is, it ends this process
                    error = caught
                finally:
                    RUNNING.reset(token)
                nursery.cancel_scope.cancel()
        slot.gate = slot.stop = None
        if gate.dead:
            return "crashed"
        gate.dead = True
        if isinstance(error, TailLostError) and (
            unreported := self.checks.promises.unreported(gate.name)
        ):
            self.checks.fail("S7 one outcome", unreported)
        if isinstance(error, LogTrimmedError) and not self._leads(slot):
            return "behind a trim"  # whoever leads needs less than it does
        if self.checks.failover and isinstance(error, LogError | DivergedError):
            return "behind a failover"  # it knows what the log has forgotten
        if error is not None and self.meddling.excuses(_first_leaf(error)):
            return "all of its books were spoilt"
        if error is not None:
            violation = self._known(error)
            if violation is None:
                violation = _ended_by(gate.name, error, len(self.trace.lines))
            raise ViolationError(violation) from error
        if self._closing and slot.owner and not gate.was_paused:
            upkeep.on_stopped(self.checks, slot.owner)
        return "stopped"

    def _leads(self, slot: Slot) -> bool:
        """Whether a book is this booking actor's."""
        return any(self.log.book(book).record.owner == slot.owner for book in self.books)

    async def _run(self, slot: Slot, gate: Gate, stop: trio.Event) -> None:
        """The production actor of the process."""
        connection = self.server.connect(gate.name)
        gate.on_crash = connection.kill
        log = GatedLog(connection, gate, self._held_bound(slot.kind, gate))
        await run_with(self._ports(slot, gate, log), stop)

    def _ports(self, slot: Slot, gate: Gate, log: Log) -> Ports:
        options = self.options
        rng = self.draws.generator("process", gate.name)
        match slot.kind:
            case "booking":
                slot.owner = f"{rng.getrandbits(128):032x}"
                self.owners[slot.owner] = gate.name
                assert gate.clock is not None
                place = slot.name if options.places else ""
                return BookingPorts(
                    log, gate.clock, slot.owner, options.booking, place, rng, gate.health
                )
            case "payment":
                calls_max = options.payment.concurrency_max
                bound = self._bound(gate, "calls the provider", calls_max)
                provider = GatedProvider(self.provider, gate, bound)
                return PaymentPorts(log, provider, gate.name, options.payment, rng, gate.health)
            case "notification":
                mailer = GatedMailer(self.mailer, gate)
                return NotificationPorts(
                    log, mailer, gate.name, options.notification, rng, gate.health
                )

    def _held_bound(self, kind: Kind, gate: Gate) -> Bound | None:
        """Of the actions that a process may hold: a read and a claim each fill the room they saw."""
        if kind == "booking":
            return None
        options = self.options.payment if kind == "payment" else self.options.notification
        return self._bound(gate, "holds actions", 2 * options.read_max + len(self.books))

    def _bound(self, gate: Gate, what: str, most: int) -> Bound:
        def exceeded(count: int) -> None:
            details = f"{gate.name} {what}: {count} at a time, {most} may be"
            self._violated(Violation("S16 bounds", details, len(self.trace.lines)))

        return Bound(most, exceeded)

    # -- what happens to the server -------------------------------------------

    def _on_fault(self, kind: str, details: str) -> None:
        self.trace.fault("server", kind, details)
        if kind == "consumer_missing":
            self.checks.messages_lost = True

    def _on_foreign(self, book: str, entry: InputEntry) -> None:
        self.log.of(book).inputs.append(entry)

    def _on_failover(self, lost: list[tuple[str, InputEntry]]) -> None:
        """What the replica did not get is no part of the books any more."""
        self.trace.note("server", "failover", " ".join(f"{book} {one.id}" for book, one in lost))
        if not self._is_replicated:
            self._nursery.start_soon(self.reconciling.later)
        for book in self.books:
            position = self.log.book(book).record.position
            self.checks.promises.on_failover(book, position)
            self.checks.rewind(book, position)
            self.log.rewind(book, position)

    def _on_take_over(self, before: str, after: str) -> None:
        name = self.owners.get(before)
        if before != after and any(gate.name == name and not gate.dead for gate in self.lives):
            self.marks.hit("took_over_from_the_living")

    def _on_written(self, process: str, commit: Commit) -> None:
        self.checks.promises.on_written(process, commit)

    def _on_lost_tail(self, process: str, lost: LostTail) -> None:
        self.trace.note(process, "lost_tail", f"{lost.book} {lost.inputs_lost_to} {lost.cause}")
        try:
            # An old primary may give out an id that the new one gives out too.
            once = "old_primary" not in self.server.counts.fired
            self.checks.promises.on_lost_tail(process, lost, once=once)
        except ViolationError as error:
            self._violated(error.violation)

    # -- violations ------------------------------------------------------------

    def _on_commit(self, book: str, written: Written) -> None:
        """Check a commit; called inside the actor's own call, so nothing may be raised here."""
        try:
            self.checks.on_commit(book, written)
        except ViolationError as error:
            self._violated(error.violation)
        except BookBugError as error:
            self._violated(Violation("no bug", str(error), len(self.trace.lines)))

    def _watching(self, check: Callable[_Args, None]) -> Callable[_Args, None]:
        """*check*, to be called by the server: there nothing may be raised."""

        def watch(*args: _Args.args, **kwargs: _Args.kwargs) -> None:
            try:
                check(*args, **kwargs)
            except ViolationError as error:
                self._violated(error.violation)

        return watch

    def _violated(self, violation: Violation) -> None:
        if self.violation is None:
            self.violation = violation
            self._root.cancel()

    def _known(self, error: BaseException) -> Violation | None:
        """The violation that *error* tells, or the first leaf of a group; None for any other error."""
        error = _first_leaf(error)
        if isinstance(error, ViolationError):
            return error.violation
        if isinstance(error, LeakError):
            return Violation("S11 sealed", str(error), len(self.trace.lines))
        if isinstance(error, TooManyEventsError):
            return Violation("L4 no livelock", str(error), len(self.trace.lines))
        return None


def _first_leaf(error: BaseException) -> BaseException:
    """The first single exception in a group: whatever came after it is a consequence."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def _ended_by(name: str, error: BaseException, order: int) -> Violation:
    """What it means that a process ended by *error*, of which nobody else could know."""
    error = _first_leaf(error)
    check = "no bug"
    if isinstance(error.__cause__, InvariantError):
        check = "invariants"
    elif isinstance(error, DivergedError):
        check = "S10 replay"
    return Violation(check, f"{name}: {type(error).__name__}: {error}", order)
