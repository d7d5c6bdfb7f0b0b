"""``holdfast sim sweep``: a process ends at every place of a world, in a world for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from holdfast.cli import sim_failure
from holdfast.cli.common import EXIT_FAILED, EXIT_GOOD, CliError, print_json
from holdfast.sim.cases import Case
from holdfast.sim.runner import jobs_of
from holdfast.sim.sweep import BASES, Sweep, places_of, sweep

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from holdfast.cli.sim_failure import Failure
    from holdfast.sim.sweep import Place

BASES_MAX: Final = 20
"""Worlds swept by one command; each takes some thousands of runs."""


def bases_of(scenarios: Sequence[str], seeds: range, groups: Sequence[str]) -> Sequence[Case]:
    """The worlds to sweep: those that the simulator brings along, unless a scenario is named.

    Raises:
      CliError: There is no such scenario, or there are too many seeds.
    """
    if not scenarios:
        return BASES
    if len(seeds) > BASES_MAX:
        raise CliError(
            f"each seed is swept in thousands of worlds: give at most {BASES_MAX} --seeds"
        )
    try:
        return [
            Case(job.seed, job.scenario, job.groups) for job in jobs_of(scenarios, seeds, groups)
        ]
    except ValueError as error:
        raise CliError(str(error)) from None


def run(
    bases: Sequence[Case], processes: int, out: Console | None, folder: Path, *, smaller: bool
) -> int:
    """Sweep *bases*, and keep the first failure in *folder*; the exit code.

    Args:
      bases: The worlds to sweep.
      processes: Runs at a time.
      out: Where to say so; None prints one line of JSON in the end.
      folder: Where the case of a failure is written.
      smaller: Whether to look for the smallest.

    Raises:
      CliError: One of *bases* fails by itself.
    """
    try:
        places = [place for base in bases for place in places_of(base)]
    except ValueError as error:
        raise CliError(str(error), EXIT_FAILED) from None
    swept = _watch(places, processes, out)
    failure = None
    if swept.violations:
        place, violation = swept.violations[0]
        case, name = place.case(violation), f"sweep-{place.base.scenario}-{place.base.seed}"
        failure = sim_failure.keep_case(case, name, folder, smaller=smaller)
    if out is None:
        print_json(_facts(swept, failure))
    else:
        _print(out, swept)
        if failure is not None:
            sim_failure.show(out, failure)
    return EXIT_GOOD if swept.holds else EXIT_FAILED


def _watch(places: Sequence[Place], processes: int, out: Console | None) -> Sweep:
    if out is None:
        return sweep(places, processes)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=out, transient=True) as bars:
        task = bars.add_task("", total=len(places))

        def show(swept: Sweep) -> None:
            text = f"{swept.runs / max(swept.wall_s, 0.001):.0f} places/s, {len(swept.violations)} violations"
            bars.update(task, completed=swept.runs, description=text)

        return sweep(places, processes, show)


def _facts(swept: Sweep, failure: Failure | None) -> dict[str, object]:
    return {
        "holds": swept.holds,
        "runs": swept.runs,
        "wall_s": round(swept.wall_s, 3),
        "places": swept.kinds,
        "missed": [str(place) for place in swept.missed],
        "violations": [
            {"place": str(place), **msgspec.structs.asdict(violation)}
            for place, violation in swept.violations
        ],
        "kept": failure,
    }


def _print(out: Console, swept: Sweep) -> None:
    out.print(f"{swept.runs:,} places where a process ends, in {swept.wall_s:.1f} s")
    for kind, count in sorted(swept.kinds.items()):
        out.print(f"  {kind:<24} {count:>6,}", highlight=False)
    if swept.missed:
        out.print(f"{len(swept.missed)} places were never reached; the first: {swept.missed[0]}")
    if not swept.violations:
        out.print("every check held")
        return
    place, violation = swept.violations[0]
    out.print(f"a check failed at {len(swept.violations)} places; the first:")
    out.print(f"  {escape(str(place))}: {violation.check}", highlight=False)
    out.print(f"  seen: {escape(violation.details)}", highlight=False)
