"""``holdfast sim``: the production actors in seeded worlds, through every fault we know."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.common import (
    EXIT_GOOD,
    CliError,
    JsonOption,
    console,
    errors_of_one_sentence,
    print_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.sim.runner import Job

SEEDS_MAX = 10_000_000


def sim(
    scenarios: Annotated[
        list[str] | None,
        typer.Argument(
            help="Which worlds; all in turn if none is named. 'list' tells what there is; 'sweep' lets "
            "processes end at every place of a world; 'twice' runs worlds in processes that differ.",
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
        bool,
        typer.Option(
            "--until-failure",
            help="Go on from the first seed until a check fails, or Ctrl-C.",
        ),
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="CASE", help="Run the world of a case's file instead."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the case and the page of a failure go.")
    ] = Path("sim-failures"),
    no_shrink: Annotated[
        bool, typer.Option("--no-shrink", help="Leave a failing world as large as it is.")
    ] = False,
    every_mark: Annotated[
        bool, typer.Option("--every-mark", help="Exit 1 also if a mark was never hit.")
    ] = False,
    tier: Annotated[
        int,
        typer.Option(help="2: actors in worlds; 1: the booking machine alone.", min=1, max=2),
    ] = 2,
    operations: Annotated[
        int, typer.Option(help="With --tier 1: how many, over all runs.", min=1)
    ] = 1_000_000,
    as_json: JsonOption = False,
) -> None:
    """Run the actors in simulated worlds, one for each seed. Exit 1 if a check fails.

    Of the first failure the smallest case that fails so is written to a file, and a page that shows
    it. Put into tests/sim/cases the case is a regression test.

    Examples:

      holdfast sim list

      holdfast sim --seeds 0-999 --jobs 2

      holdfast sim rivals crashes --seeds 7 --faults process

      holdfast sim --replay sim-failures/rivals-7.json

      holdfast sim sweep --jobs 2

      holdfast sim twice --seeds 0-499

      holdfast sim --tier 1 --operations 10000000 --jobs 2
    """
    with errors_of_one_sentence():
        if replay is not None:
            if scenarios:
                raise CliError(
                    "--replay runs the scenario that its case names: name none beside it"
                )
            if tier == 1:
                from holdfast.cli import sim_tier1

                raise typer.Exit(sim_tier1.replay(replay, as_json))
            from holdfast.cli import sim_failure

            code = sim_failure.replay(replay, out, None if as_json else console())
        elif tier == 1:
            from holdfast.cli import sim_tier1

            code = sim_tier1.run(
                scenarios or [],
                operations,
                _seeds(seeds).start,
                jobs,
                until_failure=until_failure,
                folder=out,
                smaller=not no_shrink,
                as_json=as_json,
            )
        elif scenarios == ["list"]:
            code = _list(as_json)
        elif scenarios and scenarios[0] == "sweep":
            from holdfast.cli import sim_sweep

            bases = sim_sweep.bases_of(scenarios[1:], _seeds(seeds), _groups(faults))
            terminal = None if as_json else console()
            code = sim_sweep.run(bases, jobs, terminal, out, smaller=not no_shrink)
        elif scenarios and scenarios[0] == "twice":
            from holdfast.cli import sim_twice

            worlds = _worlds(scenarios[1:], _seeds(seeds), faults, False)
            code = sim_twice.run(list(worlds), None if as_json else console())
        else:
            from holdfast.cli.sim_run import Night

            worlds = _worlds(scenarios or [], _seeds(seeds), faults, until_failure)
            total = None if until_failure else len(_seeds(seeds))
            night = Night(worlds, total, jobs, until_failure, every_mark)
            code = night.run(None if as_json else console(), out, smaller=not no_shrink)
    raise typer.Exit(code)


def _worlds(scenarios: list[str], seeds: range, faults: str, until_failure: bool) -> Iterable[Job]:
    from holdfast.sim.runner import jobs_of

    try:
        return jobs_of(scenarios, count(seeds.start) if until_failure else seeds, _groups(faults))
    except ValueError as error:
        raise CliError(str(error)) from None


def _list(as_json: bool) -> int:
    from holdfast.sim.marks import MARKS
    from holdfast.sim.options import FAULTS, SCENARIOS
    from holdfast.sim.violations import CHECKS

    lists = {
        "scenarios": dict(SCENARIOS),
        "checks": dict(CHECKS),
        "marks": dict(MARKS),
        "faults": dict(FAULTS),
    }
    if as_json:
        print_json(lists)
        return EXIT_GOOD
    out = console()
    for title, entries in lists.items():
        out.print(f"{title}:", style="bold")
        for name, sentence in entries.items():
            out.print(f"  {name:<24} {sentence}", highlight=False)
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
