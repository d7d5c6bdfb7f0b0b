"""Gates: a dead process does nothing any more, a paused one waits, and clocks are as wrong as they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from holdfast.sim.clock import WorldClock
from holdfast.sim.draws import Draws
from holdfast.sim.marks import Marks
from holdfast.sim.processes import RUNNING, Gate, SkewedClock, count_step
from holdfast.sim.scheduler import Fifo, Scheduler
from holdfast.sim.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Outside:
    """Counts the calls that reach it."""

    def __init__(self) -> None:
        self.calls = 0

    async def call(self) -> int:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        return self.calls


def lived(process: Callable[[Gate, Outside], Awaitable[None]]) -> tuple[Gate, Outside, Trace]:
    """One life of a process, to its end."""
    clock, outside, marks = WorldClock(), Outside(), Marks()
    trace = Trace(clock.now_ms)
    gates: list[Gate] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            gates.append(Gate("actor-1.1", scope, trace, marks))
            await process(gates[0], outside)

    clock.run(main, strategy=Fifo(Draws(0)))
    return gates[0], outside, trace


@pytest.mark.parametrize(("after", "reached"), [(False, 1), (True, 2)])
def test_a_process_crashes_before_a_call_or_after_its_effect(after: bool, reached: int) -> None:
    answers: list[int] = []

    async def process(gate: Gate, outside: Outside) -> None:
        gate.crash_call, gate.crash_after = 2, after
        while True:
            answers.append(await gate.through("call", outside.call))

    gate, outside, trace = lived(process)
    assert (gate.dead, gate.struck, answers, outside.calls) == (True, 1, [1], reached)
    assert trace.text()[-1].endswith(f"crash {'after' if after else 'before'} call")
    assert trace.faults == [len(trace.lines) - 1]


def test_a_dead_process_makes_no_call_while_it_unwinds() -> None:
    async def process(gate: Gate, outside: Outside) -> None:
        try:
            gate.crash("now")
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await gate.through("clean-up", outside.call)

    gate, outside, _ = lived(process)
    assert (outside.calls, gate.made) == (0, [])


def test_a_dead_process_never_hears_of_a_call_that_was_under_way() -> None:
    heard: list[int] = []

    async def process(gate: Gate, outside: Outside) -> None:
        async def call() -> int:
            gate.crash("meanwhile")
            with trio.CancelScope(shield=True):
                await outside.call()
            return outside.calls

        heard.append(await gate.through("call", call))

    gate, outside, _ = lived(process)
    assert (outside.calls, heard, gate.answered) == (1, [], [])


def test_the_connection_dies_before_anything_else_of_a_crash_is_seen() -> None:
    seen: list[bool] = []

    async def process(gate: Gate, outside: Outside) -> None:
        del outside
        gate.on_crash = lambda: seen.append(trio.current_effective_deadline() > 0)  # goes on so far
        gate.crash("once")
        gate.crash("twice")
        await trio.lowlevel.checkpoint()

    _, _, trace = lived(process)
    assert seen == [True]
    assert len(trace.faults) == 1


def test_a_paused_process_gets_neither_out_nor_an_answer_until_it_is_resumed() -> None:
    answered_s: list[float] = []

    async def process(gate: Gate, outside: Outside) -> None:
        async def resume() -> None:
            await trio.sleep(60)
            assert outside.calls == 0
            gate.resume()

        gate.pause()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(resume)
            begin_s = trio.current_time()
            await gate.through("call", outside.call)
            answered_s.append(trio.current_time() - begin_s)

    gate, _, trace = lived(process)
    assert answered_s == [60]
    assert gate.was_paused
    assert [trace.lines[number][2] for number in trace.faults] == ["pause"]


def test_steps_of_all_tasks_of_a_process_are_counted_and_of_nobody_else() -> None:
    clock, gates = WorldClock(), list[Gate]()

    async def steps(count: int) -> None:
        for _ in range(count):
            await trio.lowlevel.checkpoint()

    async def process() -> None:
        with trio.CancelScope() as scope:
            gate = Gate("actor-1.1", scope, Trace(clock.now_ms), Marks())
            gates.append(gate)
            gate.last_step = 9
            RUNNING.set(gate)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(steps, 5)
                nursery.start_soon(steps, 100)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process)
            nursery.start_soon(steps, 50)

    scheduler = Scheduler(Fifo(Draws(0)))
    scheduler.queue.before_step = count_step
    clock.run(main, instruments=[scheduler])
    (gate,) = gates
    assert (gate.steps, gate.struck, gate.dead) == (9, 1, True)


def test_a_clock_is_as_wrong_as_it_is_told() -> None:
    right = WorldClock()
    clock = SkewedClock(right)
    assert clock.now_ms() == right.now_ms()
    clock.off_ms = -90_000
    assert clock.now_ms() == right.now_ms() - 90_000
