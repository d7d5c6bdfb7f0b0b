"""What a server says of itself, as far as its rules let our user ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.transport.connection import connect, parse_url
from holdfast.transport.operator import open_operator
from holdfast.transport.server import EmbeddedServer, ServerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server that this test alone uses."""
    server = EmbeddedServer(ServerConfig(tmp_path / "d", durability="relaxed"))
    server.start()
    await server.wait_ready()
    yield server
    server.stop_now()


async def admin(server: EmbeddedServer, *command: str) -> None:
    connection = await connect(parse_url(server.url), timeout_s=5)
    assert await connection.call(*command, timeout_s=5) == b"OK"
    await connection.aclose()


async def test_it_says_what_it_is(server: EmbeddedServer) -> None:
    async with open_operator(server.url) as operator:
        facts = await operator.about("relaxed")
    assert facts.name in ("valkey", "redis")
    assert facts.version
    assert (facts.role, facts.replicas) == ("primary", 0)
    assert (facts.appendonly, facts.appendfsync) == (True, "everysec")
    assert facts.memory_bytes
    assert (facts.memory_max_bytes, facts.problems) == (0, [])


async def test_what_was_promised_and_is_not_kept_is_a_problem(server: EmbeddedServer) -> None:
    async with open_operator(server.url) as operator:
        assert (await operator.about()).problems == []
        disk, replicas = (await operator.about("durable")), (await operator.about("relaxed", 2))
    assert "needs 'appendfsync always' and the server has 'everysec'" in disk.problems[0]
    assert "needs 2 replicas and the server has 0 connected" in replicas.problems[0]


async def test_a_server_that_refuses_writes_has_a_problem(server: EmbeddedServer) -> None:
    async with open_operator(server.url) as operator:
        await admin(server, "CONFIG", "SET", "maxmemory", "1mb")
        full = await operator.about()
        assert full.memory_max_bytes == 1 << 20
        assert ["memory is full" in problem for problem in full.problems] == [True]
        await admin(server, "CONFIG", "SET", "maxmemory", "0")
        await admin(server, "REPLICAOF", "127.0.0.1", "1")
        replica = await operator.about()
        assert replica.role == "replica"
        assert ["read-only replica" in problem for problem in replica.problems] == [True]


@pytest.mark.parametrize("rights", [("+info",), ("+config|get",), ()])
async def test_what_our_user_may_not_ask_is_not_known_and_no_problem(
    server: EmbeddedServer, rights: tuple[str, ...]
) -> None:
    await admin(server, "ACL", "SETUSER", "poor", "reset", "on", ">secret", *rights)
    async with open_operator(f"unix://poor:secret@{server.socket}") as operator:
        facts = await operator.about("durable", 0)
    assert facts.role == ("primary" if "+info" in rights else None)
    assert facts.appendfsync == ("everysec" if "+config|get" in rights else None)
    assert facts.problems == []
