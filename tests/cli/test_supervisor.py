"""The supervisor: what dies comes back at once, and nothing is started in vain."""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING, Literal

import pytest
import trio
import trio.testing

from holdfast.cli import supervisor
from holdfast.cli.supervisor import BACKOFF_S, BACKOFF_S_MAX, FAILURES_MAX, Supervisor, backoff_s
from holdfast.config.settings import load
from holdfast.transport.server import EmbeddedServer, ServerConfig

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.cli.supervisor import Part

pytestmark = pytest.mark.slow

WAIT_S_MAX = 20.0


class Events:
    """What a supervisor tells, one thing after another."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self._send, self._receive = trio.open_memory_channel[tuple[str, str]](1_000)

    def __call__(self, part: str, what: str) -> None:
        self.told.append((part, what))
        self._send.send_nowait((part, what))

    async def wait(self, part: Part | Literal["service"], begins: str) -> None:
        """Wait until it tells of *part* something that *begins* so."""
        with trio.fail_after(WAIT_S_MAX):
            async for told, what in self._receive:
                if told == part and what.startswith(begins):
                    return

    def close(self) -> None:
        self._send.close()
        self._receive.close()


def test_pauses_between_starts_grow_up_to_a_limit_and_differ_from_service_to_service() -> None:
    pauses = [[backoff_s(n, random.Random(seed)) for n in range(1, 12)] for seed in (1, 2)]
    for number, pair in enumerate(zip(*pauses, strict=True)):
        longest = min(BACKOFF_S * 2**number, BACKOFF_S_MAX)
        assert all(longest / 2 <= pause <= longest for pause in pair)
        assert pair[0] != pair[1]


@pytest.mark.parametrize("part", ["server", "provider"])
async def test_a_part_that_is_killed_comes_back_at_once_however_often(
    tmp_path: Path, part: Part
) -> None:
    """A SIGKILL comes from outside: it does not tell that the part cannot live."""
    events = Events()
    service = Supervisor(
        load(None, {}, {"data": tmp_path}), parts=[part], to_files=True, on_event=events
    )
    async with service.running():
        for _ in range(FAILURES_MAX + 2):
            killed = service.pids[part]
            assert service.kill(part)
            await events.wait(part, "ended")
            await trio.testing.wait_all_tasks_blocked()
            assert service.pids[part] != killed  # there was no pause
            await events.wait(part, "started again")
        assert service.restarts == {part: FAILURES_MAX + 2}
    events.close()


async def test_an_actor_is_started_until_it_lives_where_the_server_is_somebody_else_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover a ``replicated`` service may have no replica for hours; it once gave up."""
    monkeypatch.setattr(supervisor, "FAILURES_MAX", 2)
    server = EmbeddedServer(ServerConfig(tmp_path / "server"))
    server.start()
    try:
        await server.wait_ready()
        settings = load(None, {}, {"data": tmp_path / "service", "redis_url": server.url})
        events = Events()
        service = Supervisor(settings, parts=["booking"], to_files=True, on_event=events)
        async with service.running():
            server.stop_now()
            assert service.kill("booking")
            for _ in range(3):
                await events.wait("booking", "could not be started, trying again")
            server.start()
            await server.wait_ready()
            await events.wait("booking", "started again")
        events.close()
    finally:
        server.stop_now()


async def test_a_start_that_failed_is_forgotten_once_the_part_was_ready(tmp_path: Path) -> None:
    """Or kills that fall now into a start, now into a life, would end the service in time."""
    events = Events()
    service = Supervisor(
        load(None, {}, {"data": tmp_path}), parts=["provider"], to_files=True, on_event=events
    )
    async with service.running():
        assert service.kill("provider")
        await events.wait("provider", "ended")
        await trio.testing.wait_all_tasks_blocked()
        assert service.kill("provider")  # while it starts
        await events.wait("provider", "could not be started")
        await events.wait("provider", "started again")
        killed = service.pids["provider"]
        assert service.kill("provider")
        await events.wait("provider", "ended")
        await trio.testing.wait_all_tasks_blocked()
        assert service.pids["provider"] != killed  # there was no pause
    events.close()


async def test_a_status_file_that_cannot_be_written_does_not_end_the_service(
    tmp_path: Path,
) -> None:
    """As on a full disk, which the service could outlive."""
    events = Events()
    service = Supervisor(
        load(None, {}, {"data": tmp_path}), parts=["provider"], to_files=True, on_event=events
    )
    async with service.running():
        (tmp_path / "status.new").mkdir()
        assert service.kill("provider")
        await events.wait("service", "cannot write status.json")
        await events.wait("provider", "started again")
    events.close()


async def test_an_actor_is_not_started_while_our_server_is_away(tmp_path: Path) -> None:
    """It could only fail, and a server that loads for long would have it given up."""
    events = Events()
    service = Supervisor(
        load(None, {}, {"data": tmp_path}),
        parts=["server", "notification"],
        to_files=True,
        on_event=events,
    )
    async with service.running():
        before = service.pids
        assert service.kill("server")
        await events.wait("server", "ended")
        await trio.testing.wait_all_tasks_blocked()
        os.kill(service.pids["server"], signal.SIGSTOP)  # so it does not get ready
        assert service.kill("notification")
        await events.wait("notification", "ended")
        await trio.testing.wait_all_tasks_blocked()
        assert service.pids["notification"] == before["notification"]
        os.kill(service.pids["server"], signal.SIGCONT)
        await events.wait("server", "started again")
        await events.wait("notification", "started again")
        assert not any("could not" in what for _, what in events.told)
    events.close()
