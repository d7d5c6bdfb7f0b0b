"""What operators may do beside the log's port, in memory: for the simulation and for tests.

As ``transport.operator`` does it on a real server, request by request: each one is a function that
runs without a pause on the log, made in :meth:`MemoryOperator._request`. The simulation overrides that,
so that each request suffers what requests suffer.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from holdfast.actors.ports import GENESIS, CommitRecord, ForeignDataError, NewInput
from holdfast.transport.codec import (
    decode_input,
    decode_outcome,
    encode_action,
    encode_dead_letter,
    encode_input,
    encode_outcome,
)
from holdfast.transport.keys import book_keys, format_id, parse_id
from holdfast.transport.memory_log import MemoryPending, MemoryStream
from holdfast.transport.operator import (
    OPERATOR,
    Pending,
    RawEntry,
    action_gone_error,
    exists_error,
    letter_gone_error,
    meddled_error,
    other_history_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from holdfast.actors.ports import ActionStream, LogError, Snapshot, StreamName
    from holdfast.transport.codec import Argument
    from holdfast.transport.memory_log import IdPair, MemoryBook, MemoryLog
    from holdfast.transport.operator import Restored
    from holdfast.transport.tails import LostTail

_T = TypeVar("_T")

Weight = Literal["read", "light", "write"]
"""``read`` has no effect; ``light`` has one that a full server still takes (it needs no memory)."""

_CLAIMED_AGO_MS: Final = 86_400_000
_WAIT_STEP_S: Final = 1.0
_BESIDE: Final = ("inputs", "outcomes")
_STREAMS: Final[tuple[StreamName, ...]] = (
    "inputs", "outcomes", "payments", "notifications", "deadletters",
)  # fmt: skip


class MemoryOperator:
    """An operator's access to the books of one log. Its methods are those of ``tools.ports.Operator``.

    Args:
      log: Where the books are.
    """

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    async def _request(
        self, op: str, weight: Weight, ask: Callable[[MemoryLog], _T], *, again: bool = False
    ) -> _T:
        """One request: what *ask* does on the log.

        Args:
          op: Its name.
          weight: What it does to the server.
          ask: Runs without a pause.
          again: Whether it is made once more where a connection was lost.
        """
        del op, weight, again
        await anyio.lowlevel.checkpoint()
        return ask(self._log)

    # -- looking -----------------------------------------------------------

    async def read(
        self, book: str, stream: StreamName, after: str, count: int, wait_s: float = 0.0
    ) -> list[RawEntry]:
        """See ``Operator``."""
        position = parse_id(after)

        def ask(log: MemoryLog) -> list[RawEntry]:
            held = _whole(log, book, stream)
            first = len(held.ids) - len(held.after(position, len(held.ids)))
            entries = zip(held.ids[first:], held.entries[first:], strict=True)
            return [_raw(stream, *one) for one, _ in zip(entries, range(count), strict=False)]

        deadline = anyio.current_time() + wait_s
        while True:
            found = await self._request("operator_read", "read", ask, again=True)
            left_s = deadline - anyio.current_time()
            if found or left_s <= 0:
                return found
            await anyio.sleep(min(left_s, _WAIT_STEP_S))

    async def read_one(self, book: str, stream: StreamName, entry_id: str) -> RawEntry | None:
        """See ``Operator``."""
        id_ = parse_id(entry_id)

        def ask(log: MemoryLog) -> RawEntry | None:
            entry = _whole(log, book, stream).get(id_)
            return None if entry is None else _raw(stream, id_, entry)

        return await self._request("operator_read", "read", ask, again=True)

    async def pending(self, book: str, stream: ActionStream) -> Pending:
        """See ``Operator``."""

        def ask(log: MemoryLog) -> tuple[int, str, int, IdPair] | None:
            held = _whole(log, book, stream)
            group = held.groups.get(stream)
            if group is None:
                return None
            oldest = format_id(*min(group.pending)) if group.pending else ""
            return len(group.pending), oldest, held.facts(stream).lag, group.last

        known = await self._request("operator_pending", "read", ask, again=True)
        if known is None:
            entries = await self.read(book, stream, GENESIS, 1)
            return Pending(waiting=-1 if entries else 0, next=entries[0].id if entries else "")
        count, oldest, lag, last = known
        entries = await self.read(book, stream, format_id(*last), 1)
        return Pending(count, oldest, lag, entries[0].id if entries else "")

    async def now_ms(self) -> int:
        """See ``Operator``."""
        return await self._request("operator_time", "read", lambda log: log.now_ms(), again=True)

    async def lease_left_s(self, owner: str) -> float | None:
        """See ``Operator``."""

        def ask(log: MemoryLog) -> float:
            lease = log.leases.get(owner)
            return 0.0 if lease is None else max(0, lease.until_ms - log.now_ms()) / 1000

        return await self._request("operator_lease", "read", ask, again=True)

    async def history(self) -> str:
        """See ``Operator``."""
        return await self._request("operator_history", "read", self._history_of, again=True)

    def _history_of(self, log: MemoryLog) -> str:
        """The name of the history that *log* goes on with: there is one, where nothing fails over."""
        del log
        return "memory"

    async def lost_tails(self, book: str) -> list[LostTail]:
        """See ``Operator``. None: what watches for losses watches a real server's connections."""
        return []

    async def oldest_snapshot(self, book: str) -> Snapshot | None:
        """See ``Operator``."""

        def ask(log: MemoryLog) -> Snapshot | None:
            kept = log.book(book).snapshots
            return kept[-2] if len(kept) > 1 else None

        return await self._request("operator_snapshot", "read", ask, again=True)

    async def least_needed(self, book: str) -> str:
        """See ``Operator``."""

        def ask(log: MemoryLog) -> str:
            held = log.book(book)
            if len(held.snapshots) < 2:
                return ""
            groups = [group.last for group in held.inputs.groups.values()]
            least = format_id(*min([parse_id(held.snapshots[-2].position), *groups]))
            return "" if least == GENESIS else least

        return await self._request("operator_needed", "read", ask, again=True)

    async def trim(self, book: str, keep: str, history: str = "") -> dict[StreamName, int]:
        """See ``Operator``."""

        def ask(log: MemoryLog) -> dict[StreamName, int] | None:
            if history and history != self._history_of(log):
                return None
            return log.trim_nowait(book, keep)

        removed = await self._request("operator_trim", "light", ask)
        if removed is None:
            raise other_history_error(book)
        return removed

    # -- restoring a log ---------------------------------------------------

    async def prepare(self, book: str) -> None:
        """See ``Operator``."""
        book_keys(book)

        def ask(log: MemoryLog) -> bool:
            held = log.book(book)
            held.prepared.clear()
            return _exists(held)

        if await self._request("operator_prepare", "light", ask):
            raise await self._existing(book)

    async def write(
        self, book: str, stream: StreamName, entries: Sequence[tuple[str, Sequence[str | bytes]]]
    ) -> None:
        """See ``Operator``."""
        if not entries:
            return

        def ask(log: MemoryLog) -> bool:
            beside = log.book(book).prepared.setdefault(stream, MemoryStream())
            for entry_id, fields in entries:
                id_ = parse_id(entry_id)
                if id_ <= beside.last:
                    return False
                beside.add(id_, tuple(map(_bytes, fields)))
            return True

        if not await self._request("operator_write", "write", ask):
            raise meddled_error(book)

    async def finish(self, book: str, restored: Restored) -> None:
        """See ``Operator``."""
        refused = await self._request("operator_finish", "write", partial(_put, book, restored))
        if refused == "exists":
            raise await self._existing(book)
        if refused:
            raise meddled_error(book)
        await self._register(book)

    async def _existing(self, book: str) -> LogError:
        def ask(log: MemoryLog) -> bool:
            held = log.book(book)  # there is no key whose being there could be asked for
            return bool(held.inputs.added) or held.record != CommitRecord()

        if await self._request("operator_exists", "read", ask, again=True):
            await self._register(book)
        return exists_error(book)

    async def _register(self, book: str) -> None:
        await self._request(
            "operator_register", "write", lambda log: log.register(book), again=True
        )

    async def abandon(self, book: str) -> None:
        """See ``Operator``."""
        await self._request(
            "operator_abandon", "light", lambda log: log.book(book).prepared.clear(), again=True
        )

    # -- dead letters ------------------------------------------------------

    async def retry_input(self, book: str, letter: str, fields: Mapping[str, bytes]) -> str:
        """See ``Operator``."""
        kind, key, by, trace = (
            fields.get(name, b"").decode() for name in ("type", "key", "by", "trace")
        )
        new = NewInput(kind, fields.get("body", b""), key, by, trace)

        def ask(log: MemoryLog) -> str | None:
            if not log.drop_letters_nowait(book, [letter]):
                return None
            return log.append_nowait(book, new)

        appended = await self._request("operator_retry", "write", ask)
        if appended is None:
            raise letter_gone_error(book, letter)
        return appended

    async def retry_action(
        self, book: str, letter: str, stream: ActionStream, entry_id: str
    ) -> str:
        """See ``Operator``."""
        id_ = parse_id(entry_id)

        def ask(log: MemoryLog) -> LogError | None:
            held = _whole(log, book, stream)
            if log.book(book).deadletters.get(parse_id(letter)) is None:
                return letter_gone_error(book, letter)
            if held.get(id_) is None:
                return action_gone_error(letter)
            since_ms = log.now_ms() - _CLAIMED_AGO_MS
            held.groups[stream].pending[id_] = MemoryPending(OPERATOR, since_ms, 1)
            log.drop_letters_nowait(book, [letter])
            log.ring(book, stream)
            return None

        refused = await self._request("operator_retry", "write", ask)
        if refused is not None:
            raise refused
        return entry_id

    async def drop_letters(self, book: str, letters: Sequence[str]) -> int:
        """See ``Operator``."""
        return await self._request(
            "operator_drop", "light", lambda log: len(log.drop_letters_nowait(book, letters))
        )


