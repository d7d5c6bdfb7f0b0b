"""Worlds in which a single thing goes wrong: every crash and every lost call of a run, one at a time.

What was found with a dozen faults at the right moments may need no more than a crash at the right call.
Taking faults out one by one does not get there, since each step must fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.sim.clock import START_MS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from holdfast.sim.trace import Line

_NO_CALLS: Final = ("start", "stop", "pause", "resume", "crash", "clock")
_NOT_BY_WIRE: Final = (
    "preauthorize",
    "capture",
    "void",
    "refund",
    "status",
    "ledger",
    "deliver",
)


WINDOWS: Final[Mapping[str, str]] = {
    "failover": "failover",
    "away": "server",
    "refusing": "server",
    "still": "server",
}
"""What befalls the server for a while, and the group of each."""


def lone_windows(kind: str, lines: Sequence[Line]) -> Iterator[dict[str, int]]:
    """The changes for a single window of *kind* that begins with each call of a world without faults.

    Args:
      kind: One of ``WINDOWS``.
      lines: Its trace.
    """
    tried: dict[int, None] = {}
    for ms, who, what, _ in lines:
        if (who, what) == ("world", "heal"):
            return
        if "." in who and what not in _NO_CALLS and ms not in tried:
            tried[ms] = None
            yield {
                f"server.swarm({kind!r},)": 1,
                f"server.windows({kind!r},)": 0,
                f"server.begin_ms({kind!r}, 0)": ms - START_MS + 1,
            }


def lone_faults(lines: Sequence[Line]) -> Iterator[dict[str, int]]:
    """The changes for each single fault in a world that has none.

    Args:
      lines: Its trace.
    """
    calls: dict[str, int] = {}
    numbers: dict[tuple[str, str], int] = {}
    for _, who, what, _ in lines:
        if (who, what) == ("world", "heal"):
            return
        process, _, life = who.partition(".")
        if life != "1" or what in _NO_CALLS:
            continue
        first = f"('{process}', 1)"
        for after in (0, 1):
            yield {
                f"process.crash_at_call{first}": 1,
                f"process.crash_call{first}": calls.get(process, 0),
                f"process.crash_after{first}": after,
            }
        calls[process] = calls.get(process, 0) + 1
        if what not in _NOT_BY_WIRE:
            numbers[what, who] = numbers.get((what, who), 0) + 1
            key = (what, who, numbers[what, who], 1)
            yield {f"wire.drop_before{key!r}": 1}
            yield {f"wire.drop_after{key!r}": 1}
