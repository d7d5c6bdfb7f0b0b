"""What can be said of a run's whole history, when everything has been stopped.

Effects are counted at the provider and the mailer, acknowledged inputs are looked for in the log, and
every book is decided anew, from its beginning and from its snapshots.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.actors.booking import messages as m
from holdfast.actors.booking.runner import BookBugError, BookRunner
from holdfast.actors.ports import GENESIS
from holdfast.transport.keys import format_id, parse_id

if TYPE_CHECKING:
    from holdfast.actors.ports import Snapshot
    from holdfast.sim.checks import Checks
    from holdfast.sim.crowd import Crowd

REPEATS_MAX: Final = 64
SNAPSHOT_REPLAYS_MAX: Final = 4


def at_end(checks: Checks, crowd: Crowd) -> None:
    """What can be said of the whole history."""
    if checks.provider.waited_out:
        checks.fail("S16 bounds", "somebody waited for the provider until it gave up")
    _check_calls(checks)
    _check_mail(checks)
    checks.promises.check_written()
    for book in checks.shadows:
        _check_inputs(checks, book, crowd)
        _check_order(checks, book, crowd)
        _check_poison(checks, book)
        calls = len(checks.provider.calls), len(checks.mailer.arrivals)
        _check_replay(checks, book)
        if calls != (len(checks.provider.calls), len(checks.mailer.arrivals)):
            checks.fail("S15 no live effect", f"replaying {book} called somebody")


def _check_calls(checks: Checks) -> None:
    effects: dict[tuple[str, str], int] = {}
    for call in checks.provider.calls:
        book = call.payment.partition(":")[0]
        known = checks.shadows[book].provider_keys.get(call.key)
        if known is None or known > call.order:
            checks.fail("S9 actions", f"{call.kind} {call.key} was called before its commit")
        if call.first and not call.refused:
            what = (call.kind, call.payment)
            effects[what] = effects.get(what, 0) + 1
            if effects[what] > 1:
                checks.fail("S6 one effect", f"{call.kind} of {call.payment} happened twice")


def _check_mail(checks: Checks) -> None:
    counts: dict[str, int] = {}
    for arrival in checks.mailer.arrivals:
        key = arrival.message.key
        known = checks.shadows[arrival.message.book].mail_keys.get(key)
        if known is None or known > arrival.order:
            checks.fail("S13 messages", f"{key} was told before it was committed")
        counts[key] = counts.get(key, 0) + 1
        if counts[key] > REPEATS_MAX:
            checks.fail("S16 bounds", f"{key} was delivered more than {REPEATS_MAX} times")
    for book, shadow in checks.shadows.items():
        if checks.messages_lost:
            continue
        reports = _reports(checks, book)
        for key, action in shadow.mail_actions.items():
            if key in checks.excused:
                continue
            if key not in counts and reports.get(action) != "failed":
                checks.fail("S13 messages", f"{key} was never delivered, nor reported as failed")
            if action not in reports and not checks.failover:
                checks.fail("S13 messages", f"nobody reported what became of {key}")


def _reports(checks: Checks, book: str) -> dict[str, str]:
    """What was reported of notifications, by their actions' ids."""
    decoder = msgspec.json.Decoder(m.DeliveryReport)
    reports = [
        decoder.decode(entry.body)
        for entry in checks.server.of(book).inputs
        if entry.type == "delivery_report" and not entry.problem
    ]
    return {report.action: report.status for report in reports}


