"""Where a replay's inputs come from: a live book, an exported log, or a snapshot alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import trio

from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.ports import GENESIS, InputEntry, LogTrimmedError
from holdfast.tools.errors import ToolError
from holdfast.tools.history import History, one_history
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from holdfast.actors.ports import CommitRecord, Log, Snapshot, StreamFacts
    from holdfast.tools.archive import Archive
    from holdfast.tools.ports import Operator

Tell: TypeAlias = "Callable[[int, int], None]"
"""Is told now and then how many inputs are done, of how many; 0 where that is not known."""

READ_MAX: Final = 2_048
"""Most inputs of one read: a tenth faster than as many as a booking actor takes, which must not keep
its other books waiting."""

CHECKPOINT_INPUTS: Final = 512
"""So many inputs of a file are read before others get their turn."""


class Source(Protocol):
    """Inputs in order, and the book before the first of them.

    Attributes:
      name: How it is called in a sentence.
      book: The book's name.
      begin: The book before the first input; None for a book without any.
      size: How many inputs there are, for progress; 0 where that is not known.
      history: Of the server that has them; None for a file.
    """

    name: str
    book: str
    begin: Snapshot | None
    size: int
    history: History | None

    def inputs(self) -> AsyncGenerator[tuple[InputEntry, str]]:
        """Each input with the link after it, "" where that is not known."""
        ...


class LogSource:
    """A live book up to the last input that there is when it is opened. Open with :meth:`open`.

    Attributes:
      last: Id of that input.
    """

    def __init__(
        self,
        log: Log,
        book: str,
        begin: Snapshot | None,
        facts: StreamFacts,
        record: CommitRecord,
        history: History | None,
    ) -> None:
        self._log = log
        self.record = record
        self.history = history
        self.last = facts.last_id
        self.name = self.book = book
        self.begin = begin
        self.size = facts.length if begin is None else 0
        self.added = facts.added

    @classmethod
    async def open(
        cls,
        log: Log,
        book: str,
        begin: Snapshot | None = None,
        *,
        newest: bool = False,
        operator: Operator | None = None,
    ) -> LogSource:
        """The book from *begin*, its newest snapshot, or its first input.

        A book whose first inputs were trimmed away begins with its oldest snapshot, which an
        *operator* can read; else with its newest. Without one nobody notices a failover either.

        Raises:
          ToolError: There is no such book, or nothing to begin from.
        """
        history = None if operator is None else await History.begin(operator, book)
        async with one_history(history):
            return await cls._open(log, book, begin, newest, operator, history)

    @classmethod
    async def _open(
        cls,
        log: Log,
        book: str,
        begin: Snapshot | None,
        newest: bool,
        operator: Operator | None,
        history: History | None,
    ) -> LogSource:
        record = await log.read_record(book)
        facts = await log.facts(book, "inputs")
        if not facts.added:
            known = ", ".join((await log.wait_books(0, 0))[:5]) or "none at all yet"
            raise ToolError(f"there is no book {book}; there is {known}")
        trimmed = facts.added != facts.length
        if begin is None and trimmed and not newest and operator is not None:
            begin = await operator.oldest_snapshot(book)
        if begin is None and (newest or trimmed):
            begin = await log.read_snapshot(book)
            if begin is None:
                what = (
                    "no snapshot yet" if newest else "inputs were trimmed and no snapshot is left"
                )
                raise ToolError(f"book {book} has nothing to begin from: {what}")
        return cls(log, book, begin, facts, record, history)

    async def inputs(self) -> AsyncGenerator[tuple[InputEntry, str]]:
        """See :class:`Source`.

        Raises:
          ToolError: Inputs were trimmed away meanwhile.
        """
        position = GENESIS if self.begin is None else self.begin.position
        last = parse_id(self.last)
        while parse_id(position) < last:
            try:
                found = await self._log.read_inputs({self.book: position}, READ_MAX, 0)
            except LogTrimmedError as error:
                raise ToolError(f"{error}; or replay an export") from None
            entries = found.get(self.book, [])
            if not entries:
                return
            for entry in entries:
                if parse_id(entry.id) > last:
                    return
                yield entry, self.record.digest if entry.id == self.record.position else ""
            position = entries[-1].id


class ArchiveSource:
    """An exported log."""

    history: History | None = None

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.name = str(archive.path)
        self.book = archive.header.book
        self.begin = None if archive.begin is None else archive.begin.snapshot
        self.size = archive.header.inputs

    async def inputs(self) -> AsyncGenerator[tuple[InputEntry, str]]:
        """See :class:`Source`.

        Raises:
          ToolError: The file was altered or cut short.
        """
        for number, archived in enumerate(self._archive.inputs()):
            if number % CHECKPOINT_INPUTS == 0:
                await trio.lowlevel.checkpoint()
            yield archived.entry, archived.link


class SnapshotSource:
    """A snapshot without anything after it."""

    history: History | None = None

    def __init__(self, name: str, book: str, snapshot: Snapshot) -> None:
        self.name = name
        self.book = book
        self.begin: Snapshot | None = snapshot
        self.size = 0

    async def inputs(self) -> AsyncGenerator[tuple[InputEntry, str]]:
        """Nothing."""
        await trio.lowlevel.checkpoint()
        for entry in list[InputEntry]():
            yield entry, ""


def runner_of(source: Source, *, check: bool = True) -> BookRunner:
    """The book before the first input of *source*.

    Raises:
      VersionError: Its snapshot is another machine version's.
    """
    return BookRunner(source.book, source.begin, check=check)


async def decided_to(
    log: Log, book: str, position: str, tell: Tell | None = None, *, check: bool = False
) -> BookRunner:
    """The book as it is after the input *position*, from its newest snapshot that is not later.

    Where the log ends before it, that is as far as it goes. With *check* the invariants are checked
    after each input: for inputs that nobody has decided yet.
    """
    snapshot = await log.read_snapshot(book)
    last = parse_id(position)
    if snapshot is not None and parse_id(snapshot.position) > last:
        snapshot = None  # of a tail that a failover lost
    runner = BookRunner(book, snapshot, check=check)
    count = 0
    while parse_id(runner.position) < last:
        entries = (await log.read_inputs({book: runner.position}, READ_MAX, 0)).get(book, [])
        while entries and parse_id(entries[-1].id) > last:
            entries.pop()
        if not entries:
            break
        if check:
            runner.decide(entries)
        else:
            runner.replay(entries)
        count += len(entries)
        if tell is not None:
            tell(count, 0)
    return runner
