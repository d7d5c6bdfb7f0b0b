"""How the payment provider of the simulated world misbehaves: every fault is a field here.

Shares are of calls, of keys or of payments. ``draw_provider_faults`` draws the whole from a seed. What a
bank says of a customer's payment, such as a decline or a refused capture, is no fault that could be
repaired: it stays as it is when the world heals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.sim.draws import Draws

Fault = Literal[
    "timeout_before",
    "timeout_after",
    "late",
    "error_before",
    "error_after",
    "busy",
    "busy_after",
]
"""What may happen to a call and hides its answer, in the order in which they are drawn."""

FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)

PROVIDER_MARKS: Final[Mapping[str, str]] = {
    "provider_timeout_before": "a provider call timed out without effect",
    "provider_timeout_after": "a provider call timed out after it had been carried out",
    "provider_timeout_after_mattered": "a provider call timed out, and it had moved money",
    "provider_late": "a provider call was carried out after its caller had given up",
    "provider_late_mattered": "a provider call moved money after its caller had given up",
    "provider_error_before": "a provider call failed without effect",
    "provider_error_after": "a provider call failed after it had been carried out",
    "provider_error_after_mattered": "a provider call failed, and it had moved money",
    "provider_busy": "the provider turned a call away",
    "provider_busy_after": "the provider turned a call away that it had carried out",
    "provider_busy_after_mattered": "the provider turned a call away that had moved money",
    "provider_unremembered": "the provider did not keep the key of a call that failed",
    "provider_key_expired": "a key came again after the provider had forgotten it",
    "provider_key_expired_mattered": "a forgotten key came again, and its answer was another one",
    "provider_key_taken": "a call's key had been used for something else",
    "provider_capture_refused": "the provider refused to take money that was on hold",
    "provider_void_refused": "the provider refused to release money that was on hold",
    "provider_refused_for_good": "the provider refused a call until the hold lapsed",
    "provider_pending": "the provider did not know yet",
    "provider_stale": "the provider told an old status",
    "provider_wrong_amount": "the provider told a wrong amount",
    "provider_wrong_amount_mattered": "a person was told that the provider's amount is wrong",
    "provider_outage": "the provider was away",
    "provider_held": "a call of an outage was carried out at its end",
    "provider_held_mattered": "a call of an outage moved money at its end",
    "provider_burst": "several calls of an outage were carried out at once at its end",
    "provider_lapsed": "a preauthorization lapsed at the provider",
    "provider_same_key": "a key came to the provider again",
    "provider_never_heard": "the provider had never heard of a payment",
    "provider_declined_unanswered": "a hold was declined after a call for it had no answer",
    "provider_declined_after_cancel": "a booking was cancelled before its payment was declined",
}
"""Name and sentence of each mark of the provider's."""

HEALED_LATENCY_MS_MAX: Final = 100


class ProviderFaults(msgspec.Struct, frozen=True):
    """How the provider behaves. Shares are of calls where nothing else is said, from 0 to 1.

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
      busy_after: A 429, with effect.
      unremembered: Share of those errors with effect whose key is not kept.
      key_expired: Share of repeated keys that were forgotten before the repetition.
      key_taken: Share of keys that somebody else has used, for something else.
      refused: Share of payments whose captures, or voids, are refused at first.
      refused_max: So many times at most.
      refused_for_good: Share of those that are refused until the hold lapses.
      stale: Share of status calls that tell what was before the last change.
      stale_s_max: How old such an answer may be.
      wrong_amount: Share of answers with another amount than is on hold.
      lapse: Share of holds that lapse.
      lapse_s_max: Longest time until they do.
      latency_ms_max: Longest time before the effect, and before the answer.
      outages: (begin, end) in milliseconds of the world's time; nothing works then.
      held: Share of an outage's calls that are all carried out at its end.
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
    busy_after: float = 0.0
    unremembered: float = 0.0
    key_expired: float = 0.0
    key_taken: float = 0.0
    refused: float = 0.0
    refused_max: int = 3
    refused_for_good: float = 0.0
    stale: float = 0.0
    stale_s_max: int = 10
    wrong_amount: float = 0.0
    lapse: float = 0.0
    lapse_s_max: int = 300
    latency_ms_max: int = 100
    outages: tuple[tuple[int, int], ...] = ()
    held: float = 0.0

    def healed(self) -> ProviderFaults:
        """The same customers and banks, no faults, and answers before any caller gives up."""
        return ProviderFaults(
            decline=self.decline,
            refused=self.refused,
            refused_max=self.refused_max,
            refused_for_good=self.refused_for_good,
            lapse_s_max=self.lapse_s_max,
            latency_ms_max=min(self.latency_ms_max, HEALED_LATENCY_MS_MAX),
        )


_GREATEST: Final[Mapping[str, float]] = {
    "pending": 0.3,
    "timeout_before": 0.15,
    "timeout_after": 0.15,
    "late": 0.15,
    "error_before": 0.15,
    "error_after": 0.15,
    "busy": 0.15,
    "busy_after": 0.1,
    "unremembered": 0.6,
    "key_expired": 0.6,
    "key_taken": 0.1,
    "refused": 0.4,
    "refused_for_good": 0.5,
    "stale": 0.3,
    "wrong_amount": 0.2,
    "lapse": 0.2,
    "held": 0.6,
}
"""The greatest share of each fault that a world may have."""

_SHARE_MAX: Final = 0.6


def draw_provider_faults(
    draws: Draws,
    share: Callable[[str, float], float],
    scenario: str,
    begin_ms: int,
    fault_s: int,
) -> ProviderFaults:
    """The provider of *draws*' seed.

    Args:
      draws: Of the seed.
      share: Draws the share of a fault by its name, up to a greatest one; 0 where it is off.
      scenario: ``payment-failures`` and ``outages`` have worse ones.
      begin_ms: When the world begins.
      fault_s: How long faults happen.
    """
    bad = 3.0 if scenario == "outages" else 1.0
    shares = {
        name: min(bad * share(f"provider.{name}", greatest), _SHARE_MAX)
        for name, greatest in _GREATEST.items()
    }
    outages: list[tuple[int, int]] = []
    if share("provider.outages", 1.0):
        for number in range(draws.between("provider.outages", 1, 2)):
            first_s = draws.below("provider.outage_begin_s", fault_s, number)
            length_s = draws.between("provider.outage_s", 1, 60, number)
            if draws.chance("provider.outage_to_the_end", 0.2, number):
                length_s = fault_s - first_s
            outages.append((begin_ms + first_s * 1000, begin_ms + (first_s + length_s) * 1000))
    fixed = ProviderFaults(
        decline=0.5 if scenario == "payment-failures" else 0.15,
        late_s_max=draws.between("provider.late_s_max", 1, 25),
        latency_ms_max=draws.pick("provider.latency_ms_max", (100, 10, 3_000)),
        outages=tuple(outages),
    )
    return msgspec.structs.replace(fixed, **shares)
