"""One seed, run to its end: what it draws, the world, its clock, its scheduler, and what became of it."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import anyio
import anyio.lowlevel
import msgspec
import structlog
import trio

from holdfast.sim.clock import DeadlockError, WorldClock
from holdfast.sim.draws import Draws
from holdfast.sim.leaks import LeakError, Sealed
from holdfast.sim.options import FAULT_GROUPS, draw_options
from holdfast.sim.processes import count_step
from holdfast.sim.scheduler import Fifo, Pct, Scheduler, Uniform
from holdfast.sim.violations import Violation
from holdfast.sim.world import World

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, MutableMapping, Sequence

    from holdfast.sim.marks import Marks
    from holdfast.sim.options import Schedule
    from holdfast.sim.scheduler import Strategy

_LOG_MARKS: Final[Mapping[tuple[str, str], str]] = {
    ("log_away", ""): "log_away",
    ("log_unavailable", ""): "executor_log_away",
    ("actions_claimed", ""): "action_claimed",
    ("snapshot_saved", ""): "snapshot_saved",
    ("tail_lost", ""): "tail_lost",
    ("payment_called", "unknown"): "result_unknown",
    ("amount_differs", ""): "provider_wrong_amount_mattered",
    ("notification_sent", "failed"): "mail_failed",
}
"""Marks of lines that actors log, by event and status."""


class Result(msgspec.Struct, frozen=True):
    """What became of one world.

    Attributes:
      violation: The first check that failed; None where all held.
      digest: Hash of the trace.
      events: Lines of the trace.
      ticks: Steps of tasks.
      virtual_ms: How long the run took in its own time.
      marks: Hits by name.
      asked: Customers' commands decided for the first time.
      accepted: How many of those were accepted.
    """

    seed: int
    scenario: str
    violation: Violation | None
    digest: str
    events: int
    ticks: int
    virtual_ms: int
    marks: dict[str, int]
    asked: int
    accepted: int


@contextmanager
def listening(marks: Marks) -> Generator[None]:
    """What actors log becomes marks, and is written nowhere."""

    def take(_logger: object, _method: str, event: MutableMapping[str, object]) -> str:
        name = event.get("event")
        mark = _LOG_MARKS.get((str(name), "")) or _LOG_MARKS.get(
            (str(name), str(event.get("status", "")))
        )
        if mark is not None:
            marks.hit(mark)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[take],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def _strategy(name: Schedule, draws: Draws) -> Strategy:
    match name:
        case "fifo":
            return Fifo(draws)
        case "uniform":
            return Uniform(draws)
        case "pct":
            return Pct(draws)


@cache
def _load() -> None:
    """Let libraries read the files that they read at their first use."""
    trio.run(anyio.lowlevel.checkpoint)


def run_world(
    seed: int,
    scenario: str = "mixed",
    groups: Sequence[str] = FAULT_GROUPS,
    tape: Sequence[int] | None = None,
    changes: Mapping[str, int] | None = None,
    *,
    thorough: bool = False,
) -> tuple[Result, World]:
    """Run one world to its end.

    Args:
      seed: Which one.
      scenario: One of ``SCENARIOS``.
      groups: Fault groups that may happen.
      tape: Scheduling draws to replay.
      changes: Keyed draws to change.
      thorough: Look at every call for what reaches outside of the run; six times as slow.
    """
    draws = Draws(seed, tape, changes)
    options = draw_options(draws, scenario, groups)
    clock = WorldClock()
    world = World(draws, options, clock)
    scheduler = Scheduler(_strategy(options.schedule, draws))
    if world.troubles.swept:
        scheduler.queue.before_step = count_step
    _load()
    ZoneInfo(options.practice.zone)  # reads a file, which no run may; it is kept
    try:
        with listening(world.marks), Sealed(thorough=thorough):
            clock.run(world.main, instruments=[scheduler])
    except DeadlockError as error:
        world.violation = Violation("L7 no deadlock", str(error), len(world.trace.lines))
    except LeakError as error:  # even where whoever caused it went on
        world.violation = Violation("S11 sealed", str(error), len(world.trace.lines))
    except Exception as error:
        error.add_note(f"in the world of seed {seed}, {scenario}, faults {list(groups)}")
        raise
    world.count_faults()
    counts = world.marks.counts
    accepted = counts.get("accepted", 0)
    result = Result(
        seed,
        scenario,
        world.violation,
        world.trace.digest(),
        len(world.trace.lines),
        scheduler.queue.ticks,
        clock.now_ns // 1_000_000,
        dict(sorted(counts.items())),
        accepted + counts.get("refused", 0),
        accepted,
    )
    return result, world
