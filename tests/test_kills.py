"""Real processes, real kills: the whole service under load while its booking actor is killed.

What must hold is said by comparing everything that was written with a replay from the first input:
one outcome per input, each action once under its own id, the provider's ledger equal to the book.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import redis
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import views, wire
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.ports import GENESIS, NewInput
from holdfast.bootstrap import open_log, open_provider
from holdfast.cli.checks import Checker
from holdfast.cli.children import Child
from holdfast.cli.follow import catch_up, follow, order
from holdfast.cli.supervisor import Supervisor
from holdfast.config.settings import Settings, load, to_environ

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from holdfast.actors.booking.runner import Decided
    from holdfast.actors.ports import InputEntry, Log
    from holdfast.cli.supervisor import Part

BOOK = "demo"
KILLS = 20
REST_S_MAX = 120.0


def practice(contention: str = "hold", staff: int = 3) -> NewInput:
    """A practice that is open every day."""
    hours: dict[str, list[m.TimeRange]] = {str(day): [("08:00", "18:00")] for day in range(7)}
    policies = msgspec.convert({"contention": contention, "holds_per_customer_max": 0}, m.Policies)
    definition = m.DefinePractice(
        name="Practice",
        zone="Europe/Berlin",
        currency="EUR",
        services=[m.Service("checkup", "Checkup", 30, 7_500)],
        staff=[m.Staff(f"s{number}", "Member") for number in range(staff)],
        hours=hours,
        policies=policies,
    )
    body = wire.encode_message(definition)
    return NewInput("define_practice", body, key="practice", by="service:test")


def days_ahead(count: int) -> str:
    """A date that far from now."""
    return (datetime.now(UTC) + timedelta(days=count)).date().isoformat()


class Crowd:
    """Customers that ask, ask again under the same key, and cancel."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._number = 0
        self.pushed: list[str] = []

    def next_inputs(self) -> list[NewInput]:
        """What arrives together."""
        inputs: list[NewInput] = []
        for _ in range(self._draw.randrange(1, 12)):
            self._number += 1
            by = f"customer:K{self._draw.randrange(200)}"
            date = days_ahead(self._draw.randrange(1, 30))
            if self._draw.random() < 0.5:
                hour, half = self._draw.randrange(8, 18), self._draw.choice(("00", "30"))
                request = m.RequestSlot("checkup", f"{date}T{hour:02d}:{half}")
                new = NewInput("request_slot", wire.encode_message(request), f"k{self._number}", by)
            else:
                auto = m.RequestAuto("checkup", days=[date])
                new = NewInput("request_auto", wire.encode_message(auto), f"k{self._number}", by)
            inputs.append(new)
            if self._draw.random() < 0.1:
                inputs.append(new)  # a retry
        return inputs

    async def push(self, log: Log) -> None:
        """Push until cancelled, as fast as the server takes it, a little at a time."""
        while True:
            self.pushed += await log.append(BOOK, self.next_inputs())
            await trio.sleep(self._draw.random() * 0.01)


async def wait_decided(log: Log) -> None:
    """Wait until everything that was pushed so far is decided."""
    last = (await log.facts(BOOK, "inputs")).last_id
    at = GENESIS
    with trio.fail_after(REST_S_MAX):
        while order(at) < order(last):
            found = await log.read_outcomes({BOOK: at}, 512, REST_S_MAX)
            at = found[BOOK][-1].id


async def wait_rest(log: Log) -> BookRunner:
    """Wait until every input is decided and no payment waits for anything; the book then."""
    with trio.fail_after(REST_S_MAX):
        runner = await follow(log, BOOK)
        while True:
            await catch_up(log, BOOK, runner)
            decided = (await log.read_record(BOOK)).position == runner.position
            if decided and all(payment.at_rest for payment in views.payments(runner.state)):
                return runner
            after = {BOOK: runner.position}
            await log.read_inputs(after, 1, 0.2)


def entries(settings: Settings, stream: str) -> list[tuple[str, dict[str, str]]]:
    """All entries of one of the book's streams, as a client that is not ours sees them."""
    assert settings.redis_url is not None
    client = cast("Any", redis.Redis).from_url(settings.redis_url, decode_responses=True)
    try:
        found = client.xrange(f"holdfast:{{{BOOK}}}:{stream}")
        return cast("list[tuple[str, dict[str, str]]]", found)
    finally:
        client.close()


