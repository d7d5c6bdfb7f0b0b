"""Bugs for tier 1 to catch: each a small change of the product, made here and undone again.

What a bug is, ``tests.sim.bugs`` tells. :func:`hunt` runs seed after seed of its scenario, with every
check on, and says which check caught it and after how many operations.

``python -m tests.sim.tier1.planted`` prints the table of ``docs/planted.md``.
"""

# What is replaced here is private, and each replacement takes whatever the original takes.
# ruff: noqa: ANN401
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownParameterType=false

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.actors.booking import availability, lifecycle, payments, rules
from holdfast.actors.booking import machine as booking_machine
from holdfast.actors.booking.book import Book, Practice
from holdfast.actors.booking.calendar import Calendar, lowest, minute_of
from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.booking.messages import (
    Accepted,
    CheckStatus,
    Outcome,
    PaymentResult,
    Preauthorize,
    RequestAuto,
)
from holdfast.sim.tier1.checks import ViolationError
from holdfast.sim.tier1.scenarios import BY_NAME
from holdfast.sim.tier1.trial import Options
from holdfast.sim.tier1.volume import run

from ..bugs import Bug as PlantedBug  # noqa: TID251, TID252 - our own package sim

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.machine import Completed

    from ..bugs import Patch  # noqa: TID251, TID252 - our own package sim

SEEDS = 5
OPERATIONS = 2_000


class Caught(msgspec.Struct, frozen=True):
    """How a bug was caught: after how many whole seeds and how many operations, all in all."""

    check: str
    what: str
    seeds: int
    operations: int


class Bug(PlantedBug):
    """A planted bug, and the check that must catch it."""

    def __init__(
        self, group: str, name: str, does: str, scenario: str, check: str, *patches: Patch
    ) -> None:
        super().__init__(group, name, does, scenario, *patches)
        self.check = check


def hunt(bug: Bug) -> Caught | None:
    """Run seeds of the bug's scenario until a check fails; None where none does.

    The model sees nearly everything at once, so it is asked only about bugs that are its own.
    """
    operations, model = 0, bug.check == "model"
    # The audit decodes each book that it watches: it would see what a restore loses before a crash does.
    audit_every = 0 if bug.group == "restore" else 50
    options = Options(OPERATIONS, scan_every=250, audit_every=audit_every, model=model)
    with bug.planted():
        for seed in range(SEEDS):
            try:
                operations += run(BY_NAME[bug.scenario], seed, options).operations
            except ViolationError as error:
                return Caught(error.check, error.what, seed + 1, operations + error.operation)
    return None


# --- booking rules ------------------------------------------------------------------------------


def _longer_runs(real: Callable[[int, int], int]) -> Callable[[int, int], int]:
    return lambda free, length: real(free, max(length - 15, 1))


def _find_first_minute(real: Any) -> Any:
    def find(book: Any, practice: Any, service: Any, *rest: Any) -> Any:
        return real(book, practice, msgspec.structs.replace(service, duration_min=5), *rest)

    return find


def _no_grid(real: Any) -> Any:
    def off_limits(practice: Any, moment: Any, now: int, input_id: str) -> Any:
        return real(practice, msgspec.structs.replace(moment, on_grid=True), now, input_id)

    return off_limits


def _past_allowed(real: Any) -> Any:
    def off_limits(practice: Any, moment: Any, now: int, input_id: str) -> Any:
        return real(practice, moment, now - 86_400_000, input_id)

    return off_limits


def _any_range(real: Any) -> Any:
    def first(practice: Any, possible: int, duration_min: int, wish: RequestAuto, day: int) -> int:
        del practice, duration_min, wish, day
        return lowest(possible)

    return first


def _ranges_sorted(real: Any) -> Any:
    def first(practice: Any, possible: int, duration_min: int, wish: RequestAuto, day: int) -> int:
        wish = msgspec.structs.replace(wish, ranges=sorted(wish.ranges))
        return int(real(practice, possible, duration_min, wish, day))

    return first


def _days_sorted(real: Any) -> Any:
    return lambda wish, win: sorted(real(wish, win))


def _first_member(real: Any) -> Any:
    return lambda book, members, day, first: members[0]


def _no_duplicates(real: Any) -> Any:
    return lambda mine, service, wanted: None


