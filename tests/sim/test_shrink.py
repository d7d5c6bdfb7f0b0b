"""Shrinking: what is not needed for a failure goes, what is needed stays, and another failure is none.

Most of it is shown with a toy world, in which a test says what fails; it draws as a real one does.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from holdfast.sim import cases
from holdfast.sim.cases import Case, Size
from holdfast.sim.draws import Draws
from holdfast.sim.nearest import NEIGHBOURS_MAX
from holdfast.sim.options import draw_options
from holdfast.sim.search import NoFailureError
from holdfast.sim.shrink import TIDY_RUNS_MAX, shrink
from holdfast.sim.trace import Trace
from holdfast.sim.violations import Violation
from holdfast.transport import memory_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.sim.run import Result
    from holdfast.sim.search import Run
    from holdfast.sim.world import World

CUSTOMERS, CALLS, STEPS = 16, 24, 60


class Toy:
    """What shrinking looks at of a world.

    Attributes:
      came: Which customers came.
      lost: Which calls were lost.
      schedule: Who ran at each step.
    """

    def __init__(self, case: Case) -> None:
        self.draws = Draws(case.seed, case.tape, case.changes)
        self.options = draw_options(self.draws, case.scenario, case.groups)
        self.trace = Trace(lambda: 0)
        self.trace.note("world", "faults for", str(self.options.fault_s))
        self.came = [
            number for number in range(CUSTOMERS) if self.draws.chance("crowd.comes", 1.0, number)
        ]
        for number in self.came:
            self.trace.note(f"customer {number}", "comes")
        share = 0.5 if "wire" in case.groups else 0.0
        self.lost = [
            number for number in range(CALLS) if self.draws.chance("wire.drop", share, number)
        ]
        for number in self.lost:
            self.trace.fault("wire", "drop", str(number))
        self.schedule = [self.draws.schedule(3) for _ in range(STEPS)]
        self.crowd = SimpleNamespace(sent=len(self.came))


def toy(check_of: Callable[[Toy], str]) -> Run:
    """Runs toys; *check_of* says which check fails, or ""."""

    def run(case: Case) -> tuple[Result, World]:
        world = Toy(case)
        check = check_of(world)
        violation = Violation(check, "planted", 0) if check else None
        result: Any = SimpleNamespace(violation=violation, digest=world.trace.digest())
        return cast("Result", result), cast("World", world)

    return run


CASE = Case(3, "mixed", ("wire",))
FIRST = Toy(CASE)
LOST = FIRST.lost[3]
STEP = next(step for step in range(30, STEPS) if FIRST.schedule[step])
VALUE = FIRST.schedule[STEP]


@pytest.mark.slow
def test_what_a_failure_needs_stays_and_all_else_goes() -> None:
    """Two customers, one lost call, and one step out of turn."""

    def check_of(world: Toy) -> str:
        needed = 2 in world.came and 11 in world.came and LOST in world.lost
        return "S1 no overlap" if needed and world.schedule[STEP] == VALUE else ""

    shrunk = shrink(CASE, run=toy(check_of))
    assert shrunk.before == cases.size_of(cast("World", FIRST))
    assert shrunk.size == Size(2, 1, 1)
    assert shrunk.case.tape == (*[0] * STEP, VALUE)
    assert shrunk.case.groups == ()
    assert shrunk.case.changes[f"wire.drop({LOST},)"] == 1
    assert set(shrunk.case.changes.values()) == {0, 1}
    assert shrunk.case.check == "S1 no overlap"
    assert shrunk.case.why == "S1 no overlap: planted"
    again, _ = toy(check_of)(shrunk.case)
    assert again.violation is not None


def test_a_failure_that_needs_nothing_is_left_with_nothing() -> None:
    shrunk = shrink(CASE, run=toy(lambda _: "S8 store"))
    assert shrunk.size == Size(0, 0, 0)
    assert shrunk.difference == ""


def test_another_failure_is_none() -> None:
    """With fewer than ten customers another check fails, and with fewer than six the run breaks."""

    def check_of(world: Toy) -> str:
        assert len(world.came) >= 6
        return "S1 no overlap" if len(world.came) >= 10 else "S4 money"

    assert shrink(CASE, run=toy(check_of)).size.client_events == 10


def test_options_are_lowered() -> None:
    """To 0 if that will do, otherwise by halves."""

    def check_of(world: Toy) -> str:
        return "S1 no overlap" if world.options.fault_s >= 25 else ""

    seed = next(seed for seed in range(99) if Toy(Case(seed, "mixed")).options.fault_s > 60)
    shrunk = shrink(Case(seed, "mixed"), run=toy(check_of))
    assert 25 <= Toy(shrunk.case).options.fault_s < 32
    options = [name for name in shrunk.case.changes if not name.startswith("crowd.comes")]
    assert options == ["world.fault_s()"], "what changes nothing else is not written down"


@pytest.mark.slow
def test_one_step_out_of_turn_is_found_where_many_were_needed() -> None:
    def check_of(world: Toy) -> str:
        strange = sum(1 for value in world.schedule if value)
        return "S8 store" if strange >= 20 or (strange == 1 and world.schedule[7] == 2) else ""

    shrunk = shrink(CASE, run=toy(check_of))
    assert shrunk.case.tape == (*[0] * 7, 2)


def test_the_nearest_world_that_holds_is_told() -> None:
    """Of the things that can be left out, the one that makes a difference last."""

    def check_of(world: Toy) -> str:
        return "S8 store" if 4 in world.came and LOST in world.lost else ""

    shrunk = shrink(CASE, run=toy(check_of))
    assert shrunk.difference.splitlines()[0].startswith(f"without wire.drop({LOST},) every check")
    assert f"wire drop {LOST}" in shrunk.difference.splitlines()[1]
    assert shrunk.difference.endswith("holds: the end")


def test_no_more_worlds_are_run_than_allowed() -> None:
    runs: list[int] = []

    def tell(number: int, _size: Size) -> None:
        runs.append(number)

    def check_of(world: Toy) -> str:
        return "S8 store" if len(world.came) >= 13 else ""

    shrunk = shrink(CASE, run=toy(check_of), runs_max=50, progress=tell)
    assert runs == sorted(runs)
    assert 50 <= shrunk.runs <= 50 + TIDY_RUNS_MAX + NEIGHBOURS_MAX


@pytest.mark.parametrize(
    ("fails", "sentence"),
    [("", "seed 3, mixed: every check holds"), ("S4 money", "'S4 money' fails, not 'S8 store'")],
)
def test_what_does_not_fail_so_cannot_be_shrunk(fails: str, sentence: str) -> None:
    case = Case(3, "mixed", check="S8 store")
    with pytest.raises(NoFailureError, match=sentence):
        shrink(case, run=toy(lambda _: fails))


@pytest.mark.slow
def test_a_bug_of_the_product_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits are written whoever holds the book: two actors, the practice and a lease that vanishes show it.

    As long as each lease is held, nobody takes a book from the living.
    """

    def never(*_: object) -> bool:
        return False

    monkeypatch.setattr(memory_log, "_fenced", never)
    shrunk = shrink(Case(0, "rivals"))
    assert shrunk.case.check == "S8 store"
    assert shrunk.size == Size(1, 1, 0)
    failed, world = cases.run_case(shrunk.case)
    assert failed.violation is not None
    assert [world.trace.lines[number][2] for number in world.trace.faults] == ["evicted"]
    monkeypatch.undo()
    assert cases.run_case(shrunk.case)[0].violation is None
