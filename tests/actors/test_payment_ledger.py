"""The sandbox provider's ledger: one effect per key, one payment per reference, money conserved."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.payment.ledger import (
    Call,
    Capture,
    Change,
    Hold,
    Ledger,
    Refund,
    Settle,
    Void,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

HOLD = Hold("demo:p1", "k1", 5_000, "EUR", "K1")


def ledger_of(*changes: Change) -> Ledger:
    ledger = Ledger()
    for change in changes:
        assert not ledger.apply(change).refused
    return ledger


def status_of(ledger: Ledger, reference: str = "demo:p1") -> str:
    payment = ledger.payment(reference)
    return payment.status if payment else "none"


# --- the states -------------------------------------------------------------------------------

STATES: dict[str, list[Change]] = {
    "pending": [msgspec.structs.replace(HOLD, verdict="pending")],
    "authorized": [HOLD],
    "declined": [msgspec.structs.replace(HOLD, verdict="declined", reason="no")],
    "captured": [HOLD, Capture("demo:p1", "c")],
    "voided": [HOLD, Void("demo:p1", "v")],
    "refunded": [HOLD, Capture("demo:p1", "c"), Refund("demo:p1", "r")],
}
ALLOWED = {
    ("authorized", "capture"): "captured",
    ("authorized", "void"): "voided",
    ("captured", "refund"): "refunded",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("call", ["capture", "void", "refund"])
def test_a_call_is_carried_out_from_its_one_state_and_refused_from_any_other(
    state: str, call: str
) -> None:
    ledger = ledger_of(*STATES[state])
    assert status_of(ledger) == state
    before = ledger.totals()
    calls: dict[str, Call] = {
        "capture": Capture("demo:p1", "new"),
        "void": Void("demo:p1", "new"),
        "refund": Refund("demo:p1", "new"),
    }

    reply = ledger.apply(calls[call])

    assert reply.payment is not None
    assert reply.payment.status == status_of(ledger) == ALLOWED.get((state, call), state)
    assert (reply.refused == "wrong_state") == ((state, call) not in ALLOWED)
    assert (ledger.totals() == before) == bool(reply.refused)


@pytest.mark.parametrize(
    "call", [Capture("demo:p1", "k"), Void("demo:p1", "k"), Refund("demo:p1", "k")]
)
def test_an_unknown_payment_is_not_found_and_the_key_stays_free(call: Call) -> None:
    ledger = Ledger()
    assert ledger.apply(call).refused == "not_found"
    assert not ledger.apply(msgspec.structs.replace(HOLD, key="k")).refused


def test_a_reference_has_one_authorization_under_however_many_keys() -> None:
    ledger = ledger_of(HOLD)
    again = ledger.apply(msgspec.structs.replace(HOLD, key="k2"))
    assert again.payment == ledger.payment("demo:p1")
    assert ledger.totals()["EUR"].held == 5_000
    assert len(ledger) == 1


def test_a_reference_with_other_terms_is_refused() -> None:
    ledger = ledger_of(HOLD)
    for other in (
        msgspec.structs.replace(HOLD, key="k2", amount_cents=1),
        msgspec.structs.replace(HOLD, key="k3", currency="USD"),
        msgspec.structs.replace(HOLD, key="k4", customer="K2"),
    ):
        assert ledger.apply(other).refused == "mismatch"
    assert list(ledger.totals()) == ["EUR"]


def test_a_key_gets_its_first_reply_again_though_the_payment_went_on() -> None:
    ledger = Ledger()
    first = ledger.apply(HOLD)
    ledger.apply(Capture("demo:p1", "c"))
    assert ledger.apply(HOLD) == first
    assert status_of(ledger) == "captured"


def test_a_key_with_other_parameters_is_refused_and_has_no_effect() -> None:
    ledger = ledger_of(HOLD)
    other: list[Call] = [
        Void("demo:p1", "k1"),
        msgspec.structs.replace(HOLD, amount_cents=1),
        msgspec.structs.replace(HOLD, reference="demo:p2"),
    ]
    for call in other:
        assert ledger.apply(call).refused == "key_reused"
    assert status_of(ledger) == "authorized"
    assert len(ledger) == 1


def test_the_providers_own_decision_is_no_part_of_what_a_key_compares() -> None:
    ledger = ledger_of(msgspec.structs.replace(HOLD, verdict="declined", reason="no"))
    reply = ledger.apply(HOLD)
    assert not reply.refused
    assert reply.payment is not None
    assert reply.payment.status == "declined"


def test_a_refusal_is_remembered_under_its_key() -> None:
    ledger = ledger_of(HOLD)
    assert ledger.apply(Refund("demo:p1", "r")).refused == "wrong_state"
    ledger.apply(Capture("demo:p1", "c"))
    assert ledger.apply(Refund("demo:p1", "r")).refused == "wrong_state"
    assert status_of(ledger) == "captured"


def test_no_more_is_taken_than_is_held_and_no_more_given_back_than_was_taken() -> None:
    ledger = ledger_of(HOLD)
    assert ledger.apply(Capture("demo:p1", "c1", 5_001)).refused == "amount_too_large"
    assert not ledger.apply(Capture("demo:p1", "c2", 3_000)).refused
    assert ledger.apply(Refund("demo:p1", "r1", 3_001)).refused == "amount_too_large"
    assert not ledger.apply(Refund("demo:p1", "r2", 1_000)).refused
    totals = ledger.totals()["EUR"]
    assert (totals.captured, totals.voided, totals.retained, totals.refunded) == (
        3_000,
        2_000,
        2_000,
        1_000,
    )


def test_a_pending_payment_is_settled_once() -> None:
    ledger = ledger_of(*STATES["pending"])
    assert ledger.totals()["EUR"].authorized == 0
    assert not ledger.apply(Settle("demo:p1", "authorized")).refused
    assert ledger.apply(Settle("demo:p1", "declined", "no")).refused == "wrong_state"
    assert ledger.totals()["EUR"].held == 5_000
    assert ledger.apply(Settle("demo:p2", "authorized")).refused == "not_found"


def test_a_pending_payment_may_be_declined() -> None:
    ledger = ledger_of(*STATES["pending"], Settle("demo:p1", "declined", "no"))
    payment = ledger.payment("demo:p1")
    assert payment is not None
    assert (payment.status, payment.reason) == ("declined", "no")


def test_payments_come_in_the_order_in_which_they_came_to_be() -> None:
    ledger = ledger_of(*(Hold(f"b:{i}", f"k{i}", 1, "EUR", "K") for i in (3, 1, 2)))
    assert [p.reference for p in ledger.payments()] == ["b:3", "b:1", "b:2"]
    assert [p.number for p in ledger.payments(after=1)] == [2, 3]


# --- properties -------------------------------------------------------------------------------

references = st.sampled_from(["b:p1", "b:p2", "c:p1"])
keys = st.sampled_from([f"k{i}" for i in range(12)])
cents = st.integers(0, 3)
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(
        Hold,
        references,
        keys,
        cents,
        st.sampled_from(["EUR", "USD"]),
        st.just("K"),
        st.sampled_from(["authorized", "declined", "pending"]),
    ),
    st.builds(Capture, references, keys, st.none() | cents),
    st.builds(Void, references, keys),
    st.builds(Refund, references, keys, st.none() | cents),
    st.builds(Settle, references, st.sampled_from(["authorized", "declined"])),
)


def scanned(ledger: Ledger) -> dict[str, Counter[str]]:
    """The totals, added up from the payments alone."""
    totals: dict[str, Counter[str]] = {}
    for payment in ledger.payments():
        sums = totals.setdefault(payment.currency, Counter())
        sums["payments"] += 1
        if payment.status in ("declined", "pending"):
            continue
        sums["authorized"] += payment.amount_cents
        if payment.status == "authorized":
            sums["held"] += payment.amount_cents
        else:
            sums["voided"] += payment.amount_cents - payment.captured_cents
        sums["captured"] += payment.captured_cents
        sums["refunded"] += payment.refunded_cents
        sums["retained"] += payment.captured_cents - payment.refunded_cents
    return totals


@given(st.lists(changes, max_size=60))
def test_money_is_conserved(sequence: Sequence[Change]) -> None:
    ledger = Ledger()
    for change in sequence:
        ledger.apply(change)
        totals = ledger.totals()
        for sums in totals.values():
            assert sums.authorized == sums.captured + sums.voided + sums.held
            assert sums.captured == sums.retained + sums.refunded
            assert min(msgspec.structs.astuple(sums)) >= 0
        as_counters = {n: Counter(msgspec.structs.asdict(s)) for n, s in totals.items()}
        assert as_counters == scanned(ledger)


@given(st.lists(changes, max_size=60))
def test_a_key_has_one_effect_and_one_reply(sequence: Sequence[Change]) -> None:
    """Every call is sent twice in a row and once more at the end: the repeats change nothing."""
    ledger = Ledger()
    first: dict[str, tuple[Change, object]] = {}
    for change in sequence:
        reply = ledger.apply(change)
        if isinstance(change, Settle):
            continue
        state = (list(ledger.payments()), ledger.totals())
        assert ledger.apply(change) == reply
        assert (list(ledger.payments()), ledger.totals()) == state
        if reply.refused not in ("not_found", "key_reused"):
            first.setdefault(change.key, (change, reply))
    state = (list(ledger.payments()), ledger.totals())
    for call, answer in first.values():
        assert ledger.apply(call) == answer
    assert (list(ledger.payments()), ledger.totals()) == state


@given(st.lists(changes, max_size=60))
def test_replaying_the_changes_gives_the_same_ledger(sequence: Sequence[Change]) -> None:
    one, other = Ledger(), Ledger()
    for change in sequence:
        one.apply(change)
    encoded = [msgspec.json.encode(change) for change in sequence]
    for line in encoded:
        other.apply(msgspec.json.decode(line, type=Change))
    assert list(one.payments()) == list(other.payments())
    assert one.totals() == other.totals()
