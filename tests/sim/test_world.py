"""The simulated world: the same actors, the same run for the same seed, and rest after every fault."""

from __future__ import annotations

import inspect
import sys
import time
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import trio

from holdfast import bootstrap
from holdfast.actors.notification import actor as notification_actor
from holdfast.sim import trace as sim_trace
from holdfast.sim import world as sim_world
from holdfast.sim.marks import MARKS
from holdfast.sim.options import FAULT_GROUPS, SCENARIOS
from holdfast.sim.run import run_world
from holdfast.sim.runner import jobs_of, run_jobs
from holdfast.sim.world import World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

SEEDS = 100
PRODUCT = ("holdfast.machine", "holdfast.actors", "holdfast.transport", "holdfast.bootstrap")


@pytest.mark.slow
def test_every_check_holds_in_the_first_seeds() -> None:
    """A fixed share of what runs by night; the scenarios take turns."""
    summary = run_jobs(jobs_of([], range(SEEDS)))
    assert [(job.seed, job.scenario, v) for job, v in summary.violations] == []
    assert summary.runs == SEEDS
    assert 0.3 <= summary.accepted / summary.asked <= 0.7
    assert len(summary.marks) >= 25


@pytest.mark.slow
def test_half_of_the_payments_fail_where_half_are_to_fail() -> None:
    held = declined = 0
    for seed in range(60):
        _, world = run_world(seed, "payment-failures", ())
        for payment in world.provider.book_of_record.payments():
            held += 1
            declined += payment.status == "declined"
    assert 0.45 <= declined / held <= 0.55


def test_a_world_without_faults_crashes_nobody() -> None:
    result, world = run_world(3, "mixed", ())
    assert result.violation is None
    assert {what for _, _, what, _ in world.trace.lines}.isdisjoint({"pause", "crash"}) or (
        world.options.restart
    )
    assert result.marks.get("crash_in_time", 0) == 0


def test_the_same_seed_gives_the_same_trace_and_another_one_another() -> None:
    first, second, other = run_world(5)[0], run_world(5)[0], run_world(6)[0]
    assert first == second
    assert first.digest != other.digest


def test_a_recorded_schedule_replays_the_run() -> None:
    result, world = run_world(7)
    again, _ = run_world(7, tape=world.draws.schedule_tape())
    assert again.digest == result.digest


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """The functions that *module* defines, those of its classes too."""
    for value in vars(module).values():
        members = vars(value).values() if inspect.isclass(value) else [value]
        for member in members:
            function = inspect.unwrap(getattr(member, "__func__", member))
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                yield function


def test_what_runs_in_the_simulation_is_the_product_unpatched() -> None:
    """Every function that is loaded is, byte for byte, what its module's file says."""
    assert vars(sim_world)["run_with"] is bootstrap.run_with
    run_world(1)
    looked_at = 0
    for name, module in sorted(sys.modules.items()):
        if not name.startswith(PRODUCT) or not getattr(module, "__file__", None):
            continue
        assert module.__file__ is not None
        path = Path(module.__file__)
        source = compile(path.read_text(), str(path), "exec", dont_inherit=True)
        written = {(code.co_qualname, code.co_code): code for code in _codes(source)}
        for function in _functions(module):
            code = function.__code__
            if Path(code.co_filename) != path:
                continue  # made by a library for a struct: its __init__ and the like
            assert (code.co_qualname, code.co_code) in written, f"{name}.{code.co_qualname}"
            looked_at += 1
    assert looked_at > 400


@pytest.mark.parametrize("group", FAULT_GROUPS)
def test_a_group_of_faults_that_is_off_has_no_share(group: str) -> None:
    """Its shares are 0 in every scenario."""
    _, world = run_world(11, "crashes", [name for name in FAULT_GROUPS if name != group])
    options = world.options
    if group == "process":
        assert (options.process.crash_at_call, options.process.pause) == (0, 0)
    if group == "provider":
        assert (options.provider.late, options.provider.stale) == (0, 0)
    if group == "mailer":
        assert (options.mailer.error_before, options.mailer.error_after) == (0, 0)


@pytest.mark.slow
def test_nothing_in_a_run_reaches_outside() -> None:
    """Every call is looked at; ordinary runs look only at the usual ones."""
    for seed, name in enumerate(list(SCENARIOS)[::3]):
        assert run_world(seed, name, thorough=True)[0].violation is None


def test_a_run_that_looks_at_the_clock_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    planted: dict[str, Any] = {"__name__": "holdfast.planted", "time": time}
    exec("def looks(world):\n    time.monotonic()", planted)
    monkeypatch.setattr(World, "_heal", planted["looks"])
    violation = run_world(1)[0].violation
    assert violation is not None
    assert violation.check == "S11 sealed"
    assert "time.monotonic in holdfast.planted" in violation.details


# -- what a world says of actors that misbehave; elsewhere actors are never replaced ---------------


def violation_with(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Awaitable[None]]) -> str:
    """The check that fails where *run* stands in for the notification executor."""
    monkeypatch.setattr(notification_actor, "run_notification", run)
    violation = run_world(2, "mixed", ())[0].violation
    return violation.check if violation else ""


def test_l5_a_process_that_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    run = notification_actor.run_notification

    async def stuck(*args: Any, **options: Any) -> None:  # noqa: ANN401
        await run(*args, **options)
        await trio.sleep_forever()

    assert violation_with(monkeypatch, stuck) == "L5 clean stop"


def test_a_process_that_ends_by_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*args: object, **options: object) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError("oh")

    assert violation_with(monkeypatch, broken) == "no bug"


def test_l2_a_process_that_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def idle(*args: object, stop: trio.Event, **options: object) -> None:
        await stop.wait()

    assert violation_with(monkeypatch, idle) == "L2 no lag"


def test_l4_a_world_that_goes_round_in_circles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_trace, "EVENTS_MAX", 50)
    violation = run_world(2, "mixed", ())[0].violation
    assert violation is not None
    assert violation.check == "L4 no livelock"


def test_every_mark_has_a_sentence() -> None:
    assert len(MARKS) >= 50
    assert all(sentence and not sentence.endswith(".") for sentence in MARKS.values())
