"""``holdfast sim --tier 1``: what it prints, what it exits with, and the case that it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from typer.testing import CliRunner

from holdfast.actors.booking import payments
from holdfast.cli.app import app
from holdfast.sim.tier1.cases import read_case
from holdfast.sim.tier1.scenarios import SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path

TIER_1 = ["sim", "--tier", "1"]


def test_list_tells_the_scenarios() -> None:
    done = CliRunner().invoke(app, [*TIER_1, "list"])
    assert done.exit_code == 0
    for scenario in SCENARIOS:
        assert scenario.name in done.stdout
    done = CliRunner().invoke(app, [*TIER_1, "list", "--json"])
    assert len(msgspec.json.decode(done.stdout)["scenarios"]) == len(SCENARIOS)


@pytest.mark.slow
def test_operations_that_hold_exit_0_and_are_counted() -> None:
    arguments = ["sparse", "--operations", "2000", "--seeds", "3"]
    done = CliRunner().invoke(app, [*TIER_1, *arguments, "--json"])
    facts = msgspec.json.decode(done.stdout)
    assert (done.exit_code, facts["holds"], facts["violations"]) == (0, True, [])
    assert facts["scenarios"]["sparse"]["operations"] == facts["operations"] >= 2_000
    assert 0.3 < facts["accepted_share"] < 0.7
    done = CliRunner().invoke(app, [*TIER_1, *arguments])
    assert done.exit_code == 0
    assert f"{facts['operations']:,} operations in 1 runs" in done.stdout
    assert "every check held" in done.stdout


@pytest.fixture
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug: a booking leaves the book whatever has become of its money."""

    def always(_: object) -> bool:
        return True

    monkeypatch.setattr(payments, "is_settled", always)


@pytest.mark.slow
@pytest.mark.usefixtures("no_settling")
def test_a_failure_leaves_a_small_case_that_can_be_replayed(tmp_path: Path) -> None:
    arguments = ["waits-and-expiries", "--operations", "3000", "--seeds", "2"]
    done = CliRunner().invoke(app, [*TIER_1, *arguments, "--out", str(tmp_path), "--json"])
    facts = msgspec.json.decode(done.stdout)
    assert (done.exit_code, facts["holds"]) == (1, False)
    first = facts["violations"][0]
    assert (first["scenario"], first["seed"], first["check"]) == ("waits-and-expiries", 2, "money")
    assert first["command"] == (
        "holdfast sim waits-and-expiries --tier 1 --seeds 2 --operations 3000"
    )
    path = tmp_path / "tier1-waits-and-expiries-2.json"
    assert facts["case"] == str(path)
    assert len(read_case(path).steps) == facts["steps"] <= 6
    done = CliRunner().invoke(app, [*TIER_1, "--replay", str(path), "--json"])
    assert (done.exit_code, msgspec.json.decode(done.stdout)["holds"]) == (1, False)
    done = CliRunner().invoke(app, [*TIER_1, "--replay", str(path)])
    assert done.exit_code == 1
    assert "fails:" in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("no_settling")
def test_a_failure_is_told_to_a_person_and_can_be_left_as_it_is(tmp_path: Path) -> None:
    arguments = ["waits-and-expiries", "--operations", "3000", "--seeds", "2", "--no-shrink"]
    done = CliRunner().invoke(app, [*TIER_1, *arguments, "--out", str(tmp_path)])
    said = done.stdout.replace("\n", " ")
    assert done.exit_code == 1
    assert "waits-and-expiries, seed 2, operation" in said
    assert "again: holdfast sim --tier 1 --replay" in said
    assert len(read_case(tmp_path / "tier1-waits-and-expiries-2.json").steps) > 20


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "there is no scenario 'nothing' in tier 1"),
        (["--replay", "no-such-file"], "no-such-file cannot be read"),
        (["mixed", "--replay", "no-such-file"], "name none beside it"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, [*TIER_1, *arguments])
    assert done.exit_code == 2
    assert sentence in done.output.replace("\n", " ")
