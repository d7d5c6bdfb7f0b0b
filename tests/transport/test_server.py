"""The embedded server: starting, stopping, and what kill -9 of either side leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from holdfast.actors.ports import LogUnavailableError, NewInput
from holdfast.transport import server as server_module
from holdfast.transport.connection import connect, parse_url
from holdfast.transport.redis_log import open_redis_log
from holdfast.transport.server import (
    EmbeddedServer,
    ServerBinary,
    ServerConfig,
    ServerError,
    embedded_server,
    find_server,
    free_port,
    parse_info,
    running_url,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PARENT = """
import sys, time
from pathlib import Path
import anyio
from holdfast.transport.server import EmbeddedServer, ServerConfig

server = EmbeddedServer(ServerConfig(Path(sys.argv[1])))
server.start()
anyio.run(server.wait_ready)
print(server.pid, flush=True)
time.sleep(600)
"""


def lives(pid: int) -> bool:
    """Whether *pid* runs; a zombie that nobody has waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server that this test alone uses; not started yet."""
    server = EmbeddedServer(ServerConfig(tmp_path / "data"))
    yield server
    server.stop_now()


def keys_input(number: int) -> NewInput:
    return NewInput("cancel", b"{}", f"k-{number}")


@pytest.mark.slow
async def test_it_starts_is_found_and_stops(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with embedded_server(ServerConfig(folder)) as server:
        pid = server.pid
        assert pid is not None
        assert lives(pid)
        assert running_url(folder) == server.url
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
        connection = await connect(parse_url(server.url), timeout_s=5)
        reply = await connection.call("CONFIG", "GET", "append*", timeout_s=5)
        settings = dict(zip(reply[::2], reply[1::2], strict=True))
        assert (settings[b"appendonly"], settings[b"appendfsync"]) == (b"yes", b"always")
        reply = await connection.call("CONFIG", "GET", "save", timeout_s=5)
        assert reply == [b"save", b""]
        await connection.aclose()
    assert not lives(pid)
    assert not server.running
    assert running_url(folder) is None
    assert sorted(path.name for path in folder.iterdir()) == [
        "appendonlydir",
        "lock",
        "server.log",
    ]


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    own_server: EmbeddedServer,
) -> None:
    """Appends until the kill strikes; whatever was acknowledged is there after the restart."""
    own_server.start()
    await own_server.wait_ready()
    pid = own_server.pid
    assert pid is not None
    acknowledged: list[str] = []
    async with open_redis_log(own_server.url) as log:

        async def produce() -> None:
            try:
                while True:
                    new = [keys_input(number) for number in range(10)]
                    acknowledged.extend(await log.append("demo", new))
            except LogUnavailableError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            with trio.fail_after(10):
                while len(acknowledged) < 500:  # noqa: ASYNC110 - let it run for a while
                    await trio.sleep(0.001)
            os.kill(pid, signal.SIGKILL)
        with trio.fail_after(10):
            while own_server.running:  # noqa: ASYNC110 - a process sets no event
                await trio.sleep(0.001)
        own_server.start()
        await own_server.wait_ready()
        found = await log.read_inputs({"demo": "0-0"}, 100_000, 0)
        ids = [entry.id for entry in found["demo"]]
        assert ids[: len(acknowledged)] == acknowledged
        assert len(ids) - len(acknowledged) <= 10
        assert await log.wait_books(0, 0) == ["demo"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
async def test_nothing_is_left_running_when_we_are_killed(own_server: EmbeddedServer) -> None:
    """A real parent, a real SIGKILL: its server dies, and the folder can be used again at once."""
    folder = own_server.socket.parent
    command = [sys.executable, "-c", PARENT, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:  # noqa: ASYNC220
        assert parent.stdout is not None
        try:
            pid = int(parent.stdout.readline())
            assert lives(pid)
            url = running_url(folder)
            assert url is not None
            assert url == own_server.url
            async with open_redis_log(url) as log:
                ids = await log.append("demo", [keys_input(1)])
        finally:
            parent.kill()
    assert own_server.socket.exists(), "the socket that was left behind is part of this test"
    own_server.start()
    assert not lives(pid), "the lock is free only when the server is gone"
    await own_server.wait_ready()
    async with open_redis_log(own_server.url) as log:
        found = await log.read_inputs({"demo": "0-0"}, 10, 0)
        assert [entry.id for entry in found["demo"]] == ids


@pytest.mark.slow
async def test_a_folder_belongs_to_one_service(
    own_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "LOCK_WAIT_S", 0.05)
    own_server.start()
    await own_server.wait_ready()
    second = EmbeddedServer(ServerConfig(own_server.socket.parent))
    with pytest.raises(ServerError, match="choose another folder"):
        second.start()
    assert own_server.running
    second.stop_now()
    assert own_server.running
    assert running_url(own_server.socket.parent) == own_server.url


@pytest.mark.slow
async def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("ü" * 60) / "data"
    async with embedded_server(ServerConfig(folder)) as server:
        assert len(os.fsencode(server.socket)) <= server_module.SOCKET_PATH_MAX
        url = running_url(folder)
        assert url is not None
        assert url == server.url
        async with open_redis_log(url) as log:
            await log.append("demo", [keys_input(1)])
    assert not server.socket.parent.exists()


@pytest.mark.slow
async def test_a_path_with_odd_characters(tmp_path: Path) -> None:
    async with (
        embedded_server(ServerConfig(tmp_path / "my data%20?#")) as server,
        open_redis_log(server.url) as log,
    ):
        assert await log.wait_books(0, 0) == []


@pytest.mark.slow
async def test_its_allocator_gives_large_blocks_back(tmp_path: Path) -> None:
    """Else it has three times the memory that it uses, in waves of some minutes."""
    path = tmp_path / "valkey-server"
    path.write_text("#!/bin/sh\nenv | grep ^MALLOC_ | sort | tr '\\n' ' ' >&2\nexit 1\n")
    path.chmod(0o755)
    server = EmbeddedServer(ServerConfig(tmp_path / "data"), ServerBinary(path, "valkey", (9, 0)))
    server.start()
    set_ = "MALLOC_MMAP_THRESHOLD_=131072 MALLOC_TRIM_THRESHOLD_=131072"
    with pytest.raises(ServerError, match=set_):
        await server.wait_ready()
    server.stop_now()


async def test_it_can_listen_on_a_port_too(tmp_path: Path) -> None:
    port = free_port()
    async with (
        embedded_server(ServerConfig(tmp_path / "data", port=port)),
        open_redis_log(f"redis://127.0.0.1:{port}/0") as log,
    ):
        assert len(await log.append("demo", [keys_input(1)])) == 1


async def test_it_is_started_from_the_main_thread_only(own_server: EmbeddedServer) -> None:
    """The parent-death signal would strike when the worker thread ends."""
    with pytest.raises(RuntimeError, match="main thread"):
        await trio.to_thread.run_sync(own_server.start)


@pytest.mark.slow
async def test_damaged_data_is_reported(own_server: EmbeddedServer) -> None:
    folder = own_server.socket.parent
    (folder / "appendonlydir").mkdir(parents=True)
    manifest = folder / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("not a manifest\n")
    own_server.start()
    with pytest.raises(ServerError, match=r"the server ended at once: .*server\.log"):
        await own_server.wait_ready()


@pytest.mark.slow
async def test_a_server_that_is_killed_as_it_answers_is_not_taken_for_another_one(
    own_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_and_parse(reply: object) -> dict[str, str]:
        if own_server.pid is not None:
            os.kill(own_server.pid, signal.SIGKILL)
            while own_server.running:
                pass
        return parse_info(reply)

    monkeypatch.setattr(server_module, "parse_info", kill_and_parse)
    own_server.start()
    with trio.fail_after(20):
        await own_server.wait_ready()  # it was, a moment ago
    assert own_server.code == -signal.SIGKILL


@pytest.mark.slow
async def test_a_program_that_will_not_run_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "valkey-server"
    path.write_text("#!/bin/sh\necho 'this machine is too small' >&2\nexit 1\n")
    path.chmod(0o755)
    folder = tmp_path / "data"
    server = EmbeddedServer(ServerConfig(folder), ServerBinary(path, "valkey", (9, 0)))
    server.start()
    with pytest.raises(ServerError, match="this machine is too small; see"):
        await server.wait_ready()
    server.stop_now()
    assert running_url(folder) is None


@pytest.mark.slow
async def test_a_port_that_is_taken_is_reported(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedServer(ServerConfig(tmp_path / "data", port=taken.getsockname()[1]))
        server.start()
        with pytest.raises(ServerError, match="in use"):
            await server.wait_ready()
        server.stop_now()


def fake_server(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("name", "says", "found"),
    [
        ("valkey-server", "Valkey server v=8.0.1 sha=0:0 malloc=libc bits=64", (8, 0, 1)),
        ("valkey-server", "Server v=9.1.2 sha=0:0 malloc=libc bits=64", (9, 1, 2)),
        ("redis-server", "Redis server v=7.0.15 sha=0:0 malloc=libc", (7, 0, 15)),
        ("redis-server", "Redis server v=6.2.7 sha=0:0 malloc=libc", None),
        ("valkey-server", "hello", None),
    ],
)
def test_a_program_on_the_path_comes_first_if_it_is_new_enough(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    says: str,
    found: tuple[int, ...] | None,
) -> None:
    path = fake_server(tmp_path / "bin", name, says)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    binary = find_server()
    if found is None:
        assert binary.path != path
    else:
        assert (binary.path, binary.version) == (path, found)


def test_what_is_no_running_server_is_not_found(tmp_path: Path) -> None:
    assert running_url(tmp_path / "nowhere") is None
    (tmp_path / "lock").touch()
    (tmp_path / "server.json").write_text('{"pid":1,"url":"unix:///nowhere"}')
    assert running_url(tmp_path) is None
