"""A small world that is full of traps for determinism; run as a program, it prints its trace.

Many tasks wait for one event, many deadlines fall on the same instant, one scope cancels many tasks,
messages race through channels, and garbage with other finalizers lies about. Arguments: the seed,
the strategy, how much memory to scatter first (so that addresses differ), and the threshold of the
garbage collector.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

import trio

from holdfast.sim.clock import WorldClock
from holdfast.sim.draws import Draws
from holdfast.sim.leaks import Sealed, generators_closed
from holdfast.sim.scheduler import Fifo, Pct, Uniform

if TYPE_CHECKING:
    from collections.abc import Callable

STRATEGIES: dict[str, Callable[[Draws], Fifo | Uniform | Pct]] = {
    "fifo": Fifo,
    "uniform": Uniform,
    "pct": lambda draws: Pct(draws, changes=3, steps=500),
}


class World:
    """Actors that pass tokens around, and the trace of what they did."""

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.clock = WorldClock()
        self.trace: list[str] = []

    def note(self, what: str) -> None:
        """Add *what* to the trace."""
        self.trace.append(f"{self.clock.now_ns} {what}")

    async def wait_together(self, name: int, event: trio.Event) -> None:
        """One of many who wait for the same event."""
        await event.wait()
        self.note(f"{name} woke")
        with trio.move_on_after(1):  # all of them: equal deadlines
            await trio.sleep_forever()
        self.note(f"{name} gave up")

    async def produce(self, name: int, channel: trio.MemorySendChannel[str]) -> None:
        """Send with delays that are drawn."""
        async with channel:
            for n in range(5):
                await self.clock.sleep(self.draws.below("delay", 3, name, n) / 1_000)
                await channel.send(f"{name}.{n}")

    async def consume(self, name: int, channel: trio.MemoryReceiveChannel[str]) -> None:
        """Receive, in a race with others."""
        async with channel:
            async for item in channel:
                self.note(f"{name} got {item}")

    async def be_cancelled(self, name: int) -> None:
        """One of many under the same scope."""
        try:
            await trio.sleep_forever()
        finally:
            self.note(f"{name} was cancelled")

    async def main(self) -> None:
        """All of it."""
        with generators_closed():
            event = trio.Event()
            self.clock.call_at(1_000_000, event.set)
            send, receive = trio.open_memory_channel[str](1)
            async with trio.open_nursery() as nursery:
                for name in range(12):
                    nursery.start_soon(self.wait_together, name, event)
                for name in range(3):
                    nursery.start_soon(self.produce, name, send.clone())
                    nursery.start_soon(self.consume, name, receive.clone())
                send.close()
                receive.close()
            async with trio.open_nursery() as nursery:
                for name in range(12):
                    nursery.start_soon(self.be_cancelled, name)
                await trio.sleep(0.5)
                nursery.cancel_scope.cancel()


def run(seed: int, strategy: str, tape: list[int] | None = None) -> World:
    """The world of *seed*, at its end."""
    world = World(Draws(seed, tape))
    with Sealed():
        world.clock.run(world.main, strategy=STRATEGIES[strategy](world.draws))
    return world


if __name__ == "__main__":
    scattered = [bytearray(n % 997) for n in range(int(sys.argv[3]))][::7]
    gc.set_threshold(int(sys.argv[4]))
    print("\n".join(run(int(sys.argv[1]), sys.argv[2]).trace))  # noqa: T201