async def assert_nothing_lost(log: Log, settings: Settings, pushed: list[str]) -> None:
    """What the service wrote is what a replay says, input by input and action by action."""
    async with open_provider(settings) as provider:
        report = await Checker(log, provider, BOOK).run()
    assert report.holds, report.findings
    assert {finding.name for finding in report.findings} == {"invariants", "replay", "ledger"}
    replayed = BookRunner(BOOK)
    actions: list[tuple[str, str]] = []

    async def note(_entries: Sequence[InputEntry], decided: Decided) -> None:
        both = (*decided.payments, *decided.notifications)
        actions.extend((action.id, action.action) for action in both)

    await catch_up(log, BOOK, replayed, on_batch=note)
    inputs = [id_ for id_, _ in entries(settings, "inputs")]
    assert [id_ for id_, _ in entries(settings, "outcomes")] == inputs
    assert set(pushed) <= set(inputs)
    written = [
        (id_, fields["action"])
        for stream in ("payments", "notifications")
        for id_, fields in entries(settings, stream)
    ]
    assert sorted(written) == sorted(actions)
    assert max(Counter(id_ for id_, _ in written).values()) == 1


def actor(kind: str, settings: Settings, folder: Path) -> Child:
    """An actor, a process of its own."""
    argv = [sys.executable, "-P", "-m", "holdfast", "actor", kind, "--ready-fd", "{ready_fd}"]
    argv += ["--place", "here"]  # each begins when the one before is dead
    return Child(kind, argv, to_environ(settings), folder / f"{kind}.log")


@pytest.mark.slow
async def test_twenty_kills_of_the_booking_actor_lose_nothing(tmp_path: Path) -> None:
    """Killed while it starts, replays, takes over, commits: two of three lives get as far as leading."""
    draw = random.Random(20)
    parts: list[Part] = ["server", "provider", "payment", "notification"]
    settings = load(None, {}, {"data": tmp_path})
    async with (
        Supervisor(settings, parts=parts, to_files=True).running() as service,
        open_log(service.settings) as log,
    ):
        await log.append(BOOK, [practice()])
        crowd = Crowd(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.push, log)
            for life in range(KILLS):
                child = actor("booking", service.settings, tmp_path)
                try:
                    if life % 3:
                        epoch = (await log.read_record(BOOK)).epoch
                        with trio.fail_after(REST_S_MAX):
                            while (  # noqa: ASYNC110 - nothing tells
                                await log.read_record(BOOK)
                            ).epoch == epoch:
                                await trio.sleep(0.01)
                    await trio.sleep(draw.random() * 0.3)
                finally:
                    child.close()  # SIGKILL
            nursery.cancel_scope.cancel()
        child = actor("booking", service.settings, tmp_path)
        try:
            await wait_rest(log)
            await assert_nothing_lost(log, service.settings, crowd.pushed)
            record = await log.read_record(BOOK)
        finally:
            assert await child.stop(30) == 0
            child.close()
    assert record.epoch > KILLS / 2
    assert len(crowd.pushed) > 500


@pytest.mark.slow
@pytest.mark.parametrize("contention", ["hold", "first_payment_wins"])
async def test_of_a_thousand_customers_for_one_slot_one_gets_it(
    tmp_path: Path, contention: str
) -> None:
    """All have asked before the first payment is made, so all of them compete."""
    settings = load(None, {}, {"data": tmp_path})
    start = f"{days_ahead(7)}T10:00"
    parts: list[Part] = ["server", "provider", "booking", "notification"]
    async with (
        Supervisor(settings, parts=parts, to_files=True).running() as service,
        open_log(service.settings) as log,
    ):
        await log.append(BOOK, [practice(contention, staff=1)])

        async def ask(first: int) -> None:
            """One of ten producers, each with a connection of its own."""
            async with open_log(service.settings) as own:
                body = wire.encode_message(m.RequestSlot("checkup", start))
                for number in range(first, first + 100):
                    by = f"customer:K{number}"
                    await own.append(BOOK, [NewInput("request_slot", body, f"k{number}", by)])

        async with trio.open_nursery() as nursery:
            for first in range(0, 1_000, 100):
                nursery.start_soon(ask, first)
        await wait_decided(log)
        payment = actor("payment", service.settings, tmp_path)
        try:
            book = (await wait_rest(log)).state
        finally:
            assert await payment.stop(30) == 0
            payment.close()
        statuses = Counter(booking.status for booking in book.bookings.values())
        observed = Counter(booking.payment.observed for booking in book.bookings.values())
        if contention == "hold":
            assert statuses == {"confirmed": 1}
            assert observed == {"authorized": 1}
        else:
            assert statuses == {"confirmed": 1, "slot_lost": 999}
            assert observed == {"authorized": 1, "voided": 999}
        await assert_nothing_lost(log, service.settings, [])


def test_the_booking_actor_as_a_program_says_what_it_needs() -> None:
    """A command of its own, run by hand without a server, tells so in one sentence."""
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "actor", "booking"],
        capture_output=True,
        text=True,
        check=False,
        env={},
    )
    assert done.returncode == 2
    assert "no server is named" in done.stderr
    assert "Traceback" not in done.stderr
