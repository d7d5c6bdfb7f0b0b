"""``holdfast sim --tier 1``: the booking machine alone, by the million operations."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast.cli.common import (
    EXIT_FAILED,
    EXIT_GOOD,
    EXIT_INTERRUPTED,
    CliError,
    console,
    print_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from holdfast.sim.tier1.cases import Case
    from holdfast.sim.tier1.jobs import Job, Summary


def run(
    scenarios: Sequence[str],
    operations: int,
    first_seed: int,
    processes: int,
    *,
    until_failure: bool,
    folder: Path,
    smaller: bool,
    as_json: bool,
) -> int:
    """Make runs, and keep the first failure; the exit code.

    Args:
      scenarios: Names; none means all.
      operations: How many, over all runs.
      first_seed: Seeds count from it.
      processes: At a time.
      until_failure: Stop at the first.
      folder: Where the case of the first failure is written.
      smaller: Whether to look for the smallest case.
      as_json: One line for scripts.

    Raises:
      CliError: There is no such scenario, or the case cannot be written.
    """
    from holdfast.sim.tier1.jobs import jobs_of, run_jobs

    if list(scenarios) == ["list"]:
        return tell_scenarios(as_json)
    try:
        jobs = jobs_of(scenarios, operations, first_seed)
    except ValueError as error:
        raise CliError(str(error)) from None
    out = None if as_json else console()
    summary = (
        run_jobs(jobs, processes, until_failure=until_failure)
        if out is None
        else _watch(out, jobs, processes, until_failure)
    )
    kept: tuple[Path, Case] | None = None
    if summary.violations and not summary.interrupted:
        kept = _keep(summary.violations[0][0], folder, smaller)
    if out is None:
        print_json(_facts(summary, kept))
    else:
        _print(out, summary, kept)
    if summary.violations or summary.unhealthy():
        return EXIT_FAILED
    return EXIT_INTERRUPTED if summary.interrupted else EXIT_GOOD


def replay(path: Path, as_json: bool) -> int:
    """Put a case on trial again; the exit code.

    Raises:
      CliError: The file is no case.
    """
    from rich.markup import escape

    from holdfast.sim.tier1 import cases
    from holdfast.sim.tier1.checks import ViolationError

    failed: ViolationError | None = None
    try:
        case = cases.read_case(path)
        cases.replay(case)
    except cases.CaseError as error:
        raise CliError(str(error)) from None
    except ViolationError as error:
        failed = error
    if as_json:
        print_json(
            {
                "holds": failed is None,
                "check": failed.check if failed else "",
                "details": failed.what if failed else "",
                "operation": failed.operation if failed else 0,
            }
        )
    elif failed is None:
        console().print("every check held")
    else:
        console().print(f"operation {failed.operation} fails: {failed.check}", highlight=False)
        console().print(f"  seen: {escape(failed.what)}", highlight=False)
    return EXIT_FAILED if failed else EXIT_GOOD


def tell_scenarios(as_json: bool) -> int:
    """Say what there is; the exit code."""
    from holdfast.sim.tier1.scenarios import SCENARIOS

    if as_json:
        print_json({"scenarios": {scenario.name: scenario.says for scenario in SCENARIOS}})
        return EXIT_GOOD
    out = console()
    out.print("scenarios of tier 1:", style="bold")
    for scenario in SCENARIOS:
        out.print(f"  {scenario.name:<24} {scenario.says}", highlight=False)
    return EXIT_GOOD


def _watch(out: Console, jobs: list[Job], processes: int, until_failure: bool) -> Summary:
    """Run with a line that tells how far it is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from holdfast.sim.tier1.jobs import run_jobs

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=out, transient=True) as bars:
        task = bars.add_task("", total=sum(job.operations for job in jobs))

        def show(summary: Summary) -> None:
            text = (
                f"{summary.operations_per_s:,.0f} operations/s, "
                f"{summary.total.accepted_share:.0%} accepted, "
                f"{len(summary.violations)} violations"
            )
            bars.update(task, completed=summary.total.operations, description=text)

        return run_jobs(jobs, processes, show, until_failure)


