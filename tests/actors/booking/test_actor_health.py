"""What a booking actor says of itself: while its log is away, and of a book that it gave up."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.health import Health
from holdfast.actors.ports import CommitUnknownError, LogUnavailableError
from holdfast.transport.memory_log import MemoryLog

from .acting import BOOK, PRACTICE, VirtualClock, new, wait_decided

if TYPE_CHECKING:
    from trio.testing import MockClock

    from holdfast.actors.ports import Log


class Listener:
    """Notes the troubles at each change, and lets one wait for some."""

    def __init__(self) -> None:
        self.health = Health()
        self.health.listen(self._note)
        self.heard: list[dict[str, str]] = []
        self._changed = trio.Event()

    def _note(self) -> None:
        self.heard.append(self.health.troubles)
        self._changed.set()
        self._changed = trio.Event()

    async def wait(self, subjects: list[str]) -> None:
        """Wait until these are in trouble."""
        with trio.fail_after(600):
            while list(self.health.troubles) != subjects:
                await self._changed.wait()


class AwayLog:
    """A log of which one method is away for as long as one says, or does not tell what became of it."""

    def __init__(self, log: MemoryLog, method: str, error: Exception) -> None:
        self._log = log
        self._method = method
        self._error = error
        self.away = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method of the port
        real = getattr(self._log, name)

        async def call(*args: object) -> object:
            if self.away and name == self._method:
                await trio.sleep(0.01)
                raise self._error
            return await real(*args)

        return call


AWAY = LogUnavailableError("the server's memory is full")


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("read_inputs", AWAY),
        ("hold_lease", AWAY),
        ("commit", AWAY),
        ("commit", CommitUnknownError("the server's memory is full")),
    ],
)
async def test_a_log_that_is_away_is_told_as_long_as_it_is(
    autojump_clock: MockClock, method: str, error: Exception
) -> None:
    """Whatever else gets through meanwhile: others read while a commit waits."""
    clock, listener, stop = VirtualClock(), Listener(), trio.Event()
    memory = MemoryLog(clock)
    log = AwayLog(memory, method, error)
    run = partial(
        run_booking, owner="a", options=BookingOptions(), stop=stop, health=listener.health
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, cast("Log", log), clock)
        (mine,) = await memory.append(BOOK, [new(PRACTICE, "p")])
        await wait_decided(memory, BOOK, mine)
        assert listener.heard == []
        log.away = True
        (mine,) = await memory.append(BOOK, [new(m.RequestAuto("checkup", days=[1]), "r")])
        await listener.wait(["log"])
        await trio.sleep(60)
        assert listener.health.troubles == {"log": "the server's memory is full"}
        log.away = False
        await listener.wait([])
        await wait_decided(memory, BOOK, mine)
        stop.set()
    assert len(listener.heard) == 2


@pytest.mark.parametrize(("method", "last"), [("read_inputs", BOOK), ("wait_books", "other")])
async def test_that_a_log_is_back_is_told_though_nothing_arrives(
    autojump_clock: MockClock, method: str, last: str
) -> None:
    clock, listener, stop = VirtualClock(), Listener(), trio.Event()
    memory = MemoryLog(clock)
    log = AwayLog(memory, method, AWAY)
    options = BookingOptions(wait_s=3600)
    run = partial(run_booking, owner="a", options=options, stop=stop, health=listener.health)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, cast("Log", log), clock)
        (mine,) = await memory.append(BOOK, [new(PRACTICE, "p")])
        await wait_decided(memory, BOOK, mine)
        log.away = True
        await memory.append(last, [new(PRACTICE, "again")])
        await listener.wait(["log"])
        log.away = False
        with trio.fail_after(options.retry_s_max + 1):
            await listener.wait([])
        stop.set()


async def test_a_book_that_was_given_up_is_told_until_it_is_followed_again(
    autojump_clock: MockClock,
) -> None:
    clock, listener, stop = VirtualClock(), Listener(), trio.Event()
    log = MemoryLog(clock)
    run = partial(
        run_booking, owner="a", options=BookingOptions(), stop=stop, health=listener.health
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, log, clock)
        for book in (BOOK, "other"):
            (mine,) = await log.append(book, [new(PRACTICE, "p")])
            await wait_decided(log, book, mine)
        log.book(BOOK).inputs.foreign = True
        await log.append("other", [new(m.RequestAuto("checkup", days=[1]), "r")])
        await listener.wait([f"book {BOOK}"])
        log.book(BOOK).inputs.foreign = False
        await listener.wait([])
        stop.set()
