"""Standing by: books that another actor leads, kept warm by following the log.

A standby reads the outcomes, and decides the inputs that they answer for itself. So its book is where the
leader's commits are and never beyond, and both must have come to the same outcomes: a standby is a
check of its leader, too. When it takes over there is hardly anything left to replay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVarTuple, Unpack

import trio

from holdfast.actors.booking.loading import DivergedError
from holdfast.actors.booking.runner import BookBugError
from holdfast.actors.ports import LogError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast.actors.booking.patience import Patience
    from holdfast.actors.booking.runner import BookRunner
    from holdfast.actors.ports import Log, OutcomeEntry

_Args = TypeVarTuple("_Args")


class Standby:
    """The books that one actor follows.

    Args:
      log: Where they are.
      patience: How to wait for it.
      batch_max: Most outcomes of one book in a read.
      wait_s: Longest single blocking read.
      on_lost: Called with a book that cannot be followed on, and why; it is not followed any more.
    """

    def __init__(
        self,
        log: Log,
        patience: Patience,
        *,
        batch_max: int,
        wait_s: float,
        on_lost: Callable[[str, Exception], None],
    ) -> None:
        self._log = log
        self._patience = patience
        self._batch_max = batch_max
        self._wait_s = wait_s
        self._on_lost = on_lost
        self._runners: dict[str, BookRunner] = {}
        self._interrupt_read = trio.CancelScope()
        self._some = trio.Event()

    @property
    def books(self) -> list[str]:
        """The books that are followed."""
        return list(self._runners)

    def __contains__(self, book: str) -> bool:
        return book in self._runners

    def add(self, runner: BookRunner) -> None:
        """Follow a book from where *runner* is."""
        self._runners[runner.book] = runner
        self._some.set()
        self._interrupt_read.cancel()  # so that the next read includes it

    def take(self, book: str) -> BookRunner | None:
        """Follow *book* no more; return it as far as it was followed."""
        return self._runners.pop(book, None)

    async def follow(self) -> None:
        """Keep all books warm."""
        while True:
            while not self._runners:
                self._some = trio.Event()
                await self._some.wait()
            runners = dict(self._runners)
            for book, outcomes in (await self._read()).items():
                if self._runners.get(book) is runners[book]:
                    await self._guarded(book, self._advance, runners[book], outcomes)

    async def _read(self) -> dict[str, list[OutcomeEntry]]:
        """What has been decided of any book; empty where the wait was cut short."""
        found: dict[str, list[OutcomeEntry]] = {}
        spoiled: LogError | None = None
        with trio.CancelScope() as self._interrupt_read:
            try:
                found = await self._read_outcomes(self.books, self._wait_s)
            except LogError as error:
                spoiled = error
        if spoiled is not None:
            for book in self.books:  # one of them is spoilt, and the others need not suffer for it
                await self._guarded(book, self._read_outcomes, [book], 0.0)
        return found

    async def _read_outcomes(
        self, books: Sequence[str], wait_s: float
    ) -> dict[str, list[OutcomeEntry]]:
        after = {book: self._runners[book].position for book in books if book in self._runners}
        return await self._patience.wait(
            self._log.read_outcomes, after, self._batch_max, wait_s=wait_s
        )

    async def _guarded(
        self, book: str, step: Callable[[Unpack[_Args]], Awaitable[object]], *args: *_Args
    ) -> None:
        """Do one step for *book*; an error in it ends the following of this book alone."""
        try:
            await step(*args)
        except (LogError, DivergedError, BookBugError) as error:
            if self._runners.pop(book, None) is not None:
                self._on_lost(book, error)

    async def _advance(self, runner: BookRunner, outcomes: list[OutcomeEntry]) -> None:
        """Decide what *outcomes* answer.

        Raises:
          DivergedError: The log has other inputs, or the leader came to other outcomes.
        """
        book = runner.book
        after = {book: runner.position}
        found = await self._patience.call(self._log.read_inputs, after, len(outcomes), 0.0)
        if self._runners.get(book) is not runner:
            return  # it was taken meanwhile
        inputs = found.get(book, [])
        if [entry.id for entry in inputs] != [outcome.id for outcome in outcomes]:
            raise DivergedError(
                f"book {book}: the inputs after {after[book]} are not those that have outcomes; "
                f"run 'holdfast check {book}'"
            )
        if runner.decide(inputs).outcomes != outcomes:
            raise DivergedError(
                f"book {book}: its leader decided the inputs after {after[book]} in another way; "
                f"run 'holdfast check {book}'"
            )