def _one_more(real: Any) -> Any:
    def too_many(book: Any, practice: Any, customer: str, input_id: str) -> Any:
        if book.customer_holds.get(customer, 0) == practice.policies.holds_per_customer_max:
            return None
        return real(book, practice, customer, input_id)

    return too_many


def _anybodys(real: Any) -> Any:
    def cancel(book: Any, command: Any, asked: Any, *rest: Any) -> Any:
        by = "staff:s0" if asked.by.startswith("customer:") else asked.by
        return real(book, command, msgspec.structs.replace(asked, by=by), *rest)

    return cancel


def _keeps_minutes(real: Any) -> Any:
    def leave(self: Book, booking: Any) -> None:
        at = (booking.staff, booking.day)
        sheet = self.sheets.get(at)
        minutes = (sheet.taken, sheet.minutes) if sheet else (0, 0)
        real(self, booking)
        if booking.status == "confirmed" and sheet is not None:
            sheet.taken, sheet.minutes = minutes
            self.sheets[at] = sheet

    return leave


# --- payments -----------------------------------------------------------------------------------


def _status_as(old: str, new: Any) -> Any:
    def make(real: Any) -> Any:
        def observe(
            book: Any, booking: Any, action_id: str, result: PaymentResult, *rest: Any
        ) -> Any:
            if result.status == old:
                result = msgspec.structs.replace(result, status=new)
            return real(book, booking, action_id, result, *rest)

        return observe

    return make


def _forgets_release(real: Any) -> Any:
    def end(book: Any, booking: Any, status: Any, now: int, emit: Any) -> None:
        real(book, booking, status, now, emit)
        if status == "expired":
            booking.payment.desired = "authorized"

    return end


def _no_void(real: Any) -> Any:
    return lambda payment: "" if real(payment) == "void" else real(payment)


def _no_capture(real: Any) -> Any:
    return lambda payment: "" if real(payment) == "capture" else real(payment)


def _fresh_keys(real: Any) -> Any:
    def drive(book: Any, booking: Any, now: int, emit: Any) -> None:
        before = len(emit.actions)
        real(book, booking, now, emit)
        for at in range(before, len(emit.actions)):
            tracked = emit.actions[at]
            if isinstance(tracked.action, Preauthorize):
                action = msgspec.structs.replace(tracked.action, key=tracked.id)
                emit.actions[at] = msgspec.structs.replace(tracked, action=action)

    return drive


def _wrong_amount(real: Any) -> Any:
    def drive(book: Any, booking: Any, now: int, emit: Any) -> None:
        price = booking.payment.amount_cents
        booking.payment.amount_cents = price // 100
        real(book, booking, now, emit)
        booking.payment.amount_cents = price

    return drive


def _checks_once(real: Any) -> Any:
    def check_later(book: Any, booking: Any, now: int, events: Any) -> None:
        if not booking.payment.checks:
            real(book, booking, now, events)

    return check_later


def _late_wins(real: Any) -> Any:
    return lambda book, practice, booking, now: True


def _believes(real: Any) -> Any:
    return lambda book, booking, now, asked, settle, events: real(
        book, booking, now, asked, -86_400_000, events
    )


def _old_now(real: Any) -> Any:
    return lambda book, booking, now, asked, settle, events: real(
        book, booking, now, now, settle, events
    )


def _answers_anything(real: Any) -> Any:
    def observe(book: Any, booking: Any, action_id: str, *rest: Any) -> Any:
        waiting = booking.payment.in_flight
        return real(book, booking, waiting or action_id, *rest)

    return observe


def _never_moved(real: Any) -> Any:
    return lambda *args: False


# --- restore ------------------------------------------------------------------------------------


def _decoded(change: Callable[[Book], None]) -> Any:
    def make(real: Any) -> Any:
        def decode(data: bytes) -> Book:
            book = real.__func__(data)
            change(book)
            return book  # type: ignore[no-any-return]

        return staticmethod(decode)

    return make


def _lose_last_call(book: Book) -> None:
    if book.in_flight:
        book.in_flight.popitem()


def _lose_checks(book: Book) -> None:
    book.timers = [timer for timer in book.timers if not timer[2]]


def _lose_keys(book: Book) -> None:
    book.keys.clear()


