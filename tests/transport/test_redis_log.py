"""The log on a real server in trouble: connections killed, the server killed, full, read-only."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import redis
import trio
import trio.testing

from holdfast.actors.ports import (
    ActionEntry,
    Commit,
    CommitUnknownError,
    LogError,
    LogUnavailableError,
    NewInput,
    OutcomeEntry,
    Snapshot,
)
from holdfast.transport import redis_actions, scripts
from holdfast.transport.connection import Connection
from holdfast.transport.keys import BookKeys, action_stream_id
from holdfast.transport.pool import ServerOptions
from holdfast.transport.redis_log import open_redis_log
from holdfast.transport.server import EmbeddedServer, ServerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from holdfast.transport.redis_log import RedisLog

TICK = NewInput("tick", b"{}")
IMPATIENT = ServerOptions(resolve_s=0.2, connect_s=2, backoff_most_s=0.05)


def client_of(server: EmbeddedServer) -> Any:  # noqa: ANN401 - redis-py's types are unions
    return cast("Any", redis.Redis(unix_socket_path=str(server.socket), decode_responses=True))


@pytest.fixture
def client(real_server: EmbeddedServer) -> Iterator[Any]:
    with client_of(real_server) as client:
        yield client


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server that this test alone uses, and may kill."""
    server = EmbeddedServer(ServerConfig(tmp_path / "data"))
    server.start()
    await server.wait_ready()
    yield server
    if server.pid is not None:
        os.kill(server.pid, signal.SIGCONT)
    server.stop_now()


async def kill(server: EmbeddedServer) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    with trio.fail_after(10):
        while server.running:  # noqa: ASYNC110 - a process sets no event
            await trio.sleep(0.001)


async def restart(server: EmbeddedServer) -> None:
    server.start()
    await server.wait_ready()


def batch(book: str, ids: list[str], after: str) -> Commit:
    outcomes = [OutcomeEntry(id_, "accepted", b"{}") for id_ in ids]
    return Commit(book, 1, "me", after, ids[-1], 1, f"d{ids[-1]}", outcomes, [], [], [])


async def led(log: RedisLog, book: str, inputs: int) -> list[str]:
    """A book that "me" leads; the ids of all its inputs."""
    await log.take_over(book, "me")
    await log.append(book, [TICK] * inputs)
    return [entry.id for entry in (await log.read_inputs({book: "0-0"}, 10_000, 0))[book]]


@pytest.mark.slow
async def test_what_is_no_lease_is_none_until_it_is_renewed(
    redis_log: RedisLog, real_server: EmbeddedServer, book: str
) -> None:
    client_of(real_server).lpush(f"holdfast:lease:{book}", "x")
    assert await redis_log.read_leases([book]) == {}
    await redis_log.hold_lease(book, "here", 60.0)
    assert await redis_log.read_leases([book]) == {book: "here"}


async def test_commits_are_written_once_while_connections_are_killed(
    real_server: EmbeddedServer,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    """Whatever the kill cut off, the record tells what became of the commit."""
    finished = trio.Event()
    options = ServerOptions(backoff_least_s=0.001, backoff_most_s=0.01)
    async with open_redis_log(real_server.url, rng=random.Random(1), options=options) as log:
        ids = await led(log, book, 4000)

        async def kill_clients() -> None:
            while not finished.is_set():
                await trio.to_thread.run_sync(
                    partial(client.client_kill_filter, _type="normal", skipme=True)
                )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_clients)
            after, results = "0-0", list[LogError | None]()
            for start in range(0, len(ids), 20):
                part = batch(book, ids[start : start + 20], after)
                with trio.fail_after(30):
                    while True:
                        try:
                            results += await log.commit([part])
                            break
                        except (CommitUnknownError, LogUnavailableError):
                            continue  # Sending again is safe: it compares and sets.
                after = part.position
            finished.set()
        assert results == [None] * len(results)
        assert log.statistics().connections_lost > 0
        record = await log.read_record(book)
        assert (record.position, record.digest) == (ids[-1], f"d{ids[-1]}")
    keys = BookKeys(book)
    assert [id_ for id_, _ in client.xrange(keys.outcomes)] == ids
    assert client.xinfo_stream(keys.outcomes)["entries-added"] == len(ids)


