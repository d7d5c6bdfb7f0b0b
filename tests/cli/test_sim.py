"""``holdfast sim``: what it prints, what it exits with, and the command that repeats a failure."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import msgspec
import pytest
from typer.testing import CliRunner

from holdfast.cli import sim_run, sim_twice
from holdfast.cli.app import app
from holdfast.sim import runner
from holdfast.sim.cases import Case, read_case, write_case
from holdfast.sim.options import FAULTS, SCENARIOS
from holdfast.sim.run import run_world
from holdfast.sim.runner import Job, command_of
from holdfast.sim.twice import Difference
from holdfast.sim.violations import CHECKS, Violation
from holdfast.transport import memory_log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from holdfast.sim.run import Result


def test_list_tells_what_there_is() -> None:
    done = CliRunner().invoke(app, ["sim", "list"])
    assert done.exit_code == 0
    for name in (*SCENARIOS, *CHECKS, *FAULTS, *FAULTS.values()):
        assert name in done.stdout


@pytest.mark.slow
def test_good_worlds_exit_0_and_tell_how_many() -> None:
    done = CliRunner().invoke(app, ["sim", "mixed", "--seeds", "0-3", "--json"])
    assert done.exit_code == 0, done.output
    facts = msgspec.json.decode(done.stdout)
    assert (facts["holds"], facts["runs"], facts["violations"]) == (True, 4, [])
    assert 0 < facts["marks"]["accepted"] <= 4


@pytest.mark.slow
def test_a_mark_that_was_never_hit_is_a_failure_for_who_wants_every_mark() -> None:
    command = ["sim", "mixed", "--seeds", "3", "--faults", "none"]
    assert CliRunner().invoke(app, command).exit_code == 0
    done = CliRunner().invoke(app, [*command, "--every-mark"])
    assert done.exit_code == 1
    assert "never: a process crashed" in done.stdout


@pytest.mark.slow
def test_worlds_are_compared_in_processes_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(app, ["sim", "twice", "mixed", "--seeds", "0-1"])
    assert done.exit_code == 0, done.output
    assert "all traces are equal\nevery check held\n" in done.stdout
    result = run_world(7, "mixed")[0]
    found: list[Difference] = []

    def differences(jobs: list[Job], seen: Callable[[Job, Result], None]) -> list[Difference]:
        seen(jobs[0], result)
        return found

    monkeypatch.setattr(sim_twice, "differences", differences)
    found = [Difference(Job(7, "mixed"), 12, "1 a b", "1 a c")]
    done = CliRunner().invoke(app, ["sim", "twice", "mixed", "--seeds", "7"])
    assert done.exit_code == 1
    assert "1 a c" in done.stdout
    assert "holdfast sim mixed --seeds 7" in done.stdout

    found = []
    result = msgspec.structs.replace(result, violation=Violation("S4 money", "of 7", 1))
    done = CliRunner().invoke(app, ["sim", "twice", "mixed", "--seeds", "7"])
    assert done.exit_code == 1
    assert "all traces are equal" in done.stdout
    assert "found by: holdfast sim mixed --seeds 7" in done.stdout


@pytest.mark.slow
def test_the_same_worlds_in_two_processes_give_the_same_counts() -> None:
    facts: list[dict[str, object]] = []
    for jobs in ("1", "2"):
        done = CliRunner().invoke(app, ["sim", "--seeds", "0-19", "--jobs", jobs, "--json"])
        counted = msgspec.json.decode(done.stdout, type=dict[str, object])
        facts.append({name: counted[name] for name in ("events", "marks", "accepted_share")})
    assert facts[0] == facts[1]


@pytest.fixture
def no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug: commits are written whoever holds the book."""

    def never(*_: object) -> bool:
        return False

    monkeypatch.setattr(memory_log, "_fenced", never)


