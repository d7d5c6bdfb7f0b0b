"""A world is a function of its seed, whatever the process around it is like."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from holdfast.sim import twice
from holdfast.sim.runner import Summary, jobs_of, run_jobs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_traces_are_equal_in_processes_that_differ() -> None:
    summary = Summary()
    assert twice.differences(jobs_of([], range(13)), seen=summary.add) == []
    assert summary == msgspec.structs.replace(run_jobs(jobs_of([], range(13))), wall_s=0.0)


_LEAK = """
import sys
sys.path.remove({folder!r})
from holdfast.sim import crowd
chosen = crowd.Crowd._request
def leaking(self, by, drawn):
    options = self._options
    if drawn == (0, 0):  # the first visit of the first customer
        self._trace.note(by, "picks", next(iter({{"apple", "pear", "plum", "fig", "date"}})))
    return chosen(self, by, drawn)
crowd.Crowd._request = leaking
"""


@pytest.mark.slow
def test_what_depends_on_the_hash_seed_is_found_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set of strings is iterated in a run: the event where the traces part is told."""
    (tmp_path / "sitecustomize.py").write_text(_LEAK.format(folder=str(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = twice.differences(jobs_of(["mixed"], [1]))
    assert "picks" in found.first
    assert "picks" in found.second
    assert found.first != found.second


def test_a_process_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="exit code 1"):
        twice.differences(jobs_of(["mixed"], [1]))


def test_surroundings_differ_in_everything() -> None:
    one, other = (msgspec.to_builtins(each) for each in twice.SURROUNDINGS)
    assert all(one[name] != other[name] for name in one)
    assert all(
        one["environment"][name] != other["environment"][name] for name in one["environment"]
    )
