"""Our run queue in trio's run loop: who runs next is our choice, drawn from the seed.

Trio runs each runnable task once a batch, in an order of its own: of the 70 ways to interleave two
tasks of four steps it reaches 16. Our queue hands out a single task each time trio asks, so that
every interleaving can happen: all 70.

What trio wakes comes out of sets of tasks and scopes now and then (all that wait for one event, all
that one deadline cancels), in an order that depends on memory addresses. The queue therefore
sorts what became runnable within one step by the age of the tasks, before anybody chooses.

This module alone touches trio's private names. It looks for them when it is used, and
:func:`check_trio` counts the 70: on a version of trio where either fails, nothing runs.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

import trio
from trio.lowlevel import Task

from holdfast.sim.draws import SCHEDULE, Draws

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

T = TypeVar("T")

try:
    _context: Any = getattr(import_module("trio._core._run"), "GLOBAL_RUN_CONTEXT", None)
except ImportError:
    _context = None

STREAK_MAX: Final = 1_000
"""Steps in a row after which PCT demotes a task that keeps others from running."""

INTERLEAVINGS: Final = 70
"""Of two tasks of four steps: 8! / (4! 4!)."""

CHECK_TICKS: Final = 4_096
"""A queue calls its check each time it handed out so many tasks."""


class SchedulerUnsupportedError(Exception):
    """This version of trio has no place for our run queue."""


class Strategy(Protocol):
    """Chooses who runs next."""

    def choose(self, ready: list[Task]) -> int:
        """Index of one of *ready*: at least two tasks, the one that waits longest first."""
        ...


class Fifo:
    """The task that waits longest; of those woken by the same step, the oldest."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws

    def choose(self, ready: list[Task]) -> int:
        """Index of one of *ready*."""
        return self._draws.schedule(len(ready), 0)