@pytest.mark.slow
@pytest.mark.usefixtures("no_fence")
def test_a_failure_leaves_a_small_case_that_can_be_replayed(tmp_path: Path) -> None:
    out = tmp_path / "failures"
    arguments = ["sim", "rivals", "--seeds", "0", "--faults", "process", "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    said = done.stdout.replace("\n", " ")
    assert done.exit_code == 1
    assert "S8 store" in said
    assert "none writes after a newer" in said
    assert "found by: holdfast sim rivals --seeds 0 --faults process" in said
    assert "made smaller: 1 client events, 1 faults, 0 schedule deviations" in said
    path = out / "rivals-0.json"
    assert f"again: holdfast sim --replay {path}" in said
    page = out / "rivals-0.html"
    assert f"page: {page}" in said
    assert "S8 store" in page.read_text()
    again = ["sim", "--replay", str(path), "--out", str(tmp_path / "pages"), "--json"]
    replayed = [CliRunner().invoke(app, again) for _ in range(2)]
    assert (tmp_path / "pages" / "rivals-0.html").is_file()
    facts = [msgspec.json.decode(once.stdout) for once in replayed]
    assert [once.exit_code for once in replayed] == [1, 1]
    assert (facts[0]["check"], facts[0]["unused"]) == ("S8 store", [])
    assert facts[0]["digest"] == facts[1]["digest"]


@pytest.mark.usefixtures("no_fence")
def test_a_failure_can_be_left_as_it_is(tmp_path: Path) -> None:
    arguments = ["sim", "rivals", "--seeds", "0", "--out", str(tmp_path), "--no-shrink", "--json"]
    done = CliRunner().invoke(app, arguments)
    facts = msgspec.json.decode(done.stdout)
    assert (done.exit_code, facts["holds"], facts["held"]) == (1, False, 0)
    assert facts["kept"]["runs"] == 0
    case = read_case(tmp_path / "rivals-0.json")
    assert (case.seed, case.changes, case.check) == (0, {}, "S8 store")


@pytest.mark.slow
@pytest.mark.usefixtures("no_fence")
def test_every_failure_is_named_with_the_command_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sim_run, "OTHERS_TOLD", 1)
    arguments = ["sim", "rivals", "--seeds", "0-7", "--out", str(tmp_path), "--no-shrink"]
    listed = CliRunner().invoke(app, [*arguments, "--json"])
    first, second, *rest = msgspec.json.decode(listed.stdout)["violations"]
    said = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert f"  found by: {first['command']}" in said
    assert f"another: {second['check']}: {second['command']}" in said
    assert f"and {len(rest)} more, which --json lists" in said


@pytest.mark.usefixtures("no_fence")
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.write_text("")
    arguments = ["sim", "rivals", "--seeds", "0", "--out", str(folder), "--no-shrink"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "cannot be written: " in done.output
    assert "name another folder by --out" in " ".join(done.output.split())


def test_a_case_that_holds_exits_0(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    write_case(path, Case(1, "mixed", (), {"no.such_draw()": 0}))
    done = CliRunner().invoke(app, ["sim", "--replay", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert not (tmp_path / "out").exists()
    assert "no draw of this world is called no.such_draw()" in done.stdout
    assert "every check held" in done.stdout


@pytest.mark.usefixtures("no_fence")
def test_until_failure_goes_on_beyond_the_seeds(tmp_path: Path) -> None:
    arguments = ["--seeds", "0-0", "--faults", "server", "--until-failure", "--no-shrink", "--json"]
    done = CliRunner().invoke(app, ["sim", "mixed", *arguments, "--out", str(tmp_path)])
    facts = msgspec.json.decode(done.stdout)
    assert done.exit_code == 1
    assert facts["runs"] == facts["held"] + 1 == facts["violations"][0]["seed"] + 1 > 1


def test_ctrl_c_ends_it_after_the_world_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(job: Job) -> Result:
        if job.seed == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return run_world(job.seed, job.scenario, ())[0]

    monkeypatch.setattr(runner, "run_job", run)
    before = signal.getsignal(signal.SIGINT)
    done = CliRunner().invoke(app, ["sim", "--until-failure", "--json"])
    facts = msgspec.json.decode(done.stdout)
    assert (done.exit_code, facts["interrupted"], facts["runs"]) == (130, True, 3)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "there is no scenario 'nothing'"),
        (["--faults", "gremlins"], "there is no fault group 'gremlins'"),
        (["--seeds", "9-3"], "the second must not be less"),
        (["--seeds", "many"], "give one number"),
        (["--replay", "no-such-file"], "no-such-file cannot be read"),
        (["rivals", "--replay", "no-such-file"], "name none beside it"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, ["sim", *arguments])
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.split())


def test_a_command_names_no_group_where_all_may_happen() -> None:
    assert command_of(Job(3, "mixed")) == "holdfast sim mixed --seeds 3"
    assert command_of(Job(3, "mixed", ())) == "holdfast sim mixed --seeds 3 --faults none"
