"""Keeping: which books one actor follows, and which of them it leads.

Every book that is wanted is loaded, followed, and taken over when nobody leads it. Three tasks see to
that:

- *discover* finds books;
- *begin* loads those that are wanted: new ones, those that were lost to another actor, and after a while
  those that were given up;
- *look* looks at the leases of those who lead what is followed, and at the records of all.
"""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING

import structlog
import trio

from holdfast.actors.booking.leading import Leading
from holdfast.actors.booking.lease import LOOKS
from holdfast.actors.booking.loading import (
    DivergedError,
    advance,
    check_version,
    explained,
    load,
)
from holdfast.actors.booking.runner import BookBugError, VersionError
from holdfast.actors.booking.standby import Standby
from holdfast.actors.ports import LogError, LogTrimmedError, SupersededError, TailLostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.booking.lease import Lease
    from holdfast.actors.booking.options import BookingOptions
    from holdfast.actors.booking.patience import Patience
    from holdfast.actors.booking.runner import BookRunner
    from holdfast.actors.health import Health
    from holdfast.actors.ports import Clock, CommitRecord, Log

_log = structlog.get_logger("booking")

RETAKE_S = 10.0
"""How long a book that was given up is left alone before it is tried again."""

RETAKE_S_MAX = 300.0
"""That time doubles up to this."""

LEAD_AT_ONCE = 16
"""Takeovers on their way at a time: each waits for the server's disk, which takes many at once."""

_BOOK_ERRORS = (LogError, BookBugError, DivergedError, VersionError)
"""What ends the work on one book, and not on the others."""


