"""A failover in the middle of a tool: it tells of one history of the log, or says that it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import pytest

from holdfast.actors.booking.messages import RequestAuto
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.booking.wire import encode_message
from holdfast.actors.ports import Commit, LogError, NewInput, ProviderAnswer
from holdfast.cli.checks import Checker
from holdfast.cli.practice import define, load_practice
from holdfast.sim.memory_files import MemoryFolder
from holdfast.sim.server import copy_books
from holdfast.tools import history
from holdfast.tools.archive import Archive
from holdfast.tools.compare import compare
from holdfast.tools.errors import ToolError
from holdfast.tools.export import export_log
from holdfast.tools.history import HistoryChangedError, look_until_steady
from holdfast.tools.reconcile import find_orphans
from holdfast.tools.replay import replay
from holdfast.tools.snapshots import make_snapshot, write_snapshot_file
from holdfast.tools.sources import ArchiveSource, LogSource
from holdfast.tools.status import book_status
from holdfast.tools.trim import require_archived, trimmable
from holdfast.tools.whatif import what_if
from holdfast.transport.memory_log import MemoryLog
from holdfast.transport.memory_operator import MemoryOperator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.actors.ports import Log, Provider
    from holdfast.transport.memory_operator import Weight

    Look = Callable[["Server"], Awaitable[object]]

_T = TypeVar("_T")

BOOK = "demo"
BEGIN_MS = 1_780_000_000_000
REQUESTS_MAX = 60
"""More than any tool makes here."""


class Ticking:
    """A clock that goes on with every look."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        self._now_ms += 7
        return self._now_ms


class Server:
    """A server that fails over before the request with the number *at*: it goes on with another log."""

    def __init__(self, logs: list[MemoryLog], at: int, archived: Archive | None = None) -> None:
        self.logs = logs
        self.archived = archived
        self.left = at
        self.log = cast("Log", _Requests(self))
        self.operator = _Operator(self)
        self.folder = MemoryFolder()

    def now(self) -> MemoryLog:
        """The log that the next request is answered from."""
        self.left -= 1
        return self.logs[self.left < 0]


