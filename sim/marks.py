"""What must happen sometimes: rare states that a run counts when it reaches them.

A simulation that never has a hold expire while its payment is in flight says nothing about that
case, however many seeds it runs. So each interesting state has a mark here, with a sentence; a run
counts its hits, and whoever runs many seeds sees which were never reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.sim.faults import SERVER_FAULTS
from holdfast.sim.operator_faults import OPERATOR_MARKS, TOOL_MARKS
from holdfast.sim.provider_faults import PROVIDER_MARKS

if TYPE_CHECKING:
    from collections.abc import Mapping

MARKS: Final[Mapping[str, str]] = {
    # bookings
    "accepted": "a customer's command was accepted",
    "refused": "a customer's command was refused",
    "replayed": "a retry got the remembered answer of its idempotency key",
    "auto_accepted": "an auto-selected slot was given",
    "expired": "a hold expired",
    "expired_in_flight": "a hold expired while its payment was in flight",
    "confirmed_late": "a booking was confirmed after its hold had expired",
    "slot_lost": "a payment succeeded, but the slot was somebody else's",
    "slot_moved": "an auto-selected request lost its slot and was given another",
    "cancelled_in_flight": "a booking was cancelled while its payment was in flight",
    "cancelled_confirmed": "a confirmed booking was cancelled",
    "completed": "an appointment's time was over",
    "captured": "money on hold was taken",
    "dropped": "a booking left the book by its retention rule",
    "declined": "a payment was declined",
    "invalid": "an entry that was no message became a dead letter",
    "result_ignored": "a payment result came late or twice",
    "contradiction": "a late result contradicted what the book knew, and it asked again",
    "timers_in_batch": "a timer fired before an input was decided",
    "redefined": "the practice was defined anew under bookings",
    # booking actors
    "superseded": "a commit was refused since another booking actor had taken the book over",
    "stood_by": "a booking actor followed a book that another one led",
    "took_over_warm": "a booking actor took over a book that it had followed",
    "took_over_from_the_living": "a booking actor took over from one that was alive",
    "took_over_at_the_end": "who stood by led in time after the leader had died for good",
    "handed_over_at_the_end": "who stood by led at the next look after the leader had stopped",
    "took_again": "a booking actor took over a book that it had led before",
    "took_over_backlog": "a booking actor took over while inputs waited to be decided",
    "restored_calls": "a takeover asked again about calls under way",
    "replayed_from_snapshot": "a booking actor began from a snapshot",
    "snapshot_saved": "a snapshot was written",
    "commit_unknown": "a commit's result was unknown",
    "commit_unknown_written": "an unknown commit turned out to be written",
    "commit_refused": "the log refused a commit",
    "log_away": "a booking actor waited for the log",
    "batch_of_many": "one commit decided five inputs or more",
    # executors
    "action_claimed": "an executor took over another one's action",
    "result_unknown": "a provider call ended without an answer",
    "executor_log_away": "an executor waited for the log",
    "mail_failed": "a message could not be delivered and was reported so",
    "mail_duplicate": "a message was delivered already",
    # provider
    **PROVIDER_MARKS,
    # copies
    "copies_late": "a commit was written, and too few replicas had it in time",
    "copies_executor": "an executor waited for replicas to have its actions",
    "copies_executor_refused": "an executor gave actions back that too few replicas had",
    "copies_action_forgotten": "a failover forgot an action that an executor was not given yet",
    "copies_failover": "a failover came while somebody waited for replicas",
    "copies_forgotten": "a failover forgot a commit, and nobody had been told that it is written",
    "tail_lost": "a process noticed that the log had lost its tail",
    "tail_reported": "a booking actor reported the range of a lost tail",
    "tail_reported_outcomes": "outcomes that it had been told were written were in that range",
    "reconciled": "an operator compared the provider's ledger with a book after a failover",
    "reconciled_told": "a book was told of a payment that it knew otherwise, and asked about it",
    "orphan_released": "money on hold for requests that a failover had lost was released",
    # processes
    "crash_at_call": "a process crashed at a call to the outside",
    "crash_after_effect": "a process crashed after a call's effect, before its answer",
    "crash_in_time": "a process crashed at some moment",
    "paused": "a process was paused and went on with old beliefs",
    "stopped": "a process was stopped cleanly under faults",
    "crashed_while_stopping": "a process crashed while it was stopping",
    "crashed_during_restore": "a booking actor crashed after its takeover, before its first commit",
    "restart_storm": "all processes crashed and began again several times within seconds",
    "clock_skewed": "a process began with a wrong clock",
    "clock_jumped": "the clock of a process jumped",
    "clock_mattered": "a process with a wrong clock asked for a tick",
    "healed_without_restart": "the world healed and no living process was restarted",
    # producers
    "append_retried": "a producer sent a command again since it had no answer",
    "append_twice": "a producer's command came to lie in the log twice",
    "came_back": "a customer came back later",
    "outcome_unseen": "a customer gave up waiting for the outcome",
    # the operator
    **OPERATOR_MARKS,
    **TOOL_MARKS,
    # the log's server
    **{f"server_{kind}": sentence for kind, sentence in SERVER_FAULTS.items()},
    **{
        f"server_{kind}_mattered": f"{sentence}, and it mattered"
        for kind, sentence in SERVER_FAULTS.items()
        if kind != "slow"  # whatever it delays would have had to wait anyway
    },
}
"""Name and sentence of each mark."""


class Marks:
    """Counts of the marks of one run."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def hit(self, name: str, times: int = 1) -> None:
        """Count mark *name*, which must be in :data:`MARKS`."""
        assert name in MARKS, name
        self.counts[name] = self.counts.get(name, 0) + times

    def never(self) -> list[str]:
        """Marks without a hit."""
        return [name for name in MARKS if name not in self.counts]
