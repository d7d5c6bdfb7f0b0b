"""A process's connection to the simulated server: the port ``Log``, with all that a wire does to it.

It fails as ``RedisLog`` fails, since the actors are written for that: a read is tried once more on a new
connection; an append, a finish or a takeover whose answer was lost is a ``ConnectionLostError`` (of
``LogUnavailableError``), whether it had its effect or not; a commit is resolved by the very code of
production; attempts to connect pace themselves with a growing pause.

What befalls a request is keyed by the operation, the process and the number of its call, so that taking
one event out of a run leaves the others as they were.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio

from holdfast.actors.ports import LogError, LogUnavailableError
from holdfast.transport.codec import check_finished, decode_input, encode_input
from holdfast.transport.commits import check_commit, write_commits
from holdfast.transport.connection import ConnectionLostError
from holdfast.transport.keys import book_keys, check_reading, format_id, parse_id
from holdfast.transport.memory_operator import Weight

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
    from holdfast.transport.memory_log import MemoryLog

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


class FaultyLog:
    """The port ``Log`` of one life of a process. :meth:`SimServer.connect` makes it.

    Args:
      server: Where it leads.
      process: The life's name.
    """

    def __init__(self, server: SimServer, process: str) -> None:
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

        return await self._attempt(call, effect)

    async def wait_books(self, known: int, wait_s: float) -> list[str]:
        """See ``Log``."""
        return await self._read("wait_books", wait_s, lambda: self._log.wait_books(known, wait_s))

    async def read_inputs(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[InputEntry]]:
        """See ``Log``."""
        check_reading(after, count)
        return await self._read(
            "read_inputs", wait_s, lambda: self._log.read_inputs(after, count, wait_s)
        )

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
        return await self._attempt(call, lambda _: self._log.take_over(book, owner, seen))

    async def commit(self, commits: Sequence[Commit]) -> list[LogError | None]:
        """See ``Log``."""
        for commit in commits:
            check_commit(commit)
            book_keys(commit.book)

        async def send(wanted: Sequence[int]) -> list[LogError | None]:
            chosen = [commits[index] for index in wanted]
            call = self._call("commit", "write", parts=len(chosen))
            return await self._attempt(call, lambda late: self._write(call, chosen, late))

        options = self._server.options
        return await write_commits(
            commits,
            send,
            self.resolve,
            resolve_s=options.resolve_s,
            pause_s=options.backoff_least_s,
        )

    async def _write(
        self, call: _Call, commits: Sequence[Commit], late: bool
    ) -> list[LogError | None]:
        """A pipeline of commits, of which the server may refuse some, and which may be cut."""
        server = self._server
        whole = self._cut(call)
        results: list[LogError | None] = []
        for number, commit in enumerate(commits[:whole]):
            share = server.faults.refuse_some if len(commits) > 1 else 0.0
            if server.draws.chance("server.refuse_some", share, *call.key, number):
                results.append(LogUnavailableError("committing: the server's memory is full"))
            else:
                results += await self._log.commit([commit])
        refused = sum(isinstance(result, LogUnavailableError) for result in results)
        if refused:
            server.counts.fire("refuse_some", str(call), mattered=refused < len(results))
        if whole < len(commits) and not late:
            raise self._lost("in the middle of a pipeline")
        return results

    async def resolve(self, commits: Sequence[Commit]) -> list[LogError | bool]:
        """See ``Log``."""
        for commit in commits:
            book_keys(commit.book)
        if not commits:
            return []
        return await self._read("resolve", 0, lambda: self._log.resolve(commits))

    async def save_snapshot(self, book: str, snapshot: Snapshot, epoch: int, owner: str) -> None:
        """See ``Log``."""
        book_keys(book)
        parse_id(snapshot.position)
        await self._again(
            "save_snapshot",
            "write",
            0,
            lambda _: self._log.save_snapshot(book, snapshot, epoch, owner),
        )

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

        return await self._again("read_actions", "light", wait_s, effect)

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

        return await self._again("claim_actions", "light", 0, effect)

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
        call = self._call(op, weight, wait_s)
        try:
            return await self._attempt(call, effect)
        except ConnectionLostError as lost:
            if not lost.sent:
                raise
        return await self._attempt(msgspec.structs.replace(call, attempt=2), effect)

    async def _attempt(self, call: _Call, effect: Callable[[bool], Awaitable[_T]]) -> _T:
        """One request and its answer.

        Args:
          call: Which one.
          effect: Carries it out on the server; its argument tells whether nobody waits for it.

        Raises:
          ConnectionLostError: The connection broke, or there is none.
          LogUnavailableError: The server refused it.
        """
        await self._hang_if_dead()
        try:
            if self._server.healed and self._connected and self._log is self._server.log:
                answer = await effect(False)  # nothing befalls anybody any more
            else:
                answer = await self._attempt_alive(call, effect)
        except LogError:
            await trio.lowlevel.checkpoint()  # whoever tries again at once lets others run
            await self._hang_if_dead()
            raise
        await self._hang_if_dead()
        return answer

    async def _attempt_alive(self, call: _Call, effect: Callable[[bool], Awaitable[_T]]) -> _T:
        await self._connect()
        server = self._server
        if self._log is not server.log and call.weight != "read":
            server.counts.matter("old_primary")
        with trio.CancelScope() as scope:
            number = server.opened(scope)
            try:
                return await self._exchange(call, effect)
            except ConnectionLostError:
                self._connected = False
                raise
            finally:
                server.closed(number)
        # Only the server cancels this scope.
        self._connected = False
        server.counts.matter(server.why_broken)
        raise self._lost("by the server")

    async def _exchange(self, call: _Call, effect: Callable[[bool], Awaitable[_T]]) -> _T:
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
