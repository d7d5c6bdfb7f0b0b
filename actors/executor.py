"""What the executors share: take actions from the log, carry them out, post results, acknowledge.

An executor gives one function, ``carry_out(book, entry)``, and gets the rest from here:

- *Reading and claiming.* New actions of all books in one blocking read; a claimer takes over what a
  dead consumer, or this one in a previous life, left behind. An entry is *held* from then until its
  result is posted; whoever holds it says so in time (``keep_claim``), so that nobody else takes a
  long call for a dead one.
- *Posting.* A result and its acknowledgement are one transaction. Results of one book that are ready
  together go together: while one batch of a book is on its way the next gathers, with no timer.
- *Bounds.* At most ``read_max`` entries are held, twice that where a read and a claim, which both
  fill the room they saw, come in together. While the log is away results wait here and are
  tried again; since they count as held, reading stops by itself.
- *Foreign data.* A book whose keys somebody else spoilt is left out until a restart, with an error
  in the log; the others are served, and what was taken of that one stays pending.
- *Health.* Being unable to read or to post, and each book left out, is told as a trouble.
- *Stopping.* Nothing new is read, what is held is finished and posted, for ``stop_grace_s`` at most.
  What is not finished by then stays pending in the log, and another consumer claims it.

Carrying out happens at least once; an idempotency or dedupe key makes it one effect. Names of
consumers are unique among the processes that live at the same time.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import structlog
import trio

from holdfast.actors.health import Health
from holdfast.actors.ports import (
    BODY_BYTES_MAX,
    DeadLetter,
    ForeignDataError,
    LogUnavailableError,
    NewInput,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast.actors.ports import ActionEntry, ActionStream, Log

_log = structlog.get_logger(__name__)

REF_LENGTH_MAX = 64
"""Longest id of ours that fits a result (``Ref`` in the messages)."""


class ExecutorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an executor goes about it. Times in seconds.

    Attributes:
      concurrency_max: Most actions carried out at a time.
      read_max: Most actions held at a time before more are read or claimed: waiting, under way, or
        with a result to be posted. A read and a claim may each bring so many.
      finish_max: Most results in one transaction.
      posts_max: Most transactions, of different books, under way at a time.
      wait_s: Longest blocking read; a stop takes up to so long to be noticed.
      claim_idle_s: An entry that nobody spoke for so long is taken over.
      claim_every_s: Time between two looks for such entries.
      keep_claim_s: Time between two signs of life for what is held; well below *claim_idle_s*.
      attempts_max: Most attempts at one action.
      backoff_s: Wait after the first failure, then doubled, with jitter.
      backoff_max_s: Longest such wait.
      stop_grace_s: Most time to finish after a stop.
    """

    concurrency_max: int = 32
    read_max: int = 256
    finish_max: int = 128
    posts_max: int = 8
    wait_s: float = 1.0
    claim_idle_s: float = 30.0
    claim_every_s: float = 5.0
    keep_claim_s: float = 8.0
    attempts_max: int = 3
    backoff_s: float = 0.2
    backoff_max_s: float = 5.0
    stop_grace_s: float = 10.0

    def __post_init__(self) -> None:
        counts = (self.concurrency_max, self.read_max, self.finish_max, self.posts_max)
        if min(*counts, self.attempts_max) < 1:
            raise ValueError("every _max of an executor must be at least 1")
        if self.keep_claim_s * 2 > self.claim_idle_s:
            raise ValueError("keep_claim_s must be at most half of claim_idle_s")


LEFT_OUT_S = 10.0
"""After how long a book that was left out is looked at again; twice as long after each further time."""

LEFT_OUT_S_MAX = 300.0

CarryOut: TypeAlias = "Callable[[str, ActionEntry], Awaitable[NewInput | DeadLetter]]"
"""Carries one action of a book out: the result to post, or why it cannot be understood."""


class Backoff:
    """Waits that double, with jitter, up to a limit.

    Args:
      options: The waits.
      rng: Source of the jitter.
    """

    def __init__(self, options: ExecutorOptions, rng: random.Random) -> None:
        self._options = options
        self._rng = rng

    async def wait(self, failures: int) -> None:
        """Wait after the *failures*-th failure in a row, from 1."""
        options = self._options
        longest = min(options.backoff_max_s, options.backoff_s * 2.0 ** min(failures - 1, 30))
        await trio.sleep(longest * (0.5 + self._rng.random() / 2))


