"""The simulated server: one log in memory, and everything that can happen to it.

The server is part of the world: it outlives the processes that use it. Each of them gets a connection of
its own, a ``FaultyLog`` over a ``Connection``, which is where the wire's faults are. Here is what happens
to the server itself: it is away, refuses, fails over to a replica that had not got the last writes, its
clock stands still. A differential test (``sim.differential``) holds the log underneath against a real
server.

A failover goes back to a copy that was made some time before: all books, groups and the registry as
they were at that moment, since a replica has a prefix of the primary's commands, nothing else.

Nothing polls: a read that waits is woken by what it waits for, or by the end of its connection.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol, get_args

import msgspec
import trio

from holdfast.actors.ports import Clock, StreamName
from holdfast.sim.faults import SERVER_FAULTS, ServerFaults
from holdfast.sim.faulty_log import FaultyLog
from holdfast.sim.replicas import Replicas
from holdfast.sim.tails import offset_of
from holdfast.transport.memory_log import MemoryBook, MemoryGroup, MemoryLog, MemoryStream
from holdfast.transport.pool import ServerOptions
from holdfast.transport.tails import History

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Any

    OnCommit = Callable[["Commit"], object]

    from holdfast.actors.ports import Commit, InputEntry, LogError
    from holdfast.sim.draws import Draws
    from holdfast.sim.faults import Failover, Refusal, Window
    from holdfast.transport.tails import LostTail


class SleepingClock(Clock, Protocol):
    """A clock that can be waited for; the world's needs no cancel scope for that."""

    async def sleep(self, seconds: float) -> None:
        """Wait *seconds*."""
        ...


class ServerClock:
    """The server's clock: the world's, but that it may stand still for a while and then jump on.

    Args:
      clock: The world's.
      still: When it does not move.
      on_still: Called whenever somebody asks it meanwhile.
    """

    def __init__(self, clock: Clock, still: Sequence[Window], on_still: Callable[[], None]) -> None:
        self._clock = clock
        self._on_still = on_still
        self.still = tuple(still)

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        now = self._clock.now_ms()
        for window in self.still:
            if window.holds(now):
                self._on_still()
                return window.begin_ms
        return now


class FaultCounts:
    """How often each kind of fault fired, and how often that made a difference that can be told.

    Args:
      on_fault: Called with the kind and details whenever one fires.
    """

    def __init__(self, on_fault: Callable[[str, str], object] | None = None) -> None:
        self.on_fault = on_fault
        self.fired: dict[str, int] = {}
        self.mattered: dict[str, int] = {}

    def fire(self, kind: str, details: str = "", *, mattered: bool = False) -> None:
        """Count a fault of *kind*, one of ``SERVER_FAULTS``."""
        assert kind in SERVER_FAULTS, kind
        self.fired[kind] = self.fired.get(kind, 0) + 1
        if mattered:
            self.matter(kind)
        if self.on_fault is not None:
            self.on_fault(kind, details)

    def matter(self, kind: str) -> None:
        """A fault of *kind*, which fired before, made a difference."""
        self.mattered[kind] = self.mattered.get(kind, 0) + 1


class _OldLog(MemoryLog):
    """What an old primary goes on with; nothing of it will last."""

    def __init__(
        self, log: MemoryLog, clock: Clock, history: History, on_commit: OnCommit | None
    ) -> None:
        super().__init__(clock)
        self.books, self.registered = log.books, log.registered
        self.leases = dict(log.leases)
        self.history = history
        self.decided: dict[str, None] = {}
        self._on_commit = on_commit

    def _commit(self, commit: Commit) -> LogError | None:
        refused = super()._commit(commit)
        if refused is None:
            self.decided[commit.book] = None
            if self._on_commit is not None:
                self._on_commit(commit)
        return refused


