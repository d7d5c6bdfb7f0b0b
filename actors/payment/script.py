"""How the sandbox provider misbehaves: a script of rules and rates.

Two things are decided for a call. The *verdict* on a hold: granted, declined, or pending. The
*fault* of the connection: none, a timeout or an error, each before or after the call had its effect,
or a call that is carried out long after the caller gave up. Rules are looked at first, in order; the
first rule of each sort that matches decides. Rates decide the rest.

Rates draw from a keyed function of seed, label, reference and attempt, never from a sequence: what
happens to one payment depends on no other, and a run can be repeated.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from pathlib import Path

Operation = Literal["hold", "capture", "void", "refund", "status"]
Verdict = Literal["authorized", "declined", "pending"]
Fault = Literal[
    "none", "timeout_before", "timeout_after", "late", "error_before", "error_after", "busy"
]
"""``timeout_before``: not carried out, no answer. ``timeout_after``: carried out, no answer.
``late``: carried out only after the wait. ``error_…``: 500 likewise. ``busy``: 429, not carried out."""

Rate = Annotated[float, Meta(ge=0, le=1)]
DelayMs = Annotated[int, Meta(ge=0, le=600_000)]

_SORTS: tuple[Fault, ...] = (
    "timeout_before",
    "timeout_after",
    "late",
    "error_before",
    "error_after",
    "busy",
)


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What happens to calls that match everything given here.

    Attributes:
      verdict: For holds; "" leaves it to later rules and the rates.
      fault: "" leaves it to later rules and the rates.
      operation: Only these calls; "" for any.
      reference_prefix: Only payments whose reference begins so.
      customer_prefix: Only customers whose id begins so.
      amount_min_cents: Only holds of so much or more.
      amount_max_cents: Only holds of so much or less; 0 for any.
      first: Only the first so many calls of this operation on a reference; 0 for all of them.
      reason: Given with a decline.
    """

    verdict: Verdict | Literal[""] = ""
    fault: Fault | Literal[""] = ""
    operation: Operation | Literal[""] = ""
    reference_prefix: str = ""
    customer_prefix: str = ""
    amount_min_cents: int = 0
    amount_max_cents: int = 0
    first: Annotated[int, Meta(ge=0)] = 0
    reason: str = "card_declined"

    def matches(self, call: Attempt) -> bool:
        """Whether *call* is one of those meant."""
        return (
            (not self.operation or self.operation == call.operation)
            and (not self.first or call.number < self.first)
            and call.reference.startswith(self.reference_prefix)
            and call.customer.startswith(self.customer_prefix)
            and call.amount_cents >= self.amount_min_cents
            and (not self.amount_max_cents or call.amount_cents <= self.amount_max_cents)
        )


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The provider's behaviour. The default one grants everything at once.

    Attributes:
      seed: Of all draws.
      delay_ms: Every answer waits at least so long.
      delay_spread_ms: And up to so much longer, drawn evenly.
      wait_s: How long a timeout keeps the caller waiting. The connection is closed by an answer then.
      pending_reads: So many status reads of a pending payment answer ``pending``; the next settles it.
      decline_rate: Share of holds declined; of the settled ones too.
    """

    seed: int = 0
    rules: Annotated[tuple[Rule, ...], Meta(max_length=1_000)] = ()
    delay_ms: DelayMs = 0
    delay_spread_ms: DelayMs = 0
    wait_s: Annotated[float, Meta(ge=0, le=3_600)] = 60.0
    pending_reads: Annotated[int, Meta(ge=0, le=1_000)] = 1
    decline_rate: Rate = 0.0
    decline_reason: str = "card_declined"
    pending_rate: Rate = 0.0
    timeout_before_rate: Rate = 0.0
    timeout_after_rate: Rate = 0.0
    late_rate: Rate = 0.0
    error_before_rate: Rate = 0.0
    error_after_rate: Rate = 0.0
    busy_rate: Rate = 0.0

    def __post_init__(self) -> None:
        if sum(self._rates()) > 1 or self.decline_rate + self.pending_rate > 1:
            raise ValueError(
                "rates of faults, and of declined and pending, must add up to at most 1"
            )

    def _rates(self) -> tuple[float, ...]:
        """Of the faults, in the order of ``_SORTS``."""
        return (
            self.timeout_before_rate,
            self.timeout_after_rate,
            self.late_rate,
            self.error_before_rate,
            self.error_after_rate,
            self.busy_rate,
        )

    def plan(self, call: Attempt) -> Plan:
        """What happens to *call*. The same script and call give the same plan."""
        verdict, reason = self._verdict(call)
        fault = self._fault(call)
        delay_ms = self.delay_ms
        if self.delay_spread_ms:
            share = draw(self.seed, f"delay.{call.operation}", call.reference, call.number)
            delay_ms += int(share * self.delay_spread_ms)
        return Plan(verdict, reason, fault, delay_ms / 1000)

    def settle(self, call: Attempt) -> Plan:
        """How a pending payment ends: by a rule with a verdict other than pending, or by rate."""
        for rule in self.rules:
            if rule.verdict in ("authorized", "declined") and rule.matches(call):
                return Plan(rule.verdict, rule.reason, "none", 0)
        declined = self.decline_rate and (
            draw(self.seed, "settle", call.reference, 0) < self.decline_rate
        )
        return Plan("declined" if declined else "authorized", self.decline_reason, "none", 0)

    def _verdict(self, call: Attempt) -> tuple[Verdict, str]:
        if call.operation != "hold":
            return "authorized", ""
        for rule in self.rules:
            if rule.verdict and rule.matches(call):
                return rule.verdict, rule.reason
        if self.decline_rate or self.pending_rate:
            share = draw(self.seed, "verdict", call.reference, 0)
            if share < self.decline_rate:
                return "declined", self.decline_reason
            if share < self.decline_rate + self.pending_rate:
                return "pending", ""
        return "authorized", ""

    def _fault(self, call: Attempt) -> Fault:
        for rule in self.rules:
            if rule.fault and rule.matches(call):
                return rule.fault
        rates = self._rates()
        if any(rates):
            share = draw(self.seed, f"fault.{call.operation}", call.reference, call.number)
            for sort, rate in zip(_SORTS, rates, strict=True):
                if share < rate:
                    return sort
                share -= rate
        return "none"


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """A call as a script sees it.

    Attributes:
      number: How many calls of this operation on this reference came before.
    """

    operation: Operation
    reference: str
    customer: str = ""
    amount_cents: int = 0
    number: int = 0


class Plan(msgspec.Struct, frozen=True, gc=False):
    """What happens to one call."""

    verdict: Verdict
    reason: str
    fault: Fault
    delay_s: float


def draw(seed: int, label: str, reference: str, number: int) -> float:
    """A number from 0 up to but not 1 that depends on nothing but the arguments."""
    text = f"{seed}\0{label}\0{reference}\0{number}".encode("utf-8", "surrogatepass")
    return (int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 11) / (1 << 53)


def load_script(path: Path) -> Script:
    """Read a script from a TOML file, or a JSON one if its name ends so.

    Raises:
      ValueError: The file's content is not a script; the message names the field.
      OSError: The file cannot be read.
    """
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            return msgspec.json.decode(data, type=Script)
        return msgspec.toml.decode(data, type=Script)
    except ValueError as error:  # tomllib's and msgspec's are both
        raise ValueError(f"{path}: {error}; see the attributes of Script and Rule") from error
