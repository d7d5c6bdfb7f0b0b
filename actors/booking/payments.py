"""A payment's desired and observed state, and the one call that closes the gap (domain 7.3).

The book says what it wants (*desired*), the provider's answers say what is (*observed*), and
:func:`drive` emits the next call whenever none is under way. At most one call is in flight per
payment, so results cannot overtake each other; an answer that tells nothing is never taken for a
no, but asked again, at growing distances, until it is final. Nothing here knows about calendars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.actors.booking.messages import (
    Action,
    Capture,
    CheckScheduled,
    CheckStatus,
    Event,
    PaymentObserved,
    PaymentResult,
    Preauthorize,
    Refund,
    ResultIgnored,
    Void,
)

if TYPE_CHECKING:
    from holdfast.actors.booking.book import Book, Booking, Call, Payment
    from holdfast.machine import Emit

CHECK_DELAYS_S: Final = (5, 10, 20, 40, 60)
"""How long to wait before each status check in a row; the last one for all that follow (F-203)."""

CLOSED: Final = frozenset({"captured", "voided", "refunded", "declined", "expired"})
"""Observed states in which no money is on hold."""

GONE: Final = CLOSED - {"captured"}
"""Observed states in which there is no money, neither on hold nor taken."""

NEVER_HAPPENED: Final = frozenset({"none", "requested", "unknown"})


def name_of(request: str, digest: str) -> str:
    """The id of the payment that is asked for by the input with the id *request*.

    A primary that takes the place of another may give out an id again. So the id alone does not tell
    whose money it is: the *digest* of what was asked is part of the name, and thereby of every key
    under which the provider is called.
    """
    return f"p{request}-{digest}"


def request_of(payment: str) -> str:
    """The id of the input that asked for *payment*; of what is no payment of ours, anything."""
    return payment[1:].rpartition("-")[0]


def is_settled(payment: Payment) -> bool:
    """Whether nothing remains to be done or heard about the payment."""
    if payment.in_flight or payment.due_ms:
        return False
    if payment.observed == "captured":
        return payment.desired == "captured"
    return payment.observed in CLOSED or (
        payment.observed == "none" and payment.desired == "released"
    )


def is_at_rest(payment: Payment) -> bool:
    """Whether nothing more happens to the payment unless somebody asks for it, or its time comes."""
    kept = payment.desired == payment.observed == "authorized"
    return is_settled(payment) or (kept and not payment.in_flight and not payment.due_ms)


def wanted_call(payment: Payment) -> Call:
    """The call that brings *observed* nearer to *desired*; "" where there is none to make."""
    desired, observed = payment.desired, payment.observed
    if observed == "authorized":
        return "" if desired == "authorized" else "capture" if desired == "captured" else "void"
    if observed == "captured":
        return "refund" if desired == "released" else ""
    if observed == "none":
        return "preauthorize" if desired == "authorized" else ""
    return ""


def drive(book: Book, booking: Booking, now: int, emit: Emit[Action]) -> None:
    """Emit the payment's next call, if one is wanted and none is under way."""
    payment = booking.payment
    if payment.in_flight or payment.due_ms:
        return
    call = wanted_call(payment)
    if not call:
        return
    action: Action
    if call == "preauthorize":
        # The same key however often: a second preauthorization must not put a second hold.
        payment.calls = max(payment.calls, 1)
        action = Preauthorize(
            payment.id,
            payment.amount_cents,
            payment.currency,
            booking.customer,
            f"bk:{payment.id}:preauthorize:1",
        )
        payment.observed = "requested"
    else:
        # A fresh key each time: a provider may replay a failure that it stored under the old one,
        # and these calls cannot happen twice to one payment.
        payment.calls += 1
        key = f"bk:{payment.id}:{call}:{payment.calls}"
        if call == "capture":
            action = Capture(payment.id, payment.amount_cents, key)
        elif call == "void":
            action = Void(payment.id, key)
        else:
            action = Refund(payment.id, payment.amount_cents, key)
    payment.since_ms = now
    _send(book, booking, call, action, emit)


def check(book: Book, booking: Booking, emit: Emit[Action]) -> None:
    """Ask the provider what became of the payment."""
    booking.payment.due_ms = 0
    _send(book, booking, "check_status", CheckStatus(booking.payment.id), emit)


def _send(book: Book, booking: Booking, call: Call, action: Action, emit: Emit[Action]) -> None:
    payment = booking.payment
    payment.call = call
    payment.in_flight = emit.tracked(action)
    book.in_flight[payment.in_flight] = booking
    book.touch(booking)


