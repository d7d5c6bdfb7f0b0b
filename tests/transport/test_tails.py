"""A lost tail is reported once, with its whole range and the right cause, whoever notices it first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import hiredis
import pytest

from holdfast.actors.ports import GENESIS, LogUnavailableError, TailLostError
from holdfast.transport.keys import parse_id
from holdfast.transport.tails import LostTail, TailWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.transport.connection import Command
    from holdfast.transport.pool import Server

OLD = b"master_replid:a\r\nmaster_repl_offset:1000\r\n"
NEW = b"master_replid:b\r\nmaster_repl_offset:950\r\nmaster_replid2:a\r\nsecond_repl_offset:901\r\n"
LOSS = LostTail("demo", "3-0", "5-0", "2-0", "4-0", "failover", 100)


class Promoted:
    """A server that was promoted: the streams of one book, and what is reported of it."""

    def __init__(self) -> None:
        self.losses = 0
        self.inputs = ["1-0", "2-0", "3-0"]
        self.outcomes = ["1-0", "2-0"]
        self.reports: list[LostTail] = []
        self.asked: list[str] = []
        self.away = ""
        self.full = False

    async def run(self, commands: Sequence[Command], **_: object) -> list[Any]:
        return [self._reply(*map(str, command)) for command in commands]

    def _reply(self, name: str, *args: str) -> object:
        self.asked.append(name)
        if name == self.away:
            self.away = ""
            raise LogUnavailableError("gone again")
        if name == "INFO":
            return NEW
        if name == "XREVRANGE":
            stream = self.inputs if args[0].endswith("inputs") else self.outcomes
            there = [id_ for id_ in stream if parse_id(id_) <= parse_id(args[1])]
            found: list[list[object]] = [[there[-1].encode(), []]] if there else []
            return found
        if name == "XINFO":
            stream = self.inputs if args[1].endswith("inputs") else self.outcomes
            facts: list[object] = [b"length", len(stream), b"entries-added", 3 * len(stream)]
            first: list[object] = [stream[0].encode(), []]
            facts += [b"last-generated-id", stream[-1].encode(), b"first-entry", first]
            return facts
        if self.full:
            self.full = False
            return hiredis.ReplyError("OOM command not allowed when used memory > 'maxmemory'.")
        values = dict(zip(args[4::2], args[5::2], strict=True))
        self.reports.append(LostTail(**values | {"bytes": int(values["bytes"])}))  # type: ignore[arg-type]
        return b"9-9"


async def watching() -> tuple[Promoted, TailWatch]:
    """Somebody who saw more of the old primary than there is."""
    server = Promoted()
    watch = TailWatch(cast("Server", server))
    watch.remember(OLD)
    await watch.saw("demo", "5-0", "4-0")
    return server, watch


async def test_what_is_gone_is_told_with_its_range() -> None:
    server, watch = await watching()
    assert await watch.look() == []
    server.losses = 1
    assert await watch.look() == server.reports == [LOSS]
    server.losses = 2
    assert await watch.look() == []


async def test_the_new_history_does_not_replace_the_old_one_before_it_is_compared() -> None:
    """A commit may be the first to come to the new primary, and asks where it is in its history."""
    server, watch = await watching()
    server.losses = 1
    watch.remember(NEW)
    assert await watch.look() == [LOSS]


async def test_an_answer_of_the_old_primary_that_is_heard_late_belongs_to_the_same_loss() -> None:
    server, watch = await watching()
    server.losses = 1
    await watch.saw("demo", "6-0", "6-0")
    assert [(loss.inputs_lost_to, loss.decided_lost_to) for loss in server.reports] == [
        ("6-0", "6-0")
    ]
    server.losses = 2
    assert await watch.look() == []


async def test_an_answer_of_the_new_primary_does_not_hide_a_loss() -> None:
    server, watch = await watching()
    server.losses = 1
    server.inputs.append("7-0")
    await watch.saw("demo", "7-0")
    assert server.reports == [LOSS]
    server.inputs.remove("7-0")
    server.losses = 2
    assert [loss.inputs_lost_to for loss in await watch.look()] == ["7-0"]


@pytest.mark.parametrize("at", ["INFO", "XREVRANGE", "XADD"])
async def test_a_loss_that_could_not_be_looked_at_or_written_is_told_the_next_time(at: str) -> None:
    server, watch = await watching()
    server.losses, server.away = 1, at
    with pytest.raises(LogUnavailableError):
        await watch.look()
    assert await watch.look() == server.reports == [LOSS]


async def test_a_report_that_the_server_refuses_is_written_the_next_time() -> None:
    server, watch = await watching()
    server.losses, server.full = 1, True
    with pytest.raises(LogUnavailableError):
        await watch.look()
    assert await watch.look() == server.reports == [LOSS]


async def test_what_others_trimmed_away_is_not_lost() -> None:
    """Somebody has slept while the book went on."""
    server, watch = await watching()
    server.losses, server.inputs, server.outcomes = 1, ["7-0"], ["6-0", "7-0"]
    assert await watch.look() == server.reports == []


async def test_a_reader_is_told_once_that_decisions_are_gone() -> None:
    """Their inputs may still be there: then it would wait for the next one, and decide none of them."""
    server, watch = await watching()
    watch.refuse_lost(["demo"])
    server.losses = 1
    await watch.look()
    watch.refuse_lost(["other"])
    with pytest.raises(TailLostError, match="after 2-0 up to 4-0 were decided"):
        watch.refuse_lost(["other", "demo"])
    watch.refuse_lost(["demo"])


async def test_who_only_looks_on_keeps_no_report_with_the_book() -> None:
    server = Promoted()
    watch = TailWatch(cast("Server", server))
    await watch.saw("demo", "5-0")
    server.losses = 1
    (loss,) = await watch.look()
    assert (loss.inputs_lost_to, loss.decided_kept, loss.decided_lost_to) == (
        *("5-0", GENESIS, GENESIS),
    )
    assert server.reports == []
