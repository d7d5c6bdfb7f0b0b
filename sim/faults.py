"""What the simulated server and the way to it may do to the actors: every fault is a field here.

Shares are drawn for each request, windows and failovers are set beforehand. ``draw_server_faults`` draws
the whole from a seed, as a swarm: about half of the kinds are off in any one world, since faults hide
each other, and each one that is on has its own strength.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.sim.draws import Draws

Refusal = Literal["OOM", "READONLY", "MISCONF", "LOADING"]
"""Error replies that say: nothing was written, try again later."""

Durability = Literal["durable", "relaxed", "replicated"]
"""What a service promises of an accepted outcome: it is on disk, about to be, or with replicas too."""

ServerFaultGroup = Literal["wire", "server", "groups", "inputs", "failover"]
SERVER_FAULT_GROUPS: Final[tuple[ServerFaultGroup, ...]] = get_args(ServerFaultGroup)

SERVER_FAULTS: Final[Mapping[str, str]] = {
    "drop_before": "a request was lost with its connection, and had no effect",
    "drop_after": "an answer was lost with its connection, after the effect",
    "silent": "there was no answer until the client gave up; the effect came late",
    "cut": "the connection broke inside a pipeline: some of it had its effect",
    "slow": "a request or its answer took long",
    "partition": "a process could not reach the server, or its answers did not come back",
    "away": "the server was away",
    "refusing": "the server answered with an error that says: nothing was written",
    "refuse_some": "the server refused some commits of a pipeline and took the others",
    "failover": "a replica took over that had not got the last writes",
    "old_file": "the server was started again from a file of long ago",
    "restart": "the server began again without what was not yet on its disk",
    "lag": "a replica had a write late, or not in time for who waited for it",
    "old_primary": "an old primary took requests of those who had not heard of the new one",
    "still": "the server's clock stood still",
    "in_flight": "a process died or gave up with a request on its way, which had its effect",
    "claim_early": "an action was claimed while its consumer was alive and at work",
    "reorder": "redelivered actions came out of order",
    "short": "a batch was cut",
    "group_back": "a consumer group was moved back",
    "group_missing": "a consumer group was gone",
    "consumer_missing": "a consumer was gone, and what was pending for it",
    "foreign": "somebody wrote to the inputs what is no input",
    "evicted": "the leases of living booking actors were gone",
}
"""Each kind of fault, and what it means."""


OLD_FILE: Final = 0.2
"""Share of worlds with failovers in which somebody may put an old file back."""


class Window(msgspec.Struct, frozen=True):
    """From *begin_ms* until before *end_ms*, the world's time in milliseconds."""

    begin_ms: int
    end_ms: int

    def holds(self, now_ms: int) -> bool:
        """Whether *now_ms* is inside."""
        return self.begin_ms <= now_ms < self.end_ms


class RefusingWindow(msgspec.Struct, frozen=True):
    """While the server refuses: *kind* says what."""

    window: Window
    kind: Refusal


class Failover(msgspec.Struct, frozen=True):
    """A replica takes over.

    Attributes:
      at_ms: When the primary is given up.
      lost_ms: What it wrote so shortly before is lost.
      down_ms: How much later the replica leads.
      old_ms: For so long the primary lives on, for those who have not heard.
      old_file: It is no replica: somebody put an old file of the server back.
    """

    at_ms: int
    lost_ms: int
    down_ms: int
    old_ms: int = 0
    old_file: bool = False


