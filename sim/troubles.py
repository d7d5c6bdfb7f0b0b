"""What befalls the processes of a world: crashes, stops, pauses, wrong clocks and storms of restarts.

Each life of a process draws what it will suffer when it begins, keyed by its name, so that what befalls
one life does not depend on others. Nothing begins any more once the world is healed; only a swept
world, in which one life ends at a place that was told beforehand, goes on to its very end.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast.sim.clock import WorldClock
    from holdfast.sim.draws import Draws
    from holdfast.sim.marks import Marks
    from holdfast.sim.processes import Gate, ProcessFaults
    from holdfast.sim.trace import Trace

Kind = Literal["booking", "payment", "notification"]

SWEEP_MAX: Final = 1 << 20
"""Most calls and steps of one life that a sweep can tell apart."""

SWEPT_PAUSE_S: Final = 120
STORM_RESTART_MS_MAX: Final = 200
"""Longest time until a process begins again while a storm lasts."""

_STOPPING_CALLS_MAX: Final = 4
_STORM_ROUNDS_LEAST: Final = 3
_STORM_ROUNDS_MORE: Final = 8
_STORM_GAP_MS_MAX: Final = 1_500


class Slot:
    """A place for one process: when it ends, another life of it begins.

    Attributes:
      lives: How many there were, the present one included.
      owner: The token that a booking actor writes.
      gate: The present life's.
      stop: What asks the present life to stop.
      gone: No other life of it begins.
      may_begin: Set once another life of it may begin: a person has stopped it until then.
    """

    def __init__(self, kind: Kind, number: int) -> None:
        self.kind: Kind = kind
        self.name = f"{kind}-{number}"
        self.lives = 0
        self.owner = ""
        self.gate: Gate | None = None
        self.stop: trio.Event | None = None
        self.gone = False
        self.may_begin = trio.Event()
        self.may_begin.set()

    @property
    def lives_now(self) -> bool:
        """Whether a process is running here."""
        return self.gate is not None and not self.gate.dead


class Troubles:
    """Everything that befalls processes in one world.

    Args:
      draws: What, whom and when.
      faults: How likely it is.
      clock: The world's.
      slots: All processes.
      stop_in_time: Asks a process to stop, and fails the world where it does not.

    Attributes:
      healed: Nothing begins any more.
      storms: There is to be a storm.
      storming: Processes that end begin again at once.
      swept: The world is one of a sweep; only a change makes it so. See ``sim.sweep``.
    """

    def __init__(
        self,
        draws: Draws,
        faults: ProcessFaults,
        clock: WorldClock,
        trace: Trace,
        marks: Marks,
        slots: Sequence[Slot],
        stop_in_time: Callable[[Slot, Gate], Awaitable[None]],
    ) -> None:
        self._draws = draws
        self._faults = faults
        self._clock = clock
        self._trace = trace
        self._marks = marks
        self._slots = slots
        self._stop_in_time = stop_in_time
        self.healed = False
        self.storming = False
        self.storms = draws.chance("process.storm", faults.storm)
        self.swept = draws.chance("sweep.on", 0.0)

    def begin(self, nursery: trio.Nursery, slot: Slot, gate: Gate, stop: trio.Event) -> None:
        """Draw what a life that begins now will suffer; *nursery* is its own."""
        life = (slot.name, slot.lives)
        if not self.healed:
            self._draw_crashes(nursery, gate, life)
            self._draw_holds(nursery, slot, gate, life)
            if gate.clock is not None:
                self._draw_clock(nursery, gate, life)
        if self.swept:
            self._draw_swept(gate, stop, life)
            # It is there in every life, so that all swept runs have the same tasks up to the place.
            nursery.start_soon(self._watch_stop, slot, gate, stop)

    def heal(self, restart: bool) -> None:
        """Let nothing begin any more, and set all clocks right.

        Args:
          restart: Let all that lives begin anew.
        """
        self.healed = True
        for slot in self._slots:
            if slot.gate is not None:
                if not self.swept:
                    slot.gate.crash_call = 0
                slot.gate.resume()
                self._set_clock(slot.gate, 0)
                if restart:
                    slot.gate.crash("restarted")

    async def storm(self, within_s: int) -> None:
        """Let all processes crash, again and again, while they begin.

        Args:
          within_s: It begins before then.
        """
        draws = self._draws
        await trio.sleep(draws.below("process.storm_ms", 1000 * within_s) / 1000)
        self.storming = True
        for number in range(
            _STORM_ROUNDS_LEAST + draws.below("process.storms", _STORM_ROUNDS_MORE)
        ):
            if self.healed:
                break
            for slot in self._slots:
                if slot.gate is not None:
                    slot.gate.crash("storm")
            await trio.sleep(draws.below("process.storm_gap_ms", _STORM_GAP_MS_MAX, number) / 1000)
        else:
            self._marks.hit("restart_storm")
        self.storming = False

    # -- drawing -------------------------------------------------------------

    def _draw_crashes(self, nursery: trio.Nursery, gate: Gate, life: tuple[str, int]) -> None:
        draws, faults = self._draws, self._faults
        if draws.chance("process.crash_at_call", faults.crash_at_call, *life):
            gate.crash_call = 1 + draws.below("process.crash_call", faults.crash_call_max, *life)
            gate.crash_after = draws.chance("process.crash_after", 0.5, *life)
        if draws.chance("process.crash_in_time", faults.crash_in_time, *life):
            nursery.start_soon(self._crash_later, gate, self._moment("crash", life))

    def _draw_holds(
        self, nursery: trio.Nursery, slot: Slot, gate: Gate, life: tuple[str, int]
    ) -> None:
        draws, faults = self._draws, self._faults
        if draws.chance("process.stop", faults.stop, *life):
            nursery.start_soon(self._stop_later, slot, gate, self._moment("stop", life))
        if draws.chance("process.pause", faults.pause, *life):
            length_s = 1 + draws.below("process.pause_s", faults.pause_s_max, *life)
            nursery.start_soon(self._pause_later, gate, self._moment("pause", life), length_s)

    def _draw_clock(self, nursery: trio.Nursery, gate: Gate, life: tuple[str, int]) -> None:
        draws, faults = self._draws, self._faults
        if draws.chance("process.skew", faults.skew, *life):
            self._marks.hit("clock_skewed")
            self._set_clock(gate, self._skew_ms("skew", life))
        if draws.chance("process.jump", faults.jump, *life):
            by_ms = self._skew_ms("jump", life)
            nursery.start_soon(self._jump_later, gate, self._moment("jump_at", life), by_ms)

    def _draw_swept(self, gate: Gate, stop: trio.Event, life: tuple[str, int]) -> None:
        """What befalls one life of a swept world, and where. These have values by changes only."""
        draws = self._draws
        if draws.chance("sweep.at_call", 0.0, *life):
            gate.crash_call = 1 + draws.below("sweep.call", SWEEP_MAX, *life)
            gate.crash_after = draws.chance("sweep.after", 0.0, *life)
        if draws.chance("sweep.at_step", 0.0, *life):
            gate.last_step = 1 + draws.below("sweep.step", SWEEP_MAX, *life)
        if draws.chance("sweep.stop", 0.0, *life):
            gate.instead = partial(self._ask_to_stop, gate, stop)
        if draws.chance("sweep.pause", 0.0, *life):
            gate.instead = partial(self._pause_here, gate)

    def _moment(self, what: str, life: tuple[str, int]) -> float:
        bound = self._faults.crash_s_max * 1000
        return self._draws.below(f"process.{what}_ms", bound, *life) / 1000

    def _skew_ms(self, what: str, life: tuple[str, int]) -> int:
        """How wrong a clock is; ahead or behind."""
        bound = 2000 * self._faults.skew_s_max
        size, behind = divmod(self._draws.below(f"process.{what}_ms", bound, *life), 2)
        return -size if behind else size

    # -- what happens --------------------------------------------------------

    async def _crash_later(self, gate: Gate, after_s: float) -> None:
        await trio.sleep(after_s)
        if not self.healed:
            self._marks.hit("crash_in_time")
            gate.crash("in time")

    async def _stop_later(self, slot: Slot, gate: Gate, after_s: float) -> None:
        draws, life = self._draws, (slot.name, slot.lives)
        await trio.sleep(after_s)
        if self.healed or slot.gate is not gate:
            return
        self._marks.hit("stopped")
        self._trace.fault(gate.name, "stop", "under faults")
        if draws.chance("process.crash_stopping", self._faults.crash_stopping, *life):
            more = draws.below("process.crash_stopping_call", _STOPPING_CALLS_MAX, *life)
            gate.crash_call = len(gate.made) + 1 + more
        await self._stop_in_time(slot, gate)

    async def _pause_later(self, gate: Gate, after_s: float, length_s: int) -> None:
        await trio.sleep(after_s)
        if not self.healed:
            self._marks.hit("paused")
            gate.pause()
            await trio.sleep(length_s)
            gate.resume()

    async def _jump_later(self, gate: Gate, after_s: float, by_ms: int) -> None:
        await trio.sleep(after_s)
        if not self.healed and gate.clock is not None:
            self._marks.hit("clock_jumped")
            self._set_clock(gate, gate.clock.off_ms + by_ms)

    def _set_clock(self, gate: Gate, off_ms: int) -> None:
        """Let a process's clock be ahead by *off_ms* from now on."""
        if gate.clock is None or gate.clock.off_ms == off_ms:
            return
        gate.clock.off_ms = off_ms
        note = self._trace.fault if off_ms else self._trace.note
        note(gate.name, "clock", f"{off_ms} ms ahead")

    def _ask_to_stop(self, gate: Gate, stop: trio.Event, where: str) -> None:
        self._trace.fault(gate.name, "stop", where)
        stop.set()

    def _pause_here(self, gate: Gate, where: str) -> None:
        gate.pause(where)
        self._clock.call_after(SWEPT_PAUSE_S * 1_000_000_000, gate.resume)

    async def _watch_stop(self, slot: Slot, gate: Gate, stop: trio.Event) -> None:
        await stop.wait()
        await self._stop_in_time(slot, gate)