@pytest.mark.slow
async def test_an_unknown_commit_is_resolved_when_the_server_is_back(
    own_server: EmbeddedServer,
) -> None:
    """The server stands still with the commit on its way, and is killed before it answers."""
    async with open_redis_log(own_server.url, rng=random.Random(1), options=IMPATIENT) as log:
        ids = await led(log, "demo", 5)
        await log.commit([batch("demo", ids[:2], "0-0")])
        assert own_server.pid is not None
        last = batch("demo", ids[2:], ids[1])
        errors: list[Exception] = []

        async def send() -> None:
            try:
                await log.commit([last])
            except LogError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            os.kill(own_server.pid, signal.SIGSTOP)
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await kill(own_server)
        assert [type(error) for error in errors] == [CommitUnknownError]
        with pytest.raises(LogUnavailableError):
            await log.resolve([last])
        await restart(own_server)
        assert await log.resolve([last]) == [False]
        assert await log.commit([last]) == [None]
        assert await log.resolve([last]) == [True]
        assert (await log.facts("demo", "outcomes")).added == len(ids)


@pytest.mark.slow
async def test_a_server_that_is_away_and_comes_back(own_server: EmbeddedServer) -> None:
    async with open_redis_log(own_server.url, rng=random.Random(1), options=IMPATIENT) as log:
        ids = await led(log, "demo", 5)
        await kill(own_server)
        with pytest.raises(LogUnavailableError, match="nothing was committed"):
            await log.commit([batch("demo", ids, "0-0")])
        with pytest.raises(LogUnavailableError, match="start the server"):
            await log.append("demo", [TICK])
        with pytest.raises(LogUnavailableError):
            await log.read_inputs({"demo": ids[-1]}, 10, 60)
        with pytest.raises(LogUnavailableError):
            await log.read_actions("payments", ["demo"], "c", 10, 60)
        with pytest.raises(LogUnavailableError):
            await log.take_over("demo", "me")
        await restart(own_server)
        assert await log.commit([batch("demo", ids, "0-0")]) == [None]
        assert len(await log.append("demo", [TICK])) == 1
        assert await log.wait_books(0, 0) == ["demo"]


@pytest.mark.slow
async def test_blocked_reads_end_when_the_server_dies(own_server: EmbeddedServer) -> None:
    async with open_redis_log(own_server.url, rng=random.Random(1), options=IMPATIENT) as log:
        ids = await led(log, "demo", 1)
        ended: list[str] = []

        async def blocked(name: str, read: Callable[[], Any]) -> None:
            with pytest.raises(LogUnavailableError):
                await read()
            ended.append(name)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                after = {"demo": ids[-1]}
                reads: dict[str, Callable[[], Any]] = {
                    "inputs": partial(log.read_inputs, after, 10, 60),
                    "outcomes": partial(log.read_outcomes, after, 10, 60),
                    "actions": partial(log.read_actions, "payments", ["demo"], "c", 10, 60),
                    "books": partial(log.wait_books, 1, 60),
                }
                for name, read in reads.items():
                    nursery.start_soon(blocked, name, read)
                await trio.testing.wait_all_tasks_blocked(0.02)
                await kill(own_server)
        assert sorted(ended) == sorted(reads)


async def test_waiting_reads_do_not_delay_a_commit(redis_log: RedisLog, book: str) -> None:
    ids = await led(redis_log, book, 1)
    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(redis_log.read_inputs, {book: ids[-1]}, 10, 60)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            assert await redis_log.commit([batch(book, ids, "0-0")]) == [None]
        nursery.cancel_scope.cancel()


async def test_a_cancelled_log_closes_every_connection(redis_log: RedisLog, book: str) -> None:
    ids = await led(redis_log, book, 1)
    async with trio.open_nursery() as nursery:  # several at a time, so that several are idle then
        for _ in range(3):
            nursery.start_soon(redis_log.read_record, book)
            nursery.start_soon(redis_log.read_inputs, {book: ids[-1]}, 10, 0.02)
    with pytest.MonkeyPatch.context() as patch:
        closed: list[Connection] = []
        aclose = Connection.aclose

        async def note(self: Connection) -> None:
            await aclose(self)
            closed.append(self)

        patch.setattr(Connection, "aclose", note)
        with trio.CancelScope() as scope:
            scope.cancel()
            await redis_log.aclose()
    assert len(closed) >= 4


