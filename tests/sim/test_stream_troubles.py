"""What others do to streams: it does what it says, and harms nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from holdfast.sim.clock import START_MS
from holdfast.sim.draws import Draws
from holdfast.sim.faults import Failover, ServerFaults

from .stories import ALWAYS, BOOK, new, simulate, with_actions  # noqa: TID251 - the tests' own package sim

if TYPE_CHECKING:
    from holdfast.actors.ports import InputEntry
    from holdfast.sim.faulty_log import FaultyLog
    from holdfast.sim.server import SimServer


def test_what_is_no_input_comes_to_lie_among_the_inputs() -> None:
    told: list[str] = []

    def tell(_book: str, entry: InputEntry) -> None:
        told.append(entry.id)

    async def story(server: SimServer, log: FaultyLog) -> None:
        ids = await server.log.append(BOOK, [new(0)])
        for number in range(20):
            ids += await log.append(BOOK, [new(number)])
        entries = (await log.read_inputs({BOOK: "0-0"}, 100, 0))[BOOK]
        assert [entry.id for entry in entries if entry.id not in ids] == told
        assert len({entry.problem for entry in entries if entry.problem}) >= 4

    server = simulate(ServerFaults(foreign=ALWAYS), story, on_foreign=tell)
    assert server.counts.mattered == {"foreign": 20}


def test_what_a_stranger_writes_to_an_old_primary_is_not_told_as_an_input() -> None:
    """It once came to stand for another entry that the new primary gave the same id."""
    failover = Failover(START_MS + 10_000, 0, 0, 20_000)
    told: list[str] = []

    def tell(_book: str, entry: InputEntry) -> None:
        told.append(entry.id)

    async def story(server: SimServer, log: FaultyLog) -> None:
        server.draws = Draws(1, changes={f"server.left_behind('process', {failover.at_ms})": 1})
        await server.log.append(BOOK, [new(0)])
        await trio.sleep(11)
        await log.append(BOOK, [new(1)])

    faults = ServerFaults(failovers=(failover,), left_behind=1e-9, foreign=ALWAYS)
    server = simulate(faults, story, on_foreign=tell)
    assert server.counts.fired["foreign"] == 1
    assert told == []


def test_a_living_consumers_action_is_claimed() -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        ids = await with_actions(server)
        await log.read_actions("payments", [BOOK], "alive", 9, 0)
        claimed = await log.claim_actions("payments", [BOOK], "thief", 9, 60)
        assert [entry.id for _, entry in claimed] == ids

    assert simulate(ServerFaults(claim_early=ALWAYS), story).counts.mattered == {"claim_early": 1}


def test_redelivered_actions_come_out_of_order() -> None:
    orders: set[tuple[str, ...]] = set()

    async def story(server: SimServer, log: FaultyLog) -> None:
        ids = await with_actions(server)
        await log.read_actions("payments", [BOOK], "dead", 9, 0)
        claimed = await log.claim_actions("payments", [BOOK], "c", 9, 0)
        order = tuple(entry.action.split(":")[1] for _, entry in claimed)
        assert len(order) == len(ids)
        orders.add(order)

    for seed in range(20):
        simulate(ServerFaults(reorder=ALWAYS), story, seed)
    assert len(orders) == 6


def test_a_batch_is_cut() -> None:
    sizes: set[int] = set()

    async def story(server: SimServer, log: FaultyLog) -> None:
        await with_actions(server)
        sizes.add(len(await log.read_actions("payments", [BOOK], "c", 3, 0)))

    for seed in range(10):
        simulate(ServerFaults(short=ALWAYS), story, seed)
    assert sizes == {1, 2}


@pytest.mark.parametrize("kind", ["group_back", "group_missing", "consumer_missing"])
def test_a_group_in_the_hands_of_an_operator(kind: str) -> None:
    async def story(server: SimServer, log: FaultyLog) -> None:
        ids = await with_actions(server)
        await server.log.read_actions("payments", [BOOK], "c", 9, 0)
        await server.log.finish_actions("payments", BOOK, [(ids[0], None)])
        again = [entry.id for _, entry in await log.read_actions("payments", [BOOK], "c", 9, 0)]
        pending = (await server.log.facts(BOOK, "payments")).pending
        if kind == "group_back":
            assert again == ids[-len(again) :] != []
        elif kind == "group_missing":
            assert (again, pending) == (ids, 3)  # even what was acknowledged comes again
        else:
            assert (again, pending) == ([], 0)  # nobody will ever be given them

    faults = msgspec.convert({kind: ALWAYS}, ServerFaults)
    assert simulate(faults, story).counts.mattered == {kind: 1}
