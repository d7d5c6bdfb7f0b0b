"""Trimming what nobody needs any more, with a guard: what goes must be in an archive first.

The server never trims past the older of the two kept snapshots, nor past what a group still needs.
But the history goes: the book can no longer be decided from its first input. So an operator names the
export that has it, and each input that would go is compared with the export's. The server trims in the
history alone in which that was done: after a failover the same ids may be of other inputs.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.actors.ports import GENESIS
from holdfast.tools.errors import ToolError
from holdfast.tools.history import History, one_history
from holdfast.transport.codec import decode_input
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from holdfast.actors.ports import InputEntry
    from holdfast.tools.archive import Archive
    from holdfast.tools.ports import Operator
    from holdfast.tools.sources import Tell

PAGE: Final = 1_000


class Trimmable(msgspec.Struct, frozen=True):
    """What could be trimmed.

    Attributes:
      keep: The first input that is kept, "" where all are.
      inputs: How many would go, and the outcomes with them.
      first: The first of them, "" where there is none.
      history: The history of the server in which that is so.
    """

    book: str
    keep: str
    inputs: int
    first: str
    history: str


async def trimmable(operator: Operator, book: str) -> Trimmable:
    """What could be trimmed of *book* now.

    Raises:
      HistoryChangedError: The server failed over meanwhile.
    """
    history = await History.begin(operator, book)
    first, count = "", 0
    async with one_history(history):
        keep = await operator.least_needed(book)
        if keep:
            async with aclosing(_going(operator, book, keep)) as going:
                async for entry in going:
                    first = first or entry.id
                    count += 1
    return Trimmable(book, keep, count, first, history.name)


async def require_archived(
    operator: Operator, archive: Archive, going: Trimmable, tell: Tell
) -> None:
    """Make sure that *archive* has every input that is *going*, as it lies in the log.

    Raises:
      ToolError: One is missing there, or is another one, or the file is damaged anywhere.
      HistoryChangedError: The server failed over since.
    """
    async with one_history(History(operator, going.book, going.history)):
        await _compare(operator, archive, going, tell)


async def _compare(operator: Operator, archive: Archive, going: Trimmable, tell: Tell) -> None:
    if archive.header.book != going.book:
        raise ToolError(f"{archive.path} is of book {archive.header.book}, not of {going.book}")
    archived = archive.inputs()
    held = next(archived, None)
    count = 0
    async with aclosing(_going(operator, going.book, going.keep)) as entries:
        async for entry in entries:
            while held is not None and parse_id(held.entry.id) < parse_id(entry.id):
                held = next(archived, None)
            if held is None or held.entry != entry:
                raise ToolError(
                    f"input {entry.id} of {going.book} is not in {archive.path} as it is in the log: "
                    "export the log anew"
                )
            count += 1
            if count % PAGE == 0:
                tell(count, going.inputs)
    for _ in archived:
        pass  # the rest of the file must be good as well


async def _going(operator: Operator, book: str, keep: str) -> AsyncGenerator[InputEntry]:
    """The inputs before *keep* that are still there."""
    position, end = GENESIS, parse_id(keep)
    while True:
        entries = await operator.read(book, "inputs", position, PAGE)
        for entry in entries:
            if parse_id(entry.id) >= end:
                return
            yield decode_input(entry.id.encode(), list(entry.fields))
        if len(entries) < PAGE:
            return
        position = entries[-1].id
