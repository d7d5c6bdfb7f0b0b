"""What operators may do beside the log's port: read any stream raw, and write what no actor writes.

It works on a real server alone; actors never need it, so it is no part of ``ports.Log``. Whatever
writes here checks on the server, in the same step, that nobody is harmed by it:

- a log is restored beside the book, under keys that nobody reads, and renamed into place in one
  step, if the book has no key at all by then;
- a dead letter is sent again and removed in one step, so that no two operators send it twice;
- an action that was given up is handed to its group anew, under its own id: adding it again would
  put an id into the stream that is beyond the booking actor's next.
"""

from __future__ import annotations

import math
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import hiredis
import msgspec

from holdfast.actors.ports import GENESIS, CommitRecord, LogError, Snapshot
from holdfast.transport import scripts
from holdfast.transport.about import ask_server
from holdfast.transport.connection import error_of, parse_url
from holdfast.transport.keys import REGISTRY, REGISTRY_KNOWN, book_keys, lease_key, parse_id
from holdfast.transport.pool import ScriptCall, Server, ServerOptions
from holdfast.transport.redis_follow import read_command
from holdfast.transport.scripts import Script
from holdfast.transport.server import parse_info
from holdfast.transport.snapshots import DamagedSnapshotError, pack_snapshot, unpack_snapshot
from holdfast.transport.tails import history_of, read_losses

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from holdfast.actors.ports import ActionStream, StreamName
    from holdfast.transport.about import ServerFacts
    from holdfast.transport.connection import Command, Reply
    from holdfast.transport.durability import Disk
    from holdfast.transport.tails import LostTail

OPERATOR: Final = "operator"
"""The consumer that an action is claimed for when it is handed out anew."""

WRITE_MAX: Final = 1_000
"""Most entries written in one round trip."""

_ACTIONS: Final[tuple[ActionStream, ...]] = ("payments", "notifications")

_RESTORE: Final = Script(
    "restore",
    """
-- KEYS: the book's commit, inputs, outcomes, payments, notifications, deadletters; where inputs and
-- outcomes were prepared; the older and the newer snapshot.
-- ARGV: inputs and outcomes prepared, the last input, entries ever added, epoch, position, version,
-- digest, and for each snapshot its position (or nothing) and its bytes.
local call = redis.call
for i = 1, 6 do
  if call('EXISTS', KEYS[i]) == 1 then return redis.error_reply('HF_EXISTS ' .. KEYS[i]) end
end
for i = 1, 2 do
  local length = call('XLEN', KEYS[6 + i])
  if length ~= tonumber(ARGV[i]) then
    return redis.error_reply('HF_CHANGED ' .. KEYS[6 + i] .. ' has ' .. length .. ' entries')
  end
end
call('XSETID', KEYS[7], ARGV[3], 'ENTRIESADDED', ARGV[4], 'MAXDELETEDID', '0-0')
call('RENAME', KEYS[7], KEYS[2])
if tonumber(ARGV[2]) > 0 then call('RENAME', KEYS[8], KEYS[3]) end
call('HSET', KEYS[1], 'epoch', ARGV[5], 'owner', '', 'position', ARGV[6], 'version', ARGV[7],
  'digest', ARGV[8])
for i, name in ipairs({'snapshot_before', 'snapshot'}) do
  local at = 7 + 2 * i
  if ARGV[at] ~= '' then
    call('SET', KEYS[8 + i], ARGV[at + 1])
    call('HSET', KEYS[1], name, ARGV[at])
  end
end
return 1
""",
)

_RETRY_INPUT: Final = Script(
    "retry input",
    """
-- KEYS: deadletters, inputs. ARGV: the letter's id, then names and values of the input.
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return false end
local id = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], ARGV[1])
return id
""",
)

_RETRY_ACTION: Final = Script(
    "retry action",
    """
-- KEYS: deadletters, the stream of actions. ARGV: the letter's id, group, consumer, the action's
-- entry. It is handed out with an idle time so long that any executor claims it at once.
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return false end
if #redis.call('XRANGE', KEYS[2], ARGV[4], ARGV[4]) == 0 then
  return redis.error_reply('HF_GONE ' .. ARGV[4])
end
redis.call('XCLAIM', KEYS[2], ARGV[2], ARGV[3], 0, ARGV[4], 'IDLE', 86400000, 'RETRYCOUNT', 1,
  'FORCE', 'JUSTID')
redis.call('XDEL', KEYS[1], ARGV[1])
return ARGV[4]
""",
)


class RawEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry as it lies in a stream.

    Attributes:
      fields: Names and values in turn.
    """

    id: str
    fields: tuple[bytes, ...]


class Pending(msgspec.Struct, frozen=True):
    """What a group of executors has not acknowledged.

    Attributes:
      count: Entries handed out and not acknowledged.
      oldest: The oldest one's id, "" where there is none.
      waiting: Entries not handed out yet, -1 where the server does not know.
      next: The oldest one's id of these, "" where there is none.
    """

    count: int = 0
    oldest: str = ""
    waiting: int = 0
    next: str = ""

    @property
    def first(self) -> str:
        """The oldest entry that is not carried out yet, "" where there is none."""
        ids = [entry_id for entry_id in (self.oldest, self.next) if entry_id]
        return min(ids, key=parse_id) if ids else ""


class Restored(msgspec.Struct, frozen=True):
    """A book that is about to be put into place.

    Attributes:
      inputs: Inputs that were prepared; ``outcomes`` likewise.
      last_id: The last input's id.
      added: Inputs that there ever were, those before the first one too.
      record: The commit record.
      before: The snapshot that the inputs follow, or None.
      snapshot: The one at the record's position, or None where nothing is decided.
    """

    inputs: int
    outcomes: int
    last_id: str
    added: int
    record: CommitRecord
    before: Snapshot | None
    snapshot: Snapshot | None


@asynccontextmanager
async def open_operator(url: str) -> AsyncGenerator[Operator]:
    """What an operator may do on the server at *url*, for the length of a block.

    Raises:
      ValueError: *url* is not understood.
    """
    operator = Operator(Server(parse_url(url), ServerOptions(), random.Random()))
    try:
        yield operator
    finally:
        await operator.aclose()


class Operator:
    """An operator's access to the books on one server. Open it with :func:`open_operator`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def aclose(self) -> None:
        """Close the connections."""
        await self._server.aclose()

    # -- looking -----------------------------------------------------------

    async def about(self, disk: Disk | None = None, replicas_min: int = 0) -> ServerFacts:
        """What the server is; see :func:`~holdfast.transport.about.ask_server`."""
        return await ask_server(self._server, disk, replicas_min)

    async def lease_left_s(self, owner: str) -> float | None:
        """See ``Operator``."""
        key = lease_key(owner)
        replies = await self._server.run([("GET", key), ("PTTL", key)], again=True)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                if str(reply).startswith("NOPERM"):
                    return None
                if str(reply).startswith("WRONGTYPE"):
                    return 0.0  # nobody takes it for a lease
                raise error_of(reply, "looking at a lease")
        left_ms = int(replies[1])
        return math.inf if left_ms == -1 else max(0, left_ms) / 1000

    async def history(self) -> str:
        """See ``Operator``."""
        (reply,) = await self._server.run([("INFO", "replication")], again=True)
        if not isinstance(reply, hiredis.ReplyError):
            return history_of(parse_info(reply)).id
        if str(reply).startswith("NOPERM"):
            return ""
        raise error_of(reply, "asking for the server's history")

    async def lost_tails(self, book: str) -> list[LostTail]:
        """See ``Operator``."""
        return await read_losses(self._server, book)

    async def read(
        self, book: str, stream: StreamName, after: str, count: int, wait_s: float = 0.0
    ) -> list[RawEntry]:
        """Up to *count* entries after the id *after*, waiting up to *wait_s* for the first."""
        key = book_keys(book).stream(stream)
        command, blocking_s = read_command(("XREAD", "COUNT", count), wait_s, (key,), (after,))
        doing = f"reading {stream} of {book}"
        reply = (await self._server.check([command], doing, blocking_s=blocking_s, again=True))[0]
        return _entries(reply[0][1]) if reply else []

    async def read_last(self, book: str, stream: StreamName, count: int) -> list[RawEntry]:
        """The last *count* entries, in their order."""
        command: Command = ("XREVRANGE", book_keys(book).stream(stream), "+", "-", "COUNT", count)
        reply = await self._server.check([command], f"reading {stream} of {book}", again=True)
        return _entries(reply[0])[::-1]

    async def read_one(self, book: str, stream: StreamName, entry_id: str) -> RawEntry | None:
        """The entry *entry_id*, or None."""
        command: Command = ("XRANGE", book_keys(book).stream(stream), entry_id, entry_id)
        reply = await self._server.check([command], f"reading {stream} of {book}", again=True)
        found = _entries(reply[0])
        return found[0] if found else None

    async def pending(self, book: str, stream: ActionStream) -> Pending:
        """What the group of *stream* has not carried out."""
        key = book_keys(book).stream(stream)
        groups, pending = await self._server.run(
            [("XINFO", "GROUPS", key), ("XPENDING", key, stream)], again=True
        )
        group = _group(groups, stream)
        if group is None or isinstance(pending, hiredis.ReplyError):
            entries = await self.read(book, stream, GENESIS, 1)
            return Pending(waiting=-1 if entries else 0, next=entries[0].id if entries else "")
        entries = await self.read(book, stream, group[b"last-delivered-id"].decode("ascii"), 1)
        lag = group[b"lag"]
        return Pending(
            int(pending[0]),
            pending[1].decode("ascii") if pending[1] else "",
            -1 if lag is None else int(lag),
            entries[0].id if entries else "",
        )

    async def now_ms(self) -> int:
        """The server's clock, milliseconds since the epoch: the one that ids come from."""
        reply = (await self._server.check([("TIME",)], "asking for the time", again=True))[0]
        return int(reply[0]) * 1000 + int(reply[1]) // 1000

    async def older_snapshot(self, book: str) -> str:
        """The position of the older of the two kept snapshots, "" where there is none."""
        command: Command = ("HGET", book_keys(book).commit, "snapshot_before")
        reply = (await self._server.check([command], f"reading {book}", again=True))[0]
        return reply.decode("ascii") if reply else ""

    async def oldest_snapshot(self, book: str) -> Snapshot | None:
        """The older of the two kept snapshots, or None where there is none that can be read."""
        position = await self.older_snapshot(book)
        command: Command = ("GET", book_keys(book).snapshot(position))
        data = (await self._server.check([command], f"reading {book}", again=True))[0]
        try:
            return None if data is None else await unpack_snapshot(data)
        except DamagedSnapshotError:
            return None

    async def least_needed(self, book: str) -> str:
        """The first input that must be kept: trimming goes no further; "" where all must be.

        The server decides anew when it trims; this is for telling beforehand.
        """
        older = await self.older_snapshot(book)
        reply = (await self._server.run([("XINFO", "GROUPS", book_keys(book).inputs)], again=True))[
            0
        ]
        if not older or isinstance(reply, hiredis.ReplyError):
            return older
        for group in reply:  # of somebody who follows the inputs by a group
            named = dict(zip(group[::2], group[1::2], strict=True))
            older = min(older, named[b"last-delivered-id"].decode("ascii"), key=parse_id)
        return "" if older == GENESIS else older

    async def trim(self, book: str, keep: str, history: str = "") -> dict[StreamName, int]:
        """See ``Operator``."""
        keys = book_keys(book)
        names = (keys.commit, keys.inputs, keys.outcomes, keys.payments, keys.notifications)
        call = ScriptCall(scripts.TRIM, names, ("", "", *_ACTIONS, keep, history))
        reply = (await self._server.call_scripts([call]))[0]
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("HF_HISTORY"):
                raise other_history_error(book)
            raise error_of(reply, f"trimming {book}")
        streams: tuple[StreamName, ...] = ("inputs", "outcomes", *_ACTIONS)
        return dict(zip(streams, map(int, reply), strict=True))

    # -- restoring a log ---------------------------------------------------

    async def prepare(self, book: str) -> None:
        """Begin to restore *book*: forget what an earlier attempt has left.

        Raises:
          LogError: There is such a book.
        """
        keys = book_keys(book)
        names = (keys.commit, *(keys.stream(name) for name in ("inputs", "outcomes", *_ACTIONS)))
        found = await self._server.check(
            [("EXISTS", *names), ("DEL", *_beside(book))], f"restoring {book}"
        )
        if found[0]:
            raise await self._existing(book)

    async def write(
        self, book: str, stream: StreamName, entries: Sequence[tuple[str, Sequence[str | bytes]]]
    ) -> None:
        """Prepare entries of ``inputs`` or ``outcomes``: ids, and names and values in turn.

        Raises:
          LogError: An id does not follow the one before: somebody else restores the same book.
        """
        key = _beside(book)[stream == "outcomes"]
        for start in range(0, len(entries), WRITE_MAX):
            commands: list[Command] = [
                ("XADD", key, id_, *fields) for id_, fields in entries[start : start + WRITE_MAX]
            ]
            for reply in await self._server.run(commands):
                if isinstance(reply, hiredis.ReplyError):
                    if "equal or smaller" in str(reply):
                        raise meddled_error(book)
                    raise error_of(reply, f"restoring {stream} of {book}")

    async def finish(self, book: str, restored: Restored) -> None:
        """Put what was prepared into place as *book*, and make it known. One atomic step each.

        Raises:
          LogError: There is such a book by now, or somebody else wrote to what was prepared.
        """
        keys = book_keys(book)
        record = restored.record
        args: list[str | bytes | int] = [
            *(restored.inputs, restored.outcomes, restored.last_id, restored.added),
            *(record.epoch, record.position, record.version, record.digest),
        ]
        kept: list[str] = []
        for snapshot in (restored.before, restored.snapshot):
            position = "" if snapshot is None else snapshot.position
            args += (position, b"" if snapshot is None else await pack_snapshot(snapshot))
            kept.append(keys.snapshot(position))
        names = (
            *(keys.commit, keys.inputs, keys.outcomes, keys.payments, keys.notifications),
            *(keys.deadletters, *_beside(book), *kept),
        )
        call = ScriptCall(_RESTORE, names, tuple(args))
        reply = (await self._server.call_scripts([call]))[0]
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("HF_EXISTS"):
                raise await self._existing(book)
            if str(reply).startswith("HF_CHANGED"):
                raise meddled_error(book)
            raise error_of(reply, f"restoring {book}")
        await self._register(book)  # after it: a book that is known has its log already

    async def _existing(self, book: str) -> LogError:
        """The error of who would restore a book that is there.

        An attempt that ended just after the book was in its place is completed: it is made known.
        """
        command: Command = ("EXISTS", book_keys(book).commit)
        if (await self._server.check([command], f"restoring {book}", again=True))[0]:
            await self._register(book)
        return exists_error(book)

    async def _register(self, book: str) -> None:
        call = ScriptCall(scripts.REGISTER, (REGISTRY, REGISTRY_KNOWN), (book,))
        reply = (await self._server.call_scripts([call], again=True))[0]
        if isinstance(reply, hiredis.ReplyError):
            raise error_of(reply, f"making {book} known")

    async def abandon(self, book: str) -> None:
        """Forget what was prepared."""
        await self._server.run([("DEL", *_beside(book))], again=True)

    # -- dead letters ------------------------------------------------------

    async def retry_input(self, book: str, letter: str, fields: Mapping[str, bytes]) -> str:
        """Append an input with *fields* and remove the dead letter; return the input's id.

        Raises:
          LogError: The letter is no longer there.
        """
        keys = book_keys(book)
        args = [part for pair in fields.items() for part in pair]
        call = ScriptCall(_RETRY_INPUT, (keys.deadletters, keys.inputs), (letter, *args))
        return await self._retried(book, letter, call)

    async def retry_action(
        self, book: str, letter: str, stream: ActionStream, entry_id: str
    ) -> str:
        """Hand an action to its group anew and remove the dead letter; return the entry's id.

        Raises:
          LogError: The letter is no longer there, or the action was trimmed away.
        """
        keys = book_keys(book)
        names = (keys.deadletters, keys.stream(stream))
        call = ScriptCall(_RETRY_ACTION, names, (letter, stream, OPERATOR, entry_id))
        return await self._retried(book, letter, call)

    async def _retried(self, book: str, letter: str, call: ScriptCall) -> str:
        reply: Reply = (await self._server.call_scripts([call]))[0]
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("HF_GONE"):
                raise action_gone_error(letter)
            raise error_of(reply, f"sending dead letter {letter} of {book} again")
        if reply is None:
            raise letter_gone_error(book, letter)
        return str(reply, "ascii")

    async def drop_letters(self, book: str, letters: Sequence[str]) -> int:
        """Remove dead letters for good; how many there were."""
        command: Command = ("XDEL", book_keys(book).deadletters, *letters)
        return int((await self._server.check([command], f"dropping dead letters of {book}"))[0])


