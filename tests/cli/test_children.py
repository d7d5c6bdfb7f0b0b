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
from holdfast.cli.children import WHY_LENGTH_MAX, Child, ChildError

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


SAY = """
import sys, trio
from holdfast.actors.health import Health
from holdfast.cli.children import say_ready, tell_troubles
async def main():
    fd, health = int(sys.argv[1]), Health()
    health.trouble("early", "before anybody listened")
    say_ready(fd, {"url": ""})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_troubles, fd, health)
        await use(health)
        nursery.cancel_scope.cancel()
"""
"""A child that says how it fares; what it does is in ``use``."""


async def test_a_child_says_how_it_fares_at_once_and_whenever_that_changes(spawn: Spawn) -> None:
    code = """
async def use(health):
    await trio.sleep(0.05)
    health.well("early")
    health.trouble("log", "é" * 10_000)
    await trio.sleep_forever()
"""
    with spawn(SAY + code + "trio.run(main)") as child, trio.fail_after(20):
        assert await child.wait_ready() == {"url": ""}
        assert await child.hear_troubles() == {"early": "before anybody listened"}
        assert await child.hear_troubles() == {"log": "é" * WHY_LENGTH_MAX}
        child.send(signal.SIGKILL)
        assert await child.hear_troubles() is None


async def test_a_child_does_not_wait_for_a_parent_that_does_not_read(spawn: Spawn) -> None:
    """The pipe has long been full when it ends by itself."""
    code = """
async def use(health):
    import holdfast.cli.children as children
    children.TELL_EVERY_S = 0
    for number in range(1_000):
        for subject in range(children.TROUBLES_MAX):
            health.trouble(f"book {subject}", f"{number} " * 500)
        await trio.sleep(0)
"""
    with spawn(SAY + code + "trio.run(main)") as child, trio.fail_after(20):
        await child.wait_ready()
        assert await child.wait() == 0


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
