"""What ``holdfast sim`` leaves behind of a failure: the smallest case that fails so, and a page that shows it."""

from __future__ import annotations

import shlex
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from holdfast.cli.common import EXIT_FAILED, CliError
from holdfast.sim.cases import Case, Size, run_case, size_of, write_case
from holdfast.sim.search import NoFailureError
from holdfast.sim.shrink import shrink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import Console

    from holdfast.sim.checks import Violation
    from holdfast.sim.runner import Job
    from holdfast.sim.world import Result, World


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
    path = folder / f"{job.scenario}-{job.seed}.json"
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
    from holdfast.sim.report import write_report

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
    from rich.markup import escape

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
