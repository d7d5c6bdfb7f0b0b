"""Twenty failovers in a row under load: a primary is killed, its replica promoted, and so on.

At ``replicated`` nothing is lost that anybody could rely on, and the provider has no money for what
was lost. At ``durable`` a tail is lost on purpose each time, after executors have acted on it: it must
be reported with its range, the book must be consistent, and ``holdfast reconcile`` must bring the
provider back in line with it.

The primary and its replica change places: what was killed comes back as the replica of the other.
Everybody connects to one address that leads to the primary, as behind a virtual IP.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import hiredis
import msgspec
import pytest
import redis
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import views, wire
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.payment.ledger import Change, Hold
from holdfast.actors.ports import LogUnavailableError, NewInput
from holdfast.bootstrap import PROVIDER_FOLDER, open_log, open_provider
from holdfast.cli.checks import Checker
from holdfast.cli.follow import catch_up, follow, order
from holdfast.cli.push import wait_outcome
from holdfast.cli.supervisor import STEADY_S, Supervisor
from holdfast.config.settings import Settings, load
from holdfast.tools.reconcile import Reconciled
from holdfast.tools.status import BookStatus
from holdfast.transport.server import EmbeddedServer, ServerConfig, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from holdfast.actors.ports import Log, OutcomeEntry
    from holdfast.transport.redis_log import RedisLog
    from holdfast.transport.tails import LostTail

BOOK = "demo"
ROUNDS = 20
CUSTOMERS = 8
HEARD_S = 1.5
"""Who hears nothing for so long asks again, under the same key."""

EVENT_S_MAX = 30.0
REST_S_MAX = 60.0
AGAIN_S = 0.02
PARTED_S = 0.2
"""How long a primary goes on alone before it is killed."""

POLL_S = 0.005

Level: TypeAlias = Literal["durable", "replicated"]
Entries: TypeAlias = list[tuple[str, dict[str, str]]]


class Failovers(msgspec.Struct):
    """What happened, for whoever wants to know.

    Attributes:
      cuts: Failovers before which the replica was cut off.
      alone: In how many of them the primary alone had entries of a kind when it was killed.
      inputs: In the log at the end.
      told: Outcomes that customers read.
      sure: Those of them that they then saw to be copied.
      told_and_lost: Those that are not in the log at the end.
    """

    level: Level
    seed: int
    failovers: int
    cuts: int
    alone: dict[str, int]
    inputs: int = 0
    told: int = 0
    sure: int = 0
    losses: int = 0
    told_and_lost: int = 0
    orphans: int = 0
    differing: int = 0
    gap_ms_median: int = 0
    gap_ms_most: int = 0
    restarts: dict[str, int] = {}


def key_of(name: str) -> str:
    """A key of the book, without asking the code that is tested."""
    return f"holdfast:{{{BOOK}}}:{name}"


async def until(what: str, holds: Callable[[], bool]) -> None:
    """Wait for something in another process, which sets no event of ours."""
    with trio.move_on_after(EVENT_S_MAX):
        while not holds():  # noqa: ASYNC110
            await trio.sleep(POLL_S)
        return
    raise AssertionError(f"{what} did not happen within {EVENT_S_MAX:g} s")


# --- the servers ----------------------------------------------------------------------------------


class Servers:
    """A primary and its replica, and the address that leads to the primary.

    Attributes:
      url: That address.
    """

    def __init__(self, folder: Path) -> None:
        self._address = folder / "s"
        self.url = f"unix://{self._address}"
        self._folders = [folder / "a", folder / "b"]
        self._primary, self._port = self._start(0)
        self._replica, self._replica_port = self._start(1)
        self._promoted = False

    def _start(self, number: int) -> tuple[EmbeddedServer, int]:
        # A new replica begins at once, and loads what it is sent as it comes.
        more = ("repl-diskless-sync-delay", "0", "repl-diskless-load", "swapdb")
        port = free_port()
        server = EmbeddedServer(ServerConfig(self._folders[number], port=port, more=more))
        server.start()
        return server, port

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Servers]:
        """Let them be reached; stop them at the end."""
        try:
            await self._primary.wait_ready()
            await self._join()
            async with trio.open_nursery() as nursery:
                await nursery.start(self._lead)
                await self.in_step()
                yield self
                nursery.cancel_scope.cancel()
        finally:
            self._replica.stop_now()
            self._primary.stop_now()

    def primary(self) -> Any:  # noqa: ANN401 - redis-py's types are unions
        """A client of the primary."""
        return _client(self._primary)

    async def in_step(self) -> None:
        """Wait until the replica has its copy and follows.

        The replica is asked: to its primary it is online before it has loaded what it was sent.
        """

        def follows() -> bool:
            with _client(self._replica) as client:
                link = client.info("replication")
            return link["master_link_status"] == "up" and not link["master_sync_in_progress"]

        await until("a replica", follows)

    async def _join(self) -> None:
        await self._replica.wait_ready()
        with _client(self._replica) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", self._port)

    def cut(self) -> dict[str, str]:
        """Part the replica from the primary, which goes on; the last entries that the replica has.

        It is a primary from now on, to which nobody comes yet: what the old one is still given is lost.
        """
        with _client(self._replica) as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
            self._promoted = True
            return _last(client)

    async def fail_over(self) -> None:
        """SIGKILL the primary, let all come to the replica, and bring the killed one back as its own."""
        assert self._primary.pid is not None
        os.kill(self._primary.pid, signal.SIGKILL)
        await until("the primary's end", lambda: not self._primary.running)
        if not self._promoted:
            self.cut()
        killed, self._primary, self._port = self._primary, self._replica, self._replica_port
        killed.stop_now()
        self._folders.reverse()
        self._replica, self._replica_port = self._start(1)
        self._promoted = False
        await self._join()

    async def _lead(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(str(self._address))
            listener.listen(100)
            task_status.started()
            async with trio.open_nursery() as nursery:
                while True:
                    accepted, _ = await listener.accept()
                    nursery.start_soon(self._connect, trio.SocketStream(accepted))

    async def _connect(self, client: trio.SocketStream) -> None:
        async with client:
            with suppress(OSError):
                server = await trio.open_unix_socket(str(self._primary.socket))
                async with server, trio.open_nursery() as nursery:
                    nursery.start_soon(_pass_on, server, client)
                    await _pass_on(client, server)
                    nursery.cancel_scope.cancel()


async def _pass_on(one: trio.SocketStream, other: trio.SocketStream) -> None:
    with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in one:
            await other.send_all(data)
    await trio.aclose_forcefully(other)


def _client(server: EmbeddedServer) -> Any:  # noqa: ANN401 - redis-py's types are unions
    return cast("Any", redis.Redis(unix_socket_path=str(server.socket), decode_responses=True))


def _last(client: Any) -> dict[str, str]:  # noqa: ANN401 - the same
    """The id of each stream's last entry."""
    found = {name: client.xrevrange(key_of(name), count=1) for name in ("inputs", "outcomes")}
    (group,) = client.xinfo_groups(key_of("payments"))
    return {name: entries[0][0] for name, entries in found.items()} | {
        "payments handed out": group["last-delivered-id"]
    }