class ServerFaults(msgspec.Struct, frozen=True):
    """How the server, and the way to it, behave. Shares are of requests, from 0 to 1.

    Attributes:
      drop_before: Requests lost on their way.
      drop_after: Answers lost on their way.
      silent: Requests without an answer until the client gives up.
      late_s_max: When the effect of those comes at most; a client waits 30 s.
      cut: Pipelines of several commands that are cut in their middle.
      slow: Requests that take long.
      slow_ms_max: How long at most.
      latency_ms_max: What every request and every answer may take.
      partition: Share of processes that are cut off once.
      partition_ms_max: How long at most.
      partitions: When partitions begin.
      away: When nobody reaches the server.
      refusing: When it answers with errors.
      refuse_some: Pipelines of commits of which the server refuses some.
      failovers: When a replica takes over.
      restarts: When the server begins again from a file that lacks the last second or two.
      replica_ms_max: When a replica has a write, at most; unless it gets none any more.
      stalled: When replicas get nothing.
      left_behind: Share of processes that go on with the old primary for a while.
      still: When the server's clock does not move.
      in_flight: Requests of processes that die, or give up, that still have their effect.
      claim_early: Claims that do not ask how long an entry has been idle.
      reorder: Claims and reads whose entries come out of order.
      short: Reads of actions that bring less than there is.
      group_back: Reads of actions before which the group is moved back.
      group_back_max: By so many entries at most.
      group_missing: Reads of actions before which the group is deleted.
      consumer_missing: Reads of actions before which a consumer is deleted with what it holds. Such
        actions come back only when a booking actor takes the book over.
      foreign: Appends beside which somebody writes what is no input.
      evict_s: About how often all leases vanish, seconds; 0 for never.
    """

    drop_before: float = 0.0
    drop_after: float = 0.0
    silent: float = 0.0
    late_s_max: int = 40
    cut: float = 0.0
    slow: float = 0.0
    slow_ms_max: int = 10_000
    latency_ms_max: int = 0
    partition: float = 0.0
    partition_ms_max: int = 60_000
    partitions: Window = Window(0, 0)
    away: tuple[Window, ...] = ()
    refusing: tuple[RefusingWindow, ...] = ()
    refuse_some: float = 0.0
    failovers: tuple[Failover, ...] = ()
    restarts: tuple[Failover, ...] = ()
    replica_ms_max: int = 0
    stalled: tuple[Window, ...] = ()
    left_behind: float = 0.0
    still: tuple[Window, ...] = ()
    in_flight: float = 0.5
    claim_early: float = 0.0
    reorder: float = 0.0
    short: float = 0.0
    group_back: float = 0.0
    group_back_max: int = 4
    group_missing: float = 0.0
    consumer_missing: float = 0.0
    foreign: float = 0.0
    evict_s: int = 0

    @property
    def loses_answers(self) -> bool:
        """Whether actions may be handed out to a consumer that never hears of them, or twice."""
        return bool(
            self.drop_after
            or self.silent
            or self.partition
            or self.in_flight
            or self.away
            or self.refusing
            or self.failovers
            or self.restarts
            or self.replica_ms_max
            or self.stalled
            or self.claim_early
            or self.group_back
            or self.group_missing
        )

    def healed(self) -> ServerFaults:
        """A wire without a fault, and without latency."""
        return ServerFaults(in_flight=0.0)


class _Swarm:
    """Draws how strong each kind of fault is; about half of them are off."""

    def __init__(self, draws: Draws, groups: Sequence[str]) -> None:
        self._draws = draws
        self._groups = groups

    def on(self, group: ServerFaultGroup, name: str) -> bool:
        """Whether the kind *name* may happen in this world."""
        return group in self._groups and self._draws.chance("server.swarm", 0.5, name)

    def share(self, group: ServerFaultGroup, name: str, greatest: float) -> float:
        """0, or up to *greatest*."""
        if not self.on(group, name):
            return 0.0
        return greatest * (1 + self._draws.below("server.share", 10, name)) / 10

    def windows(
        self, group: ServerFaultGroup, name: str, begin: Window, length_ms_max: int
    ) -> tuple[Window, ...]:
        """None, one or two windows that begin within *begin*."""
        if not self.on(group, name):
            return ()
        draws, span = self._draws, max(1, begin.end_ms - begin.begin_ms)
        windows: list[Window] = []
        for number in range(1 + draws.below("server.windows", 2, name)):
            begin_ms = begin.begin_ms + draws.below("server.begin_ms", span, name, number)
            length_ms = 1 + draws.below("server.length_ms", length_ms_max, name, number)
            windows.append(Window(begin_ms, begin_ms + length_ms))
        return tuple(windows)


