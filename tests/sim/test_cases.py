"""Cases: what is written can be read, mistakes are one sentence, and kept cases hold."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from holdfast.sim.cases import (
    Case,
    CaseError,
    Size,
    read_case,
    run_case,
    size_of,
    unused,
    write_case,
)
from holdfast.sim.run import run_world

KEPT = sorted((Path(__file__).parent / "cases").glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_was_found_once_is_not_found_again(path: Path) -> None:
    """Each file is a world in which a check failed once; it says which, and why."""
    case = read_case(path)
    assert case.why
    result, world = run_case(case)
    assert result.violation is None
    assert unused(case, world) == [], "the world is another one by now: find the failure anew"


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "case.json"
    case = Case(7, "rivals", ("process",), {"drop('a', 1)": 1}, (0, 2, 0, 1), "S8 store", "[1,2]")
    write_case(path, case)
    assert read_case(path) == case
    assert '"tape": [0, 2, 0, 1],' in path.read_text()


def test_zeros_at_the_end_of_a_tape_go_without_saying(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    for tape, written in (((0, 1, 0, 0), (0, 1)), ((0, 0), ()), (None, None)):
        write_case(path, Case(1, "mixed", tape=tape))
        assert read_case(path).tape == written


def test_a_case_gives_the_same_trace_each_time(tmp_path: Path) -> None:
    result, world = run_world(4)
    path = tmp_path / "case.json"
    write_case(path, Case(4, "mixed", tape=tuple(world.draws.schedule_tape())))
    assert run_case(read_case(path))[0].digest == result.digest
    assert run_case(read_case(path))[0].digest == result.digest


def test_a_change_takes_one_customer_away_and_leaves_the_others() -> None:
    """Keyed draws do not depend on each other; in the order of what waits longest, all else is as it was."""

    def commands(case: Case) -> tuple[list[tuple[str, str]], Size]:
        _, world = run_case(case)
        sent = [(who, details) for _, who, what, details in world.trace.lines if what == "send"]
        return sent, size_of(world)

    case = Case(4, "sparse", (), tape=())
    everything, size = commands(case)
    less, smaller = commands(msgspec.structs.replace(case, changes={"crowd.comes(0,)": 0}))
    assert [one for one in everything if one[0] != "customer:K0"] == less
    assert len(less) == smaller.client_events < size.client_events
    assert size.deviations == smaller.deviations == 0


def test_changes_that_nobody_asks_for_are_told() -> None:
    case = Case(3, "mixed", (), {"crowd.comes(0,)": 0, "crowd.went(0,)": 0})
    assert unused(case, run_case(case)[1]) == ["crowd.went(0,)"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON: "),
        ("\xff", "is not JSON: "),
        ("[]", "is no case: Expected `object`, got `array`"),
        ('{"scenario": "mixed"}', "is no case: Object missing required field `seed`"),
        ('{"seed": "1", "scenario": "mixed"}', "Expected `int`, got `str` - at `$.seed`"),
        ('{"seed": 1, "scenario": "mixed", "tap": []}', "unknown field `tap`"),
        ('{"seed": 1, "scenario": "mixed", "tape": [-1]}', "Expected `int` >= 0 - at `$.tape[0]`"),
        ('{"seed": 1, "scenario": "mixd"}', "there is no scenario 'mixd'"),
        ('{"seed": 1, "scenario": "mixed", "groups": ["fire"]}', "there is no fault group 'fire'"),
        ('{"seed": 1, "scenario": "mixed", "check": "S0"}', "there is no check 'S0'"),
        ('{"seed": 1, "scenario": "mixed", "changes": {"drop": 1}}', "'drop' is no draw"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "case.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(CaseError) as caught:
        read_case(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert sentence in said
    assert "\n" not in said


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"nothing\.json cannot be read: No such file"):
        read_case(tmp_path / "nothing.json")