async def test_a_failed_connection_waits_before_the_next(tmp_path: Path) -> None:
    """An actor that simply tries again does not spin."""
    options = ServerOptions(backoff_least_s=0.02, backoff_most_s=0.04)
    server = EmbeddedServer(ServerConfig(tmp_path / "data"))
    server.start()
    try:
        await server.wait_ready()
        async with open_redis_log(server.url, rng=random.Random(1), options=options) as log:
            await kill(server)
            start = trio.current_time()
            for _ in range(4):
                with pytest.raises(LogUnavailableError):
                    await log.read_record("demo")
            assert trio.current_time() - start >= 0.04
    finally:
        server.stop_now()


async def test_scripts_that_the_server_forgot_are_loaded_again(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    new_book: Callable[[], str],
) -> None:
    books = [new_book() for _ in range(3)]
    commits = [batch(book, await led(redis_log, book, 2), "0-0") for book in books]
    client.script_flush()
    assert await redis_log.commit(commits) == [None, None, None]
    client.script_flush()
    snapshot = Snapshot(commits[0].position, 1, commits[0].digest, b"book")
    await redis_log.save_snapshot(books[0], snapshot, 1, "me")
    client.script_flush()
    await redis_log.finish_actions("payments", books[0], [("1-1", TICK)])
    client.script_flush()
    assert (await redis_log.trim(books[0]))["inputs"] == 0


