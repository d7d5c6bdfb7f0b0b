"""Child processes: ready, watched, stopped, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from holdfast.cli import children
from holdfast.cli.children import Child, ChildError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from pathlib import Path

    Spawn = Callable[[str], AbstractContextManager[Child]]

pytestmark = pytest.mark.slow

READY = 'import os, sys, time; os.write(int(sys.argv[1]), b\'{"url": "x"}\\n\'); '


@pytest.fixture(params=["told by the kernel", "looked at"])
def spawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Spawn:
    """Starts a Python program as a child; with and without a descriptor that tells of its end."""
    from contextlib import contextmanager

    if request.param == "looked at":
        monkeypatch.setattr(children, "open_pidfd", _no_pidfd)

    @contextmanager
    def start(code: str) -> Generator[Child, None, None]:
        child = Child("it", [sys.executable, "-c", code, "{ready_fd}"], os.environ, None)
        try:
            yield child
        finally:
            child.close()

    return start


def _no_pidfd(_pid: int) -> None:
    """As on macOS."""


async def test_a_child_says_that_it_is_ready_and_ends(spawn: Spawn) -> None:
    with spawn(READY + "sys.exit(7)") as child:
        assert await child.wait_ready() == {"url": "x"}
        assert await child.wait() == 7
        assert child.code == 7


async def test_a_child_that_ends_before_it_is_ready_is_an_error(spawn: Spawn) -> None:
    with spawn("raise SystemExit(3)") as child:
        with pytest.raises(ChildError, match="ended before it was ready"):
            await child.wait_ready()
        assert await child.wait() == 3


async def test_a_child_is_asked_to_stop_and_killed_if_it_does_not(spawn: Spawn) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    with (
        spawn(READY + "time.sleep(60)") as gentle,
        spawn(stubborn + READY + "time.sleep(60)") as hard,
    ):
        await gentle.wait_ready()
        await hard.wait_ready()
        assert await gentle.stop(30) == -signal.SIGTERM
        assert await hard.stop(0.05) == -signal.SIGKILL
        assert await hard.stop(0.05) == -signal.SIGKILL


async def test_waiting_for_a_child_can_be_cancelled(spawn: Spawn) -> None:
    with spawn(READY + "time.sleep(60)") as child:
        await child.wait_ready()
        with trio.move_on_after(0.05) as scope:
            await child.wait()
        assert scope.cancelled_caught
        assert child.code is None


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="No such file"):
        Child("it", [str(tmp_path / "none")], os.environ, tmp_path / "log")


def test_a_child_whose_parent_is_gone_ends_at_once() -> None:
    code = "from holdfast.cli.children import die_with_parent; die_with_parent(1 << 22); print('!')"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert out.returncode == 1
    assert out.stdout == b""