def check_later(book: Book, booking: Booking, now: int, events: list[Event]) -> None:
    """Set the timer of the next status check, later each time."""
    payment = booking.payment
    delay_s = CHECK_DELAYS_S[min(payment.checks, len(CHECK_DELAYS_S) - 1)]
    payment.checks += 1
    book.check_at(booking, now + delay_s * 1000)
    events.append(CheckScheduled(payment.id, payment.due_ms))


def observe(
    book: Book,
    booking: Booking,
    action_id: str,
    result: PaymentResult,
    now: int,
    settle_ms: int,
    emit: Emit[Action],
    events: list[Event],
) -> bool:
    """Take in what the provider said.

    Args:
      book: The payment's.
      booking: The payment's.
      action_id: The action that this is the result of.
      result: What the provider said.
      now: The input's time.
      settle_ms: So long after a call what the provider says may still be older than the call.
      emit: Where a status check goes.
      events: What happened is appended here.

    Returns:
      True if *observed* changed, so that the booking must react.
    """
    payment = booking.payment
    if payment.in_flight != action_id:
        _late(book, booking, action_id, result, now, emit, events)
        return False
    payment.in_flight = ""
    del book.in_flight[action_id]
    book.touch(booking)
    status = result.status
    asked_ms = int(action_id.partition("-")[0])  # an answer may be long on its way
    if payment.call != "check_status" and status in ("none", payment.observed):
        status = "pending"  # the call had no effect, so far: it is not repeated without a pause
    if status == "none":
        return _never_heard(book, booking, now, asked_ms, settle_ms, events)
    if status == "failed" and payment.call == "preauthorize":
        status = "declined"  # refused for good: nothing was put on hold
    if status in ("unknown", "pending", "failed"):
        if status != "failed":
            # The call may have been made just now, however old the wish is. After a takeover its
            # answer cannot be told from that of a check, so every such answer counts.
            payment.since_ms = now
        if payment.observed == "requested":
            payment.observed = "unknown"
        check_later(book, booking, now, events)
        return False
    young = asked_ms < payment.since_ms + settle_ms
    if status == "authorized" and payment.observed in ("voided", "refunded", "expired") and young:
        # What is released is not on hold again: this may be what the provider knew before.
        check_later(book, booking, now, events)
        return False
    if status == payment.observed:
        return False  # as it was: what we asked for has not happened, and is to be asked again
    payment.observed = status  # type: ignore[assignment]
    payment.checks = 0
    events.append(PaymentObserved(payment.id, status))
    return True


def _never_heard(
    book: Book, booking: Booking, now: int, asked_ms: int, settle_ms: int, events: list[Event]
) -> bool:
    """The provider has no such payment: believed at once where we would ask again anyway."""
    payment = booking.payment
    if payment.observed in GONE:
        return False
    never_happened = payment.observed in NEVER_HAPPENED
    asks_again = never_happened and payment.desired != "released"
    if not asks_again and asked_ms < payment.since_ms + settle_ms:
        check_later(book, booking, now, events)
        return False
    if never_happened:
        payment.observed = "none"
    else:
        payment.observed = "expired"  # it had it once; there is no money on hold now
    payment.checks = 0
    events.append(PaymentObserved(payment.id, payment.observed))
    return True


def _late(
    book: Book,
    booking: Booking,
    action_id: str,
    result: PaymentResult,
    now: int,
    emit: Emit[Action],
    events: list[Event],
) -> None:
    """A result nobody waits for: a repeat, or a hint that our knowledge is old.

    Actions are handed out again, at times long after they were emitted. So a call that the book had
    given up may have been made just now, and what the provider said before does not count.
    """
    payment = booking.payment
    status = result.status
    made = status in ("authorized", "captured", "pending", "unknown")
    if made and payment.observed in NEVER_HAPPENED:
        payment.since_ms = now
        book.touch(booking)
    if payment.in_flight:
        why = "another call is in flight"
    elif status in (payment.observed, "failed", "none"):
        why = "nothing new"
    elif status in ("pending", "unknown"):
        why = "nothing new"
        if payment.observed == "none":
            why = "may have happened: checking"
            check(book, booking, emit)
    else:
        why = f"contradicts {payment.observed}: checking"
        check(book, booking, emit)
    events.append(ResultIgnored(action_id, why))
