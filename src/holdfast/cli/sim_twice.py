"""``holdfast sim twice``: the same seeds in two processes that differ in all that must not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress

from holdfast.cli.common import EXIT_FAILED, EXIT_GOOD, print_json
from holdfast.cli.sim_run import failures, print_checks
from holdfast.sim.runner import Summary, command_of
from holdfast.sim.twice import differences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from holdfast.sim.run import Result
    from holdfast.sim.runner import Job
    from holdfast.sim.twice import Difference


def run(jobs: Sequence[Job], out: Console | None) -> int:
    """Run each of *jobs* twice; say where they differ and which checks failed; the exit code.

    Args:
      jobs: Which worlds.
      out: Where to say so; None prints one line of JSON.
    """
    summary = Summary()
    found = _watch(jobs, out, summary)
    if out is None:
        print_json(
            {
                "holds": not found and not summary.violations,
                "worlds": len(jobs),
                "differences": found,
                "violations": failures(summary),
            }
        )
    else:
        _print(out, found, summary)
    return EXIT_FAILED if found or summary.violations else EXIT_GOOD


def _print(out: Console, found: Sequence[Difference], summary: Summary) -> None:
    if found:
        first = found[0]
        out.print(
            f"{len(found)} of {summary.runs} worlds differ; the first at event {first.event}:"
        )
        out.print(f"  in one process: {escape(first.first)}", highlight=False)
        out.print(f"  in the other:   {escape(first.second)}", highlight=False)
        out.print(f"  the world: {command_of(first.job)}", highlight=False)
    else:
        out.print(f"{summary.runs} worlds, each in two processes that differ: all traces are equal")
    print_checks(out, summary)


def _watch(jobs: Sequence[Job], out: Console | None, summary: Summary) -> list[Difference]:
    if out is None:
        return differences(jobs, seen=summary.add)
    with Progress(BarColumn(), MofNCompleteColumn(), console=out, transient=True) as bars:
        task = bars.add_task("", total=len(jobs))

        def seen(job: Job, result: Result) -> None:
            summary.add(job, result)
            bars.update(task, completed=summary.runs)

        return differences(jobs, seen=seen)
