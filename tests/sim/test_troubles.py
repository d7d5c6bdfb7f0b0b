"""What befalls processes: wrong clocks, storms, and crashes at the worst of moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.sim.draws import Draws
from holdfast.sim.options import draw_options
from holdfast.sim.run import run_world

if TYPE_CHECKING:
    from holdfast.sim.world import World

LIFE = ("booking-1", 1)


def of(label: str, *key: object) -> str:
    """The name of a draw."""
    return f"{label}{key!r}"


def world_with(changes: dict[str, int], groups: tuple[str, ...] = ("process",)) -> World:
    """A world of which every check holds, and in which something was changed."""
    result, world = run_world(3, "mixed", groups, changes=changes)
    assert result.violation is None
    return world


def faults_of(world: World, what: str) -> list[tuple[str, str]]:
    """Who suffered *what*, and details."""
    lines = [world.trace.lines[number] for number in world.trace.faults]
    return [(who, details) for _, who, kind, details in lines if kind == what]


def test_a_clock_that_is_wrong_is_right_again_when_the_faults_stop() -> None:
    world = world_with({of("process.skew", *LIFE): 1, of("process.skew_ms", *LIFE): 9_001}, ())
    assert faults_of(world, "clock") == [("booking-1.1", "-4500 ms ahead")]
    assert world.marks.counts["clock_skewed"] == 1
    after = [line for line in world.trace.text() if line.endswith("booking-1.1 clock 0 ms ahead")]
    assert len(after) == 1
    assert all(life.clock is None or life.clock.off_ms == 0 for life in world.lives[:1])


def test_a_clock_jumps_in_the_middle_of_a_life() -> None:
    world = world_with(
        {
            of("process.jump", *LIFE): 1,
            of("process.jump_ms", *LIFE): 8_000,
            of("process.jump_at_ms", *LIFE): 5_000,
        },
        (),
    )
    assert faults_of(world, "clock") == [("booking-1.1", "4000 ms ahead")]
    assert world.marks.counts["clock_jumped"] == 1


def test_in_a_storm_every_process_crashes_again_and_again_within_seconds() -> None:
    world = world_with({of("process.storm"): 1, of("process.storm_ms"): 8_000}, ())
    crashed = [who for who, why in faults_of(world, "crash") if why == "storm"]
    assert world.marks.counts["restart_storm"] == 1
    for slot in ("booking-1", "payment-1", "notification-1"):
        assert len([who for who in crashed if who.startswith(slot)]) >= 2
    times = [ms for ms, _, what, why in world.trace.lines if (what, why) == ("crash", "storm")]
    assert max(times) - min(times) <= 20_000


def test_a_process_that_is_stopping_may_still_crash() -> None:
    world = world_with(
        {
            of("process.stop", *LIFE): 1,
            of("process.stop_ms", *LIFE): 5_000,
            of("process.crash_stopping", *LIFE): 1,
            of("process.crash_stopping_call", *LIFE): 0,
        },
        (),
    )
    assert faults_of(world, "stop") == [("booking-1.1", "under faults")]
    assert faults_of(world, "crash")[0][0] == "booking-1.1"
    assert world.marks.counts["crashed_while_stopping"] == 1


@pytest.mark.slow
def test_a_crash_between_takeover_and_first_commit_is_marked() -> None:
    changes = {of("process.crash_at_call", *LIFE): 1, of("process.crash_after", *LIFE): 1}
    found: list[bool] = []
    for number in range(10):
        world = world_with({**changes, of("process.crash_call", *LIFE): number}, ())
        made = next(life.made for life in world.lives if life.name == "booking-1.1")
        found.append("take_over" in made and "commit" not in made)
        assert found[-1] == ("crashed_during_restore" in world.marks.counts)
    assert True in found
    assert False in found


def test_no_process_fault_is_drawn_where_the_group_is_off() -> None:
    for seed in range(20):
        faults = draw_options(Draws(seed), "crashes", ()).process
        assert (faults.skew, faults.jump, faults.storm, faults.crash_stopping) == (0, 0, 0, 0)
