"""The booking actor: takes books over, decides their inputs in order, commits what it decided.

One process runs many books with one blocking read for all of them. Four tasks share the owned books:

- *discover* finds books, takes each over, loads its snapshot and replays to its position;
- *decide* reads what has arrived and decides it, while the batch before is being committed;
- *commit* writes decided batches, each book's atomically; fencing is the log's compare-and-set;
- *tick* appends a ``tick`` when a book's earliest timer is due.

Nothing here decides anything about bookings: that is ``runner``'s, which is pure. A batch is
whatever arrived while the last one was being committed; there are no timers that wait for more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack, cast

import msgspec
import structlog
import trio

from holdfast.actors.booking import wire
from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.booking.messages import TakenOver, Tick
from holdfast.actors.booking.runner import BookBugError, BookRunner, VersionError
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

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")
_log = structlog.get_logger("booking")

TICK_AGAIN_S = 0.1
"""How long to wait before another tick for the same timer, where the log's clock is behind ours."""

TICK_AGAIN_S_MAX = 2.0
"""That wait doubles up to this: a clock that is far ahead of the log's does not flood it."""

LOOK_AGAIN_S = 30.0
"""Longest sleep until a timer is due: meanwhile a clock that was wrong may have been set right."""


class DivergedError(Exception):
    """A replay did not give what the commit record says: the log or the code was changed."""


