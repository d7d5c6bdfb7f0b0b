"""Tier 1 by the million: runs spread over scenarios, seeds and processes.

Counts are fixed, never bounded by the clock. Runs come back in the order in which they were made up,
however many processes there are, and the first violation in that order is the first reported. A
scenario in which hardly anything is accepted, or hardly anything refused, tests little, however often
it is run: so shares are held as well.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import time
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.sim.tier1.checks import Check, ViolationError
from holdfast.sim.tier1.scenarios import BY_NAME
from holdfast.sim.tier1.trial import Options
from holdfast.sim.tier1.volume import command_of, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RUN_OPERATIONS: Final = 25_000
"""So many operations of one seed, then another: long enough for a season, short enough to shrink."""

SHARE_OF: Final = 3_000
"""Shares are held where there are so many commands, or preauthorizations; fewer say little."""

ACCEPTED_SHARES: Final = (0.3, 0.7)
"""Of the commands of every scenario."""

DECLINED_SHARES: Final = {"payment-failures": (0.45, 0.55)}
"""Of the preauthorizations, by scenario."""


class Job(msgspec.Struct, frozen=True):
    """One run."""

    scenario: str
    seed: int
    operations: int

    @property
    def command(self) -> str:
        """The command that runs it again."""
        return command_of(self.scenario, self.seed, self.operations)


class Violation(msgspec.Struct, frozen=True):
    """A check that failed, and at which operation."""

    check: Check
    what: str
    operation: int


class Tally(msgspec.Struct):
    """What runs came to, counted."""

    runs: int = 0
    operations: int = 0
    commands: int = 0
    accepted: int = 0
    preauthorized: int = 0
    declined: int = 0

    @property
    def accepted_share(self) -> float:
        """Of the commands, 0 to 1."""
        return self.accepted / max(self.commands, 1)

    @property
    def declined_share(self) -> float:
        """Of the preauthorizations, 0 to 1."""
        return self.declined / max(self.preauthorized + self.declined, 1)

    def add(self, other: Tally) -> None:
        """Count more."""
        self.runs += other.runs
        self.operations += other.operations
        self.commands += other.commands
        self.accepted += other.accepted
        self.preauthorized += other.preauthorized
        self.declined += other.declined


class Result(msgspec.Struct, frozen=True):
    """What became of one run: its digest, or its violation."""

    tally: Tally
    digest: str = ""
    violation: Violation | None = None


class Summary(msgspec.Struct):
    """What became of many runs.

    Attributes:
      wall_s: How long it took.
      interrupted: Somebody had enough; what was under way does not count.
      scenarios: By scenario.
      violations: By run, in the order of the runs.
    """

    wall_s: float = 0.0
    interrupted: bool = False
    total: Tally = msgspec.field(default_factory=Tally)
    scenarios: dict[str, Tally] = msgspec.field(default_factory=dict[str, Tally])
    violations: list[tuple[Job, Violation]] = msgspec.field(
        default_factory=list[tuple[Job, Violation]]
    )

    @property
    def operations_per_s(self) -> float:
        """In a second of ours."""
        return self.total.operations / self.wall_s if self.wall_s else 0.0

    def add(self, job: Job, result: Result) -> None:
        """Count one run."""
        self.total.add(result.tally)
        self.scenarios.setdefault(job.scenario, Tally()).add(result.tally)
        if result.violation is not None:
            self.violations.append((job, result.violation))

    def unhealthy(self) -> list[str]:
        """Which scenarios have other shares than they should: a sentence each."""
        found: list[str] = []
        for name, tally in self.scenarios.items():
            low, high = ACCEPTED_SHARES
            if tally.commands >= SHARE_OF and not low <= tally.accepted_share <= high:
                found.append(
                    f"{name}: {tally.accepted_share:.1%} of the commands are accepted, "
                    f"not {low:.0%} to {high:.0%}"
                )
            low, high = DECLINED_SHARES.get(name, (0.0, 1.0))
            calls = tally.preauthorized + tally.declined
            if calls >= SHARE_OF and not low <= tally.declined_share <= high:
                found.append(
                    f"{name}: {tally.declined_share:.1%} of the preauthorizations are declined, "
                    f"not {low:.0%} to {high:.0%}"
                )
        return found


def jobs_of(scenarios: Sequence[str], operations: int, first_seed: int = 0) -> list[Job]:
    """Runs that make up so many operations: the scenarios in turn, and then again with the next seed.

    Args:
      scenarios: Names; none means all.
      operations: At least 1.
      first_seed: Seeds count from it.

    Raises:
      ValueError: There is no such scenario, or nothing to do.
    """
    names = list(scenarios) or list(BY_NAME)
    for name in names:
        if name not in BY_NAME:
            raise ValueError(
                f"there is no scenario {name!r} in tier 1; there are {', '.join(BY_NAME)}"
            )
    if operations < 1:
        raise ValueError(f"operations must be 1 or more, not {operations}")
    jobs: list[Job] = []
    while operations > 0:
        turn, at = divmod(len(jobs), len(names))
        jobs.append(Job(names[at], first_seed + turn, min(operations, RUN_OPERATIONS)))
        operations -= RUN_OPERATIONS
    return jobs


def run_job(job: Job) -> Result:
    """Make one run; a violation is a result."""
    try:
        outcome = run(BY_NAME[job.scenario], job.seed, Options(job.operations))
    except ViolationError as error:
        tally = Tally(runs=1, operations=error.operation)
        return Result(tally, "", Violation(error.check, error.what, error.operation))
    tally = Tally(
        1,
        outcome.operations,
        outcome.commands,
        outcome.accepted,
        outcome.preauthorized,
        outcome.declined,
    )
    return Result(tally, outcome.digest)


def results_of(jobs: Sequence[Job], processes: int = 1) -> Iterator[Result]:
    """What became of each of *jobs*, in their order."""
    if processes <= 1:
        yield from map(run_job, jobs)
        return
    # A fresh interpreter for each: what the parent has loaded or patched is none of their business.
    with multiprocessing.get_context("spawn").Pool(processes, _begin) as pool:
        yield from pool.imap(run_job, jobs)


def _begin() -> None:
    """Look for reference cycles seldom, a book has none; and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def run_jobs(
    jobs: Sequence[Job],
    processes: int = 1,
    progress: Callable[[Summary], None] | None = None,
    until_failure: bool = False,
) -> Summary:
    """Make runs and sum up.

    Args:
      jobs: Which.
      processes: How many at a time.
      progress: Called after each.
      until_failure: Stop at the first violation.
    """
    summary = Summary()
    begin = time.monotonic()
    try:
        for job, result in zip(jobs, results_of(jobs, processes), strict=False):
            summary.add(job, result)
            summary.wall_s = time.monotonic() - begin
            if progress is not None:
                progress(summary)
            if until_failure and summary.violations:
                break
    except KeyboardInterrupt:
        summary.interrupted = True
    return summary
