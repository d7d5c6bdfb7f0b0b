"""Runs worlds by the thousand: plain processes, each with its share of the seeds.

Counts are fixed, never bounded by the clock. Seeds are handed out in chunks, results come back in the
order of the seeds, and the first violation by seed is the one that is reported, however many processes
there are. Who runs them until something fails gives seeds without end: no more than a few chunks are
under way at a time.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import time
from collections import deque
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.sim.draws import Draws
from holdfast.sim.marks import MARKS
from holdfast.sim.options import FAULT_GROUPS, SCENARIOS, Options, draw_options
from holdfast.sim.run import Result, run_world
from holdfast.sim.violations import CHECKS, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from multiprocessing.pool import AsyncResult

CHUNK: Final = 10
"""Seeds handed to a process at a time."""


class Job(msgspec.Struct, frozen=True):
    """One world to run.

    Attributes:
      scenario: One of ``SCENARIOS``.
      groups: Fault groups that may happen.
    """

    seed: int
    scenario: str
    groups: tuple[str, ...] = FAULT_GROUPS


class Summary(msgspec.Struct):
    """What became of many worlds.

    Attributes:
      events: Lines of all traces.
      wall_s: How long it took.
      shares: Customers' commands by scenario: how many were decided, and accepted.
      marks: In how many runs each mark was hit.
      violations: What failed, by job, in the order of the jobs.
    """

    runs: int = 0
    events: int = 0
    ticks: int = 0
    virtual_ms: int = 0
    wall_s: float = 0.0
    asked: int = 0
    accepted: int = 0
    shares: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict[str, tuple[int, int]])
    marks: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    violations: list[tuple[Job, Violation]] = msgspec.field(
        default_factory=list[tuple[Job, Violation]]
    )

    @property
    def seeds_per_s(self) -> float:
        """Worlds in a second of ours."""
        return self.runs / self.wall_s if self.wall_s else 0.0

    @property
    def virtual_ratio(self) -> float:
        """Simulated time in a second of ours."""
        return self.virtual_ms / 1000 / self.wall_s if self.wall_s else 0.0

    @property
    def never(self) -> list[str]:
        """Marks that no run hit."""
        return [name for name in MARKS if name not in self.marks]

    def add(self, job: Job, result: Result) -> None:
        """Count one world."""
        self.runs += 1
        self.events += result.events
        self.ticks += result.ticks
        self.virtual_ms += result.virtual_ms
        self.asked += result.asked
        self.accepted += result.accepted
        asked, accepted = self.shares.get(job.scenario, (0, 0))
        self.shares[job.scenario] = (asked + result.asked, accepted + result.accepted)
        for name in result.marks:
            self.marks[name] = self.marks.get(name, 0) + 1
        if result.violation is not None:
            self.violations.append((job, result.violation))


def jobs_of(
    scenarios: Sequence[str], seeds: Iterable[int], groups: Sequence[str] = FAULT_GROUPS
) -> Iterator[Job]:
    """The worlds to run: each seed once, the scenarios in turn. None means all of them.

    Seeds may go on for ever.

    Raises:
      ValueError: There is no such scenario or group.
    """
    names = list(scenarios) or list(SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            raise ValueError(f"there is no scenario {name!r}; see 'holdfast sim list'")
    for group in groups:
        if group not in FAULT_GROUPS:
            raise ValueError(f"there is no fault group {group!r}; see 'holdfast sim list'")
    return (Job(seed, names[seed % len(names)], tuple(groups)) for seed in seeds)


def run_job(job: Job) -> Result:
    """Run one world."""
    return run_world(job.seed, job.scenario, job.groups)[0]


def _run_chunk(jobs: list[Job]) -> list[Result]:
    results = [run_job(job) for job in jobs]
    gc.collect()  # what a run leaves behind are cycles: tasks, scopes, tracebacks
    return results


def results_of(jobs: Iterable[Job], processes: int = 1) -> Generator[tuple[Job, Result]]:
    """Each of *jobs* with what became of it, in their order."""
    jobs = iter(jobs)
    chunks = iter(lambda: list(islice(jobs, CHUNK)), [])
    if processes <= 1:
        for chunk in chunks:
            for job in chunk:
                yield job, run_job(job)
            gc.collect()
        return
    # A fresh interpreter for each: what the parent has loaded or patched is none of their business.
    # Ctrl-C is the parent's to hear; it ends them.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        under_way: deque[tuple[list[Job], AsyncResult[list[Result]]]] = deque()
        while True:
            for chunk in islice(chunks, 2 * processes - len(under_way)):
                under_way.append((chunk, pool.apply_async(_run_chunk, (chunk,))))
            if not under_way:
                return
            chunk, running = under_way.popleft()
            yield from zip(chunk, running.get(), strict=True)


def run_jobs(
    jobs: Iterable[Job],
    processes: int = 1,
    progress: Callable[[Summary], None] | None = None,
    *,
    until_failure: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Summary:
    """Run *jobs* and sum up.

    Args:
      jobs: Which worlds.
      processes: How many at a time.
      progress: Called after each.
      until_failure: End at the first violation.
      stopped: Asked after each world; True ends it.
    """
    summary = Summary()
    begin = time.monotonic()
    with closing(results_of(jobs, processes)) as results:
        for job, result in results:
            summary.add(job, result)
            summary.wall_s = time.monotonic() - begin
            if progress is not None:
                progress(summary)
            if stopped() or (until_failure and summary.violations):
                break
    return summary


def options_of(job: Job) -> Options:
    """What was drawn for the world of *job* before it began."""
    return draw_options(Draws(job.seed), job.scenario, job.groups)


def command_of(job: Job) -> str:
    """The command that runs the world of *job* again."""
    groups = "" if job.groups == FAULT_GROUPS else f" --faults {','.join(job.groups) or 'none'}"
    return f"holdfast sim {job.scenario} --seeds {job.seed}{groups}"


def sentence_of(violation: Violation) -> str:
    """What should have been."""
    return CHECKS[violation.check]
