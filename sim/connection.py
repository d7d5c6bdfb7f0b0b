"""A process's connection to the simulated server: what a wire, and a server that has troubles, do to requests.

A request is tried once, or once more on a new connection; where its answer was lost it is a
``ConnectionLostError`` (of ``LogUnavailableError``), whether it had its effect or not; attempts to connect
pace themselves with a growing pause. All as the connections of ``transport`` do it, since the actors are
written for that.

What befalls a request is keyed by the operation, the process and the number of its call, so that taking
one event out of a run leaves the others as they were.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio

from holdfast.actors.ports import LogError, LogUnavailableError
from holdfast.transport.connection import ConnectionLostError
from holdfast.transport.memory_operator import Weight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from holdfast.sim.server import SimServer
    from holdfast.transport.memory_log import MemoryLog

_T = TypeVar("_T")

_REFUSES: Final[Mapping[str, tuple[Weight, ...]]] = {
    "OOM": ("write",),
    "READONLY": ("light", "write"),
    "MISCONF": ("light", "write"),
    "LOADING": ("read", "light", "write"),
}


class Call(msgspec.Struct, frozen=True):
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


class Connection:
    """Of one life of a process.

    Args:
      server: Where it leads.
      process: The life's name.

    Attributes:
      log: Of the server that the process was connected to last.
      losses: How many connections were lost.
      on_request: Called with the operation and its weight, before each request.
    """

    def __init__(self, server: SimServer, process: str) -> None:
        self._server = server
        self._process = process
        self.log: MemoryLog = server.log
        self.losses = 0
        self.on_request: Callable[[str, Weight], None] | None = None
        self._numbers: dict[str, int] = {}
        self._connected = True
        self._failures = 0
        self._not_before = -math.inf
        self._dead = False
        self._cut_off = self._draw_partition()
        self._broken = server.connections

    def kill(self) -> None:
        """The process is dead: no call of it completes from now on.

        A request on its way may have its effect or not; whoever ends the process cancels its tasks.
        """
        self._dead = True

    # -- a request -----------------------------------------------------------

    def number(self, op: str) -> int:
        """The next call's number among those of *op*."""
        return self._numbers.get(op, 0) + 1

    def call(self, op: str, weight: Weight, wait_s: float = 0, parts: int = 1) -> Call:
        """The next request for *op*, which waits up to *wait_s* on the server; its first attempt."""
        if self.on_request is not None:
            self.on_request(op, weight)
        number = self._numbers[op] = self.number(op)
        timeout_s = self._server.options.reply_s + max(0.0, wait_s)
        return Call(op, self._process, number, 1, weight, timeout_s, parts)

    async def again(
        self, op: str, weight: Weight, wait_s: float, effect: Callable[[bool], Awaitable[_T]]
    ) -> _T:
        """A request that is made once more, on a new connection, where the first one is lost."""
        return await self.twice(self.call(op, weight, wait_s), effect)

    async def twice(
        self,
        call: Call,
        effect: Callable[[bool], Awaitable[_T]],
        behind: Callable[[_T], Awaitable[None]] | None = None,
    ) -> _T:
        """The same; *call* and *behind* as of :meth:`once`."""
        try:
            return await self.once(call, effect, behind)
        except ConnectionLostError as lost:
            if not lost.sent:
                raise
        return await self.once(msgspec.structs.replace(call, attempt=2), effect, behind)

    async def once(
        self,
        call: Call,
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
            if server.healed and whole and self.log is server.log:
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
        call: Call,
        effect: Callable[[bool], Awaitable[_T]],
        behind: Callable[[_T], Awaitable[None]] | None,
    ) -> _T:
        await self._connect()
        server = self._server
        if self.log is not server.log and call.weight != "read":
            server.counts.matter("old_primary")
        with trio.CancelScope() as scope:
            number = server.opened(scope)
            try:
                return await self._exchange(call, effect, behind)
            except ConnectionLostError:
                self._connected = False
                self._lose()
                raise
            finally:
                server.closed(number)
        # Only the server cancels this scope.
        self._connected = False
        self._lose()
        server.counts.matter(server.why_broken)
        raise self.lost("by the server")

    async def _exchange(
        self,
        call: Call,
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
                raise self.lost("before the request arrived")
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
                raise self.lost("before the answer arrived")
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
        self, call: Call, effect: Callable[[bool], Awaitable[_T]], delay_ms: int
    ) -> None:
        """The client is gone with its request on the wire: it may still have its effect."""
        server = self._server
        if server.draws.chance("wire.in_flight", server.faults.in_flight, *call.key):
            server.arrive_later(delay_ms, "in_flight", lambda: effect(True), str(call))

    async def _silence(
        self, call: Call, effect: Callable[[bool], Awaitable[_T]], fault: str
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
        raise self.lost("without an answer")

    def _fault(self, call: Call) -> str:
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

    def _latency_ms(self, side: str, call: Call) -> int:
        server = self._server
        faults = server.faults
        latency_ms = server.draws.below(f"wire.{side}_ms", faults.latency_ms_max + 1, *call.key)
        if server.draws.chance(f"wire.slow_{side}", faults.slow, *call.key):
            bound = max(1, faults.slow_ms_max)
            latency_ms += 1 + server.draws.below(f"wire.slow_{side}_ms", bound, *call.key)
            server.counts.fire("slow", str(call))
        return latency_ms

    def _refuse(self, call: Call) -> None:
        kind = self._server.refusal()
        if kind is not None and call.weight in _REFUSES[kind]:
            self._server.counts.matter("refusing")
            raise LogUnavailableError(f"{call.op}: the server answers {kind}: try again later")

    def cut(self, call: Call) -> int:
        """How much of a pipeline the server gets."""
        server = self._server
        if call.parts < 2 or not server.draws.chance("wire.cut", server.faults.cut, *call.key):
            return call.parts
        whole = server.draws.below("wire.cut_at", call.parts, *call.key)
        server.counts.fire("cut", f"{call} after {whole} of {call.parts}", mattered=whole > 0)
        return whole

    def lost(self, when: str) -> ConnectionLostError:
        """What a request comes to whose connection is lost *when* it was on its way."""
        return ConnectionLostError(f"the connection was lost {when}", sent=True)

    async def _hang_if_dead(self) -> None:
        if self._dead:
            await trio.sleep_forever()

    async def _connect(self) -> None:
        """Have a connection; the pauses between attempts are those of ``transport.pool``."""
        server = self._server
        options = server.options
        if self._broken != server.connections:
            self._lose()  # while nothing was on its way
        if self._failures:
            await self._server.clock.sleep(self._not_before - trio.current_time())
        log = server.log_of(self._process)
        if log is not None and (self._connected or not self._is_cut_off()):
            if log is not self.log and log is not server.log:
                server.counts.fire("old_primary", self._process)
            self.log = log
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

    def _lose(self) -> None:
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
