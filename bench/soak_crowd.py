"""A crowd for a soak: steady, paced, and gone again, so that what stays behind is the service's own.

Every beat asks for slots and gives back those of a while ago, in the same number; one in twenty
requests is sent twice under its key, some cards are declined, and some payments stay pending until
the hold has expired. Nothing stays booked.

A book keeps its idempotency keys, and requests that came to nothing, for a day by default, so a new
book grows for a day whatever happens. :func:`yesterday` makes a book that has had the same load a day
ago: what was kept of it leaves as what comes is taken in.
"""

from __future__ import annotations

import random
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec
from workload import practice

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.payment.script import Rule, Script
from holdfast.actors.ports import InputEntry, NewInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.booking.runner import Decided
    from holdfast.actors.ports import ActionEntry

BOOK: Final = "soak"
BEATS_PER_S: Final = 10
STAY_BEATS: Final = 20 * BEATS_PER_S
"""A booking is given back after so long."""

HOLD_S: Final = 60
DAY_MS: Final = 86_400_000
STAFF: Final = 20
DAYS: Final = 60
"""How far ahead customers book."""

PENDING_READS: Final = 4
"""Status checks until a pending payment is settled, which is after its hold has expired."""

_RESULTS: Final[dict[str, str]] = {"void": "voided", "capture": "captured", "refund": "refunded"}


def opening() -> NewInput:
    """The practice. All that is kept for a while is kept as long as by default."""
    policies = m.Policies(hold_s=HOLD_S, holds_per_customer_max=0, late_authorization=False)
    definition = msgspec.structs.replace(practice(STAFF), policies=policies)
    return NewInput(
        "define_practice", wire.encode_message(definition), key="practice", by="service:soak"
    )


def script() -> Script:
    """How the provider treats the crowd's cards: the first letter of a customer says it."""
    rules = (
        Rule(verdict="declined", customer_prefix="D"),
        Rule(verdict="pending", customer_prefix="P"),
    )
    return Script(rules=rules, pending_reads=PENDING_READS)


class Crowd:
    """What customers send, beat by beat.

    Args:
      seed: Same seed, same crowd.
      rate: Commands per second, retries not counted.
      today_ms: Milliseconds since the epoch; bookings lie ahead of it.
    """

    def __init__(self, seed: str, rate: float, today_ms: int) -> None:
        self._draw = random.Random(seed)
        self._name = seed
        self._requests_per_beat = rate / 2 / BEATS_PER_S
        self._due = 0.0
        self._number = 0
        self._beat = 0
        self._last: list[NewInput] = []
        self._booked: deque[tuple[int, str, str]] = deque()
        today = datetime.fromtimestamp(today_ms / 1000, UTC).date()
        ahead = [today + timedelta(days=days) for days in range(3, DAYS)]
        self._dates = [date.isoformat() for date in ahead if date.isoweekday() < 6]

    def beat(self, *, ask: bool = True) -> list[NewInput]:
        """What comes in the next tenth of a second; without *ask*, only what is given back."""
        self._beat += 1
        self._last = []
        while self._booked and self._booked[0][0] <= self._beat:
            _, booking, by = self._booked.popleft()
            self._last.append(self._new("cancel", m.Cancel(booking), by))
        self._due += self._requests_per_beat if ask else 0.0
        while self._due >= 1:
            self._due -= 1
            request = self._request()
            self._last += [request] * (2 if self._draw.random() < 0.05 else 1)
        return self._last

    def sent(self, ids: Sequence[str]) -> None:
        """The last beat's inputs have these ids in the log."""
        before = ""
        for new, entry_id in zip(self._last, ids, strict=True):
            stays = new.by.startswith("customer:P")  # nobody gives back what is not paid yet
            if new.type != "cancel" and new.key != before and not stays:
                self._booked.append((self._beat + STAY_BEATS, f"b{entry_id}", new.by))
            before = new.key

    @property
    def gone(self) -> bool:
        """Whether everything was given back."""
        return not self._booked

    def _request(self) -> NewInput:
        card = self._draw.choices("KDP", (93, 5, 2))[0]
        by = f"customer:{card}{self._draw.randrange(20_000)}"
        date = self._draw.choice(self._dates)
        if self._draw.random() < 0.5:
            return self._new("request_auto", m.RequestAuto("checkup", days=[date]), by)
        start = f"{date}T{self._draw.choice((9, 10, 11, 14, 15, 16)):02d}:30"
        staff = f"s{self._draw.randrange(STAFF)}"
        return self._new("request_slot", m.RequestSlot("checkup", start, staff=staff), by)

    def _new(self, kind: str, command: m.Command, by: str) -> NewInput:
        self._number += 1
        return NewInput(kind, wire.encode_message(command), f"{self._name}-{self._number}", by)


class Yesterday:
    """Decides a crowd's inputs as a log of a day ago, with results and reports as they would come."""

    def __init__(self, begin_ms: int) -> None:
        self.runner = BookRunner(BOOK)
        self.count = 0
        self.last: InputEntry | None = None
        self._ms = begin_ms
        self._answers: list[NewInput] = []

    def beat(self, inputs: Sequence[NewInput]) -> list[str]:
        """Decide *inputs* and what became of the last beat's actions; the ids of *inputs*."""
        self._ms += 1000 // BEATS_PER_S
        entries = [
            InputEntry(f"{self._ms}-{number}", new.type, new.body, new.key, new.by)
            for number, new in enumerate((*inputs, *self._answers))
        ]
        if entries:
            self.count += len(entries)
            self.last = entries[-1]
            self._answers = _answers(self.runner.decide(entries))
        return [entry.id for entry in entries[: len(inputs)]]


def yesterday(rate: float, seconds: int, begin_ms: int) -> Yesterday:
    """A book after *seconds* of the crowd, from *begin_ms* on, and after everybody left again."""
    book, crowd = Yesterday(begin_ms), Crowd("yesterday", rate, begin_ms)
    book.beat([opening()])
    for _ in range(seconds * BEATS_PER_S):
        crowd.sent(book.beat(crowd.beat()))
    while not crowd.gone:
        crowd.sent(book.beat(crowd.beat(ask=False)))
    for _ in range((HOLD_S + 1) * BEATS_PER_S):
        book.beat([])
    book.beat([NewInput("tick", b"{}", by="service:timer")])
    return book


def _answers(decided: Decided) -> list[NewInput]:
    """What executors would post."""
    found: list[NewInput] = []
    for action in decided.payments:
        body = msgspec.json.decode(action.body)
        declined = not str(body.get("customer", "K")).startswith("K")
        status = "declined" if declined else _RESULTS.get(action.type, "authorized")
        result = {"action": action.action, "payment": body["payment"], "status": status}
        found.append(_answer("payment_result", result))
    found += [_report(action) for action in decided.notifications]
    return found


def _report(action: ActionEntry) -> NewInput:
    booking = msgspec.json.decode(action.body)["booking"]
    report = {"action": action.action, "booking": booking, "status": "delivered"}
    return _answer("delivery_report", report)


def _answer(kind: str, fields: dict[str, str]) -> NewInput:
    return NewInput(kind, msgspec.json.encode(fields), by="service:soak")
