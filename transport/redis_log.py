"""The log on Redis or Valkey: ``holdfast.actors.ports.Log`` over connections of our own.

What lies where is in :mod:`~holdfast.transport.keys`, as what in :mod:`~holdfast.transport.codec`;
what must happen in one step is a script of :mod:`~holdfast.transport.scripts`.

A result that was lost with its connection is treated by what it was. Reads are tried once more. An
append or a finish is reported as :class:`LogUnavailableError`; repeating it is the caller's, and
harmless, since idempotency keys and the state machine take a double for what it is. A commit is
resolved by reading the commit record.
"""

from __future__ import annotations

import math
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import hiredis
import msgspec

from holdfast.actors.ports import (
    CommitRecord,
    ForeignDataError,
    LogError,
    LogUnavailableError,
    StreamFacts,
    TailLostError,
)
from holdfast.transport import scripts
from holdfast.transport.ahead import AheadGuard
from holdfast.transport.codec import (
    check_finished,
    decode_input,
    decode_outcome,
    encode_input,
)
from holdfast.transport.commits import resolve_commit, write_commits
from holdfast.transport.connection import Command, error_of, parse_url
from holdfast.transport.durability import Copies, check_disk, check_replicas
from holdfast.transport.keys import REGISTRY, REGISTRY_KNOWN, book_keys, lease_key, parse_id
from holdfast.transport.pool import ScriptCall, Server, ServerOptions
from holdfast.transport.redis_actions import Groups
from holdfast.transport.redis_commits import (
    Wrote,
    commit_call,
    commit_error,
    decode_record,
    script_error,
)
from holdfast.transport.redis_follow import WAIT_S_MAX, Follower, stream_facts
from holdfast.transport.server import parse_info
from holdfast.transport.snapshots import DamagedSnapshotError, pack_snapshot, unpack_snapshot
from holdfast.transport.tails import TailWatch, read_losses

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from holdfast.actors.ports import (
        ActionEntry,
        ActionStream,
        Commit,
        DeadLetter,
        InputEntry,
        NewInput,
        OutcomeEntry,
        Snapshot,
        StreamName,
    )
    from holdfast.transport.tails import LostTail

_APPEND_MAX = 4096
"""Most appends in one round trip."""

_SNAPSHOT_ATTEMPTS_MAX = 3
_LEAST_VERSION = {"valkey": (7, 2), "redis": (7, 0)}


@asynccontextmanager
async def open_redis_log(
    url: str,
    *,
    rng: random.Random | None = None,
    options: ServerOptions | None = None,
) -> AsyncGenerator[RedisLog]:
    """The log on the server at *url*, for the length of a block.

    Args:
      url: ``redis://[user:password@]host:port/db`` or ``unix:///path``.
      rng: Where the jitter of pauses between attempts to connect comes from.
      options: Limits; None for the usual ones.

    Raises:
      ValueError: *url* is not understood.
      LogUnavailableError: Nobody answers there.
      LogError: The server does not let us in, is too old, or does not promise what *options* want.
    """
    log = RedisLog(Server(parse_url(url), options or ServerOptions(), rng or random.Random()))
    try:
        await log.check_server()
        yield log
    finally:
        await log.aclose()


class LogStatistics(msgspec.Struct, frozen=True):
    """How the connections of a log fare: how many were lost since it was opened."""

    connections_lost: int


