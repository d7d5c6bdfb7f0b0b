"""The search that shrinking is: cases tried one after the other, the smallest that fails kept.

What is told here is when a case is taken; which ones are tried is told in ``holdfast.sim.shrink``.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.sim.cases import Case, Size, size_of, trimmed
from holdfast.sim.draws import SCHEDULE, Draws
from holdfast.sim.options import draw_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdfast.sim.draws import Draw
    from holdfast.sim.run import Result
    from holdfast.sim.world import World

    Run = Callable[[Case], tuple[Result, World]]
    Progress = Callable[[int, Size], object]

SWITCHES: Final = ("swarm.on", "server.swarm")
"""Draws that let a kind of fault happen in a world."""

_COLLECT_EVERY: Final = 16


class NoFailureError(Exception):
    """There is nothing to shrink: the world does not fail that check when it is run again."""


class Seen:
    """A world that failed, without its objects.

    Attributes:
      case: What was run, without changes that no draw asked for.
      size: How much happened.
      details: What the check saw.
      digest: Of the trace.
      draws: The tape of all draws.
      lines: The trace.
    """

    def __init__(self, case: Case, result: Result, world: World) -> None:
        made = {name: value for name, _, value in world.draws.tape if name != SCHEDULE}
        changes = {name: value for name, value in case.changes.items() if name in made}
        tape = None if case.tape is None else tuple(world.draws.schedule_tape())
        self.case = trimmed(msgspec.structs.replace(case, changes=changes, tape=tape))
        self.size = size_of(world)
        self.details = result.violation.details if result.violation is not None else ""
        self.digest = result.digest
        self.draws: list[Draw] = world.draws.tape
        self.lines = world.trace.lines

    def on(self, labels: Sequence[str]) -> list[str]:
        """The draws of *labels* that are not 0, in the order of the labels."""
        return [
            name
            for label in labels
            for name, _, value in self.draws
            if value and name.startswith(f"{label}(")
        ]

    def options(self) -> dict[str, int]:
        """The draws that were made before the world began, with their values."""
        draws = Draws(self.case.seed, None, self.case.changes)
        draw_options(draws, self.case.scenario, self.case.groups)
        return {name: value for name, _, value in draws.tape}

    def faults(self) -> list[str]:
        """The draws of things that happen or do not, made in the world and not 0; not clients'."""
        options = self.options()
        return [
            name
            for name, bound, value in self.draws
            if bound == 2
            and value
            and name not in options
            and name != SCHEDULE
            and not name.startswith("crowd.")
        ]

    def schedule(self) -> list[int]:
        """The values of all scheduling draws."""
        return [value for name, _, value in self.draws if name == SCHEDULE]

    def changed(self, changes: Mapping[str, int], groups: Sequence[str] | None = None) -> Case:
        """The case with some more changes."""
        case = self.case
        return msgspec.structs.replace(
            case,
            changes={**case.changes, **changes},
            groups=case.groups if groups is None else tuple(groups),
        )

    def taped(self, tape: Sequence[int]) -> Case:
        """The case with another schedule."""
        return msgspec.structs.replace(self.case, tape=tuple(tape))


class Search:
    """Tries cases, and keeps the best that fails.

    Args:
      case: Fails; its check names how, unless it is "".
      run: Runs a case. An exception it raises is no failure of a check.
      runs_max: How many worlds may be run.
      progress: Called after each with the number of runs and the size reached.

    Attributes:
      best: The smallest so far.
      runs: Worlds run so far.

    Raises:
      NoFailureError: All holds, or another check fails.
    """

    def __init__(
        self, case: Case, run: Run, runs_max: int, progress: Progress | None = None
    ) -> None:
        self._run = run
        self._progress = progress
        self.runs_max = runs_max
        self.runs = 0
        result, world = self.look(case)
        which = f"seed {case.seed}, {case.scenario}"
        if result.violation is None:
            raise NoFailureError(f"{which}: every check holds")
        self._check = result.violation.check
        if case.check and case.check != self._check:
            raise NoFailureError(f"{which}: {self._check!r} fails, not {case.check!r}")
        self.best = Seen(msgspec.structs.replace(case, check=self._check), result, world)

    @property
    def over(self) -> bool:
        """Whether all runs are used up."""
        return self.runs >= self.runs_max

    def look(self, case: Case) -> tuple[Result, World]:
        """Run *case*, whatever comes of it."""
        self.runs += 1
        if not self.runs % _COLLECT_EVERY:
            gc.collect()  # runs leave cycles behind, and do not collect them
        return self._run(case)

    def fails(self, case: Case) -> Seen | None:
        """What *case* comes to, if it fails the check and there are runs left to find out."""
        if self.over:
            return None
        try:
            result, world = self.look(case)
        except Exception:  # another failure, of the world's own
            return None
        finally:
            if self._progress is not None:
                self._progress(self.runs, self.best.size)
        if result.violation is None or result.violation.check != self._check:
            return None
        return Seen(case, result, world)

    def take(self, case: Case, *, faults_max: float | None = None) -> bool:
        """Take *case* if it fails and nothing grows.

        Args:
          case: What to try.
          faults_max: How many faults there may be, where that is not as many as there are.
        """
        seen = self.fails(case)
        if seen is None:
            return False
        old, new = self.best.size, seen.size
        grows = new.client_events > old.client_events
        grows |= new.faults > (old.faults if faults_max is None else faults_max)
        if self.best.case.tape is not None and case.tape is not None:
            grows |= new.deviations > old.deviations
        if not grows:
            self.best = seen
        return not grows

    def zero(
        self,
        names: Sequence[str],
        others: Mapping[str, int] | None = None,
        *,
        faults_max: float | None = None,
    ) -> None:
        """Set as many of *names* to 0 as possible, together with *others*."""
        names = list(names)
        part = len(names)
        while part:
            at = 0
            while at < len(names):
                zeros = dict.fromkeys(names[at : at + part], 0)
                case = self.best.changed({**(others or {}), **zeros})
                if self.take(case, faults_max=faults_max):
                    left = {name for name, _, value in self.best.draws if value}
                    kept = [name for name in names[:at] if name in left]
                    names = kept + [name for name in names[at + part :] if name in left]
                    at = len(kept)
                else:
                    at += part
            part = half(part)


def half(part: int) -> int:
    """The size of the parts that are tried next; 0 after single ones."""
    return 0 if part <= 1 else (part + 1) // 2


def nonzero(tape: Sequence[int]) -> list[int]:
    """Where *tape* deviates."""
    return [at for at, value in enumerate(tape) if value]
