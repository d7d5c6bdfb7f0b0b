"""One contract for every log: in memory, on the simulated server, and on a real one."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import redis
import trio

from holdfast.sim.draws import Draws
from holdfast.sim.faults import ServerFaults
from holdfast.sim.server import SimServer
from holdfast.transport.memory_log import MemoryLog
from holdfast.transport.redis_log import open_redis_log

from .vandals import MemoryVandal, RedisVandal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from holdfast.actors.ports import Log
    from holdfast.transport.server import EmbeddedServer

    from .vandals import Vandal


class TrioClock:
    """The loop's time as milliseconds since the epoch."""

    def now_ms(self) -> int:
        return 1_780_000_000_000 + int(trio.current_time() * 1000)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


@pytest.fixture(params=["memory", "simulated", "redis"])
async def world(
    request: pytest.FixtureRequest, real_server: EmbeddedServer
) -> AsyncIterator[tuple[Log, Vandal]]:
    """A log and its vandal."""
    if request.param == "memory":
        memory = MemoryLog(TrioClock())
        yield memory, MemoryVandal(memory)
        return
    if request.param == "simulated":  # without faults, a process's connection is a log like others
        async with trio.open_nursery() as nursery:
            server = SimServer(TrioClock(), Draws(1), ServerFaults(), nursery)
            yield server.connect("test"), MemoryVandal(server.log)
        return
    with redis.Redis(unix_socket_path=str(real_server.socket)) as client:
        async with open_redis_log(real_server.url, rng=random.Random(1)) as log:
            yield log, RedisVandal(client)


@pytest.fixture
def log(world: tuple[Log, Vandal]) -> Log:
    return world[0]


@pytest.fixture
def vandal(world: tuple[Log, Vandal]) -> Vandal:
    return world[1]
