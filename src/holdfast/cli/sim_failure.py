"""What ``holdfast sim`` leaves behind of a failure: the smallest case that fails so, and a page that shows it."""

from __future__ import annotations

import shlex
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
from rich.markup import escape

from holdfast.cli.common import EXIT_FAILED, EXIT_GOOD, CliError, print_json
from holdfast.sim.cases import (
    Case,
    CaseError,
    Size,
    read_case,
    run_case,
    size_of,
    unused,
    write_case,
)
from holdfast.sim.report import write_report
from holdfast.sim.runner import sentence_of
from holdfast.sim.search import NoFailureError
from holdfast.sim.shrink import shrink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import Console

    from holdfast.sim.run import Result
    from holdfast.sim.runner import Job
    from holdfast.sim.violations import Violation
    from holdfast.sim.world import World


class Failure(msgspec.Struct, frozen=True):
    """What is kept of a failed world.

    Attributes:
      case: Where its case is.
      page: Where the page is that shows it; "" if it did not fail again.
      command: Runs the case again.
      before: How much happened in the world as it was found.
      size: How much happens in the case.
      runs: Worlds run to make it smaller.
      difference: To the nearest world that holds; "" if none was found.
      trouble: Why it is not as small as it might be; "" if it is.
    """

    case: str
    page: str
    command: str
    before: Size
    size: Size
    runs: int = 0
    difference: str = ""
    trouble: str = ""


def keep(
    job: Job,
    violation: Violation,
    folder: Path,
    *,
    smaller: bool,
    progress: Callable[[int, Size], object] | None = None,
) -> Failure:
    """Write the case of a failed world into *folder*, and its page.

    Args:
      job: The world.
      violation: What failed in it.
      folder: Made if it is not there.
      smaller: Look for the smallest world that fails so.
      progress: Called after each world that is run for that.

    Raises:
      CliError: They cannot be written.
    """
    why = f"{violation.check}: {violation.details}"
    case = Case(job.seed, job.scenario, job.groups, check=violation.check, why=why)
    name = f"{job.scenario}-{job.seed}"
    return keep_case(case, name, folder, smaller=smaller, progress=progress)


def keep_case(
    case: Case,
    name: str,
    folder: Path,
    *,
    smaller: bool,
    progress: Callable[[int, Size], object] | None = None,
) -> Failure:
    """Write *case*, which fails, and its page under *name* into *folder*; for the rest see :func:`keep`."""
    before, runs, difference, trouble = None, 0, "", "as it was found: --no-shrink"
    if smaller:
        try:
            shrunk = shrink(case, progress=progress)
        except NoFailureError as error:
            trouble = f"run again here it does not fail so: {error}"
        except KeyboardInterrupt:
            trouble = "as it was found: interrupted"
        else:
            case, before, runs, difference = (
                shrunk.case,
                shrunk.before,
                shrunk.runs,
                shrunk.difference,
            )
            trouble = ""
    result, world = run_case(case)
    size = size_of(world)
    path = folder / f"{name}.json"
    with _writable(path):
        write_case(path, case)
    return Failure(
        case=str(path),
        page=write_page(folder, case, result, world, path, difference),
        command=command_of_case(path),
        before=before or size,
        size=size,
        runs=runs,
        difference=difference,
        trouble=trouble,
    )


def write_page(
    folder: Path, case: Case, result: Result, world: World, path: Path, difference: str = ""
) -> str:
    """Write the page of a world into *folder*; where it is, or "" if every check held.

    Args:
      folder: Made if it is not there.
      case: The world's.
      result: What became of it.
      world: After its end.
      path: Where the case is.
      difference: To the nearest world that holds.

    Raises:
      CliError: It cannot be written.
    """
    if result.violation is None:
        return ""
    page = folder / f"{path.stem}.html"
    with _writable(page):
        folder.mkdir(parents=True, exist_ok=True)
        write_report(page, case, result, world, difference, str(path))
    return str(page)


@contextmanager
def _writable(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise CliError(
            f"{path} cannot be written: {error.strerror}; name another folder by --out", EXIT_FAILED
        ) from None


def command_of_case(path: Path) -> str:
    """The command that runs a case again."""
    return f"holdfast sim --replay {shlex.quote(str(path))}"


def show(out: Console, failure: Failure) -> None:
    """Say what was kept, and how to see it again."""
    if failure.trouble:
        out.print(f"  not made smaller: {escape(failure.trouble)}", highlight=False)
    else:
        out.print(f"  found with: {failure.before}", highlight=False)
        out.print(f"  made smaller: {failure.size}, in {failure.runs} worlds", highlight=False)
    if failure.difference:
        out.print(f"  nearest that holds: {escape(failure.difference)}", highlight=False)
    out.print(f"  case: {escape(failure.case)}", highlight=False)
    out.print(f"  page: {escape(failure.page)}", highlight=False)
    out.print(f"  again: {escape(failure.command)}", highlight=False)


def replay(path: Path, folder: Path, out: Console | None) -> int:
    """Run the world of the case in *path*; the exit code.

    Args:
      path: Of the case.
      folder: Where the page goes if a check fails.
      out: Where to say what came of it; None prints one line of JSON.

    Raises:
      CliError: The file holds no case, or the page cannot be written.
    """
    try:
        case = read_case(path)
    except CaseError as error:
        raise CliError(str(error)) from None
    result, world = run_case(case)
    failed, size = result.violation, size_of(world)
    page = write_page(folder, case, result, world, path)
    if out is None:
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
