"""The simulated server: each fault does what it says, and the production actors outlive all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pytest
import structlog
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.invariants import full_scan
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.payment.actor import PaymentOptions, run_payment
from holdfast.actors.ports import (
    ActionEntry,
    Commit,
    CommitUnknownError,
    LogError,
    LogUnavailableError,
    NewInput,
    OutcomeEntry,
    Snapshot,
    SupersededError,
    TailLostError,
)
from holdfast.sim.clock import START_MS, WorldClock
from holdfast.sim.draws import Draws
from holdfast.sim.faults import (
    SERVER_FAULTS,
    Durability,
    Failover,
    Refusal,
    RefusingWindow,
    ServerFaults,
    Window,
    draw_server_faults,
)
from holdfast.sim.marks import Marks
from holdfast.sim.provider import ProviderFaults, SimProvider
from holdfast.sim.scheduler import Uniform
from holdfast.sim.server import SimServer
from holdfast.sim.trace import Trace
from holdfast.transport.connection import ConnectionLostError
from holdfast.transport.keys import action_stream_id, parse_id
from holdfast.transport.pool import ServerOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from holdfast.actors.ports import InputEntry, Log
    from holdfast.sim.faulty_log import FaultyLog
    from holdfast.transport.tails import LostTail

BOOK = "demo"
REPLICATED = ServerOptions(replicas_min=1, replicas_s=0.5, resolve_s=2.0)
ALWAYS = 1.0


def simulate(
    faults: ServerFaults,
    story: Callable[[SimServer, FaultyLog], Awaitable[None]],
    seed: int = 1,
    **given: Any,  # noqa: ANN401 - as SimServer takes them
) -> SimServer:
    """Tell *story* to a server with *faults* and one connection to it; the server as it was left."""
    clock = WorldClock()
    servers: list[SimServer] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = SimServer(clock, Draws(seed), faults, nursery, **given)
            servers.append(server)
            await story(server, server.connect("process"))
            nursery.cancel_scope.cancel()

    clock.run(main)
    return servers[0]


def new(number: int) -> NewInput:
    return NewInput("cancel", b'{"booking":"b"}', f"k-{number}", "customer:K1")


def keys(server: SimServer, book: str = BOOK) -> list[str]:
    """The idempotency keys of the inputs that the server holds."""
    return [entry.key for entry in server.log.book(book).inputs.entries if entry.key]


async def prepared(server: SimServer, book: str = BOOK, payments: int = 3) -> Commit:
    """A book that "me" leads, with one input and a commit of it that has yet to be written."""
    await server.log.take_over(book, "me")
    (entry,) = server.log.book(book).inputs.entries
    actions = [
        ActionEntry(action_stream_id(entry.id, n), f"{entry.id}:{n}", "void", b"{}")
        for n in range(payments)
    ]
    outcomes = [OutcomeEntry(entry.id, "accepted", b"{}")]
    return Commit(book, 1, "me", "0-0", entry.id, 7, "d", outcomes, actions, [], [])


async def with_actions(server: SimServer) -> list[str]:
    """A book with payment actions; their entry ids."""
    commit = await prepared(server)
    await server.log.commit([commit])
    return [action.id for action in commit.payments]


# -- the wire --------------------------------------------------------------------------------------


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


# -- the server ------------------------------------------------------------------------------------


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


# -- replicas --------------------------------------------------------------------------------------


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


# -- lost tails ------------------------------------------------------------------------------------


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


# -- groups ----------------------------------------------------------------------------------------


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


# -- the production actors -------------------------------------------------------------------------

_WHOLE_DAY: list[m.TimeRange] = [("00:00", "24:00")]
PRACTICE = m.DefinePractice(
    name="Practice",
    zone="UTC",
    currency="EUR",
    services=[m.Service("checkup", "Checkup", 30, 7_500)],
    staff=[m.Staff("s1", "First")],
    hours={str(day): _WHOLE_DAY for day in range(7)},
)
FAULT_S = 60
REST_S = 1_200
_SPAN = Window(START_MS, START_MS + FAULT_S * 1000)
_MIDDLE = Window(START_MS + 10_000, START_MS + 30_000)

KINDS: dict[str, ServerFaults] = {
    "drop_before": ServerFaults(drop_before=0.2),
    "drop_after": ServerFaults(drop_after=0.2),
    "silent": ServerFaults(silent=0.1),
    "cut": ServerFaults(cut=0.5, latency_ms_max=500),  # so that both books have something
    "slow": ServerFaults(slow=0.3, slow_ms_max=5_000, latency_ms_max=50),
    "partition": ServerFaults(partition=ALWAYS, partitions=_SPAN),
    "away": ServerFaults(away=(_MIDDLE, Window(START_MS + 40_000, START_MS + 40_500))),
    "refusing": ServerFaults(
        refusing=(
            RefusingWindow(_MIDDLE, "OOM"),
            RefusingWindow(Window(START_MS + 35_000, START_MS + 45_000), "LOADING"),
        )
    ),
    "refuse_some": ServerFaults(refuse_some=0.5, slow=0.3, slow_ms_max=2_000),
    "failover": ServerFaults(
        failovers=(
            Failover(START_MS + 20_000, 3_000, 500),
            Failover(START_MS + 40_000, 9_000, 500),
        )
    ),
    "old_file": ServerFaults(failovers=(Failover(START_MS + 40_000, 35_000, 500, old_file=True),)),
    "restart": ServerFaults(
        restarts=(
            Failover(START_MS + 20_000, 2_000, 500),
            Failover(START_MS + 40_000, 2_000, 9_000),
        )
    ),
    "lag": ServerFaults(replica_ms_max=2_000, stalled=(_MIDDLE,)),
    "old_primary": ServerFaults(
        failovers=(Failover(START_MS + 20_000, 1_000, 500, 15_000),), left_behind=0.5
    ),
    "still": ServerFaults(still=(_MIDDLE,)),
    "in_flight": ServerFaults(latency_ms_max=500, in_flight=1.0),
    "claim_early": ServerFaults(claim_early=ALWAYS),
    "reorder": ServerFaults(reorder=ALWAYS, claim_early=ALWAYS),
    "short": ServerFaults(short=ALWAYS),
    "group_back": ServerFaults(group_back=0.3),
    "group_missing": ServerFaults(group_missing=0.2),
    "consumer_missing": ServerFaults(consumer_missing=0.3),
    "foreign": ServerFaults(foreign=0.5),
    "evicted": ServerFaults(evict_s=10),
}


class Life:
    """A book's life: customers, a booking actor and two payment executors on one server.

    Args:
      faults: What the server does to them for the first ``FAULT_S`` seconds.
      seed: Of all draws.
      mortal: Processes die every few seconds.
    """

    def __init__(
        self, faults: ServerFaults, seed: int, *, mortal: bool = False, standby: bool = False
    ) -> None:
        self.mortal = mortal
        self.standby = standby
        self.draws = Draws(seed)
        self.faults = faults
        self.clock = WorldClock()
        self.trace = Trace(self.clock.now_ms)
        self.server: SimServer
        self.healed = False
        self.ends: list[str] = []

    def run(self) -> None:
        self.clock.run(self._main, strategy=Uniform(self.draws))

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self.server = SimServer(
                self.clock,
                self.draws,
                self.faults,
                nursery,
                options=REPLICATED if self.faults.replica_ms_max else None,
                on_fault=lambda kind, details: self.trace.note("server", kind, details),
            )
            self.provider = SimProvider(
                self.draws, ProviderFaults(), self.trace, Marks(), nursery, self.clock.now_ms
            )
            async with trio.open_nursery() as processes:
                for book in ("one", "two"):
                    processes.start_soon(self._customers, book)
                processes.start_soon(self._supervise, "booking", self._booking)
                if self.standby:
                    processes.start_soon(self._supervise, "booking-2", self._booking)
                for number in (1, 2):
                    processes.start_soon(self._supervise, f"payment-{number}", self._payment)
                await trio.sleep(FAULT_S)
                self.server.heal()
                self.healed = True
                if self.faults.consumer_missing:  # only a takeover brings lost actions back
                    self.restart.cancel()
                await self._rest()
                processes.cancel_scope.cancel()
            nursery.cancel_scope.cancel()

    async def _customers(self, book: str) -> None:
        log = self.server.connect(f"customers of {book}")
        commands: list[m.Command] = [PRACTICE]
        commands += [m.RequestSlot("checkup", f"2026-01-06T{8 + n % 7:02}:00") for n in range(14)]
        for number, command in enumerate(commands):
            body = wire.encode_message(command)
            by = f"customer:K{number}" if number else "service:web"
            one = NewInput(wire.TYPES[type(command)], body, f"{book}-{number}", by)
            while True:
                try:
                    await log.append(book, [one])
                    break
                except LogUnavailableError:
                    await trio.sleep(0.5)
            await trio.sleep(self.draws.below("customers.think_ms", 4_000, book, number) / 1000)

    async def _supervise(
        self, name: str, process: Callable[[Log, str, int], Awaitable[None]]
    ) -> None:
        for life in range(1, 1_000):
            with trio.CancelScope() as scope:
                if self.mortal and not self.healed:
                    life_ms = self.draws.below("life_ms", 8_000, name, life)
                    scope.deadline = trio.current_time() + 1 + life_ms / 1000
                if name == "booking":
                    self.restart = scope
                try:
                    await process(self.server.connect(f"{name}.{life}"), name, life)
                except LogError as error:
                    self.ends.append(type(error).__name__)
            await trio.sleep(1)

    async def _booking(self, log: Log, name: str, life: int) -> None:
        await run_booking(
            log,
            self.clock,
            owner=f"{name}-{life}",
            options=BookingOptions(snapshot_inputs=5, batch_max=3),
            stop=trio.Event(),
            rng=self.draws.generator("booking", name, life),
        )

    async def _payment(self, log: Log, name: str, life: int) -> None:
        options = PaymentOptions(claim_idle_s=10, keep_claim_s=2)
        rng = self.draws.generator("payment", name, life)
        await run_payment(
            log,
            self.provider,
            consumer=f"{name}.{life}",
            options=options,
            stop=trio.Event(),
            rng=rng,
        )

    async def _rest(self) -> None:
        with trio.move_on_after(REST_S):
            while not self._at_rest():  # noqa: ASYNC110 - nothing tells
                await trio.sleep(60)
        assert self._at_rest(), [
            (name, book.record, book.inputs.facts(), book.payments.facts("payments"))
            for name, book in self.server.log.books.items()
        ]

    def _at_rest(self) -> bool:
        log = self.server.log
        lost = 2 - len(log.registered)  # a failover may lose a whole book
        if (lost and not self.faults.failovers) or self.server.under_way:
            return False
        for book in log.books.values():
            facts = book.payments.facts("payments")
            decided = book.record.position == book.inputs.facts().last_id
            if not decided or facts.pending or facts.lag:
                return False
        return trio.current_time() > FAULT_S + 60

    def assert_sound(self) -> None:
        """Each book's log replays to its record, its outcomes and its actions; nothing broken."""
        for name in self.server.log.registered:
            book = self.server.log.book(name)
            runner = BookRunner(name)
            replayed = runner.decide(list(book.inputs.entries))
            assert book.outcomes.entries == replayed.outcomes
            assert runner.digest == book.record.digest
            assert book.payments.entries == replayed.payments
            assert full_scan(runner.state) == []
            # Either may lose the practice itself.
            if not self.faults.failovers and not self.faults.restarts:
                assert len(runner.state.bookings) >= 5


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What actors log is not of interest here."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


