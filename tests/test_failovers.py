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
from itertools import takewhile
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import hiredis
import msgspec
import pytest
import redis
import trio
from aftermath import (
    AGAIN_S,
    answers_gone,
    assert_actions_are_those_of_a_replay,
    assert_no_overlap,
    read_streams,
    report_of,
    wait_rest,
)
from customers import CANCELS, any_time, cancel, days_ahead, practice

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import views
from holdfast.actors.booking.payments import request_of
from holdfast.actors.payment.ledger import Change, Hold
from holdfast.actors.ports import LogUnavailableError
from holdfast.bootstrap import PROVIDER_FOLDER, open_log, open_provider
from holdfast.cli.follow import follow, order
from holdfast.cli.push import wait_outcome
from holdfast.cli.status_file import read_status
from holdfast.cli.supervisor import STEADY_S, Supervisor
from holdfast.config.settings import Settings, load
from holdfast.tools.reconcile import Reconciled
from holdfast.tools.status import BookStatus
from holdfast.transport.server import EmbeddedServer, ServerConfig, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from holdfast.actors.ports import Log, NewInput, OutcomeEntry
    from holdfast.transport.redis_log import RedisLog
    from holdfast.transport.tails import LostTail

BOOK = "demo"
ROUNDS = 20
CUSTOMERS = 8
POLICIES = m.Policies(holds_per_customer_max=0, check_settle_s=2)
HEARD_S = 1.5
"""Who hears nothing for so long asks again, under the same key."""

EVENT_S_MAX = 30.0
PARTED_S = 0.2
"""How long a primary goes on alone before it is killed."""

POLL_S = 0.02

Level: TypeAlias = Literal["durable", "replicated"]


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
        self._lead()

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
            await self.in_step()
            yield self
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
        self._lead()
        killed.stop_now()
        self._folders.reverse()
        self._replica, self._replica_port = self._start(1)
        self._promoted = False
        await self._join()

    def _lead(self) -> None:
        """Let the address be the primary's socket, whatever it was before."""
        other = self._address.with_suffix(".new")
        other.symlink_to(self._primary.socket)
        other.replace(self._address)


def _client(server: EmbeddedServer) -> Any:  # noqa: ANN401 - redis-py's types are unions
    return cast("Any", redis.Redis(unix_socket_path=str(server.socket), decode_responses=True))


def _look(client: Any) -> tuple[dict[str, str], list[dict[str, Any]]]:  # noqa: ANN401 - the same
    """The last ids of the book's streams and groups, and the groups, all at one moment."""
    with client.pipeline(transaction=True) as moment:
        moment.xrevrange(key_of("inputs"), count=1)
        moment.xrevrange(key_of("outcomes"), count=1)
        moment.xinfo_groups(key_of("payments"))
        moment.xinfo_groups(key_of("notifications"))
        inputs, outcomes, [payments], [notifications] = moment.execute()
    last = {
        "inputs": inputs[0][0],
        "outcomes": outcomes[0][0],
        "payments handed out": payments["last-delivered-id"],
    }
    return last, [payments, notifications]


def _last(client: Any) -> dict[str, str]:  # noqa: ANN401 - the same
    return _look(client)[0]


