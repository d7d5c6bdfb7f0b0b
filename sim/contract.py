"""What a book promises, held against every input; written down here a second time, in plain words.

A replay by the same code agrees with a wrong decision as readily as with a right one. So what can be said
of one input without the product's indexes is said here: which timers had to fire before it, what a
command under a used key must be answered, what a takeover has to ask about, what a customer may hold.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import payments, wire
from holdfast.actors.booking.book import AWAITING, LIVE
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.actors.booking.book import Book, Booking
    from holdfast.actors.booking.runner import BookRunner, Decided
    from holdfast.actors.ports import InputEntry, OutcomeEntry

KEEP_KEY_H: Final = 24
"""How long an answer is kept where no practice says so, hours."""

PASSING: Final = frozenset({"forbidden", "rate_limited", "unavailable", "validation_failed"})
"""Refusals that say nothing for good: the same command may fare better under the same key."""

LOOK_EVERY: Final = 16
"""Every so-many-th input it is seen to that a refusal leaves the book as it was."""

_HOUR_MS: Final = 3_600_000


class _Answer(msgspec.Struct, frozen=True):
    """What a command was answered."""

    command: bytes
    answer: bytes
    until_ms: int


class _Before(msgspec.Struct):
    """What is to be remembered of a book while an input is decided.

    Attributes:
      over: Holds whose deadline has come.
      ended: Appointments whose end has come.
      calls: Ids of the payment calls under way, by their payment.
      quiet: No timer is due, so that only the input itself can change anything.
      state: All but the memory of keys, encoded; None where nobody looks.
    """

    link: str
    over: list[str]
    ended: list[str]
    calls: dict[str, str]
    quiet: bool = True
    state: bytes | None = None


class Contract:
    """The promises of one book.

    Args:
      fail: Called with the check and what was seen; must raise.
    """

    def __init__(self, fail: Callable[[str, str], None]) -> None:
        self._fail = fail
        self._answers: dict[tuple[str, str, str], _Answer] = {}
        self._decoder = msgspec.json.Decoder(m.Accepted | m.Refused)
        self._events = msgspec.json.Decoder(list[m.Event])
        self._action = msgspec.json.Decoder(m.PaymentAction)
        self._pack = msgspec.msgpack.Encoder()
        self._inputs = 0

    def decide(self, runner: BookRunner, entry: InputEntry) -> Decided:
        """Let *runner* decide *entry*, and see that every promise is kept."""
        state = runner.state
        now = parse_id(entry.id)[0]
        before = self._look(runner, now)
        decided = runner.decide([entry])
        if runner.digest == before.link:
            self._fail("S8 store", f"{entry.id} is no link of the hash chain")
        for placed in decided.payments:
            payment = self._action.decode(placed.body).payment
            booking = state.bookings.get(f"b{payments.request_of(payment)}")
            if booking is None or booking.payment.in_flight != placed.action:
                self._fail("S9 actions", f"{placed.action} left, and the book does not know of it")
        for outcome in decided.outcomes:
            if outcome.status == "invalid":
                self._check_unchanged(entry, state, before, decided)
                continue
            result = self._decoder.decode(outcome.body)
            self._check_timers(entry, outcome, before)
            if entry.type in wire.COMMANDS:
                self._check_answer(entry, outcome, result, state, now)
            if isinstance(result, m.Refused) or outcome.replayed:
                self._check_unchanged(entry, state, before, decided)
            elif entry.type == "taken_over":
                self._check_restore(entry, decided, before)
            elif entry.type == "payment_result":
                self._check_result(entry, result, before)
            else:
                self._check_accepted(entry, result, state, now)
        return decided

    def _look(self, runner: BookRunner, now: int) -> _Before:
        before = _Before(runner.digest, [], [], {})
        for booking in runner.state.bookings.values():
            if booking.due_ms <= now or 0 < booking.payment.due_ms <= now:
                before.quiet = False
            if booking.due_ms <= now:
                if booking.status in AWAITING:
                    before.over.append(booking.id)
                elif booking.status == "confirmed":
                    before.ended.append(booking.id)
            if booking.payment.in_flight:
                before.calls[booking.payment.id] = booking.payment.in_flight
        self._inputs += 1
        if self._inputs % LOOK_EVERY == 0 and before.quiet:
            before.state = self._encode(runner.state)
        return before

    def _encode(self, state: Book) -> bytes:
        return self._pack.encode((list(state.bookings.values()), state.orphans, state.deliveries))

    # -- each input ----------------------------------------------------------

    def _check_unchanged(
        self, entry: InputEntry, state: Book, before: _Before, decided: Decided
    ) -> None:
        """What is refused, or answered from memory, changes nothing and does nothing."""
        changed = before.state is not None and before.state != self._encode(state)
        if changed or (before.quiet and (decided.payments or decided.notifications)):
            self._fail("S11 sealed", f"{entry.id} was refused or answered anew, and had an effect")

    def _check_timers(self, entry: InputEntry, outcome: OutcomeEntry, before: _Before) -> None:
        events = self._events.decode(outcome.timers) if outcome.timers else []
        over = [event.booking for event in events if isinstance(event, m.HoldExpired)]
        ended = [event.booking for event in events if isinstance(event, m.BookingCompleted)]
        if sorted(over) != sorted(before.over) or sorted(ended) != sorted(before.ended):
            self._fail(
                "timers",
                f"before {entry.id} {over} expired and {ended} ended; "
                f"due were {before.over} and {before.ended}",
            )

    def _check_answer(
        self,
        entry: InputEntry,
        outcome: OutcomeEntry,
        result: m.Accepted | m.Refused,
        state: Book,
        now: int,
    ) -> None:
        """A command under a used key gets the answer that the first one got, or none."""
        if not entry.key:
            return
        name = (entry.by, entry.type, entry.key)
        known = self._answers.get(name)
        code = result.code if isinstance(result, m.Refused) else ""
        if known is not None and known.until_ms > now:
            same = known.command == entry.body
            right = (
                outcome.replayed and outcome.body == known.answer
                if same
                else code == "idempotency_key_reused"
            )
            if not right:
                what = "the same command" if same else "another command"
                self._fail(
                    "idempotency", f"{entry.id} is {what} under a used key: {outcome.body!r}"
                )
            return
        if outcome.replayed or code == "idempotency_key_reused":
            self._fail("idempotency", f"{entry.id} has a new key, and was answered from memory")
        if code not in PASSING:
            practice = state.revisions[-1].definition if state.revisions else None
            hours = practice.policies.idempotency_h if practice else KEEP_KEY_H
            self._answers[name] = _Answer(entry.body, outcome.body, now + hours * _HOUR_MS)

    # -- what is accepted ----------------------------------------------------

    def _check_restore(self, entry: InputEntry, decided: Decided, before: _Before) -> None:
        """A takeover asks about every call of the inputs decided before it, oldest first."""
        message = json.loads(entry.body)
        if message.get("after"):
            return  # a further page of so many calls as no world has
        last = parse_id(message["position"])
        wanted = [call for call in before.calls.values() if parse_id(_input_of(call)) <= last]
        wanted.sort(key=lambda call: (*parse_id(_input_of(call)), int(call.rpartition(":")[2])))
        asked = [
            placed.action for placed in decided.payments if _input_of(placed.action) != entry.id
        ]
        if asked != wanted:
            self._fail("restore", f"{entry.id} asked about {asked}, under way were {wanted}")

    def _check_result(self, entry: InputEntry, result: m.Accepted, before: _Before) -> None:
        """A result that nobody waits for is noted, and no more."""
        sent = json.loads(entry.body)
        awaited = before.calls.get(sent["payment"]) == sent["action"]
        ignored = any(isinstance(event, m.ResultIgnored) for event in result.events)
        if awaited == ignored:
            what = "ignored" if ignored else "taken in, though nobody waited for it"
            self._fail("S6 one effect", f"{entry.id}: the result of {sent['action']} was {what}")

    def _check_accepted(self, entry: InputEntry, result: m.Accepted, state: Book, now: int) -> None:
        for event in result.events:
            if isinstance(event, m.SlotHeld | m.SlotRequested) and not event.repeated:
                self._check_request(entry, state.bookings[event.booking], event, state, now)
            elif isinstance(event, m.PracticeDefined):
                staff = [member.id for member in state.revisions[-1].definition.staff]
                for booking in state.bookings.values():
                    if booking.status in LIVE and booking.staff not in staff:
                        details = f"{booking.staff} has left and {booking.id} is live"
                        self._fail("S2 opening hours", details)

    def _check_request(
        self,
        entry: InputEntry,
        booking: Booking,
        event: m.SlotHeld | m.SlotRequested,
        state: Book,
        now: int,
    ) -> None:
        definition = state.revisions[-1].definition
        policies = definition.policies
        due_ms = min(now + policies.hold_s * 1000, booking.start_ms)
        if event.deadline_ms != due_ms or booking.start_ms < now:
            details = f"{booking.id} is kept until {event.deadline_ms}, not until {due_ms}"
            self._fail("timers", details)
        held = [
            other.id
            for other in state.bookings.values()
            if other.customer == booking.customer and other.status in AWAITING
        ]
        if policies.holds_per_customer_max and len(held) > policies.holds_per_customer_max:
            self._fail("S16 bounds", f"after {entry.id} {booking.customer} has {held} on hold")
        price = [one.price_cents for one in definition.services if one.id == booking.service]
        if price != [event.price_cents]:
            self._fail("S4 money", f"{booking.id} costs {event.price_cents}, not {price}")


def _input_of(action_id: str) -> str:
    return action_id.rpartition(":")[0]
