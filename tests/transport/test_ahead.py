"""Ids that somebody set by hand: an entry far ahead of the server's clock is not decided."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis

from holdfast.actors.ports import ForeignDataError, NewInput
from holdfast.transport.keys import BookKeys
from holdfast.transport.pool import ServerOptions
from holdfast.transport.redis_log import RedisLog, open_redis_log

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from holdfast.transport.server import EmbeddedServer

TICK = NewInput("tick", b"{}")
DAY_MS = 86_400_000
GUARDED = ServerOptions(ahead_max_s=60.0)


@asynccontextmanager
async def guarded(server: EmbeddedServer) -> AsyncGenerator[tuple[RedisLog, Any]]:
    client = cast("Any", redis.Redis(unix_socket_path=str(server.socket), decode_responses=True))
    with client:
        async with open_redis_log(server.url, rng=random.Random(1), options=GUARDED) as log:
            yield log, client


def by_hand(client: Any, book: str, ahead_ms: int) -> str:  # noqa: ANN401
    seconds, _ = client.time()
    id_ = f"{seconds * 1000 + ahead_ms}-0"
    client.xadd(BookKeys(book).inputs, {"type": "tick", "body": "{}"}, id=id_)
    return id_


async def test_an_entry_of_tomorrow_stops_the_reading_after_those_before_it(
    real_server: EmbeddedServer, book: str
) -> None:
    async with guarded(real_server) as (log, client):
        good = await log.append(book, [TICK, TICK])
        bad = by_hand(client, book, 3 * DAY_MS)
        await log.append(book, [TICK])
        found = await log.read_inputs({book: "0-0"}, 10, 0)
        assert [entry.id for entry in found[book]] == good
        with pytest.raises(ForeignDataError, match=f"{bad} of {book} is 3 days ahead|2 days"):
            await log.read_inputs({book: good[-1]}, 10, 0)


async def test_a_clock_that_was_set_back_stops_nothing(
    real_server: EmbeddedServer, book: str
) -> None:
    """The server's ids go on close to each other, though all of them are ahead of its clock."""
    async with guarded(real_server) as (log, client):
        ahead = by_hand(client, book, 3 * DAY_MS)
        ids = await log.append(book, [TICK])
        found = await log.read_inputs({book: ahead}, 10, 0)
        assert [entry.id for entry in found[book]] == ids


async def test_who_only_looks_sees_every_entry(
    real_server: EmbeddedServer, redis_log: RedisLog, book: str
) -> None:
    async with guarded(real_server) as (_, client):
        bad = by_hand(client, book, 3 * DAY_MS)
    assert [e.id for e in (await redis_log.read_inputs({book: "0-0"}, 10, 0))[book]] == [bad]


async def test_another_book_is_read_on(real_server: EmbeddedServer, book: str) -> None:
    async with guarded(real_server) as (log, client):
        other = f"{book}-other"
        good = await log.append(other, [TICK])
        by_hand(client, book, 3 * DAY_MS)
        with pytest.raises(ForeignDataError, match=book):
            await log.read_inputs({book: "0-0", other: "0-0"}, 10, 0)
        found = await log.read_inputs({other: "0-0"}, 10, 0)
        assert [entry.id for entry in found[other]] == good
