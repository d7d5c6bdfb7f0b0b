"""What a service says of its parts while its server is in trouble, and that it needs no restart."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import redis
import trio
import trio.testing

from holdfast.actors.ports import GENESIS, NewInput
from holdfast.bootstrap import open_log
from holdfast.cli.common import EXIT_FAILED, EXIT_GOOD
from holdfast.cli.status_file import PartStatus, read_status
from holdfast.cli.supervisor import Supervisor
from holdfast.config.settings import load
from holdfast.transport.keys import BookKeys

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from holdfast.cli.supervisor import Part

pytestmark = pytest.mark.slow

WAIT_S_MAX = 30.0


class Service:
    """A service that runs, as those see it who have its folder and its server."""

    def __init__(self, supervisor: Supervisor, server_ended: trio.Event) -> None:
        self.supervisor = supervisor
        self.server_ended = server_ended
        assert supervisor.settings.redis_url is not None
        self._client = cast("Any", redis.Redis).from_url(supervisor.settings.redis_url)

    async def admin(self, *command: str | int) -> None:
        """A command of an operator."""
        await trio.to_thread.run_sync(partial(self._client.execute_command, *command))

    def parts(self) -> dict[str, PartStatus]:
        """What stands in the status file."""
        status = read_status(self.supervisor.data)
        assert status is not None
        return status.parts

    async def wait(self, part: Part, holds: Callable[[PartStatus], bool]) -> PartStatus:
        """Wait until it *holds* of *part*."""
        with trio.fail_after(WAIT_S_MAX):
            while not holds(found := self.parts()[part]):  # noqa: ASYNC110 - a file tells nobody
                await trio.sleep(0.02)
        return found

    async def wait_trouble(self, part: Part, words: str) -> PartStatus:
        """Wait until *part* waits, and says so with these *words*."""
        return await self.wait(
            part,
            lambda found: (
                found.health == "waiting" and any(words in one.why for one in found.troubles)
            ),
        )

    async def wait_well(self, *parts: Part) -> None:
        """Wait until all of *parts* are, and see that none of them is another process."""
        for part in parts:
            found = await self.wait(part, lambda found: found.health == "ok")
            assert (found.troubles, found.restarts) == ([], 0)

    async def status(self) -> tuple[int, dict[str, Any]]:
        """The exit code of ``holdfast status``, and what it tells."""
        command = (sys.executable, "-m", "holdfast", "status", "--json", "--data")
        done = await trio.run_process(
            [*command, str(self.supervisor.data)], capture_stdout=True, check=False
        )
        told: dict[str, Any] = msgspec.json.decode(done.stdout)
        assert told["healthy"] == (done.returncode == EXIT_GOOD)
        return done.returncode, told

    def close(self) -> None:
        self._client.close()


@asynccontextmanager
async def service(folder: Path, *parts: Part) -> AsyncGenerator[Service]:
    """*parts* with a server and a book."""
    server_ended = trio.Event()

    def note(part: str, what: str) -> None:
        if (part, what) == ("server", "ended"):
            server_ended.set()

    supervisor = Supervisor(
        load(None, {}, {"data": folder}), parts=["server", *parts], to_files=True, on_event=note
    )
    async with supervisor.running() as running:
        async with open_log(running.settings) as log:
            await log.append("demo", [NewInput("tick", b"{}", by="service:test")])
        found = Service(running, server_ended)
        yield found
        found.close()


async def test_a_server_that_became_a_replica_is_waited_for(tmp_path: Path) -> None:
    async with service(tmp_path, "notification") as found:
        await found.wait_well("server", "notification")
        await found.admin("REPLICAOF", "127.0.0.1", 1)
        told = await found.wait_trouble(
            "notification", "a read-only replica: connect to the primary"
        )
        (trouble,) = told.troubles
        assert trouble.subject == "log"
        assert trouble.since_ms > 0
        code, told_too = await found.status()
        assert code == EXIT_FAILED
        assert told_too["service"]["parts"]["notification"]["health"] == "waiting"
        assert told_too["server"]["role"] == "replica"
        assert len(told_too["books"]) == 1  # it can be read
        await found.admin("REPLICAOF", "NO", "ONE")
        await found.wait_well("server", "notification")
        assert (await found.status())[0] == EXIT_GOOD


async def test_a_server_whose_memory_is_full_is_waited_for(tmp_path: Path) -> None:
    async with service(tmp_path, "booking") as found:
        await found.wait_well("booking")
        await found.admin("CONFIG", "SET", "maxmemory", 1)
        told = await found.wait_trouble("booking", "the server's memory is full")
        assert [trouble.subject for trouble in told.troubles] == ["log"]
        code, status = await found.status()
        assert code == EXIT_FAILED
        assert "the server's memory is full" in status["server"]["problems"][0]
        await found.admin("CONFIG", "SET", "maxmemory", 0)
        await found.wait_well("booking")
        assert (await found.status())[0] == EXIT_GOOD


async def test_a_server_that_runs_and_does_not_answer_is_told(tmp_path: Path) -> None:
    async with service(tmp_path) as found:
        pid = found.supervisor.pids["server"]
        os.kill(pid, signal.SIGSTOP)
        try:
            await found.wait_trouble("server", "did not answer within 2 s: see whether it is well")
            code, told = await found.status()
            assert code == EXIT_FAILED
            assert told["service"]["parts"]["server"]["health"] == "waiting"
            (problem,) = told["server"]["problems"]
            assert "did not answer within 2 s" in problem
        finally:
            os.kill(pid, signal.SIGCONT)
        await found.wait_well("server")
        assert (await found.status())[0] == EXIT_GOOD


async def test_a_server_that_died_is_told_by_itself_and_by_who_waits_for_it(tmp_path: Path) -> None:
    async with service(tmp_path, "notification") as found:
        assert found.supervisor.kill("server")
        with trio.fail_after(WAIT_S_MAX):
            await found.server_ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        os.kill(found.supervisor.pids["server"], signal.SIGSTOP)  # so it does not get ready
        await found.wait_trouble("notification", "no connection to")
        restarting = found.parts()["server"]
        assert restarting.health == "restarting"
        assert [(one.subject, one.why) for one in restarting.troubles] == [("process", "it ended")]
        os.kill(found.supervisor.pids["server"], signal.SIGCONT)
        await found.wait("server", lambda part: (part.health, part.restarts) == ("ok", 1))
        await found.wait_well("notification")


async def test_a_service_whose_only_book_somebody_spoilt_says_so_and_goes_on_once_it_is_put_right(
    tmp_path: Path,
) -> None:
    """It once began anew every few seconds, each time with a takeover, and told nothing but that."""
    async with service(tmp_path, "booking") as found:
        await found.wait_well("booking")
        outcomes = BookKeys("demo").outcomes
        await found.admin("XADD", outcomes, "9999999999999-0", "by", "hand")
        async with open_log(found.supervisor.settings) as log:
            (mine,) = await log.append("demo", [NewInput("tick", b"{}", by="service:test")])
            await found.wait_trouble("booking", f"{outcomes} has had an entry 9999999999999-0")
            await found.admin("RENAME", outcomes, "spoilt")
            with trio.fail_after(WAIT_S_MAX):
                while (await log.read_record("demo")).position < mine:
                    await log.read_outcomes({"demo": GENESIS}, 1, 1.0)
        await found.wait_well("booking")