class SimServer:
    """The server of one world.

    Args:
      clock: The world's.
      draws: Where faults, latencies and choices come from.
      faults: How likely and how strong they are.
      nursery: The world's own, for what happens by itself. It must live longer than the processes.
      make_log: Makes the log, from the server's clock.
      options: The limits of the clients' connections, as in production.
      on_fault: Called with the kind and details of each fault that fires.
      on_foreign: Called with the book and the entry, when somebody wrote what is no input.
      on_failover: Called with the inputs that were lost, each with its book.
      on_old_commit: Called with each commit that an old primary took.
      on_written: Called with the process and the commit, when it is told that it is written.
      on_lost_tail: Called with the process and its report of what the log has lost.
      mark: Called with the name of what happened at least once.

    Attributes:
      log: The truth, for checks and for whoever is to see it without faults.
      counts: Faults by kind.
      healed: Whether all faults are over.
      connections: How often all connections broke; an older request's effect does not come any more.
      why_broken: By which kind of fault they broke last.
    """

    def __init__(
        self,
        clock: SleepingClock,
        draws: Draws,
        faults: ServerFaults,
        nursery: trio.Nursery,
        *,
        make_log: Callable[[Clock], MemoryLog] = MemoryLog,
        options: ServerOptions | None = None,
        on_fault: Callable[[str, str], object] | None = None,
        on_foreign: Callable[[str, InputEntry], object] | None = None,
        on_failover: Callable[[list[tuple[str, InputEntry]]], object] | None = None,
        on_old_commit: OnCommit | None = None,
        on_written: Callable[[str, Commit], object] | None = None,
        on_lost_tail: Callable[[str, LostTail], object] | None = None,
        mark: Callable[[str], object] | None = None,
    ) -> None:
        self.clock = clock
        self.draws = draws
        self.faults = faults
        self.options = options or ServerOptions()
        self.counts = FaultCounts(on_fault)
        self.server_clock = ServerClock(clock, faults.still, self._on_still)
        self.log = make_log(self.server_clock)
        self.on_foreign = on_foreign
        self.on_failover = on_failover
        self._on_old_commit = on_old_commit
        self.on_written = on_written
        self.on_lost_tail = on_lost_tail
        self._on_mark = mark
        self.replicas = Replicas(self)
        self._history = History("history-1")
        self._old: tuple[Failover, _OldLog] | None = None
        self.healed = False
        self.connections = 0
        self.why_broken = "away"
        self.evicted: dict[str, None] = {}
        """Whose leases vanished, until somebody misses one."""
        self.under_way = 0
        """Late effects that are still to come."""
        self._nursery = nursery
        self._down = 0
        self._open: dict[int, trio.CancelScope] = {}
        self._opened = 0
        self._was_still = False
        self._failed_over = MemoryLog(clock)
        """What there was right after the newest failover."""
        for window in faults.away:
            nursery.start_soon(self._go_away, window)
        for refusing in faults.refusing:
            nursery.start_soon(self._refuse, refusing.window, refusing.kind)
        for failover in faults.failovers:
            nursery.start_soon(self._fail_over, failover)
        if faults.evict_s:
            nursery.start_soon(self._evict, faults.evict_s)
        for restart in faults.restarts:
            nursery.start_soon(self._restart, restart)

    def connect(self, process: str) -> FaultyLog:
        """A connection for one life of a process; its name keys all that will happen to it."""
        return FaultyLog(self, process)

    def connect_client(self, name: str) -> FaultyLog:
        """A connection for somebody whose program is none of ours."""
        return FaultyLog(self, name, watched=False)

    def heal(self) -> None:
        """No fault begins from now on, and the server is there; what is on its way still arrives."""
        self.healed = True
        self.faults = self.faults.healed()
        self.server_clock.still = ()
        self._down = 0
        self._end_old()

    # -- for the connections -------------------------------------------------

    @property
    def is_away(self) -> bool:
        """Whether nobody can connect to the server that leads."""
        return self._down > 0

    def log_of(self, process: str) -> MemoryLog | None:
        """What *process* reaches: the log, or an old primary's; None where nobody answers."""
        if self._old is not None:
            failover, log = self._old
            share = self.faults.left_behind
            if self.draws.chance("server.left_behind", share, process, failover.at_ms):
                return log
        return None if self._down else self.log

    def history_of(self, log: MemoryLog) -> History:
        """Which history *log* goes on with; its offset is not in it."""
        return log.history if isinstance(log, _OldLog) else self._history

    def is_decided_apart(self, log: MemoryLog, book: str) -> bool:
        """Whether *log* is an old primary's, where somebody decides for *book* as if it were the new one."""
        return isinstance(log, _OldLog) and book in log.decided

    def mark(self, name: str) -> None:
        """Something happened at least once."""
        if self._on_mark is not None:
            self._on_mark(name)

    def refusal(self) -> Refusal | None:
        """What the server refuses requests with at this moment, if it does."""
        now = self.clock.now_ms()
        for refusing in self.faults.refusing:
            if refusing.window.holds(now):
                return refusing.kind
        return None

    def opened(self, scope: trio.CancelScope) -> int:
        """A request is under way within *scope*, which is cancelled if its connection breaks."""
        self._opened += 1
        self._open[self._opened] = scope
        return self._opened

    def closed(self, number: int) -> None:
        """The request that :meth:`opened` numbered is over."""
        self._open.pop(number, None)

    def arrive_later(
        self, delay_ms: int, kind: str, effect: Callable[[], Awaitable[object]], details: str
    ) -> None:
        """Let a request that nobody waits for any more have its effect after *delay_ms*."""
        self.under_way += 1
        self._nursery.start_soon(self._arrive, delay_ms, kind, effect, details, self.connections)

    async def _arrive(
        self,
        delay_ms: int,
        kind: str,
        effect: Callable[[], Awaitable[object]],
        details: str,
        connections: int,
    ) -> None:
        try:
            await trio.sleep(delay_ms / 1000)
            if self.connections != connections or self.is_away:
                return
            await effect()
        except Exception as error:  # nobody is there whom it could be told
            self.counts.fire(kind, f"{details}: {type(error).__name__}")
        else:
            self.counts.fire(kind, details, mattered=True)
        finally:
            self.under_way -= 1

    # -- what happens to it --------------------------------------------------

    async def _until(self, at_ms: int) -> None:
        await trio.sleep(max(0, at_ms - self.clock.now_ms()) / 1000)

    def _break_connections(self, why: str) -> None:
        self.connections += 1
        self.why_broken = why
        for scope in list(self._open.values()):
            scope.cancel()

    async def _go_away(self, window: Window) -> None:
        await self._until(window.begin_ms)
        if window not in self.faults.away:
            return
        self.counts.fire("away", f"for {window.end_ms - window.begin_ms} ms")
        self._down += 1
        self._break_connections("away")
        await self._until(window.end_ms)
        self._down = max(0, self._down - 1)

    async def _evict(self, every_s: int) -> None:
        for number in count():
            span_ms = 2000 * every_s
            await trio.sleep(self.draws.below("server.evict_ms", span_ms, number) / 1000)
            if self.healed:
                return
            # Always, but for a case that is made smaller.
            if self.draws.chance("server.evicts", 1.0, number) and self.log.leases:
                self.evicted.update(dict.fromkeys(self.log.leases))
                self.log.leases.clear()
                self.counts.fire("evicted")

    async def _refuse(self, window: Window, kind: Refusal) -> None:
        await self._until(window.begin_ms)
        if self.faults.refusing:
            self.counts.fire("refusing", f"{kind} for {window.end_ms - window.begin_ms} ms")
            if kind in ("LOADING", "READONLY"):  # it was restarted, or demoted
                self._break_connections("refusing")

    async def _fail_over(self, failover: Failover) -> None:
        replica = await self._left_of(failover)
        if failover not in self.faults.failovers:
            return
        if failover.old_ms and self.faults.left_behind:
            old = _OldLog(self.log, self.server_clock, self._history, self._on_old_commit)
            self._old = failover, old
            self._nursery.start_soon(self._outlive, failover)
        if self.replicas.awaited:
            self.mark("copies_failover")
        before = self._history
        if failover.old_file:
            self._history = History(f"{before.id}'")
        else:
            end = offset_of(replica[0]) + 1
            self._history = History(f"{before.id}+", before_id=before.id, before_end=end)
        self._go_back("old_file" if failover.old_file else "failover", replica)
        self._down += 1
        self._break_connections("failover")
        await self._until(failover.at_ms + failover.down_ms)
        self._down = max(0, self._down - 1)

    async def _restart(self, restart: Failover) -> None:
        """The server ends, and begins again from its file, which lacks the last second or two."""
        file = await self._left_of(restart)
        if restart not in self.faults.restarts:
            return
        self._history = History(f"{self._history.id}'")
        self._go_back("restart", file)
        self._down += 1
        self._break_connections("restart")
        await self._until(restart.at_ms + restart.down_ms)
        self._down = max(0, self._down - 1)

    async def _left_of(self, failover: Failover) -> Books:
        """Wait until *failover* happens: what there will be after it."""
        await self._until(failover.at_ms - failover.lost_ms)
        left, failed_over = copy_books(self.log), self._failed_over
        self.replicas.cut_off += 1
        await self._until(failover.at_ms)
        self.replicas.cut_off -= 1
        if self._failed_over is not failed_over:  # since then everybody follows the new primary
            left = copy_books(self._failed_over)
        return left

    def _go_back(self, kind: str, left: Books) -> None:
        """Go on with what is *left*."""
        lost = _lost(self.log, left)
        changed = _differ(self.log, left)
        self.log.books, self.log.registered = left
        self._failed_over = MemoryLog(self.clock)
        self._failed_over.books, self._failed_over.registered = copy_books(self.log)
        # The replica's clock moves: ids that were given out once must not come again.
        now = self.clock.now_ms()
        self.server_clock.still = tuple(w for w in self.server_clock.still if w.begin_ms > now)
        self.counts.fire(kind, f"{len(lost)} inputs lost", mattered=changed)
        if self.on_failover is not None:
            self.on_failover(lost)

    async def _outlive(self, failover: Failover) -> None:
        await self._until(failover.at_ms + failover.old_ms)
        if self._old is not None and self._old[0] is failover:
            self._end_old()

    def _end_old(self) -> None:
        """Nobody talks to an old primary any more."""
        if self._old is not None:
            self._old = None
            self._break_connections("old_primary")

    def _on_still(self) -> None:
        if not self._was_still:
            self._was_still = True
            self.counts.fire("still")
        self.counts.matter("still")


