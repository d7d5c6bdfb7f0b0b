"""The clock is the world: time moves when nobody can run, straight to what happens next.

Trio asks its clock how long to sleep only when no task is runnable. Ours never sleeps: it takes the
next event from its heap (a task that waits, a function to call), or the next of trio's own deadlines
(``trio.sleep``, ``move_on_after``) if that is earlier, moves the time there, and returns 0. A minute
costs as much as a microsecond, and equal runs see equal times.

If there is neither an event nor a deadline, nothing can ever happen again: that is a deadlock, and
the run fails at once, naming who waits and where.

Time is an integer of nanoseconds from the run's start. Trio's floating seconds are derived from it,
and tell nanoseconds apart for the first hundred days.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import ceil, inf
from typing import TYPE_CHECKING, Final, TypeVar

import trio
from trio.lowlevel import Abort, Task, current_task, wait_task_rescheduled

from holdfast.sim.scheduler import Scheduler, age, idle_cushion, unshield

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio.lowlevel import RaiseCancelT

    from holdfast.sim.scheduler import Strategy

T = TypeVar("T")

START_MS: Final = 1_767_603_600_000
"""When simulated runs begin unless told otherwise: Monday, 5 January 2026, 09:00 UTC."""

_NS: Final = 1_000_000_000
_FRAMES_MAX: Final = 3
_MAIN: Final = f"{__name__}.WorldClock._main"


STILL_MAX: Final = 25
"""Checks of the run queue at one instant, each after thousands of steps, that make a livelock."""


class LivelockError(Exception):
    """Tasks run and run, and time does not move. The message names the tasks."""


class DeadlockError(Exception):
    """Nothing can ever happen again. The message names each task and where it waits."""


class Timer:
    """Something that happens at a certain time, unless it is cancelled.

    Attributes:
      at_ns: When, nanoseconds after the run's start.
      what: The task to wake or the function to call; None when it happened or was cancelled.
    """

    __slots__ = ("at_ns", "what")

    def __init__(self, at_ns: int, what: Task | Callable[[], object]) -> None:
        self.at_ns = at_ns
        self.what: Task | Callable[[], object] | None = what

    def cancel(self) -> None:
        """It is not to happen. No effect if it did."""
        self.what = None

    @property
    def pending(self) -> bool:
        """Whether it is still to happen."""
        return self.what is not None


class WorldClock(trio.abc.Clock):
    """Simulated time for one run; also a ``Clock`` port.

    Args:
      start_ms: The world's time when the run starts, milliseconds since the epoch, UTC.

    Attributes:
      now_ns: Nanoseconds since the run started.
      moves: How often time moved on.
    """

    def __init__(self, start_ms: int = START_MS) -> None:
        self.now_ns = 0
        self.moves = 0
        self._start_ms = start_ms
        self._heap: list[tuple[int, int, Timer]] = []
        self._number = 0
        self._started = False
        self._scope: trio.CancelScope | None = None
        self._failure: BaseException | None = None
        self._unshielded = False
        self._still = (0, 0)

    # -- what the world uses -----------------------------------------------

    def now_ms(self) -> int:
        """The world's time, milliseconds since the epoch, UTC."""
        return self._start_ms + self.now_ns // 1_000_000

    def call_at(self, at_ns: int, function: Callable[[], object]) -> Timer:
        """Call *function* when nobody can run at or before *at_ns*; a past time counts as now.

        It is called outside of any task: it may set events and send to channels without waiting. An
        exception in it fails the run.
        """
        return self._add(at_ns, function)

    def call_after(self, delay_ns: int, function: Callable[[], object]) -> Timer:
        """As :meth:`call_at`, *delay_ns* from now."""
        return self._add(self.now_ns + delay_ns, function)

    async def sleep_until(self, at_ns: int) -> None:
        """Wait until *at_ns* nanoseconds after the run's start."""
        if at_ns <= self.now_ns:
            await trio.lowlevel.checkpoint()
            return
        timer = self._add(at_ns, current_task())

        def abort(_: RaiseCancelT) -> Abort:
            timer.cancel()
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    async def sleep(self, seconds: float) -> None:
        """Wait *seconds*."""
        await self.sleep_until(self.now_ns + ceil(seconds * _NS))

    def fail(self, error: BaseException) -> None:
        """End the run with *error*: its tasks are cancelled, and :meth:`run` raises it.

        The first error counts; a second one takes away the shields of tasks that did not end.
        Without :meth:`run`, trio wraps it in a ``TrioInternalError``.
        """
        if self._scope is None or self._unshielded:
            raise error
        if self._failure is None:
            self._failure = error
            self._scope.cancel()
            return
        self._unshielded = True
        for task, _ in _waiting():
            unshield(task)

    def run(
        self,
        async_fn: Callable[..., Awaitable[T]],
        *args: object,
        strategy: Strategy | None = None,
        instruments: Sequence[trio.abc.Instrument] = (),
    ) -> T:
        """Run *async_fn* under trio with this clock, and return its result.

        Args:
          async_fn: The run's main task.
          args: Its arguments.
          strategy: Who runs next; None leaves it to trio, whose order is no function of the seed.
          instruments: As for ``trio.run``.

        Raises:
          DeadlockError: Nothing can ever happen again.
          SchedulerUnsupportedError: This trio has no place for a *strategy*.
          LivelockError: Tasks run and run, and time does not move; noticed with a *strategy* only.
        """
        if strategy is not None:
            instruments = (*instruments, Scheduler(strategy, self.check_moving))
        return trio.run(self._main, async_fn, args, clock=self, instruments=instruments)

    async def _main(self, async_fn: Callable[..., Awaitable[T]], args: Sequence[object]) -> T:
        with trio.CancelScope() as self._scope:
            try:
                result = await async_fn(*args)
            except BaseException as error:
                if self._failure is not None and self._failure is not error:
                    raise self._failure from error
                raise
            if self._failure is None:
                return result
        assert self._failure is not None  # nobody else knows this scope
        raise self._failure

    def check_moving(self) -> None:
        """The run queue's check: fail a run in which time stands still for ever."""
        moves, checks = self._still
        self._still = (self.moves, checks + 1 if moves == self.moves else 1)
        if self._still[1] >= STILL_MAX:
            self.fail(
                LivelockError(f"time does not move, though tasks run and run:\n{_who_waits()}")
            )

    # -- what trio asks ----------------------------------------------------

    def start_clock(self) -> None:
        """Called by trio when the run starts.

        Raises:
          RuntimeError: The clock served a run before; its heap belongs to that one.
        """
        if self._started:
            raise RuntimeError("a WorldClock serves one run: make a new one")
        self._started = True

    def current_time(self) -> float:
        """Seconds since the run started."""
        return self.now_ns / _NS

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Move the time to what happens next; called by trio when no task is runnable.

        Args:
          deadline: Of trio's next cancel scope, seconds.

        Returns:
          Shape: 0; more only where trio must wake somebody who waits for everybody to wait, which
          does not take time either.
        """
        if deadline <= self.current_time():
            return 0
        cushion = idle_cushion()
        if cushion is not None:
            return self._let_idle(cushion)
        heap = self._heap
        while heap and heap[0][2].what is None:
            heappop(heap)
        limit = None if deadline == inf else self._ns_at(deadline)
        if heap and (limit is None or heap[0][0] <= limit):
            self._happen()
        elif limit is not None:
            self._move(limit)
        # Trio calls itself through its entry queue when a run ends: that is still to come.
        elif not trio.lowlevel.current_statistics().run_sync_soon_queue_size:
            self.fail(
                DeadlockError(
                    "nothing can ever happen again: there is no event and no deadline, and "
                    f"these tasks wait:\n{_who_waits()}"
                )
            )
        return 0

    def _add(self, at_ns: int, what: Task | Callable[[], object]) -> Timer:
        self._number += 1
        timer = Timer(max(at_ns, self.now_ns), what)
        heappush(self._heap, (timer.at_ns, self._number, timer))
        return timer

    def _move(self, at_ns: int) -> None:
        self.moves += 1
        self.now_ns = at_ns

    def _happen(self) -> None:
        """All events of the next instant, in the order in which they were set."""
        heap = self._heap
        self._move(heap[0][0])
        now, last = self.now_ns, self._number  # what is set meanwhile happens next time
        while heap and heap[0][0] == now and heap[0][1] <= last:
            timer = heappop(heap)[2]
            what, timer.what = timer.what, None
            if isinstance(what, Task):
                trio.lowlevel.reschedule(what)
            elif what is not None:
                try:
                    what()
                except Exception as error:
                    self.fail(error)
                    return

    def _ns_at(self, deadline: float) -> int:
        """The first nanosecond at which trio finds *deadline* expired."""
        at_ns = max(round(deadline * _NS), self.now_ns)
        while at_ns / _NS < deadline:
            at_ns += 1
        return at_ns

    @staticmethod
    def _let_idle(cushion: float) -> float:
        if cushion > 0:
            raise RuntimeError(
                "wait_all_tasks_blocked sleeps real time for a cushion: leave the cushion out"
            )
        return inf  # trio waits the cushion, 0 s, and wakes them


def _who_waits() -> str:
    return "\n".join(
        f"  {'the main task' if task.name == _MAIN else task.name} {where}"
        for task, where in _waiting()
    )


def _waiting() -> list[tuple[Task, str]]:
    """The tasks of our own code, oldest first, and where each one waits."""
    root = trio.lowlevel.current_root_task()
    left: list[Task] = [] if root is None else [root]
    found: list[tuple[Task, str]] = []
    while left:
        task = left.pop()
        for nursery in task.child_nurseries:
            left += sorted(nursery.child_tasks, key=age)
        where = _where(task)
        if where:
            found.append((task, where))
    return sorted(found, key=lambda one: age(one[0]))


def _where(task: Task) -> str:
    """The innermost frames outside of trio, outermost last; "" for trio's own tasks."""
    ours: list[str] = []
    inside = ""
    for frame, line in task.iter_await_frames():
        module = str(frame.f_globals.get("__name__", ""))
        name = frame.f_code.co_qualname
        if module == "trio" or module.startswith(("trio.", "outcome")):
            inside = inside or name
        elif f"{module}.{name}" != _MAIN:
            ours.append(f"{module}:{line} in {name}")
            inside = ""
    if not ours:
        return ""
    where = ", from ".join(reversed(ours[-_FRAMES_MAX:]))
    return f"waits at {where}" + (f" ({inside})" if inside else "")
