"""What is asked of the booking machine in tier 1, and how a broken promise is reported.

The checks carry names, which the table of planted bugs uses:

- ``invariants``: the product's own, of what the input touched;
- ``full scan``: the product's own, derived from all bookings by brute force;
- ``refusal``: a refused input changes nothing and emits nothing;
- ``ids``: an action's id derives from its input and is new;
- ``timers``: nothing that is due is left waiting;
- ``money``: the provider's ledger and the book agree; see :mod:`holdfast.sim.tier1.till`;
- ``keys``: a retry gets the first answer again, and does nothing twice;
- ``restore``: a book from its encoding is the book; a takeover asks about every call under way;
- ``audit``: the rules of the framework, on a sample of steps;
- ``model``: the answer and the book are those of :mod:`holdfast.sim.tier1.model`;
- ``end``: when nobody asks any more and the provider answers, everything comes to an end;
- ``crash``: the machine raised something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from holdfast.actors.booking import messages as m

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.booking.book import Book
    from holdfast.machine import Tracked, Untracked
    from holdfast.sim.tier1.model import Answer, Entry, Model

Check = Literal[
    "invariants",
    "full scan",
    "refusal",
    "ids",
    "timers",
    "money",
    "keys",
    "restore",
    "audit",
    "model",
    "end",
    "crash",
]


class ViolationError(AssertionError):
    """The booking machine broke a promise.

    Attributes:
      check: Which check saw it.
      what: What it saw.
      operation: At which operation of the run, from 1; 0 where it is not known yet.
    """

    def __init__(self, check: Check, what: str, operation: int = 0) -> None:
        super().__init__(f"{check}: {what}")
        self.check: Check = check
        self.what = what
        self.operation = operation


def compare_answer(
    answer: Answer, outcome: m.Outcome, actions: Sequence[Tracked[m.Action] | Untracked[m.Action]]
) -> None:
    """Compare what the machine said and emitted with what the model expects.

    Raises:
      ViolationError: They differ.
    """
    result = outcome.result
    code = result.code if isinstance(result, m.Refused) else ""
    if code != answer.code:
        raise ViolationError(
            "model", f"the machine says {code or 'accepted'!r}, the model {answer.code!r}"
        )
    if outcome.replayed != answer.replayed:
        raise ViolationError("model", f"replayed is {outcome.replayed}, not {answer.replayed}")
    if isinstance(result, m.Accepted) and answer.booking:
        first = result.events[0]
        if not isinstance(first, m.SlotHeld | m.SlotRequested):
            raise ViolationError("model", f"a request was answered by {type(first).__name__}")
        if (first.booking, first.repeated) != (answer.booking, answer.repeated):
            raise ViolationError("model", f"{first.booking} was given, not {answer.booking}")
    emitted = tuple((action.id, *_kind(action.action)) for action in actions)
    if emitted != answer.actions:
        raise ViolationError("model", f"the actions are {emitted}, not {answer.actions}")


def _kind(action: m.Action) -> tuple[str, str]:
    if isinstance(action, m.Notify):
        return "notify", action.kind
    return str(action.__struct_config__.tag), action.payment


def compare_book(model: Model, book: Book) -> None:
    """Compare every booking, in order: slot, status, timers, and both sides of its payment.

    Raises:
      ViolationError: They differ.
    """
    if [entry.id for entry in model.bookings] != list(book.bookings):
        raise ViolationError("model", "the book keeps other bookings than the model")
    for entry in model.bookings:
        compare_booking(entry, book)


def compare_booking(entry: Entry, book: Book) -> None:
    """Compare one booking; see :func:`compare_book`."""
    kept = book.bookings[entry.id]
    payment = kept.payment
    slot = (entry.staff, entry.start, entry.minutes, entry.status, entry.due)
    real_slot = (kept.staff, kept.start_ms, kept.duration_min, kept.status, kept.due_ms)
    if slot != real_slot:
        raise ViolationError("model", f"{entry.id} is {real_slot}, the model's {slot}")
    money = (entry.desired, entry.observed, entry.in_flight, entry.check_due, entry.price)
    real_money = (
        payment.desired,
        payment.observed,
        payment.in_flight,
        payment.due_ms,
        payment.amount_cents,
    )
    if money != real_money:
        raise ViolationError("model", f"{payment.id} is {real_money}, the model's {money}")
