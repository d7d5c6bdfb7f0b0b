"""The container of actions: bounded, and ids that derive from the input."""

from __future__ import annotations

import pytest

from holdfast.machine import (
    ACTIONS_MAX,
    Emit,
    EmitFullError,
    Tracked,
    Untracked,
    action_order,
)


def begun(limit: int) -> Emit[str]:
    emit: Emit[str] = Emit(limit)
    emit.begin("7-0")
    return emit


def test_ids_derive_from_the_input_and_count_both_kinds() -> None:
    emit = begun(3)
    assert emit.tracked("charge") == "7-0:0"
    assert emit.untracked("tell") == "7-0:1"
    emit.again("5-0:2", "ask")
    assert emit.actions == [
        Tracked("7-0:0", "charge"),
        Untracked("7-0:1", "tell"),
        Tracked("5-0:2", "ask"),
    ]


def emit_another(emit: Emit[str], kind: str) -> None:
    if kind == "tracked":
        emit.tracked("second")
    elif kind == "untracked":
        emit.untracked("second")
    else:
        emit.again("1-0:0", "second")


@pytest.mark.parametrize("kind", ["tracked", "untracked", "again"])
def test_a_full_container_refuses_and_stays_as_it_was(kind: str) -> None:
    emit = begun(1)
    emit.tracked("first")
    before = list(emit.actions)
    with pytest.raises(EmitFullError, match=r"input 7-0 wants 1 more actions; 0 of 1 fit"):
        emit_another(emit, kind)
    assert emit.actions == before


def test_what_was_reserved_fits() -> None:
    emit = begun(3)
    emit.reserve(3)
    assert emit.room == 3, "reserving is a check; it takes nothing"
    emit.tracked("one")
    emit.reserve(2)
    with pytest.raises(EmitFullError):
        emit.reserve(3)
    assert emit.room == 2


def test_clear_keeps_the_input_and_begin_changes_it() -> None:
    emit = begun(1)
    kept = emit.actions
    emit.tracked("one")
    emit.clear()
    assert emit.tracked("two") == "7-0:0"
    emit.begin("8-0")
    assert emit.room == 1
    assert emit.tracked("three") == "8-0:0"
    assert kept == [Tracked("7-0:0", "one")], "what a host took away is its own"


def test_a_twin_goes_its_own_way() -> None:
    emit = begun(2)
    emit.tracked("one")
    twin = emit.twin()
    assert twin.untracked("two") == "7-0:1"
    with pytest.raises(EmitFullError):
        twin.reserve(1)
    assert emit.actions == [Tracked("7-0:0", "one")]


@pytest.mark.parametrize("limit", [0, -1, ACTIONS_MAX + 1])
def test_a_container_is_bounded(limit: int) -> None:
    with pytest.raises(ValueError, match="limit must be"):
        Emit[str](limit)


def test_ids_are_ordered_by_number_not_by_letter() -> None:
    ids = ["9-0:0", "10-0:0", "10-0:2", "10-0:10", "10-2:0", "10-10:0"]
    assert sorted(ids, key=action_order) == ids
    assert sorted(ids) != ids
