"""The payment provider of the simulated world, over the pure ledger of the sandbox.

Its ledger is the oracle for money: whatever the actors believe, what is on hold and what was taken
is what the ledger says. Verdicts and faults are keyed draws, so that what happens to one payment does
not depend on what happens to others. A call has two delays, before its effect and before its answer,
so that a crash or a timeout can strike on either side of the effect.

It never does what no provider may: a call takes effect within ``late_s_max`` of being made, which is
less than the practice's ``check_settle_s``; a status is stale for ``stale_s_max`` at most; there is one
payment for each reference, whatever becomes of keys; and who is refused for good is told so until the
hold lapses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec
import trio

from holdfast.actors.payment.ledger import Capture, Hold, Ledger, Refund, Settle, Void
from holdfast.actors.ports import ProviderAnswer, ProviderUnavailableError
from holdfast.sim.provider_faults import FAULTS, ProviderFaults

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.actors.payment.ledger import Call, Change, Payment, Reply
    from holdfast.sim.draws import Draws
    from holdfast.sim.marks import Marks
    from holdfast.sim.provider_faults import Fault
    from holdfast.sim.trace import Trace

__all__ = ["ProviderCall", "ProviderFaults", "SimProvider"]

Kind = Literal["hold", "capture", "void", "refund", "status"]
Drawn = tuple[Kind, str, int]
"""Which call it is: its kind, its payment, and its number among those."""

SILENCE_S: Final = 900.0
"""How long a call without an answer hangs, if its caller lets it."""

LAPSE_KEY: Final = "provider:lapse:"
"""Begins the keys of voids that the provider made by itself."""

WRONG_CENTS_MAX: Final = 500


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


class SimProvider:
    """The port ``Provider``. One for the world; processes reach it through their gates.

    Args:
      draws: Verdicts and faults.
      faults: How likely they are.
      trace: Where calls are noted.
      marks: What happened at least once.
      nursery: The world's own, for what happens after a call has ended.
      now_ms: The world's time.
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
        self._attempts: dict[tuple[Kind, str], int] = {}
        self._keys: dict[str, int] = {}  # how often each was used
        self._last: dict[str, ProviderAnswer] = {}  # what was answered to each
        self._refusals: dict[str, str] = {}  # by key: a refusal is remembered as any other answer
        self._refused: dict[tuple[Kind, str], int] = {}
        self._arrived: dict[int, int] = {}  # by an outage's end: how many calls came in then
        self._unanswered: dict[str, None] = {}
        self._holds_of: dict[str, int] = {}  # which of its customer's payments it is
        self._numbers: dict[str, int] = {}
        self._before: dict[str, tuple[Payment | None, int]] = {}
        self.faults = faults
        self.book_of_record = _Ledger()
        self.calls: list[ProviderCall] = []
        self.lapsed: dict[str, None] = {}
        self.turned_away: dict[str, None] = {}
        """Payments whose hold was refused for its key, so that there is none."""
        self.under_way = 0
        """Effects and decisions that are still to come."""
        self.waited_out = 0
        """Calls for whose answer somebody waited until the provider gave up."""

    def heal(self) -> None:
        """No faults from now on; what is on its way still happens."""
        self.faults = self.faults.healed()

    # -- the port ----------------------------------------------------------

    async def preauthorize(
        self, payment: str, amount_cents: int, currency: str, customer: str, key: str
    ) -> ProviderAnswer:
        """See ``Provider.preauthorize``."""
        verdict = self._verdict(payment, customer)
        reason = "card_declined" if verdict == "declined" else ""
        hold = Hold(payment, key, amount_cents, currency, customer, verdict, reason)
        return await self._call("hold", payment, hold)

    async def capture(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        """See ``Provider.capture``."""
        return await self._call("capture", payment, Capture(payment, key, amount_cents))

    async def void(self, payment: str, key: str) -> ProviderAnswer:
        """See ``Provider.void``."""
        return await self._call("void", payment, Void(payment, key))

    async def refund(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        """See ``Provider.refund``."""
        return await self._call("refund", payment, Refund(payment, key, amount_cents))

    async def status(self, payment: str) -> ProviderAnswer:
        """See ``Provider.status``."""
        return await self._call("status", payment, None)

    async def ledger(self, prefix: str = "") -> dict[str, ProviderAnswer]:
        """See ``Provider.ledger``. Always right, and at once: nobody's decision hangs on it."""
        await trio.lowlevel.checkpoint()
        return {
            payment.reference: _answer(payment)
            for payment in self.book_of_record.payments()
            if payment.reference.startswith(prefix)
        }

    async def aclose(self) -> None:
        """Nothing to close."""
        await trio.lowlevel.checkpoint()

    # -- a call ------------------------------------------------------------

    async def _call(self, kind: Kind, payment: str, call: Call | None) -> ProviderAnswer:
        number = self._attempts.get((kind, payment), 0) + 1
        self._attempts[kind, payment] = number
        drawn: Drawn = (kind, payment, number)
        fault = self._fault(drawn)
        await self._latency("before", drawn)
        if end_ms := self._outage_end():
            await self._away(end_ms, drawn, call)
        if fault:
            self._note(fault, drawn)
            self._unanswered[payment] = None
        if fault == "late":
            delay_ms = 1000 + self._below_s("provider.late_s", self.faults.late_s_max, drawn)
            self._nursery.start_soon(self._later, delay_ms, fault, kind, call)
        if fault in ("late", "timeout_before"):
            await self._silence()
        if fault in ("error_before", "busy"):
            raise ProviderUnavailableError(f"the provider answered: {fault}")
        before = self.book_of_record.payment(payment)
        answer = self._status(payment, drawn) if call is None else self._carry_out(kind, call)
        if fault:
            if self.book_of_record.payment(payment) is not before:
                self._marks.hit(f"provider_{fault}_mattered")
            await self._hide(fault, drawn, call)
        await self._latency("after", drawn)
        if answer.status == "declined" and payment in self._unanswered:
            self._marks.hit("provider_declined_unanswered")
        return self._told(answer, drawn)

    def _fault(self, drawn: Drawn) -> Fault | Literal[""]:
        for fault in FAULTS:
            share: float = getattr(self.faults, fault)
            if self._draws.chance(f"provider.{fault}", share, *drawn):
                return fault
        return ""

    def _note(self, fault: str, drawn: Drawn) -> None:
        self._marks.hit(f"provider_{fault}")
        self._trace.fault("provider", fault, f"{drawn[0]} {drawn[1]}")

    async def _hide(self, fault: Fault, drawn: Drawn, call: Call | None) -> None:
        """Let nobody know what a call did."""
        if fault == "timeout_after":
            await self._silence()
        if call is not None and self._draws.chance(
            "provider.unremembered", self.faults.unremembered, *drawn
        ):
            self._note("unremembered", drawn)
            self._forget(call.key)
        raise ProviderUnavailableError(f"the provider answered: {fault}")

    def _outage_end(self) -> int:
        """When the outage ends that is now; 0 where there is none."""
        now = self._now_ms()
        return max((end for begin, end in self.faults.outages if begin <= now < end), default=0)

    async def _away(self, end_ms: int, drawn: Drawn, call: Call | None) -> None:
        """Fail, at once or by silence; what waits at the door comes in when the outage ends."""
        self._note("outage", drawn)
        self._unanswered[drawn[1]] = None
        wait_ms = end_ms - self._now_ms()
        soon = wait_ms <= self.faults.late_s_max * 1000
        if soon and self._draws.chance("provider.held", self.faults.held, *drawn):
            self._nursery.start_soon(self._later, wait_ms, "held", drawn[0], call)
            await self._silence()
        raise ProviderUnavailableError("the provider cannot be reached")

    async def _latency(self, side: str, drawn: Drawn) -> None:
        bound = self.faults.latency_ms_max + 1
        await trio.sleep(self._draws.below(f"provider.{side}_ms", bound, *drawn) / 1000)

    def _below_s(self, label: str, bound_s: int, drawn: Drawn) -> int:
        """A time in milliseconds, of whole seconds."""
        return 1000 * self._draws.below(label, bound_s, *drawn)

    async def _silence(self) -> None:
        await trio.sleep(SILENCE_S)
        self.waited_out += 1
        raise ProviderUnavailableError("the provider never answered")

    async def _later(self, delay_ms: int, why: str, kind: Kind, call: Call | None) -> None:
        self.under_way += 1
        await trio.sleep(delay_ms / 1000)
        self.under_way -= 1
        if call is None:
            return
        if why == "held":
            now = self._now_ms()
            self._arrived[now] = self._arrived.get(now, 0) + 1
            self._note("burst" if self._arrived[now] == 2 else "held", (kind, call.reference, 0))
        before = self.book_of_record.payment(call.reference)
        self._carry_out(kind, call)
        if self.book_of_record.payment(call.reference) is not before:
            self._marks.hit(f"provider_{why}_mattered")

    def _told(self, answer: ProviderAnswer, drawn: Drawn) -> ProviderAnswer:
        """The answer as it comes back."""
        if answer.amount_cents and self._draws.chance(
            "provider.wrong_amount", self.faults.wrong_amount, *drawn
        ):
            self._note("wrong_amount", drawn)
            more = 1 + self._draws.below("provider.wrong_cents", WRONG_CENTS_MAX, *drawn)
            return msgspec.structs.replace(answer, amount_cents=answer.amount_cents + more)
        return answer

    # -- effects -----------------------------------------------------------

    def _carry_out(self, kind: Kind, call: Call) -> ProviderAnswer:
        key, reference = call.key, call.reference
        times = self._keys[key] = self._keys.get(key, 0) + 1
        expired = times > 1 and self._expire(call, times)
        refused = self._refusal(kind, call)
        if refused:
            known = self.book_of_record.payment(reference)
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
        if not self._draws.chance("provider.key_expired", self.faults.key_expired, call.key, times):
            return False
        self._marks.hit("provider_key_expired")
        self._trace.fault("provider", "key_expired", call.key)
        self._forget(call.key)
        return True

    def _forget(self, key: str) -> None:
        self.book_of_record.forget(key)
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
            "provider.key_taken", self.faults.key_taken, call.key
        ):
            self._note("key_taken", (kind, call.reference, 1))
            if kind == "hold":
                self.turned_away[call.reference] = None
            return "key_reused"
        payment = self.book_of_record.payment(call.reference)
        if kind not in ("capture", "void") or payment is None or payment.status != "authorized":
            return ""
        drawn = (kind, call.reference)
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
        self._note(f"{kind}_refused", (kind, call.reference, times + 1))
        if for_good and not times:
            self._marks.hit("provider_refused_for_good")
            self._nursery.start_soon(self._lapse_later, call.reference)
        return f"{kind}_refused"

    def _apply(self, change: Change) -> Reply:
        before = self.book_of_record.payment(change.reference)
        reply = self.book_of_record.apply(change)
        if self.book_of_record.payment(change.reference) is not before:
            self._before[change.reference] = (before, self._now_ms())
        return reply

    def _status(self, payment: str, drawn: tuple[Kind, str, int]) -> ProviderAnswer:
        known = self.book_of_record.payment(payment)
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
        return _answer(known) if known else ProviderAnswer("none")

    def _verdict(self, payment: str, customer: str) -> Literal["authorized", "declined", "pending"]:
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
        self.under_way += 1
        await trio.sleep(1 + self._draws.below("provider.settle_s", bound, reference))
        self.under_way -= 1
        payment = self.book_of_record.payment(reference)
        assert payment is not None
        verdict = self._decided(payment.customer, self._holds_of[reference])
        reason = "card_declined" if verdict == "declined" else ""
        self._apply(Settle(reference, verdict, reason))
        self._trace.note("provider", "settled", f"{reference} {verdict}")
        if verdict == "authorized":
            self._lapse_some(reference)

    def _lapse_some(self, reference: str) -> None:
        if self._draws.chance("provider.lapse", self.faults.lapse, reference):
            self._nursery.start_soon(self._lapse_later, reference)

    async def _lapse_later(self, reference: str) -> None:
        bound = self.faults.lapse_s_max
        await trio.sleep(1 + self._draws.below("provider.lapse_s", bound, reference))
        payment = self.book_of_record.payment(reference)
        if payment is not None and payment.status == "authorized":
            self._apply(Void(reference, f"{LAPSE_KEY}{reference}"))
            self.lapsed[reference] = None
            self._marks.hit("provider_lapsed")
            self._trace.fault("provider", "lapsed", reference)


def _answer(payment: Payment) -> ProviderAnswer:
    return ProviderAnswer(payment.status, payment.id, payment.reason, payment.amount_cents)


def _answer_to(reply: Reply) -> ProviderAnswer:
    """What our client of the sandbox makes of such a reply (``HttpProvider``)."""
    payment = reply.payment
    if reply.refused == "not_found" or payment is None:
        return ProviderAnswer("none")
    if reply.refused in ("", "wrong_state"):
        return _answer(payment)
    return ProviderAnswer("failed", payment.id, reply.refused)
