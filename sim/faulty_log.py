"""A process's connection to the simulated server: the port ``Log``, with all that a wire does to it.

It fails as ``RedisLog`` fails, since the actors are written for that: a read is tried once more on a new
connection; an append, a finish or a takeover whose answer was lost is a ``ConnectionLostError`` (of
``LogUnavailableError``), whether it had its effect or not; a commit is resolved by the very code of
production; attempts to connect pace themselves with a growing pause. Who waits for replicas, and who
notices a lost tail, is the production's code too: ``Copies`` and ``TailWatch``.

What befalls a request is keyed by the operation, the process and the number of its call, so that taking
one event out of a run leaves the others as they were.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio

from holdfast.actors.ports import (
    GENESIS,
    LogError,
    LogUnavailableError,
    TailLostError,
)
from holdfast.sim import tails
from holdfast.transport.codec import check_finished, decode_input, encode_input
from holdfast.transport.commits import check_commit, superseded, write_commits
from holdfast.transport.connection import ConnectionLostError
from holdfast.transport.durability import Copies
from holdfast.transport.keys import book_keys, check_reading, format_id, parse_id
from holdfast.transport.memory_log import MemoryLog
from holdfast.transport.memory_operator import Weight
from holdfast.transport.tails import TailWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from holdfast.actors.ports import (
        ActionEntry,
        ActionStream,
        Commit,
        CommitRecord,
        DeadLetter,
        InputEntry,
        NewInput,
        OutcomeEntry,
        Snapshot,
        StreamFacts,
        StreamName,
    )
    from holdfast.sim.server import SimServer
    from holdfast.transport.connection import Command, Reply

_T = TypeVar("_T")

_REFUSES: Final[Mapping[str, tuple[Weight, ...]]] = {
    "OOM": ("write",),
    "READONLY": ("light", "write"),
    "MISCONF": ("light", "write"),
    "LOADING": ("read", "light", "write"),
}

_SHORT_MAX: Final = 3
"""A batch that is cut has so many entries at most."""

FOREIGN_ENTRIES: Final[tuple[tuple[bytes, ...], ...]] = (
    (b"hello", b"world"),
    (b"type", b"cancel"),
    (b"type", b"cancel", b"type", b"cancel", b"body", b"{}"),
    (b"type", b"cancel", b"body", b"\xff\xfe"),
    (b"type", b"cancel", b"body", b"not JSON", b"key", b"k", b"by", b"customer:K1"),
    (b"type", b"cancel", b"body", b"x" * 65_537, b"key", b"k", b"by", b"customer:K1"),
    (b"type", b"no_such_command", b"body", b"{}", b"key", b"k", b"by", b"customer:K1"),
)
"""Entries that somebody may write to the inputs and that are none."""


class _Call(msgspec.Struct, frozen=True):
    """One attempt at a request; what keys its draws."""

    op: str
    process: str
    number: int
    attempt: int
    weight: Weight
    timeout_s: float
    parts: int = 1

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What tells it from all others."""
        return self.op, self.process, self.number, self.attempt

    def __str__(self) -> str:
        return f"{self.process} {self.op} {self.number}"


class _Written(msgspec.Struct):
    """What the server answers to a pipeline of writes with a wait for copies behind them.

    Attributes:
      log: Where they were written.
      wrote: Whether anything was written: a wait behind nothing says that all replicas have it.
      results: To each commit.
      before: Whether one of them was written by an earlier attempt.
      copies: How many replicas have what was written.
    """

    log: MemoryLog
    wrote: bool
    results: list[LogError | None] = []
    before: bool = False
    copies: int = 0


class _NoWatch(TailWatch):
    """Of a client that is none of ours, and remembers nothing."""

    async def saw(self, book: str, inputs: str = GENESIS, decided: str = GENESIS) -> None:
        """Forget it."""


