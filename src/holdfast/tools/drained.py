"""Whether a book is drained: nobody leads it, and its snapshot is where it stands."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from holdfast.actors.ports import BATCH_MAX
from holdfast.tools.history import look_until_steady

if TYPE_CHECKING:
    from holdfast.actors.ports import Log
    from holdfast.tools.ports import Operator


class Drained(msgspec.Struct, frozen=True):
    """How a book was left.

    Attributes:
      position: The last input decided.
      waiting: Inputs that wait behind it for whoever leads next.
      led: Whether a booking actor leads it by its lease.
      drained: Whether the next release may begin there.
    """

    book: str
    position: str
    digest: str
    waiting: int
    led: bool
    drained: bool


async def look_drained(log: Log, operator: Operator, book: str) -> Drained:
    """How *book* was left.

    Raises:
      HistoryChangedError: The server failed over again and again.
    """
    return await look_until_steady(operator, book, partial(_look, log, book))


async def _look(log: Log, book: str) -> Drained:
    record = await log.read_record(book)
    waiting = await count_after(log, book, record.position)
    led = bool(await log.read_leases([record.owner]))
    drained = record.snapshot == record.position and not led
    return Drained(book, record.position, record.digest, waiting, led, drained)


async def count_after(log: Log, book: str, position: str) -> int:
    """How many inputs of *book* there are after *position*."""
    count = 0
    while True:
        entries = (await log.read_inputs({book: position}, BATCH_MAX, 0)).get(book, [])
        count += len(entries)
        if len(entries) < BATCH_MAX:
            return count
        position = entries[-1].id
