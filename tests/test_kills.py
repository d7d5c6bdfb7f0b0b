"""Real processes, real kills: the whole service under load while its booking actor is killed.

What must hold is said by comparing everything that was written with a replay from the first input:
one outcome per input, each action once under its own id, the provider's ledger equal to the book.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio
from aftermath import (
    REST_S_MAX,
    answers_gone,
    assert_actions_are_those_of_a_replay,
    read_streams,
    report_of,
    wait_rest,
)
from customers import any_wish, days_ahead, practice
from processes import start_actor, until

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.ports import GENESIS, NewInput
from holdfast.bootstrap import open_log
from holdfast.cli.follow import order
from holdfast.cli.supervisor import Supervisor
from holdfast.config.settings import Settings, load

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from holdfast.actors.ports import Log
    from holdfast.cli.children import Child
    from holdfast.cli.supervisor import Part

BOOK = "demo"
KILLS = 20


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
            new = any_wish(self._draw, date, f"k{self._number}", by)
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


async def wait_taken_over(log: Log, epoch: int) -> None:
    """Wait until somebody leads the book whose epoch is another."""

    async def is_taken_over() -> bool:
        return (await log.read_record(BOOK)).epoch != epoch

    await until("a takeover", is_taken_over)


async def assert_nothing_lost(log: Log, settings: Settings, pushed: list[str]) -> None:
    """What the service wrote is what a replay says, input by input and action by action."""
    report, _ = await report_of(log, settings, BOOK)
    assert report.holds, report.findings
    assert {finding.name for finding in report.findings} == {"invariants", "replay", "ledger"}
    streams = read_streams(settings, BOOK)
    assert not answers_gone(streams, {})
    assert set(pushed) <= {id_ for id_, _ in streams["inputs"]}
    await assert_actions_are_those_of_a_replay(log, BOOK, streams)


def actor(kind: Literal["booking", "payment"], settings: Settings, folder: Path) -> Child:
    """An actor, a process of its own; it begins when the one before is dead."""
    return start_actor(kind, settings, folder / f"{kind}.log", "--place", "here")


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
        await log.append(BOOK, [practice(m.Policies(holds_per_customer_max=0))])
        crowd = Crowd(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.push, log)
            for life in range(KILLS):
                epoch = (await log.read_record(BOOK)).epoch
                child = actor("booking", service.settings, tmp_path)
                try:
                    if life % 3:
                        await wait_taken_over(log, epoch)
                    await trio.sleep(draw.random() * 0.3)
                finally:
                    child.close()  # SIGKILL
            nursery.cancel_scope.cancel()
        epoch = (await log.read_record(BOOK)).epoch
        child = actor("booking", service.settings, tmp_path)
        try:
            await wait_taken_over(log, epoch)
            await wait_rest(log, BOOK)
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
    tmp_path: Path, contention: Literal["hold", "first_payment_wins"]
) -> None:
    """All have asked before the first payment is made, so all of them compete."""
    settings = load(None, {}, {"data": tmp_path})
    start = f"{days_ahead(7)}T10:00"
    parts: list[Part] = ["server", "provider", "booking", "notification"]
    async with (
        Supervisor(settings, parts=parts, to_files=True).running() as service,
        open_log(service.settings) as log,
    ):
        policies = m.Policies(contention=contention, holds_per_customer_max=0)
        await log.append(BOOK, [practice(policies, staff=1)])

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
            book = (await wait_rest(log, BOOK)).state
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
