"""Shrinking a case of tier 1: fewer steps, and calls that fare well, that fail the same check.

Delta debugging: leave out large parts first, then smaller ones, until no single step can be left out.
What counts as the same failure is the same check saying the same sentence, whatever the ids in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from holdfast.sim.tier1.cases import Answer, Ask, Case, Effect, Step, replay
from holdfast.sim.tier1.checks import ViolationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.sim.tier1.trial import Fate

REPLAYS_MAX: Final = 5_000
"""Shrinking ends after so many replays, with what it has by then."""

_IDS = re.compile(r"\S*\d\S*")


def kind_of(check: str, what: str) -> str:
    """What a violation is about, whatever the ids and numbers in it."""
    return f"{check}: {_IDS.sub('#', what.partition('; ')[0])}"


def failure_of(case: Case) -> ViolationError | None:
    """How a case fails, looked at as closely as its check needs."""
    try:
        replay(case, closely=False)
    except ViolationError as error:
        return error
    return None


class Shrunk:
    """A case while it shrinks.

    Attributes:
      case: The smallest that fails so far.
      replays: How many there were.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.replays = 0
        self._kind = kind_of(case.check, case.why)

    def accept(self, steps: tuple[Step, ...], fates: Mapping[str, Fate]) -> bool:
        """Take a smaller case if it fails alike."""
        if self.replays >= REPLAYS_MAX:
            return False
        self.replays += 1
        smaller = replace(self.case, steps=steps, fates=dict(fates))
        error = failure_of(smaller)
        if error is None or kind_of(error.check, error.what) != self._kind:
            return False
        self.case = replace(smaller, why=error.what)
        return True


def shrink(case: Case, progress: Callable[[Case], None] | None = None) -> Case:
    """The smallest case found that fails as *case* does.

    Args:
      case: One that fails.
      progress: Called with each smaller case.

    Raises:
      ValueError: *case* does not fail when it is played.
    """
    shrunk = Shrunk(case)
    if not shrunk.accept(case.steps, case.fates):
        raise ValueError("the case does not fail when it is played, so it cannot be shrunk")
    while True:
        before = len(shrunk.case.steps), len(shrunk.case.fates)
        _fewer_steps(shrunk, progress)
        _fewer_fates(shrunk)
        if progress is not None:
            progress(shrunk.case)
        if (len(shrunk.case.steps), len(shrunk.case.fates)) == before:
            return shrunk.case


def _fewer_steps(shrunk: Shrunk, progress: Callable[[Case], None] | None) -> None:
    size = max(len(shrunk.case.steps) // 2, 1)
    while size:
        at = len(shrunk.case.steps)
        while at > 0:  # from the end: what comes later hangs on what was before
            at = max(at - size, 0)
            steps = shrunk.case.steps
            if shrunk.accept(steps[:at] + steps[at + size :], shrunk.case.fates) and progress:
                progress(shrunk.case)
        size //= 2


def _fewer_fates(shrunk: Shrunk) -> None:
    named = {step.action for step in shrunk.case.steps if isinstance(step, Answer | Effect)}
    fates = shrunk.case.fates
    shrunk.accept(shrunk.case.steps, {name: fates[name] for name in fates if name in named})
    for name in list(shrunk.case.fates):
        fates = shrunk.case.fates
        shrunk.accept(shrunk.case.steps, {n: fate for n, fate in fates.items() if n != name})


def commands_in(case: Case) -> int:
    """How many commands are left in a case; the first opens the practice."""
    return sum(isinstance(step, Ask) for step in case.steps)