class _Signal:
    """Wakes whoever waits at this moment."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def fire(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Executor:
    """One consumer of one stream of actions.

    Args:
      log: Where actions come from and results go.
      stream: Which actions.
      consumer: Its name in the group, unique among the living.
      carry_out: What to do with an action.
      options: Bounds and times.
      rng: Source of jitter; nothing else is random.
      health: Told of what goes wrong.
    """

    def __init__(
        self,
        log: Log,
        stream: ActionStream,
        consumer: str,
        carry_out: CarryOut,
        options: ExecutorOptions,
        rng: random.Random,
        health: Health,
    ) -> None:
        self._log = log
        self._stream: ActionStream = stream
        self._consumer = consumer
        self._carry_out = carry_out
        self._options = options
        self._backoff = Backoff(options, rng)
        self._health = health
        self._events = _log.bind(stream=stream, consumer=consumer)
        self._books: list[str] = []
        self._left_out: dict[str, None] = {}
        self._failures: dict[str, int] = {}
        """How often each book was left out since something of it was finished."""
        # The time at which each held entry was last known to be claimed by us.
        self._held: dict[tuple[str, str], float] = {}
        self._ready: dict[str, list[tuple[ActionEntry, NewInput | DeadLetter]]] = {}
        self._posting: dict[str, None] = {}
        self._room_or_books = _Signal()
        self._something_ready = _Signal()
        self._something_held = _Signal()
        # Not bounded by itself: an entry in it is held, and held entries are bounded.
        self._queue_in, self._queue_out = trio.open_memory_channel[tuple[str, "ActionEntry"]](
            math.inf
        )

    async def run(self, stop: trio.Event, books: Sequence[str] | None) -> None:
        """Work until *stop*, then finish what is held.

        Args:
          stop: Set by whoever wants it to end.
          books: Whose actions; None for every registered book, new ones too.

        Raises:
          LogError: The log needs a person (any but being unavailable).
        """
        try:
            await self._run(stop, books)
        finally:
            self._queue_in.close()
            self._queue_out.close()
        self._events.info("executor_stopped", left_pending=len(self._held))

    async def _run(self, stop: trio.Event, books: Sequence[str] | None) -> None:
        options = self._options
        async with trio.open_nursery() as nursery:
            self._background = nursery
            nursery.start_soon(self._limit_stop, stop, nursery.cancel_scope)
            nursery.start_soon(self._keep_claims)
            for _ in range(options.concurrency_max):
                nursery.start_soon(self._work)
            for _ in range(options.posts_max):
                nursery.start_soon(self._post)
            if books is None:
                nursery.start_soon(self._follow_books)
            else:
                self._books = list(books)
            async with trio.open_nursery() as intake:
                intake.start_soon(self._read, stop)
                intake.start_soon(self._claim, stop)
            while self._held:
                await self._room_or_books.wait()
            nursery.cancel_scope.cancel()

    async def _limit_stop(self, stop: trio.Event, everything: trio.CancelScope) -> None:
        await stop.wait()
        self._room_or_books.fire()
        await trio.sleep(self._options.stop_grace_s)
        everything.cancel()

    # -- intake ------------------------------------------------------------

    async def _follow_books(self) -> None:
        failures = 0
        while True:
            try:
                known = len(self._books) + len(self._left_out)
                books = await self._log.wait_books(known, self._wait_s(failures))
            except LogUnavailableError as error:
                failures += 1
                self._health.trouble("log", str(error), doing="find books")
                await self._backoff.wait(failures)
                continue
            failures = 0
            self._health.well("log", doing="find books")
            served = [book for book in books if book not in self._left_out]
            if served != self._books:  # as many others, where a failover lost some
                self._books = served
                self._events.info("books_found", books=len(books))
                self._room_or_books.fire()

    def _wait_s(self, failures: int) -> float:
        """How long to wait for something: not at all after a failure, to see at once that it is over."""
        return 0.0 if failures else self._options.wait_s

    def _room(self) -> int:
        return self._options.read_max - len(self._held)

    async def _read(self, stop: trio.Event) -> None:
        """Read until the stop. A read is never cancelled for it: what it took would be stranded."""
        failures = 0
        while not stop.is_set():
            if not self._books or self._room() <= 0:
                # A failover may have lost all books; who reads nothing has no trouble with it.
                self._health.well("log", doing="read")
                await self._room_or_books.wait()
                continue
            try:
                entries = await self._log.read_actions(
                    self._stream,
                    self._books,
                    self._consumer,
                    self._room(),
                    self._wait_s(failures),
                )
            except LogUnavailableError as error:
                failures += 1
                self._events.warning("log_unavailable", doing="read", why=str(error))
                self._health.trouble("log", str(error), doing="read")
                await self._backoff.wait(failures)
                continue
            except ForeignDataError as error:
                await self._find_foreign(error)
                continue
            failures = 0
            self._health.well("log", doing="read")
            self._take(entries)

    async def _claim(self, stop: trio.Event) -> None:
        options = self._options
        while not stop.is_set():
            taken = 0
            if self._books and self._room() > 0:
                try:
                    entries = await self._log.claim_actions(
                        self._stream,
                        self._books,
                        self._consumer,
                        self._room(),
                        options.claim_idle_s,
                    )
                    taken = self._take(entries)
                except LogUnavailableError as error:
                    self._events.warning("log_unavailable", doing="claim", why=str(error))
                except ForeignDataError:
                    pass  # the reader finds out whose it is
            if taken:
                self._events.info("actions_claimed", count=taken)
                continue  # there may be more
            with trio.move_on_after(options.claim_every_s):
                await stop.wait()

    async def _find_foreign(self, error: ForeignDataError) -> None:
        """Read the books one by one, and leave out those that cannot be read.

        Raises:
          ForeignDataError: It is none of them.
        """
        found = False
        for book in list(self._books):
            try:
                self._take(
                    await self._log.read_actions(self._stream, [book], self._consumer, 1, 0.0)
                )
            except ForeignDataError as foreign:
                found = True
                self._leave_out(book, foreign)
            except LogUnavailableError:
                return  # the next read finds it
        if not found:
            raise error

    def _leave_out(self, book: str, error: ForeignDataError) -> None:
        """Leave *book* out: a person must look, and the other books must not wait for that."""
        if book in self._left_out:
            return  # the reader was first
        self._left_out[book] = None
        self._failures[book] = self._failures.get(book, 0) + 1
        self._background.start_soon(self._serve_again, book)
        self._books = [other for other in self._books if other != book]
        self._events.error("book_left_out", book=book, why=str(error))
        self._health.trouble(f"book {book}", str(error))

    async def _serve_again(self, book: str) -> None:
        """Serve *book*, which was left out, once it can be read again: a person has mended it."""
        while True:
            further = self._failures[book] - 1
            await trio.sleep(min(LEFT_OUT_S * 2 ** min(further, 30), LEFT_OUT_S_MAX))
            try:
                entries = await self._log.read_actions(self._stream, [book], self._consumer, 1, 0.0)
            except ForeignDataError:
                self._failures[book] += 1
            except LogUnavailableError as error:
                self._events.warning("log_unavailable", doing="look again", why=str(error))
            else:
                break
        del self._left_out[book]
        self._books = [*self._books, book]
        self._health.well(f"book {book}")
        self._events.info("book_served_again", book=book)
        self._take(entries)
        self._room_or_books.fire()

    def _take(self, entries: Sequence[tuple[str, ActionEntry]]) -> int:
        """Hold *entries* and queue them; those held already are under way. How many are new."""
        now = trio.current_time()
        taken = 0
        for book, entry in entries:
            if (book, entry.id) not in self._held:
                self._held[book, entry.id] = now
                self._queue_in.send_nowait((book, entry))
                taken += 1
        if taken:
            self._something_held.fire()
        return taken

    async def _keep_claims(self) -> None:
        """Show for every entry held for long that it is still worked on."""
        while True:
            while not self._held:
                await self._something_held.wait()
            await trio.sleep(self._options.keep_claim_s / 2)
            now = trio.current_time()
            due: dict[str, list[str]] = {}
            for (book, entry_id), since in self._held.items():
                if now - since >= self._options.keep_claim_s / 2:
                    due.setdefault(book, []).append(entry_id)
            for book, ids in due.items():
                try:
                    await self._log.keep_claim(self._stream, book, self._consumer, ids)
                except LogUnavailableError as error:
                    self._events.warning("log_unavailable", doing="keep_claim", why=str(error))
                    break  # the next round tries again
                except ForeignDataError:
                    continue  # who reads or posts finds out
                for entry_id in ids:
                    if (book, entry_id) in self._held:
                        self._held[book, entry_id] = now

    # -- work --------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            book, entry = await self._queue_out.receive()
            problem = frame_problem(entry)
            if problem:
                result: NewInput | DeadLetter = dead_letter_of(self._stream, entry, problem)
            else:
                result = await self._carry_out(book, entry)
            self._ready.setdefault(book, []).append((entry, result))
            self._something_ready.fire()

    async def _post(self) -> None:
        limit = self._options.finish_max
        while True:
            book = next((name for name in self._ready if name not in self._posting), None)
            if book is None:
                await self._something_ready.wait()
                continue
            batch = self._ready.pop(book)
            if len(batch) > limit:
                self._ready[book] = batch[limit:]
                batch = batch[:limit]
            self._posting[book] = None
            try:
                await self._finish(book, batch)
            finally:
                del self._posting[book]
            for entry, _ in batch:
                del self._held[book, entry.id]
            self._room_or_books.fire()
            self._something_ready.fire()

    async def _finish(
        self, book: str, batch: list[tuple[ActionEntry, NewInput | DeadLetter]]
    ) -> None:
        """Post *batch*, however long it takes: a result is never dropped while this process lives.

        Where the log does not say whether a post was written it is posted again; the book ignores a
        result that comes twice.
        """
        finished = [(e.id, r if isinstance(r, NewInput) else None) for e, r in batch]
        letters = [r for _, r in batch if isinstance(r, DeadLetter)]
        for letter in letters:
            self._events.error("dead_letter", book=book, entry=letter.id, why=letter.why)
        doing = f"finish {book}"
        failures = 0
        while True:
            try:
                await self._log.finish_actions(self._stream, book, finished, letters)
            except LogUnavailableError as error:
                failures += 1
                self._events.warning(
                    "log_unavailable", doing="finish", book=book, results=len(batch), why=str(error)
                )
                self._health.trouble("log", str(error), doing=doing)
                await self._backoff.wait(failures)
            except ForeignDataError as error:
                self._leave_out(book, error)  # what was taken stays pending in the log
                break
            else:
                self._failures.pop(book, None)
                break
        self._health.well("log", doing=doing)


def frame_problem(entry: ActionEntry) -> str:
    """Why no result could be given for *entry* whatever is in its body, or ""."""
    if not 1 <= len(entry.action) <= REF_LENGTH_MAX:
        return f"the action's own id must have 1 to {REF_LENGTH_MAX} characters"
    if len(entry.body) > BODY_BYTES_MAX:
        return f"the body is longer than {BODY_BYTES_MAX} bytes"
    return ""


def dead_letter_of(stream: ActionStream, entry: ActionEntry, why: str) -> DeadLetter:
    """*entry* as a dead letter, with its fields as they lie in the stream."""
    fields = (
        b"type",
        entry.type.encode(),
        b"body",
        entry.body,
        b"action",
        entry.action.encode(),
        b"trace",
        entry.trace.encode(),
    )
    return DeadLetter(stream, entry.id, why, fields)


async def run_executor(
    log: Log,
    stream: ActionStream,
    carry_out: CarryOut,
    *,
    consumer: str,
    options: ExecutorOptions,
    stop: trio.Event,
    books: Sequence[str] | None = None,
    rng: random.Random | None = None,
    health: Health | None = None,
) -> None:
    """Run an :class:`Executor` until *stop*; see there."""
    rng, health = rng or random.Random(), health or Health()
    executor = Executor(log, stream, consumer, carry_out, options, rng, health)
    await executor.run(stop, books)
