"""Archiving a live book: every input of a range, with what the hash chain says after each."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from holdfast.actors.booking.runner import BookBugError
from holdfast.actors.ports import GENESIS
from holdfast.tools.archive import ArchiveWriter, Begin
from holdfast.tools.errors import ToolError
from holdfast.tools.history import one_history
from holdfast.tools.sources import LogSource, runner_of
from holdfast.transport.codec import decode_input
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from holdfast.actors.booking.runner import BookRunner
    from holdfast.actors.ports import InputEntry, Log
    from holdfast.tools.archive import Header
    from holdfast.tools.ports import File, Operator
    from holdfast.tools.sources import Tell

TELL_EVERY: Final = 1_024
"""Progress is told after so many inputs."""


async def export_log(
    log: Log,
    book: str,
    path: File,
    *,
    after: str = GENESIS,
    to: str = "",
    newest: bool = False,
    operator: Operator,
    tell: Tell,
) -> tuple[Header, str]:
    """Write the inputs of *book* after *after* up to *to* into the new file *path*.

    The book is decided on the way, so that the file has a link for each input. A book that cannot be
    decided is exported all the same, without links from there on.

    Args:
      log: Where the book lies; nothing is written to it.
      book: Which.
      path: A new file.
      after: Leave out the inputs up to this one; the book as it was there is in the file instead.
      to: The last one; "" for the last there is now.
      newest: Begin with the newest snapshot, without looking at what is before it.
      operator: The same server; for the oldest snapshot of a book that was trimmed.
      tell: Called now and then with inputs read and inputs expected (0 where not known).

    Returns:
      The header, and why there are no links, or "".

    Raises:
      ToolError: There is no such book or no such range, or the file exists.
      HistoryChangedError: The server failed over meanwhile; there is no file.
    """
    source = await LogSource.open(log, book, newest=newest, operator=operator)
    runner = runner_of(source)
    if after != GENESIS and parse_id(runner.position) > parse_id(after):
        raise ToolError(
            f"the inputs of {book} up to {runner.position} are not there: "
            "export what comes after them"
        )
    exporter = _Exporter(runner, path, parse_id(after), parse_id(to) if to else None)
    try:
        async with one_history(source.history):
            if source.begin is not None:
                exporter.passed_entry = await _entry_at(operator, book, runner.position)
            await _read(source, exporter, tell)
        writer = exporter.writer
        if writer is None:
            raise ToolError(f"book {book} has no inputs in that range")
        before = exporter.passed
        if source.begin is not None:
            before = source.added - writer.count - exporter.rest
        header = writer.finish(
            book=book,
            before=before,
            decided=source.record.position,
            epoch=source.record.epoch,
            machine=runner.machine.version,
            link="" if exporter.problem else runner.digest,
        )
    finally:
        if exporter.writer is not None:
            exporter.writer.close()
    return header, exporter.problem


async def _read(source: LogSource, exporter: _Exporter, tell: Tell) -> None:
    read = 0
    async with aclosing(source.inputs()) as inputs:
        async for entry, _ in inputs:
            read += 1
            if read % TELL_EVERY == 0:
                tell(read, source.size)
            # Where it begins with a snapshot all are counted, to know how many were before it.
            if not exporter.take(entry) and source.begin is None:
                break


class _Exporter:
    """Decides what is before the range, writes the range, and counts what is after it."""

    def __init__(
        self, runner: BookRunner, path: File, after: tuple[int, int], to: tuple[int, int] | None
    ) -> None:
        self._runner = runner
        self._path = path
        self._after = after
        self._to = to
        self.writer: ArchiveWriter | None = None
        self.passed_entry: InputEntry | None = None
        self.passed = self.rest = 0
        self.problem = ""

    def take(self, entry: InputEntry) -> bool:
        """Take the next input; False where it is after the range."""
        entry_id, runner = parse_id(entry.id), self._runner
        if entry_id <= self._after:
            self.passed, self.passed_entry = self.passed + 1, entry
            runner.decide([entry])
            return True
        if self._to is not None and entry_id > self._to:
            self.rest += 1
            return False
        if self.writer is None:
            before = self.passed_entry
            begin = None if before is None else Begin(runner.snapshot(), before)
            self.writer = ArchiveWriter(self._path, begin)
        self.problem = self.problem or _decide(runner, entry)
        self.writer.add(entry, "" if self.problem else runner.digest)
        return True


async def _entry_at(operator: Operator, book: str, position: str) -> InputEntry:
    found = await operator.read_one(book, "inputs", position)
    if found is None:
        raise ToolError(
            f"the input {position} of {book}, at its snapshot, was deleted: nothing fits"
        )
    return decode_input(found.id.encode(), list(found.fields))


def _decide(runner: BookRunner, entry: InputEntry) -> str:
    """Decide one input; why it cannot be, or ""."""
    try:
        runner.decide([entry])
    except BookBugError as error:
        return str(error)
    return ""
