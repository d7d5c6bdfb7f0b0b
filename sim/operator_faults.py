"""What a person with access to the log does under a running service: every kind is a field here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OPERATOR_MARKS: Final[Mapping[str, str]] = {
    "operator_redefined": "an operator changed the practice",
    "operator_redefined_mattered": "an operator changed the practice under live bookings",
    "operator_holiday": "an operator closed a day on which there were live bookings",
    "operator_script": "a producer's script was run twice",
    "operator_script_mattered": "a script's second run got the first one's answers",
    "operator_replayed": "a tool replayed a live book and came to the same digest",
    "operator_replayed_rest": "a tool replayed a live book from a snapshot, its log being trimmed",
    "operator_trimmed": "an operator had the log trimmed",
    "operator_trimmed_mattered": "an operator had the log trimmed, and entries went",
    "operator_redriven": "an operator drove a dead letter again",
    "operator_snapshot_back": "an operator put an older snapshot back",
    "operator_snapshot_back_mattered": "a booking actor began from a snapshot that was put back",
    "operator_result_again": "an old payment result was appended again",
}
"""Name and sentence of each mark of the operator's."""

KINDS: Final[Mapping[str, int]] = {
    "redefine": 4,
    "script": 2,
    "replay": 3,
    "trim": 4,
    "redrive": 3,
    "snapshot": 2,
    "result": 6,
}
"""What may be done, and how often at most in one world."""


class OperatorFaults(msgspec.Struct, frozen=True):
    """How often each thing is done, at moments of their own.

    Attributes:
      redefine: Policies, hours, prices and staff change, or a day is closed, under bookings.
      script: A producer's script is run, and run once more under the same keys.
      replay: A book is replayed from the log while it is live.
      trim: The log is trimmed of what nobody needs.
      redrive: A dead letter is appended again, as it was.
      snapshot: An older snapshot is put in the place of the newest.
      result: A payment result is appended again: late, and after others.
      span_s: All of it begins within so long.
    """

    redefine: int = 0
    script: int = 0
    replay: int = 0
    trim: int = 0
    redrive: int = 0
    snapshot: int = 0
    result: int = 0
    span_s: int = 0


def draw_operator_faults(share: Callable[[str, str, float], float], span_s: int) -> OperatorFaults:
    """The operator of a seed.

    Args:
      share: Draws how much of a group's fault, by its name, up to a greatest one; 0 where it is off.
      span_s: How long faults happen.
    """
    counts = {
        # An executor's results come again, which is the way to the provider's doing.
        kind: math.ceil(
            share("provider" if kind == "result" else "operator", f"operator.{kind}", most)
        )
        for kind, most in KINDS.items()
    }
    return OperatorFaults(**counts, span_s=span_s)
