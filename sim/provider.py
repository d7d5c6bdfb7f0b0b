"""The payment provider of the simulated world: the way to its bank, and what goes wrong on it.

Faults are keyed draws: what happens to one call does not depend on what happens to others. A call has two
delays, before its effect and before its answer, so that a crash or a timeout can strike on either side of
the effect.

It never does what no provider may: a call takes effect within ``late_s_max`` of being made, which is
less than the practice's ``check_settle_s``. What the bank (``sim.bank``) may do, it says itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec
import trio

from holdfast.actors.payment.ledger import Capture, Hold, Refund, Void
from holdfast.actors.ports import ProviderAnswer, ProviderUnavailableError
from holdfast.sim.bank import Bank, ProviderCall, answer_of, fate_of
from holdfast.sim.provider_faults import FAULTS, ProviderFaults

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.actors.payment.ledger import Call
    from holdfast.sim.bank import Drawn, Kind
    from holdfast.sim.draws import Draws
    from holdfast.sim.marks import Marks
    from holdfast.sim.provider_faults import Fault
    from holdfast.sim.trace import Trace

__all__ = ["ProviderCall", "ProviderFaults", "SimProvider"]

SILENCE_S: Final = 900.0
"""How long a call without an answer hangs, if its caller lets it."""

WRONG_CENTS_MAX: Final = 500


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
        self._arrived: dict[int, int] = {}  # by an outage's end: how many calls came in then
        self._unanswered: dict[str, None] = {}
        self.faults = faults
        self._late = 0
        self._bank = Bank(draws, faults, trace, marks, nursery, now_ms)
        self.book_of_record = self._bank.ledger
        self.calls = self._bank.calls
        self.lapsed = self._bank.lapsed
        self.turned_away = self._bank.turned_away
        self.waited_out = 0
        """Calls for whose answer somebody waited until the provider gave up."""

    @property
    def under_way(self) -> int:
        """Effects and decisions that are still to come."""
        return self._late + self._bank.deciding

    def heal(self) -> None:
        """No faults from now on; what is on its way still happens."""
        self.faults = self._bank.faults = self.faults.healed()

    # -- the port ----------------------------------------------------------

    async def preauthorize(
        self, payment: str, amount_cents: int, currency: str, customer: str, key: str
    ) -> ProviderAnswer:
        """See ``Provider.preauthorize``."""
        verdict = self._bank.verdict(payment, customer)
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
            payment.reference: answer_of(payment)
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
        drawn: Drawn = (kind, fate_of(payment), number)
        fault = self._fault(drawn)
        await self._latency("before", drawn)
        if end_ms := self._outage_end():
            await self._away(end_ms, drawn, call)
        if fault:
            self._note(fault, drawn)
            self._unanswered[drawn[1]] = None
        if fault == "late":
            delay_s = 1 + self._draws.below("provider.late_s", self.faults.late_s_max, *drawn)
            self._nursery.start_soon(self._later, delay_s * 1000, fault, kind, call)
        if fault in ("late", "timeout_before"):
            await self._silence()
        if fault in ("error_before", "busy"):
            raise ProviderUnavailableError(f"the provider answered: {fault}")
        before = self.book_of_record.payment(payment)
        answer = (
            self._bank.status(payment, drawn) if call is None else self._bank.carry_out(kind, call)
        )
        if fault:
            if self.book_of_record.payment(payment) is not before:
                self._marks.hit(f"provider_{fault}_mattered")
            await self._hide(fault, drawn, call)
        await self._latency("after", drawn)
        if answer.status == "declined" and drawn[1] in self._unanswered:
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
            self._bank.forget(call.key)
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

    async def _silence(self) -> None:
        await trio.sleep(SILENCE_S)
        self.waited_out += 1
        raise ProviderUnavailableError("the provider never answered")

    async def _later(self, delay_ms: int, why: str, kind: Kind, call: Call | None) -> None:
        self._late += 1
        await trio.sleep(delay_ms / 1000)
        self._late -= 1
        if call is None:
            return
        if why == "held":
            now = self._now_ms()
            self._arrived[now] = self._arrived.get(now, 0) + 1
            self._note("burst" if self._arrived[now] == 2 else "held", (kind, call.reference, 0))
        before = self.book_of_record.payment(call.reference)
        self._bank.carry_out(kind, call)
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
