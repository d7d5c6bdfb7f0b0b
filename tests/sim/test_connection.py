"""A simulated connection: each fault of the wire does what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from holdfast.actors.ports import (
    ActionEntry,
    Commit,
    CommitUnknownError,
    LogError,
    LogUnavailableError,
    OutcomeEntry,
    Snapshot,
)
from holdfast.sim.clock import START_MS
from holdfast.sim.faults import ServerFaults, Window
from holdfast.transport.connection import ConnectionLostError
from holdfast.transport.keys import action_stream_id

from .stories import ALWAYS, BOOK, keys, new, prepared, simulate, with_actions  # noqa: TID251 - the tests' own package sim

if TYPE_CHECKING:
    from holdfast.sim.faulty_log import FaultyLog
    from holdfast.sim.server import SimServer


def test_a_request_that_was_lost_had_no_effect() -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        with pytest.raises(ConnectionLostError):
            await log.append(BOOK, [new(1)])
        with pytest.raises(ConnectionLostError):
            await log.take_over(BOOK, "me")
        with pytest.raises(ConnectionLostError):  # a read is tried twice
            await log.read_record(BOOK)
        assert keys(server) == []
        assert server.log.book(BOOK).record.epoch == 0

    counts = simulate(ServerFaults(drop_before=ALWAYS), story).counts
    assert (counts.fired, counts.mattered) == ({"drop_before": 4}, {"drop_before": 2})


def test_an_answer_that_was_lost_leaves_the_effect() -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        with pytest.raises(LogUnavailableError):
            await log.append(BOOK, [new(1), new(2)])
        with pytest.raises(LogUnavailableError):
            await log.take_over(BOOK, "me")
        assert keys(server) == ["k-1", "k-2"]
        assert server.log.book(BOOK).record.epoch == 1
        ids = await with_actions_of(server)
        await server.log.read_actions("payments", [BOOK], "c", 9, 0)
        with pytest.raises(LogUnavailableError):
            await log.finish_actions("payments", BOOK, [(ids[0], new(3))])
        assert keys(server)[-1] == "k-3"
        assert (await server.log.facts(BOOK, "payments")).pending == len(ids) - 1
        with pytest.raises(LogUnavailableError):
            await log.save_snapshot(BOOK, Snapshot("0-0", 7, "", b"s"), 1, "me")
        assert len(server.log.book(BOOK).snapshots) == 1

    async def with_actions_of(server: SimServer) -> list[str]:
        entries = server.log.book(BOOK).inputs.entries
        outcomes = [OutcomeEntry(entry.id, "accepted", b"{}") for entry in entries]
        last = entries[-1].id
        actions = [
            ActionEntry(action_stream_id(last, n), f"{last}:{n}", "void", b"{}") for n in range(2)
        ]
        commit = Commit(BOOK, 1, "me", "0-0", last, 7, "d", outcomes, actions, [], [])
        assert await server.log.commit([commit]) == [None]
        return [action.id for action in actions]

    assert simulate(ServerFaults(drop_after=ALWAYS), story).counts.mattered["drop_after"] == 5


def test_a_request_without_an_answer_has_its_effect_late() -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        with pytest.raises(LogUnavailableError):
            await log.append(BOOK, [new(1)])
        assert trio.current_time() == server.options.reply_s
        await trio.sleep(server.faults.late_s_max)
        assert keys(server) == ["k-1"]
        assert server.under_way == 0
        with pytest.raises(LogUnavailableError):
            await log.read_record(BOOK)

    for seed in range(4):
        server = simulate(ServerFaults(silent=ALWAYS), story, seed)
        assert server.counts.mattered == {"silent": 1}


def test_a_commit_whose_answer_was_lost_is_found_written() -> None:
    """The second half of answers is lost: what became of a commit is read, and never written twice."""

    async def story(server: SimServer, log: FaultyLog) -> None:
        commit = await prepared(server)
        while True:
            try:
                assert await log.commit([commit]) == [None]
                break
            except LogUnavailableError:
                assert server.log.book(BOOK).outcomes.added == 0
            except CommitUnknownError:
                pass
        assert server.log.book(BOOK).outcomes.added == 1

    fired: dict[str, int] = {}
    for seed in range(20):
        counts = simulate(ServerFaults(drop_after=0.5, drop_before=0.2), story, seed).counts
        fired |= counts.mattered
    assert sorted(fired) == ["drop_after", "drop_before"]


def test_a_commit_is_unknown_while_nobody_can_read_the_record() -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        commit = await prepared(server)
        with pytest.raises(CommitUnknownError):
            await log.commit([commit])
        assert server.log.book(BOOK).record.position == commit.position
        server.heal()
        assert await log.resolve([commit]) == [True]

    simulate(ServerFaults(drop_after=ALWAYS), story)


def test_a_pipeline_is_cut_anywhere() -> None:
    wholes: set[int] = set()
    unknown: list[list[LogError | bool]] = []

    async def story(server: SimServer, log: FaultyLog) -> None:
        with pytest.raises(LogUnavailableError):
            await log.append(BOOK, [new(n) for n in range(4)])
        assert keys(server) == [f"k-{n}" for n in range(len(keys(server)))]
        wholes.add(len(keys(server)))
        commits = [await prepared(server, name) for name in ("one", "two", "three", "four")]
        try:
            assert await log.commit(commits) == [None] * 4
        except CommitUnknownError:
            unknown.append(await log.resolve(commits))
        else:
            unknown.append([True] * 4)
        assert unknown[-1] == [server.log.book(c.book).outcomes.added == 1 for c in commits]

    for seed in range(20):
        counts = simulate(ServerFaults(cut=ALWAYS), story, seed).counts
        assert counts.fired["cut"] >= 2
    assert wholes == {0, 1, 2, 3}
    assert [True] * 4 in unknown


def test_a_slow_connection_takes_its_time() -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        await log.append(BOOK, [new(1)])
        assert 0 < trio.current_time() <= 2 * server.faults.slow_ms_max / 1000
        assert keys(server) == ["k-1"]

    assert simulate(ServerFaults(slow=ALWAYS), story).counts.fired == {"slow": 2}


def test_without_faults_no_time_passes_and_nothing_is_drawn() -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        ids = await with_actions(server)
        found = await log.read_actions("payments", [BOOK], "c", 9, 0)
        assert [entry.id for _, entry in found] == ids
        await log.finish_actions("payments", BOOK, [(ids[0], new(1))])
        assert trio.current_time() == 0
        assert server.draws.tape == []

    assert simulate(ServerFaults(), story).counts.fired == {}


@pytest.mark.parametrize("seed", range(6))
def test_a_process_that_is_cut_off_is_alone(seed: int) -> None:
    """Others reach the server meanwhile. What it asked for last may have its effect or not."""
    begin = Window(START_MS + 10_000, START_MS + 10_001)
    faults = ServerFaults(partition=ALWAYS, partitions=begin, partition_ms_max=200_000)

    async def story(server: SimServer, log: FaultyLog) -> None:
        await log.append(BOOK, [new(1)])
        await trio.sleep(10)
        with pytest.raises(LogUnavailableError):
            await log.append(BOOK, [new(2)])
        assert trio.current_time() == 10 + server.options.reply_s
        await server.log.append(BOOK, [new(3)])
        kept.append(keys(server))
        await trio.sleep(200)
        await log.append(BOOK, [new(4)])
        assert keys(server)[-1] == "k-4"

    kept: list[list[str]] = []
    server = simulate(faults, story, seed)
    assert server.counts.mattered["partition"] >= 1
    assert kept[0] in (["k-1", "k-3"], ["k-1", "k-2", "k-3"])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_request_on_its_way_may_arrive_when_its_client_is_gone(share: float) -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        with trio.move_on_after(0.0001):
            await log.append(BOOK, [new(1)])
        assert keys(server) == []
        await trio.sleep(1)
        assert keys(server) == (["k-1"] if share else [])

    faults = ServerFaults(slow=ALWAYS, slow_ms_max=500, in_flight=share)
    assert ("in_flight" in simulate(faults, story).counts.mattered) == bool(share)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_dead_process_hears_nothing_any_more(share: float) -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        answered: list[str] = []

        async def ask() -> None:
            answered.extend(await log.append(BOOK, [new(1)]))

        async with trio.open_nursery() as process:
            process.start_soon(ask)
            await trio.sleep(0.0001)
            log.kill()
            process.start_soon(log.append, BOOK, [new(2)])
            await trio.sleep(100)
            process.cancel_scope.cancel()
        await trio.sleep(100)
        assert answered == []
        assert keys(server) == (["k-1"] if share else [])

    simulate(ServerFaults(slow=ALWAYS, slow_ms_max=500, in_flight=share), story)