def _lose_sheets(book: Book) -> None:
    for (_, day), sheet in list(book.sheets.items()):
        if day % 2:
            sheet.taken = sheet.minutes = 0


def _restores_preauthorizations(real: Any) -> Any:
    def restore(self: Any, state: Book, emit: Any, after: str = "", until: str = "") -> bool:
        before = len(emit.actions)
        done = real(self, state, emit, after, until)
        for at in range(before, len(emit.actions)):
            tracked = emit.actions[at]
            payment = state.in_flight[tracked.id].payment
            action = Preauthorize(payment.id, payment.amount_cents, "EUR", "", tracked.id)
            assert isinstance(tracked.action, CheckStatus)
            emit.actions[at] = msgspec.structs.replace(tracked, action=action)
        return bool(done)

    return restore


def _restores_backwards(real: Any) -> Any:
    def restore(self: Any, state: Book, emit: Any, after: str = "", until: str = "") -> bool:
        before = len(emit.actions)
        done = real(self, state, emit, after, until)
        emit.actions[before:] = emit.actions[before:][::-1]
        return bool(done)

    return restore


# --- idempotency --------------------------------------------------------------------------------


def _by_key_alone(real: Any) -> Any:
    def command(book: Any, asked: Any, *rest: Any) -> Any:
        wanted = f"{type(asked.command).__name__} {asked.key}"
        for name, known in book.keys.items():
            if name.partition(" ")[2] == wanted:
                return known.result, True
        return real(book, asked, *rest)

    return command


def _same_digest(real: Any) -> Any:
    def command(book: Any, asked: Any, *rest: Any) -> Any:
        return real(book, msgspec.structs.replace(asked, digest="same"), *rest)

    return command


def _refusals_forgotten(real: Any) -> Any:
    def keep_key(self: Book, keyed: Any) -> None:
        if isinstance(keyed.result, Accepted):
            real(self, keyed)

    return keep_key


def _keys_for_an_hour(real: Any) -> Any:
    def forget(self: Book, now: int, limit: int = 64) -> None:
        real(self, now + 23 * 3_600_000, limit)

    return forget


def _keys_for_ever(real: Any) -> Any:
    return lambda self, now, limit=64: None


def _decides_again(real: Any) -> Any:
    def command(book: Any, asked: Any, now: int, input_id: str, emit: Any) -> Any:
        known = book.keys.get(f"{asked.by} {type(asked.command).__name__} {asked.key}")
        result, replayed = real(book, asked, now, input_id, emit)
        if replayed and known.digest == asked.digest:
            rules.decide(book, asked, now, input_id, emit)
        return result, replayed

    return command


# --- time ---------------------------------------------------------------------------------------


def _one_too_late(real: Any) -> Any:
    return lambda self, now: real(self, now - 1)


def _holds_past_start(real: Any) -> Any:
    def add(self: Book, booking: Any) -> None:
        booking.due_ms = booking.created_ms + 600_000
        real(self, booking)

    return add


def _plain_clocks(real: Any) -> Any:
    del real
    return lambda self, start, opening: (minute_of(opening[0]), minute_of(opening[1]))


def _utc_today(real: Any) -> Any:
    def today(self: Any, now: int) -> int:
        return now // 86_400_000

    return today


def _wall_clock(real: Any) -> Any:
    def transition(self: Any, state: Any, input: Any, emit: Any) -> Any:  # noqa: A002
        time.time()  # noqa: TID251 - the very thing that is forbidden
        return real(self, state, input, emit)

    return transition


def _deadline_one_off(real: Any) -> Any:
    def cancel(book: Any, command: Any, asked: Any, now: int, *rest: Any) -> Any:
        return real(book, command, asked, now + 3_600_000, *rest)

    return cancel


def _keeps_old_hours(real: Any) -> Any:
    def paid(book: Any, booking: Any, now: int, emit: Any, events: Any) -> None:
        revision = booking.revision
        real(book, booking, now, emit, events)
        booking.revision = revision

    return paid


def _drops_at_once(real: Any) -> Any:
    return lambda payment: True


def _raises_on_late(real: Any) -> Any:
    def result(book: Any, completed: Completed[PaymentResult], emit: Any) -> Any:
        booking = book.bookings[f"b{payments.request_of(completed.result.payment)}"]
        del booking
        return real(book, completed, emit)

    return result


