"""Reading streams by cursor, and noticing that entries in between are gone.

``XREAD`` skips what was trimmed away in silence, and a book that is replayed with a gap is a lie. So
a cursor is checked against the stream's facts: when it is new to us, when a batch came back full
(this reader lags, so trimming may have overtaken it), and when it was not read for a second. A
reader that keeps up cannot be overtaken: trimming stops at the older of two snapshots, and a book
is not snapshotted twice within a second.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
import hiredis
import msgspec

from holdfast.actors.ports import GENESIS, ForeignDataError, StreamFacts
from holdfast.transport.connection import error_of
from holdfast.transport.gaps import gap_error
from holdfast.transport.keys import book_keys, check_reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.transport.connection import Command, Reply
    from holdfast.transport.pool import Server

WAIT_S_MAX = 3600.0
_UNREAD_S = 1.0


def by_name(flat: list[Reply]) -> dict[str, Reply]:
    """A reply of names and values in turn, as XINFO gives it."""
    return {str(flat[i], "ascii"): flat[i + 1] for i in range(0, len(flat), 2)}


def stream_facts(reply: Reply, groups: Reply = None, group: str = "") -> StreamFacts:
    """The facts from XINFO STREAM and, for a group's progress, XINFO GROUPS.

    Raises:
      LogError: The server does not tell them; where there is no stream they are zeros.
    """
    if isinstance(reply, hiredis.ReplyError):
        if "no such key" in str(reply) or str(reply).startswith("WRONGTYPE"):
            return StreamFacts()  # There is no stream there.
        raise error_of(reply, "reading the facts of a stream")
    info = by_name(reply)
    pending = lag = 0
    listed: list[Reply] = [] if isinstance(groups, hiredis.ReplyError) else groups or []
    for of_group in map(by_name, listed):
        if of_group["name"] == group.encode():
            pending = int(of_group["pending"])
            # The server does not know a lag after entries were deleted one by one.
            lag = -1 if of_group["lag"] is None else int(of_group["lag"])
    first = info["first-entry"]
    return StreamFacts(
        length=int(info["length"]),
        last_id=info["last-generated-id"].decode("ascii"),
        first_id="" if first is None else first[0].decode("ascii"),
        added=int(info["entries-added"]),
        pending=pending,
        lag=lag,
    )


class _Cursor(msgspec.Struct):
    position: str
    read_at: float


class Follower:
    """Cursor reads of many books' inputs or outcomes.

    Args:
      server: Where.
      stream: ``inputs`` or ``outcomes``.
      guarded: Whether to look for gaps.
    """

    def __init__(self, server: Server, stream: str, *, guarded: bool) -> None:
        self._server = server
        self._stream = stream
        self._guarded = guarded
        self._cursors: dict[str, _Cursor] = {}

    async def read(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[tuple[bytes, list[bytes]]]]:
        """Raw entries after each book's position.

        Raises:
          ValueError: A book's name or a position is none, or *count* is less than 1.
          LogTrimmedError: Entries after a position are gone.
          LogUnavailableError: The server is away.
        """
        check_reading(after, count)
        if not after:
            if wait_s > 0:
                await anyio.sleep(wait_s)
            return {}
        if self._guarded:
            await self._check(self._suspects(after))
        keys = {book_keys(book).stream(self._stream).encode(): book for book in after}
        command, blocking_s = read_command(
            ("XREAD", "COUNT", count), wait_s, tuple(keys), tuple(after.values())
        )
        doing = f"reading {self._stream}"
        try:
            replies = await self._server.check([command], doing, blocking_s=blocking_s, again=True)
        except ForeignDataError as error:
            raise await foreign_key(self._server, tuple(keys), doing) from error
        reply = replies[0]
        found = {keys[key]: entries for key, entries in reply or ()}
        if self._guarded:
            await self._check(
                {book: after[book] for book, entries in found.items() if len(entries) >= count}
            )
            self._remember(after, found)
        return found

    def _suspects(self, after: Mapping[str, str]) -> dict[str, str]:
        """Cursors that are new here or were not read lately."""
        now, cursors = anyio.current_time(), self._cursors
        return {
            book: position
            for book, position in after.items()
            if (cursor := cursors.get(book)) is None
            or cursor.position != position
            or now - cursor.read_at > _UNREAD_S
        }

    def _remember(
        self, after: Mapping[str, str], found: dict[str, list[tuple[bytes, list[bytes]]]]
    ) -> None:
        now = anyio.current_time()
        for book, position in after.items():
            entries = found.get(book)
            end = entries[-1][0].decode("ascii") if entries else position
            self._cursors[book] = _Cursor(end, now)

    async def _check(self, cursors: Mapping[str, str]) -> None:
        """Look for gaps after *cursors*, in one round trip.

        Raises:
          LogTrimmedError: There is one.
        """
        if not cursors:
            return
        commands: list[Command] = [
            ("XINFO", "STREAM", book_keys(book).stream(self._stream)) for book in cursors
        ]
        replies = await self._server.run(commands, again=True)
        for (book, position), reply in zip(cursors.items(), replies, strict=True):
            facts, deleted = stream_facts(reply), GENESIS
            if isinstance(reply, hiredis.ReplyError):
                if str(reply).startswith("WRONGTYPE"):
                    key = book_keys(book).stream(self._stream)
                    raise await foreign_key(self._server, (key,), f"reading {self._stream}")
            else:
                deleted = by_name(reply)["max-deleted-entry-id"].decode("ascii")
            error = gap_error(self._stream, book, position, facts, deleted)
            if error is not None:
                self._cursors.pop(book, None)
                raise error


async def foreign_key(
    server: Server, keys: tuple[str | bytes, ...], doing: str
) -> ForeignDataError:
    """The error that names which of *keys* are no streams."""
    return ForeignDataError(
        f"{doing}: {await server.wrong_type(keys)} is no stream, so somebody else writes to our "
        "keys: find out who"
    )


def read_command(
    head: tuple[str | bytes | int, ...],
    wait_s: float,
    keys: tuple[str | bytes, ...],
    ids: tuple[str, ...],
) -> tuple[Command, float | None]:
    """An XREAD or XREADGROUP command, and how long it may block (None: not at all)."""
    if wait_s <= 0:
        return (*head, "STREAMS", *keys, *ids), None
    wait_s = min(wait_s, WAIT_S_MAX)
    return (*head, "BLOCK", math.ceil(wait_s * 1000), "STREAMS", *keys, *ids), wait_s
