"""The bank behind the simulated payment provider: what a call does to the money, and what is said of it.

Its ledger is the sandbox's own, and the oracle for money: whatever the actors believe, what is on hold
and what was taken is what the ledger says. Here is what banks do by themselves: they decline, decide
later, refuse, let holds lapse, forget keys and tell what was before. Each is a keyed draw, so that what
happens to one payment does not depend on what happens to others.

There is one payment for each reference, whatever becomes of keys; who is refused for good is told so
until the hold lapses; and a status is stale for ``stale_s_max`` at most.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import trio

from holdfast.actors.payment.ledger import Ledger, Settle, Void
from holdfast.actors.ports import ProviderAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.actors.payment.ledger import Call, Change, Payment, Reply
    from holdfast.sim.draws import Draws
    from holdfast.sim.marks import Marks
    from holdfast.sim.provider_faults import ProviderFaults
    from holdfast.sim.trace import Trace

Kind = Literal["hold", "capture", "void", "refund", "status"]
Drawn = tuple[Kind, str, int]
"""Which call it is: its kind, what its payment's fate goes by, and its number among those."""

_DIGEST: Final = re.compile(r"(p\d+-\d+)-[0-9a-f]{16}")

LAPSE_KEY: Final = "provider:lapse:"
"""Begins the keys of voids that the provider made by itself."""


class ProviderCall(msgspec.Struct, frozen=True):
    """A call as it reached the provider.

    Attributes:
      order: Number of the event in the trace.
      refused: Why it had no effect, or "".
      first: Its key was new, so this call may have had the effect.
    """

    order: int
    kind: Kind
    payment: str
    key: str
    refused: str
    first: bool


class _Ledger(Ledger):
    """A ledger that can forget a key, as providers do after a while."""

    def forget(self, key: str) -> None:
        """Take the next call under *key* for a new one."""
        self._replies.pop(key, None)


