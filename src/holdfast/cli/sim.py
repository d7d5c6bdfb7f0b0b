"""``holdfast sim``: the production actors in seeded worlds, through every fault we know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.common import (
    EXIT_FAILED,
    EXIT_GOOD,
    CliError,
    JsonOption,
    console,
    errors_of_one_sentence,
    print_json,
)

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.sim.runner import Job, Summary

SEEDS_MAX = 10_000_000


def sim(
    scenarios: Annotated[
        list[str] | None,
        typer.Argument(
            help="Which worlds; all in turn if none is named. 'list' tells what there is.",
            metavar="[SCENARIO…]",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Which seeds: one, or from and to.", metavar="FROM-TO")
    ] = "0-99",
    jobs: Annotated[int, typer.Option(help="Processes at a time.", min=1, max=256)] = 1,
    faults: Annotated[
        str, typer.Option(help="Fault groups, with commas between; or all, or none.")
    ] = "all",
    until_failure: Annotated[
        bool, typer.Option("--until-failure", help="Stop at the first violation.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the actors in simulated worlds, one for each seed. Exit 1 if a check fails.

    Examples:

      holdfast sim list

      holdfast sim --seeds 0-999 --jobs 2

      holdfast sim rivals crashes --seeds 7 --faults process
    """
    with errors_of_one_sentence():
        code = (
            _list(as_json)
            if scenarios == ["list"]
            else _run(scenarios or [], _seeds(seeds), jobs, faults, until_failure, as_json)
        )
    raise typer.Exit(code)


def _run(
    scenarios: list[str],
    seeds: range,
    processes: int,
    faults: str,
    until_failure: bool,
    as_json: bool,
) -> int:
    from holdfast.sim import runner

    try:
        worlds = runner.jobs_of(scenarios, seeds, _groups(faults))
    except ValueError as error:
        raise CliError(str(error)) from None
    if as_json:
        summary = runner.run_jobs(worlds, processes, until_failure=until_failure)
        print_json(_facts(summary))
    else:
        out = console()
        summary = _watch(out, worlds, processes, until_failure)
        _print(out, summary)
    return EXIT_FAILED if summary.violations else EXIT_GOOD


def _watch(out: Console, worlds: list[Job], processes: int, until_failure: bool) -> Summary:
    """Run with a line that tells how far it is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from holdfast.sim import runner
    from holdfast.sim.marks import MARKS

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=out, transient=True) as bars:
        task = bars.add_task("", total=len(worlds))

        def show(summary: Summary) -> None:
            text = (
                f"{summary.seeds_per_s:.0f} seeds/s, {summary.virtual_ratio:,.0f} times real time, "
                f"{len(summary.marks)} of {len(MARKS)} marks, {len(summary.violations)} violations"
            )
            bars.update(task, completed=summary.runs, description=text)

        return runner.run_jobs(worlds, processes, show, until_failure)


def _facts(summary: Summary) -> dict[str, object]:
    from holdfast.sim.runner import command_of

    return {
        "holds": not summary.violations,
        "runs": summary.runs,
        "wall_s": round(summary.wall_s, 3),
        "seeds_per_s": round(summary.seeds_per_s, 1),
        "events": summary.events,
        "virtual_ratio": round(summary.virtual_ratio),
        "accepted_share": round(summary.accepted / max(summary.asked, 1), 3),
        "marks": dict(sorted(summary.marks.items())),
        "never": summary.never,
        "violations": [
            {
                "seed": job.seed,
                "scenario": job.scenario,
                "check": violation.check,
                "details": violation.details,
                "command": command_of(job),
            }
            for job, violation in summary.violations
        ],
    }


def _print(out: Console, summary: Summary) -> None:
    from rich.markup import escape

    from holdfast.sim.marks import MARKS
    from holdfast.sim.runner import command_of, options_of, sentence_of

    out.print(
        f"{summary.runs} worlds, {summary.events:,} events in {summary.wall_s:.1f} s: "
        f"{summary.seeds_per_s:.1f} seeds/s, {summary.virtual_ratio:,.0f} times real time"
    )
    share = 100 * summary.accepted / max(summary.asked, 1)
    out.print(f"{summary.asked:,} commands of customers, {share:.0f} % accepted")
    out.print(f"{len(summary.marks)} of {len(MARKS)} marks hit")
    for name in summary.never:
        out.print(f"  never: {MARKS[name]}")
    if not summary.violations:
        out.print("every check held")
        return
    job, violation = summary.violations[0]
    out.print(f"{len(summary.violations)} worlds in which a check failed; the first:")
    out.print(f"  seed {job.seed}, {job.scenario}: {violation.check}", highlight=False)
    out.print(f"  should be: {sentence_of(violation)}", highlight=False)
    out.print(f"  seen: {escape(violation.details)}", highlight=False)
    out.print(f"  options: {escape(str(options_of(job)))}", highlight=False)
    out.print(f"  again: {command_of(job)}", highlight=False)


def _list(as_json: bool) -> int:
    from holdfast.sim.checks import CHECKS
    from holdfast.sim.marks import MARKS
    from holdfast.sim.options import FAULT_GROUPS, SCENARIOS

    lists = {
        "scenarios": dict(SCENARIOS),
        "checks": dict(CHECKS),
        "marks": dict(MARKS),
    }
    if as_json:
        print_json({**lists, "faults": list(FAULT_GROUPS)})
        return EXIT_GOOD
    out = console()
    for title, entries in lists.items():
        out.print(f"{title}:", style="bold")
        for name, sentence in entries.items():
            out.print(f"  {name:<24} {sentence}", highlight=False)
    out.print("faults:", style="bold")
    out.print(f"  {', '.join(FAULT_GROUPS)}", highlight=False)
    return EXIT_GOOD


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise CliError(f"--seeds {text}: give one number, or two with - between, such as 0-999")
    begin, end = int(first), int(last or first)
    if not begin <= end < begin + SEEDS_MAX:
        raise CliError(
            f"--seeds {text}: the second must not be less, and at most {SEEDS_MAX:,} fit"
        )
    return range(begin, end + 1)


def _groups(text: str) -> tuple[str, ...]:
    from holdfast.sim.options import FAULT_GROUPS

    if text == "all":
        return FAULT_GROUPS
    return () if text == "none" else tuple(text.split(","))
