"""What is said of a commit of which nobody knows whether it was written; all of it stands in the document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import hiredis
import pytest

from holdfast.actors.ports import Commit, CommitUnknownError, LogError, LogUnavailableError
from holdfast.transport.commits import write_commits
from holdfast.transport.connection import ConnectionLostError, error_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

DOCUMENT = Path(__file__).parents[2] / "docs" / "failures.md"
COMMITS = [Commit(book, 1, "me", "0-0", "1-1", 1, "d", [], [], [], []) for book in ("one", "two")]


async def sentence(
    answers: list[LogError | None] | None, states: Sequence[LogError | bool] | None
) -> str:
    """What is said where sending is answered so, or is lost, and resolving is, or the server is away."""

    async def send(_wanted: Sequence[int]) -> list[LogError | None]:
        if answers is None:
            raise ConnectionLostError("lost", sent=True)
        return answers

    async def resolve(_commits: Sequence[Commit]) -> list[LogError | bool]:
        if states is None:
            raise LogUnavailableError("away")
        return list(states)

    with pytest.raises(CommitUnknownError) as caught:
        await write_commits(COMMITS, send, resolve, resolve_s=10.0, pause_s=0.1)
    return str(caught.value)


async def test_what_is_said_of_a_commit_that_nobody_knows_of_stands_in_the_document(
    autojump_clock: MockClock,
) -> None:
    full = error_of(hiredis.ReplyError("OOM command not allowed"), "committing to demo")
    for said in (
        await sentence(None, None),
        await sentence(None, [False, False]),
        await sentence([None, full], None),
    ):
        assert f"| {said} |" in DOCUMENT.read_text("utf-8")
