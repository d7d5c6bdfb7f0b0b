"""What the book decides: rules, money, idempotency keys, time. Many are tier 1's, planted again."""

# What is replaced here is private, and each replacement takes whatever the original takes.
# pyright: reportPrivateUsage=false
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false

from __future__ import annotations

from holdfast.actors.booking import calendar, lifecycle, machine, payments, rules, wire, zones
from holdfast.actors.booking.book import Book, Practice
from holdfast.actors.booking.machine import BookingMachine
from holdfast.sim.clock import START_MS

from ..tier1 import planted as tier1  # noqa: TID251, TID252 - our own package sim
from . import Bug, edit  # noqa: TID251 - our own package sim

_TIER1 = {bug.name: bug for bug in tier1.PLANTED}


def _again(name: str, scenario: str, rare: str = "") -> Bug:
    """A bug of tier 1, to be seen here too."""
    bug = _TIER1[name]
    return Bug(bug.group, name, bug.does, scenario, *bug.patches, rare=rare)


RULES = [
    _again("runs-too-long", "auto-selection"),
    _again("looks-at-five-minutes", "mixed"),
    _again("duplicates", "mixed"),
    _again("one-hold-more", "stress"),
    _again("keeps-minutes", "mixed"),
    _again("late-takes-taken", "mixed"),
    _again("yesterday", "long"),
    _again("refusal-changes", "mixed"),
    Bug(
        "booking",
        "own-hours-ignored",
        "Hours of a member of staff's own are not looked at.",
        "mixed",
        edit(Practice, "__init__", "if member.hours is None", "if True"),
    ),
    Bug(
        "booking",
        "holds-not-given-back",
        "A customer's count of holds only grows.",
        "mixed",
        edit(Book, "_leave", "_decrease(self.customer_holds, booking.customer)", "pass"),
    ),
    Bug(
        "booking",
        "leaves-with-bookings",
        "A member of staff may leave who still has bookings.",
        "mixed",
        (rules, "_has_live", lambda _: lambda _book, _member: False),
    ),
    Bug(
        "booking",
        "off-grid",
        "Starts off the grid are accepted.",
        "mixed",
        edit(rules, "_off_limits", "not moment.on_grid", "False"),
    ),
    Bug(
        "booking",
        "slot-of-cancelled",
        "A cancelled booking keeps its slot.",
        "mixed",
        edit(
            lifecycle,
            "cancel",
            'end(book, booking, "cancelled", now, emit)',
            'booking.status = "cancelled"; booking.version += 1; '
            'booking.payment.desired = "released"; '
            "payments.drive(book, booking, now, emit)",
        ),
    ),
]

MONEY = [
    _again("decline-is-yes", "payment-failures"),
    _again("timeout-is-no", "outages"),
    _again("release-not-wanted", "outages"),
    _again("no-void", "mixed"),
    _again("no-capture", "long"),
    _again("wrong-amount", "mixed"),
    _again("fresh-keys", "outages"),
    _again("checks-once", "outages"),
    _again("believes-at-once", "outages"),
    _again(
        "old-answers",
        "outages",
        rare="A call must take effect late, after a status was told and before that answer, held up "
        "for half a minute, is posted; and nobody may want the slot any more. Tier 1 draws that "
        "far more often.",
    ),
    _again("unsettled-dropped", "outages"),
    _again("late-result-crashes", "outages"),
    Bug(
        "payments",
        "named-by-id",
        "A payment is named after its request's id, whatever was asked.",
        "rivals",
        edit(
            rules,
            "_take",
            "payments.name_of(input_id, asked.digest)",
            'payments.name_of(input_id, "")',
        ),
        rare="Two primaries that both take inputs must give one id to two requests, and both must come to the "
        "provider; a kept case and a test of payments show it.",
    ),
    Bug(
        "payments",
        "captures-at-once",
        "Money is taken when the slot is confirmed.",
        "mixed",
        edit(
            lifecycle,
            "confirm",
            'tell(book, booking, "moved" if moved else "confirmed", emit)',
            'tell(book, booking, "moved" if moved else "confirmed", emit)\n'
            '    if booking.payment.amount_cents: booking.payment.desired = "captured"',
        ),
    ),
    Bug(
        "payments",
        "pending-is-yes",
        "An answer that is still open counts as a success.",
        "outages",
        edit(
            payments,
            "observe",
            'if status in ("unknown", "pending", "failed"):',
            'if status == "pending" and payment.observed == "requested": status = "authorized"\n'
            '    if status in ("unknown", "pending", "failed"):',
        ),
    ),
    Bug(
        "payments",
        "gone-and-confirmed",
        "Money that has lapsed is believed to be on hold.",
        "outages",
        edit(
            payments,
            "observe",
            "if status == payment.observed:",
            'if status == payment.observed or payment.observed == "authorized":',
        ),
    ),
    Bug(
        "payments",
        "cancel-forgets-money",
        "Who cancels before an answer came gets no money back.",
        "mixed",
        edit(
            payments,
            "drive",
            "call = wanted_call(payment)",
            'call = "" if booking.status == "cancelled" else wanted_call(payment)',
        ),
    ),
    _again("answers-anything", "outages"),
]

