"""Consumer groups: how actions reach the executors, and come back when an executor dies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import hiredis
import structlog

from holdfast.actors.ports import (
    ActionEntry,
    DeadLetter,
    ForeignDataError,
    StreamFacts,
)
from holdfast.transport import scripts
from holdfast.transport.codec import decode_action
from holdfast.transport.connection import Command, Reply, error_of
from holdfast.transport.keys import book_keys
from holdfast.transport.pool import ScriptCall
from holdfast.transport.redis_commits import add_dead_letters, script_error
from holdfast.transport.redis_follow import foreign_key, read_command, stream_facts
from holdfast.transport.scripts import Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.ports import ActionStream, NewInput
    from holdfast.transport.durability import Copies
    from holdfast.transport.pool import Server

_log: Any = structlog.get_logger("log")

Found = list[tuple[str, ActionEntry]]

_ROUNDS_MAX = 64
"""Most pages of pending entries that one claim looks through."""

FORGET_S = 3600.0
"""A consumer that has nothing pending and was not heard of for so long is taken for a dead one."""

_FORGET = Script(
    "forget consumers",
    """
-- KEYS: action stream. ARGV: group, milliseconds without a word. Who has anything pending stays: its
-- entries would go with it. Returns how many went.
local gone = 0
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local told = {}
  for i = 1, #consumer, 2 do told[consumer[i]] = consumer[i + 1] end
  if told['pending'] == 0 and told['idle'] >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], told['name'])
    gone = gone + 1
  end