class Bank:
    """The ledger and what the bank does with it.

    Args:
      draws: Verdicts and faults.
      faults: How likely they are.
      trace: Where calls are noted.
      marks: What happened at least once.
      nursery: The world's own, for what happens later.
      now_ms: The world's time.

    Attributes:
      calls: Every call that was carried out or refused.
      lapsed: Payments whose hold lapsed.
      turned_away: Payments whose hold was refused for its key, so that there is none.
      deciding: Decisions that are still to come.
    """

    def __init__(
        self,
        draws: Draws,
        faults: ProviderFaults,
        trace: Trace,
        marks: Marks,
        nursery: trio.Nursery,
        now_ms: Callable[[], int],
    ) -> None:
        self._draws = draws
        self._trace = trace
        self._marks = marks
        self._nursery = nursery
        self._now_ms = now_ms
        self._keys: dict[str, int] = {}  # how often each was used
        self._last: dict[str, ProviderAnswer] = {}  # what was answered to each
        self._refusals: dict[str, str] = {}  # by key: a refusal is remembered as any other answer
        self._refused: dict[tuple[Kind, str], int] = {}
        self._holds_of: dict[str, int] = {}  # which of its customer's payments it is
        self._numbers: dict[str, int] = {}
        self._before: dict[str, tuple[Payment | None, int]] = {}
        self.faults = faults
        self.ledger = _Ledger()
        self.calls: list[ProviderCall] = []
        self.lapsed: dict[str, None] = {}
        self.turned_away: dict[str, None] = {}
        self.deciding = 0

    # -- a call ------------------------------------------------------------

    def carry_out(self, kind: Kind, call: Call) -> ProviderAnswer:
        """Do what *call* wants, or refuse it, and say what has become of the payment."""
        key, reference = call.key, call.reference
        times = self._keys[key] = self._keys.get(key, 0) + 1
        expired = times > 1 and self._expire(call, times)
        refused = self._refusal(kind, call)
        if refused:
            known = self.ledger.payment(reference)
            answer = ProviderAnswer("failed", known.id if known else "", refused)
        else:
            reply = self._apply(call)
            refused, answer = reply.refused, _answer_to(reply)
        if expired and answer != self._last.get(key):
            self._marks.hit("provider_key_expired_mattered")
        self._last[key] = answer
        order = self._trace.note("provider", kind, f"{reference} {key} {refused or 'done'}")
        self.calls.append(ProviderCall(order, kind, reference, key, refused, times == 1))
        if kind == "hold" and times == 1 and answer.status == "pending":
            self._nursery.start_soon(self._settle_later, reference)
        elif kind == "hold" and times == 1 and answer.status == "authorized":
            self._lapse_some(reference)
        return answer

    def _expire(self, call: Call, times: int) -> bool:
        """Forget a key that comes again, or answer it as before."""
        self._marks.hit("provider_same_key")
        if not self._draws.chance(
            "provider.key_expired", self.faults.key_expired, fate_of(call.key), times
        ):
            return False
        self._marks.hit("provider_key_expired")
        self._trace.fault("provider", "key_expired", call.key)
        self.forget(call.key)
        return True

    def forget(self, key: str) -> None:
        """Take the next call under *key* for a new one; what somebody else used stays theirs."""
        self.ledger.forget(key)
        if self._refusals.get(key) != "key_reused":
            self._refusals.pop(key, None)

    def _refusal(self, kind: Kind, call: Call) -> str:
        """Why the bank, or the key, does not let the call have an effect; "" where they do."""
        known = self._refusals.get(call.key)
        if known is None:
            known = self._new_refusal(kind, call)
            if known:
                self._refusals[call.key] = known
        return known

    def _new_refusal(self, kind: Kind, call: Call) -> str:
        if self._keys[call.key] == 1 and self._draws.chance(
            "provider.key_taken", self.faults.key_taken, fate_of(call.key)
        ):
            self._note("key_taken", kind, call.reference)
            if kind == "hold":
                self.turned_away[call.reference] = None
            return "key_reused"
        payment = self.ledger.payment(call.reference)
        if kind not in ("capture", "void") or payment is None or payment.status != "authorized":
            return ""
        drawn = (kind, fate_of(call.reference))
        if not self._draws.chance("provider.refused", self.faults.refused, *drawn):
            return ""
        for_good = self._draws.chance(
            "provider.refused_for_good", self.faults.refused_for_good, *drawn
        )
        times = self._refused.get(drawn, 0)
        bound = 1 + self._draws.below("provider.refused_times", self.faults.refused_max, *drawn)
        if times >= bound and not for_good:
            return ""
        self._refused[drawn] = times + 1
        self._note(f"{kind}_refused", kind, call.reference)
        if for_good and not times:
            self._marks.hit("provider_refused_for_good")
            self._nursery.start_soon(self._lapse_later, call.reference)
        return f"{kind}_refused"

    def _apply(self, change: Change) -> Reply:
        before = self.ledger.payment(change.reference)
        reply = self.ledger.apply(change)
        if self.ledger.payment(change.reference) is not before:
            self._before[change.reference] = (before, self._now_ms())
        return reply

    def status(self, payment: str, drawn: Drawn) -> ProviderAnswer:
        """What is known of *payment*, or was before its last change."""
        known = self.ledger.payment(payment)
        before, changed_ms = self._before.get(payment, (None, 0))
        young = self._now_ms() - changed_ms < self.faults.stale_s_max * 1000
        stale = young and self._draws.chance("provider.stale", self.faults.stale, *drawn)
        if known is not None and stale:
            self._marks.hit("provider_stale")
            self._trace.fault("provider", "stale", payment)
            known = before
        if known is None:
            self._marks.hit("provider_never_heard")
        self._trace.note("provider", "status", f"{payment} {known.status if known else 'none'}")
        return answer_of(known) if known else ProviderAnswer("none")

    def verdict(self, payment: str, customer: str) -> Literal["authorized", "declined", "pending"]:
        """What becomes of the hold; drawn for the customer's so-and-so-many-th payment."""
        number = self._holds_of.get(payment)
        if number is None:
            number = self._numbers.get(customer, 0) + 1
            self._numbers[customer] = self._holds_of[payment] = number
        if self._draws.chance("provider.pending", self.faults.pending, customer, number):
            self._marks.hit("provider_pending")
            return "pending"
        return self._decided(customer, number)

    def _decided(self, customer: str, number: int) -> Literal["authorized", "declined"]:
        declined = self._draws.chance("provider.decline", self.faults.decline, customer, number)
        return "declined" if declined else "authorized"

    async def _settle_later(self, reference: str) -> None:
        bound = self.faults.settle_s_max
        self.deciding += 1
        await trio.sleep(1 + self._draws.below("provider.settle_s", bound, fate_of(reference)))
        self.deciding -= 1
        payment = self.ledger.payment(reference)
        assert payment is not None
        verdict = self._decided(payment.customer, self._holds_of[reference])
        reason = "card_declined" if verdict == "declined" else ""
        self._apply(Settle(reference, verdict, reason))
        self._trace.note("provider", "settled", f"{reference} {verdict}")
        if verdict == "authorized":
            self._lapse_some(reference)

    def _lapse_some(self, reference: str) -> None:
        if self._draws.chance("provider.lapse", self.faults.lapse, fate_of(reference)):
            self._nursery.start_soon(self._lapse_later, reference)

    async def _lapse_later(self, reference: str) -> None:
        bound = self.faults.lapse_s_max
        await trio.sleep(1 + self._draws.below("provider.lapse_s", bound, fate_of(reference)))
        payment = self.ledger.payment(reference)
        if payment is not None and payment.status == "authorized":
            self._apply(Void(reference, f"{LAPSE_KEY}{reference}"))
            self.lapsed[reference] = None
            self._marks.hit("provider_lapsed")
            self._trace.fault("provider", "lapsed", reference)

    def _note(self, fault: str, kind: Kind, reference: str) -> None:
        self._marks.hit(f"provider_{fault}")
        self._trace.fault("provider", fault, f"{kind} {reference}")


def fate_of(name: str) -> str:
    """What draws go by where *name* is a payment's, or a call's key: all of it but the request's digest.

    Else a change of what is asked, by whoever makes a failure smaller, would change its payment's fate.
    """
    return _DIGEST.sub(r"\1", name)


def answer_of(payment: Payment) -> ProviderAnswer:
    """*payment* as the provider tells it."""
    return ProviderAnswer(payment.status, payment.id, payment.reason, payment.amount_cents)


def _answer_to(reply: Reply) -> ProviderAnswer:
    """What our client of the sandbox makes of such a reply (``HttpProvider``)."""
    payment = reply.payment
    if reply.refused == "not_found" or payment is None:
        return ProviderAnswer("none")
    if reply.refused in ("", "wrong_state"):
        return answer_of(payment)
    return ProviderAnswer("failed", payment.id, reply.refused)
