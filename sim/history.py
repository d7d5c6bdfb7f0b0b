"""The log of the simulated world: the one in memory, which also writes down its own history.

Checks on final states are blind to fencing bugs, since deterministic twins converge. So what is kept
here is every write as the server took it: each commit with its epoch, each takeover, each input, each
snapshot, numbered by the trace's events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

import msgspec

from holdfast.actors.ports import Commit, DeadLetter, InputEntry, Snapshot, StreamName
from holdfast.transport.keys import parse_id
from holdfast.transport.memory_log import EntryT, MemoryLog, MemoryStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.actors.ports import Clock, CommitRecord, LogError, NewInput, OutcomeEntry
    from holdfast.sim.marks import Marks
    from holdfast.sim.trace import Trace
    from holdfast.transport.memory_log import IdPair, MemoryBook


BY_HAND: Final = "by hand"
"""The status of an outcome that somebody wrote, which is no answer to anybody."""


class Written(msgspec.Struct, frozen=True):
    """A commit that the server took.

    Attributes:
      order: Number of the event in the trace.
      ms: The world's time.
      epoch: The record's epoch when it was taken; must be the commit's own.
      owner: The record's owner then; likewise, since a failover makes epochs come again.
    """

    order: int
    ms: int
    epoch: int
    owner: str
    commit: Commit


class BookHistory(msgspec.Struct):
    """Everything that was written to one book.

    Attributes:
      inputs: Every input ever appended, even if it was lost later.
      letters_gone: Dead letters that an operator sent again or dropped.
      refused: Number of commits that were refused.
      epochs: Epochs in the order in which they were given out.
      put_back: Positions of snapshots that an operator put in the place of newer ones.
    """

    inputs: list[InputEntry] = msgspec.field(default_factory=list[InputEntry])
    letters_gone: list[DeadLetter] = msgspec.field(default_factory=list[DeadLetter])
    commits: list[Written] = msgspec.field(default_factory=list[Written])
    refused: int = 0
    epochs: list[int] = msgspec.field(default_factory=list[int])
    snapshots: list[Snapshot] = msgspec.field(default_factory=list[Snapshot])
    put_back: dict[str, None] = msgspec.field(default_factory=dict[str, None])


class RecordingLog(MemoryLog):
    """A memory log that keeps its history.

    Args:
      clock: The server's clock.
      trace: Where events are numbered.
      marks: What happened at least once.
      on_commit: Called with the book and the commit, after each that was taken.
      on_take_over: Called with the former owner's token and the new one's, after each takeover.
    """

    def __init__(
        self,
        clock: Clock,
        trace: Trace,
        marks: Marks,
        on_commit: Callable[[str, Written], None] | None = None,
        on_take_over: Callable[[str, str], None] | None = None,
    ) -> None:
        super().__init__(clock)
        self._trace = trace
        self.marks = marks
        self.on_commit = on_commit
        self.on_trim: Callable[[str, str, dict[StreamName, list[IdPair]]], None] | None = None
        """Called with the book, the input that was to be kept, and the ids that went."""
        self.on_snapshot: Callable[[str, Snapshot, int, str], None] | None = None
        """Called after each snapshot that was taken, with its writer's epoch and owner."""
        self.on_take_over = on_take_over
        self.history: dict[str, BookHistory] = {}

    def of(self, book: str) -> BookHistory:
        """The history of *book*."""
        return self.history.setdefault(book, BookHistory())

    def whole_outcomes(self, book: str) -> MemoryStream[OutcomeEntry]:
        """The outcomes, with those that were trimmed away and without what was written by hand."""
        stream = _ours(self.book(book).outcomes)
        if stream.added == len(stream.ids):
            return stream
        committed = [one for written in self.of(book).commits for one in written.commit.outcomes]
        return _whole(stream, [(parse_id(one.id), one) for one in committed])

    def whole_inputs(self, book: str) -> MemoryStream[InputEntry]:
        """The inputs, with those that were trimmed away: only what is decided ever is."""
        stream = self.book(book).inputs
        if stream.added == len(stream.ids):
            return stream
        outcomes = self.whole_outcomes(book)
        by_id = {parse_id(entry.id): entry for entry in self.of(book).inputs}  # the newest under it
        return _whole(stream, [(id_, by_id[id_]) for id_ in outcomes.ids])

    def rewind(self, book: str, position: str) -> None:
        """Forget what a failover took away: whatever was written after *position*."""
        held, last = self.of(book), parse_id(position)
        held.commits = [one for one in held.commits if parse_id(one.commit.position) <= last]
        held.snapshots = [one for one in held.snapshots if parse_id(one.position) <= last]
        back = dict.fromkeys(letter.id for letter in self.book(book).deadletters.entries)
        held.letters_gone = [
            one for one in held.letters_gone if parse_id(one.id) <= last and one.id not in back
        ]

    def _add_input(self, name: str, book: MemoryBook, new: NewInput) -> str:
        id_ = super()._add_input(name, book, new)
        self.of(name).inputs.append(book.inputs.entries[-1])
        self._trace.note("server", "input", f"{name} {id_} {new.type}")
        return id_

    async def take_over(self, book: str, owner: str, seen: int | None = None) -> CommitRecord:
        """See ``Log.take_over``."""
        before = self.book(book).record
        record = await super().take_over(book, owner, seen)
        if record is before:
            return record  # taken before, by a call whose answer was lost
        if self.on_take_over is not None:
            self.on_take_over(before.owner, owner)
        held = self.of(book)
        if held.inputs and parse_id(record.position) < parse_id(held.inputs[-1].id):
            self.marks.hit("took_over_backlog")
        held.epochs.append(record.epoch)
        held.inputs.append(self.books[book].inputs.entries[-1])
        self._trace.note("server", "take_over", f"{book} {record.epoch} {record.position}")
        return record

    def _commit(self, commit: Commit) -> LogError | None:
        before = self.book(commit.book).record
        refused = super()._commit(commit)
        held = self.of(commit.book)
        what = f"{commit.book} {commit.epoch} {commit.after} {commit.position} {commit.digest}"
        if refused is not None:
            held.refused += 1
            self.marks.hit("commit_refused")
            self._trace.note("server", "refused", what)
        elif before.position != commit.position:
            order = self._trace.note("server", "commit", what)
            written = Written(order, self._clock.now_ms(), before.epoch, before.owner, commit)
            held.commits.append(written)
            if self.on_commit is not None:
                self.on_commit(commit.book, written)
        return refused

    async def read_snapshot(self, book: str) -> Snapshot | None:
        """See ``Log.read_snapshot``."""
        snapshot = await super().read_snapshot(book)
        if snapshot is not None and snapshot.position in self.of(book).put_back:
            self.marks.hit("operator_snapshot_back_mattered")
        return snapshot

    async def save_snapshot(self, book: str, snapshot: Snapshot, epoch: int, owner: str) -> None:
        """See ``Log.save_snapshot``."""
        await super().save_snapshot(book, snapshot, epoch, owner)
        self.of(book).snapshots.append(snapshot)
        self._trace.note("server", "snapshot", f"{book} {snapshot.position}")
        if self.on_snapshot is not None:
            self.on_snapshot(book, snapshot, epoch, owner)

    def trim_nowait(self, book: str, keep: str = "") -> dict[StreamName, int]:
        """See ``MemoryLog``."""
        held = self.book(book)
        before = {name: list(held.stream(name).ids) for name in get_args(StreamName)}
        removed = super().trim_nowait(book, keep)
        if self.on_trim is not None and any(removed.values()):
            self.on_trim(book, keep, {name: before[name][:n] for name, n in removed.items() if n})
        return removed

    def drop_letters_nowait(self, name: str, letters: Sequence[str]) -> list[DeadLetter]:
        """See ``MemoryLog``."""
        dropped = super().drop_letters_nowait(name, letters)
        self.of(name).letters_gone += dropped
        return dropped


def _ours(stream: MemoryStream[OutcomeEntry]) -> MemoryStream[OutcomeEntry]:
    """*stream* without an outcome that was written by hand, after which no other can be written."""
    if not stream.entries or stream.entries[-1].status != BY_HAND:
        return stream
    ours: MemoryStream[OutcomeEntry] = MemoryStream()
    for id_, entry in zip(stream.ids[:-1], stream.entries[:-1], strict=True):
        ours.add(id_, entry)
    ours.added = stream.added - 1
    return ours


def _whole(
    stream: MemoryStream[EntryT], earlier: Sequence[tuple[IdPair, EntryT]]
) -> MemoryStream[EntryT]:
    """*stream* with those of *earlier* that come before its first entry."""
    first = stream.ids[0] if stream.ids else stream.last
    whole: MemoryStream[EntryT] = MemoryStream()
    for id_, entry in earlier:
        if id_ < first:
            whole.add(id_, entry)
    for id_, entry in zip(stream.ids, stream.entries, strict=True):
        whole.add(id_, entry)
    return whole
