"""Cases of tier 1: recorded, shrunk, kept as files, and played again for ever."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from holdfast.sim.tier1.cases import Ask, Case, CaseError, read_case, record, replay, write_case
from holdfast.sim.tier1.checks import ViolationError
from holdfast.sim.tier1.scenarios import BY_NAME, SCENARIOS
from holdfast.sim.tier1.shrink import commands_in, failure_of, kind_of, shrink
from holdfast.sim.tier1.trial import Options

from .planted import PLANTED  # noqa: TID251 - our own package sim

CASES = sorted((Path(__file__).parent / "cases").glob("*.json"))
BUGS = {bug.name: bug for bug in PLANTED}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_failed_once_holds_now(path: Path) -> None:
    """Each file was a failure; put another one there and it is a test."""
    replay(read_case(path))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_kept_case_still_fails_with_its_bug(path: Path) -> None:
    """A case that no longer fails where its bug is planted again guards nothing."""
    bug = BUGS.get(path.stem)
    if bug is None:
        pytest.skip("no bug of that name is planted")
    case = read_case(path)
    with bug.planted():
        error = failure_of(case)
    assert error is not None
    assert error.check == case.check


def found(name: str) -> Case:
    """The first case that a planted bug gives; the bug must be planted."""
    bug = BUGS[name]
    for seed in range(5):
        options = Options(1_500, scan_every=250, audit_every=50, model=bug.check == "model")
        case = record(BY_NAME[bug.scenario], seed, options)
        if case is not None:
            return case
    raise AssertionError(f"{name} was not found")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "fates"),
    [
        ("keeps-minutes", 10, 0),
        ("fresh-keys", 6, 1),
        ("backwards", 5, 0),
        ("keys-lost", 5, 0),
        ("no-capture", 2, 0),
        ("wall-clock", 1, 0),
        ("checks-lost", 5, 1),
        ("utc-today", 2, 0),
        ("answers-anything", 10, 2),
        ("late-result-crashes", 6, 1),
    ],
)
def test_a_failure_shrinks_to_a_few_steps(
    name: str, steps: int, fates: int, tmp_path: Path
) -> None:
    """It fails the same check for the same reason, from its file too, and holds without the bug."""
    with BUGS[name].planted():
        case = found(name)
        small = shrink(case)
        error = failure_of(small)
        write_case(tmp_path / "small.json", small)
        again = read_case(tmp_path / "small.json")
    assert again == small
    assert error is not None
    assert kind_of(error.check, error.what) == kind_of(case.check, case.why)
    assert (small.check, small.scenario, small.seed) == (case.check, case.scenario, case.seed)
    assert len(small.steps) <= steps
    assert len(small.fates) <= fates
    assert 1 <= commands_in(small) <= 10
    replay(small)


@pytest.mark.slow
@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_a_recorded_run_plays_as_it_ran(name: str) -> None:
    """Cut anywhere, what came in gives the same book again; here at a failure of our own making."""
    bug = BUGS["for-ever"]  # nothing fails before the end, so all steps are recorded
    with bug.planted():
        case = record(BY_NAME[name], 7, Options(1_000))
        assert case is not None
        error = failure_of(case)
    assert error is not None
    assert kind_of(error.check, error.what) == kind_of(case.check, case.why)
    replay(msgspec.structs.replace(case, steps=case.steps[:900]), closely=False)


def test_a_case_that_holds_is_not_shrunk() -> None:
    with BUGS["wrong-amount"].planted():
        case = found("wrong-amount")
    with pytest.raises(ValueError, match="does not fail"):
        shrink(case)


def test_a_run_without_a_violation_is_no_case() -> None:
    assert record(BY_NAME["mixed"], 1, Options(100, audit_every=0)) is None


def test_a_sound_provider_answers_whatever_is_left_out() -> None:
    """Each single step left out of a run: no check fails, for what is left is a run as well."""
    with BUGS["for-ever"].planted():
        case = record(BY_NAME["stress"], 1, Options(80))
    assert case is not None
    for at in range(80):
        steps = case.steps[:at] + case.steps[at + 1 : 80]
        replay(msgspec.structs.replace(case, steps=steps), closely=False)


def test_the_kind_of_a_failure_does_not_know_ids() -> None:
    assert kind_of("keys", "a retry of k1 got another answer") == kind_of(
        "keys", "a retry of k27 got another answer"
    )
    assert kind_of("invariants", "2 hours: b1-1 is out; x") != kind_of(
        "invariants", "3 timer: b1-1"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ('{"check": "keys"}', "is no case of tier 1"),
        ('{"check": "keys", "why": "", "steps": [], "tier": 2}', "is no case of tier 1"),
    ],
)
def test_a_file_that_is_no_case_is_named(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text(text)
    with pytest.raises(CaseError, match=says):
        read_case(path)
    with pytest.raises(CaseError, match="cannot be read"):
        read_case(tmp_path / "none.json")


def test_a_step_that_asks_for_nothing_is_refused() -> None:
    case = Case("keys", "", (Ask(1_000, 0, "k", "customer:K1", "d"),))
    with pytest.raises(ViolationError, match="asks for nothing"):
        replay(case, closely=False)
