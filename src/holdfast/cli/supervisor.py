"""The service as processes under one supervisor: server, provider and actors, started in that order.

Each part is started when the one before it is ready, is started again with growing pauses when it
dies, and is stopped in reverse order. Nothing is left running, whatever happens to the supervisor
(see :mod:`holdfast.cli.children`). What runs where, and how it fares, is in ``status.json`` in the data
folder (:mod:`holdfast.cli.status_file`); a lock there keeps a second service out.
"""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import signal
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal

import msgspec
import trio

from holdfast.cli.children import POLL_S, Child, ChildError, open_pidfd
from holdfast.cli.common import EXIT_FAILED, EXIT_USAGE, CliError
from holdfast.cli.life import argv_of
from holdfast.cli.pulse import pulse
from holdfast.cli.status_file import (
    LOCK_FILE,
    STATUS_FILE,
    Board,
    PartHealth,
    Status,
    write_status,
)
from holdfast.config.settings import to_environ

if TYPE_CHECKING:
    from holdfast.config.settings import Settings
    from holdfast.transport.server import EmbeddedServer

Part = Literal["server", "provider", "booking", "payment", "notification"]

PARTS: Final[tuple[Part, ...]] = ("server", "provider", "booking", "payment", "notification")
"""Everything, in the order of starting."""

READY_S_MAX: Final = 30.0
"""Longest wait for a part to become ready."""

STOP_S_MAX: Final = 15.0
"""Longest wait for a part to stop before it is killed."""

BACKOFF_S: Final = 0.05
"""Longest pause before a part that failed once is started again; it doubles with every failure."""

BACKOFF_S_MAX: Final = 5.0
STEADY_S: Final = 1.0
"""A part that ran so long after it was ready starts again without a pause, and so does one that was
ready and got SIGKILL: that comes from outside, and does not tell that the part cannot live."""

PULSE_S: Final = 1.0
"""Time between two looks whether our server answers."""

LOCK_TRIES_MAX: Final = 10
LOCK_PAUSE_S: Final = 0.02

FAILURES_MAX: Final = 10
"""So many starts in a row that fail end the service, but where a server that is not ours may be why."""

LOG_FOLDER: Final = "logs"


class ServiceError(CliError):
    """The service cannot start or go on."""

    def __init__(self, sentence: str, code: int = EXIT_FAILED) -> None:
        super().__init__(sentence, code)


