"""The booking actor: takes books over, decides their inputs in order, commits what it decided.

Any number of processes run it beside each other. One of them leads a book, as long as its lease is
held; the others stand by with a warm copy (see ``lease`` and ``standby``). A process leads many books
with one blocking read for all of them. Tasks share its books:

- *discover* finds books; *keep* loads each, follows it, and takes it over when nobody leads it;
- *decide* reads what has arrived and decides it, while the batch before is being committed;
- *commit* writes decided batches, each book's atomically; fencing is the log's compare-and-set. Who is
  refused, since another took the book over, drops it and stands by;
- *tick* appends a ``tick`` when a book's earliest timer is due.

Nothing here decides anything about bookings: that is ``runner``'s, which is pure. A batch is
whatever arrived while the last one was being committed; there are no timers that wait for more.
"""

from __future__ import annotations

import math
import random
from itertools import count
from typing import TYPE_CHECKING, cast

import msgspec
import structlog
import trio

from holdfast.actors.booking import wire
from holdfast.actors.booking.lease import Lease
from holdfast.actors.booking.loading import DivergedError, advance, check_version, load
from holdfast.actors.booking.messages import TakenOver, Tick
from holdfast.actors.booking.patience import Patience
from holdfast.actors.booking.runner import BookBugError, BookRunner, VersionError
from holdfast.actors.booking.standby import Standby
from holdfast.actors.health import Health
from holdfast.actors.ports import (
    BATCH_MAX,
    GENESIS,
    Commit,
    CommitRecord,
    CommitUnknownError,
    ForeignDataError,
    LogError,
    LogTrimmedError,
    LogUnavailableError,
    NewInput,
    Snapshot,
    SupersededError,
    TailLostError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from holdfast.actors.ports import Clock, InputEntry, Log

_log = structlog.get_logger("booking")

TICK_AGAIN_S = 0.1
"""How long to wait before another tick for the same timer, where the log's clock is behind ours."""

TICK_AGAIN_S_MAX = 2.0
"""That wait doubles up to this: a clock that is far ahead of the log's does not flood it."""

LOOK_AGAIN_S = 30.0
"""Longest sleep until a timer is due: meanwhile a clock that was wrong may have been set right."""

RETAKE_S = 10.0
"""How long a book that was given up is left alone before it is tried again."""

RETAKE_S_MAX = 300.0
"""That time doubles up to this."""

LEAD_AT_ONCE = 16
"""Takeovers on their way at a time: each waits for the server's disk, which takes many at once."""


_BOOK_ERRORS = (LogError, BookBugError, DivergedError, VersionError)
"""What ends the work on one book, and not on the others."""


class BookingOptions(msgspec.Struct, frozen=True):
    """How the booking actor works. None of it changes what is decided.

    Attributes:
      batch_max: Most inputs of one book in a commit.
      wait_s: Longest single blocking read.
      snapshot_inputs: A snapshot after so many inputs of a book.
      snapshot_s: A snapshot after so long, if anything was decided.
      lease_s: How long others wait for a process that is silent before they lead its books.
      retry_s: First wait where the log is away; doubles up to ``retry_s_max``.
      trim: After a snapshot, trim what nobody needs any more, the log's history with it. Off, so that
        a book can be replayed from its beginning.
      grace_s: After a stop, how long to wait for a log that is away; then once more for snapshots.
      check: Check the invariants after every input.
    """

    batch_max: int = BATCH_MAX
    wait_s: float = 5.0
    snapshot_inputs: int = 100_000
    snapshot_s: float = 300.0
    lease_s: float = 3.0
    retry_s: float = 0.05
    retry_s_max: float = 2.0
    trim: bool = False
    grace_s: float = 10.0
    check: bool = True


class _Owned:
    """A book that this actor holds."""

    __slots__ = (
        "_tick_wait_s", "_ticked_ms",
        "committed", "epoch", "runner", "since_snapshot", "snapshot_s", "tick_at_s",
    )  # fmt: skip

    def __init__(self, runner: BookRunner, record: CommitRecord) -> None:
        self.runner = runner
        self.epoch = record.epoch
        self.committed = record.position
        self.since_snapshot = 0
        self.snapshot_s = trio.current_time()
        self.tick_at_s = -math.inf  # no tick before then: one is on its way
        self._ticked_ms: int | None = None
        self._tick_wait_s = TICK_AGAIN_S

    def ticked(self, due_ms: int | None) -> None:
        """A tick for the timer that is due at *due_ms* is on its way; one more can wait."""
        again = due_ms == self._ticked_ms
        self._tick_wait_s = min(self._tick_wait_s * 2, TICK_AGAIN_S_MAX) if again else TICK_AGAIN_S
        self._ticked_ms = due_ms
        self.tick_at_s = trio.current_time() + self._tick_wait_s


class _Batch(msgspec.Struct):
    """Commits on their way, and what may follow once they are written.

    Attributes:
      restores: The next pages of takeovers' restores, to be appended.
    """

    commits: list[Commit]
    snapshots: list[tuple[str, int, Snapshot]]
    restores: list[tuple[str, int, TakenOver]]


async def run_booking(
    log: Log,
    clock: Clock,
    *,
    owner: str,
    options: BookingOptions,
    stop: trio.Event,
    books: Sequence[str] | None = None,
    place: str = "",
    rng: random.Random | None = None,
    health: Health | None = None,
) -> None:
    """Lead books that nobody leads, and stand by for the others.

    Until *stop* is set; then finish, commit, snapshot, and give up the lease.

    Args:
      log: The log.
      clock: For waiting only.
      owner: A random token, new for each run.
      options: How to work.
      stop: Set it for a clean stop.
      books: Which books; None for all there are and will be.
      place: Where this life runs, the same for all lives of which the next begins only when the last
        one is dead; such a one need not wait for its predecessor's lease. "" where nobody sees to that.
      rng: Where the jitter of waits comes from; None for the system's.
      health: Told when the log is away and when it is back, and of each book that was given up.

    Raises:
      TailLostError: A failover forgot what this actor knows: run another one.
      BookBugError: The machine failed on an input: a bug of ours.
      DivergedError: A replay contradicts the commit record.
      VersionError: A book was decided by another version of the machine.
      LogError: A book's log cannot be used as it is; a person must look.
        Each but the first gives up one book; the last one is raised when no book is left.
    """
    rng, health = rng or random.Random(), health or Health()
    host = _Host(log, clock, owner, place, options, stop, rng, health)
    await host.run(books)


class _Host:
    def __init__(
        self,
        log: Log,
        clock: Clock,
        owner: str,
        place: str,
        options: BookingOptions,
        stop: trio.Event,
        rng: random.Random,
        health: Health,
    ) -> None:
        self._log = log
        self._clock = clock
        self._owner = owner
        self._options = options
        self._stop = stop
        self._health = health
        self._patience = Patience(options.retry_s, options.retry_s_max, rng, health)
        self._patiently = self._patience.call
        self._lease = Lease(log, self._patience, owner, place, options.lease_s)
        self._standby = Standby(
            log,
            self._patience,
            batch_max=options.batch_max,
            wait_s=options.wait_s,
            on_lost=self._follow_anew,
        )
        self._owned: dict[str, _Owned] = {}
        self._wanted: dict[str, float] = {}  # books to be followed, from when on in trio's time
        self._failures: dict[str, int] = {}  # how often each was given up since its last commit
        self._wanted_changed = trio.Event()
        self._lost: Exception | None = None  # why the last book was given up
        self._looked = False  # whether every book that there was at the start has been tried
        self._interrupt_read = trio.CancelScope()
        self._timers_changed = trio.Event()
        self._send, self._receive = trio.open_memory_channel[_Batch](0)

    async def run(self, books: Sequence[str] | None) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._lease.renew)
                await self._work(books)
                with trio.move_on_after(self._options.grace_s):
                    await self._leave()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first_leaf(group) from None

    async def _work(self, books: Sequence[str] | None) -> None:
        """Lead and stand by, until the stop."""
        async with trio.open_nursery() as nursery:
            if books is None:
                nursery.start_soon(self._until_stop, self._discover)
            else:
                self._want(books)
            nursery.start_soon(self._until_stop, self._keep)
            nursery.start_soon(self._until_stop, self._standby.follow)
            nursery.start_soon(self._until_stop, self._tick)
            nursery.start_soon(self._bound_the_stop, nursery.cancel_scope)
            async with trio.open_nursery() as working:
                working.start_soon(self._commit)
                await self._decide()
            nursery.cancel_scope.cancel()
        ended = not self._stop.is_set()  # for want of books, even if one came at the last moment
        if self._lost is not None and (ended or self._has_nothing_left()):
            raise self._lost

    async def _until_stop(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run *task* and cancel it when the actor is to stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task)
            await self._stop.wait()
            self._interrupt_read.cancel()
            nursery.cancel_scope.cancel()

    async def _bound_the_stop(self, scope: trio.CancelScope) -> None:
        """Leave even where the log stays away."""
        await self._stop.wait()
        await trio.sleep(self._options.grace_s)
        scope.cancel()

    # -- discover and keep ------------------------------------------------------------------

    async def _discover(self) -> None:
        """Want every book, now and as new ones appear."""
        known: list[str] = []
        while True:
            found = await self._patiently(self._log.wait_books, len(known), self._options.wait_s)
            # A failover may have lost some, so that there are as many as before and yet others.
            self._want([book for book in found if book not in known and not self._knows(book)])
            known = found

    def _knows(self, book: str) -> bool:
        return book in self._owned or book in self._wanted or book in self._standby.books

    def _want(self, books: Sequence[str], after_s: float = 0.0) -> None:
        """Follow *books*, from *after_s* on."""
        for book in books:
            self._wanted[book] = trio.current_time() + after_s
        self._wanted_changed.set()

    async def _keep(self) -> None:
        """Follow every wanted book, and lead what nobody leads."""
        await self._lease.held.wait()
        look_at_s = -math.inf
        while True:
            self._wanted_changed = trio.Event()
            now_s = trio.current_time()
            due = [book for book, at_s in self._wanted.items() if at_s <= now_s]
            for book in due:
                await self._begin(book)
            self._looked = self._looked or bool(due)
            if trio.current_time() >= look_at_s:
                await self._lead_free(self._standby.books)
                look_at_s = trio.current_time() + self._lease.look_s
            wake_s = min(self._wanted.values(), default=math.inf)
            if self._standby.books:
                wake_s = min(wake_s, look_at_s)
            with trio.move_on_at(wake_s):
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
            self._standby.add(runner)
            _log.info("book_followed", book=book, position=runner.position)
            await self._lead_free([book])

    async def _load(self, book: str) -> BookRunner:
        """The book as far as it is decided. Whoever leads it may trim it meanwhile; try once more then."""
        for again in (True, False):
            record = await self._patiently(self._log.read_record, book)
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

    async def _lead_free(self, books: Sequence[str]) -> None:
        """Take over those of the followed *books* that nobody leads."""
        records = await self._read_records(books)
        free = await self._lease.without_leader(records) if records else []
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
        """The records of *books*; one that cannot be read ends the following of its book alone."""
        try:
            records = await self._patiently(self._log.read_records, books)
        except LogError:
            records = []
        if len(records) == len(books):
            return dict(zip(books, records, strict=True))
        found: dict[str, CommitRecord] = {}
        for book in books:
            try:
                found[book] = await self._patiently(self._log.read_record, book)
            except LogError as error:
                self._give_up(book, error)
        return found

    async def _lead(self, book: str, seen: CommitRecord) -> None:
        """Take a followed book over, replay what is left to its position, and begin to decide for it."""
        check_version(book, seen)
        runner = self._standby.take(book)
        if runner is None:
            return
        followed = runner.position
        try:
            record = await self._patiently(self._log.take_over, book, self._owner, seen.epoch)
        except (SupersededError, TailLostError):  # somebody else was faster, or a failover
            self._want([book])
            return
        runner = await self._catch_up(runner, record)
        self._owned[book] = _Owned(runner, record)
        _log.info("book_taken_over", book=book, epoch=record.epoch, followed_to=followed)
        self._interrupt_read.cancel()  # so that the next read includes it

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
            raise await self._explained(runner.book, record.epoch, error) from None

    async def _explained(self, book: str, epoch: int, error: Exception) -> Exception:
        """*error*; or that we are superseded: what we lack, the new owner may have trimmed."""
        held = await self._patiently(self._log.read_record, book)
        if (held.epoch, held.owner) == (epoch, self._owner) or held.epoch < epoch:
            return error
        return SupersededError(
            f"another booking actor took over {book} from our epoch {epoch}: step down"
        )

    def _follow_anew(self, book: str, error: Exception) -> None:
        """*book* cannot be followed on: what is kept of it may be of another history than the log's."""
        if isinstance(error, LogTrimmedError | DivergedError) and book not in self._failures:
            _log.info("book_followed_anew", book=book, why=str(error))
            self._failures[book] = 0
            self._want([book])
        else:
            self._give_up(book, error)

    # -- decide -----------------------------------------------------------------------------

    async def _decide(self) -> None:
        """Read, decide, hand over to be committed; until stopped or nothing is left to own."""
        async with self._send:
            while not self._stop.is_set():
                found = await self._read()
                batch = self._decide_batch(found) if found else None
                if batch is not None:
                    try:
                        await self._send.send(batch)
                    except trio.BrokenResourceError:
                        return  # what commits has ended, and its error says why
                if self._has_nothing_left():
                    return

    def _has_nothing_left(self) -> bool:
        """Whether every book was given up; one that is to be tried again may wait for the next life."""
        return (
            self._lost is not None
            and self._looked
            and not self._owned
            and not self._standby.books
            and all(book in self._failures for book in self._wanted)
        )

    async def _read(self) -> Mapping[str, list[InputEntry]]:
        """What has arrived for any owned book; empty where the wait was cut short."""
        found: Mapping[str, list[InputEntry]] = {}
        reading = dict(self._owned)
        spoiled: LogTrimmedError | ForeignDataError | None = None
        with trio.CancelScope() as self._interrupt_read:
            if self._stop.is_set():
                return found
            if not reading:
                await trio.sleep(self._options.wait_s)
                return found
            after = {book: owned.runner.position for book, owned in reading.items()}
            try:
                found = await self._patiently(
                    self._log.read_inputs, after, self._options.batch_max, self._options.wait_s
                )
            except (LogTrimmedError, ForeignDataError) as error:
                spoiled = error
        if spoiled is not None:
            await self._give_up_spoiled(spoiled, reading)
        # A book that was lost and led again meanwhile is at another position.
        return {
            book: entries
            for book, entries in found.items()
            if self._owned.get(book) is reading[book]
        }

    async def _give_up_spoiled(
        self, spoiled: LogTrimmedError | ForeignDataError, reading: Mapping[str, _Owned]
    ) -> None:
        """Find the books whose inputs are gone or are not ours, and give up those alone."""
        found = False
        for book, owned in reading.items():
            if self._owned.get(book) is not owned:
                found = True  # it was given up while it was read
                continue
            try:
                await self._patiently(self._log.read_inputs, {book: owned.runner.position}, 1, 0.0)
            except (LogTrimmedError, ForeignDataError) as error:
                found = True
                explained = await self._explained(book, owned.epoch, error)
                _refuse_lost_tail(explained)
                self._give_up(book, explained)
        if not found:
            raise spoiled

    def _decide_batch(self, found: Mapping[str, list[InputEntry]]) -> _Batch | None:
        """Decide what was read; the book moves on before the commit is known to be written."""
        batch = _Batch([], [], [])
        for book, entries in found.items():
            owned = self._owned.get(book)
            if owned is None:
                continue
            runner = owned.runner
            after = runner.position
            try:
                decided = runner.decide(entries)
            except BookBugError as error:
                self._give_up(book, error)
                decided = error.decided  # what came before is good, and its askers wait for it
                if not decided.outcomes:
                    continue
            batch.commits.append(
                Commit(
                    book,
                    owned.epoch,
                    self._owner,
                    after,
                    runner.position,
                    runner.machine.version,
                    runner.digest,
                    decided.outcomes,
                    decided.payments,
                    decided.notifications,
                    decided.dead_letters,
                )
            )
            if book not in self._owned:
                continue
            if decided.restore_more is not None:
                batch.restores.append((book, owned.epoch, decided.restore_more))
            owned.since_snapshot += len(entries)
            if self._wants_snapshot(owned):
                owned.since_snapshot, owned.snapshot_s = 0, trio.current_time()
                batch.snapshots.append((book, owned.epoch, runner.snapshot()))
        self._timers_changed.set()
        return batch if batch.commits else None

    def _wants_snapshot(self, owned: _Owned) -> bool:
        age_s = trio.current_time() - owned.snapshot_s
        return (
            owned.since_snapshot >= self._options.snapshot_inputs
            or age_s >= self._options.snapshot_s
        )

    def _give_up(self, book: str, error: Exception) -> None:
        """Decide no more for one book; the others go on."""
        self._owned.pop(book, None)
        self._standby.take(book)
        if isinstance(error, SupersededError):
            _log.info("stepped_down", book=book, why=str(error))
            self._want([book])
            return
        self._lost = error
        failures = self._failures[book] = self._failures.get(book, 0) + 1
        if isinstance(error, BookBugError):
            self._wanted.pop(book, None)  # it would fail at the same input again
        else:
            self._want([book], min(RETAKE_S * 2 ** min(failures - 1, 30), RETAKE_S_MAX))
        _log.error("book_given_up", book=book, why=str(error))
        self._health.trouble(f"book {book}", str(error))
        self._interrupt_read.cancel()

    # -- commit -----------------------------------------------------------------------------

    async def _commit(self) -> None:
        """Write batches in order; one at a time is on its way while the next is decided."""
        async with self._receive, trio.open_nursery() as snapshots:
            async for batch in self._receive:
                for commit, error in zip(
                    batch.commits, await self._write(batch.commits), strict=True
                ):
                    if not self._leads(commit.book, commit.epoch):
                        continue  # what follows on a commit that was refused is refused, too
                    if error is not None:
                        _refuse_lost_tail(error)
                    if error is None:
                        self._owned[commit.book].committed = commit.position
                        self._failures.pop(commit.book, None)
                    else:
                        self._give_up(commit.book, error)
                self._patience.done("commit")
                for book, epoch, page in batch.restores:
                    if self._leads(book, epoch):
                        more = wire.encode_message(page)
                        new = NewInput("taken_over", more, by="service:booking")
                        await self._patiently(self._log.append, book, [new])
                for book, epoch, snapshot in batch.snapshots:
                    if self._leads(book, epoch):
                        snapshots.start_soon(self._save, book, snapshot, epoch)

    def _leads(self, book: str, epoch: int) -> bool:
        """Whether *book* is still led since that takeover; it may have been lost, and taken again."""
        owned = self._owned.get(book)
        return owned is not None and owned.epoch == epoch

    async def _write(self, commits: list[Commit]) -> list[LogError | None]:
        """Commit, however long the log is away; a result that is unknown is read, never guessed."""
        unknown = False
        for tries in count():
            try:
                if unknown:
                    return await self._write_rest(commits)
                return await self._log.commit(commits)
            except CommitUnknownError as error:
                unknown = True
                await self._patience.pause(tries, error, "commit")
            except LogUnavailableError as error:
                await self._patience.pause(tries, error, "commit")
        raise AssertionError

    async def _write_rest(self, commits: list[Commit]) -> list[LogError | None]:
        """After an unknown result: read which are written, and write those that are not."""
        answers = await self._log.resolve(commits)
        rest = [commit for commit, known in zip(commits, answers, strict=True) if known is False]
        written = iter(await self._log.commit(rest) if rest else [])
        return [
            next(written) if known is False else None if known is True else known
            for known in answers
        ]

    async def _save(self, book: str, snapshot: Snapshot, epoch: int) -> None:
        """Write a snapshot and trim what it makes needless; the book does not wait for it."""
        try:
            await self._log.save_snapshot(book, snapshot, epoch, self._owner)
            if self._options.trim:
                await self._log.trim(book)
        except SupersededError:
            return  # the next commit will say so
        except LogUnavailableError as error:
            _log.warning("snapshot_failed", book=book, why=str(error))
            return
        except LogError as error:
            if not self._stop.is_set():
                _refuse_lost_tail(error)
            if self._leads(book, epoch):
                self._give_up(book, error)
            return
        _log.info("snapshot_saved", book=book, position=snapshot.position)

    # -- tick -------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Append a tick for each book whose earliest timer is due.

        The clock may be wrong and be set right at any moment, so it says only what is due by now;
        how long to wait for anything is counted in the process's own time.
        """
        while True:
            self._timers_changed = trio.Event()
            now_s, now_ms = trio.current_time(), self._clock.now_ms()
            wake_s = math.inf
            due: list[str] = []
            for book, owned in self._owned.items():
                due_ms = owned.runner.next_due_ms()
                if due_ms is None:
                    continue
                wait_s = max((due_ms - now_ms) / 1000, owned.tick_at_s - now_s)
                if wait_s <= 0:
                    due.append(book)
                else:
                    wake_s = min(wake_s, now_s + min(wait_s, LOOK_AGAIN_S))
            for book in due:
                if book in self._owned:  # it may have been given up while another one was ticked
                    owned = self._owned[book]
                    # If it takes longer to be decided, another one does no harm.
                    owned.ticked(owned.runner.next_due_ms())
                    await self._append_tick(book)
            if not due:
                with trio.move_on_at(wake_s):
                    await self._timers_changed.wait()

    async def _append_tick(self, book: str) -> None:
        body = wire.encode_message(Tick())
        await self._patiently(self._log.append, book, [NewInput("tick", body, by="service:timer")])

    # -- stop -------------------------------------------------------------------------------

    async def _leave(self) -> None:
        """Snapshot each book, so that its next leader has nothing to replay, and let others lead."""
        for book, owned in list(self._owned.items()):
            if owned.committed != GENESIS and owned.committed == owned.runner.position:
                await self._save(book, owned.runner.snapshot(), owned.epoch)
        await self._lease.drop()
        _log.info("left", books=len(self._owned))


def _refuse_lost_tail(error: Exception) -> None:
    """End the whole actor where the log has forgotten what it knew of a book.

    A failover befalls the whole server, and what this actor knows of any book may be of the lost
    history. Who runs it begins anew, with another token.

    Raises:
      TailLostError: *error* is one.
    """
    if isinstance(error, TailLostError):
        raise error


def _first_leaf(error: BaseException) -> BaseException:
    """The first single exception in a group: whatever came after it is a consequence."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
