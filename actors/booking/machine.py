"""The booking machine: one file owns every transition.

:meth:`BookingMachine.transition` is a pure function of the book and one input. Its order is always
the same: fire the timers that are due, then answer retries from memory, then decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.actors.booking import lifecycle, payments, rules
from holdfast.actors.booking.book import HOUR_MS, ORPHANS_MAX, Book, Keyed, encode_answer
from holdfast.actors.booking.messages import (
    Accepted,
    Action,
    Asked,
    BookTakenOver,
    CheckStatus,
    DeliveryRecorded,
    DeliveryReport,
    Event,
    Message,
    Outcome,
    PaymentResult,
    Refused,
    ResultIgnored,
    TakenOver,
    Tick,
)
from holdfast.machine import ACTIONS_MAX, Completed, Normal, action_order

if TYPE_CHECKING:
    from holdfast.machine import Emit

TIMERS_MAX: Final = 1_024
"""Most events of timers that one input's outcome tells, so that no outcome is too large to write."""

KEEP_KEY_MS: Final = 24 * HOUR_MS
"""How long a key is kept where there is no practice yet to say so."""

NOTHING: Final = Accepted(())
NO_OUTCOME: Final = Outcome(NOTHING)


class BookingMachine:
    """Decides the inputs of one book; see :class:`holdfast.machine.StateMachine`."""

    version: int = 1

    def genesis(self) -> Book:
        """A book without a practice."""
        return Book()

    def transition(
        self,
        state: Book,
        input: Normal[Message] | Completed[PaymentResult],  # noqa: A002 - the field's word
        emit: Emit[Action],
    ) -> Outcome:
        """Decide one input.

        What is malformed does not come so far: it cannot be decoded (``wire``). So this machine
        raises no TransitionError.

        Raises:
          EmitFullError: *emit* has no room for even one step; nothing changed.
        """
        emit.reserve(lifecycle.ACTIONS_PER_STEP)
        now = input.now
        state.touched.clear()
        timers: tuple[Event, ...] = ()
        if state.timers and state.timers[0][0] <= now:
            timers = _fire_due(state, now, emit)
        if state.key_queue and state.key_queue[0].until_ms <= now:
            state.forget_keys(now)
        # By exact type: isinstance of a struct that it is not takes three times as long.
        if type(input) is Normal:
            message = input.message
            if type(message) is Asked:
                result, replayed = _command(state, message, now, input.id, emit)
                return Outcome(result, timers, replayed)
            if type(message) is DeliveryReport:
                return Outcome(_delivery(state, message), timers)
            if type(message) is TakenOver:
                return Outcome(self._taken_over(state, message, emit), timers)
            assert type(message) is Tick
            return Outcome(NOTHING, timers) if timers else NO_OUTCOME
        assert type(input) is Completed
        return Outcome(_payment_result(state, input, emit), timers)

    def restore(self, state: Book, emit: Emit[Action], after: str = "", until: str = "") -> bool:
        """Ask what became of every payment call that is under way.

        Never the call itself: it may have happened. Where it has not, the answer is ``none``, and
        the machine makes it again.

        Args:
          state: The book.
          emit: Where the questions go.
          after: Only calls with greater action ids.
          until: Only calls of inputs up to this one; "" for all.
        """
        begin = action_order(after) if after else (0, 0, -1)
        end = action_order(f"{until}:{ACTIONS_MAX}") if until else None
        for action_id, booking in state.in_flight.items():
            order = action_order(action_id)
            if order <= begin:
                continue
            if end is not None and order > end:
                break  # they are in the order of emission
            if not emit.room:
                return False
            emit.again(action_id, CheckStatus(booking.payment.id))
        return True

    def outstanding(self, state: Book) -> list[str]:
        """Ids of the payment calls under way."""
        return list(state.in_flight)

    def encode(self, state: Book) -> bytes:
        """The book in its canonical form."""
        return state.encode()

    def decode(self, data: bytes) -> Book:
        """The book that :meth:`encode` wrote."""
        return Book.decode(data)

    def _taken_over(self, book: Book, message: TakenOver, emit: Emit[Action]) -> Accepted:
        before = len(emit.actions)
        complete = self.restore(book, emit, message.after, message.position)
        more_after = "" if complete else emit.actions[-1].id
        restored = len(emit.actions) - before
        for action in emit.actions[before:]:
            booking = book.in_flight[action.id]
            # A check that fails says nothing of the call it stands for.
            booking.payment.call = "check_status"
            book.touch(booking)
        return Accepted((BookTakenOver(message.epoch, restored, more_after),))


def _fire_due(book: Book, now: int, emit: Emit[Action]) -> tuple[Event, ...]:
    """Fire what is due, in order, as far as the actions have room; the rest goes with the next input."""
    events: list[Event] = []
    while emit.room >= 2 * lifecycle.ACTIONS_PER_STEP and len(events) < TIMERS_MAX:
        due = book.pop_due(now)
        if due is None:
            break
        lifecycle.fire(book, due[0], due[1], now, emit, events)
    return tuple(events)


def _command(
    book: Book, asked: Asked, now: int, input_id: str, emit: Emit[Action]
) -> tuple[Accepted | Refused, bool]:
    command = asked.command
    if not asked.key:
        details = "X-Idempotency-Key header is required for booking operations"
        return Refused("Validation failed", details, "idempotency_key_required", input_id), False
    name = f"{asked.by} {type(command).__name__} {asked.key}"
    known = book.keys.get(name)
    if known is not None and known.until_ms > now:
        if known.digest == asked.digest:
            return known.result, True
        details = "This idempotency key was used for another request"
        return Refused("Validation failed", details, "idempotency_key_reused", input_id), False
    result = rules.decide(book, asked, now, input_id, emit)
    if type(result) is not Refused or result.code not in rules.TRANSIENT:
        practice = book.practice
        keep_ms = KEEP_KEY_MS if practice is None else practice.key_ms
        book.keep_key(Keyed(name, asked.digest, now + keep_ms, encode_answer(result)))
    return result, False


def _payment_result(
    book: Book, completed: Completed[PaymentResult], emit: Emit[Action]
) -> Accepted:
    action_id, result = completed.action_id, completed.result
    booking = book.bookings.get(f"b{payments.request_of(result.payment)}")
    if booking is None or booking.payment.id != result.payment:
        if len(book.orphans) >= ORPHANS_MAX:
            del book.orphans[0]
        book.orphans.append(action_id)
        return Accepted((ResultIgnored(action_id, "the book does not know this payment"),))
    events: list[Event] = []
    lifecycle.take_result(book, booking, action_id, result, completed.now, emit, events)
    return Accepted(tuple(events))


def _delivery(book: Book, report: DeliveryReport) -> Accepted:
    book.deliveries[report.status] = book.deliveries.get(report.status, 0) + 1
    booking = book.bookings.get(report.booking)
    if booking is not None:
        booking.delivered += 1
        book.touch(booking)
    return Accepted((DeliveryRecorded(report.booking, report.status),))
