"""Durability levels on real servers: what is refused at the start, and what waits for replicas."""

from __future__ import annotations

import os
import random
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import redis
import trio
import trio.testing
from structlog.testing import capture_logs

from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.ports import (
    ActionEntry,
    Commit,
    CommitUnknownError,
    LogUnavailableError,
    NewInput,
    OutcomeEntry,
    Snapshot,
    TailLostError,
)
from holdfast.bootstrap import SystemClock
from holdfast.transport.durability import DurabilityError
from holdfast.transport.keys import action_stream_id, parse_id
from holdfast.transport.pool import ServerOptions
from holdfast.transport.redis_log import RedisLog, open_redis_log
from holdfast.transport.server import EmbeddedServer, ServerConfig, free_port
from holdfast.transport.tails import History, cause_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow

TICK = NewInput("tick", b"{}")
DISKLESS = {"repl_diskless_sync_delay": "0"}
DURABLE = ServerOptions(disk="durable")
RELAXED = ServerOptions(disk="relaxed")
REPLICATED = ServerOptions(disk="durable", replicas_min=1, replicas_s=10)
BOOKING = BookingOptions(wait_s=0.2, retry_s=0.01, retry_s_max=0.05, grace_s=1.0)
QUICK = ServerOptions(resolve_s=0.3, connect_s=2, backoff_most_s=0.05, replicas_s=0.1)
HASTY = ServerOptions(replicas_min=1, replicas_s=0.1, resolve_s=0.3)


@asynccontextmanager
async def running(folder: Path, port: int = 0, **more: str) -> AsyncGenerator[EmbeddedServer]:
    """A server of the test's own, and a port for its replica to come to."""
    flat = tuple(part for pair in more.items() for part in (pair[0].replace("_", "-"), pair[1]))
    server = EmbeddedServer(ServerConfig(folder, port=port, more=flat))
    server.start()
    try:
        await server.wait_ready()
        yield server
    finally:
        if server.pid is not None:
            os.kill(server.pid, signal.SIGCONT)
        server.stop_now()


def client_of(server: EmbeddedServer) -> Any:  # noqa: ANN401 - redis-py's types are unions
    return cast("Any", redis.Redis(unix_socket_path=str(server.socket), decode_responses=True))


async def refusal(server: EmbeddedServer, options: ServerOptions) -> str:
    """Why a log is not opened."""
    with pytest.raises(DurabilityError) as caught:
        async with open_redis_log(server.url, options=options):
            raise AssertionError("not reached")
    return str(caught.value)


class Pair:
    """A primary and its replica."""

    def __init__(self, primary: EmbeddedServer, replica: EmbeddedServer, replica_port: int) -> None:
        self.primary = primary
        self.replica = replica
        self.replica_port = replica_port

    async def in_step(self) -> None:
        """Wait until the replica is connected and has everything."""
        with trio.fail_after(20), client_of(self.primary) as client:
            while True:
                info = client.info("replication")
                slave = info.get("slave0", {})
                if slave.get("state") == "online" and slave["offset"] == info["master_repl_offset"]:
                    return
                await trio.sleep(0.01)

    def hold_replica(self) -> None:
        """Let the replica stand still: it is connected, and takes nothing more."""
        assert self.replica.pid is not None
        os.kill(self.replica.pid, signal.SIGSTOP)

    def free_replica(self) -> None:
        assert self.replica.pid is not None
        os.kill(self.replica.pid, signal.SIGCONT)

    def detach_replica(self) -> None:
        """Make a primary of the replica: it has what it has, whatever becomes of the other."""
        with client_of(self.replica) as client:
            client.execute_command("REPLICAOF", "NO", "ONE")

    async def fail_over(self) -> None:
        """SIGKILL the primary, and make a primary of the replica where it is none yet."""
        assert self.primary.pid is not None
        os.kill(self.primary.pid, signal.SIGKILL)
        with trio.fail_after(10):
            while self.primary.running:  # noqa: ASYNC110 - a process sets no event
                await trio.sleep(0.001)
        self.detach_replica()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    port, other = free_port(), free_port()
    async with (
        running(tmp_path / "a", port, **DISKLESS) as primary,
        running(tmp_path / "b", other, replicaof=f"127.0.0.1 {port}", **DISKLESS) as replica,
    ):
        both = Pair(primary, replica, other)
        await both.in_step()
        yield both


