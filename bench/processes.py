"""Booking processes of a bench or a test's own, beside a running service, and waiting for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from holdfast.cli.children import Child
from holdfast.cli.life import argv_of
from holdfast.config.settings import to_environ

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from holdfast.config.settings import Settings

EVENT_S_MAX: Final = 120.0
POLL_S: Final = 0.02


async def until(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something in another process.

    Raises:
      AssertionError: It does not come within ``EVENT_S_MAX``.
    """
    with trio.move_on_after(EVENT_S_MAX):
        while not await holds():  # noqa: ASYNC110 - another process sets no event of ours
            await trio.sleep(POLL_S)
        return
    raise AssertionError(f"{what} did not come within {EVENT_S_MAX:g} s")


def start_actor(kind: str, settings: Settings, output: Path, *more: str) -> Child:
    """An actor or the provider, a process that ends with this one; its log is in *output*."""
    return Child(kind, [*argv_of(kind), *more], to_environ(settings), output)


class BookingProcess:
    """A booking process and what it logs, as JSON."""

    def __init__(self, settings: Settings, output: Path) -> None:
        self._output = output
        self._read = 0
        self._said: list[dict[str, Any]] = []
        self.child = start_actor("booking", settings, output)

    def said(self) -> list[dict[str, Any]]:
        """Its whole lines; what is none of its log's, such as a traceback, counts as an error."""
        with self._output.open("rb") as output:
            output.seek(self._read)
            whole, end, _ = output.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        for line in whole.splitlines():
            try:
                self._said.append(msgspec.json.decode(line))
            except msgspec.DecodeError:
                self._said.append({"event": line.decode(), "level": "error"})
        return self._said

    def count(self, event: str) -> int:
        """How often it said so."""
        return sum(line["event"] == event for line in self.said())