_STREAMS: Final[tuple[StreamName, ...]] = get_args(StreamName)

Books = tuple[dict[str, MemoryBook], list[str]]


def copy_books(log: MemoryLog) -> Books:
    """All that *log* holds, so that changing it leaves the copy as it is."""
    return {name: _copy_book(book) for name, book in log.books.items()}, list(log.registered)


def _copy_book(book: MemoryBook) -> MemoryBook:
    copy = MemoryBook()
    copy.inputs = _copy_stream(book.inputs)
    copy.outcomes = _copy_stream(book.outcomes)
    copy.payments = _copy_stream(book.payments)
    copy.notifications = _copy_stream(book.notifications)
    copy.deadletters = _copy_stream(book.deadletters)
    copy.record = book.record
    copy.snapshots = list(book.snapshots)
    copy.foreign = book.foreign
    copy.prepared = {name: _copy_stream(stream) for name, stream in book.prepared.items()}
    copy.wrote = dict(book.wrote)
    return copy


def _copy_stream(stream: MemoryStream[Any]) -> MemoryStream[Any]:
    copy: MemoryStream[Any] = MemoryStream()
    copy.ids = list(stream.ids)
    copy.entries = list(stream.entries)
    copy.last, copy.added, copy.deleted = stream.last, stream.added, stream.deleted
    copy.foreign = stream.foreign
    copy.groups = {
        name: MemoryGroup(
            group.last, {id_: msgspec.structs.replace(one) for id_, one in group.pending.items()}
        )
        for name, group in stream.groups.items()
    }
    return copy