async def led(log: RedisLog, inputs: int) -> list[str]:
    await log.take_over("demo", "me")
    await log.append("demo", [TICK] * inputs)
    return [entry.id for entry in (await log.read_inputs({"demo": "0-0"}, 1000, 0))["demo"]]


def batch(ids: list[str], after: str = "0-0") -> Commit:
    outcomes = [OutcomeEntry(id_, "accepted", b"{}") for id_ in ids]
    payment = ActionEntry(action_stream_id(ids[-1], 0), f"{ids[-1]}:0", "void", b"{}")
    return Commit(
        "demo", 1, "me", after, ids[-1], 1, f"d{ids[-1]}", outcomes, [payment], [], []
    )  # fmt: skip


class Switch:
    """What services connect to: it leads to the primary, whichever server that is."""

    def __init__(self, path: Path, target: EmbeddedServer) -> None:
        self.url = f"unix://{path}"
        self.target = target
        self._path = path

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
        async with client:
            with suppress(OSError):
                server = await trio.open_unix_socket(str(self.target.socket))
                async with server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass, server, client)
                    await self._pass(client, server)
                    nursery.cancel_scope.cancel()

    async def _pass(self, one: trio.SocketStream, other: trio.SocketStream) -> None:
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in one:
                await other.send_all(data)
        await trio.aclose_forcefully(other)


# -- at the start ---------------------------------------------------------------------------------


async def test_a_durable_service_refuses_a_server_that_syncs_once_a_second(tmp_path: Path) -> None:
    async with running(tmp_path, appendfsync="everysec") as server:
        assert await refusal(server, DURABLE) == (
            "a durable service needs 'appendfsync always' and the server has 'everysec': set it in "
            "the server's configuration and with CONFIG SET, or set durability to 'relaxed'"
        )
        async with open_redis_log(server.url, options=RELAXED):
            pass
        with client_of(server) as client:  # as the sentence says
            client.config_set("appendfsync", "always")
        async with open_redis_log(server.url, options=DURABLE):
            pass


async def test_a_durable_service_refuses_a_server_that_sometimes_does_not_sync(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, no_appendfsync_on_rewrite="yes") as server:
        assert "set 'no-appendfsync-on-rewrite no'" in await refusal(server, DURABLE)


async def test_no_service_takes_a_server_without_a_file(tmp_path: Path) -> None:
    async with running(tmp_path, appendonly="no") as server:
        for options in (RELAXED, DURABLE):
            assert "set 'appendonly yes'" in await refusal(server, options)
        async with open_redis_log(server.url):  # who only looks needs no promise
            pass


