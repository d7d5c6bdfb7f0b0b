"""What happened in a run, event by event, and its hash.

Two runs of the same seed must have the same trace; where they do not, the first line that differs
says where determinism leaked. Events are also what orders things that happen in one instant: the
number that :meth:`Trace.note` returns is compared by the checks, never the time.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

Line = tuple[int, str, str, str]
"""Time in milliseconds, who, what, details."""

EVENTS_MAX = 400_000
"""A run with more events is going round in circles."""


class TooManyEventsError(Exception):
    """The run does not come to rest: a livelock."""


class Trace:
    """The events of one run.

    Args:
      now_ms: The world's time.

    Attributes:
      lines: The events.
      faults: The numbers of those that are faults.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.lines: list[Line] = []
        self.faults: list[int] = []

    def note(self, who: str, what: str, details: str = "") -> int:
        """Note an event; return its number, from 0.

        Raises:
          TooManyEventsError: There were ``EVENTS_MAX`` before it.
        """
        number = len(self.lines)
        if number >= EVENTS_MAX:
            raise TooManyEventsError(
                f"{EVENTS_MAX} events and no end: see what repeats in the trace"
            )
        self.lines.append((self._now_ms(), who, what, details))
        return number

    def fault(self, who: str, kind: str, details: str = "") -> int:
        """Note that something befell *who*; see :meth:`note`."""
        self.faults.append(len(self.lines))
        return self.note(who, kind, details)

    def text(self) -> list[str]:
        """The events as lines of text."""
        return [f"{ms} {who} {what} {details}".rstrip() for ms, who, what, details in self.lines]

    def digest(self) -> str:
        """The hash over all events, hexadecimal."""
        return blake2b("\n".join(self.text()).encode(), digest_size=16).hexdigest()
