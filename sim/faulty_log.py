"""The port ``Log`` of a process, over its connection to the simulated server.

It fails as ``RedisLog`` fails, since the actors are written for that: a read is tried once more on a new
connection, an append, a finish or a takeover is not, and a commit is resolved by the very code of
production. Who waits for replicas, and who notices a lost tail, is the production's code too: ``Copies``
and ``TailWatch``. What befalls requests on their way is in ``sim.connection``, what others have done to
the streams that they find in ``sim.stream_troubles``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio

from holdfast.actors.ports import (
    GENESIS,
    LogError,
    LogUnavailableError,
    TailLostError,
)
from holdfast.sim import stream_troubles, tails
from holdfast.sim.connection import Connection
from holdfast.transport.codec import check_finished, encode_input
from holdfast.transport.commits import check_commit, superseded, write_commits
from holdfast.transport.durability import Copies
from holdfast.transport.keys import book_keys, check_reading, parse_id
from holdfast.transport.memory_log import MemoryLog
from holdfast.transport.tails import TailWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from holdfast.actors.ports import (
        ActionEntry,
        ActionStream,
        Commit,
        CommitRecord,
        DeadLetter,
        InputEntry,
        NewInput,
        OutcomeEntry,
        Snapshot,
        StreamFacts,
        StreamName,
    )
    from holdfast.sim.connection import Call
    from holdfast.sim.server import SimServer
    from holdfast.transport.connection import Command, Reply
    from holdfast.transport.memory_operator import Weight

_T = TypeVar("_T")


class _Written(msgspec.Struct):
    """What the server answers to a pipeline of writes with a wait for copies behind them.

    Attributes:
      log: Where they were written.
      wrote: Whether anything was written: a wait behind nothing says that all replicas have it.
      results: To each commit.
      before: Whether one of them was written by an earlier attempt.
      copies: How many replicas have what was written.
    """

    log: MemoryLog
    wrote: bool
    results: list[LogError | None] = []
    before: bool = False
    copies: int = 0


class _NoWatch(TailWatch):
    """Of a client that is none of ours, and remembers nothing."""

    async def saw(self, book: str, inputs: str = GENESIS, decided: str = GENESIS) -> None:
        """Forget it."""


class FaultyLog:
    """The port ``Log`` of one life of a process. :meth:`SimServer.connect` makes it.

    Args:
      server: Where it leads.
      process: The life's name.
      watched: Whether it watches for lost tails, as our own processes do.
    """

    def __init__(self, server: SimServer, process: str, *, watched: bool = True) -> None:
        self._server = server
        self._process = process
        self._connection = Connection(server, process)
        self._copies = Copies(server.options.replicas_min, server.options.replicas_s)
        self._tails = TailWatch(self) if watched else _NoWatch(self)

    @property
    def _log(self) -> MemoryLog:
        return self._connection.log

    @property
    def losses(self) -> int:
        """How many connections were lost."""
        return self._connection.losses

    def kill(self) -> None:
        """The process is dead: no call of it completes from now on."""
        self._connection.kill()

    # -- the port ------------------------------------------------------------

    async def append(self, book: str, inputs: Sequence[NewInput]) -> list[str]:
        """See ``Log``."""
        book_keys(book)
        for new in inputs:
            encode_input(new)
        if not inputs:
            return []
        call = self._connection.call("append", "write", parts=len(inputs))

        async def effect(late: bool) -> list[str]:
            stream_troubles.write_foreign(self._server, self._log, book, call.key)
            whole = self._connection.cut(call)
            ids = await self._log.append(book, inputs[:whole])
            if whole < len(inputs) and not late:
                raise self._connection.lost("in the middle of a pipeline")
            return ids

        ids = await self._connection.once(call, effect)
        await self._tails.saw(book, ids[-1])
        return ids

    async def wait_books(self, known: int, wait_s: float) -> list[str]:
        """See ``Log``."""
        return await self._read("wait_books", wait_s, lambda: self._log.wait_books(known, wait_s))

    async def read_inputs(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[InputEntry]]:
        """See ``Log``."""
        check_reading(after, count)
        await self._tails.look()
        self._tails.refuse_lost(after)
        found = await self._read(
            "read_inputs", wait_s, lambda: self._log.read_inputs(after, count, wait_s)
        )
        for book, entries in found.items():
            await self._tails.saw(book, entries[-1].id)
        return found

    async def read_outcomes(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[OutcomeEntry]]:
        """See ``Log``."""
        check_reading(after, count)
        return await self._read(
            "read_outcomes", wait_s, lambda: self._log.read_outcomes(after, count, wait_s)
        )

    async def read_record(self, book: str) -> CommitRecord:
        """See ``Log``."""
        book_keys(book)
        return await self._read("read_record", 0, lambda: self._log.read_record(book))

    async def read_records(self, books: Sequence[str]) -> list[CommitRecord]:
        """See ``Log``."""
        for book in books:
            book_keys(book)
        return await self._read("read_records", 0, lambda: self._log.read_records(books))

    async def read_snapshot(self, book: str) -> Snapshot | None:
        """See ``Log``."""
        book_keys(book)
        return await self._read("read_snapshot", 0, lambda: self._log.read_snapshot(book))

    async def facts(self, book: str, stream: StreamName) -> StreamFacts:
        """See ``Log``."""
        book_keys(book)
        return await self._read("facts", 0, lambda: self._log.facts(book, stream))

    async def hold_lease(self, owner: str, place: str, lease_s: float) -> None:
        """See ``Log``."""
        await self._connection.again(
            "hold_lease", "write", 0, lambda _: self._log.hold_lease(owner, place, lease_s)
        )

    async def drop_lease(self, owner: str) -> None:
        """See ``Log``."""
        await self._connection.again(
            "drop_lease", "light", 0, lambda _: self._log.drop_lease(owner)
        )

    async def read_leases(self, owners: Sequence[str]) -> dict[str, str]:
        """See ``Log``."""
        held = await self._read("read_leases", 0, lambda: self._log.read_leases(owners))
        for owner in owners:
            if owner not in held and owner in self._server.evicted:
                del self._server.evicted[owner]
                self._server.counts.matter("evicted")
        return held

    async def take_over(self, book: str, owner: str, seen: int | None = None) -> CommitRecord:
        """See ``Log``."""
        book_keys(book)
        call = self._connection.call("take_over", "write")
        record = await self._connection.once(call, lambda _: self._log.take_over(book, owner, seen))
        await self._tails.saw(book, record.position, record.position)
        return record

    async def commit(self, commits: Sequence[Commit]) -> list[LogError | None]:
        """See ``Log``."""
        for commit in commits:
            check_commit(commit)
            book_keys(commit.book)
        await self._tails.look()
        asks = self._tails.commands()

        async def send(wanted: Sequence[int]) -> list[LogError | None]:
            chosen = [commits[index] for index in wanted]
            call = self._connection.call("commit", "write", parts=len(chosen))
            written = await self._connection.once(
                call,
                lambda late: self._write(call, chosen, late),
                lambda written: self._wait_copies(call, written),
            )
            if asks:
                history = self._server.history_of(written.log)
                self._tails.remember(tails.describe(history, written.log))
            if self._copies.wanted and None in written.results:
                self._copies.check_commits(written.copies, before=written.before)
            return written.results

        options = self._server.options
        results = await write_commits(
            commits,
            send,
            self.resolve,
            resolve_s=options.resolve_s,
            pause_s=options.backoff_least_s,
        )
        await self._know_written(
            [one for one, result in zip(commits, results, strict=True) if result is None]
        )
        await self._report_loss(results)
        return results

    async def _report_loss(self, answers: Sequence[object]) -> None:
        """Report the range before somebody learns of a loss who ends for it, and forgets."""
        if any(isinstance(answer, TailLostError) for answer in answers):
            await self._tails.look()

    async def _know_written(self, commits: Sequence[Commit]) -> None:
        """*commits* are written: whoever made them is told so."""
        for commit in commits:
            await self._tails.saw(commit.book, commit.position, commit.position)
            if self._server.on_written is not None:
                self._server.on_written(self._process, commit)

    async def _wait_copies(self, call: Call, written: _Written) -> None:
        if not written.wrote:
            written.copies = self._copies.wanted
        elif self._copies.wanted:
            replicas = self._server.replicas
            written.copies = await replicas.wait(written.log, self._copies.wait_s, *call.key)
            if not written.copies and call.op == "commit":
                self._server.mark("copies_late")

    async def _write(self, call: Call, commits: Sequence[Commit], late: bool) -> _Written:
        """A pipeline of commits, of which the server may refuse some, and which may be cut."""
        server, log = self._server, self._log
        whole = self._connection.cut(call)
        before = [log.book(one.book).record.position == one.position for one in commits[:whole]]
        results: list[LogError | None] = []
        for number, commit in enumerate(commits[:whole]):
            share = server.faults.refuse_some if len(commits) > 1 else 0.0
            if server.draws.chance("server.refuse_some", share, *call.key, number):
                results.append(LogUnavailableError("committing: the server's memory is full"))
            else:
                results += await log.commit([commit])
        refused = sum(isinstance(result, LogUnavailableError) for result in results)
        if refused:
            server.counts.fire("refuse_some", str(call), mattered=refused < len(results))
        if whole < len(commits) and not late:
            raise self._connection.lost("in the middle of a pipeline")
        wrote = [
            result is None and not known for result, known in zip(results, before, strict=True)
        ]
        found = None in results and any(before)
        return _Written(log, any(wrote), results, before=found)

    async def resolve(self, commits: Sequence[Commit]) -> list[LogError | bool]:
        """See ``Log``."""
        for commit in commits:
            book_keys(commit.book)
        if not commits:
            return []
        await self._tails.look()
        answers = await self._read("resolve", 0, lambda: self._log.resolve(commits))
        if self._copies.wanted and True in answers:
            answers = await self._confirmed_commits(commits, answers)
        await self._know_written(
            [one for one, answer in zip(commits, answers, strict=True) if answer is True]
        )
        await self._report_loss(answers)
        return answers

    async def _confirmed_commits(
        self, commits: Sequence[Commit], answers: Sequence[LogError | bool]
    ) -> list[LogError | bool]:
        """*answers*, once replicas have those that are written: a write is made to be waited for."""
        call = self._connection.call("confirm", "write")

        async def effect(late: bool) -> _Written:
            del late
            log = self._log
            await trio.lowlevel.checkpoint()
            results: list[LogError | None] = []
            for commit, answer in zip(commits, answers, strict=True):
                record = log.book(commit.book).record
                ours = (record.epoch, record.owner) == (commit.epoch, commit.owner)
                if answer is not True or (ours and record.position == commit.position):
                    results.append(None)
                elif ours:
                    raise LogUnavailableError(f"{commit.book} went back meanwhile")
                else:
                    results.append(superseded(commit.book, commit.epoch, record.epoch))
            return _Written(log, None in results, results)

        written = await self._connection.twice(
            call, effect, lambda one: self._wait_copies(call, one)
        )
        found = [refused or known for known, refused in zip(answers, written.results, strict=True)]
        if True in found:
            self._copies.check(written.copies)
        return found

    async def save_snapshot(self, book: str, snapshot: Snapshot, epoch: int, owner: str) -> None:
        """See ``Log``."""
        book_keys(book)
        parse_id(snapshot.position)
        try:
            await self._connection.again(
                "save_snapshot",
                "write",
                0,
                lambda _: self._log.save_snapshot(book, snapshot, epoch, owner),
            )
        except TailLostError as error:
            await self._report_loss([error])
            raise

    async def trim(self, book: str) -> dict[StreamName, int]:
        """See ``Log``."""
        book_keys(book)
        return await self._connection.again("trim", "light", 0, lambda _: self._log.trim(book))

    async def read_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, wait_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """See ``Log``."""
        for book in books:
            book_keys(book)
        key = ("read_actions", self._process, self._connection.number("read_actions"))

        async def effect(late: bool) -> list[tuple[str, ActionEntry]]:
            stream_troubles.trouble_groups(self._server, self._log, stream, books, key)
            wanted = stream_troubles.shortened(self._server, count, key)
            # A server gives nothing to a client that is gone by the time there is something.
            found = await self._log.read_actions(
                stream, books, consumer, wanted, 0 if late else wait_s
            )
            if 0 < len(found) == wanted < count:
                self._server.counts.fire("short", " ".join(map(str, key)), mattered=True)
            return found

        found = await self._connection.again("read_actions", "light", wait_s, effect)
        return await self._confirmed_actions(stream, consumer, found)

    async def claim_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, idle_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """See ``Log``."""
        for book in books:
            book_keys(book)
        key = ("claim_actions", self._process, self._connection.number("claim_actions"))

        async def effect(late: bool) -> list[tuple[str, ActionEntry]]:
            del late
            least_s = stream_troubles.claim_idle_s(
                self._server, self._log, stream, books, idle_s, key
            )
            found = await self._log.claim_actions(stream, books, consumer, count, least_s)
            return stream_troubles.reordered(self._server, found, key)

        found = await self._connection.again("claim_actions", "light", 0, effect)
        return await self._confirmed_actions(stream, consumer, found)

    async def _confirmed_actions(
        self, stream: ActionStream, consumer: str, found: list[tuple[str, ActionEntry]]
    ) -> list[tuple[str, ActionEntry]]:
        """*found*, once replicas have all that came before; their claim is renewed to wait for."""
        if not self._copies.wanted or not found:
            return found
        server = self._server
        ours: dict[tuple[str, str], None] = {}

        async def keep() -> int | None:
            call = self._connection.call("confirm_actions", "light")
            kept = await self._connection.twice(
                call, effect, lambda one: self._wait_copies(call, one)
            )
            return kept.copies if kept.wrote else None

        async def effect(late: bool) -> _Written:
            del late
            log = self._log
            ours.clear()
            for book, entry in found:
                group = log.book(book).actions(stream).groups.get(stream)
                pending = group.pending.get(parse_id(entry.id)) if group is not None else None
                if pending is not None and pending.consumer == consumer:
                    ours[book, entry.id] = None
                await log.keep_claim(stream, book, consumer, [entry.id])
            return _Written(log, bool(ours))

        server.mark("copies_executor")
        try:
            await self._copies.until_copied(keep, server.options.resolve_s)
        except LogUnavailableError:
            server.mark("copies_executor_refused")
            raise
        finally:
            if any(not self._is_there(stream, book, entry.id) for book, entry in found):
                server.mark("copies_action_forgotten")
        return [(book, entry) for book, entry in found if (book, entry.id) in ours]

    def _is_there(self, stream: ActionStream, book: str, entry_id: str) -> bool:
        return self._server.log.book(book).actions(stream).get(parse_id(entry_id)) is not None

    async def keep_claim(
        self, stream: ActionStream, book: str, consumer: str, ids: Sequence[str]
    ) -> None:
        """See ``Log``."""
        book_keys(book)
        for id_ in ids:
            parse_id(id_)
        if ids:
            await self._connection.again(
                "keep_claim",
                "light",
                0,
                lambda _: self._log.keep_claim(stream, book, consumer, ids),
            )

    async def finish_actions(
        self,
        stream: ActionStream,
        book: str,
        finished: Sequence[tuple[str, NewInput | None]],
        dead_letters: Sequence[DeadLetter] = (),
    ) -> None:
        """See ``Log``."""
        check_finished(finished)
        if not finished and not dead_letters:
            return
        book_keys(book)
        await self._connection.once(
            self._connection.call("finish_actions", "write"),
            lambda _: self._log.finish_actions(stream, book, finished, dead_letters),
        )

    async def aclose(self) -> None:
        """See ``Log``."""
        await trio.lowlevel.checkpoint()

    async def request(
        self, op: str, weight: Weight, ask: Callable[[MemoryLog], _T], *, again: bool = False
    ) -> _T:
        """A request beside the port: what *ask* does on the log, in one step.

        Args:
          op: Its name.
          weight: What it does to the server.
          ask: Runs without a pause.
          again: Whether it is made once more where the first one is lost.
        """

        async def effect(late: bool) -> _T:
            del late
            await trio.lowlevel.checkpoint()
            return ask(self._log)

        if again:
            return await self._connection.again(op, weight, 0, effect)
        return await self._connection.once(self._connection.call(op, weight), effect)

    # -- for the watch -------------------------------------------------------

    async def run(self, commands: Sequence[Command], *, again: bool = False) -> list[Reply]:
        """See ``transport.tails.Asked``."""
        report = tails.lost_tail(commands[0])
        server = self._server

        async def look(late: bool) -> list[Reply]:
            del late
            await trio.lowlevel.checkpoint()
            if report is not None:
                if server.on_lost_tail is not None:
                    server.on_lost_tail(self._process, report)
                return [b"0-0"]
            history = server.history_of(self._log)
            return [tails.answer(self._log, history, command) for command in commands]

        call = (
            self._connection.call("look", "read")
            if report is None
            else self._connection.call("report", "write")
        )
        return await (
            self._connection.twice(call, look) if again else self._connection.once(call, look)
        )

    async def _read(self, op: str, wait_s: float, read: Callable[[], Awaitable[_T]]) -> _T:
        return await self._connection.again(op, "read", wait_s, lambda _: read())
