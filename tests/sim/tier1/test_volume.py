"""The volume runner: its shares, its digests, and that it sees what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from holdfast.sim.tier1.checks import ViolationError
from holdfast.sim.tier1.model import day_minutes, span
from holdfast.sim.tier1.scenarios import BY_NAME, SCENARIOS
from holdfast.sim.tier1.trial import LINK_EVERY, Options
from holdfast.sim.tier1.volume import run

from .planted import OPERATIONS, PLANTED, SEEDS, Bug, hunt  # noqa: TID251 - our own package sim

NAMES = [scenario.name for scenario in SCENARIOS]
S0 = ["mixed", "high-contention", "payment-failures", "auto-selection", "sparse", "long", "stress",
      "preferences"]  # fmt: skip


def test_the_eight_scenarios_of_the_original_exist_and_four_of_ours() -> None:
    assert NAMES[:8] == S0
    assert len(set(NAMES)) == len(NAMES) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_never_saturates(name: str) -> None:
    """Of the first thousands of commands as of the last, 30 to 70 % are accepted."""
    long = run(BY_NAME[name], 1, Options(operations=12_000))
    half = run(BY_NAME[name], 1, Options(operations=6_000))
    assert 0.3 <= half.accepted_share <= 0.7
    later = (long.accepted - half.accepted) / (long.commands - half.commands)
    assert 0.3 <= later <= 0.7
    assert 0.3 <= long.commands / long.operations <= 0.85
    assert long.operations == 12_000 + long.end_operations
    if name == "payment-failures":
        assert 0.45 <= long.declined_share <= 0.55


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_as_the_model_says(name: str) -> None:
    outcome = run(
        BY_NAME[name], 2, Options(operations=1_000, scan_every=100, audit_every=50, model=True)
    )
    assert outcome.operations > 1_000


@pytest.mark.slow
def test_looking_closer_changes_nothing() -> None:
    """The digest is of what happened, not of how it was watched."""
    seen = [
        run(BY_NAME["stress"], 3, Options(operations=2_000, scan_every=0, audit_every=0)),
        run(BY_NAME["stress"], 3, Options(2_000, scan_every=7, audit_every=100, model=True)),
    ]
    assert seen[0] == seen[1]
    before_the_end = seen[0].operations - seen[0].end_operations
    assert len(seen[0].links) == before_the_end // LINK_EVERY > 0


def test_other_seeds_and_other_scenarios_are_other_runs() -> None:
    few = Options(operations=300, audit_every=0)
    runs = [
        run(BY_NAME[name], seed, few) for name, seed in (("mixed", 1), ("mixed", 2), ("long", 1))
    ]
    assert len({outcome.digest for outcome in runs}) == 3


_PROGRAM = """
import gc, sys
gc.set_threshold(int(sys.argv[1]))
from holdfast.sim.tier1.scenarios import SCENARIOS
from holdfast.sim.tier1.trial import Options
from holdfast.sim.tier1.volume import run
for scenario in SCENARIOS:
    print(run(scenario, 5, Options(operations=1_000)))
"""


@pytest.mark.slow
def test_one_seed_is_one_digest_in_every_process() -> None:
    """Under other hash seeds, other garbage collection, other time zones."""
    outputs: list[str] = []
    for number in (1, 2):
        environment = {
            **os.environ, "PYTHONHASHSEED": str(number), "TZ": f"Etc/GMT+{number}"
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(10**number)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].count("Outcome(") == len(SCENARIOS)


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    """By the check that the table names; the model is asked only where no other check sees it."""
    caught = hunt(bug)
    assert caught is not None, f"not caught in {SEEDS} seeds of {OPERATIONS} operations"
    assert caught.check == bug.check, caught


def test_the_table_of_planted_bugs_is_current() -> None:
    """``python -m tests.sim.tier1.planted`` prints its rows anew."""
    page = (Path(__file__).parents[3] / "docs" / "planted.md").read_text(encoding="utf-8")
    for bug in PLANTED:
        row = next((line for line in page.splitlines() if f"| `{bug.name}` |" in line), "")
        assert f"| {bug.does} | `{bug.scenario}` | {bug.check} |" in row, bug.name


def test_planting_is_undone() -> None:
    before = {name: owner.__dict__[name] for bug in PLANTED for owner, name, _ in bug.patches}
    for bug in PLANTED:
        with bug.planted():
            assert any(owner.__dict__[name] is not before[name] for owner, name, _ in bug.patches)
    after = {name: owner.__dict__[name] for bug in PLANTED for owner, name, _ in bug.patches}
    assert before == after


def test_a_violation_tells_how_to_see_it_again() -> None:
    bug = next(bug for bug in PLANTED if bug.name == "wrong-amount")
    with bug.planted(), pytest.raises(ViolationError) as caught:
        run(BY_NAME["mixed"], 4)
    assert str(caught.value).startswith("money: p")
    operation = caught.value.operation
    assert caught.value.__notes__ == [
        f"at operation {operation}; again: holdfast sim mixed --tier 1 --seeds 4 --operations 25000"
    ]


# --- the model's clocks, which all else rests on ------------------------------------------------


def test_the_models_days_are_as_long_as_the_clocks_say() -> None:
    lengths = [len(day_minutes("Europe/Berlin", date(2026, month, day)))
               for month, day in ((3, 28), (3, 29), (10, 25))]  # fmt: skip
    assert lengths == [1_440, 1_380, 1_500]


@pytest.mark.parametrize(
    ("month", "day", "hours", "expected"),
    [
        (3, 29, ("01:15", "05:00"), (75, 240)),
        (3, 29, ("02:30", "05:00"), (120, 240)),  # begins when clocks jump
        (10, 25, ("01:00", "02:30"), (60, 210)),  # ends at the second half past two
        (10, 25, ("02:30", "04:00"), (150, 300)),  # begins at the first
        (3, 27, ("22:00", "24:00"), (1_320, 1_440)),
    ],
)
def test_the_models_hours_where_clocks_change(
    month: int, day: int, hours: tuple[str, str], expected: tuple[int, int]
) -> None:
    assert span("Europe/Berlin", date(2026, month, day), hours) == expected
