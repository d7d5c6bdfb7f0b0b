"""The nearest world that holds: one thing less happens, and where its trace parts from the failing one.

What a failing run looks like says little by itself. Beside the most similar run that is fine, the
event at which they part is where to begin to read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.sim.clock import START_MS
from holdfast.sim.crowd import EVENTS
from holdfast.sim.search import SWITCHES, nonzero

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.sim.cases import Case
    from holdfast.sim.search import Search, Seen
    from holdfast.sim.trace import Line

NEIGHBOURS_MAX: Final = 24


def nearest(search: Search) -> str:
    """How the case differs from the most similar world that has one thing less and holds."""
    furthest, said = -1, ""
    for what, case in _neighbours(search.best)[:NEIGHBOURS_MAX]:
        try:
            result, world = search.look(case)
        except Exception:  # it does not hold
            continue
        if result.violation is None:
            fails, holds = search.best.lines, world.trace.lines
            at = common_beginning(fails, holds)
            if at > furthest:
                furthest = at
                said = (
                    f"{what} every check holds; the first difference is event {at}\n"
                    f"  fails: {_shown(fails, at)}\n"
                    f"  holds: {_shown(holds, at)}"
                )
    return said


def _neighbours(best: Seen) -> list[tuple[str, Case]]:
    """The best case with one thing less, and what that is."""
    less = [
        (f"without {name}", best.changed({name: 0}))
        for name in [*best.faults(), *best.on((*SWITCHES, *EVENTS))]
    ]
    for at in nonzero(best.schedule()):
        tape = best.schedule()
        tape[at] = 0
        less.append((f"without deviation {at} of the schedule", best.taped(tape)))
    return less


def common_beginning(one: Sequence[Line], other: Sequence[Line]) -> int:
    """How many events are the same from the start."""
    for number, (line, another) in enumerate(zip(one, other, strict=False)):
        if line != another:
            return number
    return min(len(one), len(other))


def _shown(lines: Sequence[Line], at: int) -> str:
    if at >= len(lines):
        return "the end"
    ms, who, what, details = lines[at]
    return f"{(ms - START_MS) / 1000:.3f} s {who} {what} {details}".rstrip()
