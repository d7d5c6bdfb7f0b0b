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
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack, cast

import msgspec
import pytest
import redis
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import views, wire
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.notification.text import dedupe_key
from holdfast.actors.payment.ledger import Change, Ledger, Settle
from holdfast.actors.ports import LogUnavailableError, NewInput
from holdfast.bootstrap import OUTBOX_FOLDER, PROVIDER_FOLDER, open_log, open_provider
from holdfast.cli.checks import Checker
from holdfast.cli.crowd import script
from holdfast.cli.follow import catch_up, follow
from holdfast.cli.push import wait_outcome
from holdfast.cli.supervisor import PARTS, Supervisor
from holdfast.config.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.actors.ports import Log, OutcomeEntry

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

BOOK = "demo"
KILLS = 60
EVERY_S = 0.5
CUSTOMERS = 16
ANSWER_S_MAX = 60.0
"""Longest wait of a customer for an answer, kills or not."""

REST_S_MAX = 120.0
AGAIN_S = 0.02
"""Pause of somebody who finds the log away, before they ask again."""


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


async def patiently(call: Callable[[Unpack[_Args]], Awaitable[_T]], *args: *_Args) -> _T:
    """What *call* gives once the log is there."""
    while True:
        try:
            return await call(*args)
        except LogUnavailableError:
            await trio.sleep(AGAIN_S)


def practice() -> NewInput:
    """Three chairs, every day; a slot hold that is shorter than some outages are."""
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
                policies=m.Policies(hold_s=5, holds_per_customer_max=0, check_settle_s=2),
            )
        ),
        key="practice",
        by="service:test",
    )


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
                card = draw.choices("KDTBP", (76, 12, 4, 4, 4))[0]  # see the provider's script
                by = f"customer:{card}{number}-{draw.randrange(20)}"
                key = f"k{number}-{count}"
                outcome = await self._ask(log, _wish(draw, key, by), draw)
                if outcome.status == "accepted" and draw.random() < 0.3:
                    body = wire.encode_message(m.Cancel(booking=f"b{outcome.id}"))
                    await self._ask(log, NewInput("cancel", body, f"{key}c", by), draw)
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


def _wish(draw: random.Random, key: str, by: str) -> NewInput:
    """A time that others want too, or any time of a day."""
    date = (datetime.now(UTC) + timedelta(days=draw.randrange(3, 30))).date().isoformat()
    if draw.random() < 0.5:
        hour, half = draw.randrange(8, 18), draw.choice(("00", "30"))
        slot = m.RequestSlot("checkup", f"{date}T{hour:02d}:{half}")
        return NewInput("request_slot", wire.encode_message(slot), key, by)
    auto = m.RequestAuto("checkup", days=[date])
    return NewInput("request_auto", wire.encode_message(auto), key, by)


async def kill_often(service: Supervisor, draw: random.Random) -> dict[str, int]:
    """Kill a living part every half second; how often each was killed."""
    kills: dict[str, int] = dict.fromkeys(PARTS, 0)
    begun = trio.current_time()
    for number in range(KILLS):
        await trio.sleep_until(begun + number * EVERY_S)
        # One that is dead at the moment cannot be killed: then it is the next one's turn.
        kills[next(part for part in draw.sample(PARTS, len(PARTS)) if service.kill(part))] += 1
    return kills


async def wait_rest(log: Log) -> BookRunner:
    """Wait until all is decided, no payment waits for anything, and no action is left; the book."""
    with trio.fail_after(REST_S_MAX):
        runner = await patiently(follow, log, BOOK)
        while not await patiently(_rests, log, runner):
            await patiently(log.read_inputs, {BOOK: runner.position}, 1, 0.2)
    return runner


async def _rests(log: Log, runner: BookRunner) -> bool:
    await catch_up(log, BOOK, runner)
    if (await log.read_record(BOOK)).position != runner.position:
        return False
    groups = [await log.facts(BOOK, "payments"), await log.facts(BOOK, "notifications")]
    return not any(group.lag or group.pending for group in groups) and all(
        payment.at_rest for payment in views.payments(runner.state)
    )


# --- what must hold at the end --------------------------------------------------------------------


Entries = list[tuple[str, dict[str, str]]]


