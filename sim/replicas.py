"""What a replica of the simulated server has, as far as those can know who wait for their writes.

A replica has a prefix of what its primary wrote. What a failover loses is drawn beforehand
(``Failover.lost_ms``): from then until the failover nothing reaches the replica that will lead. At any
other time a write reaches it after a drawn time, or that time after it has stood still. So whoever is
told that his write is copied is told the truth, and whoever is not told may still be lucky.

A server that was promoted has a replica again at once; an old primary has none any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.sim.server import SimServer
    from holdfast.transport.memory_log import MemoryLog


class Replicas:
    """The one replica of *server* that a ``WAIT`` counts.

    Attributes:
      cut_off: How many failovers are to come whose replica gets nothing any more.
      awaited: Requests that wait for it at this moment.
    """

    def __init__(self, server: SimServer) -> None:
        self._server = server
        self.cut_off = 0
        self.awaited = 0

    async def wait(self, log: MemoryLog, wait_s: float, *key: str | int) -> int:
        """How many replicas have what was written to *log* so far, after *wait_s* at most: 1 or 0."""
        server = self._server
        if log is server.log and server.healed:
            return 1
        delay_ms = self._delay_ms(key) if log is server.log else None
        self.awaited += 1
        try:
            if delay_ms is None or delay_ms > wait_s * 1000:
                await server.clock.sleep(wait_s)
                server.counts.fire("lag", " ".join(map(str, key)), mattered=True)
                return 0
            if delay_ms:
                server.counts.fire("lag", " ".join(map(str, key)))
                await server.clock.sleep(delay_ms / 1000)
            return 1
        finally:
            self.awaited -= 1

    def _delay_ms(self, key: tuple[str | int, ...]) -> int | None:
        """When it has what was just written; None where it may never have it."""
        if self.cut_off:
            return None
        faults, now_ms = self._server.faults, self._server.clock.now_ms()
        stands_ms = [w.end_ms - now_ms for w in faults.stalled if w.holds(now_ms)]
        return max(stands_ms, default=0) + self._server.draws.below(
            "server.replica_ms", faults.replica_ms_max + 1, *key
        )
