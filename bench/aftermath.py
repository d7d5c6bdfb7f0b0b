"""What must hold of a book once a service that was killed, stopped or failed over is at rest.

It is said by comparing everything that was written, as a client that is not ours sees it, with a
replay from the first input, with what customers were told, and with the provider's journal: one
outcome for each input, each action once under its own id, each effect once at most. Tests and benches
that do harm to a running service ask these questions at their end.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, TypeVarTuple, Unpack, cast

import msgspec
import redis
import trio

from holdfast.actors.booking import views
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.payment.ledger import Change, Ledger, Settle
from holdfast.actors.ports import LogUnavailableError
from holdfast.bootstrap import PROVIDER_FOLDER, open_provider
from holdfast.cli.checks import Checker
from holdfast.cli.follow import catch_up, follow, order

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from holdfast.actors.booking.runner import Decided
    from holdfast.actors.ports import CommitRecord, InputEntry, Log, OutcomeEntry
    from holdfast.cli.checks import Report
    from holdfast.config.settings import Settings

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

Entries: TypeAlias = list[tuple[str, dict[str, str]]]
Streams: TypeAlias = dict[str, Entries]

REST_S_MAX: Final = 120.0
AGAIN_S: Final = 0.02
"""Pause of somebody who finds the log away, before they ask again."""

_NAMES: Final = ("inputs", "outcomes", "payments", "notifications", "deadletters")


async def patiently(call: Callable[[Unpack[_Args]], Awaitable[_T]], *args: *_Args) -> _T:
    """What *call* gives once the log is there."""
    while True:
        try:
            return await call(*args)
        except LogUnavailableError:
            await trio.sleep(AGAIN_S)


async def wait_rest(log: Log, book: str) -> BookRunner:
    """Wait until all is decided, no payment waits for anything, and no action is left; the book."""
    with trio.fail_after(REST_S_MAX):
        runner = await patiently(follow, log, book)
        while not await patiently(_rests, log, book, runner):
            await patiently(log.read_inputs, {book: runner.position}, 1, 0.2)
    return runner


async def _rests(log: Log, book: str, runner: BookRunner) -> bool:
    await catch_up(log, book, runner)
    if (await log.read_record(book)).position != runner.position:
        return False
    groups = [await log.facts(book, "payments"), await log.facts(book, "notifications")]
    return not any(group.lag or group.pending for group in groups) and all(
        payment.at_rest for payment in views.payments(runner.state)
    )


def read_streams(settings: Settings, book: str) -> Streams:
    """All entries of a book's streams, as a client that is not ours sees them."""
    assert settings.redis_url is not None
    connect = cast("Any", redis.Redis).from_url
    with connect(settings.redis_url, decode_responses=True) as client:
        # The keys are spelt out: their names are not to come from the code that is tested.
        return {name: client.xrange(f"holdfast:{{{book}}}:{name}") for name in _NAMES}


async def report_of(log: Log, settings: Settings, book: str) -> tuple[Report, CommitRecord]:
    """What ``holdfast check`` says, of the very book that the last commit left."""
    async with open_provider(settings) as provider:
        report = await Checker(log, provider, book).run()
    record = await log.read_record(book)
    assert (report.position, report.digest) == (record.position, record.digest)
    return report, record


def answers_gone(streams: Streams, told: Mapping[str, OutcomeEntry]) -> list[str]:
    """Make sure of one outcome for each input and each key, and that it is what was told.

    Returns:
      The ids of what was told and is not in the log.
    """
    keys = {id_: fields.get("key", "") for id_, fields in streams["inputs"]}
    outcomes = {id_: (fields["status"], fields["body"]) for id_, fields in streams["outcomes"]}
    ids = [id_ for id_, _ in streams["outcomes"]]
    assert ids == list(keys), "an input has no outcome, or two"
    assert all(order(before) < order(after) for before, after in pairwise(ids))
    of_key: dict[str, tuple[str, str]] = {}
    for id_, outcome in outcomes.items():
        if keys[id_]:
            assert of_key.setdefault(keys[id_], outcome) == outcome, f"{keys[id_]} has two answers"
        if id_ in told:
            heard = told[id_].status, told[id_].body.decode()
            assert heard == outcome, f"{id_} was told otherwise"
    assert streams["deadletters"] == []
    return [id_ for id_ in told if id_ not in outcomes]


async def assert_actions_are_those_of_a_replay(log: Log, book: str, streams: Streams) -> None:
    """What was written for the executors is what the inputs say, each entry once."""
    decided: list[tuple[str, str]] = []

    async def note(_entries: Sequence[InputEntry], batch: Decided) -> None:
        decided.extend((a.id, a.action) for a in (*batch.payments, *batch.notifications))

    await catch_up(log, book, BookRunner(book), on_batch=note)
    written = [
        (id_, fields["action"])
        for stream in ("payments", "notifications")
        for id_, fields in streams[stream]
    ]
    assert len({id_ for id_, _ in written}) == len(written), "an entry was written twice"
    assert sorted(written) == sorted(decided), "actions are not those of a replay"


def assert_one_effect_each(of_book: Mapping[str, Streams], data: Path) -> dict[str, int]:
    """Each action moved money once at most, and no money moved but for an action.

    The provider's journal has a line for every call that it carried out or refused, with the
    action's key. A preauthorization that the provider never heard of is asked for again, a new
    action under the same key; a release that is asked for again has a new key, and is refused where
    the old one came through after all. So what counts is what a line changed.

    Args:
      of_book: The streams of every book that has money at the provider.
      data: The service's data folder.

    Returns:
      How many effects there were of each kind.
    """
    keys = {f"{book}:{key}" for book, streams in of_book.items() for key in _keys(streams)}
    payments = Ledger()
    lines: Counter[str] = Counter()
    effects: Counter[str] = Counter()
    moved: Counter[tuple[str, str]] = Counter()
    for line in (data / PROVIDER_FOLDER / "provider.jsonl").read_bytes().splitlines():
        change = msgspec.json.decode(line, type=Change)
        before = payments.payment(change.reference)
        payments.apply(change)
        called = [] if isinstance(change, Settle) else [change.key]  # that one it does of itself
        lines.update(called)
        if payments.payment(change.reference) != before:
            effects.update(called)
            moved[type(change).__name__.lower(), change.reference] += 1
    assert set(lines.values()) == set(effects.values()) == set(moved.values()) == {1}
    assert lines.keys() <= keys, "money moved for no action"
    return dict(Counter(kind for kind, _ in moved))


def _keys(streams: Streams) -> set[str]:
    """The keys under which the provider was to be called."""
    of_action: dict[str, str] = {}
    for _, fields in streams["payments"]:
        key = msgspec.json.decode(fields["body"], type=dict[str, Any]).get("key")
        if key is not None:  # looking at a payment's status has no effect and no key
            # A restore writes an action again, under its own old id.
            assert of_action.setdefault(fields["action"], key) == key
    return set(of_action.values())


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