def _put(book: str, restored: Restored, log: MemoryLog) -> Literal["", "exists", "meddled"]:
    """Let what was prepared be the book; or why not."""
    held = log.book(book)
    if _exists(held) or held.deadletters.added:
        return "exists"
    inputs, outcomes = (held.prepared.get(name, MemoryStream()) for name in _BESIDE)
    if (len(inputs.ids), len(outcomes.ids)) != (restored.inputs, restored.outcomes):
        return "meddled"
    held.prepared.clear()
    for id_, fields in zip(inputs.ids, inputs.entries, strict=True):
        held.inputs.add(id_, decode_input(format_id(*id_).encode(), list(fields)))
    for id_, fields in zip(outcomes.ids, outcomes.entries, strict=True):
        held.outcomes.add(id_, decode_outcome(format_id(*id_).encode(), list(fields)))
    held.inputs.last, held.inputs.added = parse_id(restored.last_id), restored.added
    kept = [one.whole() for one in (restored.before, restored.snapshot) if one is not None]
    held.snapshots = kept
    newest = restored.snapshot.position if restored.snapshot is not None else ""
    held.record = msgspec.structs.replace(restored.record, owner="", snapshot=newest)
    for name in _BESIDE:
        log.ring(book, name)
    return ""


def _exists(held: MemoryBook) -> bool:
    """Whether the book has any key but its dead letters'."""
    streams = [held.stream(name) for name in _STREAMS[:-1]]
    return held.record != CommitRecord() or any(
        stream.added or stream.groups or stream.foreign for stream in streams
    )


def _whole(log: MemoryLog, book: str, stream: StreamName) -> MemoryStream[Any]:
    """A stream of a book, if its key is one."""
    held = log.book(book).stream(stream)
    if held.foreign:
        raise ForeignDataError(f"reading {stream} of {book}: the key is no stream")
    return held


def _raw(stream: StreamName, id_: IdPair, entry: Any) -> RawEntry:  # noqa: ANN401 - by stream
    """An entry as it would lie in the stream."""
    fields: Sequence[Argument]
    match stream:
        case "inputs" if entry.problem:
            fields = entry.raw
        case "inputs":
            new = NewInput(entry.type, entry.body, entry.key, entry.by, entry.trace)
            fields = encode_input(new)
        case "outcomes":
            fields = encode_outcome(entry)
        case "deadletters":
            fields = encode_dead_letter(entry)
        case _:
            fields = encode_action(entry)
    return RawEntry(format_id(*id_), tuple(map(_bytes, fields)))


def _bytes(part: Argument) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode()
