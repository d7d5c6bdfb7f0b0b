"""``holdfast sim``: the production actors in seeded worlds, through every fault we know."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.common import (
    EXIT_FAILED,
    EXIT_GOOD,
    EXIT_INTERRUPTED,
    CliError,
    JsonOption,
    console,
    errors_of_one_sentence,
    print_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import Console

    from holdfast.cli.sim_failure import Failure
    from holdfast.sim.cases import Size
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
    """
    with errors_of_one_sentence():
        if replay is not None:
            if scenarios:
                raise CliError(
                    "--replay runs the scenario that its case names: name none beside it"
                )
            code = _replay(replay, out, as_json)
        elif scenarios == ["list"]:
            code = _list(as_json)
        else:
            worlds = _worlds(scenarios or [], _seeds(seeds), faults, until_failure)
            total = None if until_failure else len(_seeds(seeds))
            night = _Night(worlds, total, jobs, until_failure)
            code = night.run(None if as_json else console(), out, smaller=not no_shrink)
    raise typer.Exit(code)


def _worlds(scenarios: list[str], seeds: range, faults: str, until_failure: bool) -> Iterable[Job]:
    from holdfast.sim.runner import jobs_of

    try:
        return jobs_of(scenarios, count(seeds.start) if until_failure else seeds, _groups(faults))
    except ValueError as error:
        raise CliError(str(error)) from None


class _Night:
    """Runs worlds until they are all run, one fails, or somebody has enough.

    Args:
      worlds: Which.
      total: How many; None for any number.
      processes: At a time.
      until_failure: Whether the first failure ends it.
    """

    def __init__(
        self, worlds: Iterable[Job], total: int | None, processes: int, until_failure: bool
    ) -> None:
        self._worlds, self._total = worlds, total
        self._processes, self._until_failure = processes, until_failure
        self._interrupted = False

    def run(self, out: Console | None, folder: Path, *, smaller: bool) -> int:
        """Run them, and keep the first failure in *folder*; the exit code.

        Args:
          out: Where to say so; None prints one line of JSON in the end.
          folder: Where the case is written.
          smaller: Whether to look for the smallest.
        """
        from holdfast.cli import sim_failure

        with self._stoppable():
            summary = self._watch(out)
            failure = None
            if out is not None:
                if self._interrupted:
                    out.print("interrupted")
                _print(out, summary)
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
        if summary.violations:
            return EXIT_FAILED
        return EXIT_INTERRUPTED if self._interrupted else EXIT_GOOD

    @contextmanager
    def _stoppable(self) -> Generator[None]:
        """Let the first Ctrl-C end the work after the world that runs, and a second one at once."""

        def stop(_number: int, _frame: object) -> None:
            self._interrupted = True
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _watch(self, out: Console | None) -> Summary:
        """Run with a line that tells how far it is."""
        from holdfast.sim.marks import MARKS
        from holdfast.sim.runner import run_jobs

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
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        if out is None:
            yield lambda _done, _text: None
            return
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=out, transient=True) as bars:
            task = bars.add_task("", total=self._total)
            yield lambda done, text: bars.update(task, completed=done, description=text)


def _replay(path: Path, folder: Path, as_json: bool) -> int:
    """Run the world of a case; if a check fails, write its page into *folder*."""
    from rich.markup import escape

    from holdfast.cli.sim_failure import write_page
    from holdfast.sim.cases import CaseError, read_case, run_case, size_of, unused
    from holdfast.sim.runner import sentence_of

    try:
        case = read_case(path)
    except CaseError as error:
        raise CliError(str(error)) from None
    result, world = run_case(case)
    failed, size = result.violation, size_of(world)
    page = write_page(folder, case, result, world, path)
    if as_json:
        facts = {
            "holds": failed is None,
            "case": case,
            "check": failed.check if failed else "",
            "details": failed.details if failed else "",
            "size": size,
            "events": result.events,
            "digest": result.digest,
            "unused": unused(case, world),
            "page": page,
        }
        print_json(facts)
        return EXIT_FAILED if failed else EXIT_GOOD
    out = console()
    out.print(f"seed {case.seed}, {case.scenario}: {size}; {result.events} events", highlight=False)
    for name in unused(case, world):
        out.print(f"  no draw of this world is called {escape(name)}", highlight=False)
    if failed is None:
        out.print("every check held")
        return EXIT_GOOD
    out.print(f"  fails: {failed.check}", highlight=False)
    out.print(f"  should be: {sentence_of(failed)}", highlight=False)
    out.print(f"  seen: {escape(failed.details)}", highlight=False)
    out.print(f"  page: {escape(page)}", highlight=False)
    return EXIT_FAILED


def _facts(summary: Summary, failure: Failure | None, interrupted: bool) -> dict[str, object]:
    from holdfast.sim.runner import command_of

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
        "kept": failure,
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
    failed = len(summary.violations)
    out.print(
        f"every check held in {summary.runs - failed:,} worlds, one failed in {failed}; the first:"
    )
    out.print(f"  seed {job.seed}, {job.scenario}: {violation.check}", highlight=False)
    out.print(f"  should be: {sentence_of(violation)}", highlight=False)
    out.print(f"  seen: {escape(violation.details)}", highlight=False)
    out.print(f"  options: {escape(str(options_of(job)))}", highlight=False)
    out.print(f"  found by: {command_of(job)}", highlight=False)


def _list(as_json: bool) -> int:
    from holdfast.sim.checks import CHECKS
    from holdfast.sim.marks import MARKS
    from holdfast.sim.options import FAULTS, SCENARIOS

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
