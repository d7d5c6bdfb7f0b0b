"""The sandbox provider's script: rules first, then rates, the same for the same payment always."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.payment.script import Attempt, Rule, Script, draw, load_script

if TYPE_CHECKING:
    from pathlib import Path

HOLD = Attempt("hold", "demo:p1", "K1", 5_000)


def test_the_default_script_grants_everything_at_once() -> None:
    plan = Script().plan(HOLD)
    assert (plan.verdict, plan.fault, plan.delay_s) == ("authorized", "none", 0)


@pytest.mark.parametrize(
    ("rule", "meant"),
    [
        (Rule(verdict="declined"), True),
        (Rule(verdict="declined", operation="hold"), True),
        (Rule(verdict="declined", operation="void"), False),
        (Rule(verdict="declined", customer_prefix="K"), True),
        (Rule(verdict="declined", customer_prefix="bad-"), False),
        (Rule(verdict="declined", reference_prefix="demo:"), True),
        (Rule(verdict="declined", reference_prefix="other:"), False),
        (Rule(verdict="declined", amount_min_cents=5_000, amount_max_cents=5_000), True),
        (Rule(verdict="declined", amount_min_cents=5_001), False),
        (Rule(verdict="declined", amount_max_cents=4_999), False),
        (Rule(verdict="declined", first=1), True),
    ],
)
def test_a_rule_is_for_the_calls_that_match_all_of_it(rule: Rule, meant: bool) -> None:
    assert (Script(rules=(rule,)).plan(HOLD).verdict == "declined") is meant


def test_the_first_rule_of_each_sort_decides() -> None:
    script = Script(
        rules=(
            Rule(fault="error_after"),
            Rule(verdict="pending"),
            Rule(verdict="declined", fault="busy"),
        ),
        decline_rate=1.0,
    )
    plan = script.plan(HOLD)
    assert (plan.verdict, plan.fault) == ("pending", "error_after")


def test_a_rule_for_the_first_calls_lets_the_next_ones_through() -> None:
    script = Script(rules=(Rule(fault="busy", first=2),))
    faults = [script.plan(msgspec.structs.replace(HOLD, number=n)).fault for n in range(4)]
    assert faults == ["busy", "busy", "none", "none"]


def test_only_holds_are_declined() -> None:
    script = Script(decline_rate=1.0)
    assert script.plan(HOLD).verdict == "declined"
    assert script.plan(msgspec.structs.replace(HOLD, operation="void")).verdict == "authorized"


def test_rates_come_out_as_they_say() -> None:
    script = Script(
        seed=7, decline_rate=0.2, pending_rate=0.1, timeout_after_rate=0.25, busy_rate=0.25
    )
    plans = [script.plan(msgspec.structs.replace(HOLD, reference=f"b:{i}")) for i in range(4_000)]
    for want, verdict in ((800, "declined"), (400, "pending")):
        assert abs(sum(p.verdict == verdict for p in plans) - want) < 100
    for want, fault in ((1_000, "timeout_after"), (1_000, "busy"), (2_000, "none")):
        assert abs(sum(p.fault == fault for p in plans) - want) < 150


def test_a_pending_payment_settles_by_rule_or_by_rate() -> None:
    assert Script().settle(HOLD).verdict == "authorized"
    assert Script(decline_rate=1.0).settle(HOLD).verdict == "declined"
    rules = (Rule(verdict="pending"), Rule(verdict="declined", reason="late_no"))
    assert Script(rules=rules).settle(HOLD).reason == "late_no"


def test_delays_spread_between_their_limits() -> None:
    script = Script(delay_ms=10, delay_spread_ms=20)
    delays = [
        script.plan(msgspec.structs.replace(HOLD, reference=f"b:{i}")).delay_s for i in range(200)
    ]
    assert 0.010 <= min(delays) < 0.012
    assert 0.028 < max(delays) < 0.030


@given(st.integers(), st.text(), st.text(), st.integers(0, 5))
def test_a_draw_is_a_share_and_depends_on_its_arguments_alone(
    seed: int, label: str, reference: str, number: int
) -> None:
    share = draw(seed, label, reference, number)
    assert 0 <= share < 1
    assert share == draw(seed, label, reference, number)
    assert share != draw(seed, label, reference, number + 1)


def test_rates_of_more_than_everything_are_refused() -> None:
    with pytest.raises(ValueError, match="add up"):
        Script(busy_rate=0.6, late_rate=0.6)
    with pytest.raises(ValueError, match="add up"):
        Script(decline_rate=0.6, pending_rate=0.6)


def test_a_script_is_read_from_toml_and_json(tmp_path: Path) -> None:
    toml, json = tmp_path / "script.toml", tmp_path / "script.json"
    toml.write_text('seed = 3\n[[rules]]\nfault = "busy"\ncustomer_prefix = "slow-"\n')
    json.write_bytes(msgspec.json.encode(load_script(toml)))
    assert load_script(json) == load_script(toml)
    assert load_script(toml).rules == (Rule(fault="busy", customer_prefix="slow-"),)


@pytest.mark.parametrize("text", ["seed = ", "sead = 3", 'seed = "x"', "decline_rate = 2.0"])
def test_a_file_that_is_no_script_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "script.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"script\.toml"):
        load_script(path)
