"""Somebody else, who writes where only we may."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from holdfast.actors.ports import OutcomeEntry
from holdfast.transport.keys import BookKeys
from holdfast.transport.memory_log import MemoryLog, MemoryStream

if TYPE_CHECKING:
    import redis

    from holdfast.actors.ports import ActionStream, StreamName


class Vandal:
    """Somebody else, who writes where only we may."""

    def spoil_type(self, book: str, stream: StreamName) -> None:
        """Make the key of *stream* something that is no stream."""
        raise NotImplementedError

    def add_outcome(self, book: str, entry_id: str) -> None:
        """Put an outcome of their own under *entry_id*."""
        raise NotImplementedError

    def trim_inputs(self, book: str, least: str) -> None:
        """Drop inputs before *least*."""
        raise NotImplementedError

    def lose_last_input(self, book: str) -> None:
        """Take the newest input away."""
        raise NotImplementedError

    def delete_inputs(self, book: str) -> None:
        """Delete the whole stream; the next append begins another one."""
        raise NotImplementedError

    def delete_actions(self, book: str, stream: ActionStream) -> None:
        """Delete the whole stream, its group with it."""
        raise NotImplementedError

    def move_group_back(self, book: str, stream: ActionStream, entry_id: str) -> None:
        """Let the group's next entry be the one after *entry_id*."""
        raise NotImplementedError


class MemoryVandal(Vandal):
    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def spoil_type(self, book: str, stream: StreamName) -> None:
        self._log.book(book).stream(stream).foreign = True

    def add_outcome(self, book: str, entry_id: str) -> None:
        ms, sequence = map(int, entry_id.split("-"))
        stream: MemoryStream[OutcomeEntry] = self._log.book(book).outcomes
        stream.add((ms, sequence), OutcomeEntry(entry_id, "accepted", b"{}"))

    def trim_inputs(self, book: str, least: str) -> None:
        ms, sequence = map(int, least.split("-"))
        self._log.book(book).inputs.trim((ms, sequence))

    def lose_last_input(self, book: str) -> None:
        stream = self._log.book(book).inputs
        stream.entries.pop()
        stream.deleted = stream.ids.pop()

    def delete_inputs(self, book: str) -> None:
        self._log.book(book).inputs = MemoryStream()

    def delete_actions(self, book: str, stream: ActionStream) -> None:
        setattr(self._log.book(book), stream, MemoryStream())

    def move_group_back(self, book: str, stream: ActionStream, entry_id: str) -> None:
        ms, sequence = map(int, entry_id.split("-"))
        self._log.book(book).actions(stream).groups[stream].last = (ms, sequence)


class RedisVandal(Vandal):
    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def spoil_type(self, book: str, stream: StreamName) -> None:
        key = BookKeys(book).stream(stream)
        self._client.delete(key)
        self._client.set(key, "not a stream")

    def add_outcome(self, book: str, entry_id: str) -> None:
        fields = {"status": "accepted", "body": "{}"}
        self._client.xadd(BookKeys(book).outcomes, fields, id=entry_id)  # type: ignore[arg-type]

    def trim_inputs(self, book: str, least: str) -> None:
        self._client.xtrim(BookKeys(book).inputs, minid=least, approximate=False)

    def lose_last_input(self, book: str) -> None:
        key = BookKeys(book).inputs
        entries = cast("list[tuple[bytes, object]]", self._client.xrevrange(key, count=1))
        self._client.xdel(key, entries[0][0])

    def delete_inputs(self, book: str) -> None:
        self._client.delete(BookKeys(book).inputs)

    def delete_actions(self, book: str, stream: ActionStream) -> None:
        self._client.delete(BookKeys(book).stream(stream))

    def move_group_back(self, book: str, stream: ActionStream, entry_id: str) -> None:
        self._client.xgroup_setid(BookKeys(book).stream(stream), stream, entry_id)
