"""``holdfast sim``: what it prints, what it exits with, and the command that repeats a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.sim.checks import CHECKS, Checks
from holdfast.sim.options import SCENARIOS
from holdfast.sim.runner import Job, command_of

if TYPE_CHECKING:
    from holdfast.sim.history import Written


def test_list_tells_what_there_is() -> None:
    done = CliRunner().invoke(app, ["sim", "list"])
    assert done.exit_code == 0
    for name in (*SCENARIOS, *CHECKS, "provider"):
        assert name in done.stdout


@pytest.mark.slow
def test_good_worlds_exit_0_and_tell_how_many() -> None:
    done = CliRunner().invoke(app, ["sim", "mixed", "--seeds", "0-3", "--json"])
    assert done.exit_code == 0, done.output
    facts = msgspec.json.decode(done.stdout)
    assert (facts["holds"], facts["runs"], facts["violations"]) == (True, 4, [])
    assert 0 < facts["marks"]["accepted"] <= 4


@pytest.mark.slow
def test_the_same_worlds_in_two_processes_give_the_same_counts() -> None:
    facts: list[dict[str, object]] = []
    for jobs in ("1", "2"):
        done = CliRunner().invoke(app, ["sim", "--seeds", "0-19", "--jobs", jobs, "--json"])
        counted = msgspec.json.decode(done.stdout, type=dict[str, object])
        facts.append({name: counted[name] for name in ("events", "marks", "accepted_share")})
    assert facts[0] == facts[1]


def test_a_violation_exits_1_and_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Checks, book: str, written: Written) -> None:
        self.fail("S1 no overlap", f"planted in {book}")

    monkeypatch.setattr(Checks, "on_commit", fail)
    done = CliRunner().invoke(app, ["sim", "rivals", "--seeds", "4", "--faults", "process"])
    assert done.exit_code == 1
    assert "S1 no overlap" in done.stdout
    assert "no member of staff has two appointments" in done.stdout
    assert "planted in book1" in done.stdout
    assert "holdfast sim rivals --seeds 4 --faults process" in done.stdout.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "there is no scenario 'nothing'"),
        (["--faults", "gremlins"], "there is no fault group 'gremlins'"),
        (["--seeds", "9-3"], "the second must not be less"),
        (["--seeds", "many"], "give one number"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, ["sim", *arguments])
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.split())


def test_a_command_names_no_group_where_all_may_happen() -> None:
    assert command_of(Job(3, "mixed")) == "holdfast sim mixed --seeds 3"
    assert command_of(Job(3, "mixed", ())) == "holdfast sim mixed --seeds 3 --faults none"
