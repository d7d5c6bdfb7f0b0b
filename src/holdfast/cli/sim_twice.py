"""``holdfast sim twice``: the same seeds in two processes that differ in all that must not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress

from holdfast.cli.common import EXIT_FAILED, EXIT_GOOD, print_json
from holdfast.sim.runner import command_of
from holdfast.sim.twice import differences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from holdfast.sim.runner import Job
    from holdfast.sim.twice import Difference


def run(jobs: Sequence[Job], out: Console | None) -> int:
    """Run each of *jobs* twice and say where they differ; the exit code.

    Args:
      jobs: Which worlds.
      out: Where to say so; None prints one line of JSON.
    """
    found = _watch(jobs, out)
    if out is None:
        print_json({"holds": not found, "worlds": len(jobs), "differences": found})
    elif not found:
        out.print(f"{len(jobs)} worlds, each in two processes that differ: all traces are equal")
    else:
        first = found[0]
        out.print(f"{len(found)} of {len(jobs)} worlds differ; the first at event {first.event}:")
        out.print(f"  in one process: {escape(first.first)}", highlight=False)
        out.print(f"  in the other:   {escape(first.second)}", highlight=False)
        out.print(f"  the world: {command_of(first.job)}", highlight=False)
    return EXIT_FAILED if found else EXIT_GOOD


def _watch(jobs: Sequence[Job], out: Console | None) -> list[Difference]:
    if out is None:
        return differences(jobs)
    with Progress(BarColumn(), MofNCompleteColumn(), console=out, transient=True) as bars:
        task = bars.add_task("", total=len(jobs))
        return differences(jobs, progress=lambda done: bars.update(task, completed=done))