def _beside(book: str) -> tuple[str, str]:
    """Where a log is prepared: keys of the same slot that nobody reads."""
    keys = book_keys(book)
    return keys.stream("restoring:inputs"), keys.stream("restoring:outcomes")


def exists_error(book: str) -> LogError:
    """A log cannot be restored as *book*."""
    return LogError(f"there is a book {book} already: restore the log as another one, with --book")


def letter_gone_error(book: str, letter: str) -> LogError:
    """Somebody was faster."""
    return LogError(f"the dead letter {letter} of {book} is no longer there")


def other_history_error(book: str) -> LogError:
    """What may be trimmed was looked for in another history."""
    return LogError(
        f"the server of {book} failed over or was restarted, so what was compared may be of another "
        "log: nothing was trimmed, do it again"
    )


def action_gone_error(letter: str) -> LogError:
    """There is nothing left to hand out."""
    return LogError(f"the action of dead letter {letter} was trimmed away: it can only be dropped")


def _group(reply: Reply, name: str) -> dict[bytes, Reply] | None:
    """The group *name* from the reply of XINFO GROUPS, or None."""
    if isinstance(reply, hiredis.ReplyError):
        return None
    groups = (dict(zip(group[::2], group[1::2], strict=True)) for group in reply)
    return next((group for group in groups if group[b"name"] == name.encode()), None)


def meddled_error(book: str) -> LogError:
    """What was prepared for *book* is not what was written."""
    return LogError(f"somebody else restores {book} at the same time: let one of you do it")


def _entries(reply: Reply) -> list[RawEntry]:
    return [RawEntry(str(id_, "ascii"), tuple(fields)) for id_, fields in reply or ()]
