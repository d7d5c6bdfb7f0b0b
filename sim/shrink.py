"""Shrinking: a smaller world that fails the same check.

What happened in a failing world is on its tape, each draw with its name, so a smaller world is the
same one with some draws changed to 0. In turn, until nothing helps any more: take out what clients
did, take out faults, let the longest waiting task run, and lower the options. Each step tries large
parts first and halves them (delta debugging), and goes on from what the smaller world really drew.

Faults come in kinds, of which each call has its share: with one taken out, the run goes on to meet
others. So before faults are taken out, those that happened are *pinned*: changed to the values they
have, by name. Then their kinds, or whole groups, can be switched off, and only pins are left to remove.

What a world costs is some 10 to 100 ms, so the budget is a number of worlds, never a time.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.sim.cases import Case, Size, run_case, size_of, trimmed
from holdfast.sim.clock import START_MS
from holdfast.sim.crowd import EVENTS
from holdfast.sim.draws import SCHEDULE, Draws
from holdfast.sim.options import draw_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from holdfast.sim.draws import Draw
    from holdfast.sim.trace import Line
    from holdfast.sim.world import Result, World

    Run = Callable[[Case], tuple[Result, World]]
    Progress = Callable[[int, Size], object]

RUNS_MAX: Final = 1_000
"""Worlds run until shrinking gives up, beside the few below."""

TIDY_RUNS_MAX: Final = 60
NEIGHBOURS_MAX: Final = 24

DEVIATIONS_FEW: Final = 3
"""With more deviations than these, schedules with a single one are tried."""

_SWITCHES: Final = ("swarm.on", "server.swarm")
"""Draws that let a kind of fault happen in a world."""

_MOMENTS: Final = ("process.", "world.")
"""When a process dies and is back; the bounds of these draws change with the group of the faults."""

_ROOM: Final = {
    "process.crash_call_max()": 2,
    "process.crash_s_max()": 0,
    "process.pause_s_max()": 1,
    "process.restart_s_max()": 2,
}
"""The options with the greatest such bounds."""

_COLLECT_EVERY: Final = 16


class NoFailureError(Exception):
    """There is nothing to shrink: the world does not fail that check when it is run again."""


class Shrunk(msgspec.Struct, frozen=True):
    """What shrinking came to.

    Attributes:
      case: Fails the same check.
      before: How much happened in the case that was given.
      size: How much happens in *case*.
      runs: How many worlds were run.
      difference: The first difference to the nearest world that holds; "" if none was found.
    """

    case: Case
    before: Size
    size: Size
    runs: int
    difference: str


class _Seen:
    """A world that failed, without its objects."""

    def __init__(self, case: Case, size: Size, result: Result, world: World) -> None:
        made = {name: value for name, _, value in world.draws.tape if name != SCHEDULE}
        # A change that no draw asked for changes nothing.
        changes = {name: value for name, value in case.changes.items() if name in made}
        tape = None if case.tape is None else tuple(world.draws.schedule_tape())
        self.case = trimmed(msgspec.structs.replace(case, changes=changes, tape=tape))
        self.size = size
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


def shrink(
    case: Case,
    *,
    run: Run = run_case,
    runs_max: int = RUNS_MAX,
    progress: Progress | None = None,
) -> Shrunk:
    """Find a smaller case that fails the check of *case*.

    Args:
      case: Fails ``case.check``; if that is "", whichever check fails is taken.
      run: Runs a case. An exception it raises is no failure of a check.
      runs_max: How many worlds may be run on the search.
      progress: Called after each with the number of runs and the size reached.

    Raises:
      NoFailureError: All holds, or another check fails.
    """
    search = _Search(case, run, runs_max, progress)
    before = search.best.size
    search.shrink()
    search.tidy()
    best = search.best
    why = best.case.why or f"{best.case.check}: {best.details}"
    small = msgspec.structs.replace(best.case, why=why)
    difference = search.nearest()
    return Shrunk(small, before, best.size, search.runs, difference)


class _Search:
    """Tries cases, and keeps the best that fails."""

    def __init__(self, case: Case, run: Run, runs_max: int, progress: Progress | None) -> None:
        self._run = run
        self._progress = progress
        self._runs_max = runs_max
        self.runs = 0
        result, world = self._run_one(case)
        if result.violation is None:
            raise NoFailureError(f"seed {case.seed}, {case.scenario}: every check holds")
        found = result.violation.check
        if case.check and case.check != found:
            raise NoFailureError(
                f"seed {case.seed}, {case.scenario}: {found!r} fails, not {case.check!r}"
            )
        self._check = found
        case = msgspec.structs.replace(case, check=found)
        self.best = _Seen(case, size_of(world), result, world)

    def _run_one(self, case: Case) -> tuple[Result, World]:
        self.runs += 1
        if not self.runs % _COLLECT_EVERY:
            gc.collect()  # runs leave cycles behind, and do not collect them
        return self._run(case)

    def _fails(self, case: Case) -> _Seen | None:
        """What *case* comes to, if it fails the check and the budget allows to find out."""
        if self.runs >= self._runs_max:
            return None
        try:
            result, world = self._run_one(case)
        except Exception:  # another failure, of the world's own
            return None
        finally:
            if self._progress is not None:
                self._progress(self.runs, self.best.size)
        if result.violation is None or result.violation.check != self._check:
            return None
        return _Seen(case, size_of(world), result, world)

    def _try(self, case: Case, *, faults: bool = True) -> bool:
        """Take *case* if it fails and nothing grows; *faults* may, unless they are held."""
        seen = self._fails(case)
        if seen is None:
            return False
        old, new = self.best.size, seen.size
        grows = new.client_events > old.client_events
        grows |= faults and new.faults > old.faults
        if self.best.case.tape is not None and seen.case.tape is not None:
            grows |= new.deviations > old.deviations
        if not grows:
            self.best = seen
        return not grows

    def _with(self, changes: Mapping[str, int], groups: Sequence[str] | None = None) -> Case:
        """The best case with some more changes."""
        case = self.best.case
        return msgspec.structs.replace(
            case,
            changes={**case.changes, **changes},
            groups=case.groups if groups is None else tuple(groups),
        )

    def _taped(self, tape: Sequence[int]) -> Case:
        return msgspec.structs.replace(self.best.case, tape=tuple(tape))

    # -- the steps -------------------------------------------------------------

    def shrink(self) -> None:
        """Do all of it, until a round changes nothing."""
        self._try(self._taped(()), faults=False)  # few bugs need a certain schedule
        before: Case | None = None
        while before != self.best.case and self.runs < self._runs_max:
            before = self.best.case
            self._take_out_events()
            self._take_out_faults()
            self._calm_schedule()
            self._lower_options()

    def _take_out_events(self) -> None:
        for label in EVENTS:
            self._zero(self.best.on((label,)), {}, faults=False)

    def _zero(self, names: list[str], others: Mapping[str, int], *, faults: bool = True) -> None:
        """Set as many of *names* to 0 as possible, together with *others*."""
        part = len(names)
        while part:
            at = 0
            while at < len(names):
                zeros = dict.fromkeys(names[at : at + part], 0)
                if self._try(self._with({**others, **zeros}), faults=faults):
                    left = {name for name, _, value in self.best.draws if value}
                    kept = [name for name in names[:at] if name in left]
                    names = kept + [name for name in names[at + part :] if name in left]
                    at = len(kept)
                else:
                    at += part
            part = 0 if part == 1 else (part + 1) // 2

    def _take_out_faults(self) -> None:
        if not self.best.size.faults and not self.best.case.groups:
            return
        if self._try(self._with(dict.fromkeys(self._faults(), 0), ())):
            return
        if not self._try(self._with(self._pins(), ())):
            for group in self.best.case.groups:
                groups = [name for name in self.best.case.groups if name != group]
                self._try(self._with(self._pins(), groups))
            self._zero(self.best.on(_SWITCHES), self._pins())
        self._zero(self._faults(), {})

    def _pins(self) -> dict[str, int]:
        """The changes that keep the faults that happened, even where their kind is off."""
        options = self._options()
        moments = {
            name: value
            for name, _, value in self.best.draws
            if name.startswith(_MOMENTS) and name not in options
        }
        return {**_ROOM, **moments, **dict.fromkeys(self._faults(), 1)}

    def _faults(self) -> list[str]:
        """The draws of things that happen or do not, made in the world and not 0."""
        options = self._options()
        return [
            name
            for name, bound, value in self.best.draws
            if bound == 2 and value and name not in options and not name.startswith("crowd.")
            if name != SCHEDULE
        ]

    def _options(self) -> dict[str, int]:
        """The draws that were made before the world began, with their values."""
        case = self.best.case
        draws = Draws(case.seed, None, case.changes)
        draw_options(draws, case.scenario, case.groups)
        return {name: value for name, _, value in draws.tape}

    def _lower_options(self) -> None:
        names = [name for name, value in self._options().items() if value and name not in _KEPT]
        self._zero(names, {})
        for name in names:
            least, value = 0, self._options().get(name, 0)
            while value - least > 1:
                middle = (least + value) // 2
                if self._try(self._with({name: middle})):
                    value = middle
                else:
                    least = middle

    # -- the schedule ------------------------------------------------------------

    def _calm_schedule(self) -> None:
        if not self.best.size.deviations or self._try(self._taped(())):
            return
        if self.best.case.tape is None and not self._try(self._taped(self._schedule())):
            return  # a tape that replays does not: the run is not a function of its draws
        least, length = 0, len(self._schedule())
        while length - least > 1:
            middle = (least + length) // 2
            if self._try(self._taped(self._schedule()[:middle])):
                length = middle
            else:
                least = middle
        self._zero_schedule()
        if self.best.size.deviations > DEVIATIONS_FEW:
            self._deviate_once()

    def _schedule(self) -> list[int]:
        return [value for name, _, value in self.best.draws if name == SCHEDULE]

    def _zero_schedule(self) -> None:
        """Set scheduling draws to 0 from the end on: what is before stays as it is."""
        part = len(_nonzero(self._schedule()))
        while part:
            end = len(_nonzero(self._schedule()))
            while end > 0:
                tape = self._schedule()
                for at in _nonzero(tape)[max(0, end - part) : end]:
                    tape[at] = 0
                self._try(self._taped(tape))
                end -= part
            part = 0 if part == 1 else (part + 1) // 2

    def _deviate_once(self) -> None:
        """Try schedules that take another task once; half of the budget that is left."""
        calm = self._run_one(self._taped(()))[1].draws.tape
        bounds = [bound for name, bound, _ in calm if name == SCHEDULE]
        last = self.runs + (self._runs_max - self.runs) // 2
        for at, bound in enumerate(bounds):
            for value in range(1, bound):
                if self.runs >= last or self._try(self._taped([*[0] * at, value])):
                    return

    # -- afterwards ----------------------------------------------------------------

    def tidy(self) -> None:
        """Leave out changes without which the very same happens."""
        self._runs_max = self.runs + TIDY_RUNS_MAX
        names = list(self.best.case.changes)
        part = len(names)
        while part:
            for at in range(0, len(names), part):
                case, left_out = self.best.case, names[at : at + part]
                fewer = {
                    name: value for name, value in case.changes.items() if name not in left_out
                }
                if len(fewer) == len(case.changes):
                    continue
                seen = self._fails(msgspec.structs.replace(case, changes=fewer))
                if seen is not None and seen.digest == self.best.digest:
                    self.best = seen
            part = 0 if part == 1 else (part + 1) // 2

    def nearest(self) -> str:
        """How the case differs from the most similar world in which one thing less happens, and that holds."""
        best, said = -1, ""
        for what, case in self._neighbours()[:NEIGHBOURS_MAX]:
            try:
                result, world = self._run_one(case)
            except Exception:  # as above
                continue
            if result.violation is None:
                lines = world.trace.lines
                at = common_beginning(self.best.lines, lines)
                if at > best:
                    best, said = at, _difference(what, at, self.best.lines, lines)
        return said

    def _neighbours(self) -> list[tuple[str, Case]]:
        """The best case with one thing less, and what that is."""
        less = [
            (f"without {name}", self._with({name: 0}))
            for name in [*self._faults(), *self.best.on(EVENTS)]
        ]
        for at in _nonzero(self._schedule()):
            tape = self._schedule()
            tape[at] = 0
            less.append((f"without deviation {at} of the schedule", self._taped(tape)))
        return less


_KEPT: Final = ("world.schedule()",)
"""Options that are not lowered: a tape says more."""


def common_beginning(one: Sequence[Line], other: Sequence[Line]) -> int:
    """How many events are the same from the start."""
    for number, (line, another) in enumerate(zip(one, other, strict=False)):
        if line != another:
            return number
    return min(len(one), len(other))


def _difference(what: str, at: int, fails: Sequence[Line], holds: Sequence[Line]) -> str:
    """In three lines: what was changed, and the first event that differs in both runs."""
    return (
        f"{what} every check holds; the first difference is event {at}\n"
        f"  fails: {_shown(fails, at)}\n"
        f"  holds: {_shown(holds, at)}"
    )


def _shown(lines: Sequence[Line], at: int) -> str:
    if at >= len(lines):
        return "the end"
    ms, who, what, details = lines[at]
    return f"{(ms - START_MS) / 1000:.3f} s {who} {what} {details}".rstrip()


def _nonzero(tape: Sequence[int]) -> list[int]:
    return [at for at, value in enumerate(tape) if value]
