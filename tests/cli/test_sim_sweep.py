"""``holdfast sim sweep``: what it prints, what it exits with, and what it keeps of a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from typer.testing import CliRunner

from holdfast.cli import sim_sweep
from holdfast.cli.app import app
from holdfast.cli.common import CliError
from holdfast.sim.cases import read_case, run_case
from holdfast.sim.sweep import BASES, places_of
from holdfast.transport.memory_log import MemoryLog

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.sim.cases import Case
    from holdfast.sim.sweep import Place


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few places of each world; all of them take minutes."""

    def some(base: Case) -> list[Place]:
        return places_of(base)[30::700]

    monkeypatch.setattr(sim_sweep, "places_of", some)


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_a_sweep_tells_how_many_places_of_each_kind_it_tried() -> None:
    done = CliRunner().invoke(app, ["sim", "sweep", "--json"])
    assert done.exit_code == 0, done.output
    facts = msgspec.json.decode(done.stdout)
    assert (facts["holds"], facts["missed"], facts["violations"]) == (True, [], [])
    assert facts["runs"] == sum(facts["places"].values()) > 8
    assert facts["kept"] is None


@pytest.mark.slow
def test_a_failure_is_kept_as_a_case_that_fails_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The bug: nobody takes over what a dead executor had begun."""

    async def nothing(*_: object) -> list[object]:
        await trio.lowlevel.checkpoint()
        return []

    def calls_of_payments(base: Case) -> list[Place]:
        places = places_of(base, ["before"], ["crash"])
        return [place for place in places if place.what == "preauthorize"][:1]

    monkeypatch.setattr(MemoryLog, "claim_actions", nothing)
    monkeypatch.setattr(sim_sweep, "places_of", calls_of_payments)
    command = ["sim", "sweep", "rivals", "--seeds", "496", "--faults", "none", "--no-shrink"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
    assert done.exit_code == 1, done.output
    assert "crash before call" in done.output
    assert "L2 no lag" in done.output
    violation = run_case(read_case(tmp_path / "sweep-rivals-496.json"))[0].violation
    assert violation is not None
    assert violation.check == "L2 no lag"


def test_without_a_scenario_the_worlds_that_come_along_are_swept() -> None:
    assert sim_sweep.bases_of([], range(100), ()) == BASES
    (base,) = sim_sweep.bases_of(["crashes"], range(7, 8), ("process",))
    assert (base.seed, base.scenario, base.groups) == (7, "crashes", ("process",))


@pytest.mark.parametrize("scenario", ["mixed", "nowhere"])
def test_a_mistake_is_one_sentence(scenario: str) -> None:
    with pytest.raises(CliError):
        sim_sweep.bases_of([scenario], range(100 if scenario == "mixed" else 1), ())
