"""The sandbox provider's money: who has how much on hold, taken and given back. Pure.

A payment is known by our *reference*, and there is at most one for each, for ever. What changes it
is a :data:`Call` with an idempotency key: the same key with the same parameters gets the same reply
and has one effect however often it is sent; the same key with others is refused. Nothing here reads
a clock or draws a random number: whether a hold is granted is decided by whoever makes the call and
is written in it, so that replaying the calls gives the same ledger.

Money is integer minor units and is conserved, by currency::

    authorized = captured + voided + held        captured = retained + refunded
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Iterator

Status = Literal["pending", "authorized", "captured", "voided", "refunded", "declined"]
Verdict = Literal["authorized", "declined", "pending"]

Reference = Annotated[str, Meta(min_length=1, max_length=255)]
Key = Annotated[str, Meta(min_length=1, max_length=255)]
Cents = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}$")]


class Payment(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A payment as the provider knows it.

    Attributes:
      id: The provider's own id.
      number: Its place in the order in which payments came to be, from 1.
      reason: Why it was declined, or "".
    """

    id: str
    number: int
    reference: str
    status: Status
    amount_cents: int
    currency: str
    customer: str
    captured_cents: int = 0
    refunded_cents: int = 0
    reason: str = ""


class _Call(msgspec.Struct, frozen=True, gc=False, tag_field="call", omit_defaults=True):
    reference: Reference
    key: Key


class Hold(_Call, frozen=True, gc=False, tag="hold"):
    """Put money on hold. *verdict* and *reason* are the provider's decision, not the caller's."""

    amount_cents: Cents
    currency: Currency
    customer: str
    verdict: Verdict = "authorized"
    reason: str = ""


class Capture(_Call, frozen=True, gc=False, tag="capture"):
    """Take money on hold; what is not taken is released. None takes all of it."""

    amount_cents: Cents | None = None


class Void(_Call, frozen=True, gc=False, tag="void"):
    """Release money on hold."""


class Refund(_Call, frozen=True, gc=False, tag="refund"):
    """Give back what was taken, once. None gives all of it back."""

    amount_cents: Cents | None = None


class Settle(msgspec.Struct, frozen=True, gc=False, tag_field="call", tag="settle"):
    """The provider made up its mind on a payment that was pending. Nobody's call, so it has no key."""

    reference: Reference
    verdict: Literal["authorized", "declined"]
    reason: str = ""


Call = Hold | Capture | Void | Refund
Change = Call | Settle
"""Whatever changes a ledger; the journal's line."""

