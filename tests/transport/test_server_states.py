"""Every state that a real server can be in: what is said, what is written, and that all goes on.

A booking actor and an executor run on a server of their own while it falls into the state and comes
out of it. Neither is restarted. What was acknowledged is in the log, everything is decided in the
end, and a replay gives what the commit record says. Each sentence that they said stands in
``docs/failures.md``.
"""

from __future__ import annotations

import os
import random
import re
import signal
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import redis
import trio
from structlog.testing import capture_logs

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.executor import ExecutorOptions, run_executor
from holdfast.actors.health import Health
from holdfast.actors.ports import GENESIS, LogUnavailableError, NewInput
from holdfast.bootstrap import SystemClock
from holdfast.transport.keys import BookKeys
from holdfast.transport.pool import ServerOptions
from holdfast.transport.redis_log import RedisLog, open_redis_log
from holdfast.transport.server import EmbeddedServer, ServerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from holdfast.actors.ports import ActionEntry, OutcomeEntry

pytestmark = pytest.mark.slow

BOOK = "demo"
KEYS = BookKeys(BOOK)
IMPATIENT = ServerOptions(
    reply_s=0.3, connect_s=0.5, resolve_s=0.3, backoff_least_s=0.005, backoff_most_s=0.05
)
BOOKING = BookingOptions(wait_s=0.2, retry_s=0.01, retry_s_max=0.05)
EXECUTOR = ExecutorOptions(
    wait_s=0.2, backoff_s=0.01, backoff_max_s=0.05, claim_every_s=0.1, claim_idle_s=0.4, keep_claim_s=0.1
)  # fmt: skip
DOCUMENT = Path(__file__).parents[2] / "docs" / "failures.md"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server that this test alone uses, and may bring into any state."""
    more = ("enable-debug-command", "yes", "loading-process-events-interval-bytes", "1024")
    server = EmbeddedServer(ServerConfig(tmp_path / "d", durability="relaxed", more=more))
    server.start()
    await server.wait_ready()
    yield server
    if server.pid is not None:
        os.kill(server.pid, signal.SIGCONT)
    server.stop_now()


class House:
    """A booking actor and an executor on *server*, and a producer that notes what it is told."""

    def __init__(self, server: EmbeddedServer, log: RedisLog) -> None:
        self.server = server
        self.log = log
        self.client = cast(
            "Any", redis.Redis(unix_socket_path=str(server.socket), decode_responses=True)
        )
        self.acknowledged: list[str] = []
        self.said: list[str] = []
        self._number = 0

    async def admin(self, *command: str | int) -> Any:  # noqa: ANN401
        """A command of an operator, who is not us."""
        return await trio.to_thread.run_sync(partial(self.client.execute_command, *command))

    async def push(self) -> str:
        """Push one request; its id, or "" where it was not acknowledged."""
        self._number += 1
        command = m.RequestAuto("checkup", days=[self._number % 5 + 1])
        new = NewInput(
            "request_auto", wire.encode_message(command), f"k{self._number}", "service:w"
        )
        try:
            self.acknowledged += await self.log.append(BOOK, [new])
        except LogUnavailableError as error:
            self.said.append(str(error))
            return ""
        return self.acknowledged[-1]

    async def push_for(self, seconds: float) -> None:
        """Push again and again."""
        with trio.move_on_after(seconds):
            while True:
                await self.push()
                await trio.sleep(0.02)

    async def push_until_told(self, words: str) -> None:
        """Push until *words* come as the reason why it cannot be; other reasons may come before."""
        with trio.fail_after(20):
            while not any(words in sentence for sentence in self.said):
                await self.push()
                await trio.sleep(0.02)

    async def push_until_decided(self) -> None:
        """Push until one is acknowledged, and wait until it is decided."""
        with trio.fail_after(20):
            while not (mine := await self.push()):  # noqa: ASYNC110 - the server tells nobody
                await trio.sleep(0.02)
            after = f"{int(mine.partition('-')[0]) - 1}-0"
            while mine != after:
                with suppress(LogUnavailableError):
                    found = await self.log.read_outcomes({BOOK: after}, 500, 0.5)
                    for outcome in found.get(BOOK, []):
                        after = outcome.id
                        if after == mine:
                            break

    async def wait_rest(self) -> None:
        """Wait until everything is decided and every action is finished."""
        with trio.fail_after(20):
            while True:
                record = await self.log.read_record(BOOK)
                inputs = await self.log.facts(BOOK, "inputs")
                payments = await self.log.facts(BOOK, "payments")
                if inputs.last_id == record.position and payments.pending + payments.lag == 0:
                    return
                await trio.sleep(0.02)

    async def assert_sound(self) -> None:
        """Everything acknowledged is in the log, and what was decided is what a replay says."""
        runner = BookRunner(BOOK)
        outcomes: list[OutcomeEntry] = []
        inputs: list[str] = []
        while entries := (await self.log.read_inputs({BOOK: runner.position}, 500, 0)).get(BOOK):
            inputs += [entry.id for entry in entries]
            outcomes += runner.decide(entries).outcomes
        assert set(self.acknowledged) <= set(inputs)
        written = (await self.log.read_outcomes({BOOK: GENESIS}, 10_000, 0))[BOOK]
        assert written == outcomes
        assert (await self.log.read_record(BOOK)).digest == runner.digest


async def authorize(_book: str, entry: ActionEntry) -> NewInput:
    """Carry a payment action out: whatever it is, it is authorized."""
    body = msgspec.json.decode(entry.body)
    result = m.PaymentResult(entry.action, body["payment"], "authorized")
    return NewInput("payment_result", wire.encode_message(result), by="service:payment")


def listened_to(home: House) -> Health:
    """The health of an actor; what it says is noted."""
    health = Health()
    health.listen(lambda: home.said.extend(health.troubles.values()))
    return health


@asynccontextmanager
async def house(server: EmbeddedServer) -> AsyncGenerator[House]:
    """A house that works, and must work in the end."""
    practice = m.DefinePractice(
        name="Practice",
        zone="Europe/Berlin",
        currency="EUR",
        services=[m.Service("checkup", "Checkup", 30, 7_500)],
        staff=[m.Staff("s1", "First")],
        hours={str(day): [("09:00", "17:00")] for day in range(7)},
    )
    stop = trio.Event()
    logs = [open_redis_log(server.url, rng=random.Random(n), options=IMPATIENT) for n in range(3)]
    async with logs[0] as mine, logs[1] as bookings, logs[2] as executors:
        home = House(server, mine)
        new = NewInput("define_practice", wire.encode_message(practice), "p", "service:w")
        home.acknowledged += await mine.append(BOOK, [new])
        healths = [listened_to(home), listened_to(home)]
        booking = partial(run_booking, owner="me", options=BOOKING, stop=stop, health=healths[0])
        executor = partial(
            run_executor, consumer="e", options=EXECUTOR, stop=stop, health=healths[1]
        )
        with capture_logs() as lines:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(booking, bookings, SystemClock())
                nursery.start_soon(executor, executors, "payments", authorize)
                await home.push_until_decided()
                yield home
                await home.push_until_decided()
                await home.wait_rest()
                with trio.fail_after(20):
                    while any(health.troubles for health in healths):  # noqa: ASYNC110 - a read that waits is well at its end
                        await trio.sleep(0.02)
                stop.set()
        home.said += [line["why"] for line in lines if "why" in line]
        await home.assert_sound()
        home.client.close()


def documented(said: list[str], server: EmbeddedServer) -> set[str]:
    """The distinct sentences of *said*, each of which stands in the document."""
    text = DOCUMENT.read_text("utf-8")
    found: set[str] = set()
    for sentence in said:
        shown = sentence.replace(str(server.socket), "127.0.0.1:6379")
        shown = re.sub(r"within [0-9.]+ s", "within 30 s", shown)
        shown = shown.replace("(No such file or directory)", "(Connection refused)")
        shown = shown.removeprefix("nothing was committed: ")
        for doing in DOINGS:
            shown = shown.removeprefix(doing)
        assert shown in text, shown
        found.add(shown)
    return found


DOINGS = (
    "appending to demo: ", "committing to demo: ", "registering demo: ", "reading inputs: ",
    "reading outcomes: ", "reading payments: ", "claiming payments: ", "reading the books: ", "looking at demo: ",
    "reading the commit record of demo: ", "finishing payments of demo: ", "keeping payments of demo: ",
    "reading the facts of a stream: ", "making the group payments: ",
    "entering 127.0.0.1:6379: ", "asking 127.0.0.1:6379: ",
)  # fmt: skip
"""How sentences begin; what follows says what is wrong and what to do."""


# --- states, and how to bring a server into and out of them --------------------------------------


async def full(home: House) -> None:
    await home.admin("CONFIG", "SET", "maxmemory", "1mb")
    await home.push_for(0.2)
    await home.admin("CONFIG", "SET", "maxmemory", "0")


async def read_only(home: House) -> None:
    await home.admin("REPLICAOF", "127.0.0.1", "1")
    await home.push_for(0.2)
    await home.admin("REPLICAOF", "NO", "ONE")


async def stale_replica(home: House) -> None:
    await home.admin("CONFIG", "SET", "replica-serve-stale-data", "no")
    await home.admin("REPLICAOF", "127.0.0.1", "1")
    await home.push_for(0.2)
    await home.admin("REPLICAOF", "NO", "ONE")


async def no_replicas(home: House) -> None:
    await home.admin("CONFIG", "SET", "min-replicas-to-write", "1")
    await home.push_for(0.2)
    await home.admin("CONFIG", "SET", "min-replicas-to-write", "0")


async def disk_fails(home: House) -> None:
    """A snapshot of the server cannot be written, since a folder has its name."""
    (home.server.socket.parent / "dump.rdb" / "x").mkdir(parents=True)
    await home.admin("CONFIG", "SET", "save", "3600 1")
    await home.admin("BGSAVE")
    with trio.fail_after(10):
        while (await home.admin("INFO", "persistence"))["rdb_last_bgsave_status"] != "err":  # noqa: ASYNC110
            await trio.sleep(0.01)
    await home.push_for(0.2)
    await home.admin("CONFIG", "SET", "save", "")


async def password(home: House) -> None:
    await home.admin("CONFIG", "SET", "requirepass", "open-sesame")
    await home.admin("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await home.push_for(0.2)
    await home.admin("CONFIG", "SET", "requirepass", "")


async def no_rights(home: House) -> None:
    await home.admin("ACL", "SETUSER", "default", "-xadd")
    await home.push_for(0.2)
    await home.admin("ACL", "SETUSER", "default", "+xadd")


async def fewer_rights(home: House) -> None:
    """Commits would be half written, if the script did not ask before its first write."""
    await home.admin("ACL", "SETUSER", "default", "-hset", "-xack")
    await home.push_for(0.2)
    await home.admin("ACL", "SETUSER", "default", "+hset", "+xack")


async def too_many_clients(home: House) -> None:
    await home.admin("CONFIG", "SET", "maxclients", "1")
    await home.admin("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await home.push_until_told("too many clients")
    await home.admin("CONFIG", "SET", "maxclients", "1000")


async def busy(home: House) -> None:
    """Somebody runs a script that does not end."""
    await home.admin("CONFIG", "SET", "busy-reply-threshold", "20")

    async def spin() -> None:
        with (
            redis.Redis(unix_socket_path=str(home.server.socket)) as other,
            suppress(redis.ResponseError),
        ):
            await trio.to_thread.run_sync(other.eval, "while true do end", 0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spin)
        await home.push_for(0.3)
        await home.admin("SCRIPT", "KILL")


async def loading(home: House) -> None:
    """Two hundred keys of other people take five milliseconds each."""
    await home.admin("EVAL", "for i = 1, 200 do redis.call('SET', 'k' .. i, 'v') end", 0)
    await home.admin("CONFIG", "SET", "key-load-delay", "3000")

    async def reload() -> None:
        path = str(home.server.socket)
        with cast("Any", redis.Redis(unix_socket_path=path)) as other:
            await trio.to_thread.run_sync(other.execute_command, "DEBUG", "RELOAD")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload)
        await home.push_for(0.5)


async def slow(home: House) -> None:
    await home.admin("CLIENT", "PAUSE", 150, "ALL")
    await home.push_for(0.3)


async def silent(home: House) -> None:
    """It takes what it is sent, and says nothing for longer than we wait."""
    assert home.server.pid is not None
    os.kill(home.server.pid, signal.SIGSTOP)
    await home.push_for(0.8)
    os.kill(home.server.pid, signal.SIGCONT)


async def away(home: House) -> None:
    assert home.server.pid is not None
    await trio.sleep(1.1)  # it is a relaxed server: what it acknowledged is on disk after that
    os.kill(home.server.pid, signal.SIGKILL)
    with trio.fail_after(10):
        while home.server.running:  # noqa: ASYNC110 - a process sets no event
            await trio.sleep(0.001)
    await home.push_for(0.2)
    home.server.start()
    await home.server.wait_ready()


async def scripts_flushed(home: House) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.push_for, 0.3)
        for _ in range(20):
            await home.admin("SCRIPT", "FLUSH")
            await trio.sleep(0.01)


async def connections_cut(home: House) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.push_for, 0.3)
        for _ in range(20):
            await home.admin("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await trio.sleep(0.01)


STATES: dict[Callable[[House], Any], str] = {
    away: "start the server or check its address",
    silent: "did not answer within 30 s: see whether it is well",
    slow: "",
    loading: "the server is loading its data: try again soon",
    full: "the server's memory is full and it refuses writes",
    read_only: "this server is a read-only replica: connect to the primary",
    stale_replica: "the replica has lost its primary: bring the primary back",
    no_replicas: "too few replicas are there and the server refuses writes",
    disk_fails: "the server cannot write to its disk and refuses writes",
    password: "the server wants a password: put user and password into its URL",
    no_rights: "the server's ACL forbids this to our user: give it the rules of its role",
    fewer_rights: "the server's ACL forbids this to our user: give it the rules of its role",
    too_many_clients: "the server has too many clients: raise maxclients",
    busy: "the server is busy running a script: try again soon",
    scripts_flushed: "",
    connections_cut: "was lost: see whether the server runs",
}
"""Each state, and what is said in it; nothing where the server only takes longer."""


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_actors_outlive_a_server_that_is(
    server: EmbeddedServer, state: Callable[[House], Any]
) -> None:
    with trio.fail_after(60):
        async with house(server) as home:
            await state(home)
    found = documented(home.said, server)
    assert any(STATES[state] in sentence for sentence in found) or not STATES[state], found