def fingerprint(log: MemoryLog) -> str:
    """A digest of all that *log* holds, to the last byte."""
    digest = blake2b(digest_size=16)
    digest.update(msgspec.msgpack.encode(log.registered))
    empty = _content(MemoryBook())
    for name, book in log.books.items():
        content = _content(book)
        if content != empty:  # one that was only asked for is none
            digest.update(msgspec.msgpack.encode((name, content)))
    return digest.hexdigest()


def _content(book: MemoryBook) -> bytes:
    parts: list[object] = [book.record, book.snapshots, book.foreign]
    for stream in (*map(book.stream, _STREAMS), *book.prepared.values()):
        parts += [stream.ids, stream.entries, stream.last, stream.added, stream.deleted]
        parts += [stream.foreign]
        parts += [(name, of.last, list(of.pending.items())) for name, of in stream.groups.items()]
    return msgspec.msgpack.encode(parts)


def _lost(log: MemoryLog, replica: Books) -> list[tuple[str, InputEntry]]:
    """The inputs that *log* has and *replica* has not."""
    lost: list[tuple[str, InputEntry]] = []
    for name, book in log.books.items():
        kept = replica[0].get(name)
        end = kept.inputs.last if kept is not None else (0, 0)
        count = len(book.inputs.ids)
        lost += [(name, entry) for entry in book.inputs.after(end, count)]
    return lost


def _differ(log: MemoryLog, replica: Books) -> bool:
    """Whether going back to *replica* takes anything back."""
    books, registered = replica
    if registered != log.registered:
        return True
    return any(
        (kept := books.get(name)) is None
        or kept.record != book.record
        or kept.snapshots != book.snapshots
        or kept.inputs.last != book.inputs.last
        or kept.payments.groups != book.payments.groups
        or kept.notifications.groups != book.notifications.groups
        for name, book in log.books.items()
    )