def _check_inputs(checks: Checks, book: str, crowd: Crowd) -> None:
    inputs, outcomes = checks.server.whole_inputs(book), checks.server.whole_outcomes(book)
    position = parse_id(checks.server.book(book).record.position)
    decided = [id_ for id_ in inputs.ids if id_ <= position]
    if decided != outcomes.ids:
        checks.fail("S7 one outcome", f"{book}: inputs and outcomes differ")
    names = [(entry.by, entry.type, entry.key) for entry in inputs.entries if entry.key]
    if len(names) > len(dict.fromkeys(names)):
        checks.marks.hit("append_twice")
    if checks.failover:
        return
    epochs = checks.server.of(book).epochs
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        checks.fail("S8 store", f"{book}: takeovers gave out the epochs {epochs}")
    if len(checks.server.of(book).inputs) != len(inputs.ids):
        checks.fail("S7 one outcome", f"{book}: an input was lost")
    for known in crowd.acknowledged:
        if known.book == book and inputs.get(parse_id(known.id)) is None:
            checks.fail("S7 one outcome", f"{book}: {known.id} was acknowledged and is gone")
    for missed_book, missed in crowd.missed:
        kept = checks.server.book(book).outcomes.get(parse_id(missed)) is not None
        if missed_book == book and kept:  # what was trimmed meanwhile is passed by all
            checks.fail("S7 one outcome", f"{book}: a reader passed the outcome of {missed}")
    for seen_book, seen in crowd.seen:
        if seen_book == book and outcomes.get(parse_id(seen.id)) != seen:
            checks.fail("S7 one outcome", f"{book}: the outcome of {seen.id} changed")


def _check_order(checks: Checks, book: str, crowd: Crowd) -> None:
    """Whatever was sent after an acknowledgement has a greater id."""
    if checks.failover:
        return
    events: list[tuple[int, int, tuple[int, int]]] = []
    for known in crowd.acknowledged:
        if known.book == book:
            events.append((known.sent, 1, parse_id(known.id)))
            events.append((known.order, 0, parse_id(known.id)))
    newest = (0, 0)
    for _, is_sending, id_ in sorted(events):
        if not is_sending:
            newest = max(newest, id_)
        elif id_ <= newest:
            checks.fail("S12 linearizable", f"{book}: {format_id(*id_)} is before {newest}")


def _check_poison(checks: Checks, book: str) -> None:
    held = checks.server.book(book)
    letters = [letter.id for letter in held.deadletters.entries if letter.stream == "inputs"]
    gone = checks.server.of(book).letters_gone
    letters += [letter.id for letter in gone if letter.stream == "inputs"]
    letters.sort(key=parse_id)
    outcomes = checks.server.whole_outcomes(book).entries
    invalid = [outcome.id for outcome in outcomes if outcome.status == "invalid"]
    if letters != invalid:
        checks.fail("S14 poison", f"{book}: invalid {invalid}, dead letters {letters}")
    others = [letter for letter in held.deadletters.entries if letter.stream != "inputs"]
    if others:
        checks.fail("S14 poison", f"{book}: an action of ours was not understood: {others[0].why}")


def _check_replay(checks: Checks, book: str) -> None:
    shadow = checks.shadows[book].runner
    entries = checks.between(book, GENESIS, shadow.position)
    live = shadow.snapshot()
    if live.state != shadow.machine.encode(shadow.state):
        checks.fail("S10 replay", f"{book}: a snapshot is not what the book is")
    snapshots = checks.server.of(book).snapshots
    digests = checks.shadows[book].digests
    for snapshot in snapshots:
        if digests.get(snapshot.position) != snapshot.digest:
            checks.fail("S10 replay", f"{book}: the snapshot at {snapshot.position} differs")
    step = max(1, len(snapshots) // SNAPSHOT_REPLAYS_MAX)
    starts: list[Snapshot | None] = [None, *snapshots[::-step][:SNAPSHOT_REPLAYS_MAX]]
    for start in starts:
        again = BookRunner(book, start, check=False)
        after = parse_id(again.position)
        try:
            again.decide([entry for entry in entries if parse_id(entry.id) > after])
        except BookBugError as error:
            checks.fail("S10 replay", str(error))
        if again.snapshot() != live:
            checks.fail("S10 replay", f"{book}: a replay from {start and start.position} differs")
