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

import math
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.sim.cases import Case, Size, run_case
from holdfast.sim.crowd import EVENTS
from holdfast.sim.draws import SCHEDULE
from holdfast.sim.lone_faults import WINDOWS, lone_faults, lone_windows
from holdfast.sim.nearest import nearest
from holdfast.sim.search import SWITCHES, Search, half, nonzero

if TYPE_CHECKING:
    from holdfast.sim.search import Progress, Run, Seen

RUNS_MAX: Final = 1_000
"""Worlds run until shrinking gives up, beside the few below."""

TIDY_RUNS_MAX: Final = 60

FAULTS_FEW: Final = 3
"""With more faults than these, worlds with a single one are tried."""

HALVINGS_MAX: Final = 4
"""How often an option that cannot be 0 is halved."""

DEVIATIONS_FEW: Final = 3
"""With more deviations than these, schedules with a single one are tried."""

_MOMENTS: Final = ("process.", "world.")
"""When a process dies and is back; the bounds of these draws change with the group of the faults."""

_ROOM: Final = {
    "process.crash_call_max()": 2,
    "process.crash_s_max()": 0,
    "process.pause_s_max()": 1,
    "process.restart_s_max()": 2,
}
"""The options with the greatest such bounds."""

_KEPT: Final = ("world.schedule()",)
"""Options that are not lowered: a tape says more."""


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
    search = Search(case, run, runs_max, progress)
    before = search.best.size
    search.take(search.best.taped(()), faults_max=math.inf)  # few bugs need a certain schedule
    earlier: Case | None = None
    while earlier != search.best.case and not search.over:
        earlier = search.best.case
        for label in EVENTS:
            search.zero(search.best.on((label,)), faults_max=math.inf)
        _take_out_faults(search)
        _calm_schedule(search)
        search.zero(_options(search))
        _halve_options(search)
    _tidy(search)
    best = search.best
    why = best.case.why or f"{best.case.check}: {best.details}"
    difference = nearest(search)
    small = msgspec.structs.replace(best.case, why=why)
    return Shrunk(small, before, best.size, search.runs, difference)


# -- the steps -------------------------------------------------------------------------------------


def _take_out_faults(search: Search) -> None:
    if not search.best.faults() and not search.best.case.groups:
        return
    if search.take(search.best.changed(dict.fromkeys(search.best.faults(), 0), ())):
        return
    if not search.take(search.best.changed(_pins(search.best), ())):
        for group in search.best.case.groups:
            groups = [name for name in search.best.case.groups if name != group]
            search.take(search.best.changed(_pins(search.best), groups))
        search.zero(search.best.on(SWITCHES), _pins(search.best))
    search.zero(search.best.faults())
    if search.best.size.faults > FAULTS_FEW:
        _try_lone_faults(search)


def _pins(best: Seen) -> dict[str, int]:
    """The changes that keep the faults that happened, even where their kind is off."""
    options = best.options()
    moments = {
        name: value
        for name, _, value in best.draws
        if name.startswith(_MOMENTS) and name not in options
    }
    return {**_ROOM, **moments, **dict.fromkeys(best.faults(), 1)}


def _try_lone_faults(search: Search) -> None:
    """Try worlds in which one thing goes wrong and no other; half of the runs that are left."""
    best = search.best
    calm = {**dict.fromkeys(best.faults(), 0), **_ROOM}
    switches = dict.fromkeys(best.on(SWITCHES), 0)
    last = search.runs + (search.runs_max - search.runs) // 2
    try:
        lines = search.look(best.changed(calm, ()))[1].trace.lines
    except Exception:  # a failure of another kind
        return
    cases = [
        best.changed({**calm, **switches, **window}, (group,))
        for kind, group in WINDOWS.items()
        if f"server.swarm({kind!r},)" in switches
        for window in lone_windows(kind, lines)
    ]
    cases += [best.changed({**calm, **fault}, ()) for fault in lone_faults(lines)]
    for case in cases:
        if search.runs >= last or search.take(case):
            return


def _options(search: Search) -> list[str]:
    """The options that may be lowered."""
    return [name for name, value in search.best.options().items() if value and name not in _KEPT]


def _halve_options(search: Search) -> None:
    for name in _options(search):
        for _ in range(HALVINGS_MAX):
            value = search.best.options().get(name, 0) // 2
            if not value or not search.take(search.best.changed({name: value})):
                break


def _calm_schedule(search: Search) -> None:
    if not search.best.size.deviations or search.take(search.best.taped(())):
        return
    if search.best.case.tape is None and not search.take(
        search.best.taped(search.best.schedule()), faults_max=math.inf
    ):
        return  # a tape that replays does not: the run is not a function of its draws
    least, length = 0, len(search.best.schedule())
    while length - least > 1:
        middle = (least + length) // 2
        if search.take(search.best.taped(search.best.schedule()[:middle])):
            length = middle
        else:
            least = middle
    part = len(nonzero(search.best.schedule()))
    while part:
        # From the end on: what is before a draw stays as it is.
        end = len(nonzero(search.best.schedule()))
        while end > 0:
            tape = search.best.schedule()
            for at in nonzero(tape)[max(0, end - part) : end]:
                tape[at] = 0
            search.take(search.best.taped(tape))
            end -= part
        part = half(part)
    if search.best.size.deviations > DEVIATIONS_FEW:
        _deviate_once(search)


def _deviate_once(search: Search) -> None:
    """Try schedules that take another task once; half of the runs that are left."""
    calm = search.look(search.best.taped(()))[1].draws.tape
    bounds = [bound for name, bound, _ in calm if name == SCHEDULE]
    last = search.runs + (search.runs_max - search.runs) // 2
    for at, bound in enumerate(bounds):
        for value in range(1, bound):
            if search.runs >= last or search.take(search.best.taped([*[0] * at, value])):
                return


# -- afterwards ------------------------------------------------------------------------------------


def _tidy(search: Search) -> None:
    """Leave out changes without which the very same happens."""
    search.runs_max = search.runs + TIDY_RUNS_MAX
    names = list(search.best.case.changes)
    part = len(names)
    while part:
        for at in range(0, len(names), part):
            changes, left_out = search.best.case.changes, names[at : at + part]
            fewer = {name: value for name, value in changes.items() if name not in left_out}
            if len(fewer) < len(changes):
                seen = search.fails(msgspec.structs.replace(search.best.case, changes=fewer))
                if seen is not None and seen.digest == search.best.digest:
                    search.best = seen
        part = half(part)
