"""A child process: started from the main thread, watched without threads, never left behind.

A child dies with its parent even if that is killed with SIGKILL: the child itself asks the kernel
for a signal when its parent dies, then looks whether the parent is still there, so no moment is
uncovered. The kernel ties that signal to the *thread* that forked, which is why children are forked
in the main thread and not by ``trio.lowlevel.open_process``, which does so in a worker. Where the
kernel knows no such signal (macOS), the child looks for its parent from time to time.

Each child leads its own process group, so that a Ctrl-C in the terminal reaches the supervisor alone,
which then stops the children in order. A child says on a pipe that it is ready, by a line of JSON,
and by further lines how it fares. It never waits for a parent that does not read them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec
import trio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from holdfast.actors.health import Health

LINE_BYTES_MAX: Final = 65_536
"""Longest line that a child may say."""

TELL_EVERY_S: Final = 0.2
"""Least time between two lines of a child about how it fares; the later one has all that changed."""

TROUBLES_MAX: Final = 20
"""Most troubles in such a line."""

WHY_LENGTH_MAX: Final = 500
"""Longest sentence of a trouble; the rest is left out."""

POLL_S: Final = 0.05
"""How often a child is looked at where the kernel cannot tell of its end."""

_PR_SET_PDEATHSIG: Final = 1


class ChildError(Exception):
    """A child could not be started, or ended before it was ready."""


class Child:
    """One process.

    Args:
      name: For people.
      argv: Program and arguments; ``{ready_fd}`` in one of them becomes the number of the pipe.
      environ: Its environment.
      output: File to which its output is appended; None leaves it ours.
    """

    def __init__(
        self, name: str, argv: Sequence[str], environ: Mapping[str, str], output: Path | None
    ) -> None:
        self.name = name
        read_fd, write_fd = os.pipe()
        try:
            self._process = self._spawn(argv, environ, output, write_fd)
        except OSError as error:
            os.close(read_fd)
            raise ChildError(f"cannot start {name}: {error.strerror}") from error
        finally:
            os.close(write_fd)
        self._pipe = trio.lowlevel.FdStream(read_fd)
        self._said = b""
        self._pidfd = open_pidfd(self._process.pid)

    def _spawn(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        output: Path | None,
        write_fd: int,
    ) -> subprocess.Popen[bytes]:
        stream = None if output is None else output.open("ab")
        try:
            return subprocess.Popen(
                [part.replace("{ready_fd}", str(write_fd)) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=dict(environ),
                pass_fds=(write_fd,),
                process_group=0,
            )
        finally:
            if stream is not None:
                stream.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal, or None while it runs."""
        return self._process.poll()

    async def wait_ready(self) -> dict[str, object]:
        """Wait until the child says that it is ready; return what it says.

        Raises:
          ChildError: It ended, or said something else.
        """
        line = await self._hear()
        if not line:
            raise ChildError(f"{self.name} ended before it was ready")
        return msgspec.json.decode(line, type=dict[str, object])

    async def hear_troubles(self) -> dict[str, str] | None:
        """Wait until the child, which is ready, says anew how it fares: why it waits, by subject.

        Returns:
          What it says; None when it says no more.
        """
        line = await self._hear()
        return msgspec.json.decode(line, type=dict[str, str]) if line else None

    async def _hear(self) -> bytes:
        """The next line, b"" where there is none any more."""
        while b"\n" not in self._said:
            chunk = await self._pipe.receive_some(LINE_BYTES_MAX)
            if not chunk or len(self._said) > LINE_BYTES_MAX:
                return b""
            self._said += chunk
        line, _, self._said = self._said.partition(b"\n")
        return line

    async def wait(self) -> int:
        """Wait until the child has ended; return its exit code."""
        if self._pidfd is None:
            while self._process.poll() is None:  # noqa: ASYNC110 - there is nothing to wait on
                await trio.sleep(POLL_S)
        else:
            await trio.lowlevel.wait_readable(self._pidfd)
        return self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        self._process.send_signal(number)

    async def stop(self, grace_s: float) -> int:
        """End it: ask with SIGTERM, insist with SIGKILL after *grace_s*; return its exit code."""
        self.send(signal.SIGTERM)
        with trio.move_on_after(grace_s):
            return await self.wait()
        self.send(signal.SIGKILL)
        return await self.wait()

    def close(self) -> None:
        """Make sure it is gone, and give back what is open for it. May be called twice."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._pipe.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where there is no such thing."""
    if sys.platform == "linux":
        try:
            return os.pidfd_open(pid)
        except OSError:  # an old kernel, or a sandbox that forbids it
            return None
    return None


# --- in the child ---------------------------------------------------------------------------------


def die_with_parent(parent: int) -> None:
    """End this process with its parent, process *parent*. Call it first of all."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


async def watch_parent(parent: int) -> None:
    """The same where the kernel cannot tell: look from time to time. Returns at once on Linux."""
    while sys.platform != "linux":
        if os.getppid() != parent:
            os._exit(1)
        await trio.sleep(1)


def say_ready(fd: int, facts: Mapping[str, object]) -> None:
    """Tell the parent that this process is ready. The pipe stays open, for :func:`tell_troubles`."""
    os.write(fd, msgspec.json.encode(facts) + b"\n")


async def tell_troubles(fd: int, health: Health) -> None:
    """Tell the parent whenever what troubles this process changes; call it once it is ready.

    Where the parent does not read, this waits, and nothing else does.
    """
    changed = trio.Event()

    def note() -> None:
        changed.set()

    health.listen(note)
    if health.troubles:
        note()
    async with trio.lowlevel.FdStream(fd) as pipe:
        while True:
            await changed.wait()
            changed = trio.Event()
            told = islice(health.troubles.items(), TROUBLES_MAX)
            line = msgspec.json.encode({subject: why[:WHY_LENGTH_MAX] for subject, why in told})
            try:
                await pipe.send_all(line + b"\n")
            except trio.BrokenResourceError:
                return  # the parent is gone, and this process ends with it
            await trio.sleep(TELL_EVERY_S)
