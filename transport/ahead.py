"""Notice inputs whose ids somebody set by hand, far ahead of the server's clock.

An entry's id is its time, and the book's clock. The server takes any id that is greater than the
last, and then gives out greater ones for ever: one entry of next year would let every slot hold
expire, and no later entry could bring the time back. So a booking actor must not decide it.

Such an entry is ahead of the server's clock *and* far beyond the entry before it. A server whose
clock was set back gives out ids close to each other, and its books go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import anyio
import hiredis

from holdfast.actors.ports import ForeignDataError
from holdfast.transport.connection import error_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.transport.pool import Server

Found: TypeAlias = "dict[str, list[tuple[bytes, list[bytes]]]]"
"""Raw entries by book."""


class AheadGuard:
    """Compares entries with the server's clock, which is asked seldom.

    Args:
      server: Whose clock.
      ahead_max_s: How far ahead of it an input may be.
    """

    def __init__(self, server: Server, ahead_max_s: float) -> None:
        self._server = server
        self._ahead_max_ms = ahead_max_s * 1000
        self._offset_ms: float | None = None

    async def check(self, after: Mapping[str, str], found: Found) -> Found:
        """The entries *found* after each book's position, up to one that is far ahead.

        Raises:
          ForeignDataError: The first of a book's entries is.
        """
        # Ids ascend, so the last one of each book is the farthest ahead.
        if not any(self._is_ahead(entries[-1][0]) for entries in found.values()):
            return found
        self._offset_ms = await self._ask()
        kept: Found = {}
        for book, entries in found.items():
            before_ms = _ms(after[book].encode())
            good = 0
            for id_, _ in entries:
                if _ms(id_) - before_ms > self._ahead_max_ms and self._is_ahead(id_):
                    break
                before_ms, good = _ms(id_), good + 1
            if not good:
                raise self._error(book, entries[0][0])
            kept[book] = entries[:good]
        return kept

    def _is_ahead(self, id_: bytes) -> bool:
        """Whether an entry is, or may be where the server was never asked."""
        if self._offset_ms is None:
            return True
        return _ms(id_) - self._offset_ms - anyio.current_time() * 1000 > self._ahead_max_ms

    async def _ask(self) -> float:
        """What to add to this process's own time, in ms, to get the server's."""
        reply = (await self._server.run([("TIME",)], again=True))[0]
        if isinstance(reply, hiredis.ReplyError):
            raise error_of(reply, "asking the server for the time")
        return int(reply[0]) * 1000 + int(reply[1]) / 1000 - anyio.current_time() * 1000

    def _error(self, book: str, id_: bytes) -> ForeignDataError:
        assert self._offset_ms is not None
        ahead_s = (_ms(id_) - self._offset_ms) / 1000 - anyio.current_time()
        return ForeignDataError(
            f"the input {id_.decode('ascii')} of {book} is {_length(ahead_s)} ahead of the server's "
            "clock, so somebody set its id by hand: to decide it would move the book's time; export "
            "the book up to the entry before it, import that under another name, and let the server "
            "choose ids"
        )


def _ms(id_: bytes) -> int:
    return int(id_.partition(b"-")[0])


def _length(seconds: float) -> str:
    """A length of time as a person says it."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:,.0f} {unit}"
    return f"{seconds:.0f} seconds"
