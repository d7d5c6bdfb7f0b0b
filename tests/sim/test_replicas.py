"""Simulated replicas: what was called copied is there after whatever failover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from holdfast.actors.ports import CommitUnknownError, LogUnavailableError, SupersededError
from holdfast.sim.clock import START_MS
from holdfast.sim.faults import Failover, ServerFaults, Window
from holdfast.sim.marks import Marks

from .stories import ALWAYS, BOOK, REPLICATED, prepared, simulate, with_actions  # noqa: TID251 - the tests' own package sim

if TYPE_CHECKING:
    from holdfast.sim.faulty_log import FaultyLog
    from holdfast.sim.server import SimServer


def test_a_commit_is_called_written_when_the_replica_has_it() -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        assert await log.commit([await prepared(server)]) == [None]
        assert 0 < trio.current_time() <= 0.3

    faults = ServerFaults(replica_ms_max=300)
    server = simulate(faults, story, options=REPLICATED)
    assert server.counts.fired == {"lag": 1}
    assert server.counts.mattered == {}


def test_a_commit_that_no_replica_has_in_time_is_unknown_until_one_has_it() -> None:
    stalled = Window(START_MS, START_MS + 5_000)

    async def story(server: SimServer, log: FaultyLog) -> None:
        commit = await prepared(server)
        with pytest.raises(CommitUnknownError):
            await log.commit([commit])
        assert server.log.book(BOOK).record.position == commit.position
        with pytest.raises(LogUnavailableError):
            await log.resolve([commit])
        await trio.sleep_until(5)
        assert await log.resolve([commit]) == [True]

    marks = Marks()
    simulate(ServerFaults(stalled=(stalled,)), story, options=REPLICATED, mark=marks.hit)
    assert marks.counts == {"copies_late": 1}


def test_a_commit_that_an_earlier_attempt_wrote_is_asked_for_anew() -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        commit = await prepared(server)
        await server.log.commit([commit])
        with pytest.raises(CommitUnknownError, match="written before"):
            await log.commit([commit])
        assert await log.resolve([commit]) == [True]

    simulate(ServerFaults(), story, options=REPLICATED)


def test_a_commit_of_one_who_was_superseded_is_not_confirmed() -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        commit = await prepared(server)
        await server.log.commit([commit])
        await server.log.take_over(BOOK, "you")
        (answer,) = await log.resolve([commit])
        assert isinstance(answer, SupersededError)

    simulate(ServerFaults(), story, options=REPLICATED)


def test_an_executor_is_given_actions_when_the_replica_has_them() -> None:
    stalled = Window(START_MS, START_MS + 5_000)

    async def story(server: SimServer, log: FaultyLog) -> None:
        ids = await with_actions(server)
        with pytest.raises(LogUnavailableError):
            await log.read_actions("payments", [BOOK], "c", 9, 0)
        assert (await server.log.facts(BOOK, "payments")).pending == len(ids)
        await trio.sleep_until(4)
        found = await log.claim_actions("payments", [BOOK], "c", 9, 0)
        assert [entry.id for _, entry in found] == ids
        assert trio.current_time() >= 5

    marks = Marks()
    simulate(ServerFaults(stalled=(stalled,)), story, options=REPLICATED, mark=marks.hit)
    assert marks.counts == {"copies_executor": 2, "copies_executor_refused": 1}


@pytest.mark.parametrize("seed", range(6))
def test_no_failover_forgets_what_was_called_copied(seed: int) -> None:
    failover = Failover(START_MS + 10_000, 4_000, 500)
    told: list[str] = []
    forgotten: list[bool] = []

    async def story(server: SimServer, log: FaultyLog) -> None:
        commit = await prepared(server)
        await trio.sleep(4 + server.draws.below("commit_ms", 4_000) / 1000)
        with trio.move_on_at(9.9):
            while True:
                try:
                    results = await log.commit([commit])
                    told.extend("written" for result in results if result is None)
                    break
                except (LogUnavailableError, CommitUnknownError):
                    await trio.sleep(0.1)
        await trio.sleep_until(11)
        forgotten.append(server.log.book(BOOK).record.position != commit.position)

    faults = ServerFaults(failovers=(failover,), replica_ms_max=300)
    simulate(faults, story, seed, options=REPLICATED)
    assert not (told and forgotten[0])


def test_an_old_primary_has_no_replica() -> None:
    failover = Failover(START_MS + 10_000, 0, 0, 20_000)

    async def story(server: SimServer, log: FaultyLog) -> None:
        commit = await prepared(server)
        await trio.sleep(11)
        with pytest.raises(CommitUnknownError):
            await log.commit([commit])

    faults = ServerFaults(failovers=(failover,), left_behind=ALWAYS)
    simulate(faults, story, options=REPLICATED)
