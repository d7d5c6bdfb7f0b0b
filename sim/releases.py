"""Two releases in one world: to a process of the next one, every book is decided by another version.

The code of the next release is not there. But all that a booking actor sees of a release is the
version in a book's record; so its connection tells it a version that is greater by one. An executor sees
actions; so its connection gives them other names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from holdfast.actors.ports import LogUnavailableError
from holdfast.sim.faulty_log import FaultyLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.actors.ports import ActionEntry, ActionStream, CommitRecord
    from holdfast.sim.server import SimServer


class OtherRelease(FaultyLog):
    """The log as a booking actor of another release sees it.

    A book of which nothing is decided may be anybody's: nobody starts another release on it here.

    Args:
      server: Where it leads.
      process: The process's name.
      on_take_over: Called with a book that is taken over though another release has decided it.
    """

    def __init__(
        self, server: SimServer, process: str, on_take_over: Callable[[str], None]
    ) -> None:
        super().__init__(server, process)
        self._on_take_over = on_take_over

    async def read_record(self, book: str) -> CommitRecord:
        """See ``Log``."""
        return _of_the_next(book, await super().read_record(book))

    async def read_records(self, books: Sequence[str]) -> list[CommitRecord]:
        """See ``Log``."""
        records = await super().read_records(books)
        return [_of_the_next(book, record) for book, record in zip(books, records, strict=True)]

    async def take_over(self, book: str, owner: str, seen: int | None = None) -> CommitRecord:
        """See ``Log``."""
        self._on_take_over(book)
        return await super().take_over(book, owner, seen)


def _of_the_next(book: str, record: CommitRecord) -> CommitRecord:
    if not record.version:
        raise LogUnavailableError(f"nothing of {book} is decided yet")
    return msgspec.structs.replace(record, version=record.version + 1)


class OtherExecutor(FaultyLog):
    """The log as a payment executor of another release sees it: it knows no action by its name.

    Args:
      server: Where it leads.
      process: The process's name.
    """

    async def read_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, wait_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """See ``Log``."""
        return _renamed(await super().read_actions(stream, books, consumer, count, wait_s))

    async def claim_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, idle_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """See ``Log``."""
        return _renamed(await super().claim_actions(stream, books, consumer, count, idle_s))


def _renamed(found: Sequence[tuple[str, ActionEntry]]) -> list[tuple[str, ActionEntry]]:
    return [(book, msgspec.structs.replace(one, type=f"{one.type}_2")) for book, one in found]
