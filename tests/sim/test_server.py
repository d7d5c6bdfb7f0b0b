"""The simulated server: what happens to it, and what a failover loses and who tells of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from holdfast.actors.ports import CommitUnknownError, LogError, LogUnavailableError, TailLostError
from holdfast.sim.clock import START_MS
from holdfast.sim.draws import Draws
from holdfast.sim.faults import Failover, Refusal, RefusingWindow, ServerFaults, Window
from holdfast.transport.connection import ConnectionLostError
from holdfast.transport.keys import parse_id

from .stories import BOOK, keys, new, prepared, simulate  # noqa: TID251 - the tests' own package sim

if TYPE_CHECKING:
    from holdfast.actors.ports import InputEntry
    from holdfast.sim.faulty_log import FaultyLog
    from holdfast.sim.server import SimServer
    from holdfast.transport.tails import LostTail


def test_a_server_that_is_away_ends_what_waits_and_comes_back() -> None:
    away = Window(START_MS + 5_000, START_MS + 25_000)

    async def story(server: SimServer, log: FaultyLog) -> None:
        with pytest.raises(LogUnavailableError):
            await log.read_inputs({BOOK: "0-0"}, 9, 60)
        assert trio.current_time() == 5
        with pytest.raises(ConnectionLostError) as caught:
            await log.append(BOOK, [new(1)])
        assert not caught.value.sent
        with pytest.raises(LogUnavailableError):  # and surely none was written
            await log.commit([await prepared(server)])
        attempts = 0
        while True:
            try:
                await log.append(BOOK, [new(2)])
                break
            except LogUnavailableError:
                attempts += 1
        assert 25 <= trio.current_time() <= 25 + server.options.backoff_most_s
        assert attempts < 40  # they pace themselves
        assert keys(server) == ["k-2"]

    counts = simulate(ServerFaults(away=(away,)), story).counts
    assert counts.fired == {"away": 1}
    assert counts.mattered["away"] > 3


@pytest.mark.parametrize("kind", ["OOM", "READONLY", "MISCONF", "LOADING"])
def test_a_server_that_refuses_has_written_nothing(kind: Refusal) -> None:
    window = Window(START_MS, START_MS + 10_000)
    faults = ServerFaults(refusing=(RefusingWindow(window, kind),))

    async def story(server: SimServer, log: FaultyLog) -> None:
        commit = await prepared(server)
        await trio.sleep(1)
        for call in (log.append(BOOK, [new(1)]), log.take_over(BOOK, "you"), log.commit([commit])):
            with pytest.raises(LogUnavailableError):
                await call
        book = server.log.book(BOOK)
        assert (keys(server), book.record.epoch, book.outcomes.added) == ([], 1, 0)
        if kind == "LOADING":
            with pytest.raises(LogUnavailableError):
                await log.read_record(BOOK)
        else:
            assert (await log.read_record(BOOK)).epoch == 1
        if kind == "OOM":
            assert await log.read_actions("payments", [BOOK], "c", 9, 0) == []
        else:
            with pytest.raises(LogUnavailableError):
                await log.read_actions("payments", [BOOK], "c", 9, 0)
        await trio.sleep(10)
        assert await log.commit([commit]) == [None]

    assert simulate(faults, story).counts.mattered["refusing"] >= 3


def test_some_commits_of_a_pipeline_are_refused() -> None:
    unknown: list[list[LogError | bool]] = []

    async def story(server: SimServer, log: FaultyLog) -> None:
        commits = [await prepared(server, name) for name in ("one", "two", "three")]
        try:
            await log.commit(commits)
        except LogUnavailableError:
            assert not any(server.log.book(c.book).outcomes.added for c in commits)
        except CommitUnknownError:
            states = await log.resolve(commits)
            unknown.append(states)
            assert states == [server.log.book(c.book).outcomes.added == 1 for c in commits]

    for seed in range(20):
        simulate(ServerFaults(refuse_some=0.5), story, seed)
    assert len(unknown) > 5


def test_what_one_failover_lost_no_later_one_brings_back() -> None:
    """A replica that falls behind follows the new primary, and not the one that was lost."""
    failovers = (Failover(START_MS + 10_000, 4_000, 500), Failover(START_MS + 11_000, 2_000, 500))

    async def story(server: SimServer, log: FaultyLog) -> None:
        await log.append("other", [new(1)])
        await trio.sleep(8)
        await log.append("other", [new(2)])
        assert keys(server, "other") == ["k-1", "k-2"]
        await trio.sleep(5)
        assert keys(server, "other") == ["k-1"]

    assert simulate(ServerFaults(failovers=failovers), story).counts.fired["failover"] == 2


def test_a_failover_takes_all_keys_of_all_books_back_together() -> None:
    failover = Failover(START_MS + 10_000, 4_000, 2_000)
    lost: list[tuple[str, InputEntry]] = []

    async def story(server: SimServer, log: FaultyLog) -> None:
        commit = await prepared(server)
        await log.append("other", [new(1)])
        await trio.sleep(5)
        before = [await log.facts(BOOK, name) for name in ("inputs", "outcomes", "payments")]
        await trio.sleep(2)
        assert await log.commit([commit]) == [None]
        assert await log.read_actions("payments", [BOOK], "c", 9, 0) != []
        await log.append(BOOK, [new(2)])
        await log.append("new", [new(3)])
        await log.take_over(BOOK, "you")
        with pytest.raises(LogUnavailableError):
            await log.read_inputs({"other": commit.position}, 9, 60)
        await trio.sleep(3)
        assert [await log.facts(BOOK, n) for n in ("inputs", "outcomes", "payments")] == before
        record = await log.read_record(BOOK)
        assert (record.owner, record.position) == ("me", "0-0")
        assert await log.wait_books(0, 0) == [BOOK, "other"]
        assert keys(server, "other") == ["k-1"]
        assert await log.commit([commit]) == [None]

    server = simulate(ServerFaults(failovers=(failover,)), story, on_failover=lost.extend)
    assert [(book, entry.key) for book, entry in lost] == [
        (BOOK, "k-2"),
        (BOOK, ""),
        ("new", "k-3"),
    ]
    assert server.counts.mattered["failover"] >= 1


@pytest.mark.parametrize("cause", ["failover", "other history"])
def test_who_knew_of_a_lost_tail_reports_its_range(cause: str) -> None:
    lost: list[LostTail] = []

    def report(_process: str, one: LostTail) -> None:
        lost.append(one)

    async def story(server: SimServer, log: FaultyLog) -> None:
        commit = await prepared(server)
        await trio.sleep(8)
        await log.append(BOOK, [new(1)])
        assert await log.commit([commit]) == [None]
        await trio.sleep(3)
        with pytest.raises(LogUnavailableError):
            await log.read_inputs({BOOK: "0-0"}, 9, 0)  # by this it notices
        await trio.sleep(1)
        with pytest.raises(TailLostError, match="their decisions are in the log no more"):
            await log.read_inputs({BOOK: "0-0"}, 9, 0)
        await log.read_inputs({BOOK: "0-0"}, 9, 0)
        (one,) = lost
        assert (one.inputs_kept, one.decided_kept) == (commit.position, "0-0")
        assert (one.decided_lost_to, one.cause) == (commit.position, cause)
        assert parse_id(one.inputs_lost_to) > parse_id(commit.position)

    happens = (Failover(START_MS + 10_000, 4_000, 1_500),)
    faults = ServerFaults(restarts=happens)
    if cause == "failover":
        faults = ServerFaults(failovers=happens)
    simulate(faults, story, on_lost_tail=report)


def test_an_old_primary_takes_what_nobody_will_find() -> None:
    """Whoever is left behind goes on with it for a while, and then meets the one that leads."""
    failover = Failover(START_MS + 10_000, 0, 0, 20_000)
    seen: list[list[str]] = []

    async def story(server: SimServer, old: FaultyLog) -> None:
        led = server.connect("another")
        server.draws = Draws(1, changes={f"server.left_behind('process', {failover.at_ms})": 1})
        await old.append(BOOK, [new(1)])
        await trio.sleep(11)
        await old.append(BOOK, [new(2)])
        await led.append(BOOK, [new(3)])
        seen.append(keys(server))
        await trio.sleep(20)
        await old.append(BOOK, [new(4)])
        seen.append(keys(server))

    server = simulate(ServerFaults(failovers=(failover,), left_behind=1e-9), story)
    assert seen == [["k-1", "k-3"], ["k-1", "k-3", "k-4"]]
    assert server.counts.fired["old_primary"] == 1
    assert server.counts.mattered["old_primary"] == 1


def test_ids_grow_while_the_clock_stands_still() -> None:
    still = Window(START_MS + 1_000, START_MS + 9_000)

    async def story(server: SimServer, log: FaultyLog) -> None:
        ids: list[str] = []
        for _ in range(4):
            ids += await log.append(BOOK, [new(1)])
            await trio.sleep(3)
        assert [parse_id(id_) for id_ in ids] == [
            (START_MS, 0),
            (START_MS + 1_000, 0),
            (START_MS + 1_000, 1),
            (START_MS + 9_000, 0),
        ]

    counts = simulate(ServerFaults(still=(still,)), story).counts
    assert counts.fired == {"still": 1}
    assert counts.mattered["still"] >= 2