def _is_idle(client: Any) -> bool:  # noqa: ANN401 - the same
    """Whether every input is decided, and every action carried out."""
    last = _last(client)
    groups = [client.xinfo_groups(key_of(name))[0] for name in ("payments", "notifications")]
    return last["inputs"] == last["outcomes"] and not any(
        group["pending"] or group["lag"] for group in groups
    )


# --- the customers --------------------------------------------------------------------------------


class Customers:
    """Those who ask, ask again where they hear nothing, and cancel.

    Attributes:
      acknowledged: The key of each input whose id the server gave back.
      told: The outcome of each input that was read.
      told_s: When that was.
      sure: Those of them that were then seen to be copied, as the docs say how.
    """

    def __init__(self, settings: Settings, seed: int, *, ask_for_copies: bool) -> None:
        assert settings.redis_url is not None
        self._settings = settings
        self._address = settings.redis_url.removeprefix("unix://")
        self._seed = seed
        self._ask_for_copies = ask_for_copies
        self.leave = trio.Event()
        self.go_on = trio.Event()
        self.go_on.set()
        self.acknowledged: dict[str, str] = {}
        self.told: dict[str, OutcomeEntry] = {}
        self.told_s: dict[str, float] = {}
        self.sure: dict[str, OutcomeEntry] = {}

    async def live(
        self, number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """One household, on a connection of its own, until all shall leave."""
        draw = random.Random(f"{self._seed} {number}")
        count = 0
        async with open_log(self._settings) as log:
            task_status.started()
            while not self.leave.is_set():
                await self.go_on.wait()
                count += 1
                by, key = f"customer:K{number}-{draw.randrange(20)}", f"k{number}-{count}"
                outcome = await self._ask(log, _wish(draw, key, by))
                if outcome.status == "accepted" and draw.random() < 0.3:
                    body = wire.encode_message(m.Cancel(booking=f"b{outcome.id}"))
                    await self._ask(log, NewInput("cancel", body, f"{key}c", by))
                await trio.sleep(draw.random() * 0.1)

    async def _ask(self, log: Log, new: NewInput) -> OutcomeEntry:
        """The answer to *new*, which is sent until there is one."""
        while True:
            outcome = None
            with suppress(LogUnavailableError):
                [entry_id] = await log.append(BOOK, [new])
                self.acknowledged[entry_id] = new.key
                outcome = await wait_outcome(log, BOOK, entry_id, HEARD_S)
            if outcome is not None:
                self.told[outcome.id] = outcome
                self.told_s[outcome.id] = trio.current_time()
                if self._ask_for_copies and await self._is_copied(outcome.id):
                    self.sure[outcome.id] = outcome
                return outcome
            await trio.sleep(AGAIN_S)

    async def _is_copied(self, entry_id: str) -> bool:
        """Whether a replica has an outcome: it is read, and WAIT sent behind a write, on one connection."""
        key = key_of("outcomes")
        asked = f"XRANGE {key} {entry_id} {entry_id}\r\nINCR asked\r\nWAIT 1 500\r\n"
        reader = hiredis.Reader()
        replies: list[Any] = []
        with suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_unix_socket(self._address) as stream:
                await stream.send_all(asked.encode())
                async for data in stream:
                    reader.feed(bytes(data))
                    while (reply := reader.gets()) is not False:
                        replies.append(reply)
                    if len(replies) == 3:
                        break
        return len(replies) == 3 and len(replies[0]) == 1 and replies[2] >= 1


def _wish(draw: random.Random, key: str, by: str) -> NewInput:
    date = (datetime.now(UTC) + timedelta(days=draw.randrange(3, 60))).date().isoformat()
    auto = m.RequestAuto("checkup", days=[date])
    return NewInput("request_auto", wire.encode_message(auto), key, by)


def practice() -> NewInput:
    """Three chairs, every day."""
    return NewInput(
        "define_practice",
        wire.encode_message(
            m.DefinePractice(
                name="Practice",
                zone="Europe/Berlin",
                currency="EUR",
                services=[m.Service("checkup", "Checkup", 30, 7_500)],
                staff=[m.Staff(f"s{number}", "Member") for number in range(3)],
                hours={str(day): [("08:00", "18:00")] for day in range(7)},
                policies=m.Policies(holds_per_customer_max=0, check_settle_s=2),
            )
        ),
        key="practice",
        by="service:test",
    )


# --- the failovers --------------------------------------------------------------------------------


class Drill:
    """Fails over again and again, and remembers what each one must have lost.

    Attributes:
      kept: Of each cut, the last input before it.
      acted: Of each cut, an input after it that the provider put money on hold for.
      alone: See :class:`Failovers`.
      gaps_s: From each kill until a customer is told the outcome of an input that came after it.
    """

    def __init__(self, servers: Servers, customers: Customers, level: Level, data: Path) -> None:
        self._servers = servers
        self._customers = customers
        self.level: Level = level
        self._journal = data / PROVIDER_FOLDER / "provider.jsonl"
        self.kept: list[str] = []
        self.acted: list[str] = []
        self.alone: Counter[str] = Counter()
        self.gaps_s: list[float] = []

    async def run(self) -> None:
        """All rounds. At ``replicated`` one in three is a kill and no more."""
        # So long that an actor that was started again has proved itself.
        await trio.sleep(STEADY_S)
        for number in range(ROUNDS):
            await self._servers.in_step()
            if self.level == "durable":
                await self._cut(self._money_on_hold)
            elif number % 3 == 1:
                await self._cut(self._a_while)
            elif number % 3 == 2:
                await self._pause()
                await self._cut(self._an_action_handed_out)
            killed_s, killed_ms = trio.current_time(), time.time_ns() // 1_000_000
            await self._servers.fail_over()
            self.gaps_s.append(await self._first_told_after(killed_ms) - killed_s)
            await trio.sleep(STEADY_S)

    async def _cut(self, build_upon: Callable[[dict[str, str]], Awaitable[None]]) -> None:
        """Cut the replica off, and let others build upon what it will not have."""
        kept = self._servers.cut()
        self.kept.append(kept["inputs"])
        await build_upon(kept)
        with self._servers.primary() as client:
            more = _last(client)
        self.alone.update(name for name in kept if order(more[name]) > order(kept[name]))

    async def _money_on_hold(self, kept: dict[str, str]) -> None:
        await until("money on hold", lambda: order(self._last_hold()) > order(kept["inputs"]))
        self.acted.append(self._last_hold())

    async def _a_while(self, _kept: dict[str, str]) -> None:
        """What is being committed is written, and no more: it is waited for the replica."""
        await trio.sleep(PARTED_S)

    async def _an_action_handed_out(self, kept: dict[str, str]) -> None:
        """Of an input that the replica has not: an executor must not take it up, and has time to."""
        self._customers.go_on.set()
        name = "payments handed out"
        with self._servers.primary() as client:
            await until(name, lambda: order(_last(client)[name]) > order(kept[name]))
        await trio.sleep(PARTED_S)

    async def _pause(self) -> None:
        """Let the customers wait until all is decided and carried out."""
        self._customers.go_on = trio.Event()
        with self._servers.primary() as client:
            await until("a pause", lambda: _is_idle(client))
        await self._servers.in_step()

    def _last_hold(self) -> str:
        """The input that the provider put money on hold for last."""
        lines = self._journal.read_bytes().split(b"\n")[:-1]
        changes = [msgspec.json.decode(line, type=Change) for line in lines]
        return [one.reference for one in changes if isinstance(one, Hold)][-1].rpartition("p")[2]

    async def _first_told_after(self, killed_ms: int) -> float:
        """When the outcome of an input was told that came after the kill."""
        told = self._customers.told_s

        def after() -> list[float]:
            return [told_s for id_, told_s in told.items() if order(id_)[0] > killed_ms]

        await until("an outcome", lambda: bool(after()))
        return min(after())


# --- what must hold at the end --------------------------------------------------------------------


async def wait_rest(log: Log) -> BookRunner:
    """Wait until all is decided, no payment waits for anything, and no action is left; the book."""
    with trio.fail_after(REST_S_MAX):
        runner = await follow(log, BOOK)
        while not await _rests(log, runner):
            await log.read_inputs({BOOK: runner.position}, 1, 0.2)
    return runner


async def _rests(log: Log, runner: BookRunner) -> bool:
    await catch_up(log, BOOK, runner)
    if (await log.read_record(BOOK)).position != runner.position:
        return False
    groups = [await log.facts(BOOK, "payments"), await log.facts(BOOK, "notifications")]
    return not any(group.lag or group.pending for group in groups) and all(
        payment.at_rest for payment in views.payments(runner.state)
    )


def is_reported(entry_id: str, losses: list[LostTail]) -> bool:
    """Whether the input is in the range of a loss."""
    return any(
        order(loss.inputs_kept) < order(entry_id) <= order(loss.inputs_lost_to) for loss in losses
    )


def read_streams(servers: Servers) -> dict[str, Entries]:
    """The book's streams, as a client that is not ours sees them."""
    names = ("inputs", "outcomes", "payments", "notifications", "deadletters")
    with servers.primary() as client:
        return {name: client.xrange(key_of(name)) for name in names}


def assert_losses_are_reported(level: Level, drill: Drill, losses: list[LostTail]) -> None:
    """With their ranges; at ``replicated`` no outcome is among them that was called written."""
    assert {loss.cause for loss in losses} == {"failover"}
    if level == "replicated":
        assert all(loss.decided_kept == loss.decided_lost_to for loss in losses)
        return
    assert [loss.inputs_kept for loss in losses] == drill.kept
    for loss, acted in zip(losses, drill.acted, strict=True):
        assert order(loss.inputs_kept) < order(acted) <= order(loss.inputs_lost_to)


def assert_answers_stand(
    streams: dict[str, Entries], customers: Customers, losses: list[LostTail]
) -> int:
    """One outcome for each input and each key; it is what was told, or it was reported to be lost.

    Returns:
      How many answers were lost.
    """
    keys = {id_: fields.get("key", "") for id_, fields in streams["inputs"]}
    outcomes = {id_: (fields["status"], fields["body"]) for id_, fields in streams["outcomes"]}
    assert list(outcomes) == list(keys)
    of_key: dict[str, tuple[str, str]] = {}
    for id_, outcome in outcomes.items():
        if keys[id_]:
            assert of_key.setdefault(keys[id_], outcome) == outcome, f"{keys[id_]} has two answers"
    lost = 0
    for id_, told in customers.told.items():
        if id_ in outcomes:
            assert outcomes[id_] == (told.status, told.body.decode()), f"{id_} was told otherwise"
        else:
            assert is_reported(id_, losses), f"{id_} was told, is gone, and nobody says so"
            lost += 1
    gone = customers.sure - outcomes.keys()
    assert not gone, f"a replica had the outcomes of {gone}, and they are gone"
    assert streams["deadletters"] == []
    return lost


async def assert_actions_are_those_of_a_replay(log: Log, streams: dict[str, Entries]) -> None:
    """What was written for the executors is what the inputs say, each entry once."""
    decided: list[tuple[str, str]] = []

    async def note(_entries: object, batch: Any) -> None:  # noqa: ANN401 - Decided
        decided.extend((a.id, a.action) for a in (*batch.payments, *batch.notifications))

    await catch_up(log, BOOK, BookRunner(BOOK), on_batch=note)
    written = [
        (id_, fields["action"])
        for stream in ("payments", "notifications")
        for id_, fields in streams[stream]
    ]
    assert sorted(written) == sorted(decided)


def assert_no_overlap(runner: BookRunner) -> None:
    """Found from the calendar that people see, without the book's own bookkeeping."""
    of_staff: dict[str, list[tuple[datetime, datetime]]] = {}
    for item in views.whole_calendar(runner.state):
        lasts = datetime.fromisoformat(item.start), datetime.fromisoformat(item.end)
        of_staff.setdefault(item.staff, []).append(lasts)
    assert of_staff
    for appointments in of_staff.values():
        ordered = pairwise(sorted(appointments))
        assert all(before[1] <= after[0] for before, after in ordered)


async def problems_of(log: Log, settings: Settings) -> list[str]:
    """What ``holdfast check`` finds; the replay and the record's digest must hold in any case."""
    async with open_provider(settings) as provider:
        report = await Checker(log, provider, BOOK).run()
    record = await log.read_record(BOOK)
    assert (report.position, report.digest) == (record.position, record.digest)
    problems = {finding.name: finding.problems for finding in report.findings}
    assert problems["replay"] == problems["invariants"] == []
    return problems["ledger"]


async def assert_ledger_is_the_book(log: Log, settings: Settings) -> None:
    """Every payment of the book is as the provider says, and it has no money of others."""
    async with open_provider(settings) as provider:
        ledger = {
            name.removeprefix(f"{BOOK}:"): answer.status
            for name, answer in (await provider.ledger(f"{BOOK}:")).items()
        }
    book = {one.payment: one.observed for one in views.payments((await follow(log, BOOK)).state)}
    assert {name: ledger.get(name) for name in book} == book
    left = {status for name, status in ledger.items() if name not in book}
    assert left <= {"voided"}


async def holdfast(settings: Settings, *args: str) -> tuple[int, dict[str, Any]]:
    """A command, as an operator gives it: its exit code and what it tells."""
    command = [sys.executable, "-m", "holdfast", *args, "--data", str(settings.data), "--json"]
    done = await trio.run_process(command, capture_stdout=True, check=False)
    return done.returncode, msgspec.json.decode(done.stdout)


# --- the tests ------------------------------------------------------------------------------------


async def hold_drill(level: Level, seed: int, data: Path) -> Failovers:
    """All failovers, and the questions at their end, in the new folder *data*."""
    async with Servers(data).running() as servers:
        settings = load(
            None,
            {},
            {
                "data": data / "service",
                "redis_url": servers.url,
                "durability": level,
                "payment.claim_idle_s": 1,
                "notification.claim_idle_s": 1,
                "booking.snapshot_inputs": 200,
            },
        )
        async with Supervisor(settings, to_files=True).running() as service:
            settings = service.settings
            customers = Customers(settings, seed, ask_for_copies=level == "replicated")
            drill = Drill(servers, customers, level, settings.data)
            async with open_log(settings) as log:
                await log.append(BOOK, [practice()])
            async with trio.open_nursery() as nursery:
                for number in range(CUSTOMERS):
                    await nursery.start(customers.live, number)
                await drill.run()
                customers.leave.set()
            happened = Failovers(level, seed, ROUNDS, len(drill.kept), dict(drill.alone))
            happened.gap_ms_median = round(median(drill.gaps_s) * 1000)
            happened.gap_ms_most = round(max(drill.gaps_s) * 1000)
            happened.restarts = dict(service.restarts)
            async with open_log(settings) as log:
                await ask(log, servers, settings, drill, customers, happened)
    (data / "failovers.json").write_bytes(msgspec.json.format(msgspec.json.encode(happened)))
    return happened


async def ask(
    log: Log,
    servers: Servers,
    settings: Settings,
    drill: Drill,
    customers: Customers,
    happened: Failovers,
) -> None:
    """Whether everything is as it must be, once the service is at rest."""
    runner = await wait_rest(log)
    losses = await cast("RedisLog", log).lost_tails(BOOK)
    assert_losses_are_reported(drill.level, drill, losses)
    streams = read_streams(servers)
    happened.told_and_lost = assert_answers_stand(streams, customers, losses)
    await assert_actions_are_those_of_a_replay(log, streams)
    assert_no_overlap(runner)
    happened.inputs, happened.told = len(streams["inputs"]), len(customers.told)
    happened.sure, happened.losses = len(customers.sure), len(losses)

    code, told = await holdfast(settings, "status", BOOK)
    status = msgspec.convert(told["books"][0], BookStatus)
    assert (code, status.losses) == (0, losses)
    code, told = await holdfast(settings, "reconcile", BOOK)
    found = msgspec.convert(told, Reconciled)
    happened.orphans, happened.differing = len(found.orphans), len(found.differing)
    if drill.level == "replicated":
        assert (code, found.orphans, found.differing) == (0, [], [])
        assert await problems_of(log, settings) == []
        return
    assert code == 1
    orphans = [orphan.payment.removeprefix(f"{BOOK}:p") for orphan in found.orphans]
    assert all(is_reported(id_, losses) for id_ in orphans)
    assert set(drill.acted) <= set(orphans)
    code, told = await holdfast(
        settings, "reconcile", BOOK, "--yes", "--wait", "0", "--most", str(len(orphans))
    )
    assert (code, told["released"]) == (0, len(orphans))
    await wait_rest(log)
    await assert_ledger_is_the_book(log, settings)
    assert (await holdfast(settings, "reconcile", BOOK))[0] == 0


@pytest.mark.slow
async def test_a_tail_that_is_lost_on_purpose_is_reported_and_the_money_for_it_given_back(
    tmp_path: Path,
) -> None:
    """Each failover loses what executors have already acted on."""
    happened = await hold_drill("durable", 1, tmp_path)
    assert happened.losses == happened.cuts == ROUNDS
    assert happened.told_and_lost > 0


@pytest.mark.slow
async def test_twenty_failovers_lose_nothing_that_a_replica_was_known_to_have(
    tmp_path: Path,
) -> None:
    """Often the replica is cut off first, so that the primary has something alone."""
    happened = await hold_drill("replicated", 2, tmp_path)
    assert happened.alone["payments handed out"] >= ROUNDS // 3
    assert happened.losses > 0
    assert happened.sure > 500
