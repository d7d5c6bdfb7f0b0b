"""Putting an archived log into place as a book that was not there before.

The ids stay as they were, so the book decides the same. What was decided when it was archived is
decided here, on the way, and put into place with the inputs: outcomes, commit record and snapshot.
So the booking actor that takes the new book over goes on where the old one stopped; it does not ask
the provider a second time for what was asked for once. Actions that were under way are taken up by
its takeover, as after a crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import trio

from holdfast.actors.booking import views
from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.ports import GENESIS, CommitRecord
from holdfast.tools.errors import ToolError
from holdfast.transport.codec import encode_outcome
from holdfast.transport.keys import parse_id
from holdfast.transport.operator import Restored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast.actors.ports import InputEntry, OutcomeEntry
    from holdfast.tools.archive import Archive, Archived
    from holdfast.tools.ports import Operator
    from holdfast.tools.sources import Tell

Agree: TypeAlias = "Callable[[int, int], Awaitable[bool]]"

BATCH: Final = 1_000
CLEAN_S: Final = 5.0
"""How long to clean up after an attempt that failed."""


class RestoreResult(msgspec.Struct, frozen=True):
    """What was put into place.

    Attributes:
      position: How far it is decided; ``undecided`` inputs wait behind it.
      digest: The hash chain's link there.
      last: The last input.
    """

    book: str
    inputs: int
    position: str
    digest: str
    last: str
    undecided: int


async def restore_log(
    archive: Archive, operator: Operator, book: str, tell: Tell, agree: Agree
) -> RestoreResult:
    """Create *book* from *archive*. Nothing is there before all of it is.

    Args:
      archive: The log.
      operator: Where to.
      book: Its name there.
      tell: Called now and then with inputs written and inputs expected.
      agree: Asked with the payments that are under way or on hold and the inputs that are not decided,
        if there are any: a booking actor will go on with them.

    Raises:
      ToolError: The file was altered, was decided otherwise than here, or nobody agrees.
      LogError: There is such a book already.
    """
    header = archive.header
    if header.link and header.machine != BookingMachine.version:
        raise ToolError(
            f"{archive.path} was decided by machine version {header.machine}, this is "
            f"{BookingMachine.version}: import it with the old release, then drain"
        )
    await operator.prepare(book)
    try:
        return await _Restorer(archive, operator, book).run(tell, agree)
    except BaseException:
        with trio.move_on_after(CLEAN_S, shield=True):
            await operator.abandon(book)
        raise


class _Restorer:
    def __init__(self, archive: Archive, operator: Operator, book: str) -> None:
        self._archive = archive
        self._operator = operator
        self._book = book
        begin = archive.begin
        self._runner = BookRunner(book, None if begin is None else begin.snapshot)
        self._decided = parse_id(archive.header.decided)
        self._outcomes = 0

    async def run(self, tell: Tell, agree: Agree) -> RestoreResult:
        header, begin = self._archive.header, self._archive.begin
        if begin is not None:  # as it would be if the inputs before it had been trimmed
            await self._operator.write(
                self._book, "inputs", [(begin.entry.id, fields_of(begin.entry))]
            )
        batch: list[Archived] = []
        count = 0
        for archived in self._archive.inputs():
            batch.append(archived)
            if len(batch) == BATCH:
                count += await self._write(batch)
                batch.clear()
                tell(count, header.inputs)
        count += await self._write(batch)
        tell(count, header.inputs)
        runner = self._runner
        under_way = sum(
            not payment.at_rest or payment.observed == "authorized"
            for payment in views.payments(runner.state)
        )
        undecided = count - self._outcomes
        if (under_way or undecided) and not await agree(under_way, undecided):
            raise ToolError("nothing was imported")
        nothing = runner.position == GENESIS
        record = CommitRecord(
            runner.position,
            header.epoch,
            "",
            0 if nothing else runner.machine.version,
            runner.digest,
        )
        snapshot = None if nothing else runner.snapshot()
        older = begin.snapshot if begin is not None and snapshot != begin.snapshot else None
        prepared = count + (begin is not None)
        added = header.before + count
        restored = Restored(prepared, self._outcomes, header.last, added, record, older, snapshot)
        await self._operator.finish(self._book, restored)
        return RestoreResult(
            self._book, count, runner.position, runner.digest, header.last, undecided
        )

    async def _write(self, batch: Sequence[Archived]) -> int:
        inputs = [(archived.entry.id, fields_of(archived.entry)) for archived in batch]
        await self._operator.write(self._book, "inputs", inputs)
        outcomes = [
            self._decide(archived)
            for archived in batch
            if parse_id(archived.entry.id) <= self._decided
        ]
        fields = [
            (outcome.id, [_text(field) for field in encode_outcome(outcome)])
            for outcome in outcomes
        ]
        await self._operator.write(self._book, "outcomes", fields)
        self._outcomes += len(outcomes)
        return len(batch)

    def _decide(self, archived: Archived) -> OutcomeEntry:
        decided = self._runner.decide([archived.entry])
        if archived.link and archived.link != self._runner.digest:
            raise ToolError(
                f"input {archived.entry.id} of {self._archive.path} is decided otherwise here than "
                "where it was exported: import it with the release that exported it"
            )
        return decided.outcomes[0]


def fields_of(entry: InputEntry) -> tuple[str | bytes, ...]:
    """Names and values in turn of an input, as they are to lie in the stream."""
    if entry.problem:
        return entry.raw
    optional = (("key", entry.key), ("by", entry.by), ("trace", entry.trace))
    rest = [part for name, value in optional if value for part in (name, value)]
    return ("type", entry.type, "body", entry.body, *rest)


def _text(field: str | bytes | int) -> str | bytes:
    return str(field) if isinstance(field, int) else field
