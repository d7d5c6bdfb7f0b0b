"""The payment provider of the simulated world, over the pure ledger of the sandbox.

Its ledger is the oracle for money: whatever the actors believe, what is on hold and what was taken
is what the ledger says. Verdicts and faults are keyed draws, so that what happens to one payment does
not depend on what happens to others. A call has two delays, before its effect and before its answer,
so that a crash or a timeout can strike on either side of the effect.

It never does what no provider may: a call takes effect within ``late_s_max`` of being made, which is
less than the practice's ``check_settle_s``; a status is stale for ``stale_s_max`` at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec
import trio

from holdfast.actors.payment.ledger import Capture, Hold, Ledger, Refund, Settle, Void
from holdfast.actors.ports import ProviderAnswer, ProviderUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.actors.payment.ledger import Call, Change, Payment, Reply
    from holdfast.sim.draws import Draws
    from holdfast.sim.marks import Marks
    from holdfast.sim.trace import Trace

Kind = Literal["hold", "capture", "void", "refund", "status"]
Fault = Literal["timeout_before", "timeout_after", "late", "error_before", "error_after", "busy"]

FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)

SILENCE_S: Final = 900.0
"""How long a call without an answer hangs, if its caller lets it."""

HEALED_LATENCY_MS_MAX: Final = 100

LAPSE_KEY: Final = "provider:lapse:"
"""Begins the keys of voids that the provider made by itself."""


class ProviderFaults(msgspec.Struct, frozen=True):
    """How the provider behaves. Shares are of calls, from 0 to 1.

    Attributes:
      decline: Share of holds declined.
      pending: Share of holds on which it decides later.
      settle_s_max: Longest time until it has decided on those.
      timeout_before: No effect, no answer.
      timeout_after: Effect, no answer.
      late: No answer, and the effect after up to ``late_s_max``.
      error_before: A 5xx without effect.
      error_after: A 5xx with effect.
      busy: A 429, without effect.
      stale: Share of status calls that tell what was before the last change.
      stale_s_max: How old such an answer may be.
      lapse: Share of holds that lapse.
      lapse_s_max: Longest time until they do.
      latency_ms_max: Longest time before the effect, and before the answer.
      outages: (begin, end) in milliseconds of the world's time; nothing works then.
    """

    decline: float = 0.1
    pending: float = 0.0
    settle_s_max: int = 60
    timeout_before: float = 0.0
    timeout_after: float = 0.0
    late: float = 0.0
    late_s_max: int = 20
    error_before: float = 0.0
    error_after: float = 0.0
    busy: float = 0.0
    stale: float = 0.0
    stale_s_max: int = 10
    lapse: float = 0.0
    lapse_s_max: int = 300
    latency_ms_max: int = 100
    outages: tuple[tuple[int, int], ...] = ()

    def healed(self) -> ProviderFaults:
        """The same customers' cards, no faults, and answers before any caller gives up."""
        return ProviderFaults(
            self.decline, latency_ms_max=min(self.latency_ms_max, HEALED_LATENCY_MS_MAX)
        )


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
        self._keys: dict[str, None] = {}
        self._holds_of: dict[str, int] = {}  # which of its customer's payments it is
        self._numbers: dict[str, int] = {}
        self._before: dict[str, tuple[Payment | None, int]] = {}
        self.faults = faults
        self.book_of_record = Ledger()
        self.calls: list[ProviderCall] = []
        self.lapsed: dict[str, None] = {}
        self.under_way = 0
        """Effects and decisions that are still to come."""

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
        drawn = (kind, payment, number)
        fault = self._fault(drawn)
        await self._latency("before", drawn)
        if self._is_out():
            self._marks.hit("provider_outage")
            self._trace.fault("provider", "outage", f"{kind} {payment}")
            raise ProviderUnavailableError("the provider cannot be reached")
        if fault:
            self._marks.hit(f"provider_{fault}")
            self._trace.fault("provider", fault, f"{kind} {payment}")
        if fault == "late":
            delay_s = 1 + self._draws.below("provider.late_s", self.faults.late_s_max, *drawn)
            self._nursery.start_soon(self._later, delay_s, kind, call)
        if fault in ("late", "timeout_before"):
            await self._silence()
        if fault in ("error_before", "busy"):
            raise ProviderUnavailableError(f"the provider answered: {fault}")
        answer = self._status(payment, drawn) if call is None else self._carry_out(kind, call)
        if fault == "timeout_after":
            await self._silence()
        if fault == "error_after":
            raise ProviderUnavailableError("the provider answered: error_after")
        await self._latency("after", drawn)
        return answer

    def _fault(self, drawn: tuple[Kind, str, int]) -> Fault | Literal[""]:
        for fault in FAULTS:
            share: float = getattr(self.faults, fault)
            if self._draws.chance(f"provider.{fault}", share, *drawn):
                return fault
        return ""

    def _is_out(self) -> bool:
        now = self._now_ms()
        return any(begin <= now < end for begin, end in self.faults.outages)

    async def _latency(self, side: str, drawn: tuple[Kind, str, int]) -> None:
        bound = self.faults.latency_ms_max + 1
        await trio.sleep(self._draws.below(f"provider.{side}_ms", bound, *drawn) / 1000)

    async def _silence(self) -> None:
        await trio.sleep(SILENCE_S)
        raise ProviderUnavailableError("the provider never answered")

    async def _later(self, delay_s: int, kind: Kind, call: Call | None) -> None:
        self.under_way += 1
        await trio.sleep(delay_s)
        if call is not None:
            self._carry_out(kind, call)
        self.under_way -= 1

    # -- effects -----------------------------------------------------------

    def _carry_out(self, kind: Kind, call: Call) -> ProviderAnswer:
        first = call.key not in self._keys
        self._keys[call.key] = None
        if not first:
            self._marks.hit("provider_same_key")
        reply = self._apply(call)
        details = f"{call.reference} {call.key} {reply.refused or 'done'}"
        order = self._trace.note("provider", kind, details)
        self.calls.append(ProviderCall(order, kind, call.reference, call.key, reply.refused, first))
        payment = reply.payment
        if kind == "hold" and first and payment is not None:
            if payment.status == "pending":
                self._nursery.start_soon(self._settle_later, payment.reference)
            elif payment.status == "authorized":
                self._lapse_some(payment.reference)
        return _answer_to(reply)

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
