"""The log in memory is the real server's twin, as far as random calls can tell."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from holdfast.sim.differential import Pair, draw_steps, shrink
from holdfast.transport.connection import parse_url
from holdfast.transport.memory_log import MemoryLog
from holdfast.transport.pool import Server, ServerOptions
from holdfast.transport.server import EmbeddedServer, ServerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from holdfast.actors.ports import (
        ActionEntry,
        ActionStream,
        Commit,
        LogError,
        NewInput,
        StreamName,
    )
    from holdfast.transport.memory_log import MemoryBook

COMMANDS = 12_000
"""Calls compared here; ``bench/differential.py`` compares as many as one likes."""

SEQUENCES_MAX = 120
"""Within so many sequences a planted difference must be found."""


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A real server that nobody else uses: it is wiped before every sequence."""
    config = ServerConfig(tmp_path_factory.mktemp("differential"), durability="relaxed")
    server = EmbeddedServer(config)
    server.start()
    try:
        anyio.run(server.wait_ready, backend="trio")
        yield server
    finally:
        server.stop_now()


@pytest.fixture
async def server(own_server: EmbeddedServer) -> AsyncIterator[Server]:
    """Connections to it."""
    server = Server(parse_url(own_server.url), ServerOptions(), random.Random(1))
    yield server
    await server.aclose()


@pytest.mark.slow
async def test_random_calls_have_the_same_results_and_leave_the_same_content(
    server: Server,
) -> None:
    pair = Pair(server)
    seed = 0
    while pair.commands < COMMANDS:
        steps = draw_steps(seed)
        difference = await pair.run(steps)
        if difference is not None:
            fewer, difference = await shrink(steps, pair.run)
            pytest.fail(f"seed {seed}: {difference}\nafter\n" + "\n".join(map(str, fewer)))
        seed += 1
    assert COMMANDS * 0.02 < pair.errors < COMMANDS * 0.5


class ForgetsToRefuse(MemoryLog):
    """Takes commits of an owner that was superseded."""

    def _commit(self, commit: Commit) -> LogError | None:
        record = self.book(commit.book).record
        usurped = msgspec.structs.replace(commit, epoch=record.epoch, owner=record.owner)
        return super()._commit(usurped)


class LosesTraces(MemoryLog):
    """Forgets where an input came from."""

    def _add_input(self, name: str, book: MemoryBook, new: NewInput) -> str:
        return super()._add_input(name, book, msgspec.structs.replace(new, trace=""))


class TrimsTooMuch(MemoryLog):
    """Trims the actions that nobody has acknowledged."""

    async def trim(self, book: str) -> dict[StreamName, int]:
        for name in ("payments", "notifications"):
            for group in self.book(book).stream(name).groups.values():
                group.pending.clear()
        return await super().trim(book)


class SharesUnfairly(MemoryLog):
    """Gives the first book all that a read may bring."""

    async def read_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, wait_s: float
    ) -> list[tuple[str, ActionEntry]]:
        for book in books:
            found = await super().read_actions(stream, [book], consumer, count, 0)
            if found:
                return found
        return await super().read_actions(stream, books, consumer, count, wait_s)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [ForgetsToRefuse, LosesTraces, TrimsTooMuch, SharesUnfairly])
async def test_a_difference_is_found_and_shrunk(server: Server, wrong: type[MemoryLog]) -> None:
    """A comparison that never fails would prove nothing."""
    pair = Pair(server, wrong)
    for seed in range(SEQUENCES_MAX):
        steps = draw_steps(seed)
        if await pair.run(steps) is not None:
            fewer, difference = await shrink(steps, pair.run)
            assert difference is not None
            assert len(fewer) <= 12
            return
    pytest.fail(f"{SEQUENCES_MAX} sequences did not find what {wrong.__name__} does wrong")