def _keep(job: Job, folder: Path, smaller: bool) -> tuple[Path, Case] | None:
    """Record a failed run, make it small, and write it; None where it does not fail again here."""
    from holdfast.sim.tier1.cases import record, write_case
    from holdfast.sim.tier1.scenarios import BY_NAME
    from holdfast.sim.tier1.shrink import shrink
    from holdfast.sim.tier1.trial import Options

    case = record(BY_NAME[job.scenario], job.seed, Options(job.operations))
    if case is None:
        return None
    if smaller:
        # Played from its steps it may hold: then all of them are kept, for a person to see.
        with suppress(ValueError):
            case = shrink(case)
    path = folder / f"tier1-{job.scenario}-{job.seed}.json"
    try:
        write_case(path, case)
    except OSError as error:
        sentence = f"{path} cannot be written: {error.strerror}; name another folder by --out"
        raise CliError(sentence, EXIT_FAILED) from None
    return path, case


def _facts(summary: Summary, kept: tuple[Path, Case] | None) -> dict[str, object]:
    total = summary.total
    return {
        "holds": not summary.violations and not summary.unhealthy(),
        "interrupted": summary.interrupted,
        "runs": total.runs,
        "operations": total.operations,
        "wall_s": round(summary.wall_s, 3),
        "operations_per_s": round(summary.operations_per_s),
        "commands": total.commands,
        "accepted_share": round(total.accepted_share, 3),
        "scenarios": {
            name: {
                "runs": tally.runs,
                "operations": tally.operations,
                "accepted_share": round(tally.accepted_share, 3),
                "declined_share": round(tally.declined_share, 3),
            }
            for name, tally in summary.scenarios.items()
        },
        "unhealthy": summary.unhealthy(),
        "violations": [
            {
                "scenario": job.scenario,
                "seed": job.seed,
                "operation": violation.operation,
                "check": violation.check,
                "details": violation.what,
                "command": job.command,
            }
            for job, violation in summary.violations
        ],
        "case": str(kept[0]) if kept else "",
        "steps": len(kept[1].steps) if kept else 0,
    }


def _print(out: Console, summary: Summary, kept: tuple[Path, Case] | None) -> None:
    from rich.markup import escape

    total = summary.total
    if summary.interrupted:
        out.print("interrupted")
    out.print(
        f"{total.operations:,} operations in {total.runs} runs in {summary.wall_s:.1f} s: "
        f"{summary.operations_per_s:,.0f} operations/s",
        highlight=False,
    )
    for name, tally in summary.scenarios.items():
        out.print(
            f"  {name:<20} {tally.operations:>12,} operations, {tally.accepted_share:6.1%} of the "
            f"commands accepted, {tally.declined_share:6.1%} of the preauthorizations declined",
            highlight=False,
        )
    for sentence in summary.unhealthy():
        out.print(f"  {sentence}", highlight=False)
    if not summary.violations:
        out.print("every check held" if total.runs else "nothing was run")
        return
    job, violation = summary.violations[0]
    out.print(f"a check failed in {len(summary.violations)} runs; the first:")
    out.print(
        f"  {job.scenario}, seed {job.seed}, operation {violation.operation:,}: {violation.check}",
        highlight=False,
    )
    out.print(f"  seen: {escape(violation.what)}", highlight=False)
    out.print(f"  found by: {job.command}", highlight=False)
    if kept is not None:
        path, case = kept
        out.print(f"  kept: {len(case.steps)} steps", highlight=False)
        out.print(f"  case: {escape(str(path))}", highlight=False)
        out.print(f"  again: holdfast sim --tier 1 --replay {escape(str(path))}", highlight=False)
