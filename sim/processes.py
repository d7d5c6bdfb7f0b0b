"""Processes of the simulated world, and the gates through which they reach the outside.

A process is a production function in a cancel scope of its own. It sees the log, the provider and the
mailer only through its *gate*, which can end it before a call, or after the call's effect and before
its answer; hold it for minutes, as if the machine had stopped it; and note what it did. A process that
is dead does nothing any more: a call that its clean-up would make never gets through.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import msgspec
import trio

from holdfast.actors.health import Health
from holdfast.actors.ports import (
    CommitUnknownError,
    ForeignDataError,
    LogUnavailableError,
    SupersededError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from holdfast.actors.ports import (
        ActionEntry,
        ActionStream,
        Clock,
        Commit,
        CommitRecord,
        DeadLetter,
        InputEntry,
        Log,
        LogError,
        Mailer,
        Message,
        NewInput,
        OutcomeEntry,
        Provider,
        ProviderAnswer,
        Snapshot,
        StreamFacts,
        StreamName,
    )
    from holdfast.sim.marks import Marks
    from holdfast.sim.trace import Trace

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

RUNNING: ContextVar[Gate | None] = ContextVar("RUNNING", default=None)
"""The life of a process to which a task belongs: children inherit it from whoever starts them."""


def count_step(task: trio.lowlevel.Task) -> None:
    """*task* is about to run on: count that for the process it belongs to, if any."""
    gate = task.context.get(RUNNING)
    if gate is not None:
        gate.step()


class ProcessFaults(msgspec.Struct, frozen=True):
    """What happens to processes while the world is not healed. Shares are of a process's lives.

    Attributes:
      crash_at_call: Share that end at some call to the outside; half of those after its effect.
      crash_call_max: At the so-many-th call, at most.
      crash_in_time: Share that end at some moment.
      crash_s_max: After so many seconds, at most.
      stop: Share that are stopped cleanly after up to ``crash_s_max``.
      pause: Share that are paused once.
      pause_s_max: For so long, at most.
      restart_s_max: Longest time until a process that ended is started again.
      crash_stopping: Share of those stopped that crash before they have.
      skew: Share whose clock is wrong.
      skew_s_max: By so much, at most.
      jump: Share whose clock jumps once, by up to ``skew_s_max``.
      storm: Share of worlds in which all processes crash again and again within seconds.
    """

    crash_at_call: float = 0.0
    crash_call_max: int = 60
    crash_in_time: float = 0.0
    crash_s_max: int = 60
    stop: float = 0.0
    pause: float = 0.0
    pause_s_max: int = 120
    restart_s_max: int = 20
    crash_stopping: float = 0.0
    skew: float = 0.0
    skew_s_max: int = 5
    jump: float = 0.0
    storm: float = 0.0


class SkewedClock:
    """The clock of one life of a process: right, until somebody makes it wrong.

    Args:
      clock: The right one.

    Attributes:
      off_ms: By how much it is ahead; behind where negative.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.off_ms = 0

    def now_ms(self) -> int:
        """Milliseconds since the epoch, as the process sees it."""
        return self._clock.now_ms() + self.off_ms