RefusalCode = Literal["not_found", "wrong_state", "amount_too_large", "mismatch", "key_reused"]


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What became of a call.

    Attributes:
      payment: As it is after the call; None where the reference is unknown.
      refused: Empty, or why the call had no effect.
      message: One sentence on that.
    """

    payment: Payment | None
    refused: RefusalCode | Literal[""] = ""
    message: str = ""


class Totals(msgspec.Struct, gc=False):
    """Money of one currency in minor units, and the number of payments."""

    payments: int = 0
    authorized: int = 0
    held: int = 0
    captured: int = 0
    voided: int = 0
    retained: int = 0
    refunded: int = 0


class Ledger:
    """All payments of one provider."""

    def __init__(self) -> None:
        self._payments: dict[str, Payment] = {}
        self._order: list[str] = []
        self._replies: dict[str, tuple[tuple[object, ...], Reply]] = {}
        self._totals: dict[str, Totals] = {}

    def __len__(self) -> int:
        return len(self._order)

    def payment(self, reference: str) -> Payment | None:
        """The payment of *reference*; None where nobody ever asked for one."""
        return self._payments.get(reference)

    def payments(self, after: int = 0) -> Iterator[Payment]:
        """Payments in the order in which they came to be, from number *after* + 1 on."""
        for i in range(max(0, after), len(self._order)):
            yield self._payments[self._order[i]]

    def totals(self) -> dict[str, Totals]:
        """Money by currency; a copy."""
        return {name: msgspec.structs.replace(self._totals[name]) for name in sorted(self._totals)}

    def replayed(self, call: Call) -> Reply | None:
        """What *call*'s key already decides: its first reply, a refusal, or None if it is new."""
        known = self._replies.get(call.key)
        if known is None:
            return None
        if known[0] != _parameters(call):
            return Reply(
                self._payments.get(call.reference),
                "key_reused",
                "this idempotency key was used with other parameters; use a new one",
            )
        return known[1]

    def apply(self, change: Change) -> Reply:
        """Carry *change* out, or say why not; a refusal has no effect.

        The reply is kept under the call's key, but for ``not_found``: nothing was looked at, so the
        key stays free.
        """
        if isinstance(change, Settle):
            return self._settle(change)
        reply = self.replayed(change)
        if reply is not None:
            return reply
        match change:
            case Hold():
                reply = self._hold(change)
            case Capture():
                reply = self._capture(change)
            case Void():
                reply = self._void(change)
            case Refund():
                reply = self._refund(change)
        if reply.refused != "not_found":
            self._replies[change.key] = (_parameters(change), reply)
        return reply

    # -- one function for each change --------------------------------------

    def _hold(self, call: Hold) -> Reply:
        known = self._payments.get(call.reference)
        if known is not None:
            asked = (call.amount_cents, call.currency, call.customer)
            if asked != (known.amount_cents, known.currency, known.customer):
                return Reply(known, "mismatch", "this reference has a payment with other terms")
            return Reply(known)  # asked twice under two keys: still one authorization
        number = len(self._order) + 1
        payment = Payment(
            id=f"pay_{number:08d}",
            number=number,
            reference=call.reference,
            status=call.verdict,
            amount_cents=call.amount_cents,
            currency=call.currency,
            customer=call.customer,
            reason=call.reason if call.verdict == "declined" else "",
        )
        self._payments[call.reference] = payment
        self._order.append(call.reference)
        totals = self._totals.setdefault(call.currency, Totals())
        totals.payments += 1
        if call.verdict == "authorized":
            totals.authorized += call.amount_cents
            totals.held += call.amount_cents
        return Reply(payment)

    def _capture(self, call: Capture) -> Reply:
        payment = self._payments.get(call.reference)
        if payment is None:
            return _NOT_FOUND
        if payment.status != "authorized":
            return _wrong_state(payment, "captured", "authorized")
        taken = payment.amount_cents if call.amount_cents is None else call.amount_cents
        if taken > payment.amount_cents:
            return Reply(payment, "amount_too_large", "more than what is on hold")
        totals = self._totals[payment.currency]
        totals.held -= payment.amount_cents
        totals.captured += taken
        totals.retained += taken
        totals.voided += payment.amount_cents - taken
        return self._store(payment, "captured", captured_cents=taken)

    def _void(self, call: Void) -> Reply:
        payment = self._payments.get(call.reference)
        if payment is None:
            return _NOT_FOUND
        if payment.status != "authorized":
            return _wrong_state(payment, "voided", "authorized")
        totals = self._totals[payment.currency]
        totals.held -= payment.amount_cents
        totals.voided += payment.amount_cents
        return self._store(payment, "voided")

    def _refund(self, call: Refund) -> Reply:
        payment = self._payments.get(call.reference)
        if payment is None:
            return _NOT_FOUND
        if payment.status != "captured":
            return _wrong_state(payment, "refunded", "captured")
        back = payment.captured_cents if call.amount_cents is None else call.amount_cents
        if back > payment.captured_cents:
            return Reply(payment, "amount_too_large", "more than what was taken")
        totals = self._totals[payment.currency]
        totals.retained -= back
        totals.refunded += back
        return self._store(payment, "refunded", refunded_cents=back)

    def _settle(self, change: Settle) -> Reply:
        payment = self._payments.get(change.reference)
        if payment is None:
            return _NOT_FOUND
        if payment.status != "pending":
            return _wrong_state(payment, "settled", "pending")
        if change.verdict == "authorized":
            totals = self._totals[payment.currency]
            totals.authorized += payment.amount_cents
            totals.held += payment.amount_cents
            return self._store(payment, "authorized")
        return self._store(payment, "declined", reason=change.reason)

    def _store(
        self,
        payment: Payment,
        status: Status,
        captured_cents: int | None = None,
        refunded_cents: int | None = None,
        reason: str = "",
    ) -> Reply:
        after = msgspec.structs.replace(
            payment,
            status=status,
            captured_cents=payment.captured_cents if captured_cents is None else captured_cents,
            refunded_cents=payment.refunded_cents if refunded_cents is None else refunded_cents,
            reason=reason,
        )
        self._payments[payment.reference] = after
        return Reply(after)


_NOT_FOUND = Reply(None, "not_found", "no payment has this reference")


def _wrong_state(payment: Payment, wanted: str, needed: Status) -> Reply:
    why = f"only a payment that is {needed} can be {wanted}; this one is {payment.status}"
    return Reply(payment, "wrong_state", why)


def _parameters(call: Call) -> tuple[object, ...]:
    """What must be the same when a key comes again; the provider's own decision is no part of it."""
    match call:
        case Hold():
            return ("hold", call.reference, call.amount_cents, call.currency, call.customer)
        case Capture():
            return ("capture", call.reference, call.amount_cents)
        case Void():
            return ("void", call.reference)
        case Refund():
            return ("refund", call.reference, call.amount_cents)
