"""What ``holdfast sim`` leaves behind of a failure: the smallest case that fails so."""

from __future__ import annotations

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


class Failure(msgspec.Struct, frozen=True):
    """What is kept of a failed world.

    Attributes:
      case: Where its case is.
      command: Runs the case again.
      before: How much happened in the world as it was found.
      size: How much happens in the case.
      runs: Worlds run to make it smaller.
      difference: To the nearest world that holds; "" if none was found.
      trouble: Why it is not as small as it might be; "" if it is.
    """

    case: str
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
    """Write the case of a failed world into *folder*.

    Args:
      job: The world.
      violation: What failed in it.
      folder: Made if it is not there.
      smaller: Look for the smallest world that fails so.
      progress: Called after each world that is run for that.

    Raises:
      CliError: It cannot be written.
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
    size = size_of(run_case(case)[1])
    path = folder / f"{job.scenario}-{job.seed}.json"
    try:
        write_case(path, case)
    except OSError as error:
        raise CliError(
            f"{path} cannot be written: {error.strerror}; name another folder by --out", EXIT_FAILED
        ) from None
    return Failure(
        case=str(path),
        command=f"holdfast sim --replay {path}",
        before=before or size,
        size=size,
        runs=runs,
        difference=difference,
        trouble=trouble,
    )


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
    out.print(f"  again: {escape(failure.command)}", highlight=False)
