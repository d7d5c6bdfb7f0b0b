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

TOOL_MARKS: Final[Mapping[str, str]] = {
    "tool_looked": "a tool told how a live book fares, and replayed it",
    "tool_exported": "a live book was exported, and the export did not differ from it",
    "tool_imported": "an export was imported on another server",
    "tool_imported_mattered": "a booking actor took calls up that an import had brought",
    "tool_kept": "a tool made a snapshot of a live book",
    "tool_kept_mattered": "a tool's snapshot was the newest",
    "tool_superseded": "a book changed hands while a tool made its snapshot",
    "tool_tidied": "a tool trimmed a live book of what an export has",
    "tool_tidied_mattered": "a tool trimmed inputs",
    "tool_letter_dropped": "a tool dropped a dead letter",
    "tool_letter_retried": "a tool put a dead letter right and sent it again",
    "tool_letter_retried_mattered": "a dead letter that was sent again was decided",
    "tool_other_release": "a process of another release refused books that were decided already",
    "tool_tried": "a tool told what other policies would have done to a live book",
    "tool_tried_mattered": "other policies would have answered otherwise",
    "tool_filed": "a snapshot of a live book was written to a file, and replayed from there",
    "tool_filed_mattered": "a live book went on after its snapshot had been written to a file",
    "tool_reconciled": "a book was reconciled with the provider beside other tools",
    "tool_drained": "a service was drained, looked at and started again",
    "tool_drained_mattered": "inputs waited in a drained book for whoever was started next",
    "tool_drained_led": "a tool said of a drained book that somebody else leads it",
    "tool_meddled_type": "a key of a wrong type lay in the place of one of a live book's",
    "tool_meddled_type_told": "a process said which key has a wrong type",
    "tool_meddled_outcome": "somebody wrote an outcome by hand",
    "tool_meddled_outcome_told": "a process said that an outcome is beyond its next",
    "tool_meddled_deleted": "somebody deleted a stream of actions",
    "tool_meddled_deleted_told": "a process said which of its streams was deleted",
    "tool_meddled_action": "somebody wrote an action by hand",
    "tool_action_retried": "an action that was a dead letter was sent again",
    "tool_action_dropped": "a dead letter that was an action was dropped",
    "tool_history_changed": "a tool noticed that the server failed over or was restarted meanwhile",
    "tool_unavailable": "a tool ended since the server was away",
    "tool_refused": "a tool said why it cannot be done",
}
"""Name and sentence of each mark of the operator's tools."""

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

TOOLS: Final[Mapping[str, int]] = {
    "look": 2,
    "archive": 1,
    "keep": 2,
    "tidy": 1,
    "letters": 2,
    "release": 1,
    "policies": 1,
    "file": 1,
    "reconcile": 2,
    "drain": 1,
    "meddle": 1,
    "strange": 1,
}
"""Tools that may be used, each a method of ``Toolbox``, and how often at most in one world."""

SPOILING: Final = ("meddle", "strange")
"""What is done in worlds with every tool alone, and in half of those: whoever looks at a spoilt book sees less."""

_TOOLED: Final = 8
"""Of ten worlds whose operator may use tools, those from here on: tools cost time."""


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
      look: ``status`` and ``replay``.
      archive: ``export``, ``replay --diff``, and ``import`` on another server.
      keep: ``snapshot`` into the log.
      tidy: ``export`` and ``trim --archive``.
      letters: ``deadletters retry`` or ``drop``.
      release: A booking actor of another release is started beside those that decide.
      policies: ``replay --with`` other policies.
      file: ``snapshot --to FILE``, and ``replay`` of it and from it.
      reconcile: ``reconcile --yes``.
      drain: ``drain``, and ``up`` after a while.
      meddle: Somebody writes to a book's keys by hand, and puts it right.
      strange: An executor of another release, and ``deadletters retry`` of what it could not carry out.
      span_s: All of it begins within so long.
    """

    redefine: int = 0
    script: int = 0
    replay: int = 0
    trim: int = 0
    redrive: int = 0
    snapshot: int = 0
    result: int = 0
    look: int = 0
    archive: int = 0
    keep: int = 0
    tidy: int = 0
    letters: int = 0
    release: int = 0
    policies: int = 0
    file: int = 0
    reconcile: int = 0
    drain: int = 0
    meddle: int = 0
    strange: int = 0
    span_s: int = 0

    @property
    def uses_tools(self) -> bool:
        """Whether any tool may be used."""
        return any(getattr(self, tool) for tool in TOOLS)

    @property
    def spoils(self) -> bool:
        """Whether a book may be spoilt."""
        return any(getattr(self, tool) for tool in SPOILING)


def draw_operator_faults(
    share: Callable[[str, str, float], float], span_s: int, *, every_tool: bool = False
) -> OperatorFaults:
    """The operator of a seed.

    Args:
      share: Draws how much of a group's fault, by its name, up to a greatest one; 0 where it is off.
      span_s: How long faults happen.
      every_tool: All tools are used, as often as they may.
    """
    counts = {
        # An executor's results come again, which is the way to the provider's doing.
        kind: math.ceil(
            share("provider" if kind == "result" else "operator", f"operator.{kind}", most)
        )
        for kind, most in KINDS.items()
    }
    if every_tool:
        counts |= TOOLS
        for tool in SPOILING:
            counts[tool] = math.ceil(share("operator", f"operator.{tool}", TOOLS[tool]))
    elif share("operator", "operator.tools", 10) >= _TOOLED:
        for tool, most in TOOLS.items():
            if tool in SPOILING:
                continue
            counts[tool] = math.ceil(share("operator", f"operator.{tool}", most))
    return OperatorFaults(**counts, span_s=span_s)