async def test_a_durable_service_that_may_not_look_says_which_right_it_needs(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as server:
        with client_of(server) as client:
            client.execute_command("ACL", "SETUSER", "default", "-config")
        assert "allow our user +config|get, or set durability" in await refusal(server, DURABLE)
        async with open_redis_log(server.url, options=RELAXED):
            pass


async def test_a_replicated_service_refuses_a_server_with_too_few_replicas(pair: Pair) -> None:
    async with open_redis_log(pair.primary.url, options=REPLICATED):
        pass
    two = ServerOptions(replicas_min=2)
    assert await refusal(pair.primary, two) == (
        "a replicated service needs 2 replicas and the server has 1 connected: attach more with "
        "REPLICAOF, or lower 'replicas'"
    )


# -- while it runs --------------------------------------------------------------------------------


async def test_a_commit_is_called_written_when_the_replica_has_it(pair: Pair) -> None:
    async with open_redis_log(pair.primary.url, options=REPLICATED) as log:
        ids = await led(log, 3)
        assert await log.commit([batch(ids)]) == [None]
        with client_of(pair.replica) as client:
            assert client.hget("holdfast:{demo}:commit", "position") == ids[-1]


async def test_a_commit_that_no_replica_has_is_not_called_written_until_one_has(pair: Pair) -> None:
    """It is in the stream, where it can be seen; the actor waits and asks again."""
    async with open_redis_log(pair.primary.url, options=HASTY) as log:
        ids = await led(log, 3)
        pair.hold_replica()
        with pytest.raises(CommitUnknownError, match=r"0 of 1 replica had it within 0\.1 s"):
            await log.commit([batch(ids)])
        assert [o.id for o in (await log.read_outcomes({"demo": "0-0"}, 9, 0))["demo"]] == ids
        for _ in range(2):
            with pytest.raises(LogUnavailableError, match="bring replicas back"):
                await log.resolve([batch(ids)])
        # Sent once more, it is found written; that alone does not show that a replica has it.
        with pytest.raises(CommitUnknownError):
            await log.commit([batch(ids)])
        pair.free_replica()
        with trio.fail_after(10):
            while True:
                try:
                    assert await log.resolve([batch(ids)]) == [True]
                    break
                except LogUnavailableError:
                    continue
        assert (await log.facts("demo", "outcomes")).length == len(ids)


@pytest.mark.parametrize("blocked", [True, False])
async def test_an_executor_is_given_an_action_when_the_replica_has_it(
    pair: Pair, blocked: bool
) -> None:
    """Also where its read was waiting already: WAIT counts nothing behind a read that waited."""
    plain = ServerOptions()
    async with (
        open_redis_log(pair.primary.url, options=plain) as booking,
        open_redis_log(pair.primary.url, options=HASTY) as log,
    ):
        ids = await led(booking, 3)
        assert await log.read_actions("payments", ["demo"], "c", 10, 0) == []
        pair.hold_replica()
        given: list[str] = []
        refused: list[str] = []

        async def execute() -> None:
            while not given:
                try:
                    found = await log.read_actions("payments", ["demo"], "c", 10, 1)
                    found = found or await log.claim_actions("payments", ["demo"], "c", 10, 0)
                    given.extend(entry.action for _, entry in found)
                except LogUnavailableError as error:
                    refused.append(str(error))

        async with trio.open_nursery() as nursery:
            if blocked:
                nursery.start_soon(execute)
                with trio.fail_after(5), client_of(pair.primary) as client:
                    while not client.info("clients")["blocked_clients"]:  # noqa: ASYNC110
                        await trio.sleep(0.005)
            assert await booking.commit([batch(ids)]) == [None]
            if not blocked:
                nursery.start_soon(execute)
            await trio.sleep(0.7)
            assert given == []
            pair.free_replica()
        assert given == [f"{ids[-1]}:0"]
        assert all("0 of 1 replica had it" in why for why in refused)


@pytest.mark.parametrize("how", ["claimed by another", "forgotten"])
async def test_an_action_that_is_not_ours_any_more_once_a_replica_has_it_is_not_given(
    pair: Pair, how: str
) -> None:
    """While it is waited for another consumer may claim it, or a failover forget it."""
    patient = msgspec.structs.replace(HASTY, resolve_s=10)
    async with open_redis_log(pair.primary.url, options=patient) as log:
        async with open_redis_log(pair.primary.url) as booking:
            ids = await led(booking, 2)
            assert await booking.commit([batch(ids[:1])]) == [None]
            assert await booking.commit([batch(ids[1:], ids[0])]) == [None]
        assert len(await log.read_actions("payments", ["demo"], "dead", 10, 0)) == 2
        pair.hold_replica()
        given: list[str] = []

        async def claim() -> None:
            found = await log.claim_actions("payments", ["demo"], "c", 10, 0)
            given.extend(entry.action for _, entry in found)

        key, second = "holdfast:{demo}:payments", action_stream_id(ids[-1], 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(claim)
            with trio.fail_after(5), client_of(pair.primary) as client:
                while client.xpending_range(key, "payments", "-", "+", 9, "c") == []:  # noqa: ASYNC110
                    await trio.sleep(0.005)
                if how == "forgotten":
                    client.xack(key, "payments", second)
                else:
                    client.xclaim(key, "payments", "other", 0, [second])
                asked = client.info("commandstats")["cmdstat_evalsha"]["calls"]
                # until it has asked again what is its own
                while client.info("commandstats")["cmdstat_evalsha"]["calls"] == asked:  # noqa: ASYNC110
                    await trio.sleep(0.005)
            pair.free_replica()
        assert given == [f"{ids[0]}:0"]


async def test_after_a_failover_everything_that_was_called_written_is_there(pair: Pair) -> None:
    async with open_redis_log(pair.primary.url, options=REPLICATED) as log:
        ids = await led(log, 4)
        assert await log.commit([batch(ids[:3])]) == [None]
    async with open_redis_log(pair.primary.url, options=HASTY) as log:
        pair.detach_replica()
        with pytest.raises(CommitUnknownError):
            await log.commit([batch(ids[3:], ids[2])])
    await pair.fail_over()
    async with open_redis_log(pair.replica.url) as log:
        assert (await log.read_record("demo")).position == ids[2]
        found = (await log.read_outcomes({"demo": "0-0"}, 9, 0))["demo"]
        assert [outcome.id for outcome in found] == ids[:3]


@asynccontextmanager
async def failing_over(pair: Pair, folder: Path) -> AsyncGenerator[Switch]:
    """The way to *pair*'s primary, until it fails over to a replica that has one of its own."""
    switch = Switch(folder / "switch", pair.primary)
    more = {"replicaof": f"127.0.0.1 {pair.replica_port}", **DISKLESS}
    async with running(folder / "c", 0, **more) as third, trio.open_nursery() as nursery:
        await Pair(pair.replica, third, 0).in_step()
        await nursery.start(switch.run)
        yield switch
        nursery.cancel_scope.cancel()


async def lose_what_waits(switch: Switch, pair: Pair) -> None:
    """Fail over as soon as somebody waits for the replica."""
    with trio.fail_after(10), client_of(pair.primary) as client:
        while not client.info("clients")["blocked_clients"]:  # noqa: ASYNC110
            await trio.sleep(0.005)
    switch.target = pair.replica
    await pair.fail_over()


async def test_a_commit_that_is_lost_while_it_is_confirmed_is_not_called_written(
    pair: Pair, tmp_path: Path
) -> None:
    """The new primary has the same epoch and owner, and an earlier position."""
    async with (
        failing_over(pair, tmp_path) as switch,
        open_redis_log(pair.primary.url) as booking,
        open_redis_log(switch.url, options=REPLICATED) as log,
        trio.open_nursery() as nursery,
    ):
        ids = await led(booking, 2)
        await pair.in_step()
        pair.detach_replica()
        assert await booking.commit([batch(ids)]) == [None]
        nursery.start_soon(lose_what_waits, switch, pair)
        with pytest.raises(LogUnavailableError, match="resolve it again"):
            await log.resolve([batch(ids)])
        assert await log.resolve([batch(ids)]) == [False]


async def test_the_primary_s_commit_that_the_replica_never_had_is_a_lost_tail(pair: Pair) -> None:
    """At ``durable`` nobody waited for the replica: what it lacks is gone, and is not decided anew."""
    async with open_redis_log(pair.primary.url, options=DURABLE) as log:
        ids = await led(log, 4)
        assert await log.commit([batch(ids[:2])]) == [None]
        await pair.in_step()
        pair.detach_replica()
        assert await log.commit([batch(ids[2:], ids[1])]) == [None]
        await log.append("demo", [TICK])
    await pair.fail_over()
    async with open_redis_log(pair.replica.url) as log:
        assert (await log.read_record("demo")).position == ids[1]
        (result,) = await log.commit([batch(["9-9"], ids[-1])])
        assert isinstance(result, TailLostError)
        assert str(result) == (
            f"the inputs of demo after {ids[1]} up to {ids[-1]} were decided, and their decisions are "
            "in the log no more: it has lost its tail, so read it anew"
        )


# -- what a failover lost --------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["durable", "replicated"])
async def test_a_booking_actor_goes_on_after_a_failover_and_reports_what_was_lost(
    pair: Pair, tmp_path: Path, level: str
) -> None:
    """At ``replicated`` nothing is lost that anybody was told was written."""
    switch = Switch(tmp_path / "s", pair.primary)
    options = QUICK if level == "durable" else msgspec.structs.replace(QUICK, replicas_min=1)
    stop = trio.Event()
    lives: list[str] = []

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        async with open_redis_log(switch.url, rng=random.Random(1), options=options) as log:
            task_status.started()
            while not stop.is_set():  # as a supervisor does
                lives.append(f"owner-{len(lives)}")
                with suppress(TailLostError):
                    await run_booking(
                        log, SystemClock(), owner=lives[-1], options=BOOKING, stop=stop
                    )

    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            await nursery.start(switch.run)
            async with open_redis_log(switch.url, options=QUICK) as log:
                (first,) = await log.append("demo", [TICK])
                await nursery.start(serve)
                await decided(log, first)
                await decided(log, (await log.facts("demo", "inputs")).last_id)
                await pair.in_step()
                kept = (await log.facts("demo", "inputs")).last_id
                pair.detach_replica()
                gone = await log.append("demo", [TICK] * 3)
                await decided(log, gone[0 if level == "replicated" else -1])
                await pair.fail_over()
                switch.target = pair.replica
                with trio.fail_after(20):
                    (last,) = await again(log)
                if level == "durable":
                    await decided(log, last)
                else:  # it waits for a replica, and there is none before this one
                    more = {"replicaof": f"127.0.0.1 {pair.replica_port}", **DISKLESS}
                    async with running(tmp_path / "c", 0, **more):
                        await decided(log, last)
                stop.set()
                losses = await log.lost_tails("demo")
                await assert_consistent(log)
            nursery.cancel_scope.cancel()
    assert len(lives) == 2
    (loss,) = losses
    assert (loss.cause, loss.inputs_kept, loss.inputs_lost_to) == ("failover", kept, gone[-1])
    told = kept if level == "replicated" else gone[-1]  # of what it was told that it is written
    assert (loss.decided_kept, loss.decided_lost_to) == (kept, told)
    assert "tail_lost" in [line["event"] for line in lines]


@pytest.mark.parametrize("first", ["commit", "snapshot"])
async def test_a_loss_is_reported_before_the_actor_ends_that_found_it(
    pair: Pair, tmp_path: Path, first: str
) -> None:
    """With the actor ends what it remembers."""
    switch = Switch(tmp_path / "s", pair.primary)
    async with trio.open_nursery() as nursery:
        await nursery.start(switch.run)
        async with open_redis_log(switch.url, options=DURABLE) as log:
            ids = await led(log, 5)
            await pair.in_step()
            pair.detach_replica()
            assert await log.commit([batch(ids[:4])]) == [None]
            await pair.fail_over()
            switch.target = pair.replica
            await trio.testing.wait_all_tasks_blocked()  # the end of the connection has arrived
            if first == "commit":
                (error,) = await log.commit([batch(ids[4:], ids[3])])
                assert isinstance(error, TailLostError)
            else:
                with pytest.raises(TailLostError, match="before the snapshot"):
                    await log.save_snapshot("demo", Snapshot(ids[3], 1, "d", b""), 1, "me")
            (loss,) = await log.lost_tails("demo")
            assert (loss.cause, loss.decided_lost_to) == ("failover", ids[3])
        nursery.cancel_scope.cancel()


async def again(log: RedisLog) -> list[str]:
    """Append a tick, however often it takes."""
    while True:
        try:
            return await log.append("demo", [TICK])
        except LogUnavailableError:
            await trio.sleep(0.02)


async def decided(log: RedisLog, id_: str) -> None:
    """Wait until an input is decided, and for the commit to be known to its actor."""
    with trio.fail_after(20):
        while parse_id((await log.read_record("demo")).position) < parse_id(id_):  # noqa: ASYNC110
            await trio.sleep(0.01)
        await trio.sleep(0.05)


async def assert_consistent(log: RedisLog) -> None:
    """A replay of what is left gives the outcomes that are left, and the record's digest."""
    record = await log.read_record("demo")
    inputs = (await log.read_inputs({"demo": "0-0"}, 1000, 0))["demo"]
    runner = BookRunner("demo")
    kept = [entry for entry in inputs if parse_id(entry.id) <= parse_id(record.position)]
    assert (
        runner.decide(kept).outcomes == (await log.read_outcomes({"demo": "0-0"}, 999, 0))["demo"]
    )
    assert runner.digest == record.digest


async def test_a_restart_that_lost_nothing_is_no_loss(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as server,
        open_redis_log(server.url, rng=random.Random(1), options=DURABLE) as log,
    ):
        ids = await led(log, 3)
        assert await log.commit([batch(ids)]) == [None]
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with trio.fail_after(10):
            while server.running:  # noqa: ASYNC110 - a process sets no event
                await trio.sleep(0.001)
        server.start()
        await server.wait_ready()
        assert await log.read_inputs({"demo": ids[-1]}, 10, 0) == {}
        assert await log.lost_tails("demo") == []


def test_the_cause_is_told_by_the_replication_ids() -> None:
    before = History("a", 1000)
    assert cause_of(before, History("a", 1200)) == ("cut", 0)
    assert cause_of(before, History("a", 900)) == ("cut", 100)
    assert cause_of(before, History("b", 1200, "a", 951)) == ("failover", 50)
    assert cause_of(before, History("b", 1200, "a", 1001)) == ("failover", 0)
    assert cause_of(before, History("b", 1200, "c", 951)) == ("other history", -1)