class Gate:
    """Between one life of a process and the outside.

    Args:
      name: The process and its life, such as ``booking-1.3``.
      scope: Cancelled to end it.

    Attributes:
      made: Every call so far, those under way included.
      answered: Which of them have come back with an answer, by number from 1.
      steps: How often one of its tasks ran on; counted in swept worlds only.
      crash_call: The call, from 1, at which it crashes; 0 for none.
      crash_after: It crashes after that call's effect.
      last_step: The step, from 1, just before which it crashes; 0 for none.
      instead: What befalls it there instead of a crash; called with the place.
      struck: How often that happened.
      stopping: It has been asked to stop.
      clock: Its clock, where it has one.
      troubled: The outside had another answer for it than one, or none for now.
      health: What the process says of itself.
      on_crash: Called first when it crashes, so that its connection dies with it.
    """

    def __init__(self, name: str, scope: trio.CancelScope, trace: Trace, marks: Marks) -> None:
        self.name = name
        self.made: list[str] = []
        self.answered: list[int] = []
        self.steps = 0
        self.dead = False
        self.crash_call = 0
        self.crash_after = False
        self.last_step = 0
        self.instead: Callable[[str], object] | None = None
        self.struck = 0
        self.stopping = False
        self.clock: SkewedClock | None = None
        self.was_paused = False
        self.troubled = False
        self.health = Health()
        self.on_crash: Callable[[], None] | None = None
        self._scope = scope
        self._trace = trace
        self.marks = marks
        self._resumed: trio.Event | None = None

    def crash(self, why: str) -> None:
        """End the process here and now."""
        if not self.dead:
            self.dead = True
            if self.stopping:
                self.marks.hit("crashed_while_stopping")
            if "take_over" in self.made and "commit" not in self.made:
                self.marks.hit("crashed_during_restore")
            if self.on_crash is not None:
                self.on_crash()
            self._trace.fault(self.name, "crash", why)
            self._scope.cancel()
            self.resume()

    def pause(self, why: str = "") -> None:
        """Let nothing through until :meth:`resume`."""
        if self._resumed is None and not self.dead:
            self._resumed = trio.Event()
            self.was_paused = True
            self._trace.fault(self.name, "pause", why)

    def resume(self) -> None:
        """Let calls and answers through again."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None
            self._trace.note(self.name, "resume")

    async def through(
        self, what: str, call: Callable[[Unpack[_Args]], Awaitable[_T]], *args: *_Args
    ) -> _T:
        """Make a call to the outside; it may be the last one."""
        if self.dead:
            await trio.sleep_forever()
        self.made.append(what)
        number = len(self.made)
        if number == self.crash_call and not self.crash_after:
            self.marks.hit("crash_at_call")
            self._strike(f"before {what}")
        await self._held()
        try:
            result = await call(*args)
        except Exception as error:
            self._trace.note(self.name, what, type(error).__name__)
            self.troubled = self.troubled or not isinstance(error, LogUnavailableError)
            await self._held()
            raise
        if not self.dead:
            self.answered.append(number)
            if number == self.crash_call and self.crash_after:
                self.marks.hit("crash_after_effect")
                self._strike(f"after {what}")
        await self._held()
        self._trace.note(self.name, what)
        return result

    def step(self) -> None:
        """One of its tasks is about to run on.

        Should it crash here, that task still runs to its next checkpoint. It gets through to nobody any
        more; only what it had sent before may take effect, as a request that is on its way may.
        """
        if self.dead:
            return
        self.steps += 1
        if self.steps == self.last_step:
            self._strike(f"before step {self.steps}")

    def _strike(self, why: str) -> None:
        """Here is where something was to befall it."""
        self.struck += 1
        (self.instead or self.crash)(why)

    async def _held(self) -> None:
        """Wait out a pause; for ever where the process is dead."""
        while self._resumed is not None:
            await self._resumed.wait()
        if self.dead:
            await trio.sleep_forever()


class Bound:
    """Sees that a process never has more of something than it may.

    Args:
      most: How many it may have.
      on_excess: Called with the count where it is more.
    """

    def __init__(self, most: int, on_excess: Callable[[int], None]) -> None:
        self._most = most
        self._on_excess = on_excess

    def see(self, count: int) -> None:
        """It has *count* of them now."""
        if count > self._most:
            self._on_excess(count)


class GatedLog:
    """The port ``Log`` as a process sees it.

    Args:
      log: The process's connection.
      gate: Its gate.
      bound: Of the actions that it has taken and not finished.
    """

    def __init__(self, log: Log, gate: Gate, bound: Bound | None = None) -> None:
        self._log = log
        self._gate = gate
        self._bound = bound
        self._held: dict[tuple[str, str], None] = {}
        self._followed: dict[str, None] = {}
        self._led: dict[str, None] = {}

    def _hold(self, entries: list[tuple[str, ActionEntry]]) -> list[tuple[str, ActionEntry]]:
        for book, entry in entries:
            self._held[book, entry.id] = None
        if self._bound is not None:
            self._bound.see(len(self._held))
        return entries

    def _let_go(self, book: str, finished: Sequence[tuple[str, NewInput | None]]) -> None:
        for entry_id, _ in finished:
            self._held.pop((book, entry_id), None)

    async def append(self, book: str, inputs: Sequence[NewInput]) -> list[str]:
        """See ``Log``."""
        gate = self._gate
        if gate.clock is not None and gate.clock.off_ms and inputs[0].type == "tick":
            gate.marks.hit("clock_mattered")
        return await gate.through("append", self._log.append, book, inputs)

    async def wait_books(self, known: int, wait_s: float) -> list[str]:
        """See ``Log``."""
        return await self._gate.through("wait_books", self._log.wait_books, known, wait_s)

    async def read_inputs(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[InputEntry]]:
        """See ``Log``."""
        return await self._gate.through("read_inputs", self._log.read_inputs, after, count, wait_s)

    async def read_outcomes(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[OutcomeEntry]]:
        """See ``Log``."""
        found = await self._gate.through(
            "read_outcomes", self._log.read_outcomes, after, count, wait_s
        )
        if found:
            self._followed.update(dict.fromkeys(found))
            self._gate.marks.hit("stood_by")
        return found

    async def read_record(self, book: str) -> CommitRecord:
        """See ``Log``."""
        return await self._gate.through("read_record", self._log.read_record, book)

    async def read_records(self, books: Sequence[str]) -> list[CommitRecord]:
        """See ``Log``."""
        return await self._gate.through("read_records", self._log.read_records, books)

    async def read_snapshot(self, book: str) -> Snapshot | None:
        """See ``Log``."""
        snapshot = await self._gate.through("read_snapshot", self._log.read_snapshot, book)
        if snapshot is not None:
            self._gate.marks.hit("replayed_from_snapshot")
        return snapshot

    async def facts(self, book: str, stream: StreamName) -> StreamFacts:
        """See ``Log``."""
        return await self._gate.through("facts", self._log.facts, book, stream)

    async def hold_lease(self, owner: str, place: str, lease_s: float) -> None:
        """See ``Log``."""
        await self._gate.through("hold_lease", self._log.hold_lease, owner, place, lease_s)

    async def drop_lease(self, owner: str) -> None:
        """See ``Log``."""
        await self._gate.through("drop_lease", self._log.drop_lease, owner)

    async def read_leases(self, owners: Sequence[str]) -> dict[str, str]:
        """See ``Log``."""
        return await self._gate.through("read_leases", self._log.read_leases, owners)

    async def take_over(self, book: str, owner: str, seen: int | None = None) -> CommitRecord:
        """See ``Log``."""
        record = await self._gate.through("take_over", self._log.take_over, book, owner, seen)
        if book in self._followed:
            self._gate.marks.hit("took_over_warm")
        if book in self._led:
            self._gate.marks.hit("took_again")
        self._led[book] = None
        return record

    async def commit(self, commits: Sequence[Commit]) -> list[LogError | None]:
        """See ``Log``."""
        try:
            results = await self._gate.through("commit", self._log.commit, commits)
        except CommitUnknownError:
            self._gate.marks.hit("commit_unknown")
            raise
        if any(isinstance(result, SupersededError) for result in results):
            self._gate.marks.hit("superseded")
        return results

    async def resolve(self, commits: Sequence[Commit]) -> list[LogError | bool]:
        """See ``Log``."""
        answers = await self._gate.through("resolve", self._log.resolve, commits)
        if True in answers:
            self._gate.marks.hit("commit_unknown_written")
        return answers

    async def save_snapshot(self, book: str, snapshot: Snapshot, epoch: int, owner: str) -> None:
        """See ``Log``."""
        await self._gate.through(
            "save_snapshot", self._log.save_snapshot, book, snapshot, epoch, owner
        )

    async def trim(self, book: str) -> dict[StreamName, int]:
        """See ``Log``."""
        return await self._gate.through("trim", self._log.trim, book)

    async def read_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, wait_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """See ``Log``."""
        call = self._log.read_actions
        return self._hold(
            await self._gate.through("read_actions", call, stream, books, consumer, count, wait_s)
        )

    async def claim_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, idle_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """See ``Log``."""
        call = self._log.claim_actions
        return self._hold(
            await self._gate.through("claim_actions", call, stream, books, consumer, count, idle_s)
        )

    async def keep_claim(
        self, stream: ActionStream, book: str, consumer: str, ids: Sequence[str]
    ) -> None:
        """See ``Log``."""
        await self._gate.through("keep_claim", self._log.keep_claim, stream, book, consumer, ids)

    async def finish_actions(
        self,
        stream: ActionStream,
        book: str,
        finished: Sequence[tuple[str, NewInput | None]],
        dead_letters: Sequence[DeadLetter] = (),
    ) -> None:
        """See ``Log``."""
        try:
            await self._gate.through(
                "finish_actions", self._log.finish_actions, stream, book, finished, dead_letters
            )
        except ForeignDataError:
            self._let_go(book, finished)  # given up: it stays pending, for whoever claims it
            raise
        self._let_go(book, finished)

    async def aclose(self) -> None:
        """See ``Log``."""
        await self._log.aclose()


class GatedProvider:
    """The port ``Provider`` as a process sees it.

    Args:
      provider: The world's.
      gate: The process's.
      bound: Of the calls that it has under way.
    """

    def __init__(self, provider: Provider, gate: Gate, bound: Bound | None = None) -> None:
        self._provider = provider
        self._gate = gate
        self._bound = bound
        self._under_way = 0

    async def _through(
        self, what: str, call: Callable[[Unpack[_Args]], Awaitable[_T]], *args: *_Args
    ) -> _T:
        self._under_way += 1
        if self._bound is not None:
            self._bound.see(self._under_way)
        try:
            return await self._gate.through(what, call, *args)
        finally:
            self._under_way -= 1

    async def preauthorize(
        self, payment: str, amount_cents: int, currency: str, customer: str, key: str
    ) -> ProviderAnswer:
        """See ``Provider``."""
        call = self._provider.preauthorize
        return await self._through(
            "preauthorize", call, payment, amount_cents, currency, customer, key
        )

    async def capture(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        """See ``Provider``."""
        call = self._provider.capture
        return await self._through("capture", call, payment, amount_cents, key)

    async def void(self, payment: str, key: str) -> ProviderAnswer:
        """See ``Provider``."""
        return await self._through("void", self._provider.void, payment, key)

    async def refund(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        """See ``Provider``."""
        call = self._provider.refund
        return await self._through("refund", call, payment, amount_cents, key)

    async def status(self, payment: str) -> ProviderAnswer:
        """See ``Provider``."""
        return await self._through("status", self._provider.status, payment)

    async def ledger(self, prefix: str = "") -> dict[str, ProviderAnswer]:
        """See ``Provider``."""
        return await self._through("ledger", self._provider.ledger, prefix)

    async def aclose(self) -> None:
        """See ``Provider``."""
        await self._provider.aclose()


class GatedMailer:
    """The port ``Mailer`` as a process sees it."""

    def __init__(self, mailer: Mailer, gate: Gate) -> None:
        self._mailer = mailer
        self._gate = gate

    async def deliver(self, message: Message) -> bool:
        """See ``Mailer``."""
        return await self._gate.through("deliver", self._mailer.deliver, message)
