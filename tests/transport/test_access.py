"""Every role with the rules that we ship, on a real server: what it needs, and nothing that it must not.

The processes are real ones, each with its role's own password, which then must stand nowhere.
"""

from __future__ import annotations

import random
import secrets
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import msgspec
import pytest
import redis
import trio
from processes import start_actor
from redis.exceptions import AuthenticationError, NoPermissionError

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.ports import (
    ActionEntry,
    ActionStream,
    Commit,
    DeadLetter,
    LogUnavailableError,
    NewInput,
    OutcomeEntry,
    Snapshot,
)
from holdfast.config.settings import load
from holdfast.transport import redis_actions
from holdfast.transport.keys import BookKeys, action_stream_id
from holdfast.transport.operator import open_operator
from holdfast.transport.pool import ServerOptions
from holdfast.transport.redis_log import open_redis_log
from holdfast.transport.server import EmbeddedServer, ServerConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.cli.children import Child

pytestmark = pytest.mark.slow

BOOK = "demo"
KEYS = BookKeys(BOOK)
RULES = Path(__file__).parents[2] / "config" / "users.acl"
ROLES = ("producer", "booking", "payment", "notification", "follower", "gateway", "operator")


class Guarded:
    """A server with the rules that we ship, and a password for each role."""

    def __init__(self, server: EmbeddedServer, passwords: dict[str, str]) -> None:
        self.server = server
        self.passwords = passwords

    def url(self, role: str) -> str:
        return f"unix://{role}:{self.passwords[role]}@{self.server.socket}"

    def client(self, role: str) -> Any:  # noqa: ANN401 - redis-py's types are unions
        path = str(self.server.socket)
        return cast(
            "Any",
            redis.Redis(unix_socket_path=path, username=role, password=self.passwords[role]),
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """As the page on access says: a password's hash at the end of its user's line."""
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "users.acl"
    file.touch()
    server = EmbeddedServer(ServerConfig(folder / "data", more=("aclfile", str(file))))
    server.start()
    anyio.run(server.wait_ready, backend="trio")
    passwords = {role: secrets.token_hex(16) for role in ROLES}
    lines: list[str] = []
    for line in RULES.read_text("ascii").splitlines():
        name = line.split()[1]
        secret = passwords.get(name)
        lines.append(f"{line} #{sha256(secret.encode()).hexdigest()}" if secret else line)
    file.write_text("\n".join(lines) + "\n")
    with cast("Any", redis.Redis(unix_socket_path=str(server.socket))) as admin:
        admin.execute_command("ACL", "LOAD")
    yield Guarded(server, passwords)
    server.stop_now()


def practice() -> NewInput:
    hours: dict[str, list[m.TimeRange]] = {str(day): [("08:00", "18:00")] for day in range(7)}
    definition = m.DefinePractice(
        name="Practice",
        zone="Europe/Berlin",
        currency="EUR",
        services=[m.Service("checkup", "Checkup", 30, 7_500)],
        staff=[m.Staff("s1", "First")],
        hours=hours,
    )
    return NewInput("define_practice", wire.encode_message(definition), "p", "service:test")


async def test_a_whole_booking_with_each_actor_in_its_own_role(
    guarded: Guarded, tmp_path: Path
) -> None:
    base = load(None, {}, {"data": tmp_path})  # durable: the booking actor looks whether it is so
    children: list[Child] = []
    try:
        provider = start_actor("provider", base, tmp_path / "provider.log")
        children.append(provider)
        url = str((await provider.wait_ready())["url"])
        paid = msgspec.structs.replace(
            base, provider=msgspec.structs.replace(base.provider, url=url)
        )
        for role in ("booking", "payment", "notification"):
            settings = msgspec.structs.replace(paid, redis_url=guarded.url(role))
            children.append(start_actor(role, settings, tmp_path / f"{role}.log"))
            await children[-1].wait_ready()
        async with open_redis_log(guarded.url("operator")) as operator:
            await operator.append(BOOK, [practice()])
        async with open_redis_log(guarded.url("producer")) as producer:
            body = wire.encode_message(m.RequestAuto("checkup", days=[1, 2, 3, 4, 5]))
            asked = NewInput("request_auto", body, "k1", "customer:K1")
            (mine,) = await producer.append(BOOK, [asked])
            with trio.fail_after(20):
                outcomes = {}
                while mine not in outcomes:
                    found = await producer.read_outcomes({BOOK: "0-0"}, 500, 1.0)
                    outcomes = {outcome.id: outcome for outcome in found.get(BOOK, [])}
            assert outcomes[mine].status == "accepted"
        async with open_redis_log(guarded.url("follower"), rng=random.Random(1)) as follower:
            with trio.fail_after(20):
                while True:
                    inputs = (await follower.read_inputs({BOOK: "0-0"}, 500, 0))[BOOK]
                    facts = [await follower.facts(BOOK, s) for s in ("payments", "notifications")]
                    done = all(f.added and not f.pending and not f.lag for f in facts)
                    if done and {"payment_result", "delivery_report"} <= {e.type for e in inputs}:
                        break
                    await trio.sleep(0.02)
        for process in children:
            assert secrets_in(command_line(process.pid), guarded) == []
            assert await process.stop(20) == 0
    finally:
        for process in children:
            process.close()
    written = files_of(tmp_path) | files_of(guarded.server.socket.parent)
    assert [name for name in written if "/outbox/" in name], "a message was written"
    for name, data in written.items():
        assert secrets_in(data, guarded) == [], name
        assert b"ACL forbids" not in data, name


def command_line(pid: int) -> bytes:
    """What everybody on the machine can see of a process."""
    file = Path(f"/proc/{pid}/cmdline")
    return file.read_bytes() if file.exists() else b""


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def secrets_in(data: bytes, guarded: Guarded) -> list[str]:
    """Whose passwords stand in *data*."""
    return [role for role, secret in guarded.passwords.items() if secret.encode() in data]


async def test_every_call_of_the_log_is_allowed_to_the_role_that_makes_it(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = "calls"
    monkeypatch.setattr(redis_actions, "FORGET_S", 0)
    deciding = ServerOptions(disk="durable", ahead_max_s=60.0)
    async with open_redis_log(guarded.url("booking"), options=deciding) as log:
        await log.take_over(book, "me")
        after = "0-0"
        for _ in range(4):
            await log.append(book, [NewInput("tick", b"{}")])
            ids = [e.id for e in (await log.read_inputs({book: after}, 99, 0))[book]]
            outcomes = [OutcomeEntry(id_, "accepted", b"{}") for id_ in ids]
            entry_id = action_stream_id(ids[-1], 0)
            action = ActionEntry(entry_id, "a", "void", b"{}")
            letter = DeadLetter("inputs", ids[-1], "why", ())
            actions = ([action], [action], [letter])
            commit = Commit(book, 1, "me", after, ids[-1], 1, "d", outcomes, *actions)
            assert await log.commit([commit]) == [None]
            assert await log.resolve([commit]) == [True]
            after = ids[-1]
            await log.save_snapshot(book, Snapshot(after, 1, "d", b"state"), 1, "me")
        assert await log.read_snapshot(book) == Snapshot(after, 1, "d", b"state")
        assert (await log.trim(book))["inputs"] > 0
        assert book in await log.wait_books(0, 0)
        assert await log.lost_tails(book) == []
        await log.hold_lease("me", "here", 60.0)
        assert await log.read_leases(["me"]) == {"me": "here"}
        await log.drop_lease("me")
    streams: tuple[ActionStream, ...] = ("payments", "notifications")
    for stream, role in zip(streams, ("payment", "notification"), strict=True):
        async with open_redis_log(guarded.url(role)) as log:
            assert book in await log.wait_books(0, 0)
            found = await log.read_actions(stream, [book], "one", 2, 0)
            left = [entry.id for _, entry in found]
            await log.keep_claim(stream, book, "one", left)
            assert len(await log.claim_actions(stream, [book], "two", 9, 0)) == len(left) == 2
            result = NewInput("tick", b"{}", by="service:test")
            letters = [DeadLetter(stream, left[1], "why", ())]
            await log.finish_actions(stream, book, [(left[0], result), (left[1], None)], letters)
        async with open_redis_log(guarded.url(role)) as log:  # who begins forgets the dead
            await log.claim_actions(stream, [book], "three", 9, 60)
        with guarded.client("operator") as client:
            names = [
                c["name"] for c in client.xinfo_consumers(BookKeys(book).stream(stream), stream)
            ]
            assert names == [b"three"]
    for role in ("follower", "gateway"):
        async with open_redis_log(guarded.url(role)) as log:
            assert (await log.read_record(book)).position == after
            assert await log.read_snapshot(book) is not None
            assert (await log.facts(book, "payments")).pending == 0
            assert await log.read_leases(["me"]) == {}
            assert await log.wait_books(0, 0)
            async with open_operator(guarded.url(role)) as looking:
                assert await looking.lease_left_s("me") == 0.0
            if role == "gateway":
                (mine,) = await log.append(book, [NewInput("tick", b"{}")])
                assert (await log.read_inputs({book: after}, 99, 0))[book][-1].id == mine
                assert after in [
                    o.id for o in (await log.read_outcomes({book: "0-0"}, 99, 0))[book]
                ]


FORBIDDEN: dict[str, tuple[tuple[str, ...], ...]] = {
    "producer": (
        ("EVAL", "return 1", "0"),
        ("SCRIPT", "LOAD", "return 1"),
        ("EVALSHA", "0" * 40, "0"),
        ("XREAD", "STREAMS", KEYS.inputs, "0"),
        ("XADD", KEYS.outcomes, "*", "a", "b"),
        ("XADD", KEYS.payments, "*", "a", "b"),
        ("XTRIM", KEYS.inputs, "MAXLEN", "0"),
        ("DEL", KEYS.inputs),
        ("HGETALL", KEYS.commit),
    ),
    "booking": (
        ("EVAL", "return 1", "0"),
        ("DEL", KEYS.inputs),
        ("SET", KEYS.commit, "x"),
        ("GET", "somebody:else"),
        ("SET", KEYS.inputs, "x"),
        ("CONFIG", "SET", "appendfsync", "no"),
        ("XREADGROUP", "GROUP", "payments", "c", "STREAMS", KEYS.payments, ">"),
    ),
    "payment": (
        ("XREADGROUP", "GROUP", "notifications", "c", "STREAMS", KEYS.notifications, ">"),
        ("XADD", KEYS.payments, "*", "a", "b"),
        ("XREAD", "STREAMS", KEYS.inputs, "0"),
        ("XREAD", "STREAMS", KEYS.outcomes, "0"),
        ("HSET", KEYS.commit, "epoch", "9"),
        ("XTRIM", KEYS.payments, "MAXLEN", "0"),
        ("CONFIG", "GET", "*"),
    ),
    "notification": (
        ("XREADGROUP", "GROUP", "payments", "c", "STREAMS", KEYS.payments, ">"),
        ("XADD", KEYS.notifications, "*", "a", "b"),
        ("XREAD", "STREAMS", KEYS.inputs, "0"),
        ("HSET", KEYS.commit, "epoch", "9"),
        ("CONFIG", "GET", "*"),
    ),
    "follower": (
        ("XADD", KEYS.inputs, "*", "a", "b"),
        ("HSET", KEYS.commit, "epoch", "9"),
        ("EVALSHA", "0" * 40, "0"),
        ("XTRIM", KEYS.inputs, "MAXLEN", "0"),
        ("XGROUP", "CREATE", KEYS.inputs, "g", "0"),
        ("GET", "somebody:else"),
        ("SET", "holdfast:lease:me", "x"),
    ),
    "gateway": (
        ("EVAL", "return 1", "0"),
        ("SCRIPT", "LOAD", "return 1"),
        ("EVALSHA", "0" * 40, "0"),
        ("XADD", KEYS.outcomes, "*", "a", "b"),
        ("XADD", KEYS.payments, "*", "a", "b"),
        ("XADD", "holdfast:books", "*", "a", "b"),
        ("HSET", KEYS.commit, "epoch", "9"),
        ("XTRIM", KEYS.inputs, "MAXLEN", "0"),
        ("DEL", KEYS.inputs),
        ("GET", "somebody:else"),
        ("CONFIG", "GET", "*"),
    ),
    "operator": (
        ("FLUSHALL",),
        ("SHUTDOWN",),
        ("CONFIG", "SET", "appendfsync", "no"),
        ("ACL", "LIST"),
        ("KEYS", "*"),
        ("GET", "somebody:else"),
    ),
}
"""What a role must not do."""


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_refused_what_it_must_not_do(guarded: Guarded, role: str) -> None:
    with guarded.client(role) as client:
        assert client.ping()
        for command in FORBIDDEN[role]:
            with pytest.raises(NoPermissionError):
                client.execute_command(*command)


def test_nobody_gets_in_without_a_password(guarded: Guarded) -> None:
    path = str(guarded.server.socket)
    with (
        cast("Any", redis.Redis(unix_socket_path=path)) as client,
        pytest.raises(AuthenticationError),
    ):
        client.ping()
    for line in RULES.read_text("ascii").splitlines():
        assert "nopass" not in line
        assert ">" not in line


async def test_a_wrong_password_is_told_without_it(guarded: Guarded) -> None:
    secret = secrets.token_hex(8)
    with pytest.raises(LogUnavailableError, match="does not accept the user") as caught:
        async with open_redis_log(f"unix://booking:{secret}@{guarded.server.socket}"):
            raise AssertionError("not reached")
    assert secret not in repr(caught.value)
    assert secret not in str(caught.getrepr())
