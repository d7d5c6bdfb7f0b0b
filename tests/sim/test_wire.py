"""A connection that loses calls tells what any client knows, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from holdfast.actors.ports import Commit, CommitUnknownError, LogUnavailableError, NewInput
from holdfast.sim.clock import WorldClock
from holdfast.sim.draws import Draws
from holdfast.sim.marks import Marks
from holdfast.sim.processes import GatedLog
from holdfast.sim.trace import Trace
from holdfast.sim.wire import Wire, WireFaults
from holdfast.transport.memory_log import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NEW = NewInput("tick", b"{}", "", "service:test")


def over(
    faults: WireFaults, story: Callable[[GatedLog, MemoryLog, Wire], Awaitable[None]], seed: int = 1
) -> None:
    """Tell *story* over a wire with *faults*."""
    clock = WorldClock()

    async def main() -> None:
        server = MemoryLog(clock)
        wire = Wire("test", Draws(seed), faults, Trace(clock.now_ms), Marks())
        await story(GatedLog(server, wire), server, wire)

    clock.run(main)


@pytest.mark.parametrize(("side", "written"), [("before", 0), ("after", 1)])
def test_a_lost_append_is_there_or_not(side: str, written: int) -> None:
    async def story(log: GatedLog, server: MemoryLog, wire: Wire) -> None:
        with pytest.raises(LogUnavailableError):
            await log.append("book", [NEW])
        assert len(server.book("book").inputs.ids) == written
        wire.healed = True
        await log.append("book", [NEW])
        assert len(server.book("book").inputs.ids) == written + 1

    over(WireFaults(before=float(side == "before"), after=float(side == "after")), story)


def a_commit() -> Commit:
    return Commit("book", 1, "me", "0-0", "0-0", 1, "", [], [], [], [])


def test_a_commit_that_may_be_written_is_never_called_unavailable() -> None:
    async def story(log: GatedLog, server: MemoryLog, wire: Wire) -> None:
        called = False

        async def commit(_commits: list[Commit]) -> None:
            nonlocal called
            called = True
            await trio.lowlevel.checkpoint()

        with pytest.raises(CommitUnknownError):
            await wire.through("commit", commit, [a_commit()])
        assert called

    over(WireFaults(after=1.0), story)


def test_a_commit_lost_before_its_effect_may_be_called_either() -> None:
    seen: dict[str, None] = {}
    for seed in range(20):

        async def story(log: GatedLog, server: MemoryLog, wire: Wire) -> None:
            try:
                await log.commit([a_commit()])
            except (CommitUnknownError, LogUnavailableError) as error:
                seen[type(error).__name__] = None

        over(WireFaults(before=1.0), story, seed)
    assert sorted(seen) == ["CommitUnknownError", "LogUnavailableError"]


def test_a_partition_ends() -> None:
    faults = WireFaults(partition=1.0, partition_begin_s_max=1, partition_s_max=20)

    async def story(log: GatedLog, server: MemoryLog, wire: Wire) -> None:
        with pytest.raises(LogUnavailableError):
            await log.append("book", [NEW])
        await trio.sleep(21)
        await log.append("book", [NEW])

    over(faults, story)
