"""Two logs side by side."""

from __future__ import annotations

import pytest

from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.ports import InputEntry
from holdfast.tools.compare import compare
from holdfast.tools.errors import ToolError
from holdfast.tools.sources import SnapshotSource


def _tell(_done: int, _total: int) -> None:
    pass


def _book_at(position: str) -> SnapshotSource:
    """A book whose log begins and ends with a snapshot."""
    runner = BookRunner("demo")
    runner.decide([InputEntry(position, "tick", b"{}", by="service:timer")])
    return SnapshotSource(f"the book at {position}", "demo", runner.snapshot())


@pytest.mark.parametrize("positions", [("5-0", "9-0"), ("9-0", "5-0")])
async def test_logs_without_a_common_place_are_not_said_to_differ(
    positions: tuple[str, str],
) -> None:
    left, right = map(_book_at, positions)
    with pytest.raises(ToolError, match="the book at 5-0 ends at 5-0, before the book at 9-0"):
        await compare(left, right, tell=_tell)
