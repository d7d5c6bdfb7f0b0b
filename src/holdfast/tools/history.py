"""Reading one history of a log, though a failover may put another one in its place meanwhile.

A tool asks a server many things, one after the other. If the server fails over between two of them and
has lost its tail, the answers are of two histories, and together they tell of a book that never was:
the record of one with the inputs of the other. To the server nothing of that is an error. But it names
the history that it goes on with (its replication id), and takes another name with every promotion and
restart. So a tool asks for the name before anything else and once more before it says or writes
anything; where the two differ, whatever it found, or failed by, is worth nothing.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from holdfast.actors.booking.runner import BookBugError
from holdfast.actors.ports import LogError, LogUnavailableError
from holdfast.tools.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from holdfast.tools.ports import Operator

_T = TypeVar("_T")

ATTEMPTS_MAX: Final = 3
"""So often something short is looked at anew."""


class HistoryChangedError(ToolError):
    """What was read is of two histories. The message says what to do."""

    def __init__(self, book: str) -> None:
        super().__init__(
            f"the server of {book} failed over or was restarted while its log was read, which may "
            "have gone back: do it again"
        )


class History:
    """The history that a book is read in. Make it with :meth:`begin`, before anything is read.

    Args:
      operator: Where the book lies.
      book: Which.
      name: What the server called the history.
    """

    def __init__(self, operator: Operator, book: str, name: str) -> None:
        self._operator = operator
        self._book = book
        self.name = name

    @classmethod
    async def begin(cls, operator: Operator, book: str) -> History:
        """The history as it is now."""
        return cls(operator, book, await operator.history())

    async def require_same(self) -> None:
        """Make sure that all that was read since then is of one history.

        Raises:
          HistoryChangedError: It may not be.
        """
        if await self._operator.history() != self.name:
            raise HistoryChangedError(self._book)


@asynccontextmanager
async def one_history(*histories: History | None) -> AsyncGenerator[None]:
    """What is read within is of one history each; None is of something that does not change.

    Raises:
      HistoryChangedError: It may not be, whatever else was wrong with it.
    """
    try:
        yield
    except LogUnavailableError:
        raise
    except (ToolError, LogError, BookBugError):
        for history in filter(None, histories):
            await history.require_same()
        raise
    for history in filter(None, histories):
        await history.require_same()


async def look_until_steady(operator: Operator, book: str, look: Callable[[], Awaitable[_T]]) -> _T:
    """What *look* finds of *book*, looked at anew where that was of two histories.

    Raises:
      HistoryChangedError: It was so each time.
    """
    for _ in range(ATTEMPTS_MAX - 1):
        try:
            async with one_history(await History.begin(operator, book)):
                return await look()
        except HistoryChangedError:
            continue
    async with one_history(await History.begin(operator, book)):
        return await look()
