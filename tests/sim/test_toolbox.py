"""Tools beside a live book: they are used, they harm nothing, and a bad one is noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from holdfast.actors.ports import NewInput
from holdfast.sim import toolbox
from holdfast.sim.operator_faults import TOOL_MARKS
from holdfast.sim.run import run_world
from holdfast.tools.snapshots import save_snapshot
from holdfast.tools.status import book_status
from holdfast.transport.memory_log import MemoryLog

if TYPE_CHECKING:
    from holdfast.sim.violations import Violation


def violations(seeds: range, *groups: str) -> list[Violation]:
    """What worlds with all tools end by."""
    found = [run_world(seed, "upkeep", ("operator", *groups))[0].violation for seed in seeds]
    return [violation for violation in found if violation is not None]


@pytest.mark.slow
def test_every_tool_is_used_beside_a_live_book_and_harms_nothing() -> None:
    seen: dict[str, None] = {}
    for seed in range(32, 44):
        groups = ("operator", "inputs", "server", "wire", "process")
        result, _ = run_world(seed, "upkeep", groups)
        assert result.violation is None, seed
        seen |= dict.fromkeys(result.marks)
    # Some of it takes a hundred worlds, such as a takeover between two requests; nobody fails over here.
    rare = ["tool_superseded", "tool_history_changed"]
    rare += ["tool_meddled_deleted_told", "tool_action_retried"]
    assert [name for name in TOOL_MARKS if name not in seen and name not in rare] == []


@pytest.mark.slow
def test_a_tool_that_only_looks_and_writes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:

    async def chatty(log: Any, operator: Any, book: str, **more: Any) -> Any:  # noqa: ANN401
        await log.append(book, [NewInput("tick", b"{}", by="service:timer")])
        return await book_status(log, operator, book, **more)

    monkeypatch.setattr(toolbox, "book_status", chatty)
    found = violations(range(4))
    assert found
    assert {one.check for one in found} == {"S15 no live effect"}


@pytest.mark.slow
def test_a_tool_that_writes_more_than_it_says_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:

    async def eager(log: Any, operator: Any, book: str, tell: Any) -> Any:  # noqa: ANN401
        await log.trim(book)
        return await save_snapshot(log, operator, book, tell)

    monkeypatch.setattr(toolbox, "save_snapshot", eager)
    found = violations(range(4))
    assert found
    assert all("keep-" in one.details and "asked for trim" in one.details for one in found)


@pytest.mark.slow
def test_a_stop_without_a_snapshot_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgetful(*_: object) -> None:
        pass

    monkeypatch.setattr(MemoryLog, "save_snapshot", forgetful)
    found = violations(range(3))
    assert "drain" in [one.check for one in found]
