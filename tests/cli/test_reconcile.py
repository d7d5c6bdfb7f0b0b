"""Money that no book wants is found, and released once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import trio

from holdfast.actors.payment.http_provider import HttpProvider
from holdfast.actors.ports import LogError, ProviderAnswer
from holdfast.cli.common import EXIT_FAILED, EXIT_GOOD, EXIT_USAGE
from holdfast.tools.errors import ToolError
from holdfast.tools.reconcile import Orphan, find_orphans, release
from holdfast.transport.operator import open_operator
from holdfast.transport.redis_log import open_redis_log

from .books import ask, make_book, requests

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from holdfast.tools.reconcile import Provider

    Holdfast = Callable[..., subprocess.CompletedProcess[str]]
    Service = Callable[..., AbstractContextManager[Any]]

pytestmark = pytest.mark.slow

LOST = "demo:p1700000000000-7-0123456789abcdef"
TAKEN = "demo:p1700000000000-8-0123456789abcdef"
FOREIGN = "other:p1700000000000-7-0123456789abcdef"
WAIT_S = 20


@pytest.fixture
def service(up: Service, holdfast: Holdfast, tmp_path: Path) -> Iterator[Any]:
    """A service with one booking that is paid for."""
    with up(tmp_path / "data") as running:
        body = '{"service":"checkup"}'
        push = ("push", "demo", "request_auto", "--key", "k", "--by", "customer:K1", "--wait")
        assert holdfast(*push, "--body", body, "--redis", running.redis).returncode == 0
        deadline = time.monotonic() + WAIT_S
        while not any(status == "authorized" for status in ledger(running.provider).values()):
            assert time.monotonic() < deadline
        yield running


def ledger(url: str) -> dict[str, str]:
    async def read() -> dict[str, str]:
        provider = HttpProvider(url)
        try:
            return {name: one.status for name, one in (await provider.ledger()).items()}
        finally:
            await provider.aclose()

    return trio.run(read)


def lose_requests(url: str) -> None:
    """What is left at the provider of requests that a failover took out of the log."""

    async def ask() -> None:
        provider = HttpProvider(url)
        try:
            for payment in (LOST, TAKEN, FOREIGN):
                await provider.preauthorize(payment, 7500, "EUR", "K9", f"key {payment}")
            await provider.capture(TAKEN, 7500, "key capture")
        finally:
            await provider.aclose()

    trio.run(ask)


def test_orphans_are_listed_then_released_and_nothing_else_is_touched(
    holdfast: Holdfast,
    service: Any,  # noqa: ANN401 - conftest's Up
    tmp_path: Path,
) -> None:
    args = ("reconcile", "demo", "--data", tmp_path / "data", "--json")
    clean = holdfast(*args)
    assert (clean.returncode, clean.stderr) == (EXIT_GOOD, "")
    assert msgspec.json.decode(clean.stdout)["orphans"] == []

    lose_requests(service.provider)
    before = ledger(service.provider)
    listed = holdfast(*args)
    assert listed.returncode == EXIT_FAILED
    told = msgspec.json.decode(listed.stdout)
    assert told["dry_run"]
    assert {one["payment"]: one["status"] for one in told["orphans"]} == {
        LOST: "authorized", TAKEN: "captured",
    }  # fmt: skip
    assert ledger(service.provider) == before

    assert holdfast("check", "demo", "--data", tmp_path / "data").returncode == EXIT_FAILED
    too_many = holdfast(*args, "--yes", "--wait", "0", "--most", "1")
    assert too_many.returncode == EXIT_FAILED
    assert "2 orphans are more than 1" in too_many.stderr
    assert ledger(service.provider) == before

    released = holdfast(*args, "--yes", "--wait", "0")
    assert released.returncode == EXIT_FAILED  # what was taken is left
    assert msgspec.json.decode(released.stdout)["released"] == 1
    assert ledger(service.provider) == before | {LOST: "voided"}

    refunded = holdfast(*args, "--yes", "--wait", "0", "--refund")
    assert refunded.returncode == EXIT_GOOD, refunded.stderr
    assert ledger(service.provider) == before | {LOST: "voided", TAKEN: "refunded"}
    assert holdfast(*args).returncode == EXIT_GOOD
    checked = holdfast("check", "demo", "--data", tmp_path / "data")
    assert checked.returncode == EXIT_GOOD, checked.stdout
    assert "2 that nobody asked for have no money any more" in checked.stdout


def test_a_booking_whose_cancellation_is_lost_learns_that_its_money_was_released(
    holdfast: Holdfast,
    service: Any,  # noqa: ANN401 - conftest's Up
    tmp_path: Path,
) -> None:
    """The provider did what the lost tail asked for; the book, which knows nothing of it, asks."""
    data = ("--data", tmp_path / "data", "--json")
    (payment,) = ledger(service.provider)

    async def undo() -> None:
        provider = HttpProvider(service.provider)
        try:
            await provider.void(payment, "key void")
        finally:
            await provider.aclose()

    trio.run(undo)
    assert holdfast("check", "demo", *data).returncode == EXIT_FAILED
    listed = holdfast("reconcile", "demo", *data)
    assert listed.returncode == EXIT_FAILED
    (one,) = msgspec.json.decode(listed.stdout)["differing"]
    assert (one["payment"], one["status"], one["in_book"], one["told"]) == (
        *(payment, "voided", "authorized", False),
    )
    said = holdfast("reconcile", "demo", *data[:2], "--yes", "--wait", "0")
    assert said.returncode == EXIT_GOOD, said.stderr
    assert f"{payment}  is authorized in {one['booking']} and voided there: the" in said.stdout
    deadline = time.monotonic() + WAIT_S
    while holdfast("reconcile", "demo", *data).returncode != EXIT_GOOD:
        assert time.monotonic() < deadline
    assert holdfast("check", "demo", *data).returncode == EXIT_GOOD


def test_a_book_without_its_inputs_is_not_taken_for_one_that_wants_no_money(
    server_url: str, new_book: Callable[[], str]
) -> None:
    """Found by the simulator (seed 60391 of ``upkeep`` then): all that it had on hold was released."""
    book = new_book()
    record = make_book(server_url, book, requests(3))
    inputs = f"holdfast:{{{book}}}:inputs"
    ask(server_url, "RENAME", inputs, f"{inputs}:gone")

    class Holds:
        async def ledger(self, prefix: str = "") -> dict[str, ProviderAnswer]:
            return {f"{prefix}p{record.position}-0": ProviderAnswer("authorized")}

    async def look() -> None:
        async with open_redis_log(server_url) as log, open_operator(server_url) as operator:
            await find_orphans(log, operator, cast("Provider", Holds()), book)

    def said() -> str:
        with pytest.raises((LogError, ToolError)) as caught:
            trio.run(look)
        return str(caught.value)

    assert "bring them back first" in said()
    ask(server_url, "XADD", inputs, "*", "type", "tick", "body", "{}")
    assert "begun anew" in said() or "bring them back first" in said()
    ask(server_url, "DEL", inputs)
    ask(server_url, "SET", inputs, "not ours")
    assert "bring them back first" in said() or "is no stream" in said()


def test_refunding_is_asked_for_with_yes(invoke: Callable[..., Any]) -> None:
    failed = invoke("reconcile", "demo", "--refund")
    assert failed.exit_code == EXIT_USAGE
    assert "give both" in failed.stderr


class Refusing:
    """A provider that refused once, and remembers that under the key; as providers do."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}

    async def ledger(self, prefix: str = "") -> dict[str, ProviderAnswer]:
        raise NotImplementedError(prefix)

    async def void(self, payment: str, key: str) -> ProviderAnswer:
        del payment
        status = self.answers.setdefault(key, "voided" if self.answers else "failed")
        return ProviderAnswer(status)

    async def refund(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        del amount_cents
        return await self.void(payment, key)


@pytest.mark.parametrize("status", ["authorized", "captured"])
async def test_what_was_refused_is_asked_for_under_another_key(status: str) -> None:
    provider = Refusing()
    orphan = Orphan(LOST, status, 7500, "r", "the log has no request of it")
    (done,) = await release(provider, [orphan], refund=True, attempt="1")
    assert (done.now, len(provider.answers)) == ("voided", 2)
