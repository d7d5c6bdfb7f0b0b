"""The sandbox provider as a real process, asked over real HTTP, killed with a real SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
import trio

from holdfast.actors.payment.http_provider import HttpProvider
from holdfast.actors.payment.journal import Journal, JournalError
from holdfast.actors.payment.ledger import Hold, Void
from holdfast.actors.payment.script import Fault, Rule, Script
from holdfast.actors.ports import ProviderAnswer, ProviderUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

_CHILD = """
import sys, msgspec, logging, structlog
from pathlib import Path
from holdfast.actors.payment.sandbox import serve
from holdfast.actors.payment.script import Script
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
serve(
    Path(sys.argv[1]),
    script=msgspec.json.decode(sys.argv[2], type=Script),
    ready=lambda url: print(url, flush=True),
)
"""

pytestmark = pytest.mark.slow  # a process starts


class Process:
    """A sandbox provider in a process of its own."""

    def __init__(self, data: Path, script: Script | None = None) -> None:
        text = msgspec.json.encode(script or Script()).decode()
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(data), text],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stdout is not None
        self.url = self.popen.stdout.readline().strip()

    def end(self, how: signal.Signals) -> tuple[int, str]:
        """Send *how* and wait; the exit code and what was logged."""
        self.popen.send_signal(how)
        _, errors = self.popen.communicate(timeout=20)
        return self.popen.returncode, errors


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def starter(script: Script | None = None) -> Process:
        process = Process(tmp_path / "provider", script)
        processes.append(process)
        assert process.url, process.end(signal.SIGKILL)
        return process

    yield starter
    for process in processes:
        if process.popen.poll() is None:
            process.end(signal.SIGKILL)


@pytest.fixture
async def provider(start: Callable[..., Process]) -> AsyncIterator[HttpProvider]:
    provider = HttpProvider(start().url)
    yield provider
    await provider.aclose()


async def set_script(url: str, script: Script) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.put(f"{url}/v1/sandbox/script", content=msgspec.json.encode(script))
        assert response.status_code == 200, response.text


async def totals(url: str) -> dict[str, dict[str, int]]:
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(f"{url}/v1/sandbox/totals")
    return msgspec.json.decode(response.content, type=dict[str, dict[str, int]])


# --- the port's contract, over HTTP -----------------------------------------------------------


async def test_a_payment_goes_through_its_life(provider: HttpProvider) -> None:
    hold = await provider.preauthorize("demo:p1", 5_000, "EUR", "K1", "demo:k1")
    assert hold == ProviderAnswer("authorized", "pay_00000001", amount_cents=5_000)
    assert (await provider.status("demo:p1")).status == "authorized"
    assert (await provider.capture("demo:p1", 5_000, "demo:k2")).status == "captured"
    assert (await provider.refund("demo:p1", 5_000, "demo:k3")).status == "refunded"
    assert (await provider.preauthorize("demo:p1", 5_000, "EUR", "K1", "demo:k1")) == hold


async def test_an_unknown_payment_is_none(provider: HttpProvider) -> None:
    assert await provider.status("demo:p1") == ProviderAnswer("none")
    assert await provider.void("demo:p1", "k") == ProviderAnswer("none")
    assert await provider.capture("demo:p1", 1, "k") == ProviderAnswer("none")
    assert await provider.refund("demo:p1", 1, "k") == ProviderAnswer("none")


async def test_a_call_that_comes_too_late_is_answered_with_what_the_payment_is(
    provider: HttpProvider,
) -> None:
    await provider.preauthorize("demo:p1", 5_000, "EUR", "K1", "k1")
    await provider.capture("demo:p1", 5_000, "k2")
    assert (await provider.void("demo:p1", "k3")).status == "captured"


async def test_a_call_refused_for_good_has_failed_and_the_payment_is_as_it_was(
    provider: HttpProvider,
) -> None:
    await provider.preauthorize("demo:p1", 5_000, "EUR", "K1", "k1")
    too_much = await provider.capture("demo:p1", 5_001, "k2")
    assert (too_much.status, too_much.reason) == ("failed", "amount_too_large")
    reused = await provider.void("demo:p1", "k1")
    assert (reused.status, reused.reason) == ("failed", "key_reused")
    other = await provider.preauthorize("demo:p1", 1, "EUR", "K1", "k3")
    assert (other.status, other.reason) == ("failed", "mismatch")
    malformed = await provider.preauthorize("demo:p2", -1, "EUR", "K1", "k4")
    assert (malformed.status, malformed.reason) == ("failed", "bad_body")
    assert (await provider.status("demo:p1")).status == "authorized"
    assert (await provider.status("demo:p2")).status == "none"


@pytest.mark.parametrize(
    "reference",
    ["a:b:c", "a/b", "a/capture", "../../x", "ü:ß€", "a?b=c&d#e", "a%2Fb", "a b+c", "x/void"],
)
async def test_a_reference_may_have_any_characters(provider: HttpProvider, reference: str) -> None:
    assert (await provider.status(reference)).status == "none"
    key = f"{reference}:k"
    assert (await provider.preauthorize(reference, 1, "EUR", "K", key)).status == "authorized"
    assert (await provider.void(reference, f"{key}2")).status == "voided"
    assert list(await provider.ledger(reference)) == [reference]


async def test_the_ledger_comes_whole_and_by_prefix(provider: HttpProvider) -> None:
    async def hold(number: int) -> None:
        name = f"{'even' if number % 2 == 0 else 'odd'}:{number}"
        await provider.preauthorize(name, 1, "EUR", "K", name)

    async with trio.open_nursery() as nursery:
        for number in range(2_500):  # more than a page
            nursery.start_soon(hold, number)
    assert len(await provider.ledger()) == 2_500
    even = await provider.ledger("even:")
    assert sorted(even) == sorted(f"even:{n}" for n in range(0, 2_500, 2))
    assert await provider.ledger("none:") == {}


async def test_many_equal_calls_at_once_have_one_effect(start: Callable[..., Process]) -> None:
    process = start()
    provider = HttpProvider(process.url)
    answers: list[ProviderAnswer] = []

    async def hold(number: int) -> None:
        key = f"k{number % 5}"
        answers.append(await provider.preauthorize("demo:p1", 700, "EUR", "K", key))

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(hold, number)
    await provider.aclose()
    assert answers == [ProviderAnswer("authorized", "pay_00000001", amount_cents=700)] * 100
    assert (await totals(process.url))["EUR"]["authorized"] == 700


# --- faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "effect"),
    [
        ("timeout_before", False),
        ("timeout_after", True),
        ("error_before", False),
        ("error_after", True),
        ("busy", False),
    ],
)
async def test_a_fault_says_nothing_of_the_effect(
    start: Callable[..., Process], fault: Fault, effect: bool
) -> None:
    process = start(Script(rules=(Rule(fault=fault, operation="hold", first=1),), wait_s=0.05))
    provider = HttpProvider(process.url)
    with pytest.raises(ProviderUnavailableError):
        await provider.preauthorize("demo:p1", 1, "EUR", "K", "k")
    assert (await provider.status("demo:p1")).status == ("authorized" if effect else "none")
    again = await provider.preauthorize("demo:p1", 1, "EUR", "K", "k")
    assert again.status == "authorized"
    assert (await totals(process.url))["EUR"]["authorized"] == 1
    await provider.aclose()


async def test_a_late_call_is_carried_out_after_its_caller_gave_up(
    start: Callable[..., Process],
) -> None:
    process = start(Script(rules=(Rule(fault="late", operation="hold"),), wait_s=0.3))
    provider = HttpProvider(process.url)
    with trio.move_on_after(0.1) as scope:
        await provider.preauthorize("demo:p1", 1, "EUR", "K", "k")
    assert scope.cancelled_caught
    assert (await provider.status("demo:p1")).status == "none"
    with trio.fail_after(10):
        while (await provider.status("demo:p1")).status == "none":  # noqa: ASYNC110 - it is remote
            await trio.sleep(0.02)
    await provider.aclose()


async def test_the_clients_own_timeout_is_unavailability(start: Callable[..., Process]) -> None:
    process = start(Script(rules=(Rule(fault="timeout_after"),), wait_s=60))
    provider = HttpProvider(process.url, timeout_s=0.1)
    with pytest.raises(ProviderUnavailableError, match="Timeout"):
        await provider.preauthorize("demo:p1", 1, "EUR", "K", "k")
    await provider.aclose()


async def test_a_call_waits_for_a_connection_no_longer_than_the_timeout(
    start: Callable[..., Process],
) -> None:
    process = start(Script(rules=(Rule(fault="timeout_after", customer_prefix="slow"),)))
    provider = HttpProvider(process.url, timeout_s=0.3, connections_max=1)
    problems: list[str] = []

    async def hold(customer: str) -> None:
        try:
            await provider.preauthorize(f"b:{customer}", 1, "EUR", customer, customer)
        except ProviderUnavailableError as error:
            problems.append(str(error))

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(hold, f"slow{number}")
    assert sorted(set(problems)) == ["ReadTimeout", "every connection is busy"]
    assert (await provider.preauthorize("b:x", 1, "EUR", "fast", "x")).status == "authorized"
    await provider.aclose()


async def test_declined_and_pending_holds(start: Callable[..., Process]) -> None:
    rules = (
        Rule(verdict="declined", customer_prefix="poor-", reason="insufficient_funds"),
        Rule(verdict="pending", customer_prefix="slow-"),
    )
    process = start()
    await set_script(process.url, Script(rules=rules, pending_reads=2))
    provider = HttpProvider(process.url)
    poor = await provider.preauthorize("b:1", 1, "EUR", "poor-K", "k1")
    assert poor == ProviderAnswer("declined", "pay_00000001", "insufficient_funds", 1)
    assert (await provider.status("b:1")).reason == "insufficient_funds"
    assert (await provider.void("b:1", "v")).status == "declined"
    slow = await provider.preauthorize("b:2", 1, "EUR", "slow-K", "k2")
    assert slow.status == "pending"
    assert (await provider.void("b:2", "v2")).status == "pending"
    seen = [(await provider.status("b:2")).status for _ in range(4)]
    assert seen == ["pending", "pending", "authorized", "authorized"]
    await provider.aclose()


# --- what a foreign client may send -----------------------------------------------------------


async def test_malformed_requests_are_refused_and_change_nothing(
    start: Callable[..., Process],
) -> None:
    url = start().url
    good = {"reference": "b:1", "amount_cents": 1, "currency": "EUR", "customer": "K"}
    key = {"idempotency-key": "k"}
    bodies: list[Any] = [
        b"",
        b"{",
        b"[]",
        b"\xff",
        json.dumps(good | {"extra": 1}).encode(),
        json.dumps(good | {"currency": "euro"}).encode(),
        json.dumps(good | {"amount_cents": 1.5}).encode(),
        json.dumps(good | {"amount_cents": "1"}).encode(),
        json.dumps(good | {"reference": ""}).encode(),
    ]
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for body in bodies:
            response = await client.post("/v1/holds", content=body, headers=key)
            assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_body")
        assert (await client.post("/v1/holds", json=good)).status_code == 400  # no key
        long = {"idempotency-key": "k" * 256}
        assert (await client.post("/v1/holds", json=good, headers=long)).status_code == 400
        huge = b" " * 1_100_000
        assert (await client.post("/v1/holds", content=huge, headers=key)).status_code == 413
        for query in ("after=x", "after=-1", "limit=0", "limit=999999"):
            assert (await client.get(f"/v1/ledger?{query}")).status_code == 400
        bad = await client.put("/v1/sandbox/script", json={"decline_rate": 3})
        assert bad.status_code == 400
        assert (await client.get("/v1/sandbox/script")).json() == {}
        assert (await client.get("/healthz")).json() == {"status": "ok", "payments": 0}


async def test_an_answer_that_proves_nothing_is_unavailability() -> None:
    """A wrong address, a proxy's page and a closed port never count as what the provider knows."""
    pages = [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nNot Found",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 409 Conflict\r\nContent-Length: 53\r\n\r\n"
        b'{"error":{"code":"idempotency_in_progress"}}         ',
        b"nonsense\r\n\r\n",
        b"",
    ]

    async def answer(page: bytes, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(page)

    for page in pages:
        async with trio.open_nursery() as nursery:
            listeners: list[trio.SocketListener] = await nursery.start(
                partial(trio.serve_tcp, partial(answer, page), 0, host="127.0.0.1")
            )
            port = listeners[0].socket.getsockname()[1]
            provider = HttpProvider(f"http://127.0.0.1:{port}")
            with pytest.raises(ProviderUnavailableError):
                await provider.status("b:1")
            with pytest.raises(ProviderUnavailableError):
                await provider.ledger()
            await provider.aclose()
            nursery.cancel_scope.cancel()

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    provider = HttpProvider(f"http://127.0.0.1:{port}")
    with pytest.raises(ProviderUnavailableError, match="ConnectError"):
        await provider.void("b:1", "k")
    await provider.aclose()


# --- the process ------------------------------------------------------------------------------


async def test_the_ledger_survives_sigkill(start: Callable[..., Process]) -> None:
    """Killed under load: everything that was answered is there, and nothing is there twice."""
    process = start()
    provider = HttpProvider(process.url, timeout_s=5)
    answered: list[str] = []
    enough = trio.Event()

    async def hold(number: int) -> None:
        name = f"b:{number}"
        try:
            answer = await provider.preauthorize(name, number, "EUR", "K", name)
            if number % 3 == 0:
                answer = await provider.void(name, f"{name}v")
        except ProviderUnavailableError:
            return
        answered.append(f"{name} {answer.status}")
        if len(answered) == 150:
            enough.set()

    async with trio.open_nursery() as nursery:
        for number in range(1_000):
            nursery.start_soon(hold, number)
        with trio.fail_after(30):
            await enough.wait()
        process.end(signal.SIGKILL)
    await provider.aclose()
    assert 150 <= len(answered) < 1_000

    process = start()
    provider = HttpProvider(process.url)
    ledger = await provider.ledger()
    for line in answered:
        name, _, status = line.partition(" ")
        assert ledger[name].status == status
    for number in range(0, 1_000, 3):  # the same calls again
        name = f"b:{number}"
        await provider.preauthorize(name, number, "EUR", "K", name)
        assert (await provider.void(name, f"{name}v")).status == "voided"
    money = (await totals(process.url))["EUR"]
    assert money["authorized"] == money["captured"] + money["voided"] + money["held"]
    assert money["voided"] == sum(range(0, 1_000, 3))
    await provider.aclose()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_it_stops_clean_and_at_once_though_calls_are_waiting(
    start: Callable[..., Process], how: signal.Signals
) -> None:
    process = start(Script(rules=(Rule(fault="timeout_before"),), wait_s=3_600))
    provider = HttpProvider(process.url, timeout_s=30)
    problems: list[str] = []

    async def hold() -> None:
        try:
            await provider.preauthorize("b:1", 1, "EUR", "K", "k")
        except ProviderUnavailableError as error:
            problems.append(str(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{process.url}/healthz")).status_code == 200
        began = time.monotonic()
        code, log = await trio.to_thread.run_sync(process.end, how)
    await provider.aclose()
    assert code == 0, log
    assert "sandbox_stopped" in log
    assert "Traceback" not in log
    assert time.monotonic() - began < 5
    assert len(problems) == 1


async def test_a_torn_last_line_is_dropped_with_a_warning(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    process = start()
    provider = HttpProvider(process.url)
    await provider.preauthorize("b:1", 1, "EUR", "K", "k1")
    await provider.aclose()
    process.end(signal.SIGKILL)
    journal = tmp_path / "provider" / "provider.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[: len(whole) // 2])

    process = start()
    provider = HttpProvider(process.url)
    assert list(await provider.ledger()) == ["b:1"]
    await provider.preauthorize("b:2", 1, "EUR", "K", "k2")
    await provider.aclose()
    _, log = process.end(signal.SIGTERM)
    assert "journal_torn_line_dropped" in log
    assert len(journal.read_text().splitlines()) == 2

    process = start()
    provider = HttpProvider(process.url)
    assert list(await provider.ledger()) == ["b:1", "b:2"]
    await provider.aclose()


# --- the journal ------------------------------------------------------------------------------


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "provider.jsonl"
    journal = Journal(path)
    with pytest.raises(JournalError, match="another sandbox provider"):
        Journal(path)
    journal.close()
    Journal(path).close()


def test_a_journal_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "provider.jsonl"
    path.write_text('{"call":"hold"}\n{"call":"void","reference":"b","key":"k"}\n')
    journal = Journal(path)
    with pytest.raises(JournalError, match="line 1"):
        journal.replay()
    journal.close()


def test_a_write_that_fails_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    """The file may grow by 10 bytes only: a real short write, then a real refusal."""
    path = tmp_path / "provider.jsonl"
    child = f"""
import resource, signal
from pathlib import Path
from holdfast.actors.payment.journal import Journal
from holdfast.actors.payment.ledger import Void
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path({str(path)!r})
journal = Journal(path)
journal.replay()
journal.append(Void("b:1", "k1"))
size = path.stat().st_size
for room in (10, 0):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, resource.RLIM_INFINITY))
    try:
        journal.append(Void("b:1", "k2"))
    except OSError:
        assert path.stat().st_size == size
    else:
        raise SystemExit("written?")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(Void("b:1", "k3"))
"""
    subprocess.run([sys.executable, "-c", child], check=True, env=dict(os.environ))
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert keys == ["k1", "k3"]


def test_a_journal_gives_its_ledger_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "provider.jsonl")
    ledger = journal.replay()
    for change in (Hold("b:1", "k1", 5, "EUR", "K"), Void("b:1", "k2")):
        journal.append(change)
        ledger.apply(change)
    again = journal.replay()
    assert list(again.payments()) == list(ledger.payments())
    assert again.totals() == ledger.totals()
    journal.close()
