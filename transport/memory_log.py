"""The log in memory: the whole port, for tests and for the simulator.

Several actors in one event loop share one :class:`MemoryLog`. It behaves as the one on Redis does,
as the contract suite shows: ids from the clock and strictly growing, compare-and-set commits,
consumer groups with pending entries, fenced snapshots, guarded trimming. Blocking reads are woken
by what they wait for; nothing polls.

The data structures are open on purpose: the simulator takes entries away, moves groups back and puts
foreign entries in, as a real server's troubles would.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from holdfast.actors.ports import (
    GENESIS,
    ActionEntry,
    CommitRecord,
    DeadLetter,
    ForeignDataError,
    InputEntry,
    LogError,
    NewInput,
    OutcomeEntry,
    StreamFacts,
)
from holdfast.transport.codec import check_finished, decode_input, encode_input
from holdfast.transport.commits import behind, check_commit, lost, moved, resolve_commit, superseded
from holdfast.transport.gaps import gap_error
from holdfast.transport.keys import (
    NUMBER_MAX,
    SEQUENCE_MAX,
    book_keys,
    check_reading,
    format_id,
    parse_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from holdfast.actors.ports import (
        ActionStream,
        Clock,
        Commit,
        Snapshot,
        StreamName,
    )

_Found = TypeVar("_Found")
EntryT = TypeVar("EntryT")
IdPair = tuple[int, int]

_ZERO: IdPair = (0, 0)
_REGISTRY_BELL = ("", "books")


class MemoryPending(msgspec.Struct):
    """One entry in the hands of a consumer."""

    consumer: str
    since_ms: int
    deliveries: int


class MemoryGroup(msgspec.Struct):
    """A consumer group: the last id it was given, and what is not yet acknowledged."""

    last: IdPair = _ZERO
    pending: dict[IdPair, MemoryPending] = msgspec.field(
        default_factory=dict[IdPair, MemoryPending]
    )


class MemoryStream(Generic[EntryT]):
    """A stream: entries ascending by id.

    Attributes:
      ids: (milliseconds, sequence) of each entry.
      entries: The entries, beside their ids.
      last: The last id ever added.
      added: How many were ever added.
      deleted: The greatest id that was deleted singly.
      groups: Consumer groups by name.
      foreign: Whether the key is of another type: every use is refused.
    """

    def __init__(self) -> None:
        self.ids: list[IdPair] = []
        self.entries: list[EntryT] = []
        self.last: IdPair = _ZERO
        self.added = 0
        self.deleted: IdPair = _ZERO
        self.groups: dict[str, MemoryGroup] = {}
        self.foreign = False

    def next_id(self, now_ms: int) -> IdPair:
        """The id of the next entry: the time, or just after the last one.

        Raises:
          LogError: Somebody took the greatest id there is.
        """
        ms, sequence = self.last
        if now_ms > ms:
            return now_ms, 0
        if sequence < NUMBER_MAX:
            return ms, sequence + 1
        if ms == NUMBER_MAX:
            raise LogError("the stream has no ids left: find out who chose the last one")
        return ms + 1, 0

    def add(self, id_: IdPair, entry: EntryT) -> None:
        """Add *entry* under *id_*, which must be greater than the last."""
        assert id_ > self.last, f"{id_} is not greater than {self.last}"
        self.ids.append(id_)
        self.entries.append(entry)
        self.last = id_
        self.added += 1

    def after(self, id_: IdPair, count: int) -> list[EntryT]:
        """At most *count* entries with greater ids."""
        start = bisect_right(self.ids, id_)
        return self.entries[start : start + count]

    def between(self, after: IdPair, until: IdPair) -> list[EntryT]:
        """The entries with greater ids than *after*, up to *until*."""
        return self.entries[bisect_right(self.ids, after) : bisect_right(self.ids, until)]

    def get(self, id_: IdPair) -> EntryT | None:
        """The entry under *id_*, or None."""
        index = bisect_right(self.ids, id_) - 1
        return self.entries[index] if index >= 0 and self.ids[index] == id_ else None

    def trim(self, least: IdPair) -> int:
        """Drop entries with ids lower than *least*; return how many."""
        count = bisect_right(self.ids, (least[0], least[1] - 1))
        del self.ids[:count], self.entries[:count]
        return count

    def remove(self, id_: IdPair) -> None:
        """Delete the entry under *id_*, which is there."""
        index = bisect_right(self.ids, id_) - 1
        assert self.ids[index] == id_
        del self.ids[index], self.entries[index]
        self.deleted = max(self.deleted, id_)

    def facts(self, group: str = "") -> StreamFacts:
        """What ``Log.facts`` says of this stream."""
        if self.foreign:
            return StreamFacts()
        of_group = self.groups.get(group)
        return StreamFacts(
            length=len(self.ids),
            last_id=format_id(*self.last),
            first_id=format_id(*self.ids[0]) if self.ids else "",
            added=self.added,
            pending=len(of_group.pending) if of_group else 0,
            lag=len(self.ids) - bisect_right(self.ids, of_group.last) if of_group else 0,
        )


class MemoryLease(msgspec.Struct, frozen=True):
    """A booking actor's word that it lives, good until the log's clock shows ``until_ms``."""

    place: str
    until_ms: int


class MemoryBook:
    """Everything the log holds of one book."""

    def __init__(self) -> None:
        self.inputs: MemoryStream[InputEntry] = MemoryStream()
        self.outcomes: MemoryStream[OutcomeEntry] = MemoryStream()
        self.payments: MemoryStream[ActionEntry] = MemoryStream()
        self.notifications: MemoryStream[ActionEntry] = MemoryStream()
        self.deadletters: MemoryStream[DeadLetter] = MemoryStream()
        self.record = CommitRecord()
        self.snapshots: list[Snapshot] = []
        """The last two, the older first."""
        self.foreign = False
        """Whether the commit record's key is of another type: every use is refused."""
        self.prepared: dict[str, MemoryStream[tuple[bytes, ...]]] = {}
        """What an operator prepares beside the book, by stream: fields of entries to be."""
        self.wrote: dict[str, tuple[int, str, IdPair]] = {}
        """The last action in each stream, with the epoch and the owner of who wrote it."""

    def stream(self, name: StreamName) -> MemoryStream[Any]:
        """The stream *name*."""
        stream: MemoryStream[Any] = getattr(self, name)
        return stream

    def actions(self, name: ActionStream) -> MemoryStream[ActionEntry]:
        """The stream of actions *name*."""
        return self.payments if name == "payments" else self.notifications


