"""Inputs are read page by page: however large the pages, what is decided is the same."""

from __future__ import annotations

import pytest

from holdfast.actors.booking.messages import RequestAuto
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.booking.wire import encode_message
from holdfast.actors.ports import NewInput
from holdfast.cli.practice import define, load_practice
from holdfast.tools import sources
from holdfast.tools.sources import LogSource, decided_to
from holdfast.transport.memory_log import MemoryLog

BOOK = "demo"


class Ticking:
    """A clock that goes on with every look."""

    def __init__(self) -> None:
        self._now_ms = 1_780_000_000_000

    def now_ms(self) -> int:
        self._now_ms += 7
        return self._now_ms


async def busy_log(requests: int) -> tuple[MemoryLog, list[str], list[str]]:
    """A log of a practice and *requests*; its ids, and the link after each."""
    log = MemoryLog(Ticking())
    new = [define(load_practice("dentist"), by="service:web")]
    for number in range(requests):
        body = encode_message(RequestAuto("checkup", customer=f"K{number}"))
        new.append(NewInput("request_auto", body, f"k{number}", "service:web"))
    ids = await log.append(BOOK, new)
    runner = BookRunner(BOOK)
    links: list[str] = []
    for entry in (await log.read_inputs({BOOK: "0-0"}, requests + 1, 0))[BOOK]:
        runner.decide([entry])
        links.append(runner.digest)
    return log, ids, links


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("page", [1, 4, 13, 100])
async def test_a_book_is_decided_page_by_page(
    page: int, check: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "READ_MAX", page)
    log, ids, links = await busy_log(12)
    told: list[int] = []
    for last in (0, 3, 4, 12):
        told.clear()
        runner = await decided_to(
            log, BOOK, ids[last], lambda done, _: told.append(done), check=check
        )
        assert (runner.position, runner.digest) == (ids[last], links[last])
        assert told == [*range(page, last + 1, page), last + 1]


@pytest.mark.parametrize("page", [1, 4, 13, 100])
async def test_a_source_gives_each_input_once_up_to_those_that_there_were(
    page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "READ_MAX", page)
    log, ids, _ = await busy_log(12)
    source = await LogSource.open(log, BOOK)
    await log.append(BOOK, [NewInput("tick", b"{}", by="service:timer")])
    assert [entry.id async for entry, _ in source.inputs()] == ids
