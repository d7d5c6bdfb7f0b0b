"""What must hold of every run, as named checks of one sentence each, and what a failure says.

The letters and numbers are those of the properties in the documentation of the simulator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKS: Final[Mapping[str, str]] = {
    "S1 no overlap": "no member of staff has two slots at one time, no customer the same one twice",
    "S2 opening hours": "every live booking lies on the grid, inside the hours it was accepted under",
    "S3 calendar": "calendar and bookings say the same, both ways",
    "S4 money": "at rest the provider's ledger equals the book, and money is conserved",
    "S5 confirmed": "what is confirmed had an effective preauthorization at that commit",
    "S6 one effect": "a payment is put on hold, taken and given back once at most",
    "S7 one outcome": "every input has one outcome, and what was acknowledged is never lost",
    "S8 store": "positions and epochs grow, each input is one link, none writes after a newer epoch",
    "S9 actions": "no action is seen before its commit, each is emitted once and known to the book",
    "S10 replay": "replay from the beginning and from every snapshot gives the same book",
    "S11 sealed": "nothing reaches for a clock, randomness or a file, and a refusal changes nothing",
    "S12 linearizable": "what was acknowledged before another was sent comes before it",
    "S13 messages": "people are told committed facts, and what became of each message is reported",
    "S14 poison": "an entry that is no message becomes one dead letter, and the log goes on",
    "S15 no live effect": "replaying calls nobody, and a tool that only looks changes nothing",
    "S16 bounds": "pending entries, orphans, repeats, a customer's holds and waits are bounded",
    "timers": "what is due happens before the next input is decided, and nothing sooner",
    "idempotency": "a command under a used key gets the first one's answer, another one gets none",
    "restore": "a takeover asks about every call under way, in order",
    "drain": "a clean stop leaves a snapshot at the very position of each book",
    "tools": "a tool tells what is so, and changes nothing but what it says",
    "trimming": "no trim takes what a group, the older snapshot or an operator still needs",
    "releases": "a process of another release refuses a book before it takes it from its owner",
    "invariants": "the product's own scan of the whole book finds nothing",
    "L1 terminal": "every request comes to an end",
    "L2 no lag": "nothing is left to decide, to carry out or to acknowledge",
    "L3 leader": "a living booking actor leads each book, and where it dies another one does in time",
    "L4 no livelock": "a run has a bounded number of events",
    "L5 clean stop": "a process that is asked to stop has ended within its grace",
    "L7 no deadlock": "there is always something that can happen",
    "L8 no orphan": "no money is on hold for a booking that does not want it",
    "L9 health": "who got through to the log says so, also where it was away before",
    "no bug": "no process ends by an error that our own bug would cause",
}
"""Name and sentence of each check."""


class Violation(msgspec.Struct, frozen=True):
    """A check that failed.

    Attributes:
      check: Its name, of ``CHECKS``.
      details: What was seen.
      order: How many events the trace had when it was seen.
    """

    check: str
    details: str
    order: int


class ViolationError(Exception):
    """Ends a run at its first violation."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(f"{violation.check}: {violation.details}")
        self.violation = violation
