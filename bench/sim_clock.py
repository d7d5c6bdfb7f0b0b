"""Simulated calls per second: the world's clock and scheduler against trio's ``MockClock``; one core.

    python bench/sim_clock.py [--calls 100000]

A call is what a simulated port does: it waits a drawn virtual delay. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from time import process_time
from typing import TYPE_CHECKING

import trio
from trio.testing import MockClock

from holdfast.sim.clock import WorldClock
from holdfast.sim.draws import Draws
from holdfast.sim.leaks import Sealed
from holdfast.sim.scheduler import Fifo, Pct, Uniform

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TASKS = 10
ROUNDS = 5


async def call(sleep: Callable[[float], Awaitable[None]], calls: int) -> None:
    """*calls* calls, shared among the tasks."""
    draws = Draws(1)
    delays_s = [draws.between("delay", 1, 1_000_000, n) / 1e6 for n in range(997)]

    async def one(first: int) -> None:
        for n in range(calls // TASKS):
            await sleep(delays_s[(first + n) % 997])

    async with trio.open_nursery() as nursery:
        for task in range(TASKS):
            nursery.start_soon(one, task * 100)


def world(
    calls: int, strategy: type[Fifo | Uniform | Pct] | None, *, trios: bool = False, thorough: bool
) -> None:
    """All calls on the world's clock."""
    clock = WorldClock()
    with Sealed(thorough=thorough):
        clock.run(
            call,
            trio.sleep if trios else clock.sleep,
            calls,
            strategy=None if strategy is None else strategy(Draws(1)),
        )


def mock(calls: int) -> None:
    """All calls on trio's clock for tests."""
    trio.run(call, trio.sleep, calls, clock=MockClock(autojump_threshold=0))


def rate(calls: int, run: Callable[[], None]) -> int:
    """Calls per second of CPU time: the median of some rounds."""

    def once() -> float:
        start = process_time()
        run()
        return calls / (process_time() - start)

    return round(statistics.median(once() for _ in range(ROUNDS)))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    calls: int = parser.parse_args().calls
    draws = Draws(1)

    def keyed() -> None:
        for n in range(calls):
            draws.chance("drop", 0.1, "reply", n)

    def schedule() -> None:
        for _ in range(calls):
            draws.schedule(5)

    result: dict[str, float] = {
        "world_calls_per_s": rate(calls, lambda: world(calls, Uniform, thorough=False)),
        "world_calls_fifo_per_s": rate(calls, lambda: world(calls, Fifo, thorough=False)),
        "world_calls_pct_per_s": rate(calls, lambda: world(calls, Pct, thorough=False)),
        "world_calls_thorough_per_s": rate(calls, lambda: world(calls, Uniform, thorough=True)),
        "world_calls_trios_order_per_s": rate(calls, lambda: world(calls, None, thorough=False)),
        "world_trio_sleeps_per_s": rate(
            calls, lambda: world(calls, Uniform, trios=True, thorough=False)
        ),
        "mock_clock_sleeps_per_s": rate(calls, lambda: mock(calls)),
        "keyed_draws_per_s": rate(calls, keyed),
        "schedule_draws_per_s": rate(calls, schedule),
    }
    result["calls_to_mock_clock"] = round(
        result["world_calls_per_s"] / result["mock_clock_sleeps_per_s"], 1
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