class Keeping:
    """The books of one actor, followed and led.

    Args:
      log: Where they are.
      clock: Says which timers are due.
      patience: How to wait for the log.
      lease: This life's lease.
      owner: Its token.
      options: How to work.
      stop: Once set, nothing more is decided.
      health: Told of each book that was given up.

    Attributes:
      standby: The books that are followed.
      leading: The books that are led.
      lost: Why the last book was given up; None while none was.
    """

    def __init__(
        self,
        log: Log,
        clock: Clock,
        patience: Patience,
        lease: Lease,
        *,
        owner: str,
        options: BookingOptions,
        stop: trio.Event,
        health: Health,
    ) -> None:
        self._log = log
        self._patience = patience
        self._patiently = patience.call
        self._lease = lease
        self._owner = owner
        self._options = options
        self._health = health
        self.standby = Standby(
            log,
            patience,
            batch_max=options.batch_max,
            wait_s=options.wait_s,
            on_lost=self._follow_anew,
        )
        self.leading = Leading(
            log,
            clock,
            patience,
            owner=owner,
            options=options,
            stop=stop,
            on_committed=self._do_well,
            on_lost=self._give_up,
        )
        self.lost: Exception | None = None
        self._wanted: dict[str, float] = {}  # books to be followed, from when on in trio's time
        self._wanted_changed = trio.Event()
        self._seen: dict[str, CommitRecord] = {}  # as last read, of books that are followed
        self._failures: dict[str, int] = {}  # how often each was given up since its last commit
        self._tried = False  # whether every book that there was at the start has been tried

    def has_nothing_left(self) -> bool:
        """Whether every book was given up, and those that are to be tried again wait for the next life."""
        return (
            not self._options.stay
            and self.lost is not None
            and self._tried
            and not self.leading.books
            and not self.standby.books
            and all(book in self._failures for book in self._wanted)
        )

    # -- find -------------------------------------------------------------------------------

    async def discover(self) -> None:
        """Want every book, now and as new ones appear."""
        known: set[str] = set()
        wait_s = 0.0  # what is there already need not be waited for, whatever becomes of the answer
        while True:
            found = await self._patience.wait(self._log.wait_books, len(known), wait_s=wait_s)
            wait_s = self._options.wait_s
            # A failover may have lost some, so that there are as many as before and yet others.
            self.want([book for book in found if book not in known and not self._knows(book)])
            known = set(found)

    def _knows(self, book: str) -> bool:
        return book in self._wanted or book in self.standby or book in self.leading

    def want(self, books: Sequence[str], after_s: float = 0.0) -> None:
        """Follow *books*, from *after_s* on."""
        for book in books:
            self._wanted[book] = trio.current_time() + after_s
        self._wanted_changed.set()

    # -- begin ------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Follow every wanted book, and lead it if nobody does."""
        await self._lease.held.wait()
        while True:
            self._wanted_changed = trio.Event()
            now_s = trio.current_time()
            due = [book for book, at_s in self._wanted.items() if at_s <= now_s]
            for book in due:
                await self._begin(book)
            self._tried = self._tried or bool(due)
            with trio.move_on_at(min(self._wanted.values(), default=math.inf)):
                await self._wanted_changed.wait()

    async def _begin(self, book: str) -> None:
        """Follow *book*, and lead it if nobody does; if it cannot be, the others do not suffer for it."""
        try:
            runner = await self._load(book)
            if book in self._failures:  # take nothing over that would be given up again at once
                after = {book: runner.position}
                await self._patiently(self._log.read_inputs, after, 1, 0.0)
        except _BOOK_ERRORS as error:
            self._give_up(book, error)
        else:
            del self._wanted[book]
            self._health.well(f"book {book}")
            self.standby.add(runner)
            _log.info("book_followed", book=book, position=runner.position)
            await self._lead_free([book])

    async def _load(self, book: str) -> BookRunner:
        """The book as far as it is decided. Whoever leads it may trim it meanwhile; try once more then."""
        for again in (True, False):
            record = await self._patiently(self._log.read_record, book)
            self._seen[book] = record
            check_version(book, record)  # a process of another release follows nothing either
            try:
                return await self._load_at(book, record)
            except LogTrimmedError:
                if not again:
                    raise
        raise AssertionError

    async def _load_at(self, book: str, record: CommitRecord) -> BookRunner:
        options = self._options
        return await load(
            self._log,
            self._patience,
            book,
            record,
            batch_max=options.batch_max,
            check=options.check,
        )

    # -- look -------------------------------------------------------------------------------

    async def look(self) -> None:
        """Lead what nobody leads any more, and step down from what others have taken over.

        Each look reads the leases of all leaders that are known, and a share of the records, so that a
        record is no older than a lease's time: who leads many books is one lease and many records.
        """
        await self._lease.held.wait()
        for number in count():
            books = [*self.standby.books, *self.leading.books]
            self.leading.compare(await self._read_records(books[number % LOOKS :: LOOKS]))
            followed = {book: self._seen[book] for book in self.standby.books}
            await self._lead_free(await self._lease.without_leader(followed))
            await trio.sleep(self._lease.look_s)

    async def _lead_free(self, books: Sequence[str]) -> None:
        """Take over those of the followed *books* that nobody leads."""
        records = await self._read_records(books)
        free = await self._lease.without_leader(records)
        if free:
            # If ours was lost as well, whom we take a book from would take it back at once.
            await self._lease.hold()
        for start in range(0, len(free), LEAD_AT_ONCE):
            async with trio.open_nursery() as nursery:
                for book in free[start : start + LEAD_AT_ONCE]:
                    nursery.start_soon(self._try_to_lead, book, records[book])

    async def _try_to_lead(self, book: str, seen: CommitRecord) -> None:
        try:
            await self._lead(book, seen)
        except _BOOK_ERRORS as error:
            self._give_up(book, error)

    async def _read_records(self, books: Sequence[str]) -> dict[str, CommitRecord]:
        """The records of *books*; one that cannot be read ends the work on its book alone."""
        try:
            records = await self._patiently(self._log.read_records, books) if books else []
            found = dict(zip(books, records, strict=True))
        except LogError:
            found = {}
            for book in books:
                try:
                    found[book] = await self._patiently(self._log.read_record, book)
                except LogError as error:
                    self._give_up(book, error)
        self._seen.update(found)
        return found

    async def _lead(self, book: str, seen: CommitRecord) -> None:
        """Take a followed book over, replay what is left to its position, and begin to decide for it."""
        check_version(book, seen)
        runner = self.standby.take(book)
        if runner is None:
            return
        followed = runner.position
        try:
            record = await self._patiently(self._log.take_over, book, self._owner, seen.epoch)
        except (SupersededError, TailLostError):  # somebody else was faster, or a failover
            self.want([book])
            return
        runner = await self._catch_up(runner, record)
        self.leading.add(runner, record)
        _log.info("book_taken_over", book=book, epoch=record.epoch, followed_to=followed)

    async def _catch_up(self, runner: BookRunner, record: CommitRecord) -> BookRunner:
        """*runner* at *record*'s position."""
        try:
            await advance(
                self._log, self._patience, runner, record, batch_max=self._options.batch_max
            )
        except (LogTrimmedError, DivergedError):
            pass  # what was followed may be of a tail that a failover lost
        else:
            return runner
        try:
            return await self._load_at(runner.book, record)
        except (LogTrimmedError, DivergedError) as error:
            raise await explained(
                self._log, self._patience, runner.book, record.epoch, self._owner, error
            ) from None

    def _do_well(self, book: str) -> None:
        """The decisions for *book* are written: what went wrong with it before is over."""
        self._failures.pop(book, None)

    # -- lose -------------------------------------------------------------------------------

    def _follow_anew(self, book: str, error: Exception) -> None:
        """*book* cannot be followed on: what is kept of it may be of another history than the log's."""
        if isinstance(error, LogTrimmedError | DivergedError) and book not in self._failures:
            _log.info("book_followed_anew", book=book, why=str(error))
            self._failures[book] = 0
            self.want([book])
        else:
            self._give_up(book, error)

    def _give_up(self, book: str, error: Exception) -> None:
        """Do no more for one book; the others go on."""
        self.leading.drop(book)
        self.standby.take(book)
        if isinstance(error, SupersededError):
            _log.info("stepped_down", book=book, why=str(error))
            self.want([book])
            return
        self.lost = error
        failures = self._failures[book] = self._failures.get(book, 0) + 1
        if isinstance(error, BookBugError):
            self._wanted.pop(book, None)  # it would fail at the same input again
        else:
            self.want([book], min(RETAKE_S * 2 ** min(failures - 1, 30), RETAKE_S_MAX))
        _log.error("book_given_up", book=book, why=str(error))
        self._health.trouble(f"book {book}", str(error))
        self.leading.interrupt()  # so that whoever decides sees that nothing is left