class BookingOptions(msgspec.Struct, frozen=True):
    """How the booking actor works. None of it changes what is decided.

    Attributes:
      batch_max: Most inputs of one book in a commit.
      wait_s: Longest single blocking read.
      snapshot_inputs: A snapshot after so many inputs of a book.
      snapshot_s: A snapshot after so long, if anything was decided.
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
    snapshots: list[tuple[str, Snapshot]]
    restores: list[tuple[str, TakenOver]]


async def run_booking(
    log: Log,
    clock: Clock,
    *,
    owner: str,
    options: BookingOptions,
    stop: trio.Event,
    books: Sequence[str] | None = None,
) -> None:
    """Own books and decide their inputs until *stop*; then finish, commit, snapshot, and leave.

    Args:
      log: The log.
      clock: For waiting only.
      owner: A random token, new for each run.
      options: How to work.
      stop: Set it for a clean stop.
      books: Which books; None for all there are and will be.

    Raises:
      TailLostError: A failover forgot what this actor knows: run another one.
      SupersededError: Another booking actor took a book over.
      BookBugError: The machine failed on an input: a bug of ours.
      DivergedError: A replay contradicts the commit record.
      VersionError: A book was decided by another version of the machine.
      LogError: A book's log cannot be used as it is; a person must look.
        Each but the first gives up one book; the last one is raised when no book is left.
    """
    await _Host(log, clock, owner, options, stop).run(books)


class _Host:
    def __init__(
        self, log: Log, clock: Clock, owner: str, options: BookingOptions, stop: trio.Event
    ) -> None:
        self._log = log
        self._clock = clock
        self._owner = owner
        self._options = options
        self._stop = stop
        self._owned: dict[str, _Owned] = {}
        self._lost: Exception | None = None  # why the last book was given up
        self._looked = False  # whether every book that there was at the start has been tried
        self._interrupt_read = trio.CancelScope()
        self._timers_changed = trio.Event()
        self._send, self._receive = trio.open_memory_channel[_Batch](0)

    async def run(self, books: Sequence[str] | None) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_stop, self._discover, books)
                nursery.start_soon(self._until_stop, self._tick)
                nursery.start_soon(self._bound_the_stop, nursery.cancel_scope)
                async with trio.open_nursery() as working:
                    working.start_soon(self._commit)
                    await self._decide()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first_leaf(group) from None
        ended = not self._stop.is_set()  # for want of books, even if one came at the last moment
        if self._lost is not None and (ended or self._has_nothing_left()):
            raise self._lost
        with trio.move_on_after(self._options.grace_s):
            await self._leave()

    async def _until_stop(
        self, task: Callable[[Unpack[_Args]], Awaitable[None]], *args: *_Args
    ) -> None:
        """Run *task* and cancel it when the actor is to stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task, *args)
            await self._stop.wait()
            self._interrupt_read.cancel()
            nursery.cancel_scope.cancel()

    async def _bound_the_stop(self, scope: trio.CancelScope) -> None:
        """Leave even where the log stays away."""
        await self._stop.wait()
        await trio.sleep(self._options.grace_s)
        scope.cancel()

    # -- discover ---------------------------------------------------------------------------

    async def _discover(self, books: Sequence[str] | None) -> None:
        """Take over every book, now and as new ones appear."""
        if books is not None:
            await self._own_all(books)
            return
        known: list[str] = []
        while True:
            found = await self._patiently(self._log.wait_books, len(known), self._options.wait_s)
            # A failover may have lost some, so that there are as many as before and yet others.
            await self._own_all(
                [book for book in found if book not in known and book not in self._owned]
            )
            known = found

    async def _own_all(self, books: Sequence[str]) -> None:
        """Take *books* over; one that cannot be decided for does not keep the others from it."""
        for book in books:
            try:
                await self._own(book)
            except LogUnavailableError:
                raise
            except (LogError, BookBugError, DivergedError, VersionError) as error:
                self._give_up(book, error)
        self._looked = self._looked or bool(books)
        self._interrupt_read.cancel()

    async def _own(self, book: str) -> None:
        """Take a book over, load it, replay it to its position, and begin to decide for it."""
        # Looked at first, so that a process of another release does not take the book from its owner.
        _check_version(book, await self._patiently(self._log.read_record, book))
        record = await self._patiently(self._log.take_over, book, self._owner)
        _check_version(book, record)
        try:
            runner, replayed = await self._load(book, record)
        except (LogTrimmedError, DivergedError) as error:
            raise await self._explained(book, record.epoch, error) from None
        self._owned[book] = _Owned(runner, record)
        _log.info("book_taken_over", book=book, epoch=record.epoch, replayed=replayed)
        self._interrupt_read.cancel()  # so that the next read includes it

    async def _load(self, book: str, record: CommitRecord) -> tuple[BookRunner, int]:
        """The book at *record*'s position, from its newest snapshot, and how much was replayed."""
        snapshot = await self._patiently(self._log.read_snapshot, book)
        if snapshot is not None and _order(snapshot.position) > _order(record.position):
            snapshot = None  # of a tail that a failover lost
        runner = BookRunner(book, snapshot, check=self._options.check)
        replayed = 0
        while _order(runner.position) < _order(record.position):
            after = {book: runner.position}
            entries = (
                await self._patiently(self._log.read_inputs, after, self._options.batch_max, 0.0)
            ).get(book, [])
            entries = [entry for entry in entries if _order(entry.id) <= _order(record.position)]
            if not entries:
                raise DivergedError(
                    f"book {book}: the inputs up to {record.position} are not all in the log; "
                    "restore them, or start from a snapshot"
                )
            runner.decide(entries)
            replayed += len(entries)
            await trio.lowlevel.checkpoint()
        if record.digest and runner.digest != record.digest:
            raise DivergedError(
                f"book {book}: replay to {record.position} gives digest {runner.digest}, the commit "
                f"record says {record.digest}; run 'holdfast check {book}'"
            )
        return runner, replayed

    async def _explained(self, book: str, epoch: int, error: Exception) -> Exception:
        """*error*; or that we are superseded: what we lack, the new owner may have trimmed."""
        held = await self._patiently(self._log.read_record, book)
        if (held.epoch, held.owner) == (epoch, self._owner) or held.epoch < epoch:
            return error
        return SupersededError(
            f"another booking actor took over {book} from our epoch {epoch}: step down"
        )

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
        return self._lost is not None and self._looked and not self._owned

    async def _read(self) -> Mapping[str, list[InputEntry]]:
        """What has arrived for any owned book; empty where the wait was cut short."""
        found: Mapping[str, list[InputEntry]] = {}
        spoiled: LogTrimmedError | ForeignDataError | None = None
        with trio.CancelScope() as self._interrupt_read:
            if self._stop.is_set():
                return found
            if not self._owned:
                await trio.sleep(self._options.wait_s)
                return found
            after = {book: owned.runner.position for book, owned in self._owned.items()}
            try:
                found = await self._patiently(
                    self._log.read_inputs, after, self._options.batch_max, self._options.wait_s
                )
            except (LogTrimmedError, ForeignDataError) as error:
                spoiled = error
        if spoiled is not None:
            await self._give_up_spoiled(spoiled)
        return found

    async def _give_up_spoiled(self, spoiled: LogTrimmedError | ForeignDataError) -> None:
        """Find the books whose inputs are gone or are not ours, and give up those alone."""
        found = False
        for book, owned in list(self._owned.items()):
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
                batch.restores.append((book, decided.restore_more))
            owned.since_snapshot += len(entries)
            if self._wants_snapshot(owned):
                owned.since_snapshot, owned.snapshot_s = 0, trio.current_time()
                batch.snapshots.append((book, runner.snapshot()))
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
        self._lost = error
        _log.error("book_given_up", book=book, why=str(error))
        self._interrupt_read.cancel()

    # -- commit -----------------------------------------------------------------------------

    async def _commit(self) -> None:
        """Write batches in order; one at a time is on its way while the next is decided."""
        async with self._receive, trio.open_nursery() as snapshots:
            async for batch in self._receive:
                for commit, error in zip(
                    batch.commits, await self._write(batch.commits), strict=True
                ):
                    owned = self._owned.get(commit.book)
                    if error is not None:
                        _refuse_lost_tail(error)
                        self._give_up(commit.book, error)
                    elif owned is not None:
                        owned.committed = commit.position
                for book, page in batch.restores:
                    new = NewInput("taken_over", wire.encode_message(page), by="service:booking")
                    await self._patiently(self._log.append, book, [new])
                for book, snapshot in batch.snapshots:
                    if book in self._owned:
                        snapshots.start_soon(self._save, book, snapshot, self._owned[book].epoch)

    async def _write(self, commits: list[Commit]) -> list[LogError | None]:
        """Commit, however long the log is away; a result that is unknown is read, never guessed."""
        wait_s = self._options.retry_s
        unknown = False
        while True:
            try:
                if unknown:
                    return await self._write_rest(commits)
                return await self._log.commit(commits)
            except CommitUnknownError:
                unknown = True
            except LogUnavailableError as error:
                _log.warning("commit_waits", why=str(error))
            await trio.sleep(wait_s)
            wait_s = min(wait_s * 2, self._options.retry_s_max)

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
            owned = self._owned.get(book)
            if owned is not None and owned.epoch == epoch:
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
        """Write a last snapshot of each book, so that the next owner has nothing to replay."""
        for book, owned in list(self._owned.items()):
            if owned.committed != GENESIS and owned.committed == owned.runner.position:
                await self._save(book, owned.runner.snapshot(), owned.epoch)
        _log.info("left", books=len(self._owned))

    async def _patiently(self, call: Callable[[Unpack[_Args]], Awaitable[_T]], *args: *_Args) -> _T:
        """Call the log; while it is away, wait and call again, longer each time."""
        wait_s = self._options.retry_s
        while True:
            try:
                return await call(*args)
            except LogUnavailableError as error:
                _log.warning("log_away", why=str(error), wait_s=wait_s)
            await trio.sleep(wait_s)
            wait_s = min(wait_s * 2, self._options.retry_s_max)


def _refuse_lost_tail(error: Exception) -> None:
    """End the whole actor where the log has forgotten what it knew of a book.

    A failover befalls the whole server, and what this actor knows of any book may be of the lost
    history. Who runs it begins anew, with another token.

    Raises:
      TailLostError: *error* is one.
    """
    if isinstance(error, TailLostError):
        raise error


def _check_version(book: str, record: CommitRecord) -> None:
    version = BookingMachine.version
    if record.version not in (0, version):
        raise VersionError(
            f"book {book} was decided by machine version {record.version}, this is {version}: "
            "drain it with the old release first"
        )


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence)


def _first_leaf(error: BaseException) -> BaseException:
    """The first single exception in a group: whatever came after it is a consequence."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