class MemoryLog:
    """The log of many books in memory. Its methods are those of ``holdfast.actors.ports.Log``.

    Args:
      clock: Where the ids of entries and the idle times of claims come from.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.books: dict[str, MemoryBook] = {}
        """By name. One that was never registered is not in ``registered``."""
        self.registered: list[str] = []
        self.leases: dict[str, MemoryLease] = {}
        """By owner, lapsed ones too until somebody looks."""
        self._bells: dict[tuple[str, str], list[anyio.Event]] = {}

    # -- inside ------------------------------------------------------------

    def book(self, name: str) -> MemoryBook:
        """The book *name*, empty where nothing was written to it.

        Raises:
          ValueError: *name* is no name of a book.
        """
        book = self.books.get(name)
        if book is None:
            book_keys(name)
            book = self.books[name] = MemoryBook()
        return book

    def ring(self, book: str, stream: str) -> None:
        """Wake whoever waits for entries of *stream*. The simulator calls it after changes."""
        for event in self._bells.pop((book, stream), ()):
            event.set()

    async def _wait(self, bells: Iterable[tuple[str, str]]) -> None:
        """Wait until one of *bells* rings."""
        event = anyio.Event()
        names = list(bells)
        for name in names:
            self._bells.setdefault(name, []).append(event)
        try:
            await event.wait()
        finally:
            for name in names:
                waiting = self._bells.get(name)
                if waiting and event in waiting:
                    waiting.remove(event)
                    if not waiting:
                        del self._bells[name]

    def now_ms(self) -> int:
        """The log's own clock."""
        return self._clock.now_ms()

    async def _found(
        self, look: Callable[[], _Found], bells: Iterable[tuple[str, str]], wait_s: float
    ) -> _Found:
        """What *look* finds: at once, or after one of *bells*; in the end whatever there is."""
        await anyio.lowlevel.checkpoint()
        found = look()
        if found or wait_s <= 0:
            return found
        with anyio.move_on_after(wait_s):
            while not found:
                await self._wait(bells)
                found = look()
        return found

    def register(self, name: str) -> MemoryBook:
        """Make the book *name* known."""
        book = self.book(name)
        if name not in self.registered:
            self.registered.append(name)
            self.ring(*_REGISTRY_BELL)
        return book

    def _add_input(self, name: str, book: MemoryBook, new: NewInput) -> str:
        pair = book.inputs.next_id(self.now_ms())
        entry = _input_entry(pair, new)
        book.inputs.add(pair, entry)
        self.ring(name, "inputs")
        return entry.id

    def append_nowait(self, name: str, new: NewInput) -> str:
        """Append *new* to a book, whether it is known or not; return the input's id."""
        held = self.book(name)
        _refuse_foreign(name, held, "inputs")
        return self._add_input(name, held, new)

    def drop_letters_nowait(self, name: str, letters: Sequence[str]) -> list[DeadLetter]:
        """Remove dead letters; return those that there were."""
        stream = self.book(name).deadletters
        _refuse_foreign(name, self.book(name), "deadletters")
        dropped: list[DeadLetter] = []
        for id_ in map(parse_id, letters):
            letter = stream.get(id_)
            if letter is not None:
                dropped.append(letter)
                stream.remove(id_)
        return dropped

    def _bury(self, name: str, book: MemoryBook, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            stream = book.deadletters
            stream.add(stream.next_id(self.now_ms()), letter)
        if letters:
            self.ring(name, "deadletters")

    # -- producers ---------------------------------------------------------

    async def append(self, book: str, inputs: Sequence[NewInput]) -> list[str]:
        """See ``Log.append``. Raises ValueError for an input too large to be one."""
        book_keys(book)
        for new in inputs:
            encode_input(new)
        await anyio.lowlevel.checkpoint()
        if not inputs:
            return []
        held = self.register(book)
        _refuse_foreign(book, held, "inputs")
        return [self._add_input(book, held, new) for new in inputs]

    # -- whoever follows ---------------------------------------------------

    async def wait_books(self, known: int, wait_s: float) -> list[str]:
        """See ``Log.wait_books``."""
        await self._found(lambda: len(self.registered) > known, [_REGISTRY_BELL], wait_s)
        return list(self.registered)

    async def read_inputs(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[InputEntry]]:
        """See ``Log.read_inputs``. Raises LogTrimmedError where entries are gone."""
        check_reading(after, count)

        def look() -> dict[str, list[InputEntry]]:
            found: dict[str, list[InputEntry]] = {}
            for name, position in after.items():
                book = self.books.get(name)
                stream = book.inputs if book else MemoryStream[InputEntry]()
                if book:
                    _refuse_foreign(name, book, "inputs")
                _refuse_gap(name, stream, position)
                if entries := stream.after(parse_id(position), count):
                    found[name] = entries
            return found

        return await self._found(look, [(name, "inputs") for name in after], wait_s)

    async def read_outcomes(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[OutcomeEntry]]:
        """See ``Log.read_outcomes``."""
        check_reading(after, count)

        def look() -> dict[str, list[OutcomeEntry]]:
            found: dict[str, list[OutcomeEntry]] = {}
            for name, position in after.items():
                if (book := self.books.get(name)) is None:
                    continue
                _refuse_foreign(name, book, "outcomes")
                if entries := book.outcomes.after(parse_id(position), count):
                    found[name] = entries
            return found

        return await self._found(look, [(name, "outcomes") for name in after], wait_s)

    async def read_record(self, book: str) -> CommitRecord:
        """See ``Log.read_record``."""
        await anyio.lowlevel.checkpoint()
        return _record(book, self.book(book))

    async def read_records(self, books: Sequence[str]) -> list[CommitRecord]:
        """See ``Log.read_records``."""
        await anyio.lowlevel.checkpoint()
        return [_record(book, self.book(book)) for book in books]

    async def read_snapshot(self, book: str) -> Snapshot | None:
        """See ``Log.read_snapshot``."""
        await anyio.lowlevel.checkpoint()
        held = self.book(book)
        _record(book, held)
        snapshots = held.snapshots
        return snapshots[-1] if snapshots else None

    async def facts(self, book: str, stream: StreamName) -> StreamFacts:
        """See ``Log.facts``."""
        await anyio.lowlevel.checkpoint()
        return self.book(book).stream(stream).facts(stream)

    # -- the booking actor -------------------------------------------------

    async def hold_lease(self, owner: str, place: str, lease_s: float) -> None:
        """See ``Log.hold_lease``."""
        await anyio.lowlevel.checkpoint()
        self.leases[owner] = MemoryLease(place, self._clock.now_ms() + math.ceil(lease_s * 1000))

    async def drop_lease(self, owner: str) -> None:
        """See ``Log.drop_lease``."""
        await anyio.lowlevel.checkpoint()
        self.leases.pop(owner, None)

    async def read_leases(self, owners: Sequence[str]) -> dict[str, str]:
        """See ``Log.read_leases``."""
        await anyio.lowlevel.checkpoint()
        now_ms = self._clock.now_ms()
        for owner in owners:
            if owner in self.leases and self.leases[owner].until_ms <= now_ms:
                del self.leases[owner]
        return {owner: self.leases[owner].place for owner in owners if owner in self.leases}

    async def take_over(self, book: str, owner: str, seen: int | None = None) -> CommitRecord:
        """See ``Log.take_over``."""
        await anyio.lowlevel.checkpoint()
        held = self.register(book)
        record = _record(book, held)
        _refuse_foreign(book, held, *_ALL_STREAMS)
        if seen is not None and record.epoch != seen:
            if (record.epoch, record.owner) == (seen + 1, owner):
                return record  # our own takeover, whose answer was lost, is not made twice
            raise superseded(book, seen, record.epoch)
        epoch = record.epoch + 1
        try:
            pair = held.inputs.next_id(self.now_ms())
        except LogError as error:
            raise ForeignDataError(f"taking over {book}: {error}") from error
        position = record.position
        body = msgspec.json.encode({"epoch": epoch, "owner": owner, "position": position})
        new = NewInput("taken_over", body, by="service:booking")
        held.inputs.add(pair, _input_entry(pair, new))
        for name in _ACTION_STREAMS:
            held.actions(name).groups.setdefault(name, MemoryGroup())
        held.record = msgspec.structs.replace(record, epoch=epoch, owner=owner)
        self.ring(book, "inputs")
        return held.record

    async def commit(self, commits: Sequence[Commit]) -> list[LogError | None]:
        """See ``Log.commit``. Its result is never unknown here."""
        for commit in commits:
            check_commit(commit)
            book_keys(commit.book)
        await anyio.lowlevel.checkpoint()
        return [self._commit(commit) for commit in commits]

    def _commit(self, commit: Commit) -> LogError | None:
        name, book = commit.book, self.book(commit.book)
        try:
            record = _record(name, book)
            _refuse_foreign(name, book, *_ALL_STREAMS)
        except ForeignDataError as error:
            return error
        if _fenced(record, commit.epoch, commit.owner):
            return superseded(name, commit.epoch, record.epoch)
        if record.position != commit.after:
            if (record.position, record.digest) == (commit.position, commit.digest):
                return None
            return moved(commit, record.position)
        there = book.inputs.get(parse_id(commit.position))
        if there is None or (commit.decided and there.fingerprint != commit.decided):
            return lost(commit)
        written: list[tuple[StreamName, MemoryStream[Any], Sequence[Any]]] = [
            ("outcomes", book.outcomes, commit.outcomes),
            ("payments", book.payments, commit.payments),
            ("notifications", book.notifications, commit.notifications),
        ]
        for kind, stream, entries in written:
            epoch, owner, last = book.wrote.get(kind, (0, "", _ZERO))
            if (epoch, owner) == (commit.epoch, commit.owner) and stream.last < last:
                return ForeignDataError(
                    f"{kind} of {name} was deleted with what we wrote up to {format_id(*last)}: "
                    "somebody else writes to our keys, find out who"
                )
            if entries and parse_id(entries[0].id) <= stream.last:
                return ForeignDataError(
                    f"{kind} of {name} has had an entry {format_id(*stream.last)} beyond our next, "
                    f"{entries[0].id}: somebody else writes to our keys, find out who"
                )
        for kind, stream, entries in written:
            for entry in entries:
                stream.add(parse_id(entry.id), entry)
            if entries:
                self.ring(name, kind)
                if kind != "outcomes":
                    book.wrote[kind] = (commit.epoch, commit.owner, stream.last)
        self._bury(name, book, commit.dead_letters)
        book.record = msgspec.structs.replace(
            record, position=commit.position, version=commit.version, digest=commit.digest
        )
        return None

    async def resolve(self, commits: Sequence[Commit]) -> list[LogError | bool]:
        """See ``Log.resolve``."""
        await anyio.lowlevel.checkpoint()
        held = [(commit.book, self.book(commit.book)) for commit in commits]
        records = [_record(name, book) for name, book in held]
        return [
            resolve_commit(commit, record) for commit, record in zip(commits, records, strict=True)
        ]

    async def save_snapshot(self, book: str, snapshot: Snapshot, epoch: int, owner: str) -> None:
        """See ``Log.save_snapshot``."""
        position = parse_id(snapshot.position)
        await anyio.lowlevel.checkpoint()
        held = self.book(book)
        record = _record(book, held)
        if _fenced(record, epoch, owner):
            raise superseded(book, epoch, record.epoch)
        if position > parse_id(record.position):
            raise behind(book, record.position)
        if held.snapshots and position < parse_id(held.snapshots[-1].position):
            return
        kept = [kept for kept in held.snapshots if kept.position != snapshot.position]
        held.snapshots = [*kept[-1:], snapshot.whole()]
        held.record = msgspec.structs.replace(record, snapshot=snapshot.position)

    async def trim(self, book: str) -> dict[StreamName, int]:
        """See ``Log.trim``. ``deadletters`` are never trimmed."""
        await anyio.lowlevel.checkpoint()
        return self.trim_nowait(book)

    def trim_nowait(self, book: str, keep: str = "") -> dict[StreamName, int]:
        """Trim, but keep the input *keep* and all after it where one is named."""
        held = self.book(book)
        _record(book, held)
        _refuse_foreign(book, held, *_TRIMMED)
        older = held.snapshots[-2].position if len(held.snapshots) > 1 else ""
        if older and keep:
            older = min(older, keep, key=parse_id)
        removed: dict[StreamName, int] = {}
        for name in _TRIMMED:
            stream = held.stream(name)
            bounds = [min([group.last, *group.pending]) for group in stream.groups.values()]
            if name in ("inputs", "outcomes"):
                bounds = [*bounds, parse_id(older)] if older else []
            elif name not in stream.groups:
                bounds = []
            removed[name] = stream.trim(min(bounds)) if bounds else 0
        return removed

    # -- executors ---------------------------------------------------------

    async def read_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, wait_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """See ``Log.read_actions``: at most *count*, but up to one for each book."""
        for book in books:
            book_keys(book)
        share = max(1, count // max(1, len(books)))
        found = await self._found(
            lambda: self._deliver(stream, books, consumer, share),
            [(book, stream) for book in books],
            wait_s,
        )
        # Each book has got its share; those that have more share what is left.
        room = count - sum(map(len, found.values()))
        more = [book for book, entries in found.items() if len(entries) >= share]
        if more and room >= len(more):
            rest = self._deliver(stream, more, consumer, room // len(more))
            for book, entries in rest.items():
                found[book] += entries
        return [(book, entry) for book, entries in found.items() for entry in entries]

    def _deliver(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int
    ) -> dict[str, list[ActionEntry]]:
        """Hand out entries of each book that no consumer was given yet."""
        for book in books:
            held = self.book(book)
            _refuse_foreign(book, held, stream)
            if stream not in held.actions(stream).groups:
                self._make_groups(stream, books)
        found: dict[str, list[ActionEntry]] = {}
        now_ms = self.now_ms()
        for book in books:
            actions = self.book(book).actions(stream)
            group = actions.groups[stream]
            start = bisect_right(actions.ids, group.last)
            for index in range(start, min(start + count, len(actions.ids))):
                id_ = actions.ids[index]
                group.last = id_
                group.pending[id_] = MemoryPending(consumer, now_ms, 1)
                entry = msgspec.structs.replace(actions.entries[index], deliveries=1)
                found.setdefault(book, []).append(entry)
        return found

    def _make_groups(self, stream: ActionStream, books: Sequence[str]) -> None:
        """Create the group where it is missing; a key that is no stream is refused after that."""
        held = {book: self.book(book) for book in books}
        for of in held.values():
            actions = of.actions(stream)
            if not actions.foreign:
                actions.groups.setdefault(stream, MemoryGroup())
        for book, of in held.items():
            _refuse_foreign(book, of, stream)

    async def claim_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, idle_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """See ``Log.claim_actions``: at most *count*."""
        for book in books:
            book_keys(book)
        await anyio.lowlevel.checkpoint()
        found: dict[str, list[ActionEntry]] = {}
        cursors: dict[str, IdPair] = dict.fromkeys(books, _ZERO)
        room = count
        for _ in range(_CLAIM_ROUNDS_MAX):
            if not cursors or room <= 0:
                break
            turn = list(cursors)[:room]
            share = max(1, room // len(turn))
            whole = [book for book in turn if not self.book(book).actions(stream).foreign]
            for book in whole:
                entries, cursors[book] = self._claim(
                    stream, book, consumer, share, idle_s, cursors[book]
                )
                if entries:
                    found.setdefault(book, []).extend(entries)
                    room -= len(entries)
                if cursors[book] == _ZERO:
                    del cursors[book]
            for book in turn:
                _refuse_foreign(book, self.book(book), stream)
        return [(book, entry) for book, entries in found.items() for entry in entries]

    def _claim(
        self,
        stream: ActionStream,
        book: str,
        consumer: str,
        count: int,
        idle_s: float,
        cursor: IdPair,
    ) -> tuple[list[ActionEntry], IdPair]:
        """One page of what others left, as XAUTOCLAIM gives it, and where the next one begins."""
        actions = self.book(book).actions(stream)
        group = actions.groups.setdefault(stream, MemoryGroup())
        now_ms = self.now_ms()
        found: list[ActionEntry] = []
        attempts, left = count * _LOOKS_PER_ENTRY, count
        for id_ in sorted(group.pending):
            if id_ < cursor:
                continue
            if attempts <= 0 or left <= 0:
                return found, id_
            attempts -= 1
            pending = group.pending[id_]
            entry = actions.get(id_)
            if entry is None:  # it was deleted or trimmed: nobody can carry it out
                del group.pending[id_]
                left -= 1
            elif now_ms - pending.since_ms >= idle_s * 1000:
                pending.consumer, pending.since_ms = consumer, now_ms
                pending.deliveries += 1
                found.append(msgspec.structs.replace(entry, deliveries=pending.deliveries))
                left -= 1
        return found, _ZERO

    async def keep_claim(
        self, stream: ActionStream, book: str, consumer: str, ids: Sequence[str]
    ) -> None:
        """See ``Log.keep_claim``. What another consumer has claimed since stays with it."""
        pairs = [parse_id(id_) for id_ in ids]
        await anyio.lowlevel.checkpoint()
        if not pairs:
            return
        held = self.book(book)
        _refuse_foreign(book, held, stream)
        actions = held.actions(stream)
        group = actions.groups.get(stream, MemoryGroup())
        for id_ in pairs:
            pending = group.pending.get(id_)
            if pending is None or pending.consumer != consumer:
                continue
            if actions.get(id_) is None:
                del group.pending[id_]
            else:
                pending.since_ms = self.now_ms()

    async def finish_actions(
        self,
        stream: ActionStream,
        book: str,
        finished: Sequence[tuple[str, NewInput | None]],
        dead_letters: Sequence[DeadLetter] = (),
    ) -> None:
        """See ``Log.finish_actions``."""
        check_finished(finished)
        await anyio.lowlevel.checkpoint()
        if not finished and not dead_letters:
            return
        held = self.book(book)
        _refuse_foreign(book, held, "inputs", stream, "deadletters")
        for _, result in finished:
            if result is not None:
                self._add_input(book, held, result)
        self._bury(book, held, dead_letters)
        group = held.actions(stream).groups.get(stream, MemoryGroup())
        for id_, _ in finished:
            group.pending.pop(parse_id(id_), None)

    async def aclose(self) -> None:
        """Nothing to close: the log lives as long as the object."""
        await anyio.lowlevel.checkpoint()


_ACTION_STREAMS: tuple[ActionStream, ...] = ("payments", "notifications")
_TRIMMED: tuple[StreamName, ...] = ("inputs", "outcomes", "payments", "notifications")
_ALL_STREAMS: tuple[StreamName, ...] = (*_TRIMMED, "deadletters")


_CLAIM_ROUNDS_MAX = 64
"""Most pages of pending entries that one claim looks through (``redis_actions``)."""

_LOOKS_PER_ENTRY = 10
"""How many pending entries XAUTOCLAIM looks at for each one it may return."""


def _input_entry(pair: IdPair, new: NewInput) -> InputEntry:
    """*new* as a reader finds it in the log."""
    id_ = format_id(*pair)
    if new.type and new.body and new.body.isascii() and pair[1] <= SEQUENCE_MAX:
        return InputEntry(id_, new.type, new.body, new.key, new.by, new.trace)
    fields = [part if isinstance(part, bytes) else str(part).encode() for part in encode_input(new)]
    return decode_input(id_.encode(), fields)


def _record(name: str, book: MemoryBook) -> CommitRecord:
    """The commit record of *book*, if its key is our own."""
    if book.foreign:
        raise ForeignDataError(
            f"the commit record of {name} is none: somebody else writes to our keys, find out who"
        )
    return book.record


def _fenced(record: CommitRecord, epoch: int, owner: str) -> bool:
    """Whether a writer of *epoch* may not write; nobody may before the first takeover."""
    return record.epoch == 0 or (record.epoch, record.owner) != (epoch, owner)


def _refuse_foreign(name: str, book: MemoryBook, *streams: StreamName) -> None:
    for stream in streams:
        if book.stream(stream).foreign:
            raise ForeignDataError(
                f"{stream} of {name} is no stream: somebody else writes to our keys, find out who"
            )


def _refuse_gap(name: str, stream: MemoryStream[InputEntry], position: str) -> None:
    if stream.added == len(stream.ids) and position == GENESIS:
        return
    error = gap_error("inputs", name, position, stream.facts(), format_id(*stream.deleted))
    if error is not None:
        raise error