def read_streams(settings: Settings) -> dict[str, Entries]:
    """All entries of the book's streams, as a client that is not ours sees them."""
    assert settings.redis_url is not None
    names = ("inputs", "outcomes", "payments", "notifications", "deadletters")
    client = cast("Any", redis.Redis).from_url(settings.redis_url, decode_responses=True)
    try:
        return {name: client.xrange(f"holdfast:{{{BOOK}}}:{name}") for name in names}
    finally:
        client.close()


def assert_one_outcome_each(streams: dict[str, Entries], customers: Customers) -> None:
    """One for each input, under its id; one for each key; and it is the one that was told."""
    keys = {id_: fields.get("key", "") for id_, fields in streams["inputs"]}
    assert [id_ for id_, _ in streams["outcomes"]] == list(keys)
    assert customers.acknowledged.items() <= keys.items()
    of_key: dict[str, tuple[str, str]] = {}
    for id_, fields in streams["outcomes"]:
        outcome = (fields["status"], fields["body"])
        if keys[id_]:
            assert of_key.setdefault(keys[id_], outcome) == outcome, f"{keys[id_]} has two answers"
        told = customers.told.get(id_)
        if told is not None:
            assert (told.status, told.body.decode()) == outcome, f"{id_} was told otherwise"
    assert streams["deadletters"] == []


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


def assert_one_effect_each(streams: dict[str, Entries], data: Path) -> dict[str, int]:
    """Each action moved money once at most, and no money moved but for an action.

    The provider's journal has a line for every call that it carried out or refused, with the
    action's key. A preauthorization that the provider never heard of is asked for again, a new
    action under the same key; a release that is asked for again has a new key, and is refused where
    the old one came through after all. So what counts is what a line changed.
    """
    key_of: dict[str, str] = {}
    for _, fields in streams["payments"]:
        key = msgspec.json.decode(fields["body"], type=dict[str, Any]).get("key")
        if key is not None:  # looking at a payment's status has no effect and no key
            # A restore writes an action again, under its own old id.
            assert key_of.setdefault(fields["action"], f"{BOOK}:{key}") == f"{BOOK}:{key}"
    payments = Ledger()
    lines: Counter[str] = Counter()
    effects: Counter[str] = Counter()
    moved: Counter[tuple[str, str]] = Counter()
    for line in (data / PROVIDER_FOLDER / "provider.jsonl").read_bytes().splitlines():
        change = msgspec.json.decode(line, type=Change)
        before = payments.payment(change.reference)
        payments.apply(change)
        if not isinstance(change, Settle):  # which the provider does of itself
            lines[change.key] += 1
        if payments.payment(change.reference) != before:
            moved[type(change).__name__.lower(), change.reference] += 1
            if not isinstance(change, Settle):
                effects[change.key] += 1
    assert set(lines.values()) == set(effects.values()) == set(moved.values()) == {1}
    assert lines.keys() <= set(key_of.values())
    return dict(Counter(kind for kind, _ in moved))


def assert_one_message_each(streams: dict[str, Entries], data: Path) -> int:
    """Every notification was written, in a file for each dedupe key."""
    notified = [
        msgspec.json.decode(fields["body"], type=m.Notify) for _, fields in streams["notifications"]
    ]
    files = len(list((data / OUTBOX_FOLDER).glob("*/*.eml")))
    assert files == len({dedupe_key(BOOK, notify) for notify in notified})
    return files


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
        await log.append(BOOK, [practice()])
        customers = Customers(service.settings, seed)
        async with trio.open_nursery() as nursery:
            for number in range(CUSTOMERS):
                await nursery.start(customers.live, number)
            storm.kills = await kill_often(service, random.Random(seed))
            customers.leave.set()
            over = trio.current_time()
        runner = await wait_rest(log)
        storm.rest_s = round(trio.current_time() - over, 1)
        assert sys.platform != "linux" or len(children() - before) == len(PARTS)

        async with open_provider(service.settings) as provider:
            report = await Checker(log, provider, BOOK).run()
        assert report.holds, report.findings
        record = await log.read_record(BOOK)
        assert (report.position, report.digest) == (record.position, record.digest)
        streams = read_streams(service.settings)
        assert_one_outcome_each(streams, customers)
        await assert_actions_are_those_of_a_replay(log, streams)
        storm.effects = assert_one_effect_each(streams, data)
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