def _is_idle(client: Any) -> bool:  # noqa: ANN401 - the same
    """Whether every input is decided, and every action carried out."""
    last, groups = _look(client)
    return last["inputs"] == last["outcomes"] and not any(
        group["pending"] or group["lag"] != 0 for group in groups
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
                wish = any_time(days_ahead(draw.randrange(3, 60)), key, by)
                outcome = await self._ask(log, wish)
                if outcome.status == "accepted" and draw.random() < CANCELS:
                    await self._ask(log, cancel(outcome.id, key, by))
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
        self._journal_read = 0
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
            self.gaps_s.append(await self._first_told(killed_s, killed_ms) - killed_s)
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
        acted: list[str] = []

        def is_held() -> bool:
            acted.extend(id_ for id_ in self._holds() if order(id_) > order(kept["inputs"]))
            return bool(acted)

        await until("money on hold", is_held)
        self.acted.append(acted[0])

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
            # The booking actor still waits for this where the replica has not its last commit.
            await until("a copy", lambda: client.incr("asked") and client.wait(1, 100))
        await self._servers.in_step()

    def _holds(self) -> list[str]:
        """The inputs that the provider put money on hold for since this was called last."""
        with self._journal.open("rb") as journal:
            journal.seek(self._journal_read)
            whole, end, _ = journal.read().rpartition(b"\n")
        self._journal_read += len(whole) + len(end)
        changes = [msgspec.json.decode(line, type=Change) for line in whole.splitlines()]
        names = [one.reference.removeprefix(f"{BOOK}:") for one in changes if isinstance(one, Hold)]
        return [request_of(name) for name in names]

    async def _first_told(self, killed_s: float, killed_ms: int) -> float:
        """When the outcome of an input was told that came after the kill."""
        told_s = self._customers.told_s

        def after() -> list[float]:
            recent = takewhile(lambda told: told[1] >= killed_s, reversed(told_s.items()))
            return [at_s for id_, at_s in recent if order(id_)[0] > killed_ms]

        await until("an outcome", lambda: bool(after()))
        return min(after())


# --- what must hold at the end --------------------------------------------------------------------


def is_reported(entry_id: str, losses: list[LostTail]) -> bool:
    """Whether the input is in the range of a loss."""
    return any(
        order(loss.inputs_kept) < order(entry_id) <= order(loss.inputs_lost_to) for loss in losses
    )


def assert_losses_are_reported(level: Level, drill: Drill, losses: list[LostTail]) -> None:
    """With their ranges; at ``replicated`` no outcome is among them that was called written."""
    assert {loss.cause for loss in losses} == {"failover"}
    if level == "replicated":
        assert all(loss.decided_kept == loss.decided_lost_to for loss in losses)
        return
    assert [loss.inputs_kept for loss in losses] == drill.kept
    for loss, acted in zip(losses, drill.acted, strict=True):
        assert order(loss.inputs_kept) < order(acted) <= order(loss.inputs_lost_to)


async def read_ledger(settings: Settings) -> dict[str, str]:
    """What the provider says of each payment."""
    async with open_provider(settings) as provider:
        found = await provider.ledger(f"{BOOK}:")
    return {name.removeprefix(f"{BOOK}:"): answer.status for name, answer in found.items()}


async def assert_ledger_is_the_book(log: Log, settings: Settings) -> None:
    """Every payment of the book is as the provider says, and it has no money of others."""
    ledger = await read_ledger(settings)
    book = {one.payment: one.observed for one in views.payments((await follow(log, BOOK)).state)}
    assert {name: ledger.get(name) for name in book} == book
    left = {status for name, status in ledger.items() if name not in book}
    assert left <= {"voided"}


def is_well(data: Path) -> bool:
    """Whether no part of the service says that something troubles it."""
    service = read_status(data)
    return service is not None and all(part.health == "ok" for part in service.parts.values())


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
                await log.append(BOOK, [practice(POLICIES)])
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
                await ask(log, settings, drill, customers, happened)
    (data / "failovers.json").write_bytes(msgspec.json.format(msgspec.json.encode(happened)))
    return happened


async def ask(
    log: Log, settings: Settings, drill: Drill, customers: Customers, happened: Failovers
) -> None:
    """Whether everything is as it must be, once the service is at rest."""
    runner = await wait_rest(log, BOOK)
    losses = await cast("RedisLog", log).lost_tails(BOOK)
    assert_losses_are_reported(drill.level, drill, losses)
    streams = read_streams(settings, BOOK)
    lost = answers_gone(streams, customers.told)
    assert all(is_reported(id_, losses) for id_ in lost), (
        "what was told is gone, and nobody says so"
    )
    assert not customers.sure.keys() & set(lost), "a replica had the outcome of what is gone"
    await assert_actions_are_those_of_a_replay(log, BOOK, streams)
    assert_no_overlap(runner)
    happened.told_and_lost = len(lost)
    happened.inputs, happened.told = len(streams["inputs"]), len(customers.told)
    happened.sure, happened.losses = len(customers.sure), len(losses)

    # Who waits for something to come says only then that the log is there again.
    await until("a service that is well", lambda: is_well(settings.data))
    code, told = await holdfast(settings, "status", BOOK)
    status = msgspec.convert(told["books"][0], BookStatus)
    assert status.losses == losses
    assert code == 0, told
    code, told = await holdfast(settings, "reconcile", BOOK)
    found = msgspec.convert(told, Reconciled)
    happened.orphans, happened.differing = len(found.orphans), len(found.differing)
    if drill.level == "replicated":
        assert (code, found.orphans, found.differing) == (0, [], [])
        assert (await report_of(log, settings, BOOK))[0].holds
        return
    assert code == 1
    orphans = [request_of(orphan.payment.removeprefix(f"{BOOK}:")) for orphan in found.orphans]
    assert all(is_reported(id_, losses) for id_ in orphans)
    # A customer who was told in time has cancelled, and that was carried out too.
    ledger = {request_of(name): status for name, status in (await read_ledger(settings)).items()}
    held = {id_ for id_ in drill.acted if ledger[id_] != "voided"}
    assert held
    assert held <= set(orphans)
    code, told = await holdfast(
        settings, "reconcile", BOOK, "--yes", "--wait", "0", "--most", str(len(orphans))
    )
    assert (code, told["released"]) == (0, len(orphans))
    await wait_rest(log, BOOK)
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
