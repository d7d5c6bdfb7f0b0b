"""What tests of several parts share: one real server for the whole run, and logs on it."""

from __future__ import annotations

import itertools
import os
import random
from typing import TYPE_CHECKING

import anyio
import pytest

from holdfast.transport.redis_log import open_redis_log
from holdfast.transport.server import EmbeddedServer, ServerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from holdfast.transport.redis_log import RedisLog


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what drives a whole service for long, and so stands at the top of this folder.

    Else one process would still be busy with it when the others have nothing left to do.
    """
    items.sort(key=lambda item: len(item.path.parts))


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A real server, started for this test process. Do not stop it: others use it too."""
    config = ServerConfig(tmp_path_factory.mktemp("server"), durability="relaxed")
    server = EmbeddedServer(config)
    server.start()
    try:
        anyio.run(server.wait_ready, backend="trio")
        yield server
    finally:
        server.stop_now()


@pytest.fixture(scope="session")
def server_url(real_server: EmbeddedServer) -> str:
    """Where the real server listens."""
    return real_server.url


@pytest.fixture
async def redis_log(server_url: str) -> AsyncIterator[RedisLog]:
    """The log on the real server."""
    async with open_redis_log(server_url, rng=random.Random(1)) as log:
        yield log


_numbers = itertools.count(1)


@pytest.fixture
def new_book() -> Callable[[], str]:
    """Gives names of books that no other test has."""
    return lambda: f"book-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def book(new_book: Callable[[], str]) -> str:
    """The name of a book that no other test has."""
    return new_book()