def _refusal_touches(real: Any) -> Any:
    def transition(self: Any, state: Book, input: Any, emit: Any) -> Outcome:  # noqa: A002
        outcome: Outcome = real(self, state, input, emit)
        if not isinstance(outcome.result, Accepted):
            state.deliveries["refused"] = state.deliveries.get("refused", 0) + 1
            if state.bookings:
                state.touch(next(iter(state.bookings.values())))
        return outcome

    return transition


PLANTED = [
    Bug("booking", "runs-too-long", "Auto-selection takes gaps fifteen minutes too short.",
        "auto-selection", "invariants", (availability, "starts", _longer_runs)),
    Bug("booking", "looks-at-five-minutes", "An explicit request looks at its first five minutes only.",
        "mixed", "invariants", (rules, "_find", _find_first_minute)),
    Bug("booking", "off-grid", "Starts off the grid are accepted.",
        "mixed", "model", (rules, "_off_limits", _no_grid)),
    Bug("booking", "yesterday", "Starts of the last 24 hours are accepted.",
        "mixed", "invariants", (rules, "_off_limits", _past_allowed)),
    Bug("booking", "ignores-ranges", "Auto-selection ignores the preferred ranges.",
        "preferences", "model", (availability, "_first_by_preference", _any_range)),
    Bug("booking", "ranges-sorted", "Preferred ranges count by time, not in the order given.",
        "preferences", "model", (availability, "_first_by_preference", _ranges_sorted)),
    Bug("booking", "days-sorted", "Preferred days count by date, not in the order given.",
        "preferences", "model", (availability, "_days", _days_sorted)),
    Bug("booking", "first-member", "The first who is free gets it, not who has least to do.",
        "mixed", "model", (availability, "best_member", _first_member)),
    Bug("booking", "duplicates", "A customer can hold the same appointment twice.",
        "retries", "model", (rules, "_own_overlap", _no_duplicates)),
    Bug("booking", "one-hold-more", "The limit of holds per customer is off by one.",
        "waits-and-expiries", "model", (rules, "_too_many", _one_more)),
    Bug("booking", "anybodys-booking", "Every customer can cancel every booking.",
        "mixed", "model", (rules, "_cancel", _anybodys)),
    Bug("booking", "keeps-minutes", "What a cancelled or finished booking occupied stays taken.",
        "mixed", "full scan", (Book, "_leave", _keeps_minutes)),
    Bug("booking", "late-takes-taken", "A late payment gets its slot although somebody has it.",
        "waits-and-expiries", "invariants", (lifecycle, "_still_free", _late_wins)),
    Bug("booking", "never-moved", "The loser of an auto-selection is offered no other slot.",
        "waits-and-expiries", "model", (lifecycle, "_moved", _never_moved)),
    Bug("booking", "old-revision", "What is confirmed late is kept under the old hours.",
        "changing-practice", "invariants", (lifecycle, "_paid", _keeps_old_hours)),
    Bug("booking", "refusal-changes", "A refusal counts itself in the book.",
        "mixed", "refusal", (BookingMachine, "transition", _refusal_touches)),
    Bug("payments", "decline-is-yes", "A decline counts as a success.",
        "payment-failures", "money", (payments, "observe", _status_as("declined", "authorized"))),
    Bug("payments", "timeout-is-no", "No answer counts as a decline.",
        "stress", "money", (payments, "observe", _status_as("unknown", "declined"))),
    Bug("payments", "release-not-wanted", "An expired request still wants its money.",
        "waits-and-expiries", "invariants", (lifecycle, "end", _forgets_release)),
    Bug("payments", "no-void", "Money that is not wanted is never released.",
        "mixed", "end", (payments, "wanted_call", _no_void)),
    Bug("payments", "no-capture", "Money of finished appointments is never taken.",
        "mixed", "end", (payments, "wanted_call", _no_capture)),
    Bug("payments", "fresh-keys", "A repeated preauthorization comes under a key of its own.",
        "stress", "money", (payments, "drive", _fresh_keys)),
    Bug("payments", "wrong-amount", "Cents are taken for whole units.",
        "mixed", "money", (payments, "drive", _wrong_amount)),
    Bug("payments", "checks-once", "An answer that tells nothing is asked for again only once.",
        "stress", "invariants", (payments, "check_later", _checks_once)),
    Bug("payments", "believes-at-once", "'Never heard of it' is believed while the call is on its way.",
        "stress", "money", (payments, "_never_heard", _believes)),
    Bug("payments", "old-answers", "The age of an answer counts from when it comes in.",
        "waits-and-expiries", "money", (payments, "_never_heard", _old_now)),
    Bug("payments", "answers-anything", "Any result answers the call that is under way.",
        "stress", "model", (payments, "observe", _answers_anything)),
    Bug("payments", "unsettled-dropped", "A booking leaves the book before its money is settled.",
        "waits-and-expiries", "money", (payments, "is_settled", _drops_at_once)),
    Bug("payments", "late-result-crashes", "A result for a booking that has left raises.",
        "stress", "crash", (booking_machine, "_payment_result", _raises_on_late)),
    Bug("restore", "call-lost", "The last call under way is not in the book that is read back.",
        "stress", "full scan", (Book, "decode", _decoded(_lose_last_call))),
    Bug("restore", "checks-lost", "Timers of status checks are not set again.",
        "stress", "full scan", (Book, "decode", _decoded(_lose_checks))),
    Bug("restore", "keys-lost", "Idempotency keys are not found again.",
        "stress", "keys", (Book, "decode", _decoded(_lose_keys))),
    Bug("restore", "sheets-lost", "Every second day reads back as free.",
        "stress", "full scan", (Book, "decode", _decoded(_lose_sheets))),
    Bug("restore", "charges-again", "A restore makes the call again instead of asking.",
        "stress", "money", (BookingMachine, "restore", _restores_preauthorizations)),
    Bug("restore", "backwards", "A restore asks in another order than that of the calls.",
        "stress", "restore", (BookingMachine, "restore", _restores_backwards)),
    Bug("idempotency", "by-key-alone", "Two customers' equal keys are one.",
        "retries", "keys", (booking_machine, "_command", _by_key_alone)),
    Bug("idempotency", "bodies-not-compared", "Another intention under a used key is answered.",
        "retries", "keys", (booking_machine, "_command", _same_digest)),
    Bug("idempotency", "refusals-forgotten", "Refusals are decided again on a retry.",
        "retries", "keys", (Book, "keep_key", _refusals_forgotten)),
    Bug("idempotency", "an-hour", "Keys are forgotten after an hour.",
        "retries", "keys", (Book, "forget_keys", _keys_for_an_hour)),
    Bug("idempotency", "for-ever", "Keys are never forgotten.",
        "retries", "end", (Book, "forget_keys", _keys_for_ever)),
    Bug("idempotency", "decides-again", "A retry gets the first answer, and is decided once more.",
        "retries", "refusal", (booking_machine, "_command", _decides_again)),
    Bug("time", "one-late", "Timers fire a millisecond late.",
        "mixed", "timers", (Book, "pop_due", _one_too_late)),
    Bug("time", "holds-past-start", "A hold may last past the start of its appointment.",
        "mixed", "invariants", (Book, "add", _holds_past_start)),
    Bug("time", "plain-clocks", "Opening hours count from midnight when clocks change.",
        "changing-practice", "model", (Calendar, "_changing_span", _plain_clocks)),
    Bug("time", "utc-today", "Today is today in Greenwich.",
        "mixed", "model", (Practice, "today", _utc_today)),
    Bug("time", "wall-clock", "A transition asks the process what time it is.",
        "mixed", "audit", (BookingMachine, "transition", _wall_clock)),
    Bug("time", "deadline-early", "The cancellation deadline is an hour early.",
        "mixed", "model", (rules, "_cancel", _deadline_one_off)),
]  # fmt: skip


HEAD = """\
| about | bug | what it does | looked for in | caught by | in seed | after operations |
|---|---|---|---|---|---:|---:|"""


def table() -> str:
    """The rows of ``docs/planted.md``."""
    lines = [HEAD]
    for bug in PLANTED:
        caught = hunt(bug)
        end = f"{caught.check} | {caught.seeds} | {caught.operations:,}" if caught else "– | – | –"
        lines.append(f"| {bug.group} | `{bug.name}` | {bug.does} | `{bug.scenario}` | {end} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201