def draw_server_faults(
    draws: Draws,
    start_ms: int,
    fault_s: int,
    groups: Sequence[str] = SERVER_FAULT_GROUPS,
    *,
    lossy: bool = False,
    rivals: bool = False,
    durability: Durability = "durable",
) -> ServerFaults:
    """The faults of one world.

    Args:
      draws: Of its seed.
      start_ms: When faults begin, the world's time.
      fault_s: For how long new ones begin.
      groups: Which of ``SERVER_FAULT_GROUPS`` may happen; other names are other parts' faults.
      lossy: Whether consumers may be deleted with what they hold, which only a takeover mends.
      rivals: Whether leases vanish again and again, so that who stands by takes over from the living.
      durability: What the server promises: what a restart may lose, and whether replicas are asked.
    """
    swarm = _Swarm(draws, groups)
    span = Window(start_ms, start_ms + fault_s * 1000)
    refusing = [
        RefusingWindow(window, draws.pick("server.refusal", get_args(Refusal), number))
        for number, window in enumerate(swarm.windows("server", "refusing", span, 20_000))
    ]
    failovers = [
        Failover(
            window.begin_ms,
            1 + draws.below("server.lost_ms", 3_000, number),
            window.end_ms - window.begin_ms,
            draws.pick("server.old_ms", (0, 2_000, 20_000), number),
        )
        for number, window in enumerate(swarm.windows("failover", "failover", span, 5_000))
    ]
    # An old file breaks every promise that a replica can keep.
    if durability != "replicated" and draws.chance("server.old_file", OLD_FILE):
        for number, window in enumerate(swarm.windows("failover", "old_file", span, 5_000)):
            lost_ms = 1 + draws.below("server.old_file_ms", fault_s * 1000, number)
            down_ms = window.end_ms - window.begin_ms
            failovers.append(Failover(window.begin_ms, lost_ms, down_ms, old_file=True))
    restarts: list[Failover] = []
    if durability == "relaxed":
        restarts = [
            Failover(
                window.begin_ms,
                1 + draws.below("server.unsynced_ms", 2_000, number),
                window.end_ms - window.begin_ms,
            )
            for number, window in enumerate(swarm.windows("failover", "restart", span, 5_000))
        ]
    copied = durability == "replicated"
    return ServerFaults(
        drop_before=swarm.share("wire", "drop_before", 0.08),
        drop_after=swarm.share("wire", "drop_after", 0.08),
        silent=swarm.share("wire", "silent", 0.04),
        late_s_max=draws.pick("server.late_s_max", (40, 5, 120)),
        cut=swarm.share("wire", "cut", 0.3),
        slow=swarm.share("wire", "slow", 0.1),
        slow_ms_max=draws.pick("server.slow_ms_max", (1_000, 100, 20_000)),
        latency_ms_max=draws.pick("server.latency_ms_max", (0, 5, 50, 500)),
        partition=swarm.share("wire", "partition", 0.5),
        partition_ms_max=draws.pick("server.partition_ms_max", (10_000, 1_000, 90_000)),
        partitions=span,
        away=swarm.windows("server", "away", span, 30_000),
        refusing=tuple(refusing),
        refuse_some=swarm.share("server", "refuse_some", 0.2),
        failovers=tuple(failovers),
        restarts=tuple(restarts),
        replica_ms_max=draws.pick("server.replica_ms_max", (20, 0, 300, 2_000)) * copied,
        stalled=swarm.windows("failover", "stalled", span, 20_000) if copied else (),
        left_behind=swarm.share("failover", "left_behind", 1.0),
        still=swarm.windows("server", "still", span, 10_000),
        in_flight=draws.pick("server.in_flight", (0.5, 0.0, 1.0)),
        claim_early=swarm.share("groups", "claim_early", 0.3),
        reorder=swarm.share("groups", "reorder", 0.5),
        short=swarm.share("groups", "short", 0.5),
        group_back=swarm.share("groups", "group_back", 0.1),
        group_back_max=draws.between("server.group_back_max", 1, 8),
        group_missing=swarm.share("groups", "group_missing", 0.05),
        consumer_missing=swarm.share("groups", "consumer_missing", 0.05) if lossy else 0.0,
        foreign=swarm.share("inputs", "foreign", 0.2),
        evict_s=_evict_s(draws, swarm, rivals),
    )


def _evict_s(draws: Draws, swarm: _Swarm, rivals: bool) -> int:
    if rivals:
        return draws.between("server.evict_s", 2, 6)
    return draws.pick("server.evict_s", (15, 5, 30)) if swarm.on("server", "evicted") else 0