class _Requests:
    """The port ``Log``: each call is a request."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a method of the log's
        async def request(*args: object, **more: object) -> object:
            return await getattr(self._server.now(), name)(*args, **more)

        return request


class _Operator(MemoryOperator):
    def __init__(self, server: Server) -> None:
        super().__init__(server.logs[0])
        self._server = server

    async def _request(
        self, op: str, weight: Weight, ask: Callable[[MemoryLog], _T], *, again: bool = False
    ) -> _T:
        del op, weight, again
        return ask(self._server.now())

    def _history_of(self, log: MemoryLog) -> str:
        return f"history {self._server.logs.index(log)}"


class _Ledger:
    """A provider that has no payments."""

    async def ledger(self, prefix: str = "") -> dict[str, ProviderAnswer]:
        del prefix
        return {}


def _tell(_done: int, _total: int) -> None:
    pass


async def decide(log: MemoryLog, owner: str, names: str) -> None:
    """Let *owner* take the book over, decide a request of each of *names*, and write a snapshot."""
    record = await log.take_over(BOOK, owner)
    for name in names:
        body = encode_message(RequestAuto("checkup", customer=name))
        await log.append(BOOK, [NewInput("request_auto", body, f"k-{name}", "service:test")])
    runner = BookRunner(BOOK, await log.read_snapshot(BOOK))
    done = runner.decide((await log.read_inputs({BOOK: record.position}, 512, 0))[BOOK])
    version, digest = runner.machine.version, runner.digest
    commit = Commit(
        *(BOOK, record.epoch, owner, record.position, runner.position, version, digest),
        *(done.outcomes, done.payments, done.notifications, done.dead_letters),
    )
    assert await log.commit([commit]) == [None]
    await log.save_snapshot(BOOK, runner.snapshot(), record.epoch, owner)


async def two_histories() -> list[MemoryLog]:
    """A log, and what became of it after a failover that lost its tail: it went on otherwise."""
    old = MemoryLog(Ticking(BEGIN_MS))
    await old.append(BOOK, [define(load_practice("dentist"), by="service:test")])
    await decide(old, "first", "AB")
    new = MemoryLog(Ticking(BEGIN_MS + 10_000))
    new.books, new.registered = copy_books(old)
    await decide(old, "first again", "CDE")
    await decide(new, "second", "F")
    await decide(new, "second", "G")
    await decide(new, "second", "HI")
    return [old, new]


async def archive_of(log: MemoryLog) -> Archive:
    """The whole *log* as a file."""
    server = Server([log, log], REQUESTS_MAX)
    file = server.folder.file("export")
    await export_log(server.log, BOOK, file, operator=server.operator, tell=_tell)
    return Archive(file)


async def _export(server: Server) -> object:
    file = server.folder.file("export")
    header, problem = await export_log(server.log, BOOK, file, operator=server.operator, tell=_tell)
    return header, problem, [one.entry for one in Archive(file).inputs()]


async def _replay(server: Server) -> object:
    source = await LogSource.open(server.log, BOOK, operator=server.operator)
    return await replay(source, tell=_tell)


async def _replay_newest(server: Server) -> object:
    source = await LogSource.open(server.log, BOOK, newest=True, operator=server.operator)
    return await replay(source, tell=_tell)


async def _compare(server: Server) -> object:
    assert server.archived is not None
    source = await LogSource.open(server.log, BOOK, operator=server.operator)
    return await compare(ArchiveSource(server.archived), source, tell=_tell)


async def _what_if(server: Server) -> object:
    source = await LogSource.open(server.log, BOOK, operator=server.operator)
    return await what_if(source, {"minimum_notice_min": 20_160}, tell=_tell)


async def _snapshot(server: Server) -> object:
    snapshot, record, _ = await make_snapshot(server.log, server.operator, BOOK, _tell)
    return snapshot.position, snapshot.digest, record


async def _snapshot_file(server: Server) -> object:
    file = server.folder.file("book.snapshot")
    await write_snapshot_file(server.log, server.operator, BOOK, file, _tell)
    return dict(server.folder.files)


async def _status(server: Server) -> object:
    # By the server's clock, which goes on from look to look.
    found = await book_status(server.log, server.operator, BOOK, late_s=60.0)
    return msgspec.structs.replace(found, snapshot_age_s=0.0, streams=[])


async def _check(server: Server) -> object:
    return await look_until_steady(
        server.operator, BOOK, lambda: Checker(server.log, None, BOOK).run()
    )


async def _orphans(server: Server) -> object:
    provider = cast("Provider", _Ledger())
    return await find_orphans(server.log, server.operator, provider, BOOK)


TOOLS: list[Look] = [
    _export,
    _replay,
    _replay_newest,
    _compare,
    _what_if,
    _snapshot,
    _snapshot_file,
    _status,
    _check,
    _orphans,
]


@pytest.mark.parametrize("look", TOOLS, ids=lambda look: look.__name__.strip("_"))
async def test_wherever_a_failover_comes_a_tool_tells_of_one_history(look: Look) -> None:
    """Seed 60871 of ``upkeep``: the header of an export was of one history, its inputs of another."""
    logs = await two_histories()
    archived = await archive_of(logs[0])
    whole = [await look(Server([log, log], REQUESTS_MAX, archived)) for log in logs]
    seen = [0, 0, 0]
    for at in range(REQUESTS_MAX):
        server = Server(logs, at, archived)
        try:
            told = await look(server)
        except HistoryChangedError as error:
            assert str(error).endswith("do it again")  # noqa: PT017 - at some places only
            assert server.folder.files == {}
            seen[2] += 1
            continue
        assert told in whole, at
        seen[whole.index(told)] += 1
        if server.left >= 0:
            break
    assert seen[0] == 1  # the failover came after the last request
    assert seen[1] + seen[2] > 2


async def test_a_trim_deletes_nothing_by_a_position_of_another_history() -> None:
    """What was compared is of the old log; the new one has other inputs before the same id."""
    logs = await two_histories()
    await decide(logs[0], "first again", "JK")
    copies = [copy_books(log) for log in logs]
    refused = 0
    for at in range(REQUESTS_MAX):
        for log, copy in zip(logs, copies, strict=True):
            kept = MemoryLog(Ticking(0))
            kept.books, kept.registered = copy
            log.books, log.registered = copy_books(kept)
        archive = await archive_of(logs[0])
        archived = [one.entry for one in archive.inputs()]
        server = Server(logs, at)
        before = list(logs[1].book(BOOK).inputs.entries)
        try:
            going = await trimmable(server.operator, BOOK)
            await require_archived(server.operator, archive, going, _tell)
            removed = await server.operator.trim(BOOK, going.keep, going.history)
        except (ToolError, LogError) as error:
            refused += 1
            assert "do it again" in str(error) or "is not in export" in str(error)  # noqa: PT017
            assert logs[1].book(BOOK).inputs.entries == before
            continue
        left = logs[1].book(BOOK).inputs.entries
        assert [entry for entry in before if entry not in left and entry not in archived] == []
        assert removed["inputs"]
        if server.left >= 0:
            break
    assert refused > 2


async def test_an_unsteady_server_is_looked_at_a_few_times_only() -> None:
    logs = await two_histories()
    looks: list[int] = []

    async def look() -> None:
        looks.append(1)
        server.left = REQUESTS_MAX if server.left < 0 else 0  # it fails over each time

    server = Server(logs, REQUESTS_MAX)
    with pytest.raises(HistoryChangedError, match="failed over or was restarted"):
        await look_until_steady(server.operator, BOOK, look)
    assert len(looks) == history.ATTEMPTS_MAX
