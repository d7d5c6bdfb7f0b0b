"""The exhaustive sweep: a world is recorded, then run again once for each place where a process may die.

There is a place before each call to the outside, one after its effect and before its answer, and one
before each step of any task of the process, which is every ``await`` that it comes back from. At each
place the process crashes in one run; in another one it is asked to stop; and at a call, in another one
still, it is paused for minutes and goes on with old beliefs. Up to there that run is the recorded one,
draw by draw; what follows must satisfy every check.

What befalls a process, and where, is told by keyed draws that only a change can make. So what is tried at a place is
a case like any other: it can be replayed, made smaller and kept.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import time
from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec

from holdfast.sim.cases import Case, run_case
from holdfast.sim.violations import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from holdfast.sim.run import Result

Where = Literal["before", "after", "step"]
Fate = Literal["crash", "stop", "pause"]

WHERES: Final[tuple[Where, ...]] = get_args(Where)
FATES: Final[tuple[Fate, ...]] = get_args(Fate)

CHUNK: Final = 20
"""Runs handed to a process at a time."""

ON: Final = "sweep.on()"
"""The draw that makes a world count the steps of its processes."""

BASES: Final = (
    Case(
        142, "mixed", (), why="one booking actor, confirmed after its hold had expired, cancelled"
    ),
    Case(793, "rivals", (), why="rivals, calls asked about again after takeovers, retried"),
    Case(748, "mixed", (), why="one booking actor, declined, healed without any restart"),
)
"""Worlds without faults, each small and rich: every place of theirs gets a fault of its own. Where what is
drawn for a seed has changed, the tests ask for others."""


class Life(msgspec.Struct, frozen=True):
    """One life of a process, as it was recorded.

    Attributes:
      process: Such as ``booking-1``.
      number: Which of its lives, from 1.
      calls: What it called outside, in order.
      answered: Which of these came back, by number from 1.
      steps: How often one of its tasks ran on.
    """

    process: str
    number: int
    calls: tuple[str, ...]
    answered: tuple[int, ...]
    steps: int


class Place(msgspec.Struct, frozen=True):
    """Where something befalls one process in one run.

    Attributes:
      where: Before a call, after its effect, or before a step.
      number: Which call or step of that life, from 1.
      what: What is called; "" for a step.
      fate: What befalls it.
    """

    base: Case
    process: str
    life: int
    where: Where
    number: int
    what: str
    fate: Fate

    @property
    def kind(self) -> str:
        """What it is counted under, such as ``booking crash before``."""
        return f"{self.process.partition('-')[0]} {self.fate} {self.where}"

    def case(self, violation: Violation | None = None) -> Case:
        """The world in which it happens here, and what failed in it."""
        life = (self.process, self.life)
        changes = {**self.base.changes, ON: 1}
        if self.where == "step":
            changes |= {f"sweep.at_step{life!r}": 1, f"sweep.step{life!r}": self.number - 1}
        else:
            changes |= {f"sweep.at_call{life!r}": 1, f"sweep.call{life!r}": self.number - 1}
            changes |= {f"sweep.after{life!r}": 1} if self.where == "after" else {}
        if self.fate != "crash":
            changes[f"sweep.{self.fate}{life!r}"] = 1
        check = violation.check if violation else ""
        why = f"{self}: {violation.details}" if violation else str(self)
        return msgspec.structs.replace(self.base, changes=changes, check=check, why=why)

    def __str__(self) -> str:
        where = f"{self.where} call {self.number}, {self.what}"
        if self.where == "step":
            where = f"before step {self.number}"
        return (
            f"seed {self.base.seed}, {self.base.scenario}: {self.process}.{self.life} "
            f"{self.fate} {where}"
        )


class Sweep(msgspec.Struct):
    """What became of all runs of a sweep.

    Attributes:
      kinds: How many places of each kind were tried.
      missed: Places that a run never came to: then the sweep itself is broken.
      violations: What failed where, in the order of the places.
      wall_s: How long it took.
    """

    kinds: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    missed: list[Place] = msgspec.field(default_factory=list[Place])
    violations: list[tuple[Place, Violation]] = msgspec.field(
        default_factory=list[tuple[Place, Violation]]
    )
    wall_s: float = 0.0

    @property
    def runs(self) -> int:
        """How many places were tried."""
        return sum(self.kinds.values())

    @property
    def holds(self) -> bool:
        """Whether every place was reached and every check held."""
        return not self.missed and not self.violations


class _Tried(msgspec.Struct, frozen=True):
    reached: bool
    violation: Violation | None


def record(base: Case) -> tuple[Result, list[Life]]:
    """Run *base* as it is; what each life of each process did.

    Raises:
      ValueError: It fails by itself, so there is nothing to sweep.
    """
    result, world = run_case(msgspec.structs.replace(base, changes={**base.changes, ON: 1}))
    if result.violation is not None:
        raise ValueError(
            f"seed {base.seed}, {base.scenario}: {result.violation.check} fails without the sweep: "
            f"{result.violation.details}"
        )
    lives: list[Life] = []
    for gate in world.lives:
        process, _, life = gate.name.partition(".")
        calls, answered = tuple(gate.made), tuple(gate.answered)
        lives.append(Life(process, int(life), calls, answered, gate.steps))
    return result, lives


def places_of(
    base: Case, wheres: Sequence[Where] = WHERES, fates: Sequence[Fate] = FATES
) -> list[Place]:
    """Every place in *base*, life by life, and what may befall a process there; see :func:`record`."""
    return [
        Place(base, life.process, life.number, where, number, what, fate)
        for life in record(base)[1]
        for where in wheres
        for number, what in _numbers(life, where)
        for fate in fates
        if (where, fate)
        != ("step", "pause")  # it lasts until a call, so that is before the next one
    ]


def _numbers(life: Life, where: Where) -> list[tuple[int, str]]:
    match where:
        case "before":
            return list(enumerate(life.calls, 1))
        case "after":
            return [(number, life.calls[number - 1]) for number in life.answered]
        case "step":
            return [(number, "") for number in range(1, life.steps + 1)]


def sweep(
    places: Sequence[Place],
    processes: int = 1,
    progress: Callable[[Sweep], None] | None = None,
) -> Sweep:
    """Let it happen at each of *places*, in a run for each.

    Args:
      places: See :func:`places_of`.
      processes: How many runs at a time.
      progress: Called after each.
    """
    swept = Sweep()
    begin = time.monotonic()
    for place, tried in zip(places, _tried(places, processes), strict=True):
        swept.kinds[place.kind] = swept.kinds.get(place.kind, 0) + 1
        if tried.violation is not None:
            swept.violations.append((place, tried.violation))
        if not tried.reached:
            swept.missed.append(place)
        swept.wall_s = time.monotonic() - begin
        if progress is not None:
            progress(swept)
    return swept


def _tried(places: Sequence[Place], processes: int) -> Iterator[_Tried]:
    chunks = [list(places[at : at + CHUNK]) for at in range(0, len(places), CHUNK)]
    if processes <= 1:
        for chunk in chunks:
            yield from _try_chunk(chunk)
        return
    # A fresh interpreter for each; Ctrl-C is the parent's to hear, and ends them.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        for tried in pool.imap(_try_chunk, chunks):
            yield from tried


def _try_chunk(places: list[Place]) -> list[_Tried]:
    found = [_try(place) for place in places]
    gc.collect()  # what a run leaves behind are cycles: tasks, scopes, tracebacks
    return found


def _try(place: Place) -> _Tried:
    result, world = run_case(place.case())
    name = f"{place.process}.{place.life}"
    reached = any(gate.struck for gate in world.lives if gate.name == name)
    return _Tried(reached, result.violation)
