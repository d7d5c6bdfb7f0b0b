"""Running the real command in real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from typer.testing import Result

TIMEOUT_S = 60


class Up:
    """A service that runs: what it said at its start, and its process."""

    def __init__(self, process: subprocess.Popen[str], facts: dict[str, object]) -> None:
        self.process = process
        self.redis = str(facts["redis"])
        self.provider = str(facts["provider"])
        self.pids = msgspec.convert(facts["pids"], dict[str, int])

    def everything(self) -> list[int]:
        """Pids of the supervisor and all of its parts."""
        return [self.process.pid, *self.pids.values()]


def run_holdfast(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """The command with *args*, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "holdfast", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@contextmanager
def service_up(data: Path, *args: str) -> Generator[Up, None, None]:
    """``holdfast up`` on *data* for the length of a block; killed hard at its end if still there."""
    with (data.parent / f"{data.name}.err").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "holdfast", "up", "--data", str(data), "--json", *args],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            process_group=0,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (data.parent / f"{data.name}.err").read_text()
        yield Up(process, msgspec.json.decode(line, type=dict[str, object]))
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def is_alive(pid: int) -> bool:
    """Whether there is such a process that is not just waiting to be reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return sys.platform != "linux"


def wait_gone(pids: list[int], wait_s: float = 20) -> list[int]:
    """Those of *pids* that are still alive after *wait_s*; returns as soon as all are gone."""
    deadline = time.monotonic() + wait_s
    left = pids
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if is_alive(pid)]
        time.sleep(0.02)
    return left


def stop(up: Up, number: signal.Signals) -> int:
    """Send *number* to the supervisor alone; its exit code."""
    up.process.send_signal(number)
    return up.process.wait(TIMEOUT_S)


@pytest.fixture
def holdfast() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_holdfast


@pytest.fixture
def up() -> Callable[..., AbstractContextManager[Up]]:
    return service_up


@pytest.fixture
def gone() -> Callable[..., list[int]]:
    return wait_gone


@pytest.fixture
def end() -> Callable[[Up, signal.Signals], int]:
    return stop


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """The command in this process, for what ends before anything runs."""

    def run(*args: str | Path) -> Result:
        return CliRunner().invoke(app, list(map(str, args)))

    return run
