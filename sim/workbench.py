"""What all tools of the simulated world's operator work with: connections, files, draws, and verdicts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from holdfast.sim.memory_files import MemoryFolder
from holdfast.sim.tool_log import ToolLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.sim.checks import Checks
    from holdfast.sim.draws import Draws
    from holdfast.sim.history import RecordingLog
    from holdfast.sim.marks import Marks
    from holdfast.sim.server import SimServer
    from holdfast.sim.trace import Trace


class Workbench:
    """One world's.

    Args:
      server: Where the books are.
      log: The truth.
      checks: What is known of the books; told where a tool says what is not so.
      draws: What exactly is done.
      marks: What happened at least once.
      trace: Where it is noted.
    """

    def __init__(
        self,
        server: SimServer,
        log: RecordingLog,
        checks: Checks,
        draws: Draws,
        marks: Marks,
        trace: Trace,
    ) -> None:
        self.server = server
        self.log = log
        self.checks = checks
        self.draws = draws
        self.marks = marks
        self.trace = trace
        self.folder = MemoryFolder()

    def open(self, name: str, may: Sequence[str] = (), server: SimServer | None = None) -> ToolLog:
        """A tool's connection, which lets the requests *may* through and others that only look."""
        tell = partial(self.checks.fail, "S15 no live effect")
        return ToolLog(server or self.server, name, may, tell)

    def did(self, what: str, details: str) -> None:
        """A tool has done something: the mark of its name."""
        self.marks.hit(f"tool_{what}")
        self.trace.fault("operator", f"tool {what}", details)

    def ended(self, tool: str, how: str, error: Exception) -> None:
        """A tool ended by an error of its own kind."""
        self.marks.hit(f"tool_{how}")
        self.trace.note("operator", f"{tool} {how}", str(error))

    def tell(self, log: ToolLog, check: str, what: str) -> None:
        """Fail the world, unless what was read over *log* is of a history that is over by now."""
        if log.is_of_now:
            self.checks.fail(check, what)

    def same(self, log: ToolLog, book: str, tool: str, position: str, digest: str) -> None:
        """Make sure that *digest* is the one with which *book* came to *position*."""
        known = self.checks.shadows[book].digests.get(position, digest)
        if known != digest:
            self.tell(log, "tools", f"{tool} of {book} says {digest} at {position}, not {known}")


def no_progress(_done: int, _total: int) -> None:
    """Nobody watches it."""
