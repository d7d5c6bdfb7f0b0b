"""The simulated server against the real one: random calls of the whole port, side by side.

A simulator proves nothing about a server that it only imagines. So random sequences of calls, right and
wrong ones, are made on a ``MemoryLog`` and on a ``RedisLog`` over a real server; in between somebody
else tampers with the keys of both: foreign entries, wrong types, deletions, groups moved back or gone.
Each call must give the same result or the same type of error on both sides, and at the end every
stream, group, pending list, record and snapshot must be the same.

The real server goes first. The ids that it gave drive the other's clock, so that ids are equal and
nothing has to be mapped. A step is a kind and a few numbers that are interpreted in the state they
meet; so any subsequence of a sequence can be run, and a failing one is shrunk by taking steps out.

This module opens no connections: whoever calls it brings the real server, with a database that may be
wiped.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import hiredis
import msgspec

from holdfast.actors.ports import (
    ActionEntry,
    Commit,
    CommitRecord,
    DeadLetter,
    LogError,
    NewInput,
    OutcomeEntry,
    Snapshot,
    StreamFacts,
)
from holdfast.transport.codec import decode_action, decode_dead_letter, decode_input, decode_outcome
from holdfast.transport.keys import action_stream_id, book_keys, format_id, parse_id
from holdfast.transport.memory_log import MemoryGroup, MemoryLog, MemoryStream
from holdfast.transport.redis_commits import decode_record
from holdfast.transport.redis_follow import by_name, stream_facts
from holdfast.transport.redis_log import RedisLog
from holdfast.transport.snapshots import unpack_snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast.actors.ports import ActionStream, Log, StreamName
    from holdfast.transport.connection import Command, Reply
    from holdfast.transport.memory_log import IdPair
    from holdfast.transport.pool import Server

_T = TypeVar("_T")

STEPS: Final = 120
"""Steps of one sequence."""

NUMBERS: Final = 16
"""Numbers of one step; each is below 2**20."""

_BOOKS: Final = ("one", "two", "three")
_STREAMS: Final[tuple[StreamName, ...]] = (
    "inputs",
    "outcomes",
    "payments",
    "notifications",
    "deadletters",
)
_ACTIONS: Final[tuple[ActionStream, ...]] = ("payments", "notifications")
_OWNERS: Final = ("ann", "bob", 'q"\\ü', "")
_CONSUMERS: Final = ("c1", "c2", "c3")
_BAD_IDS: Final = ("", "abc", "1", "1-", "-1", "01-1", "1-1-1", "99999999999999999999-0", "1-x")
_MAX_ID: Final = f"{2**64 - 1}-{2**64 - 1}"
_IDLE_S: Final = 500.0
"""A claim with this idle time finds what was aged by twice as much, and nothing else."""

_WEIGHTS: Final = {
    "append": 14,
    "take_over": 5,
    "commit": 16,
    "resolve": 4,
    "read_inputs": 8,
    "read_outcomes": 5,
    "read_record": 2,
    "read_snapshot": 2,
    "facts": 4,
    "wait_books": 2,
    "save_snapshot": 6,
    "trim": 4,
    "read_actions": 9,
    "claim_actions": 7,
    "keep_claim": 4,
    "finish_actions": 8,
    "foreign_input": 2,
    "age": 4,
    "tamper": 2,
}
_KINDS: Final = tuple(_WEIGHTS)


class Step(msgspec.Struct, frozen=True):
    """One step: what kind, and numbers that decide the rest in the state it meets."""

    kind: str
    numbers: tuple[int, ...]


class Difference(msgspec.Struct, frozen=True):
    """Where the two sides differ.

    Attributes:
      at: Index of the step; the number of steps where the final contents differ.
      call: What was called.
      real: What the real server's side gave.
      memory: What the other side gave.
    """

    at: int
    call: str
    real: str
    memory: str


def draw_steps(seed: int, count: int = STEPS) -> list[Step]:
    """A random sequence of *count* steps; in most of them somebody leads every book at first."""
    rng = random.Random(seed)
    weights = tuple(_WEIGHTS.values())
    begin = [] if rng.random() < 0.2 else [Step("take_over", (0, book, 0)) for book in range(3)]
    return begin + [
        Step(kind, tuple(rng.getrandbits(20) for _ in range(NUMBERS)))
        for kind in rng.choices(_KINDS, weights, k=count - len(begin))
    ]


async def shrink(
    steps: list[Step], differs: Callable[[list[Step]], Awaitable[Difference | None]]
) -> tuple[list[Step], Difference | None]:
    """Take steps out as long as *differs* still finds a difference."""
    found = await differs(steps)
    size = max(1, len(steps) // 2)
    while found is not None:
        start, smaller = 0, False
        while start < len(steps):
            fewer = steps[:start] + steps[start + size :]
            difference = await differs(fewer)
            if difference is None:
                start += size
            else:
                steps, found, smaller = fewer, difference, True
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return steps, found


class ScriptedClock:
    """A clock that says the milliseconds of the ids that the real server gave.

    Attributes:
      coming: What it says next, one after the other.
      now: What it says when there are none: the latest that it said.
    """

    def __init__(self) -> None:
        self.coming: list[int] = []
        self.now = 1

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        if self.coming:
            self.now = max(self.now, self.coming[0])
            return self.coming.pop(0)
        return self.now


class _Numbers:
    """The numbers of a step, taken one after the other; 0 when they are used up."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._left = list(reversed(numbers))

    def below(self, bound: int) -> int:
        return (self._left.pop() if self._left else 0) % bound

    def pick(self, options: Sequence[_T]) -> _T:
        return options[self.below(len(options))]

    def once_in(self, times: int) -> bool:
        return self.below(times) == 1 % times


