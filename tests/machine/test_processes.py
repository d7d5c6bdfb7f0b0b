"""Digests do not depend on PYTHONHASHSEED."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.machine.audit import AuditError, Rule
from holdfast.machine.processes import check_across_processes

if TYPE_CHECKING:
    from pathlib import Path

MODULE = """
from holdfast.machine.digest import digest

NAMES = {"anna", "ben", "clara", "dora", "emil", "fritz", "gustav", "hanna"}


def by_name():
    return digest(",".join(sorted(NAMES)).encode())


def as_it_comes():
    return digest(",".join(NAMES).encode())


def broken():
    raise KeyError("not here")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "some_machine.py").write_text(MODULE)
    return tmp_path


@pytest.mark.slow  # processes
def test_equal_digests_pass_and_are_returned(folder: Path) -> None:
    assert len(check_across_processes("some_machine:by_name", path=[str(folder)])) == 32


@pytest.mark.slow  # processes
def test_a_machine_that_iterates_a_set_is_caught(folder: Path) -> None:
    with pytest.raises(AuditError, match="PYTHONHASHSEED=1") as caught:
        check_across_processes("some_machine:as_it_comes", path=[str(folder)])
    assert (caught.value.rule, caught.value.step) == (Rule.HASH_SEED, 0)


@pytest.mark.slow  # processes
def test_a_target_that_fails_says_so(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="not here"):
        check_across_processes("some_machine:broken", path=[str(folder)])


def test_one_process_cannot_differ() -> None:
    with pytest.raises(ValueError, match="two seeds or more"):
        check_across_processes("some_machine:by_name", seeds=[1])