end
return gone
""",
)


class Groups:
    """The consumer groups of many books on one server."""

    def __init__(self, server: Server, copies: Copies) -> None:
        self._server = server
        self._copies = copies
        self._tidied: dict[tuple[ActionStream, str], None] = {}

    async def read(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, wait_s: float
    ) -> Found:
        """New entries, at most *count*, but up to one for each book.

        Each book gets its share first; then those that have more share what is left.
        """
        share = max(1, count // len(books))
        found = await self._read_once(stream, books, consumer, share, wait_s)
        entries = sum(map(len, found.values()))
        more = [book for book, got in found.items() if len(got) >= share]
        if more and count - entries >= len(more):
            rest = await self._read_once(stream, more, consumer, (count - entries) // len(more), 0)
            for book, got in rest.items():
                found[book] += got
        return await self._confirmed(
            stream, consumer, await self._decode(stream, found, deliveries={})
        )

    async def _read_once(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, wait_s: float
    ) -> dict[str, list[tuple[bytes, list[bytes]]]]:
        keys = {book_keys(book).stream(stream).encode(): book for book in books}
        head = ("XREADGROUP", "GROUP", stream, consumer, "COUNT", count)
        command, blocking_s = read_command(head, wait_s, tuple(keys), (">",) * len(keys))
        reply: Reply = (await self._server.run([command], blocking_s=blocking_s, again=True))[0]
        if _lacks_group(reply):
            await self._make_groups(stream, books)
            reply = (await self._server.run([command], blocking_s=blocking_s, again=True))[0]
        if isinstance(reply, hiredis.ReplyError):
            error = error_of(reply, f"reading {stream}")
            if isinstance(error, ForeignDataError):
                raise await foreign_key(self._server, tuple(keys), f"reading {stream}") from error
            raise error
        return {keys[key]: entries for key, entries in reply or ()}

    async def _make_groups(self, stream: ActionStream, books: Sequence[str]) -> None:
        """Create the group where it is missing, from the stream's beginning."""
        commands: list[Command] = [
            ("XGROUP", "CREATE", book_keys(book).stream(stream), stream, "0", "MKSTREAM")
            for book in books
        ]
        for reply in await self._server.run(commands, again=True):
            if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("BUSYGROUP"):
                raise error_of(reply, f"making the group {stream}")

    async def claim(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, idle_s: float
    ) -> Found:
        """Entries that others left, at most *count*, now ours."""
        for book in books:
            book_keys(book)
        await self._forget_dead(stream, books)
        cursors = dict.fromkeys(books, "0-0")
        found: dict[str, list[tuple[bytes, list[bytes]]]] = {}
        room = count
        for _ in range(_ROUNDS_MAX):
            if not cursors or room <= 0:
                break
            turn = list(cursors)[:room]
            share = max(1, room // len(turn))
            replies = await self._autoclaim(
                stream, {book: cursors[book] for book in turn}, consumer, share, idle_s
            )
            for book, reply in zip(turn, replies, strict=True):
                cursor, entries = reply[0].decode("ascii"), reply[1]
                if entries:
                    found.setdefault(book, []).extend(entries)
                    room -= len(entries)
                if cursor == "0-0":
                    del cursors[book]
                else:
                    cursors[book] = cursor
        deliveries = await self._deliveries(stream, found, consumer)
        return await self._confirmed(
            stream, consumer, await self._decode(stream, found, deliveries)
        )

    async def _forget_dead(self, stream: ActionStream, books: Sequence[str]) -> None:
        """Let consumers go that are dead and left nothing.

        Every process has a consumer's name of its own, and leaves it behind. So each looks once, and
        there are no more names than processes were begun in ``FORGET_S``.
        """
        new = [book for book in books if (stream, book) not in self._tidied]
        if not new:
            return
        least_ms = math.ceil(FORGET_S * 1000)
        calls = [
            ScriptCall(_FORGET, (book_keys(book).stream(stream),), (stream, least_ms))
            for book in new
        ]
        for book, reply in zip(
            new, await self._server.call_scripts(calls, again=True), strict=True
        ):
            self._tidied[stream, book] = None
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOPERM"):
                # Rules of an older release: names that stay harm nobody soon.
                _log.warning("consumers_kept", stream=stream, book=book, why=str(reply))

    async def _confirmed(self, stream: ActionStream, consumer: str, actions: Found) -> Found:
        """*actions*, once enough replicas have all that came before: then none can be forgotten.

        ``WAIT`` counts from a write of the same connection, and the read that brought them is none, so
        their claim is renewed first. They stay ours while it waits, but for those that another consumer
        claims, and those that a failover forgets meanwhile: these are left out.

        Raises:
          LogUnavailableError: Too few have it after a while. The actions stay pending, and are
            claimed like those of a dead consumer.
        """
        if not self._copies.wanted or not actions:
            return actions
        ids: dict[str, list[str]] = {}
        for book, action in actions:
            ids.setdefault(book, []).append(action.id)
        calls = [_keep_call(stream, book, consumer, of_book) for book, of_book in ids.items()]
        ours: dict[tuple[str, str], None] = {}

        async def keep() -> Reply | None:
            *kept, copied = await self._server.call_scripts(
                calls, then=self._copies.commands(), again=True
            )
            ours.clear()
            for book, reply in zip(ids, kept, strict=True):
                if isinstance(reply, hiredis.ReplyError):
                    raise error_of(reply, f"keeping {stream} of {book}")
                ours.update(dict.fromkeys((book, id_.decode("ascii")) for id_ in reply))
            # Where none is ours any more, nothing was written to wait for.
            return copied if ours else None

        await self._copies.until_copied(keep, self._server.options.resolve_s)
        return [(book, action) for book, action in actions if (book, action.id) in ours]

    async def _autoclaim(
        self,
        stream: ActionStream,
        cursors: dict[str, str],
        consumer: str,
        count: int,
        idle_s: float,
    ) -> list[Reply]:
        head = (stream, consumer, math.ceil(idle_s * 1000))
        commands: list[Command] = [
            ("XAUTOCLAIM", book_keys(book).stream(stream), *head, cursor, "COUNT", count)
            for book, cursor in cursors.items()
        ]
        replies = await self._server.run(commands, again=True)
        lacking = [index for index, reply in enumerate(replies) if _lacks_group(reply)]
        if lacking:
            # What the other books gave is claimed now: to ask them again would lose it.
            await self._make_groups(stream, list(cursors))
            late = await self._server.run([commands[index] for index in lacking], again=True)
            for index, reply in zip(lacking, late, strict=True):
                replies[index] = reply
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise error_of(reply, f"claiming {stream}")
        return replies

    async def _deliveries(
        self,
        stream: ActionStream,
        found: dict[str, list[tuple[bytes, list[bytes]]]],
        consumer: str,
    ) -> dict[tuple[str, bytes], int]:
        """How often each of the entries *found* was handed out."""
        asked = [(book, entry[0]) for book, entries in found.items() for entry in entries]
        if not asked:
            return {}
        commands: list[Command] = [
            ("XPENDING", book_keys(book).stream(stream), stream, id_, id_, 1, consumer)
            for book, id_ in asked
        ]
        replies = await self._server.run(commands, again=True)
        return {
            key: int(reply[0][3])
            for key, reply in zip(asked, replies, strict=True)
            if not isinstance(reply, hiredis.ReplyError) and reply
        }

    async def _decode(
        self,
        stream: ActionStream,
        found: dict[str, list[tuple[bytes, list[bytes]]]],
        deliveries: dict[tuple[str, bytes], int],
    ) -> Found:
        """The entries as structs; those that cannot be read go to the dead letters."""
        actions: Found = []
        for book, entries in found.items():
            bad: list[DeadLetter] = []
            for id_, fields in entries:
                times = deliveries.get((book, id_), 0) if deliveries else 1
                try:
                    actions.append((book, decode_action(id_, fields, times)))
                except ForeignDataError as error:
                    bad.append(DeadLetter(stream, id_.decode("ascii"), str(error), tuple(fields)))
            if bad:
                await self.finish(stream, book, [(letter.id, None) for letter in bad], bad)
        return actions

    async def keep(
        self, stream: ActionStream, book: str, consumer: str, ids: Sequence[str]
    ) -> None:
        """Renew the claim on those of *ids* that are still *consumer*'s."""
        call = _keep_call(stream, book, consumer, ids)
        reply = (await self._server.call_scripts([call], again=True))[0]
        if isinstance(reply, hiredis.ReplyError) and not _lacks_group(reply):
            raise error_of(reply, f"keeping {stream} of {book}")

    async def finish(
        self,
        stream: ActionStream,
        book: str,
        finished: Sequence[tuple[str, NewInput | None]],
        letters: Sequence[DeadLetter],
    ) -> None:
        """Append results and dead letters and acknowledge, all in one script call."""
        keys = book_keys(book)
        results = [result for _, result in finished if result is not None]
        args: list[str | bytes | int] = [stream, len(results), len(finished), len(letters)]
        for result in results:
            args += (result.type, result.body, result.key, result.by, result.trace)
        args += [id_ for id_, _ in finished]
        add_dead_letters(args, letters)
        names = (keys.inputs, keys.stream(stream), keys.deadletters)
        call = ScriptCall(scripts.FINISH, names, tuple(args))
        reply = (await self._server.call_scripts([call]))[0]
        if isinstance(reply, hiredis.ReplyError):
            raise script_error(reply, book, 0, f"finishing {stream} of")

    async def facts(self, stream: ActionStream, book: str) -> StreamFacts:
        """The stream's facts with the group's progress."""
        key = book_keys(book).stream(stream)
        info, groups = await self._server.run(
            [("XINFO", "STREAM", key), ("XINFO", "GROUPS", key)], again=True
        )
        return stream_facts(info, groups, stream)


def _keep_call(stream: ActionStream, book: str, consumer: str, ids: Sequence[str]) -> ScriptCall:
    """The script call that renews *consumer*'s claim on those of *ids* that are its own."""
    return ScriptCall(scripts.KEEP, (book_keys(book).stream(stream),), (stream, consumer, *ids))


def _lacks_group(reply: Reply) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOGROUP")
