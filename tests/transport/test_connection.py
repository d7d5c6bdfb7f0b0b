"""The connection: what it says when things go wrong, and that it never gives a wrong answer."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import anyio
import hiredis
import pytest
import trio
import trio.testing

from holdfast.actors.ports import ForeignDataError, LogError, LogUnavailableError, NewInput
from holdfast.transport.connection import (
    Address,
    ConnectionLostError,
    connect,
    error_of,
    parse_url,
)
from holdfast.transport.redis_log import open_redis_log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from holdfast.transport.server import EmbeddedServer

SECRET = "open-sesame"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://example.org", Address("example.org", 6379)),
        ("redis://127.0.0.1:7000/3", Address("127.0.0.1", 7000, database=3)),
        ("redis://[::1]:7000", Address("::1", 7000)),
        ("redis://:p%40ss@h", Address("h", password="p@ss")),
        ("redis://u:p@h:1/0", Address("h", 1, user="u", password="p")),
        ("unix:///run/a%20b.sock", Address(path="/run/a b.sock")),
        ("unix:///run/r.sock?db=2", Address(path="/run/r.sock", database=2)),
        ("unix://u:p@/r.sock", Address(path="/r.sock", user="u", password="p")),
    ],
)
def test_urls(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        f"http://u:{SECRET}@h",
        f"redis://u:{SECRET}@h:port",
        f"redis://u:{SECRET}@h/zero",
        f"redis://u:{SECRET}@",
        "unix://",
        "unix:///a?db=x",
    ],
)
def test_what_is_no_url_is_refused_without_telling_it(url: str) -> None:
    with pytest.raises(ValueError, match="write redis://") as caught:
        parse_url(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_address_does_not_show_its_secrets() -> None:
    address = parse_url(f"redis://alice:{SECRET}@h:1/2")
    assert (str(address), repr(address)) == ("h:1", "Address('h:1', database=2)")


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("LOADING Redis is loading the dataset in memory", LogUnavailableError),
        ("OOM command not allowed when used memory > 'maxmemory'.", LogUnavailableError),
        ("READONLY You can't write against a read only replica.", LogUnavailableError),
        ("MISCONF Redis is configured to save RDB snapshots", LogUnavailableError),
        ("BUSY Redis is busy running a script.", LogUnavailableError),
        ("CLUSTERDOWN The cluster is down", LogUnavailableError),
        ("MASTERDOWN Link with MASTER is down", LogUnavailableError),
        ("ERR max number of clients reached", LogUnavailableError),
        ("WRONGTYPE Operation against a key", ForeignDataError),
        ("NOAUTH Authentication required.", LogUnavailableError),
        ("WRONGPASS invalid username-password pair", LogUnavailableError),
        ("ERR Protocol error: unauthenticated multibulk length", LogUnavailableError),
        ("NOPERM this user has no permissions", LogUnavailableError),
        ("MOVED 1 127.0.0.1:7001", LogError),
        ("ERR something", LogError),
    ],
)
def test_error_replies_say_what_to_do(reply: str, kind: type[LogError]) -> None:
    error = error_of(hiredis.ReplyError(reply), "reading inputs")
    assert type(error) is kind
    assert str(error).startswith("reading inputs: ")
    assert str(error).count(":") >= 2


async def test_nobody_listens(tmp_path: Path) -> None:
    for url in (f"unix://{tmp_path}/none.sock", "redis://127.0.0.1:1"):
        with pytest.raises(ConnectionLostError, match="start the server or check") as caught:
            await connect(parse_url(url), timeout_s=5)
        assert not caught.value.sent


async def test_a_wrong_password_is_told_without_telling_it(real_server: EmbeddedServer) -> None:
    address = parse_url(f"unix://alice:{SECRET}@{real_server.socket}")
    with pytest.raises(LogError, match="check its URL") as caught:
        await connect(address, timeout_s=5)
    assert SECRET not in str(caught.value)
    assert not isinstance(caught.value, ConnectionLostError)


async def test_it_enters_as_the_url_says(real_server: EmbeddedServer) -> None:
    admin = await connect(parse_url(real_server.url), timeout_s=5)
    rules = ("reset", "on", f">{SECRET}", "+acl|whoami")
    assert await admin.call("ACL", "SETUSER", "alice", *rules, timeout_s=5) == b"OK"
    try:
        address = parse_url(f"unix://alice:{SECRET}@{real_server.socket}")
        connection = await connect(address, timeout_s=5)
        assert await connection.call("ACL", "WHOAMI", timeout_s=5) == b"alice"
        reply = await connection.call("GET", "x", timeout_s=5)
        assert isinstance(reply, hiredis.ReplyError)
        assert "its role" in str(error_of(reply, "reading"))
        await connection.aclose()
    finally:
        await admin.call("ACL", "DELUSER", "alice", timeout_s=5)
        await admin.aclose()


async def test_a_pipeline_answers_in_order(real_server: EmbeddedServer) -> None:
    connection = await connect(parse_url(real_server.url), timeout_s=5)
    big = b"x" * 1_000_000
    commands = [("ECHO", str(number)) for number in range(5000)]
    replies = await connection.pipeline([*commands, ("ECHO", big), ("NONSENSE",)], timeout_s=30)
    assert replies[:5000] == [str(number).encode() for number in range(5000)]
    assert replies[5000] == big
    assert isinstance(replies[5001], hiredis.ReplyError)
    assert not connection.stale
    await connection.aclose()


async def test_a_cancelled_read_closes_the_connection(real_server: EmbeddedServer) -> None:
    """Its reply is still on the way: the next command would be given it."""
    connection = await connect(parse_url(real_server.url), timeout_s=5)
    read = partial(connection.call, "BLPOP", "nothing-here", "0", timeout_s=60)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert connection.closed
    with pytest.raises(ConnectionLostError, match="is closed") as caught:
        await connection.call("PING", timeout_s=5)
    assert not caught.value.sent


async def test_a_late_answer_closes_the_connection(real_server: EmbeddedServer) -> None:
    connection = await connect(parse_url(real_server.url), timeout_s=5)
    with pytest.raises(ConnectionLostError, match=r"did not answer within 0\.02 s") as caught:
        await connection.call("BLPOP", "nothing-here", "0", timeout_s=0.02)
    assert caught.value.sent
    assert connection.closed


async def test_a_connection_that_the_server_ended_is_stale(real_server: EmbeddedServer) -> None:
    connection = await connect(parse_url(real_server.url), timeout_s=5)
    other = await connect(parse_url(real_server.url), timeout_s=5)
    assert not connection.stale
    client = await connection.call("CLIENT", "ID", timeout_s=5)
    await other.call("CLIENT", "KILL", "ID", client, timeout_s=5)
    with trio.fail_after(10):
        while not connection.stale:  # noqa: ASYNC110 - the kernel tells in its own time
            await trio.sleep(0.001)
    with pytest.raises(ConnectionLostError, match="was lost"):
        await connection.call("PING", timeout_s=5)
    await other.aclose()


async def serve_and_connect(answer: bytes, use: Callable[[Address], Awaitable[None]]) -> None:
    """Run *use* against a TCP server that answers everything with *answer* and hangs up."""

    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, handle, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        port: int = listener.socket.getsockname()[1]
        await use(Address("127.0.0.1", port))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak the Redis protocol"),
        (b"", "was lost"),
        (b"$100\r\nhalf of it", "was lost"),
    ],
)
async def test_a_strange_server_is_told(answer: bytes, message: str) -> None:
    async def use(address: Address) -> None:
        connection = await connect(address, timeout_s=5)
        with pytest.raises(ConnectionLostError, match=message):
            await connection.call("PING", timeout_s=5)
        assert connection.closed

    await serve_and_connect(answer, use)


@pytest.mark.parametrize("commands", [1, 3])
async def test_what_a_server_said_as_it_hung_up_is_told_even_if_nothing_could_be_sent(
    tmp_path: Path, commands: int
) -> None:
    """It says why and closes before we write, so that our write is what fails first."""
    path = tmp_path / "server.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        connection = await connect(Address(path=str(path)), timeout_s=5)
        with listener.accept()[0] as server:
            server.sendall(b"-ERR max number of clients reached\r\n")
    assert connection.stale
    try:
        (reply,) = await connection.pipeline([("PING",)] * commands, timeout_s=5)
        said: LogError = error_of(reply, "asking")
    except ConnectionLostError as error:
        said = error
    assert str(said).endswith(": the server has too many clients: raise maxclients")
    await connection.aclose()


async def test_a_server_that_is_too_old_is_refused() -> None:
    info = b"# Server\r\nredis_version:6.2.14\r\n"

    async def use(address: Address) -> None:
        said = "the server is redis 6.2.14: use Valkey 7.2 or newer, or Redis 7.0 or newer"
        with pytest.raises(LogError, match=f"^{said}$"):
            async with open_redis_log(f"redis://{address}"):
                raise AssertionError("not reached")

    await serve_and_connect(b"$%d\r\n%s\r\n" % (len(info), info), use)


def test_it_works_under_asyncio(real_server: EmbeddedServer, book: str) -> None:
    """The HTTP door runs there; the same log must serve it, cancelled reads included."""

    async def main() -> None:
        async with open_redis_log(real_server.url) as log:
            ids = await log.append(book, [NewInput("tick", b"{}")])
            await log.take_over(book, "me")
            with anyio.move_on_after(0.02) as scope:
                await log.read_outcomes({book: "0-0"}, 10, 60)
            assert scope.cancelled_caught
            found = await log.read_inputs({book: ids[0]}, 10, 0)
            end = found[book][-1].id
            assert [entry.type for entry in found[book]] == ["taken_over"]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(log.append, book, [NewInput("tick", b"{}")])
                assert book in await log.read_inputs({book: end}, 10, 60)
            assert log.statistics().connections_lost == 0
            await log.read_snapshot(book)

    anyio.run(main, backend="asyncio")