def test_every_kind_of_fault_is_tried() -> None:
    assert list(KINDS) == list(SERVER_FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_actors_outlive_each_kind_of_fault(kind: str) -> None:
    fired = mattered = 0
    for seed in range(5):
        life = Life(KINDS[kind], seed, mortal=kind == "in_flight", standby=kind == "evicted")
        life.run()
        life.assert_sound()
        fired += life.server.counts.fired.get(kind, 0)
        mattered += life.server.counts.mattered.get(kind, 0)
    assert fired > 0
    assert mattered > 0 or kind == "slow"


@pytest.mark.slow
def test_the_actors_outlive_whole_swarms_of_faults() -> None:
    fired: dict[str, int] = {}
    for seed in range(40):
        level = get_args(Durability)[seed % 3]
        faults = draw_server_faults(Draws(seed), START_MS, FAULT_S, durability=level)
        life = Life(faults, seed, mortal=seed % 2 == 1)
        life.run()
        life.assert_sound()
        fired |= life.server.counts.fired
    assert sorted(fired) == sorted(kind for kind in SERVER_FAULTS if kind != "consumer_missing")


@pytest.mark.slow
def test_the_same_seed_is_the_same_run() -> None:
    digests: list[tuple[str, dict[str, int], int]] = []
    for _ in range(2):
        draws = Draws(3)
        life = Life(draw_server_faults(draws, START_MS, FAULT_S), 3)
        life.run()
        digests.append((life.trace.digest(), life.server.counts.mattered, len(life.draws.tape)))
    assert digests[0] == digests[1]
    assert len(digests[0][1]) > 1