class Uniform:
    """Any task, all equally likely."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws

    def choose(self, ready: list[Task]) -> int:
        """Index of one of *ready*."""
        return self._draws.schedule(len(ready))


class Pct:
    """Probabilistic concurrency testing: strict random priorities, changed at few random steps.

    A bug that needs *changes* preemptions at the right places is found with a chance of at least
    1 / (tasks × steps^changes): far better than uniform choice does for bugs in which one task must
    be slow for long. Source: Burckhardt et al., "A Randomized Scheduler with Probabilistic
    Guarantees of Finding Bugs", ASPLOS 2010.

    Args:
      draws: Records what is chosen; a tape that is being replayed wins.
      changes: How often the running task falls behind all others.
      steps: About how many choices the run makes; the changes lie among these.
    """

    def __init__(self, draws: Draws, changes: int = 3, steps: int = 10_000) -> None:
        self._draws = draws
        self._rng = draws.generator("pct")
        self._changes = sorted(self._rng.randrange(steps) for _ in range(changes))
        self._priorities: dict[Task, float] = {}
        self._step = 0
        self._lowest = 0.0
        self._last: Task | None = None
        self._streak = 0

    def choose(self, ready: list[Task]) -> int:
        """Index of one of *ready*."""
        self._step += 1
        priorities = self._priorities
        best = 0
        for at, task in enumerate(ready):
            if task not in priorities:
                priorities[task] = 1.0 + self._rng.random()
            if priorities[task] > priorities[ready[best]]:
                best = at
        chosen = self._draws.schedule(len(ready), best)
        self._count(ready[chosen])
        return chosen

    def _count(self, task: Task) -> None:
        self._streak = self._streak + 1 if task is self._last else 0
        self._last = task
        change = bool(self._changes) and self._step > self._changes[0]
        if change:
            del self._changes[0]
        if change or self._streak >= STREAK_MAX:
            self._lowest -= 1.0
            self._priorities[task] = self._lowest
            self._streak = 0


class RunQueue:
    """Stands in for trio's run queue, and hands out one task a tick.

    Args:
      strategy: Chooses among those that are ready.
      check: Called every ``CHECK_TICKS`` ticks: the place to notice that nothing moves on.

    Attributes:
      ticks: Tasks handed out so far.
      before_step: Called with each task that is handed out, just before it runs; for those who
        count steps. It may cancel scopes and set events.
    """

    __slots__ = ("_check", "_choose", "_ready", "_woken", "before_step", "ticks")

    def __init__(self, strategy: Strategy, check: Callable[[], object] | None = None) -> None:
        self._check = check
        self._choose = strategy.choose
        self._ready: list[Task] = []
        self._woken: list[Task] = []
        self.ticks = 0
        self.before_step: Callable[[Task], object] | None = None

    def append(self, task: Task) -> None:
        """Take a task that became runnable."""
        self._woken.append(task)

    def __len__(self) -> int:
        return len(self._ready) + len(self._woken)

    def __iter__(self) -> Iterator[Task]:
        # Trio reads the queue once a tick, into a list, and clears it: what is handed out is gone.
        ready, woken = self._ready, self._woken
        if woken:
            if len(woken) > 1:
                woken.sort(key=_age)
            ready += woken
            woken.clear()
        if not ready:
            return iter(())
        self.ticks += 1
        if not self.ticks % CHECK_TICKS and self._check is not None:
            self._check()
        task = ready.pop(self._choose(ready) if len(ready) > 1 else 0)
        if self.before_step is not None:
            self.before_step(task)
        return iter((task,))

    def clear(self) -> None:
        """Nothing to do: the one task that was handed out has left the queue already."""

    def drain(self) -> list[Task]:
        """Take all tasks out, those that wait longest first."""
        left = [*self._ready, *self._woken]
        self._ready.clear()
        self._woken.clear()
        return left


class Scheduler(trio.abc.Instrument):
    """Puts our queue into a run before its first step: pass it in ``instruments``.

    Args:
      strategy: Chooses who runs next.
      check: See :class:`RunQueue`.

    Attributes:
      queue: The queue, from the run's start on.

    Raises:
      SchedulerUnsupportedError: This trio has no place for it.
    """

    def __init__(self, strategy: Strategy, check: Callable[[], object] | None = None) -> None:
        check_trio()  # now: trio goes on without an instrument that fails
        self.queue = RunQueue(strategy, check)

    def before_run(self) -> None:
        """Called by trio."""
        _replace(_runner(), self.queue)


@contextmanager
def installed(strategy: Strategy) -> Generator[RunQueue]:
    """Our queue in the current run, for as long as the context lasts.

    Raises:
      SchedulerUnsupportedError: This trio has no place for it.
    """
    runner = _runner()
    queue = RunQueue(strategy)
    _replace(runner, queue)
    try:
        yield queue
    finally:
        runner.runq = deque(queue.drain())


def idle_cushion() -> float | None:
    """The shortest cushion, seconds, that a task in ``trio.testing.wait_all_tasks_blocked`` waits for.

    None if no task is there.
    """
    waiting = _runner().waiting_for_idle
    return cast("float", waiting.keys()[0][0]) if waiting else None


def age(task: Task) -> int:
    """The number of *task* in order of their start; in equal runs equal up to an offset."""
    return _age(task)


def unshield(task: Task) -> None:
    """Let a cancellation reach *task* through its shields: its run is over, whatever it says."""
    status: Any = getattr(task, "_cancel_status", None)
    while status is not None:
        status._scope.shield = False
        status = status._parent


def _age(task: Any) -> int:  # noqa: ANN401  # the counter is private
    return cast("int", task._counter)


def _runner() -> Any:  # noqa: ANN401  # trio's Runner is private
    if _context is None:
        raise _unsupported("trio._core._run.GLOBAL_RUN_CONTEXT")
    try:
        return _context.runner
    except AttributeError:
        raise RuntimeError("no trio run is under way: call this from inside one") from None


def _replace(runner: Any, queue: RunQueue) -> None:  # noqa: ANN401
    for name in ("runq", "waiting_for_idle"):
        if not hasattr(runner, name):
            raise _unsupported(f"Runner.{name}")
    if not hasattr(Task, "_counter"):
        raise _unsupported("Task._counter")
    for task in runner.runq:
        queue.append(task)
    runner.runq = queue


def _unsupported(what: str) -> SchedulerUnsupportedError:
    return SchedulerUnsupportedError(
        f"trio {trio.__version__} has no {what}, on which the simulator's scheduler rests: "
        "install trio 0.30 to 0.35, or adapt sim/scheduler.py"
    )


def all_schedules(run: Callable[[Draws], T], runs_max: int = 10_000) -> list[T]:
    """What *run* returns under every schedule there is: the tapes are tried one after the other.

    Args:
      run: One run, the same each time but for the scheduling draws.
      runs_max: More schedules than this are a mistake of the caller.

    Raises:
      ValueError: There are more schedules than *runs_max*.
    """
    found: list[T] = []
    tape: list[int] | None = []
    while tape is not None:
        if len(found) == runs_max:
            raise ValueError(f"over {runs_max} schedules: make the run smaller, or draw them")
        draws = Draws(0, tape)
        found.append(run(draws))
        tape = _next_tape([(bound, value) for name, bound, value in draws.tape if name == SCHEDULE])
    return found


def _next_tape(made: list[tuple[int, int]]) -> list[int] | None:
    while made:
        bound, value = made.pop()
        if value + 1 < bound:
            return [*(earlier for _, earlier in made), value + 1]
    return None


async def two_by_four(trace: list[str], draws: Draws | None) -> None:
    """Two tasks of four steps, which write their names into *trace*; no *draws*: as trio orders them."""

    async def steps(name: str) -> None:
        for step in range(4):
            if step:
                await trio.lowlevel.checkpoint()
            trace.append(name)

    with nullcontext() if draws is None else installed(Uniform(draws)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(steps, "a")
            nursery.start_soon(steps, "b")


@cache
def check_trio() -> None:
    """Count the interleavings of two tasks of four steps that our queue reaches; once a process.

    Raises:
      SchedulerUnsupportedError: They are not 70. Nothing simulated on this trio would mean much.
    """

    def run(draws: Draws) -> str:
        trace: list[str] = []
        trio.run(two_by_four, trace, draws)
        return "".join(trace)

    found = len(dict.fromkeys(all_schedules(run)))
    if found != INTERLEAVINGS:
        raise _unsupported(f"run loop that takes single tasks: {found} of 70 interleavings")