KEYS = [
    _again("by-key-alone", "retries"),
    _again("bodies-not-compared", "retries"),
    _again("refusals-forgotten", "retries"),
    _again("decides-again", "retries"),
    Bug(
        "idempotency",
        "ten-seconds",
        "Keys are forgotten after ten seconds.",
        "retries",
        edit(machine, "_command", "now + keep_ms", "now + 10_000"),
    ),
    Bug(
        "idempotency",
        "accepted-again",
        "A retry of what was accepted is decided anew.",
        "retries",
        edit(
            machine,
            "_command",
            "book.keep_key(",
            "type(result) is Refused and book.keep_key(",
        ),
    ),
    Bug(
        "idempotency",
        "transient-kept",
        "Passing refusals are remembered as if they were final.",
        "retries",
        edit(
            machine,
            "_command",
            "result.code not in rules.TRANSIENT",
            "True",
        ),
    ),
    Bug(
        "idempotency",
        "key-of-text",
        "A key covers the text of a command, not its meaning.",
        "retries",
        edit(wire, "decode", "_digest(canonical, ", "_digest(canonical + entry.id.encode(), "),
    ),
]

TIME = [
    _again("one-late", "mixed"),
    _again("holds-past-start", "long"),
    Bug(
        "time",
        "wall-clock",
        "A transition asks the process what time it is.",
        "mixed",
        edit(
            BookingMachine,
            "transition",
            "now = input.now",
            'now = int(__import__("time").time() * 1000)',
        ),
    ),
    Bug(
        "time",
        "actors-clock",
        "An input's time is when it is decided, not when it came in.",
        "mixed",
        edit(
            wire,
            "decode",
            "now = int(ms)",
            f'now = {START_MS} + int(__import__("trio").current_time() * 1000)',
        ),
    ),
    Bug(
        "time",
        "timers-after",
        "Timers fire after the input that came after them.",
        "mixed",
        edit(
            BookingMachine,
            "transition",
            "timers = _fire_due(state, now, emit)",
            "pass",
            "return Outcome(_payment_result(state, input, emit), timers)",
            "return Outcome(_payment_result(state, input, emit), _fire_due(state, now, emit))",
            "return Outcome(result, timers, replayed)",
            "return Outcome(result, _fire_due(state, now, emit), replayed)",
            "return Outcome(NOTHING, timers) if timers else NO_OUTCOME",
            "return Outcome(NOTHING, _fire_due(state, now, emit))",
        ),
    ),
    Bug(
        "time",
        "held-for-ever",
        "A hold lasts until its appointment begins.",
        "mixed",
        edit(rules, "_take", "min(now + policies.hold_s * 1000, slot.start_ms)", "slot.start_ms"),
    ),
    Bug(
        "time",
        "seconds-for-minutes",
        "A hold lasts minutes where its policy says seconds.",
        "mixed",
        edit(rules, "_take", "policies.hold_s * 1000", "policies.hold_s * 60_000"),
    ),
    Bug(
        "time",
        "greenwich",
        "Opening hours are read as hours in Greenwich.",
        "mixed",
        (zones, "load", lambda real: lambda _name: real("UTC")),
    ),
    Bug(
        "time",
        "ends-as-it-begins",
        "An appointment is over when it begins.",
        "long",
        edit(
            lifecycle,
            "confirm",
            "book.confirm(booking, booking.end_ms)",
            "book.confirm(booking, booking.start_ms)",
        ),
    ),
    Bug(
        "time",
        "sunday-is-first",
        "Weekdays count from Monday.",
        "mixed",
        (calendar, "weekday_of", lambda _: lambda day: (day + 3) % 7),
    ),
    Bug(
        "time",
        "reminder-of-the-dead",
        "Timers of a booking that has moved on still fire.",
        "mixed",
        edit(
            Book,
            "_is_set",
            "return timer[0] == (booking.payment.due_ms if timer[2] else booking.due_ms)",
            "return True",
        ),
    ),
]

BUGS = [*RULES, *MONEY, *KEYS, *TIME]
