"""Leading: the books that one actor decides for, all with one blocking read.

Three tasks share them:

- *decide* reads what has arrived and decides it, while the batch before is being committed;
- *commit* writes decided batches, each book's atomically; fencing is the log's compare-and-set. A book
  whose commit is refused, since another actor took it over, is dropped with all that was decided;
- *tick* appends a ``tick`` when a book's earliest timer is due.

Nothing here decides anything about bookings: that is ``runner``'s, which is pure. A batch is
whatever arrived while the last one was being committed; there are no timers that wait for more.
"""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING

import msgspec
import structlog
import trio

from holdfast.actors.booking import wire
from holdfast.actors.booking.loading import explained, superseded
from holdfast.actors.booking.messages import TakenOver, Tick
from holdfast.actors.booking.runner import BookBugError, BookRunner
from holdfast.actors.ports import (
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
    from collections.abc import Callable, Mapping

    from holdfast.actors.booking.options import BookingOptions
    from holdfast.actors.booking.patience import Patience
    from holdfast.actors.ports import Clock, InputEntry, Log

_log = structlog.get_logger("booking")

TICK_AGAIN_S = 0.1
"""How long to wait before another tick for the same timer, where the log's clock is behind ours."""

TICK_AGAIN_S_MAX = 2.0
"""That wait doubles up to this: a clock that is far ahead of the log's does not flood it."""

LOOK_AGAIN_S = 30.0
"""Longest sleep until a timer is due: meanwhile a clock that was wrong may have been set right."""


class Led:
    """A book that this actor leads."""

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


class Leading:
    """The books that one actor leads.

    Args:
      log: Where they are.
      clock: Says which timers are due.
      patience: How to wait for the log.
      owner: The token of this life.
      options: How to work.
      stop: Once set, nothing more is decided.
      on_committed: Called with each book whose decisions were written.
      on_lost: Called with a book that cannot be led on, and why; it is not led any more.
    """

    def __init__(
        self,
        log: Log,
        clock: Clock,
        patience: Patience,
        *,
        owner: str,
        options: BookingOptions,
        stop: trio.Event,
        on_committed: Callable[[str], object],
        on_lost: Callable[[str, Exception], None],
    ) -> None:
        self._log = log
        self._clock = clock
        self._patience = patience
        self._patiently = patience.call
        self._owner = owner
        self._options = options
        self._stop = stop
        self._on_committed = on_committed
        self._on_lost = on_lost
        self._led: dict[str, Led] = {}
        self._interrupt_read = trio.CancelScope()
        self._timers_changed = trio.Event()
        self._send, self._receive = trio.open_memory_channel[_Batch](0)

    @property
    def books(self) -> list[str]:
        """The books that are led."""
        return list(self._led)

    def __contains__(self, book: str) -> bool:
        return book in self._led

    def add(self, runner: BookRunner, record: CommitRecord) -> None:
        """Lead a book on from *record*, where *runner* is."""
        self._led[runner.book] = Led(runner, record)
        self.interrupt()  # so that the next read includes it

    def drop(self, book: str) -> None:
        """Lead *book* no more, and forget what was decided and is not committed."""
        if self._led.pop(book, None) is not None:
            self.interrupt()  # its answer may never come, if it was lost to another server

    def interrupt(self) -> None:
        """Cut the read that waits now short."""
        self._interrupt_read.cancel()

    def _lose(self, book: str, error: Exception) -> None:
        self.drop(book)
        self._on_lost(book, error)

    def compare(self, records: Mapping[str, CommitRecord]) -> None:
        """Step down from each led book which, as its record says, another actor has taken over.

        A commit would be refused, but there is none while nothing arrives; and a read from a server that
        is not there any more may wait long for an answer. A record that is older than what is known here
        says nothing: it may be an answer that came late, and a loss is found by who commits.
        """
        for book, record in records.items():
            led = self._led.get(book)
            if led is None:
                continue
            if record.epoch > led.epoch or (
                record.epoch == led.epoch and record.owner != self._owner
            ):
                self._lose(book, superseded(book, led.epoch))

    # -- decide -----------------------------------------------------------------------------

    async def decide(self, is_done: Callable[[], bool]) -> None:
        """Read, decide, hand over to be committed; until stopped, or *is_done* after a batch."""
        async with self._send:
            while not self._stop.is_set():
                found = await self._read()
                batch = self._decide_batch(found) if found else None
                if batch is not None:
                    try:
                        await self._send.send(batch)
                    except trio.BrokenResourceError:
                        return  # what commits has ended, and its error says why
                if is_done():
                    return

    async def _read(self) -> Mapping[str, list[InputEntry]]:
        """What has arrived for any led book; empty where the wait was cut short."""
        found: Mapping[str, list[InputEntry]] = {}
        reading = dict(self._led)
        spoiled: LogTrimmedError | ForeignDataError | None = None
        with trio.CancelScope() as self._interrupt_read:
            if self._stop.is_set():
                return found
            if not reading:
                await trio.sleep(self._options.wait_s)
                return found
            after = {book: led.runner.position for book, led in reading.items()}
            try:
                found = await self._patience.wait(
                    self._log.read_inputs,
                    after,
                    self._options.batch_max,
                    wait_s=self._options.wait_s,
                )
            except (LogTrimmedError, ForeignDataError) as error:
                spoiled = error
        if spoiled is not None:
            await self._lose_spoiled(spoiled, reading)
        # A book that was lost and led again meanwhile is at another position.
        return {
            book: entries for book, entries in found.items() if self._led.get(book) is reading[book]
        }

    async def _lose_spoiled(
        self, spoiled: LogTrimmedError | ForeignDataError, reading: Mapping[str, Led]
    ) -> None:
        """Find the books whose inputs are gone or are not ours, and give up those alone."""
        found = False
        for book, led in reading.items():
            if self._led.get(book) is not led:
                found = True  # it was given up while it was read
                continue
            try:
                await self._patiently(self._log.read_inputs, {book: led.runner.position}, 1, 0.0)
            except (LogTrimmedError, ForeignDataError) as error:
                found = True
                why = await explained(
                    self._log, self._patience, book, led.epoch, self._owner, error
                )
                refuse_lost_tail(why)
                self._lose(book, why)
        if not found:
            raise spoiled

    def _decide_batch(self, found: Mapping[str, list[InputEntry]]) -> _Batch | None:
        """Decide what was read; the book moves on before the commit is known to be written."""
        batch = _Batch([], [], [])
        for book, entries in found.items():
            led = self._led.get(book)
            if led is None:
                continue
            runner = led.runner
            after = runner.position
            try:
                decided = runner.decide(entries)
            except BookBugError as error:
                self._lose(book, error)
                decided = error.decided  # what came before is good, and its askers wait for it
                if not decided.outcomes:
                    continue
            batch.commits.append(
                Commit(
                    book,
                    led.epoch,
                    self._owner,
                    after,
                    runner.position,
                    runner.machine.version,
                    runner.digest,
                    decided.outcomes,
                    decided.payments,
                    decided.notifications,
                    decided.dead_letters,
                    next(one.fingerprint for one in reversed(entries) if one.id == runner.position),
                )
            )
            if book not in self._led:
                continue
            if decided.restore_more is not None:
                batch.restores.append((book, led.epoch, decided.restore_more))
            led.since_snapshot += len(entries)
            if self._wants_snapshot(led):
                led.since_snapshot, led.snapshot_s = 0, trio.current_time()
                batch.snapshots.append((book, led.epoch, runner.snapshot()))
        self._timers_changed.set()
        return batch if batch.commits else None

    def _wants_snapshot(self, led: Led) -> bool:
        age_s = trio.current_time() - led.snapshot_s
        return (
            led.since_snapshot >= self._options.snapshot_inputs or age_s >= self._options.snapshot_s
        )

    # -- commit -----------------------------------------------------------------------------

    async def commit(self) -> None:
        """Write batches in order; one at a time is on its way while the next is decided."""
        async with self._receive, trio.open_nursery() as snapshots:
            async for batch in self._receive:
                for commit, error in zip(
                    batch.commits, await self._write(batch.commits), strict=True
                ):
                    if not self._leads(commit.book, commit.epoch):
                        continue  # what follows on a commit that was refused is refused, too
                    if error is not None:
                        refuse_lost_tail(error)
                    if error is None:
                        self._led[commit.book].committed = commit.position
                        self._on_committed(commit.book)
                    else:
                        self._lose(commit.book, error)
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
        led = self._led.get(book)
        return led is not None and led.epoch == epoch

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
                refuse_lost_tail(error)
            if self._leads(book, epoch):
                self._lose(book, error)
            return
        _log.info("snapshot_saved", book=book, position=snapshot.position)

    # -- tick -------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Append a tick for each book whose earliest timer is due.

        The clock may be wrong and be set right at any moment, so it says only what is due by now;
        how long to wait for anything is counted in the process's own time.
        """
        while True:
            self._timers_changed = trio.Event()
            now_s, now_ms = trio.current_time(), self._clock.now_ms()
            wake_s = math.inf
            due: list[str] = []
            for book, led in self._led.items():
                due_ms = led.runner.next_due_ms()
                if due_ms is None:
                    continue
                wait_s = max((due_ms - now_ms) / 1000, led.tick_at_s - now_s)
                if wait_s <= 0:
                    due.append(book)
                else:
                    wake_s = min(wake_s, now_s + min(wait_s, LOOK_AGAIN_S))
            for book in due:
                if book in self._led:  # it may have been given up while another one was ticked
                    led = self._led[book]
                    # If it takes longer to be decided, another one does no harm.
                    led.ticked(led.runner.next_due_ms())
                    await self._append_tick(book)
            if not due:
                with trio.move_on_at(wake_s):
                    await self._timers_changed.wait()

    async def _append_tick(self, book: str) -> None:
        body = wire.encode_message(Tick())
        await self._patiently(self._log.append, book, [NewInput("tick", body, by="service:timer")])

    # -- stop -------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Snapshot each book, so that its next leader has nothing to replay."""
        for book, led in list(self._led.items()):
            if led.committed != GENESIS and led.committed == led.runner.position:
                await self._save(book, led.runner.snapshot(), led.epoch)


def refuse_lost_tail(error: Exception) -> None:
    """End the whole actor where the log has forgotten what it knew of a book.

    A failover befalls the whole server, and what this actor knows of any book may be of the lost
    history. Who runs it begins anew, with another token.

    Raises:
      TailLostError: *error* is one.
    """
    if isinstance(error, TailLostError):
        raise error
