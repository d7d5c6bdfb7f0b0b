"""The scheduler: every interleaving can happen, equal seeds run equally, in whatever process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.lowlevel import Task

from holdfast.sim import scheduler
from holdfast.sim.clock import WorldClock
from holdfast.sim.draws import Draws
from holdfast.sim.scheduler import (
    CHECK_TICKS,
    INTERLEAVINGS,
    Fifo,
    Pct,
    RunQueue,
    Scheduler,
    SchedulerUnsupportedError,
    Uniform,
    all_schedules,
    check_trio,
    installed,
    two_by_four,
)

from .toy_world import STRATEGIES, run  # noqa: TID251  # the tests' own package sim

if TYPE_CHECKING:
    from collections.abc import Callable


def interleaving(draws: Draws | None) -> str:
    trace: list[str] = []
    trio.run(two_by_four, trace, draws)
    return "".join(trace)


def test_every_interleaving_is_reached_exactly_once_by_trying_all_tapes() -> None:
    found = all_schedules(interleaving)
    assert len(found) == INTERLEAVINGS == 70
    assert len(dict.fromkeys(found)) == 70
    assert all(sorted(one) == list("aaaabbbb") for one in found)


@pytest.mark.slow
def test_seeds_reach_every_interleaving_and_trio_alone_does_not() -> None:
    """The reason for a scheduler of our own."""
    assert len(dict.fromkeys(interleaving(Draws(seed)) for seed in range(1_500))) == 70
    assert len(dict.fromkeys(interleaving(None) for _ in range(500))) == 16


def test_too_many_schedules_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="over 69 schedules"):
        all_schedules(interleaving, 69)


def test_fifo_takes_turns_and_is_what_a_tape_of_zeros_does() -> None:
    assert all_schedules(interleaving)[0] == "abababab"

    async def main(strategy: Fifo | Uniform, trace: list[str]) -> None:
        with installed(strategy) as queue:
            await two_by_four(trace, None)
            assert queue.ticks > 8

    traces: list[list[str]] = [[], []]
    trio.run(main, Fifo(Draws(1)), traces[0])
    trio.run(main, Uniform(Draws(1, [])), traces[1])
    assert "".join(traces[0]) == "".join(traces[1]) == "abababab"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_tape_replays_the_run_of_any_strategy(strategy: str) -> None:
    first = run(3, strategy)
    tape = first.draws.schedule_tape()
    assert run(3, "uniform", tape).trace == first.trace
    assert run(3, "pct", tape).trace == first.trace
    assert (run(3, "uniform", []).trace == first.trace) == (strategy == "fifo")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_seeds_give_equal_traces_and_other_seeds_others(strategy: str) -> None:
    traces = ["\n".join(run(seed, strategy).trace) for seed in (1, 1, 2)]
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_seeds_give_equal_traces_in_processes_that_differ(
    strategy: str, tmp_path: Path
) -> None:
    def trace(hash_seed: str, zone: str, folder: Path, memory: int, threshold: int) -> str:
        program = Path(__file__).with_name("toy_world.py")
        done = subprocess.run(
            [sys.executable, program, "11", strategy, str(memory), str(threshold)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": zone},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    plain = trace("0", "UTC", Path.cwd(), 0, 700)
    assert plain.count("\n") > 50
    assert trace("1", "Asia/Tokyo", tmp_path, 100_000, 1) == plain
    assert trace("4242", "America/St_Johns", Path("/"), 30_000, 100_000) == plain


def test_what_wakes_together_is_ordered_by_age() -> None:
    """An event wakes its waiters in the order of their addresses: our queue sorts them."""
    woken = [int(line.split()[1]) for line in run(1, "fifo").trace if line.endswith("woke")]
    assert woken == sorted(woken) == list(range(12))
    ended = [int(line.split()[1]) for line in run(1, "fifo").trace if "was cancelled" in line]
    assert ended == list(range(12))


def test_pct_keeps_a_task_running_until_it_is_changed() -> None:
    async def main(trace: list[str], strategy: Pct) -> None:
        with installed(strategy):
            await two_by_four(trace, None)

    def trace(seed: int, changes: int) -> str:
        seen: list[str] = []
        trio.run(main, seen, Pct(Draws(seed), changes, steps=8))
        return "".join(seen)

    assert sorted(dict.fromkeys(trace(seed, 0) for seed in range(40))) == ["aaaabbbb", "bbbbaaaa"]
    changed = list(dict.fromkeys(trace(seed, 1) for seed in range(300)))
    assert {"abbbbaaa", "aabbbbaa", "aaabbbba", "baaaabbb", "bbaaaabb", "bbbaaaab"} <= set(changed)
    assert len(changed) == 8


def test_pct_does_not_let_a_task_that_spins_starve_the_others() -> None:
    async def main() -> None:
        done = trio.Event()

        async def finish() -> None:
            await trio.lowlevel.checkpoint()
            done.set()

        async def spin() -> None:
            while not done.is_set():
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spin)
            nursery.start_soon(finish)

    for seed in range(4):  # in some of them the one that spins has the higher priority
        WorldClock().run(main, strategy=Pct(Draws(seed)))


def test_the_check_is_called_now_and_then() -> None:
    async def main() -> None:
        for _ in range(3 * CHECK_TICKS):
            await trio.lowlevel.checkpoint()

    ticks: list[int] = []
    scheduled = Scheduler(Fifo(Draws(1)), lambda: ticks.append(scheduled.queue.ticks))
    trio.run(main, instruments=[scheduled])
    assert ticks == [CHECK_TICKS, 2 * CHECK_TICKS, 3 * CHECK_TICKS]


def test_trios_queue_is_back_after_the_context() -> None:
    async def main() -> None:
        seen: list[str] = []

        async def other() -> None:
            seen.append("ran")

        async with trio.open_nursery() as nursery:
            with installed(Fifo(Draws(1))):
                nursery.start_soon(other)
            assert seen == []
        assert seen == ["ran"]

    trio.run(main)


def test_nothing_runs_outside_of_trio() -> None:
    with pytest.raises(RuntimeError, match="no trio run is under way"), installed(Fifo(Draws(1))):
        pass


@pytest.fixture
def fresh_check() -> Callable[[], None]:
    check_trio.cache_clear()
    return check_trio.__wrapped__


def test_a_trio_without_the_private_names_is_refused(
    monkeypatch: pytest.MonkeyPatch, fresh_check: Callable[[], None]
) -> None:
    monkeypatch.setattr(scheduler, "_context", None)
    with pytest.raises(SchedulerUnsupportedError, match=r"has no trio._core._run.GLOBAL_RUN"):
        fresh_check()


def test_a_trio_whose_loop_does_not_use_our_queue_is_refused(
    monkeypatch: pytest.MonkeyPatch, fresh_check: Callable[[], None]
) -> None:
    def hand_out_all(queue: RunQueue) -> object:
        return iter(queue.drain())

    monkeypatch.setattr(RunQueue, "__iter__", hand_out_all)
    with pytest.raises(SchedulerUnsupportedError, match="of 70 interleavings"):
        fresh_check()


def test_a_trio_whose_tasks_have_no_age_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with monkeypatch.context() as patched:
            patched.delattr(Task, "_counter")
            with (
                pytest.raises(SchedulerUnsupportedError, match=r"has no Task\._counter"),
                installed(Fifo(Draws(1))),
            ):
                pass

    trio.run(main)


def test_the_collector_is_on_again_after_a_run() -> None:
    run(1, "fifo")
    assert gc.isenabled()