class Supervisor:
    """Runs the service's parts.

    Args:
      settings: Whose; ``redis_url`` and ``provider.url``, where given, replace our own parts.
      parts: Which to run.
      to_files: Let each part write its log to a file in the data folder instead of our stderr.
      script: How the sandbox provider shall misbehave.
      port: TCP port on 127.0.0.1 on which the embedded server listens too; 0 for none.
      on_event: Called with the part and a phrase when one of them dies or is started again.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        parts: Sequence[Part] = PARTS,
        to_files: bool = False,
        script: Path | None = None,
        port: int = 0,
        on_event: Callable[[str, str], None] | None = None,
    ) -> None:
        self.settings = msgspec.structs.replace(settings, data=settings.data.absolute())
        self._parts = parts
        self._to_files = to_files
        self._script = script
        self._port = port
        self._on_event = on_event or _ignore
        self._children: dict[str, Child] = {}
        self._server: EmbeddedServer | None = None
        self._server_ready = trio.Event()
        self._restarts: dict[str, int] = {}
        # Each of our booking actors begins when the one before is dead, and need not wait for it.
        self._place = secrets.token_hex(8)
        self._board = Board()
        self._lock: IO[bytes] | None = None
        self._rng = random.Random()
        self._started_ms = time.time_ns() // 1_000_000

    # -- what a command asks -----------------------------------------------

    @property
    def data(self) -> Path:
        """The data folder, absolute."""
        return self.settings.data

    @property
    def restarts(self) -> Mapping[str, int]:
        """How often each part that died was started again."""
        return self._restarts

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the parts."""
        pids = {name: child.pid for name, child in self._children.items()}
        server = None if self._server is None else self._server.pid
        return pids if server is None else {"server": server, **pids}

    def kill(self, part: Part) -> bool:
        """Kill a part with SIGKILL; False if it is not running at the moment."""
        if part == "server":
            pid = None if self._server is None else self._server.pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            return pid is not None
        child = self._children.get(part)
        if child is None or child.code is not None:
            return False
        child.send(signal.SIGKILL)
        return True

    # -- starting and stopping ---------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Supervisor, None]:
        """Run the parts; yield when all are ready; stop them at the end.

        Raises:
          ServiceError: A part cannot be started, or dies again and again, or the folder is in use.
        """
        await self._take_lock()
        try:
            async with trio.open_nursery() as nursery:
                try:
                    for part in self._parts:
                        await self._start(part, nursery)
                    yield self
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._stop()

    async def _take_lock(self) -> None:
        try:
            (self.data / LOG_FOLDER).mkdir(parents=True, exist_ok=True)
            lock = (self.data / LOCK_FILE).open("ab")
        except OSError as error:
            raise ServiceError(
                f"cannot write to the data folder {self.data}: {error.strerror}; choose another with --data",
                EXIT_USAGE,
            ) from None
        for _ in range(LOCK_TRIES_MAX):
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = lock
                return
            await trio.sleep(LOCK_PAUSE_S)  # a reader of the status holds it for a moment
        lock.close()
        raise ServiceError(
            f"another service is using the data folder {self.data}; "
            "stop it first or choose another folder with --data",
            EXIT_USAGE,
        )

    async def _start(self, part: Part, nursery: trio.Nursery) -> None:
        if part == "server":
            if self.settings.redis_url is None:
                await self._start_server()
                nursery.start_soon(self._keep_server)
        elif part != "provider" or self.settings.provider.url is None:
            self._note(part, "starting")
            try:
                child = await self._start_child(part)
            except ChildError as error:
                raise self._explain(part, error) from None
            self._note(part, "ok")
            nursery.start_soon(self._keep_child, part, child)

    async def _stop(self) -> None:
        """Stop the actors all at once, then the provider that they call, then the server."""
        provider = self._children.pop("provider", None)
        async with trio.open_nursery() as nursery:
            for child in self._children.values():
                nursery.start_soon(child.stop, STOP_S_MAX)
        if provider is not None:
            await provider.stop(STOP_S_MAX)
            self._children["provider"] = provider
        for child in self._children.values():
            child.close()
        self._children.clear()
        await self._stop_server()
        with suppress(OSError):
            (self.data / STATUS_FILE).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # -- the server --------------------------------------------------------

    async def _start_server(self) -> None:
        from holdfast.transport.server import EmbeddedServer, ServerConfig, ServerError

        durability = self.settings.durability
        assert durability != "replicated", "refused with the settings: our server has no replicas"
        config = ServerConfig(self.data, durability, port=self._port)
        server = self._server = EmbeddedServer(config)
        self._note("server", "starting")
        try:
            server.start()
            await server.wait_ready()
        except ServerError as error:
            raise ServiceError(str(error)) from None
        self._server_ready.set()
        self.settings = msgspec.structs.replace(self.settings, redis_url=server.url)
        self._note("server", "ok")

    async def _keep_server(self) -> None:
        server = self._server
        assert server is not None
        failures = 0
        while True:
            ready_at = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_server, server.url)
                await _wait_server(server)
                nursery.cancel_scope.cancel()
            self._server_ready = trio.Event()
            self._on_event("server", "ended")
            self._note("server", "restarting", {"process": "it ended"})
            failures = _failures(failures, server.code, trio.current_time() - ready_at)
            failures = await self._start_server_again(server, failures)
            self._server_ready.set()
            self._count_restart("server", server.pid or 0)

    async def _watch_server(self, url: str) -> None:
        """Take down whether the server, which runs, also answers."""
        while True:
            await trio.sleep(PULSE_S)
            why = await pulse(url)
            self._note("server", "waiting" if why else "ok", {"server": why} if why else {})

    async def _start_server_again(self, server: EmbeddedServer, failures: int) -> int:
        from holdfast.transport.server import ServerError

        while failures < FAILURES_MAX:
            if failures:
                await trio.sleep(backoff_s(failures, self._rng))
            try:
                server.start()
                await server.wait_ready()
            except ServerError as error:
                failures += 1
                self._on_event("server", f"could not be started: {error}")
                self._note("server", "restarting", {"process": str(error)})
            else:
                return failures
        raise ServiceError(f"the server dies again and again; see {self.data}/server.log")

    async def _stop_server(self) -> None:
        if self._server is not None:
            await self._server.stop()
            self._server = None

    # -- the actors --------------------------------------------------------

    async def _start_child(self, part: Part) -> Child:
        """Start *part* and wait until it is ready.

        Raises:
          ChildError: It ended before it was, or took too long.
        """
        child = Child(part, self._argv(part), self._environ(), self._output(part))
        self._children[part] = child
        with trio.move_on_after(READY_S_MAX):
            facts = await child.wait_ready()
            if part == "provider":
                self._use_provider(str(facts["url"]))
            return child
        raise ChildError(f"{part} was not ready after {READY_S_MAX:.0f} s")

    def _use_provider(self, url: str) -> None:
        """Let everybody call the sandbox at *url*, and let it come back there after a crash."""
        provider = msgspec.structs.replace(
            self.settings.provider, url=url, sandbox_port=int(url.rpartition(":")[2].strip("/"))
        )
        self.settings = msgspec.structs.replace(self.settings, provider=provider)

    async def _keep_child(self, part: Part, child: Child) -> None:
        """Start *part* again whenever it dies; end the service when that is of no use."""
        failures = 0
        while True:
            ready_at = trio.current_time()
            code = await self._wait_end(part, child)
            self._on_event(part, f"ended ({_ending(code)})")
            self._note(part, "restarting", {"process": f"it ended ({_ending(code)})"})
            failures = _failures(failures, code, trio.current_time() - ready_at)
            child, failures = await self._start_again(part, failures)
            self._count_restart(part, child.pid)

    async def _wait_end(self, part: Part, child: Child) -> int:
        """Take down what *child* says of itself until it ends; return its exit code."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, part, child)
            code = await child.wait()
            nursery.cancel_scope.cancel()
        return code

    async def _listen(self, part: Part, child: Child) -> None:
        while (troubles := await child.hear_troubles()) is not None:
            self._note(part, "waiting" if troubles else "ok", troubles)

    async def _start_again(self, part: Part, failures: int) -> tuple[Child, int]:
        while True:
            if failures:
                await trio.sleep(backoff_s(failures, self._rng))
            if part != "provider" and self._server is not None:
                await self._server_ready.wait()  # without it an actor could only fail
            self._children[part].close()
            try:
                return await self._start_child(part), failures
            except ChildError as error:
                failures += 1
                # A server that is not ours may come back at any time, or get its replicas back.
                may_mend_itself = part != "provider" and self._server is None
                if failures >= FAILURES_MAX and not may_mend_itself:
                    raise self._explain(part, error) from None
                self._on_event(part, f"could not be started, trying again: {error}")
                self._note(part, "restarting", {"process": str(error)})

    def _count_restart(self, part: Part, pid: int) -> None:
        self._restarts[part] = self._restarts.get(part, 0) + 1
        self._note(part, "ok")
        self._on_event(part, f"started again as process {pid}")

    def _explain(self, part: Part, error: ChildError) -> ServiceError:
        """What to tell the user about a part that does not start."""
        child = self._children.get(part)
        code = EXIT_USAGE if child is not None and child.code == EXIT_USAGE else EXIT_FAILED
        output = self._output(part)
        where = "see its messages above" if output is None else f"see {output}"
        return ServiceError(f"{error}; {where}", code)

    def _argv(self, part: Part) -> list[str]:
        argv = argv_of(part)
        if part == "booking":
            argv += ["--place", self._place]
        if part == "provider" and self._script is not None:
            argv += ["--script", str(self._script)]
        return argv

    def _environ(self) -> dict[str, str]:
        """Our environment with the settings as they are now."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
        return kept | to_environ(self.settings)

    def _output(self, part: str) -> Path | None:
        return self.data / LOG_FOLDER / f"{part}.log" if self._to_files else None

    # -- the status file ---------------------------------------------------

    def _note(self, part: Part, health: PartHealth, whys: Mapping[str, str] | None = None) -> None:
        """Take down how *part* fares."""
        if self._board.note(part, health, whys or {}):
            self._write_status()

    def _write_status(self) -> None:
        status = Status(
            pid=os.getpid(),
            redis=self.settings.redis_url or "",
            provider=self.settings.provider.url or "",
            started_ms=self._started_ms,
            parts=self._board.parts(self.pids, self._restarts),
            durability=self.settings.durability,
            replicas=self.settings.replicas if self.settings.durability == "replicated" else 0,
        )
        try:
            write_status(self.data, status)
        except OSError as error:  # a full disk must not end a service that could outlive it
            self._on_event("service", f"cannot write {STATUS_FILE}: {error.strerror}")


def _ignore(_part: str, _what: str) -> None:
    """Nobody wants to know."""


def _failures(before: int, code: int | None, lived_s: float) -> int:
    """Starts in a row that did not last, after one more life from ready to its end."""
    return 0 if lived_s >= STEADY_S or code == -signal.SIGKILL else before + 1


def backoff_s(failures: int, rng: random.Random) -> float:
    """The pause before the next start after so many failures in a row, at least one.

    Less a random part: services that lost the same server do not come back to it all at once.
    """
    return min(BACKOFF_S * 2.0 ** (failures - 1), BACKOFF_S_MAX) * (0.5 + rng.random() / 2)


async def _wait_server(server: EmbeddedServer) -> None:
    """Wait until the server has ended."""
    pid = server.pid
    pidfd = None if pid is None else open_pidfd(pid)
    try:
        while server.running:
            if pidfd is None:
                await trio.sleep(POLL_S)
            else:
                await trio.lowlevel.wait_readable(pidfd)
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _ending(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