class FaultyLog:
    """The port ``Log`` of one life of a process. :meth:`SimServer.connect` makes it.

    Args:
      server: Where it leads.
      process: The life's name.
      watched: Whether it watches for lost tails, as our own processes do.

    Attributes:
      losses: How many connections were lost.
    """

    def __init__(self, server: SimServer, process: str, *, watched: bool = True) -> None:
        self._server = server
        self._process = process
        self._numbers: dict[str, int] = {}
        self._connected = True
        self._failures = 0
        self._not_before = -math.inf
        self._dead = False
        self._log: MemoryLog = server.log
        self.on_request: Callable[[str, Weight], None] | None = None
        """Called with the operation and its weight, before each request."""
        self._cut_off = self._draw_partition()
        self._copies = Copies(server.options.replicas_min, server.options.replicas_s)
        self.losses = 0
        self._tails = TailWatch(self) if watched else _NoWatch(self)
        self._broken = server.connections

    def kill(self) -> None:
        """The process is dead: no call of it completes from now on.

        A request on its way may have its effect or not; whoever ends the process cancels its tasks.
        """
        self._dead = True

    # -- the port ------------------------------------------------------------

    async def append(self, book: str, inputs: Sequence[NewInput]) -> list[str]:
        """See ``Log``."""
        book_keys(book)
        for new in inputs:
            encode_input(new)
        if not inputs:
            return []
        call = self._call("append", "write", parts=len(inputs))

        async def effect(late: bool) -> list[str]:
            self._write_foreign(book, call)
            whole = self._cut(call)
            ids = await self._log.append(book, inputs[:whole])
            if whole < len(inputs) and not late:
                raise self._lost("in the middle of a pipeline")
            return ids

        ids = await self._attempt(call, effect)
        await self._tails.saw(book, ids[-1])
        return ids

    async def wait_books(self, known: int, wait_s: float) -> list[str]:
        """See ``Log``."""
        return await self._read("wait_books", wait_s, lambda: self._log.wait_books(known, wait_s))

    async def read_inputs(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[InputEntry]]:
        """See ``Log``."""
        check_reading(after, count)
        await self._tails.look()
        self._tails.refuse_lost(after)
        found = await self._read(
            "read_inputs", wait_s, lambda: self._log.read_inputs(after, count, wait_s)
        )
        for book, entries in found.items():
            await self._tails.saw(book, entries[-1].id)
        return found

    async def read_outcomes(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[OutcomeEntry]]:
        """See ``Log``."""
        check_reading(after, count)
        return await self._read(
            "read_outcomes", wait_s, lambda: self._log.read_outcomes(after, count, wait_s)
        )

    async def read_record(self, book: str) -> CommitRecord:
        """See ``Log``."""
        book_keys(book)
        return await self._read("read_record", 0, lambda: self._log.read_record(book))

    async def read_records(self, books: Sequence[str]) -> list[CommitRecord]:
        """See ``Log``."""
        for book in books:
            book_keys(book)
        return await self._read("read_records", 0, lambda: self._log.read_records(books))

    async def read_snapshot(self, book: str) -> Snapshot | None:
        """See ``Log``."""
        book_keys(book)
        return await self._read("read_snapshot", 0, lambda: self._log.read_snapshot(book))

    async def facts(self, book: str, stream: StreamName) -> StreamFacts:
        """See ``Log``."""
        book_keys(book)
        return await self._read("facts", 0, lambda: self._log.facts(book, stream))

    async def hold_lease(self, owner: str, place: str, lease_s: float) -> None:
        """See ``Log``."""
        await self._again(
            "hold_lease", "write", 0, lambda _: self._log.hold_lease(owner, place, lease_s)
        )

    async def drop_lease(self, owner: str) -> None:
        """See ``Log``."""
        await self._again("drop_lease", "light", 0, lambda _: self._log.drop_lease(owner))

    async def read_leases(self, owners: Sequence[str]) -> dict[str, str]:
        """See ``Log``."""
        held = await self._read("read_leases", 0, lambda: self._log.read_leases(owners))
        for owner in owners:
            if owner not in held and owner in self._server.evicted:
                del self._server.evicted[owner]
                self._server.counts.matter("evicted")
        return held

    async def take_over(self, book: str, owner: str, seen: int | None = None) -> CommitRecord:
        """See ``Log``."""
        book_keys(book)
        call = self._call("take_over", "write")
        record = await self._attempt(call, lambda _: self._log.take_over(book, owner, seen))
        await self._tails.saw(book, record.position, record.position)
        return record

    async def commit(self, commits: Sequence[Commit]) -> list[LogError | None]:
        """See ``Log``."""
        for commit in commits:
            check_commit(commit)
            book_keys(commit.book)
        await self._tails.look()
        asks = self._tails.commands()

        async def send(wanted: Sequence[int]) -> list[LogError | None]:
            chosen = [commits[index] for index in wanted]
            call = self._call("commit", "write", parts=len(chosen))
            written = await self._attempt(
                call,
                lambda late: self._write(call, chosen, late),
                lambda written: self._wait_copies(call, written),
            )
            if asks:
                history = self._server.history_of(written.log)
                self._tails.remember(tails.describe(history, written.log))
            if self._copies.wanted and None in written.results:
                self._copies.check_commits(written.copies, before=written.before)
            return written.results

        options = self._server.options
        results = await write_commits(
            commits,
            send,
            self.resolve,
            resolve_s=options.resolve_s,
            pause_s=options.backoff_least_s,
        )
        await self._know_written(
            [one for one, result in zip(commits, results, strict=True) if result is None]
        )
        await self._report_loss(results)
        return results

    async def _report_loss(self, answers: Sequence[object]) -> None:
        """Report the range before somebody learns of a loss who ends for it, and forgets."""
        if any(isinstance(answer, TailLostError) for answer in answers):
            await self._tails.look()

    async def _know_written(self, commits: Sequence[Commit]) -> None:
        """*commits* are written: whoever made them is told so."""
        for commit in commits:
            await self._tails.saw(commit.book, commit.position, commit.position)
            if self._server.on_written is not None:
                self._server.on_written(self._process, commit)

    async def _wait_copies(self, call: _Call, written: _Written) -> None:
        if not written.wrote:
            written.copies = self._copies.wanted
        elif self._copies.wanted:
            replicas = self._server.replicas
            written.copies = await replicas.wait(written.log, self._copies.wait_s, *call.key)
            if not written.copies and call.op == "commit":
                self._server.mark("copies_late")

    async def _write(self, call: _Call, commits: Sequence[Commit], late: bool) -> _Written:
        """A pipeline of commits, of which the server may refuse some, and which may be cut."""
        server, log = self._server, self._log
        whole = self._cut(call)
        before = [log.book(one.book).record.position == one.position for one in commits[:whole]]
        results: list[LogError | None] = []
        for number, commit in enumerate(commits[:whole]):
            share = server.faults.refuse_some if len(commits) > 1 else 0.0
            if server.draws.chance("server.refuse_some", share, *call.key, number):
                results.append(LogUnavailableError("committing: the server's memory is full"))
            else:
                results += await log.commit([commit])
        refused = sum(isinstance(result, LogUnavailableError) for result in results)
        if refused:
            server.counts.fire("refuse_some", str(call), mattered=refused < len(results))
        if whole < len(commits) and not late:
            raise self._lost("in the middle of a pipeline")
        wrote = [
            result is None and not known for result, known in zip(results, before, strict=True)
        ]
        found = None in results and any(before)
        return _Written(log, any(wrote), results, before=found)

    async def resolve(self, commits: Sequence[Commit]) -> list[LogError | bool]:
        """See ``Log``."""
        for commit in commits:
            book_keys(commit.book)
        if not commits:
            return []
        await self._tails.look()
        answers = await self._read("resolve", 0, lambda: self._log.resolve(commits))
        if self._copies.wanted and True in answers:
            answers = await self._confirmed_commits(commits, answers)
        await self._know_written(
            [one for one, answer in zip(commits, answers, strict=True) if answer is True]
        )
        await self._report_loss(answers)
        return answers

    async def _confirmed_commits(
        self, commits: Sequence[Commit], answers: Sequence[LogError | bool]
    ) -> list[LogError | bool]:
        """*answers*, once replicas have those that are written: a write is made to be waited for."""
        call = self._call("confirm", "write")

        async def effect(late: bool) -> _Written:
            del late
            log = self._log
            await trio.lowlevel.checkpoint()
            results: list[LogError | None] = []
            for commit, answer in zip(commits, answers, strict=True):
                record = log.book(commit.book).record
                ours = (record.epoch, record.owner) == (commit.epoch, commit.owner)
                if answer is not True or (ours and record.position == commit.position):
                    results.append(None)
                elif ours:
                    raise LogUnavailableError(f"{commit.book} went back meanwhile")
                else:
                    results.append(superseded(commit.book, commit.epoch, record.epoch))
            return _Written(log, None in results, results)

        written = await self._twice(call, effect, lambda one: self._wait_copies(call, one))
        found = [refused or known for known, refused in zip(answers, written.results, strict=True)]
        if True in found:
            self._copies.check(written.copies)
        return found

    async def save_snapshot(self, book: str, snapshot: Snapshot, epoch: int, owner: str) -> None:
        """See ``Log``."""
        book_keys(book)
        parse_id(snapshot.position)
        try:
            await self._again(
                "save_snapshot",
                "write",
                0,
                lambda _: self._log.save_snapshot(book, snapshot, epoch, owner),
            )
        except TailLostError as error:
            await self._report_loss([error])
            raise

    async def trim(self, book: str) -> dict[StreamName, int]:
        """See ``Log``."""
        book_keys(book)
        return await self._again("trim", "light", 0, lambda _: self._log.trim(book))

    async def read_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, wait_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """See ``Log``."""
        for book in books:
            book_keys(book)
        key = ("read_actions", self._process, self._numbers.get("read_actions", 0) + 1)

        async def effect(late: bool) -> list[tuple[str, ActionEntry]]:
            self._trouble_groups(stream, books, key)
            wanted = self._shorten(count, key)
            # A server gives nothing to a client that is gone by the time there is something.
            found = await self._log.read_actions(
                stream, books, consumer, wanted, 0 if late else wait_s
            )
            if 0 < len(found) == wanted < count:
                self._server.counts.fire("short", " ".join(map(str, key)), mattered=True)
            return found

        found = await self._again("read_actions", "light", wait_s, effect)
        return await self._confirmed_actions(stream, consumer, found)

    async def claim_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, idle_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """See ``Log``."""
        for book in books:
            book_keys(book)
        key = ("claim_actions", self._process, self._numbers.get("claim_actions", 0) + 1)

        async def effect(late: bool) -> list[tuple[str, ActionEntry]]:
            del late
            least_s = self._claim_idle_s(stream, books, idle_s, key)
            found = await self._log.claim_actions(stream, books, consumer, count, least_s)
            return self._reordered(found, key)

        found = await self._again("claim_actions", "light", 0, effect)
        return await self._confirmed_actions(stream, consumer, found)

    async def _confirmed_actions(
        self, stream: ActionStream, consumer: str, found: list[tuple[str, ActionEntry]]
    ) -> list[tuple[str, ActionEntry]]:
        """*found*, once replicas have all that came before; their claim is renewed to wait for."""
        if not self._copies.wanted or not found:
            return found
        server = self._server
        ours: dict[tuple[str, str], None] = {}

        async def keep() -> int | None:
            call = self._call("confirm_actions", "light")
            kept = await self._twice(call, effect, lambda one: self._wait_copies(call, one))
            return kept.copies if kept.wrote else None

        async def effect(late: bool) -> _Written:
            del late
            log = self._log
            ours.clear()
            for book, entry in found:
                group = log.book(book).actions(stream).groups.get(stream)
                pending = group.pending.get(parse_id(entry.id)) if group is not None else None
                if pending is not None and pending.consumer == consumer:
                    ours[book, entry.id] = None
                await log.keep_claim(stream, book, consumer, [entry.id])
            return _Written(log, bool(ours))

        server.mark("copies_executor")
        try:
            await self._copies.until_copied(keep, server.options.resolve_s)
        except LogUnavailableError:
            server.mark("copies_executor_refused")
            raise
        finally:
            if any(not self._is_there(stream, book, entry.id) for book, entry in found):
                server.mark("copies_action_forgotten")
        return [(book, entry) for book, entry in found if (book, entry.id) in ours]

    def _is_there(self, stream: ActionStream, book: str, entry_id: str) -> bool:
        return self._server.log.book(book).actions(stream).get(parse_id(entry_id)) is not None

    async def keep_claim(
        self, stream: ActionStream, book: str, consumer: str, ids: Sequence[str]
    ) -> None:
        """See ``Log``."""
        book_keys(book)
        for id_ in ids:
            parse_id(id_)
        if ids:
            await self._again(
                "keep_claim",
                "light",
                0,
                lambda _: self._log.keep_claim(stream, book, consumer, ids),
            )

    async def finish_actions(
        self,
        stream: ActionStream,
        book: str,
        finished: Sequence[tuple[str, NewInput | None]],
        dead_letters: Sequence[DeadLetter] = (),
    ) -> None:
        """See ``Log``."""
        check_finished(finished)
        if not finished and not dead_letters:
            return
        book_keys(book)
        await self._attempt(
            self._call("finish_actions", "write"),
            lambda _: self._log.finish_actions(stream, book, finished, dead_letters),
        )

    async def aclose(self) -> None:
        """See ``Log``."""
        await trio.lowlevel.checkpoint()

    async def request(
        self, op: str, weight: Weight, ask: Callable[[MemoryLog], _T], *, again: bool = False
    ) -> _T:
        """A request beside the port: what *ask* does on the log, in one step.

        Args:
          op: Its name.
          weight: What it does to the server.
          ask: Runs without a pause.
          again: Whether it is made once more where the first one is lost.
        """

        async def effect(late: bool) -> _T:
            del late
            await trio.lowlevel.checkpoint()
            return ask(self._log)

        if again:
            return await self._again(op, weight, 0, effect)
        return await self._attempt(self._call(op, weight), effect)

    # -- for the watch -------------------------------------------------------

    async def run(self, commands: Sequence[Command], *, again: bool = False) -> list[Reply]:
        """See ``transport.tails.Asked``."""
        report = tails.lost_tail(commands[0])
        server = self._server

        async def look(late: bool) -> list[Reply]:
            del late
            await trio.lowlevel.checkpoint()
            if report is not None:
                if server.on_lost_tail is not None:
                    server.on_lost_tail(self._process, report)
                return [b"0-0"]
            history = server.history_of(self._log)
            return [tails.answer(self._log, history, command) for command in commands]

        call = self._call("look", "read") if report is None else self._call("report", "write")
        return await (self._twice(call, look) if again else self._attempt(call, look))

    # -- a request -----------------------------------------------------------

    def _call(self, op: str, weight: Weight, wait_s: float = 0, parts: int = 1) -> _Call:
        if self.on_request is not None:
            self.on_request(op, weight)
        number = self._numbers.get(op, 0) + 1
        self._numbers[op] = number
        timeout_s = self._server.options.reply_s + max(0.0, wait_s)
        return _Call(op, self._process, number, 1, weight, timeout_s, parts)

    async def _read(self, op: str, wait_s: float, read: Callable[[], Awaitable[_T]]) -> _T:
        return await self._again(op, "read", wait_s, lambda _: read())

    async def _again(
        self, op: str, weight: Weight, wait_s: float, effect: Callable[[bool], Awaitable[_T]]
    ) -> _T:
        """A request that is made once more, on a new connection, where the first one is lost."""
        return await self._twice(self._call(op, weight, wait_s), effect)

    async def _twice(
        self,
        call: _Call,
        effect: Callable[[bool], Awaitable[_T]],
        behind: Callable[[_T], Awaitable[None]] | None = None,
    ) -> _T:
        try:
            return await self._attempt(call, effect, behind)
        except ConnectionLostError as lost:
            if not lost.sent:
                raise
        return await self._attempt(msgspec.structs.replace(call, attempt=2), effect, behind)

    async def _attempt(
        self,
        call: _Call,
        effect: Callable[[bool], Awaitable[_T]],
        behind: Callable[[_T], Awaitable[None]] | None = None,
    ) -> _T:
        """One request and its answer.

        Args:
          call: Which one.
          effect: Carries it out on the server; its argument tells whether nobody waits for it.
          behind: What the server waits for behind that, in the same pipeline.

        Raises:
          ConnectionLostError: The connection broke, or there is none.
          LogUnavailableError: The server refused it.
        """
        await self._hang_if_dead()
        try:
            server = self._server
            whole = self._connected and self._broken == server.connections
            if server.healed and whole and self._log is server.log:
                answer = await effect(False)  # nothing befalls anybody any more
                if behind is not None:
                    await behind(answer)
            else:
                answer = await self._attempt_alive(call, effect, behind)
        except LogError:
            await trio.lowlevel.checkpoint()  # whoever tries again at once lets others run
            await self._hang_if_dead()
            raise
        await self._hang_if_dead()
        return answer

    async def _attempt_alive(
        self,
        call: _Call,
        effect: Callable[[bool], Awaitable[_T]],
        behind: Callable[[_T], Awaitable[None]] | None,
    ) -> _T:
        await self._connect()
        server = self._server
        if self._log is not server.log and call.weight != "read":
            server.counts.matter("old_primary")
        with trio.CancelScope() as scope:
            number = server.opened(scope)
            try:
                return await self._exchange(call, effect, behind)
            except ConnectionLostError:
                self._connected = False
                self._lose_connection()
                raise
            finally:
                server.closed(number)
        # Only the server cancels this scope.
        self._connected = False
        self._lose_connection()
        server.counts.matter(server.why_broken)
        raise self._lost("by the server")

    async def _exchange(
        self,
        call: _Call,
        effect: Callable[[bool], Awaitable[_T]],
        behind: Callable[[_T], Awaitable[None]] | None,
    ) -> _T:
        fault = self._fault(call)
        left_ms = self._latency_ms("request", call)
        begun = trio.current_time()
        done = call.weight == "read"
        try:
            if left_ms:
                await self._server.clock.sleep(left_ms / 1000)
            if self._dead and not done:
                done = True
                self._leave_in_flight(call, effect, 0)
            await self._hang_if_dead()
            if fault == "drop_before":
                done = True
                raise self._lost("before the request arrived")
            if fault in ("silent", "partition"):
                done = True  # its effect comes by itself, or never
                await self._silence(call, effect, fault)
            self._refuse(call)
            # A read that waits for actions has no effect where its client goes away meanwhile.
            done = done or call.timeout_s > self._server.options.reply_s
            answer = await effect(False)
            done = True
            if behind is not None:
                await behind(answer)
            if fault == "drop_after":
                raise self._lost("before the answer arrived")
            answer_ms = self._latency_ms("answer", call)
            if answer_ms:
                await self._server.clock.sleep(answer_ms / 1000)
            return answer
        except trio.Cancelled:
            if not done:
                spent_ms = round((trio.current_time() - begun) * 1000)
                self._leave_in_flight(call, effect, max(0, left_ms - spent_ms))
            raise

    def _leave_in_flight(
        self, call: _Call, effect: Callable[[bool], Awaitable[_T]], delay_ms: int
    ) -> None:
        """The client is gone with its request on the wire: it may still have its effect."""
        server = self._server
        if server.draws.chance("wire.in_flight", server.faults.in_flight, *call.key):
            server.arrive_later(delay_ms, "in_flight", lambda: effect(True), str(call))

    async def _silence(
        self, call: _Call, effect: Callable[[bool], Awaitable[_T]], fault: str
    ) -> None:
        """No answer comes, until the client gives up."""
        server = self._server
        if fault == "silent" and call.weight != "read":
            late_ms = server.draws.below("wire.late_ms", server.faults.late_s_max * 1000, *call.key)
            server.arrive_later(late_ms, "silent", lambda: effect(True), str(call))
        elif fault == "silent":
            server.counts.fire("silent", str(call))
        elif self._cut_off is not None and self._cut_off[2] and call.weight != "read":
            server.arrive_later(0, "partition", lambda: effect(True), str(call))
        await trio.sleep(call.timeout_s)
        raise self._lost("without an answer")

    def _fault(self, call: _Call) -> str:
        server = self._server
        if self._is_cut_off():
            server.counts.fire("partition", str(call), mattered=True)
            return "partition"
        faults = server.faults
        for kind, share in (
            ("drop_before", faults.drop_before),
            ("drop_after", faults.drop_after),
            ("silent", faults.silent),
        ):
            if server.draws.chance(f"wire.{kind}", share, *call.key):
                if kind != "silent":
                    server.counts.fire(kind, str(call), mattered=call.weight != "read")
                return kind
        return ""

    def _latency_ms(self, side: str, call: _Call) -> int:
        server = self._server
        faults = server.faults
        latency_ms = server.draws.below(f"wire.{side}_ms", faults.latency_ms_max + 1, *call.key)
        if server.draws.chance(f"wire.slow_{side}", faults.slow, *call.key):
            bound = max(1, faults.slow_ms_max)
            latency_ms += 1 + server.draws.below(f"wire.slow_{side}_ms", bound, *call.key)
            server.counts.fire("slow", str(call))
        return latency_ms

    def _refuse(self, call: _Call) -> None:
        kind = self._server.refusal()
        if kind is not None and call.weight in _REFUSES[kind]:
            self._server.counts.matter("refusing")
            raise LogUnavailableError(f"{call.op}: the server answers {kind}: try again later")

    def _cut(self, call: _Call) -> int:
        """How much of a pipeline the server gets."""
        server = self._server
        if call.parts < 2 or not server.draws.chance("wire.cut", server.faults.cut, *call.key):
            return call.parts
        whole = server.draws.below("wire.cut_at", call.parts, *call.key)
        server.counts.fire("cut", f"{call} after {whole} of {call.parts}", mattered=whole > 0)
        return whole

    def _lost(self, when: str) -> ConnectionLostError:
        return ConnectionLostError(f"the connection was lost {when}", sent=True)

    async def _hang_if_dead(self) -> None:
        if self._dead:
            await trio.sleep_forever()

    # -- connecting ----------------------------------------------------------

    async def _connect(self) -> None:
        """Have a connection; the pauses between attempts are those of ``transport.pool``."""
        server = self._server
        options = server.options
        if self._broken != server.connections:
            self._lose_connection()  # while nothing was on its way
        if self._failures:
            await self._server.clock.sleep(self._not_before - trio.current_time())
        log = server.log_of(self._process)
        if log is not None and (self._connected or not self._is_cut_off()):
            if log is not self._log and log is not server.log:
                server.counts.fire("old_primary", self._process)
            self._log = log
            self._connected = True
            self._failures = 0
            return
        self._connected = False
        if log is None:
            server.counts.matter(server.why_broken)
        else:
            server.counts.fire("partition", f"{self._process} connects", mattered=True)
            await trio.sleep(options.connect_s)
        most = min(options.backoff_most_s, options.backoff_least_s * 2 ** min(self._failures, 30))
        self._failures += 1
        jitter = server.draws.below("wire.jitter", 1024, self._process, self._failures) / 1024
        self._not_before = trio.current_time() + most * (0.5 + jitter / 2)
        raise ConnectionLostError("the server cannot be reached", sent=False)

    def _lose_connection(self) -> None:
        self.losses += 1
        self._broken = self._server.connections

    def _draw_partition(self) -> tuple[int, int, bool] | None:
        """When this process is cut off from the server, and whether its requests still arrive."""
        server, name = self._server, self._process
        draws, faults = server.draws, server.faults
        if not draws.chance("wire.partition", faults.partition, name):
            return None
        span = max(1, faults.partitions.end_ms - faults.partitions.begin_ms)
        begin_ms = faults.partitions.begin_ms + draws.below("wire.partition_at", span, name)
        length_ms = 1 + draws.below("wire.partition_ms", faults.partition_ms_max, name)
        return begin_ms, begin_ms + length_ms, draws.chance("wire.answers_only", 0.5, name)

    def _is_cut_off(self) -> bool:
        if self._cut_off is None or not self._server.faults.partition:
            return False
        begin_ms, end_ms, _ = self._cut_off
        return begin_ms <= self._server.clock.now_ms() < end_ms

    # -- troubles of groups and inputs ---------------------------------------

    def _write_foreign(self, book: str, call: _Call) -> None:
        """Somebody writes to the inputs, just before us, what is none."""
        server = self._server
        if not server.draws.chance("inputs.foreign", server.faults.foreign, *call.key):
            return
        fields = server.draws.pick("inputs.foreign_fields", FOREIGN_ENTRIES, *call.key)
        stream = self._log.book(book).inputs
        if book not in self._log.registered or stream.foreign:
            return
        pair = stream.next_id(server.server_clock.now_ms())
        entry = decode_input(format_id(*pair).encode(), list(fields))
        stream.add(pair, entry)
        server.counts.fire("foreign", f"{book} {entry.id}", mattered=True)
        if server.on_foreign is not None and self._log is server.log:
            server.on_foreign(book, entry)
        self._log.ring(book, "inputs")

    def _trouble_groups(
        self, stream: ActionStream, books: Sequence[str], key: tuple[str, str, int]
    ) -> None:
        """An operator's hands, or a replica's old state, on the groups of *books*."""
        server = self._server
        draws, faults, counts = server.draws, server.faults, server.counts
        for book in books:
            actions = self._log.book(book).actions(stream)
            group = actions.groups.get(stream)
            if group is None:
                continue
            named = (*key, book)
            if draws.chance("groups.missing", faults.group_missing, *named):
                counts.fire("group_missing", book, mattered=bool(actions.ids))
                del actions.groups[stream]
                continue
            if draws.chance("groups.back", faults.group_back, *named):
                given = [id_ for id_ in actions.ids if id_ <= group.last]
                back = 1 + draws.below("groups.back_by", faults.group_back_max, *named)
                counts.fire("group_back", f"{book} by {back}", mattered=bool(given))
                group.last = given[-back - 1] if len(given) > back else (0, 0)
            if draws.chance("groups.consumer", faults.consumer_missing, *named):
                names = list(dict.fromkeys(one.consumer for one in group.pending.values()))
                if names:
                    gone = draws.pick("groups.consumer_name", names, *named)
                    counts.fire("consumer_missing", f"{book} {gone}", mattered=True)
                    for id_ in [i for i, one in group.pending.items() if one.consumer == gone]:
                        del group.pending[id_]

    def _shorten(self, count: int, key: tuple[str, str, int]) -> int:
        server = self._server
        if count < 2 or not server.draws.chance("groups.short", server.faults.short, *key):
            return count
        return 1 + server.draws.below("groups.short_to", min(count - 1, _SHORT_MAX), *key)

    def _claim_idle_s(
        self, stream: ActionStream, books: Sequence[str], idle_s: float, key: tuple[str, str, int]
    ) -> float:
        server = self._server
        if not server.draws.chance("groups.claim_early", server.faults.claim_early, *key):
            return idle_s
        now_ms = server.server_clock.now_ms()
        young = [
            one
            for book in books
            if (group := self._log.book(book).actions(stream).groups.get(stream)) is not None
            for one in group.pending.values()
            if now_ms - one.since_ms < idle_s * 1000
        ]
        server.counts.fire("claim_early", " ".join(map(str, key)), mattered=bool(young))
        return 0.0

    def _reordered(
        self, found: list[tuple[str, ActionEntry]], key: tuple[str, str, int]
    ) -> list[tuple[str, ActionEntry]]:
        server = self._server
        if len(found) < 2 or not server.draws.chance("groups.reorder", server.faults.reorder, *key):
            return found
        server.counts.fire("reorder", " ".join(map(str, key)), mattered=True)
        generator = server.draws.generator("groups.order", *key)
        return generator.sample(found, len(found))