async def test_a_damaged_snapshot_gives_way_to_the_older(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    ids = await led(redis_log, book, 3)
    after = "0-0"
    for id_ in ids:
        assert await redis_log.commit([batch(book, [id_], after)]) == [None]
        await redis_log.save_snapshot(book, Snapshot(id_, 1, f"d{id_}", b"book"), 1, "me")
        after = id_
    keys = BookKeys(book)
    kept = client.keys(f"holdfast:{{{book}}}:snapshot:*")
    assert sorted(kept) == sorted([keys.snapshot(ids[-2]), keys.snapshot(ids[-1])])
    client.setrange(keys.snapshot(ids[-1]), 30, "damage")
    older = await redis_log.read_snapshot(book)
    assert older == Snapshot(ids[-2], 1, f"d{ids[-2]}", b"book")
    client.set(keys.snapshot(ids[-2]), "nonsense")
    assert await redis_log.read_snapshot(book) is None
    client.delete(*kept)
    assert await redis_log.read_snapshot(book) is None


async def test_a_full_server_writes_no_part_of_a_commit(own_server: EmbeddedServer) -> None:
    async with open_redis_log(own_server.url) as log:
        ids = await led(log, "demo", 5)
        whole = batch("demo", ids, "0-0")
        assert await log.commit([batch("demo", ids[:1], "0-0")]) == [None]
        whole = batch("demo", ids[1:], ids[0])
        with client_of(own_server) as client:
            client.config_set("maxmemory", "1mb")
            with pytest.raises(LogUnavailableError, match="memory is full"):
                await log.append("demo", [TICK])
            with pytest.raises(LogUnavailableError, match="memory is full"):
                await log.commit([whole])
            with pytest.raises(LogUnavailableError, match="memory is full"):
                await log.finish_actions("payments", "demo", [("1-1", TICK)])
            assert (await log.facts("demo", "outcomes")).added == 1
            assert (await log.read_record("demo")).position == ids[0]
            client.config_set("maxmemory", "0")
        assert await log.commit([whole]) == [None]


async def test_a_read_only_server_is_unavailable(own_server: EmbeddedServer) -> None:
    async with open_redis_log(own_server.url) as log:
        ids = await led(log, "demo", 5)
        with client_of(own_server) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            for write in (log.append("demo", [TICK]), log.commit([batch("demo", ids, "0-0")])):
                with pytest.raises(LogUnavailableError, match="connect to the primary"):
                    await write
            client.execute_command("REPLICAOF", "NO", "ONE")
        assert await log.commit([batch("demo", ids, "0-0")]) == [None]


async def test_a_server_that_evicts_is_refused(own_server: EmbeddedServer) -> None:
    with client_of(own_server) as client:
        client.config_set("maxmemory", "1gb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.RaisesGroup(
            pytest.RaisesExc(LogError, match="set it to noeviction"), allow_unwrapped=True
        ):
            async with open_redis_log(own_server.url):
                raise AssertionError("not reached")


async def test_an_action_that_cannot_be_read_is_a_dead_letter(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    ids = await led(redis_log, book, 0)
    keys = BookKeys(book)
    good = action_stream_id(ids[0], 1)
    client.xadd(keys.payments, {"what": "ever"}, id=action_stream_id(ids[0], 0))
    client.xadd(keys.payments, {"action": "a", "type": "void", "body": "{}"}, id=good)
    found = await redis_log.read_actions("payments", [book], "c", 10, 0)
    assert [(entry.id, entry.type) for _, entry in found] == [(good, "void")]
    ((_, letter),) = client.xrange(keys.deadletters)
    assert letter["stream"] == "payments"
    assert msgspec.json.decode(letter["fields"]) == ["what", "ever"]
    assert (await redis_log.facts(book, "payments")).pending == 1


async def test_a_claim_finds_what_lies_behind_many_fresh_ones(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    """XAUTOCLAIM looks at ten times its COUNT of entries, then wants to be called again."""
    ids = await led(redis_log, book, 0)
    keys = BookKeys(book)
    stream_ids = [action_stream_id(ids[0], number) for number in range(100)]
    for id_ in stream_ids:
        client.xadd(keys.payments, {"action": "a", "type": "void", "body": "{}"}, id=id_)
    await redis_log.read_actions("payments", [book], "slow", 100, 0)
    client.xclaim(keys.payments, "payments", "dead", 0, [stream_ids[-1]], idle=60_000)
    found = await redis_log.claim_actions("payments", [book], "c", 2, 30)
    assert [entry.id for _, entry in found] == [stream_ids[-1]]


async def test_a_deleted_input_is_a_gap(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    ids = await led(redis_log, book, 3)
    client.xdel(BookKeys(book).inputs, ids[2])
    for position in ("0-0", ids[0]):
        with pytest.raises(LogError, match="was deleted"):
            await redis_log.read_inputs({book: position}, 10, 0)
    assert len((await redis_log.read_inputs({book: ids[2]}, 10, 0))[book]) == 1


async def test_the_greatest_id_by_hand_is_reported(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    client.xadd(BookKeys(book).inputs, {"a": "b"}, id=f"{2**64 - 1}-{2**64 - 1}")
    with pytest.raises(LogError, match="has no ids left"):
        await redis_log.take_over(book, "me")
    assert (await redis_log.read_record(book)).epoch == 0


async def test_a_stream_of_actions_waits_for_its_own_group(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    """Another group has read everything; the executors' own is missing."""
    ids = await led(redis_log, book, 0)
    key = BookKeys(book).payments
    for number in range(3):
        client.xadd(key, {"action": "a"}, id=action_stream_id(ids[0], number))
    client.xgroup_create(key, "spy", "$")
    client.xgroup_destroy(key, "payments")
    assert (await redis_log.trim(book))["payments"] == 0


async def test_a_producer_needs_no_scripts(
    redis_log: RedisLog,
    real_server: EmbeddedServer,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    """A producer's role has XADD on inputs alone, and can do nothing else with them."""
    await redis_log.take_over(book, "me")
    client.execute_command(
        *("ACL", "SETUSER", "producer", "reset", "on", ">secret"),
        *("~holdfast:{*}:inputs", "+xadd"),
    )
    try:
        async with open_redis_log(f"unix://producer:secret@{real_server.socket}") as log:
            ids = await log.append(book, [TICK])
            with pytest.raises(LogError, match="ACL forbids"):
                await log.read_inputs({book: "0-0"}, 10, 0)
    finally:
        client.acl_deluser("producer")
    assert (await redis_log.facts(book, "inputs")).last_id == ids[0]


class Proxy:
    """Stands between a log and its server, and cuts a connection where it is told to."""

    def __init__(self, path: Path, target: Path) -> None:
        self.url = f"unix://{path}"
        self.cut_at = ""
        """Once: "request": before the next script call reaches the server. "reply": before its
        answer reaches the log.
        """
        self._cutting = ""
        self._path = path
        self._target = target

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(str(self._path))
            listener.listen()
            task_status.started()
            async with trio.open_nursery() as nursery:
                while True:
                    accepted, _ = await listener.accept()
                    nursery.start_soon(self._serve, trio.SocketStream(accepted))

    async def _serve(self, client: trio.SocketStream) -> None:
        server = await trio.open_unix_socket(str(self._target))
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._answer, server, client)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await client.receive_some():
                    if self.cut_at and b"EVALSHA" in data:
                        self._cutting, self.cut_at = self.cut_at, ""
                        if self._cutting == "request":
                            break
                    await server.send_all(data)
            if self._cutting != "reply":
                nursery.cancel_scope.cancel()

    async def _answer(self, server: trio.SocketStream, client: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await server.receive_some():
                if self._cutting == "reply":
                    self._cutting = ""
                    break
                await client.send_all(data)
        await client.aclose()


@pytest.mark.parametrize("cut_at", ["request", "reply"])
async def test_a_commit_whose_answer_was_lost_is_resolved(
    real_server: EmbeddedServer,
    client: Any,  # noqa: ANN401
    tmp_path: Path,
    book: str,
    cut_at: str,
) -> None:
    """Cut before the server saw it: it is sent again. Cut after: it is found in the record."""
    proxy = Proxy(tmp_path / "p", real_server.socket)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        async with open_redis_log(proxy.url, rng=random.Random(1)) as log:
            ids = await led(log, book, 4)
            client.script_load(scripts.COMMIT.source)
            proxy.cut_at = cut_at
            assert await log.commit([batch(book, ids, "0-0")]) == [None]
            assert proxy.cut_at == "", "the connection was cut"
            assert log.statistics().connections_lost == 1
            assert (await log.facts(book, "outcomes")).added == len(ids)
            assert (await log.read_record(book)).position == ids[-1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("cut_at", ["request", "reply"])
async def test_a_finish_whose_answer_was_lost_is_reported(
    real_server: EmbeddedServer,
    client: Any,  # noqa: ANN401
    tmp_path: Path,
    book: str,
    cut_at: str,
) -> None:
    """It may have happened; the caller repeats it, and the machine takes a double for what it is."""
    proxy = Proxy(tmp_path / "p", real_server.socket)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        async with open_redis_log(proxy.url, rng=random.Random(1)) as log:
            ids = await led(log, book, 0)
            client.script_load(scripts.FINISH.source)
            proxy.cut_at = cut_at
            with pytest.raises(LogUnavailableError, match="was lost"):
                await log.finish_actions("payments", book, [("1-1", TICK)])
            added = (await log.facts(book, "inputs")).added - len(ids)
            assert added == (1 if cut_at == "reply" else 0)
        nursery.cancel_scope.cancel()


async def test_other_peoples_groups_hold_trimming_back(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    ids = await led(redis_log, book, 4)
    assert await redis_log.commit([batch(book, ids[:3], "0-0")]) == [None]
    for id_ in ids[1:3]:
        await redis_log.save_snapshot(book, Snapshot(id_, 1, "d", b""), 1, "me")
    client.xgroup_create(BookKeys(book).outcomes, "archive", "0")
    removed = await redis_log.trim(book)
    assert (removed["inputs"], removed["outcomes"]) == (1, 0)


async def test_consumers_that_died_and_left_nothing_are_forgotten(
    real_server: EmbeddedServer,
    client: Any,  # noqa: ANN401
    book: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every process that ever executed left its name in the group."""
    keys = BookKeys(book)
    async with open_redis_log(real_server.url, rng=random.Random(1)) as log:
        ids = await led(log, book, 1)
        action = ActionEntry(action_stream_id(ids[-1], 0), "a", "void", b"{}")
        outcomes = [OutcomeEntry(id_, "accepted", b"{}") for id_ in ids]
        await log.commit(
            [Commit(book, 1, "me", "0-0", ids[-1], 1, "d", outcomes, [action], [], [])]
        )
        for name in ("dead", "died with an action", "dead too"):
            await log.read_actions("payments", [book], name, 1, 0)
        await log.claim_actions("payments", [book], "died with an action", 1, 0)

    async def consumers() -> list[str]:
        async with open_redis_log(real_server.url, rng=random.Random(1)) as log:
            for _ in range(2):
                assert await log.claim_actions("payments", [book], "living", 1, 60) == []
        return sorted(c["name"] for c in client.xinfo_consumers(keys.payments, "payments"))

    assert await consumers() == ["dead", "dead too", "died with an action", "living"]
    monkeypatch.setattr(redis_actions, "FORGET_S", 0)
    assert await consumers() == ["died with an action", "living"]
    assert client.xpending(keys.payments, "payments")["pending"] == 1