class RedisLog:
    """The log of many books on one server. Open it with :func:`open_redis_log`.

    Its methods are those of ``holdfast.actors.ports.Log``, where they are described.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._inputs = Follower(server, "inputs", guarded=True)
        self._outcomes = Follower(server, "outcomes", guarded=False)
        options = server.options
        self._copies = Copies(options.replicas_min, options.replicas_s)
        self._groups = Groups(server, self._copies)
        self._tails = TailWatch(server)
        self._wrote = Wrote()
        ahead_max_s = options.ahead_max_s
        self._ahead = AheadGuard(server, ahead_max_s) if ahead_max_s < math.inf else None
        self._registered: dict[str, int] = {}
        self._books: list[str] = []
        self._books_end = "0-0"
        self._books_losses = -1

    async def check_server(self) -> None:
        """Make sure that the server is new enough and keeps what it is given.

        Raises:
          LogError: It is too old, may evict our keys, or forgets sooner than the options allow.
        """
        reply = (await self._server.run([("INFO",)], again=True))[0]
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("NOPERM"):
                return  # A producer's role need not know; what matters fails by itself.
            raise error_of(reply, "asking the server what it is")
        info = parse_info(reply)
        name = "valkey" if "valkey_version" in info else "redis"
        shown = info.get(f"{name}_version", "0")
        version = tuple(int(part) for part in shown.split(".") if part.isdigit())
        if version < _LEAST_VERSION[name]:
            raise LogError(
                f"the server is {name} {shown}: use Valkey 7.2 or newer, or Redis 7.0 or newer"
            )
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise LogError(
                f"the server may evict what it was given (maxmemory-policy {policy}): set it to "
                "noeviction with 'CONFIG SET maxmemory-policy noeviction', and in its configuration"
            )
        options = self._server.options
        if options.disk is not None:
            await check_disk(self._server, info, options.disk)
        check_replicas(info, options.replicas_min)

    # -- producers ---------------------------------------------------------

    async def append(self, book: str, inputs: Sequence[NewInput]) -> list[str]:
        """See ``Log.append``. Raises ValueError for an input too large to be one."""
        key = book_keys(book).inputs
        commands: list[Command] = [("XADD", key, "*", *encode_input(new)) for new in inputs]
        if not commands:
            return []
        await self._register(book)
        ids: list[str] = []
        for start in range(0, len(commands), _APPEND_MAX):
            part = commands[start : start + _APPEND_MAX]
            replies = await self._server.check(part, f"appending to {book}")
            ids += [reply.decode("ascii") for reply in replies]
        await self._tails.saw(book, ids[-1])
        return ids

    async def _register(self, book: str) -> None:
        """Note *book* in the registry; what we know is doubted after every lost connection.

        A producer's role may not run scripts: it appends to books that others have registered.
        """
        losses = self._server.losses
        if self._registered.get(book) == losses:
            return
        if len(self._registered) >= 100_000:
            self._registered.clear()
        call = ScriptCall(scripts.REGISTER, (REGISTRY, REGISTRY_KNOWN), (book,))
        reply = (await self._server.call_scripts([call], again=True))[0]
        if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("NOPERM"):
            raise error_of(reply, f"registering {book}")
        self._registered[book] = losses

    # -- whoever follows ---------------------------------------------------

    async def wait_books(self, known: int, wait_s: float) -> list[str]:
        """See ``Log.wait_books``."""
        deadline = anyio.current_time() + min(wait_s, WAIT_S_MAX)
        await self._read_books(0)
        while len(self._books) <= known:
            left_s = deadline - anyio.current_time()
            if left_s <= 0:
                break
            await self._read_books(left_s)
        return list(self._books)

    async def _read_books(self, wait_s: float) -> None:
        losses = self._server.losses
        if losses != self._books_losses:
            self._books, self._books_end, self._books_losses = [], "0-0", losses
        end = self._books_end
        if wait_s > 0:
            command: Command = (
                *("XREAD", "BLOCK", max(1, int(wait_s * 1000))),
                *("STREAMS", REGISTRY, end),
            )
            replies = await self._server.check(
                [command], "reading the books", blocking_s=wait_s, again=True
            )
        else:
            command = ("XREAD", "STREAMS", REGISTRY, end)
            replies = await self._server.check([command], "reading the books", again=True)
        if replies[0] is None or self._books_end != end:
            return  # Nothing new, or somebody else read it meanwhile.
        for id_, fields in replies[0][0][1]:
            try:
                book = book_keys(fields[fields.index(b"book") + 1].decode()).book
            except ValueError:
                raise ForeignDataError(
                    f"{REGISTRY} has an entry that we did not write: find out who did"
                ) from None
            self._books.append(book)
            self._books_end = id_.decode("ascii")

    async def read_inputs(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[InputEntry]]:
        """See ``Log.read_inputs``.

        Raises:
          LogTrimmedError: Entries are gone, or (TailLostError) their decisions are.
          ForeignDataError: The key has a wrong type, or an entry is too far ahead of the clock.
        """
        await self._tails.look()
        self._tails.refuse_lost(after)
        found = await self._inputs.read(after, count, wait_s)
        if self._ahead is not None:
            found = await self._ahead.check(after, found)
        for book, entries in found.items():
            await self._tails.saw(book, entries[-1][0].decode("ascii"))
        return {
            book: [decode_input(id_, fields) for id_, fields in entries]
            for book, entries in found.items()
        }

    async def read_outcomes(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[OutcomeEntry]]:
        """See ``Log.read_outcomes``. Raises ForeignDataError where one cannot be read."""
        found = await self._outcomes.read(after, count, wait_s)
        return {
            book: [decode_outcome(id_, fields) for id_, fields in entries]
            for book, entries in found.items()
        }

    async def read_record(self, book: str) -> CommitRecord:
        """See ``Log.read_record``."""
        return (await self.read_records([book]))[0]

    async def read_records(self, books: Sequence[str]) -> list[CommitRecord]:
        """See ``Log.read_records``."""
        if not books:
            return []
        commands: list[Command] = [("HGETALL", book_keys(book).commit) for book in books]
        doing = f"reading the commit record of {', '.join(books[:3])}"
        replies = await self._server.check(commands, doing, again=True)
        return [decode_record(reply, book) for reply, book in zip(replies, books, strict=True)]

    async def read_snapshot(self, book: str) -> Snapshot | None:
        """See ``Log.read_snapshot``."""
        keys = book_keys(book)
        for _ in range(_SNAPSHOT_ATTEMPTS_MAX):
            positions = (
                await self._server.check(
                    [("HMGET", keys.commit, "snapshot", "snapshot_before")],
                    f"reading the snapshot of {book}",
                    again=True,
                )
            )[0]
            kept = [position.decode("ascii") for position in positions if position]
            missing = False
            for position in kept:
                data = (
                    await self._server.check(
                        [("GET", keys.snapshot(position))],
                        f"reading the snapshot of {book}",
                        again=True,
                    )
                )[0]
                if data is None:
                    missing = True
                    continue
                try:
                    snapshot = await unpack_snapshot(data)
                except DamagedSnapshotError:
                    continue
                if snapshot.position == position:
                    return snapshot
            if not missing:
                return None  # All that are kept are damaged, or none is kept.
        return None

    async def facts(self, book: str, stream: StreamName) -> StreamFacts:
        """See ``Log.facts``. A lag that the server does not know is -1."""
        if stream in ("payments", "notifications"):
            return await self._groups.facts(stream, book)
        key = book_keys(book).stream(stream)
        return stream_facts((await self._server.run([("XINFO", "STREAM", key)], again=True))[0])

    # -- the booking actor -------------------------------------------------

    async def hold_lease(self, owner: str, place: str, lease_s: float) -> None:
        """See ``Log.hold_lease``."""
        command: Command = ("SET", lease_key(owner), place, "PX", max(1, math.ceil(lease_s * 1000)))
        await self._server.check([command], "renewing the lease", again=True)

    async def drop_lease(self, owner: str) -> None:
        """See ``Log.drop_lease``."""
        await self._server.check([("DEL", lease_key(owner))], "giving up the lease", again=True)

    async def read_leases(self, owners: Sequence[str]) -> dict[str, str]:
        """See ``Log.read_leases``."""
        held: dict[str, str] = {}
        commands: list[Command] = [("GET", lease_key(owner)) for owner in owners]
        replies = await self._server.run(commands, again=True) if commands else []
        for owner, reply in zip(owners, replies, strict=True):
            if isinstance(reply, hiredis.ReplyError):
                # What is no text is no lease of ours; renewing it puts that right.
                if not str(reply).startswith("WRONGTYPE"):
                    raise error_of(reply, "reading leases")
            elif reply is not None:
                held[owner] = str(reply, "utf-8", "replace")
        return held

    async def take_over(self, book: str, owner: str, seen: int | None = None) -> CommitRecord:
        """See ``Log.take_over``."""
        keys = book_keys(book)
        await self._register(book)
        names = (
            *(keys.commit, keys.inputs, keys.outcomes),
            *(keys.payments, keys.notifications, keys.deadletters),
        )
        args = (owner, msgspec.json.encode(owner), "" if seen is None else str(seen))
        reply = (await self._server.call_scripts([ScriptCall(scripts.TAKE_OVER, names, args)]))[0]
        if isinstance(reply, hiredis.ReplyError):
            raise script_error(reply, book, seen or 0, "taking over")
        record = decode_record(reply, book)
        await self._tails.saw(book, record.position, record.position)
        return record

    async def commit(self, commits: Sequence[Commit]) -> list[LogError | None]:
        """See ``Log.commit``."""
        calls = [commit_call(commit, self._wrote.before(commit)) for commit in commits]

        await self._tails.look()
        waits, asks = self._copies.commands(), self._tails.commands()
        then = (*waits, *asks)

        async def send(wanted: Sequence[int]) -> list[LogError | None]:
            replies = await self._server.call_scripts([calls[i] for i in wanted], then=then)
            results = [
                commit_error(commits[index], reply)
                for index, reply in zip(wanted, replies, strict=False)
            ]
            if asks:
                self._tails.remember(replies[-1])
            if waits and None in results:
                before = any(
                    result is None and isinstance(reply, hiredis.ReplyError)
                    for result, reply in zip(results, replies, strict=False)
                )
                self._copies.check_commits(replies[len(results)], before=before)
            return results

        options = self._server.options
        results = await write_commits(
            commits,
            send,
            self.resolve,
            resolve_s=options.resolve_s,
            pause_s=options.backoff_least_s,
        )
        for commit, result in zip(commits, results, strict=True):
            if result is None:
                self._wrote.note(commit)
                await self._tails.saw(commit.book, commit.position, commit.position)
        await self._report_loss(results)
        return results

    async def resolve(self, commits: Sequence[Commit]) -> list[LogError | bool]:
        """See ``Log.resolve``."""
        if not commits:
            return []
        await self._tails.look()
        records = await self.read_records([commit.book for commit in commits])
        answers = [
            resolve_commit(commit, record) for commit, record in zip(commits, records, strict=True)
        ]
        written = [index for index, answer in enumerate(answers) if answer is True]
        if self._copies.wanted and written:
            await self._confirm(commits, written, answers)
        for commit, answer in zip(commits, answers, strict=True):
            if answer is True:
                self._wrote.note(commit)
                await self._tails.saw(commit.book, commit.position, commit.position)
        await self._report_loss(answers)
        return answers

    async def _report_loss(self, answers: Sequence[object]) -> None:
        """Report the range before somebody learns of a loss who ends for it, and forgets."""
        if any(isinstance(answer, TailLostError) for answer in answers):
            await self._tails.look()

    async def lost_tails(self, book: str) -> list[LostTail]:
        """What *book*'s log was seen to have lost, in failovers and restarts, oldest first."""
        return await read_losses(self._server, book)

    async def _confirm(
        self, commits: Sequence[Commit], written: list[int], answers: list[LogError | bool]
    ) -> None:
        """Wait until replicas have those of *commits* that are written; amend *answers*.

        Raises:
          LogUnavailableError: Too few have them.
        """
        calls = [
            ScriptCall(
                scripts.CONFIRM,
                (book_keys(commits[index].book).commit,),
                (commits[index].epoch, commits[index].owner, commits[index].position),
            )
            for index in written
        ]
        replies = await self._server.call_scripts(calls, then=self._copies.commands(), again=True)
        for index, reply in zip(written, replies, strict=False):
            if isinstance(reply, hiredis.ReplyError):
                commit = commits[index]
                if str(reply).startswith("HF_POSITION"):
                    raise LogUnavailableError(
                        f"confirming {commit.book}: the log went back meanwhile: resolve it again"
                    )
                error = script_error(reply, commit.book, commit.epoch, "confirming")
                if isinstance(error, LogUnavailableError):
                    raise error
                answers[index] = error
        if any(answers[index] is True for index in written):
            self._copies.check(replies[-1])

    async def save_snapshot(self, book: str, snapshot: Snapshot, epoch: int, owner: str) -> None:
        """See ``Log.save_snapshot``."""
        keys = book_keys(book)
        parse_id(snapshot.position)  # the script compares ids, and takes them for such
        data = await pack_snapshot(snapshot)
        call = ScriptCall(
            scripts.SAVE_SNAPSHOT,
            (keys.commit, keys.snapshot(snapshot.position)),
            (epoch, owner, snapshot.position, data, keys.snapshot_prefix),
        )
        reply = (await self._server.call_scripts([call], again=True))[0]
        if isinstance(reply, hiredis.ReplyError):
            error = script_error(reply, book, epoch, "saving a snapshot of")
            await self._report_loss([error])
            raise error

    async def trim(self, book: str) -> dict[StreamName, int]:
        """See ``Log.trim``. ``deadletters`` are never trimmed."""
        keys = book_keys(book)
        names = (keys.commit, keys.inputs, keys.outcomes, keys.payments, keys.notifications)
        call = ScriptCall(scripts.TRIM, names, ("", "", "payments", "notifications"))
        reply = (await self._server.call_scripts([call], again=True))[0]
        if isinstance(reply, hiredis.ReplyError):
            raise script_error(reply, book, 0, "trimming")
        return {
            "inputs": reply[0],
            "outcomes": reply[1],
            "payments": reply[2],
            "notifications": reply[3],
        }

    # -- executors ---------------------------------------------------------

    async def read_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, wait_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """See ``Log.read_actions``: at most *count*, but up to one for each book."""
        if not books:
            await anyio.sleep(max(0.0, wait_s))
            return []
        return await self._groups.read(stream, books, consumer, count, wait_s)

    async def claim_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, idle_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """See ``Log.claim_actions``: at most *count*."""
        return await self._groups.claim(stream, books, consumer, count, idle_s)

    async def keep_claim(
        self, stream: ActionStream, book: str, consumer: str, ids: Sequence[str]
    ) -> None:
        """See ``Log.keep_claim``. What another consumer has claimed since stays with it."""
        for id_ in ids:
            parse_id(id_)
        if ids:
            await self._groups.keep(stream, book, consumer, ids)

    async def finish_actions(
        self,
        stream: ActionStream,
        book: str,
        finished: Sequence[tuple[str, NewInput | None]],
        dead_letters: Sequence[DeadLetter] = (),
    ) -> None:
        """See ``Log.finish_actions``. Raises ValueError for a result too large to be an input."""
        check_finished(finished)
        if finished or dead_letters:
            await self._groups.finish(stream, book, finished, dead_letters)

    def statistics(self) -> LogStatistics:
        """How the connections fare."""
        return LogStatistics(connections_lost=self._server.losses)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._server.aclose()


__all__ = ["LogStatistics", "RedisLog", "open_redis_log"]
