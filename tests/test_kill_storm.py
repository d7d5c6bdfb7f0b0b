"""A kill storm: the whole service under load while any of its processes is killed, again and again.

Every half second one of server, provider, booking, payment and notification gets SIGKILL, whatever
it is doing at that moment, starting included. Customers go on meanwhile: they send again under the
same key what was not acknowledged, read the answers, and cancel. Then the storm ends, and the service
must come to rest by itself with nothing lost, nothing done twice, and nothing left running.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from aftermath import (
    AGAIN_S,
    Streams,
    answers_gone,
    assert_actions_are_those_of_a_replay,
    assert_no_overlap,
    assert_one_effect_each,
    patiently,
    read_streams,
    report_of,
    wait_rest,
)
from customers import CANCELS, any_card, any_wish, cancel, days_ahead, practice

from holdfast.actors.booking import messages as m
from holdfast.actors.notification.text import dedupe_key
from holdfast.actors.ports import LogUnavailableError
from holdfast.bootstrap import OUTBOX_FOLDER, open_log
from holdfast.cli.crowd import script
from holdfast.cli.push import wait_outcome
from holdfast.cli.supervisor import PARTS, Supervisor
from holdfast.config.settings import Settings, load

if TYPE_CHECKING:
    from holdfast.actors.ports import Log, NewInput, OutcomeEntry

BOOK = "demo"
KILLS = 60
EVERY_S = 0.5
CUSTOMERS = 16
ANSWER_S_MAX = 60.0
"""Longest wait of a customer for an answer, kills or not."""

POLICIES = m.Policies(hold_s=5, holds_per_customer_max=0, check_settle_s=2)
"""A slot hold is shorter than some outages are."""


class Storm(msgspec.Struct):
    """What happened, for whoever wants to know."""

    seed: int
    kills: dict[str, int] = {}
    restarts: dict[str, int] = {}
    inputs: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    bookings: dict[str, int] = {}
    sent_again: int = 0
    effects: dict[str, int] = {}
    messages: int = 0
    epoch: int = 0
    rest_s: float = 0.0


class Customers:
    """Those who ask, ask again, and cancel; what they were told is written down.

    Attributes:
      acknowledged: The key of each input whose id the server gave back.
      told: The outcome of each input that was waited for.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self.leave = trio.Event()
        self.acknowledged: dict[str, str] = {}
        self.told: dict[str, OutcomeEntry] = {}
        self.sent_again = 0

    async def live(
        self, number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """One household, on a connection of its own, until all shall leave."""
        draw = random.Random(f"{self._seed} {number}")
        count = 0
        async with open_log(self._settings) as log:
            task_status.started()
            while not self.leave.is_set():
                count += 1
                card, key = any_card(draw), f"k{number}-{count}"
                by = f"customer:{card}{number}-{draw.randrange(20)}"
                wish = any_wish(draw, days_ahead(draw.randrange(3, 30)), key, by)
                outcome = await self._ask(log, wish, draw)
                if outcome.status == "accepted" and draw.random() < CANCELS:
                    await self._ask(log, cancel(outcome.id, key, by), draw)
                await trio.sleep(draw.random() * 0.3)

    async def _ask(self, log: Log, new: NewInput, draw: random.Random) -> OutcomeEntry:
        """The answer to *new*, which is sent until it is acknowledged, and now and then once more."""
        with trio.fail_after(ANSWER_S_MAX):
            entry_id = await self._send(log, new)
            if draw.random() < 0.1:
                entry_id = await self._send(log, new)
            outcome = await patiently(wait_outcome, log, BOOK, entry_id, ANSWER_S_MAX)
        assert outcome is not None, f"{entry_id} was acknowledged and has no outcome"
        self.told[entry_id] = outcome
        return outcome

    async def _send(self, log: Log, new: NewInput) -> str:
        while True:
            try:
                [entry_id] = await log.append(BOOK, [new])
            except LogUnavailableError:
                self.sent_again += 1
                await trio.sleep(AGAIN_S)
            else:
                self.acknowledged[entry_id] = new.key
                return entry_id


async def kill_often(service: Supervisor, draw: random.Random) -> dict[str, int]:
    """Kill a living part every half second; how often each was killed."""
    kills: dict[str, int] = dict.fromkeys(PARTS, 0)
    begun = trio.current_time()
    for number in range(KILLS):
        await trio.sleep_until(begun + number * EVERY_S)
        # One that is dead at the moment cannot be killed: then it is the next one's turn.
        kills[next(part for part in draw.sample(PARTS, len(PARTS)) if service.kill(part))] += 1
    return kills


# --- what must hold at the end --------------------------------------------------------------------


def assert_one_message_each(streams: Streams, data: Path) -> int:
    """Every notification was written, in a file for each dedupe key."""
    notified = [
        msgspec.json.decode(fields["body"], type=m.Notify) for _, fields in streams["notifications"]
    ]
    files = len(list((data / OUTBOX_FOLDER).glob("*/*.eml")))
    assert files == len({dedupe_key(BOOK, notify) for notify in notified})
    return files


def children() -> set[int]:
    """Our child processes, as the kernel knows them; none where it does not tell."""
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


# --- the storm ------------------------------------------------------------------------------------


async def run_storm(seed: int, data: Path) -> Storm:
    """A storm on a service in the new folder *data*, and the questions at its end."""
    storm = Storm(seed)
    settings = load(
        None,
        {},
        {
            "data": data,
            # Shorter than the storm, so that all of it happens in the storm too.
            "payment.claim_idle_s": 3,
            "notification.claim_idle_s": 3,
            "booking.snapshot_s": 5,
        },
    )
    behaviour = data / "script.json"
    behaviour.write_bytes(msgspec.json.encode(script(seed)))
    before = children()
    async with (
        Supervisor(settings, to_files=True, script=behaviour).running() as service,
        open_log(service.settings) as log,
    ):
        await log.append(BOOK, [practice(POLICIES)])
        customers = Customers(service.settings, seed)
        async with trio.open_nursery() as nursery:
            for number in range(CUSTOMERS):
                await nursery.start(customers.live, number)
            storm.kills = await kill_often(service, random.Random(seed))
            customers.leave.set()
            over = trio.current_time()
        runner = await wait_rest(log, BOOK)
        storm.rest_s = round(trio.current_time() - over, 1)
        assert sys.platform != "linux" or len(children() - before) == len(PARTS)

        report, record = await report_of(log, service.settings, BOOK)
        assert report.holds, report.findings
        streams = read_streams(service.settings, BOOK)
        assert not answers_gone(streams, customers.told)
        keys = {id_: fields.get("key", "") for id_, fields in streams["inputs"]}
        assert customers.acknowledged.items() <= keys.items()
        await assert_actions_are_those_of_a_replay(log, BOOK, streams)
        storm.effects = assert_one_effect_each({BOOK: streams}, data)
        storm.messages = assert_one_message_each(streams, data)
        assert_no_overlap(runner)

        storm.restarts = dict(service.restarts)
        storm.inputs = Counter(fields["type"] for _, fields in streams["inputs"])
        storm.outcomes = Counter(fields["status"] for _, fields in streams["outcomes"])
        storm.bookings = Counter(booking.status for booking in runner.state.bookings.values())
        storm.sent_again = customers.sent_again
        storm.epoch = record.epoch
    assert children() <= before
    return storm


@pytest.mark.slow
async def test_sixty_kills_of_whatever_runs_lose_nothing_and_do_nothing_twice(
    tmp_path: Path,
) -> None:
    """What happened in numbers is left in ``storm.json``, beside the service's logs."""
    storm = await run_storm(seed=60, data=tmp_path)
    (tmp_path / "storm.json").write_bytes(msgspec.json.format(msgspec.json.encode(storm)))
    assert sum(storm.kills.values()) == KILLS
    assert min(storm.kills.values()) > 0
    # What dies is started again; what is killed while it starts is counted when it has started.
    assert all(0 < storm.restarts[part] <= kills for part, kills in storm.kills.items())
    assert storm.sent_again > 0
    assert storm.outcomes["accepted"] > 500
    assert storm.outcomes["refused"] > 0
