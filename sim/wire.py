"""A connection to the log that loses and delays: before a call's effect, or after it.

One wire for each life of a process, and one for the crowd. It cannot tell what became of a call that
it lost, as no client can: the caller learns only that the log is not available, or for a commit that
its result is unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import msgspec
import trio

from holdfast.actors.ports import CommitUnknownError, LogError, LogUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.sim.draws import Draws
    from holdfast.sim.marks import Marks
    from holdfast.sim.trace import Trace

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class WireFaults(msgspec.Struct, frozen=True):
    """How connections misbehave. Shares are of calls, from 0 to 1.

    Attributes:
      before: Lost before the effect.
      after: Lost after the effect: the answer.
      partition: Share of connections that are cut off once.
      partition_begin_s_max: When, at most so long after they were opened.
      partition_s_max: For so long, at most.
      latency_ms_max: Longest time before the effect, and before the answer.
      timeout_ms_max: Longest time until a loss is noticed.
    """

    before: float = 0.0
    after: float = 0.0
    partition: float = 0.0
    partition_begin_s_max: int = 60
    partition_s_max: int = 40
    latency_ms_max: int = 0
    timeout_ms_max: int = 3_000


class Wire:
    """One connection.

    Args:
      name: Whose.
      draws: What is lost.
      faults: How likely that is.
    """

    def __init__(
        self, name: str, draws: Draws, faults: WireFaults, trace: Trace, marks: Marks
    ) -> None:
        self.marks = marks
        self.healed = False
        self._name = name
        self._draws = draws
        self._faults = faults
        self._trace = trace
        self._calls = 0
        begin = trio.current_time()
        if draws.chance("wire.partition", faults.partition, name):
            begin += draws.below("wire.partition_begin", faults.partition_begin_s_max, name)
            length_s = 1 + draws.below("wire.partition_s", faults.partition_s_max, name)
        else:
            length_s = 0
        self._cut = (begin, begin + length_s)

    async def through(
        self, what: str, call: Callable[[Unpack[_Args]], Awaitable[_T]], *args: *_Args
    ) -> _T:
        """Make a call; it, or its answer, may get lost.

        Raises:
          LogUnavailableError: It was lost, before or after its effect; a commit only before it.
          CommitUnknownError: A commit was lost.
        """
        if self.healed:
            return await call(*args)
        self._calls += 1
        number = self._calls
        if self._is_cut():
            self.marks.hit("wire_partition")
            await self._lose(what, "cut", number)
            raise self._lost(what, number, effect=False)
        if self._draws.chance("wire.before", self._faults.before, self._name, number):
            self.marks.hit("wire_lost_before")
            await self._lose(what, "lost before", number)
            raise self._lost(what, number, effect=False)
        await self._latency("out", number)
        result = await call(*args)
        if self._is_cut():
            self.marks.hit("wire_partition")
            await self._lose(what, "cut", number)
            raise self._lost(what, number, effect=True)
        if not self.healed and self._draws.chance(
            "wire.after", self._faults.after, self._name, number
        ):
            self.marks.hit("wire_lost_after")
            await self._lose(what, "lost after", number)
            raise self._lost(what, number, effect=True)
        await self._latency("back", number)
        return result

    def _is_cut(self) -> bool:
        begin, end = self._cut
        return not self.healed and begin <= trio.current_time() < end

    async def _lose(self, what: str, how: str, number: int) -> None:
        self._trace.note(self._name, how, what)
        bound = self._faults.timeout_ms_max + 1
        await trio.sleep(self._draws.below("wire.timeout", bound, self._name, number) / 1000)

    async def _latency(self, way: str, number: int) -> None:
        if self._faults.latency_ms_max:
            bound = self._faults.latency_ms_max + 1
            drawn = self._draws.below(f"wire.{way}_ms", bound, self._name, number)
            await trio.sleep(drawn / 1000)

    def _lost(self, what: str, number: int, *, effect: bool) -> LogError:
        if what == "commit" and (
            effect or self._draws.chance("wire.unknown", 0.5, self._name, number)
        ):
            return CommitUnknownError("the connection was lost during the commit")
        return LogUnavailableError("the connection was lost")
