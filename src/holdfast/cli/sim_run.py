"""Worlds run one after the other: how far it is, what came of it, and what is kept of a failure."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from holdfast.cli import sim_failure
from holdfast.cli.common import EXIT_FAILED, EXIT_GOOD, EXIT_INTERRUPTED, print_json
from holdfast.sim.marks import MARKS
from holdfast.sim.runner import command_of, options_of, run_jobs, sentence_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from rich.console import Console

    from holdfast.cli.sim_failure import Failure
    from holdfast.sim.cases import Size
    from holdfast.sim.runner import Job, Summary


MARKS_TOLD_FROM: Final = 1_000
"""So many worlds should have reached every rare state."""

OTHERS_TOLD: Final = 20
"""So many failures are named beside the first."""


class Night:
    """Runs worlds until they are all run, one fails, or somebody has enough.

    Args:
      worlds: Which.
      total: How many; None for any number.
      processes: At a time.
      until_failure: Whether the first failure ends it.
      every_mark: Whether a mark that was never hit is a failure.
    """

    def __init__(
        self,
        worlds: Iterable[Job],
        total: int | None,
        processes: int,
        until_failure: bool,
        every_mark: bool = False,
    ) -> None:
        self._worlds, self._total = worlds, total
        self._processes, self._until_failure = processes, until_failure
        self._every_mark = every_mark
        self._interrupted = False

    def run(self, out: Console | None, folder: Path, *, smaller: bool) -> int:
        """Run them, and keep the first failure in *folder*; the exit code.

        Args:
          out: Where to say so; None prints one line of JSON in the end.
          folder: Where the case is written.
          smaller: Whether to look for the smallest.
        """
        with self._stoppable():
            summary = self._watch(out)
            failure = None
            if out is not None:
                if self._interrupted:
                    out.print("interrupted")
                _print(out, summary, every_mark=self._every_mark)
            if summary.violations:
                job, violation = summary.violations[0]
                with self._bar(out) as tell:
                    failure = sim_failure.keep(
                        job, violation, folder, smaller=smaller, progress=self._shrinking(tell)
                    )
        if out is None:
            print_json(_facts(summary, failure, self._interrupted))
        elif failure is not None:
            sim_failure.show(out, failure)
        if summary.violations or (self._every_mark and summary.never):
            return EXIT_FAILED
        return EXIT_INTERRUPTED if self._interrupted else EXIT_GOOD

    @contextmanager
    def _stoppable(self) -> Generator[None]:
        """Let the first Ctrl-C end the work after the world that runs, and a second one at once."""

        def stop(_number: int, _frame: object) -> None:
            if self._interrupted:
                os._exit(EXIT_INTERRUPTED)
            self._interrupted = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _watch(self, out: Console | None) -> Summary:
        """Run with a line that tells how far it is."""
        with self._bar(out) as tell:

            def show(summary: Summary) -> None:
                tell(
                    summary.runs,
                    f"{summary.seeds_per_s:.0f} seeds/s, {summary.virtual_ratio:,.0f} times real "
                    f"time, {len(summary.marks)} of {len(MARKS)} marks, "
                    f"{len(summary.violations)} violations",
                )

            return run_jobs(
                self._worlds,
                self._processes,
                show,
                until_failure=self._until_failure,
                stopped=lambda: self._interrupted,
            )

    def _shrinking(self, tell: Callable[[int, str], object]) -> Callable[[int, Size], None]:
        def show(runs: int, size: Size) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            tell(runs, f"made smaller: {size}")

        return show

    @contextmanager
    def _bar(self, out: Console | None) -> Generator[Callable[[int, str], object]]:
        """A bar that is told how far things are."""
        if out is None:
            yield lambda _done, _text: None
            return
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=out, transient=True) as bars:
            task = bars.add_task("", total=self._total)
            yield lambda done, text: bars.update(task, completed=done, description=text)


def _facts(summary: Summary, failure: Failure | None, interrupted: bool) -> dict[str, object]:

    return {
        "holds": not summary.violations,
        "interrupted": interrupted,
        "runs": summary.runs,
        "held": summary.runs - len(summary.violations),
        "wall_s": round(summary.wall_s, 3),
        "seeds_per_s": round(summary.seeds_per_s, 1),
        "events": summary.events,
        "virtual_ratio": round(summary.virtual_ratio),
        "accepted_share": round(summary.accepted / max(summary.asked, 1), 3),
        "accepted_shares": {
            scenario: round(accepted / max(asked, 1), 3)
            for scenario, (asked, accepted) in summary.shares.items()
        },
        "marks": dict(sorted(summary.marks.items())),
        "never": summary.never,
        "violations": failures(summary),
        "kept": failure,
    }


def failures(summary: Summary) -> list[dict[str, object]]:
    """Each world in which a check failed, for JSON."""
    return [
        {
            "seed": job.seed,
            "scenario": job.scenario,
            "check": violation.check,
            "details": violation.details,
            "command": command_of(job),
        }
        for job, violation in summary.violations
    ]


def _print(out: Console, summary: Summary, *, every_mark: bool) -> None:

    out.print(
        f"{summary.runs} worlds, {summary.events:,} events in {summary.wall_s:.1f} s: "
        f"{summary.seeds_per_s:.1f} seeds/s, {summary.virtual_ratio:,.0f} times real time"
    )
    share = 100 * summary.accepted / max(summary.asked, 1)
    out.print(f"{summary.asked:,} commands of customers, {share:.0f} % accepted")
    out.print(f"{len(summary.marks)} of {len(MARKS)} marks hit")
    if every_mark or summary.runs >= MARKS_TOLD_FROM:  # a few worlds cannot reach them all
        for name in summary.never:
            out.print(f"  never: {MARKS[name]}")
    print_checks(out, summary)


def print_checks(out: Console, summary: Summary) -> None:
    """Say that every check held, or which worlds it was that one failed in."""
    if not summary.violations:
        out.print("every check held")
        return
    (job, violation), *others = summary.violations
    failed = len(summary.violations)
    out.print(
        f"every check held in {summary.runs - failed:,} worlds, one failed in {failed}; the first:"
    )
    out.print(f"  seed {job.seed}, {job.scenario}: {violation.check}", highlight=False)
    out.print(f"  should be: {sentence_of(violation)}", highlight=False)
    out.print(f"  seen: {escape(violation.details)}", highlight=False)
    out.print(f"  options: {escape(str(options_of(job)))}", highlight=False)
    out.print(f"  found by: {command_of(job)}", highlight=False)
    for job, violation in others[:OTHERS_TOLD]:
        out.print(f"another: {violation.check}: {command_of(job)}", highlight=False)
    if len(others) > OTHERS_TOLD:
        out.print(f"and {len(others) - OTHERS_TOLD:,} more, which --json lists")
