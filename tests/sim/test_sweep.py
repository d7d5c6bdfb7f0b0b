"""The sweep: every place is reached, what it finds is a case, and nothing is lost wherever a process ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from holdfast.actors.notification import actor as notification_actor
from holdfast.sim.cases import run_case, unused
from holdfast.sim.sweep import BASES, places_of, record, sweep
from holdfast.transport.memory_log import MemoryLog

if TYPE_CHECKING:
    from holdfast.sim.sweep import Fate, Place, Where

RICH = (
    "accepted", "refused", "auto_accepted", "replayed", "declined", "expired", "expired_in_flight",
    "confirmed_late", "cancelled_confirmed", "cancelled_in_flight", "superseded", "restored_calls",
    "took_over_backlog", "replayed_from_snapshot", "snapshot_saved", "healed_without_restart",
)  # fmt: skip
SMALL = 280
"""Calls at most; a place costs a run."""

SHORT = BASES[1]


@pytest.mark.slow
def test_the_swept_worlds_are_small_and_rich() -> None:
    """If this fails because other things are drawn now, look for other seeds."""
    marks: dict[str, None] = {}
    for base in BASES:
        result, lives = record(base)
        assert base.groups == ()
        assert sum(len(life.calls) for life in lives) <= SMALL
        kinds = {life.process.partition("-")[0] for life in lives if len(life.answered) > 3}
        assert kinds == {"booking", "payment", "notification"}
        marks |= dict.fromkeys(result.marks)
    assert [name for name in RICH if name not in marks] == []


def test_the_recorded_world_is_the_one_that_is_swept() -> None:
    """Places are counted in it; so it must come out alike, and no step may go uncounted."""
    result, lives = record(SHORT)
    again, same = record(SHORT)
    assert (result.digest, lives) == (again.digest, same)
    for life in lives:
        assert len(life.answered) <= len(life.calls) < life.steps
        assert "take_over" in life.calls or not life.process.startswith("booking")


def assert_nothing_is_lost(places: list[Place]) -> None:
    swept = sweep(places)
    assert [(str(place), violation) for place, violation in swept.violations] == []
    assert [str(place) for place in swept.missed] == []
    assert swept.holds
    assert swept.runs == len(places) > 30


@pytest.mark.slow
def test_nothing_is_lost_at_whatever_call_a_process_crashes() -> None:
    """At every call; before and after its effect in turn. All of it runs where there is more time."""
    before = places_of(SHORT, ["before"], ["crash"])
    after = places_of(SHORT, ["after"], ["crash"])
    assert_nothing_is_lost(before[::2] + after[1::2])


@pytest.mark.slow
def test_nothing_is_lost_where_a_process_is_asked_to_stop() -> None:
    """A clean stop ends in time too, wherever it is asked for."""
    assert_nothing_is_lost(places_of(SHORT, fates=["stop"])[::19])


@pytest.mark.slow
def test_nothing_is_lost_where_a_process_is_paused_and_goes_on_with_old_beliefs() -> None:
    assert_nothing_is_lost(places_of(SHORT, fates=["pause"])[::7])


@pytest.mark.slow
def test_nothing_is_lost_at_whatever_step_a_process_crashes() -> None:
    assert_nothing_is_lost(places_of(SHORT, ["step"], ["crash"])[::16])


def the_place(where: Where, fate: Fate, process: str, what: str) -> Place:
    """The first of its kind."""
    return next(
        place
        for place in places_of(SHORT, [where], [fate])
        if place.what == what and place.process.startswith(process)
    )


def test_a_process_crashes_just_where_it_is_told_to() -> None:
    place = the_place("after", "crash", "booking", "commit")
    _, world = run_case(place.case())
    (struck,) = [gate for gate in world.lives if gate.struck]
    assert struck.name == f"{place.process}.{place.life}"
    assert struck.made[place.number - 1] == "commit"  # a read may have begun since
    done = [(what, details) for _, who, what, details in world.trace.lines if who == struck.name]
    assert done[-1] == ("crash", "after commit")
    assert unused(place.case(), world) == []


def test_a_process_is_asked_to_stop_at_the_very_step() -> None:
    steps = places_of(SHORT, ["step"], ["stop"])
    place = next(at for at in steps if at.process.startswith("payment") and at.number == 20)
    _, world = run_case(place.case())
    (struck,) = [gate for gate in world.lives if gate.struck]
    assert struck.name == f"{place.process}.{place.life}"
    assert (struck.name, "stop", f"before step {place.number}") in [
        (who, what, details) for _, who, what, details in world.trace.lines
    ]
    assert struck.steps >= place.number
    ends = [
        details
        for _, who, what, details in world.trace.lines
        if (who, what) == (place.process, "ended")
    ]
    assert ends[place.life - 1] == "stopped"


def test_a_bug_that_only_a_crash_shows_is_found_at_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here nobody takes over what a dead executor had begun: without a crash nobody needs to."""

    async def nothing(*_: object) -> list[object]:
        await trio.lowlevel.checkpoint()
        return []

    monkeypatch.setattr(MemoryLog, "claim_actions", nothing)
    place = the_place("before", "crash", "payment", "preauthorize")
    swept = sweep([place])
    ((found, violation),) = swept.violations
    assert (found, violation.check, swept.missed) == (place, "L2 no lag", [])
    again, _ = run_case(place.case(violation))
    assert again.violation == violation


def test_a_place_that_is_never_reached_is_told() -> None:
    place = places_of(SHORT, ["before"], ["crash"])[0]
    nowhere = msgspec.structs.replace(place, number=100_000)
    swept = sweep([place, nowhere])
    assert swept.missed == [nowhere]
    assert not swept.holds


def test_a_world_that_fails_by_itself_is_not_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def idle(*_: object, stop: trio.Event, **__: object) -> None:
        await stop.wait()

    monkeypatch.setattr(notification_actor, "run_notification", idle)
    with pytest.raises(ValueError, match="fails without the sweep"):
        record(SHORT)
