"""Runs the machine over entries of the log. Pure: the same entries give the same everything.

The booking actor runs a live book by it; followers, tools and tests replay by it. There is no other
way from entries to a book, so live and replayed books cannot differ by accident.

The hash chain's link after each input covers the input's id, its outcome, its actions and what it
left of the bookings it touched: equal links mean equal histories.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from holdfast.actors.booking import collector, wire
from holdfast.actors.booking.invariants import check_touched
from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.booking.messages import Accepted, BookTakenOver, Notify, Refused, TakenOver
from holdfast.actors.ports import GENESIS, ActionEntry, DeadLetter, OutcomeEntry, Snapshot
from holdfast.machine import ACTIONS_MAX, Emit, Normal
from holdfast.machine.digest import Chain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.booking.book import Book
    from holdfast.actors.booking.messages import Action
    from holdfast.actors.ports import InputEntry


class VersionError(Exception):
    """A snapshot or log was decided by another version of the machine."""


class Decided(msgspec.Struct, gc=False):
    """What a batch of inputs became, ready to be committed.

    Attributes:
      restore_more: Where it is not None: the input to append for the next page of a restore.
    """

    outcomes: list[OutcomeEntry]
    payments: list[ActionEntry]
    notifications: list[ActionEntry]
    dead_letters: list[DeadLetter]
    restore_more: TakenOver | None = None


class BookBugError(Exception):
    """The machine failed on an input: a bug of ours. The message names the book and the entry.

    Attributes:
      decided: What became of the inputs of the batch before that one.
    """

    def __init__(self, message: str, decided: Decided) -> None:
        super().__init__(message)
        self.decided = decided


class BookRunner:
    """One book and how far it is decided.

    Args:
      book: Its name.
      snapshot: Where to begin; None is genesis.
      check: Check the invariants after each input.

    Raises:
      VersionError: The snapshot is another version's.
    """

    def __init__(self, book: str, snapshot: Snapshot | None = None, check: bool = True) -> None:
        self.book = book
        self.machine = BookingMachine()
        self._emit: Emit[Action] = Emit()
        self._check = check
        if snapshot is None:
            self.state: Book = self.machine.genesis()
            self.position = GENESIS
            self._chain = Chain()
        else:
            if snapshot.version != self.machine.version:
                raise VersionError(
                    f"book {book}: the snapshot at {snapshot.position} is of machine version "
                    f"{snapshot.version}, this is {self.machine.version}: drain with the old release"
                )
            state = snapshot.state
            with collector.at_rest(len(state)):
                self.state = self.machine.decode(state)
            self.position = snapshot.position
            self._chain = Chain(snapshot.digest)

    @property
    def digest(self) -> str:
        """The hash chain's link at the position, hexadecimal; "" before the first input."""
        return self._chain.hex

    def next_due_ms(self) -> int | None:
        """When the book's earliest timer is due; None where there is none."""
        return self.state.next_due_ms()

    def snapshot(self) -> Snapshot:
        """The book as it is now, to be written whenever it suits; to make it takes no time."""
        return Snapshot(self.position, self.machine.version, self.digest, self.state.pieces())

    def decide(self, entries: Sequence[InputEntry]) -> Decided:
        """Decide *entries*, which follow the position, in order.

        Raises:
          BookBugError: The book must not go on.
        """
        decided = Decided([], [], [], [])
        self._run(entries, self._check, decided)
        return decided

    def replay(self, entries: Sequence[InputEntry]) -> None:
        """Decide *entries* as :meth:`decide`, of which it is known that they were decided before.

        The invariants are not checked anew: whoever decided them did, and :attr:`digest` tells whether
        it came out the same.

        Raises:
          BookBugError: The book must not go on.
        """
        self._run(entries, False, None)

    def _run(self, entries: Sequence[InputEntry], check: bool, decided: Decided | None) -> None:
        for entry in entries:
            try:
                self._decide(entry, check, decided)
            except Exception as error:
                raise BookBugError(
                    f"book {self.book}: the machine failed at input {entry.id} ({entry.type}): "
                    f"{type(error).__name__}: {error}; replay up to it to see why",
                    Decided([], [], [], []) if decided is None else decided,
                ) from error

    def _decide(self, entry: InputEntry, check: bool, decided: Decided | None) -> None:
        try:
            message = wire.decode(entry)
        except wire.WireError as error:
            self._refuse_poison(entry, str(error), decided)
            return
        emit = self._emit
        emit.begin(entry.id)
        outcome = self.machine.transition(self.state, message, emit)
        if check:
            check_touched(self.state)
        body = wire.encode_result(outcome.result)
        timers = wire.encode_events(outcome.timers) if outcome.timers else b""
        emitted = emit.actions
        actions = [wire.encode_action(one.action) for one in emitted] if emitted else []
        step = wire.encode_step(entry.id, body, timers, actions, self.state.seal())
        self._chain.feed(step)
        self.position = entry.id
        if decided is not None:
            status = "accepted" if type(outcome.result) is Accepted else "refused"
            decided.outcomes.append(OutcomeEntry(entry.id, status, body, timers, outcome.replayed))
            if actions:
                self._place_actions(entry, actions, decided)
            # By exact type: isinstance of a struct that it is not takes five times as long.
            if type(message) is Normal and type(message.message) is TakenOver:
                page = _next_page(message.message, outcome.result)
                if page is not None:
                    decided.restore_more = page

    def _place_actions(self, entry: InputEntry, bodies: list[bytes], decided: Decided) -> None:
        """Give the actions of one input their places in the streams."""
        ms, _, sequence = entry.id.partition("-")
        number = int(sequence) * ACTIONS_MAX
        for emitted, body in zip(self._emit.actions, bodies, strict=True):
            action = emitted.action
            stream = decided.notifications if type(action) is Notify else decided.payments
            kind = action.__struct_config__.tag
            assert isinstance(kind, str)
            stream.append(ActionEntry(f"{ms}-{number}", emitted.id, kind, body, entry.trace))
            number += 1

    def _refuse_poison(self, entry: InputEntry, why: str, decided: Decided | None) -> None:
        """An entry that is no message: an outcome, a dead letter, and the log goes on."""
        refusal = Refused("Validation failed", why, "validation_failed", entry.id)
        body = wire.encode_result(refusal)
        self._chain.feed(wire.encode_step(entry.id, body, b"", [], []))
        self.position = entry.id
        if decided is None:
            return
        decided.outcomes.append(OutcomeEntry(entry.id, "invalid", body))
        fields = entry.raw or (
            b"type", entry.type.encode(), b"body", entry.body, b"key", entry.key.encode(),
            b"by", entry.by.encode(), b"trace", entry.trace.encode(),
        )  # fmt: skip
        decided.dead_letters.append(DeadLetter("inputs", entry.id, why, fields))


def _next_page(page: TakenOver, result: Accepted | Refused) -> TakenOver | None:
    """The input to append for what a page of a restore had no room for; None where it was the last."""
    assert isinstance(result, Accepted)
    (event,) = result.events
    assert isinstance(event, BookTakenOver)
    return msgspec.structs.replace(page, after=event.more_after) if event.more_after else None