class Pair:
    """Both sides, and one sequence of steps on them.

    Args:
      server: The real server, with a database that may be wiped.
      make_memory: What stands beside it.
    """

    def __init__(
        self, server: Server, make_memory: Callable[[ScriptedClock], MemoryLog] = MemoryLog
    ) -> None:
        self._server = server
        self._make_memory = make_memory
        self.commands = 0
        """Calls of the port made on each side so far."""
        self.errors = 0
        """How many of them were refused."""

    async def run(self, steps: Sequence[Step]) -> Difference | None:
        """Run *steps* from an empty database on; the first difference, or None."""
        await self._raw(("FLUSHDB",))
        self._clock = ScriptedClock()
        self._memory = self._make_memory(self._clock)
        self._real = RedisLog(self._server)
        self._last: list[Commit] = []
        self._thinned: dict[tuple[Any, ...], None] = {}
        for at, step in enumerate(steps):
            difference = await self._step(at, step)
            if difference is not None:
                return difference
        return await self._compare_contents(len(steps))

    async def _step(self, at: int, step: Step) -> Difference | None:
        numbers = _Numbers(step.numbers)
        if step.kind in ("foreign_input", "age", "tamper"):
            await getattr(self, f"_{step.kind}")(numbers)
            self._begin_anew()  # it may trust nothing that it knew
            return None
        args: tuple[Any, ...] = getattr(self, f"_{step.kind}")(numbers)
        self.commands += 1
        before = await self._ends() if step.kind in _GIVES_IDS else {}
        real = await _result(self._real, step.kind, args)
        if before:
            self._clock.coming = await self._times_since(before, step.kind, args)
        memory = await _result(self._memory, step.kind, args)
        self._clock.coming = []
        if step.kind == "trim":
            self._begin_anew()  # trimmed twice within a second: see redis_follow
        if isinstance(real, str):
            self.errors += 1
        if isinstance(real, StreamFacts) and (real.lag == -1 or args in self._thinned):
            # A server does not know a lag (-1), or counts what is gone, after somebody's hand took
            # away entries that no consumer had been given.
            real = msgspec.structs.replace(real, lag=cast("StreamFacts", memory).lag)
        if real == memory:
            return None
        return Difference(at, f"{step.kind}{_shown(args)}", _shown(real), _shown(memory))

    def _begin_anew(self) -> None:
        """Go on with a client that knows nothing of what it wrote."""
        self._real = RedisLog(self._server)
        for held in self._memory.books.values():
            held.wrote.clear()

    # -- what the real server says -------------------------------------------

    async def _raw(self, *commands: Command) -> list[Reply]:
        return await self._server.run(commands)

    async def _ends(self) -> dict[tuple[str, StreamName], IdPair]:
        """Last ids of the streams in which the server chooses ids."""
        return {
            (book, name): self._memory.book(book).stream(name).last
            for book in _BOOKS
            for name in _CHOSEN
        }

    async def _times_since(
        self, before: dict[tuple[str, StreamName], IdPair], kind: str, args: tuple[Any, ...]
    ) -> list[int]:
        """Milliseconds of the ids given since, in the order in which memory asks for them."""
        books = [commit.book for commit in args[0]] if kind == "commit" else _BOOKS
        wanted: list[tuple[str, StreamName]] = [
            (book, name) for book in books for name in _CHOSEN if (book, name) in before
        ]
        commands: list[Command] = [
            ("XRANGE", book_keys(book).stream(name), f"({format_id(*before[book, name])}", "+")
            for book, name in wanted
            if before[book, name] != _PAIR_MAX
        ]
        replies = await self._raw(*commands) if commands else []
        return [
            parse_id(entry[0].decode())[0]
            for reply in replies
            if not isinstance(reply, hiredis.ReplyError)
            for entry in reply
        ]

    # -- calls: arguments from numbers ---------------------------------------

    def _book(self, n: _Numbers) -> str:
        return n.pick(("Wrong", "", "a b")) if n.once_in(60) else n.pick(_BOOKS)

    def _books(self, n: _Numbers) -> list[str]:
        first, count = n.below(3), 1 + n.below(3)
        books = [_BOOKS[(first + number) % 3] for number in range(count)]
        if n.once_in(80):
            books.append("Wrong")
        return [] if n.once_in(80) else books

    def _input_ids(self, book: str) -> list[str]:
        return (
            [format_id(*pair) for pair in self._memory.books[book].inputs.ids]
            if (book in self._memory.books)
            else []
        )

    def _position(self, n: _Numbers, book: str) -> str:
        if n.once_in(40):
            return n.pick((*_BAD_IDS, "9999999999999-5", _MAX_ID))
        held = self._memory.books.get(book)
        ids = ["0-0", *self._input_ids(book)]
        if held is not None:
            ids += [held.record.position] * 3
        return n.pick(ids)

    def _new(self, n: _Numbers) -> NewInput:
        choice = n.below(80)
        if choice < 8:
            return _ODD_INPUTS[choice]
        return NewInput("cancel", b'{"n":%d}' % choice, f"k-{choice}", "customer:K1")

    def _append(self, n: _Numbers) -> tuple[Any, ...]:
        count = 30 if n.once_in(40) else n.below(5)
        return self._book(n), [self._new(n) for _ in range(count)]

    def _take_over(self, n: _Numbers) -> tuple[Any, ...]:
        return self._book(n), n.pick(_OWNERS)

    def _commit(self, n: _Numbers) -> tuple[Any, ...]:
        if n.once_in(12) and self._last:
            return (self._last,)
        books = dict.fromkeys(self._books(n))
        self._last = [self._commit_of(book, n) for book in books]
        return (self._last,)

    def _resolve(self, n: _Numbers) -> tuple[Any, ...]:
        if n.once_in(4):
            return ([self._commit_of(book, n) for book in dict.fromkeys(self._books(n))],)
        return (self._last,)

    def _fingerprint(self, book: str, ids: list[str], *, wrong: bool) -> str:
        held = self._memory.books.get(book)
        entry = held.inputs.get(parse_id(ids[-1])) if held and ids else None
        if entry is None:
            return ""
        return "another's" if wrong else entry.fingerprint

    def _commit_of(self, book: str, n: _Numbers) -> Commit:
        held = self._memory.books.get(book)
        record = held.record if held else CommitRecord()
        ids = [
            id_ for id_ in self._input_ids(book) if parse_id(id_) > parse_id(record.position)
        ] or ["1-1"]
        ids = ids[: 1 + n.below(6)]
        mistake = n.below(30)
        if mistake == 1:
            ids = list(reversed(ids))
        elif mistake == 2:
            ids = ids[1:]
        commit = Commit(
            book=book,
            epoch=record.epoch - (mistake == 3),
            owner="thief" if mistake == 4 else record.owner,
            after=ids[0] if mistake == 5 and ids else record.position,
            position="5-5" if mistake == 6 or not ids else ids[-1],
            version=7,
            digest=f"d-{ids[-1] if ids else ''}",
            outcomes=[_outcome(id_, n.below(8)) for id_ in ids],
            payments=_actions(ids, n.below(5)),
            notifications=_actions(ids, n.below(3)),
            dead_letters=[
                DeadLetter("inputs", "1-1", "why", (b"a", b"\xff"))
                for _ in range(n.below(3) if n.once_in(3) else 0)
            ],
            decided=self._fingerprint(book, ids, wrong=mistake == 8),
        )
        if mistake == 7 and len(commit.payments) > 1:
            commit.payments.reverse()
        return commit

    def _read_inputs(self, n: _Numbers) -> tuple[Any, ...]:
        after = {book: self._position(n, book) for book in self._books(n)}
        return after, n.pick((1, 2, 3, 1000, 0)), 0.001 if n.once_in(30) else 0

    def _read_outcomes(self, n: _Numbers) -> tuple[Any, ...]:
        return self._read_inputs(n)

    def _read_record(self, n: _Numbers) -> tuple[Any, ...]:
        return (self._book(n),)

    def _read_snapshot(self, n: _Numbers) -> tuple[Any, ...]:
        return (self._book(n),)

    def _facts(self, n: _Numbers) -> tuple[Any, ...]:
        return self._book(n), n.pick(_STREAMS)

    def _wait_books(self, n: _Numbers) -> tuple[Any, ...]:
        return n.below(5), 0.001 if n.once_in(10) else 0

    def _save_snapshot(self, n: _Numbers) -> tuple[Any, ...]:
        book = self._book(n)
        held = self._memory.books.get(book)
        record = held.record if held else CommitRecord()
        position = record.position if n.below(3) else self._position(n, book)
        state = b"s" * (200_000 if n.once_in(50) else n.below(50))
        snapshot = Snapshot(position, 7, f"d-{position}", state)
        epoch = record.epoch - n.once_in(20)
        return book, snapshot, epoch, "thief" if n.once_in(20) else record.owner

    def _trim(self, n: _Numbers) -> tuple[Any, ...]:
        return (self._book(n),)

    def _read_actions(self, n: _Numbers) -> tuple[Any, ...]:
        wait_s = 0.001 if n.once_in(30) else 0
        return (
            *(n.pick(_ACTIONS), self._books(n), n.pick(_CONSUMERS)),
            *(n.pick((1, 2, 3, 5, 9, 100, 0)), wait_s),
        )

    def _claim_actions(self, n: _Numbers) -> tuple[Any, ...]:
        idle_s = n.pick((0, _IDLE_S))
        return (
            *(n.pick(_ACTIONS), self._books(n), n.pick(_CONSUMERS)),
            *(n.pick((1, 2, 3, 5, 9, 100, 0)), idle_s),
        )

    def _action_ids(self, stream: ActionStream, book: str, n: _Numbers) -> list[str]:
        held = self._memory.books.get(book)
        known = [format_id(*pair) for pair in held.actions(stream).ids] if held else []
        known += ["1-1"]
        ids = [n.pick(known) for _ in range(n.below(4))]
        if n.once_in(40):
            ids.append(n.pick(_BAD_IDS))
        return ids

    def _keep_claim(self, n: _Numbers) -> tuple[Any, ...]:
        stream, book = n.pick(_ACTIONS), self._book(n)
        return stream, book, n.pick(_CONSUMERS), self._action_ids(stream, book, n)

    def _finish_actions(self, n: _Numbers) -> tuple[Any, ...]:
        stream, book = n.pick(_ACTIONS), self._book(n)
        ids = self._action_ids(stream, book, n)
        finished = [(id_, self._new(n) if n.below(3) else None) for id_ in ids]
        letters = [DeadLetter(stream, "1-1", "why", (b"a",)) for _ in range(n.below(4) // 3)]
        return stream, book, finished, letters

    # -- somebody else, on both sides ----------------------------------------

    async def _foreign_input(self, n: _Numbers) -> None:
        """An entry in ``inputs`` that no producer of ours would write."""
        book, fields = n.pick(_BOOKS), n.pick(_FOREIGN_FIELDS)
        stream = self._memory.book(book).inputs
        ms, sequence = stream.last
        id_ = "*"
        if n.once_in(6):
            id_ = n.pick(
                (
                    format_id(ms, sequence + 5),
                    format_id(ms + 50, 3),
                    format_id(ms + 9, 2**52),
                    format_id(ms, 2**64 - 1),
                )
            )
            if n.once_in(12):
                id_ = _MAX_ID
        reply = (await self._raw(("XADD", book_keys(book).inputs, id_, *fields)))[0]
        if not isinstance(reply, hiredis.ReplyError):
            pair = parse_id(reply.decode())
            self._clock.now = max(self._clock.now, pair[0] if id_ == "*" else 0)
            stream.add(pair, decode_input(reply, list(fields)))

    async def _age(self, n: _Numbers) -> None:
        """Time goes by for what some consumer holds."""
        book, name = n.pick(_BOOKS), n.pick(_ACTIONS)
        held = self._memory.book(book).actions(name)
        group = held.groups.get(name)
        if group is None or held.foreign:
            return
        idle_ms = round(_IDLE_S * 2000)
        for id_ in sorted(group.pending):
            pending = group.pending[id_]
            if held.get(id_) is None or n.below(2):
                continue
            key = book_keys(book).stream(name)
            shown = format_id(*id_)
            command = ("XCLAIM", key, name, pending.consumer, 0, shown, "IDLE", idle_ms, "JUSTID")
            await self._raw(command)
            pending.since_ms = self._clock.now - idle_ms

    async def _tamper(self, n: _Numbers) -> None:
        """Hands on our keys."""
        book, name = n.pick(_BOOKS), n.pick(_STREAMS)
        held = self._memory.book(book)
        stream = held.stream(name)
        key = book_keys(book).stream(name)
        kind = n.pick(
            ("outcome", "trim", "delete_entry", "set_group", "destroy", "consumer", *_RARE)
        )
        if kind == "outcome":
            id_ = n.pick(self._input_ids(book) or ["1-1"])
            fields = ("status", "accepted", "body", "{}")
            reply = (await self._raw(("XADD", book_keys(book).outcomes, id_, *fields)))[0]
            if not isinstance(reply, hiredis.ReplyError):
                held.outcomes.add(parse_id(id_), OutcomeEntry(id_, "accepted", b"{}"))
        elif kind == "trim":
            least = n.pick(stream.ids or [(1, 1)])
            await self._raw(("XTRIM", key, "MINID", "=", format_id(*least)))
            stream.trim(least)
            self._thinned[book, name] = None
        elif kind == "delete_entry" and stream.ids:
            index = n.below(len(stream.ids))
            await self._raw(("XDEL", key, format_id(*stream.ids[index])))
            stream.deleted = max(stream.deleted, stream.ids[index])
            del stream.ids[index], stream.entries[index]
        elif kind in ("delete", "spoil"):
            await self._raw(("DEL", key))
            fresh: MemoryStream[Any] = MemoryStream()
            if kind == "spoil":
                await self._raw(("SET", key, "no stream"))
                fresh.foreign = True
            setattr(held, name, fresh)
        elif kind in ("delete_record", "spoil_record"):
            await self._raw(("DEL", book_keys(book).commit))
            held.record, held.snapshots = CommitRecord(), []
            if kind == "spoil_record":
                await self._raw(("SET", book_keys(book).commit, "no hash"))
            held.foreign = kind == "spoil_record"
        elif name in _ACTIONS and name in stream.groups:
            await self._tamper_group(kind, key, name, stream.groups, stream.ids, n)

    async def _tamper_group(
        self,
        kind: str,
        key: str,
        name: str,
        groups: dict[str, MemoryGroup],
        ids: list[IdPair],
        n: _Numbers,
    ) -> None:
        if kind == "set_group":
            id_ = n.pick([(0, 0), *ids])
            await self._raw(("XGROUP", "SETID", key, name, format_id(*id_)))
            groups[name].last = id_
        elif kind == "destroy":
            await self._raw(("XGROUP", "DESTROY", key, name))
            del groups[name]
        elif kind == "consumer":
            consumer = n.pick(_CONSUMERS)
            await self._raw(("XGROUP", "DELCONSUMER", key, name, consumer))
            pending = groups[name].pending
            for id_ in [id_ for id_, of in pending.items() if of.consumer == consumer]:
                del pending[id_]

    # -- contents ------------------------------------------------------------

    async def _compare_contents(self, at: int) -> Difference | None:
        for book in _BOOKS:
            real, memory = await self._real_book(book), self._memory_book(book)
            for part, value in real.items():
                if value != memory[part]:
                    return Difference(at, f"{part} of {book}", _shown(value), _shown(memory[part]))
        real_books = await self._real.wait_books(0, 0)
        if real_books != self._memory.registered:
            return Difference(at, "books", _shown(real_books), _shown(self._memory.registered))
        return None

    async def _real_book(self, book: str) -> dict[str, Any]:
        parts: dict[str, Any] = {}
        keys = book_keys(book)
        for name in _STREAMS:
            key = keys.stream(name)
            entries, info, groups = await self._raw(
                ("XRANGE", key, "-", "+"), ("XINFO", "STREAM", key), ("XINFO", "GROUPS", key)
            )
            if isinstance(entries, hiredis.ReplyError):
                parts[name] = "foreign"
                continue
            facts = stream_facts(info)
            missing = isinstance(info, hiredis.ReplyError)
            deleted = "0-0" if missing else by_name(info)["max-deleted-entry-id"].decode()
            found = [_decoded(name, id_, fields) for id_, fields in entries]
            parts[name] = (found, facts.last_id, facts.added, deleted)
            parts[f"{name}' group"] = await self._real_group(key, [] if missing else groups)
        record = (await self._raw(("HGETALL", keys.commit)))[0]
        if isinstance(record, hiredis.ReplyError):
            parts["record"] = "foreign"
            return parts
        parts["record"] = decode_record(record)
        kept = (await self._raw(("HMGET", keys.commit, "snapshot_before", "snapshot")))[0]
        data = [(await self._raw(("GET", keys.snapshot(id_.decode()))))[0] for id_ in kept if id_]
        parts["snapshots"] = [await unpack_snapshot(one) for one in data]
        return parts

    async def _real_group(self, key: str, groups: Reply) -> Any:  # noqa: ANN401 - to be compared
        found: dict[str, Any] = {}
        for group in map(by_name, groups):
            name = group["name"].decode()
            pending = (await self._raw(("XPENDING", key, name, "-", "+", 10_000)))[0]
            held = [(id_.decode(), consumer.decode(), times) for id_, consumer, _, times in pending]
            found[name] = (group["last-delivered-id"].decode(), held)
        return found

    def _memory_book(self, book: str) -> dict[str, Any]:
        held = self._memory.book(book)
        parts: dict[str, Any] = {"record": "foreign" if held.foreign else held.record}
        for name in _STREAMS:
            stream = held.stream(name)
            facts = stream.facts()
            content = (stream.entries, facts.last_id, facts.added, format_id(*stream.deleted))
            parts[name] = "foreign" if stream.foreign else content
            parts[f"{name}' group"] = {
                group: (
                    format_id(*of.last),
                    [
                        (format_id(*id_), of.pending[id_].consumer, of.pending[id_].deliveries)
                        for id_ in sorted(of.pending)
                    ],
                )
                for group, of in stream.groups.items()
            }
        parts["snapshots"] = held.snapshots
        return parts


_PAIR_MAX: Final = (2**64 - 1, 2**64 - 1)
_GIVES_IDS: Final = ("append", "take_over", "commit", "finish_actions")
_CHOSEN: Final[tuple[StreamName, ...]] = ("inputs", "deadletters")
_RARE: Final = (
    *("trim", "delete_entry", "set_group"),
    "delete",
    "spoil",
    "delete_record",
    "spoil_record",
)
_ODD_INPUTS: Final = (
    NewInput("", b"{}"),
    NewInput("cancel", b""),
    NewInput("cancel", b'"' + b"x" * 65_534 + b'"'),
    NewInput("cancel", b"x" * 65_537),
    NewInput("cancel", b"{}", "k" * 2000),
    NewInput("cancel", '{"name":"é"}'.encode(), "ключ", "staff:S1", "00-ab-cd-01"),
    NewInput("tick", b"{}", by="service:timer"),
    NewInput("cancel", b"\xff"),
)
_FOREIGN_FIELDS: Final[tuple[tuple[bytes, ...], ...]] = (
    (b"type", b"cancel", b"body", b"{}", b"key", b"k", b"by", b"customer:K1"),
    (b"body", b"{}", b"type", b"cancel"),
    (b"hello", b"world"),
    (b"type", b"cancel", b"type", b"cancel", b"body", b"{}"),
    (b"type", b"", b"body", b"{}"),
    (b"type", b"\xff", b"body", b"{}"),
    (b"type", b"cancel", b"body", b"x" * 65_537),
    (b"type", b"cancel", b"body", b"{}", b"by", b"x" * 70_000),
    (b"", b""),
)


def _outcome(id_: str, choice: int) -> OutcomeEntry:
    if choice == 1:
        return OutcomeEntry(id_, "refused", b'{"code":"taken"}', b"[1]")
    if choice == 2:
        return OutcomeEntry(id_, "accepted", b"{}", replayed=True)
    if choice == 3:
        return OutcomeEntry(id_, "invalid", b"", b"[2]", replayed=True)
    return OutcomeEntry(id_, "accepted", b'{"events":[]}')


def _actions(ids: Sequence[str], count: int) -> list[ActionEntry]:
    found: list[ActionEntry] = []
    for id_ in ids[:3]:
        if parse_id(id_)[1] < 2**52:
            for number in range(count):
                stream_id = action_stream_id(id_, number)
                trace = "00-ab" if number == 1 else ""
                found.append(ActionEntry(stream_id, f"{id_}:{number}", "void", b"{}", trace))
    return found


def _decoded(name: StreamName, id_: bytes, fields: list[bytes]) -> Any:  # noqa: ANN401 - to be compared
    if name == "inputs":
        return decode_input(id_, fields)
    if name == "outcomes":
        return decode_outcome(id_, fields)
    if name == "deadletters":
        return decode_dead_letter(fields)
    return decode_action(id_, fields)


async def _result(log: Log, kind: str, args: tuple[Any, ...]) -> Any:  # noqa: ANN401 - to be compared
    """What the call gives; for an error, its type's name."""
    try:
        result: Any = await getattr(log, kind)(*args)
    except (LogError, ValueError) as error:
        return type(error).__name__
    if kind in ("commit", "resolve"):
        return [type(one).__name__ if isinstance(one, LogError) else one for one in result]
    return result


def _shown(value: object) -> str:
    return repr(value)[:2000]
