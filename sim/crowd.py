"""The producers of the simulated world: customers with sessions, an operator, and strangers.

A customer comes, asks for a slot or lets one be found, sends again under the same key where no answer
came (or for no reason at all), looks at the outcome, perhaps cancels, perhaps repeats an old command,
and comes back later. An operator defines the practice, and may define it anew under bookings. A
stranger writes entries that are no messages. What everybody does is drawn by keys, so that taking one
customer away leaves the others as they were: each event hangs on a draw of its own (``EVENTS``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.ports import ForeignDataError, LogUnavailableError, NewInput
from holdfast.sim.history import BY_HAND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.actors.ports import Log, OutcomeEntry
    from holdfast.sim.draws import Draws
    from holdfast.sim.marks import Marks
    from holdfast.sim.trace import Trace

SEND_ATTEMPTS_MAX: Final = 12
OUTCOME_WAIT_S: Final = 20.0

EVENTS: Final = (
    "crowd.comes",
    "crowd.visit",
    "crowd.stranger",
    "crowd.redefine",
    "crowd.cancel",
    "crowd.repeat",
    "crowd.again",
)
"""The draws that let something be sent; a change to 0 takes it away and nothing else. Greatest first."""

_SEQUENCE_LAST: Final = (1 << 64) - 1
_MINUTE_MS: Final = 60_000

_GARBAGE: Final = (
    NewInput("request_slot", b"{", "g1", "customer:G"),
    NewInput("request_slot", b'{"service":"checkup"}', "g2", "customer:G"),
    NewInput("launch_rocket", b"{}", "g3", "customer:G"),
    NewInput("request_slot", b'{"service":"s","start":"2025-12-02T09:00:00Z"}', "g4", "nobody"),
    NewInput("tick", b"{}", "", "customer:G"),
    NewInput("payment_result", b'{"action":"1-0:0","payment":"p1-0","status":"paid"}', "", "x"),
    NewInput("cancel", b'{"booking":"b1-0","booking":"b2-0"}', "g5", "customer:G"),
    NewInput("request_slot", b"\xff\xfe", "g6", "customer:G"),
)
"""Entries that are no messages, each for another reason."""


class CrowdOptions(msgspec.Struct, frozen=True):
    """What the crowd does. Shares are from 0 to 1.

    Attributes:
      customers: How many come.
      visits_max: How often each, at most.
      span_s: All of them begin within so long.
      think_s_max: Longest time between two things that a customer does.
      starts_ms: The slots that are asked for, by their beginning.
      auto: Share of requests that let the slot be found.
      wishes: Share of those that tell a day and hours.
      wished: The hours.
      named: Share of requests for a certain person.
      cancel: Share of bookings given back.
      again: Share of commands sent twice.
      repeat: Share of visits that end with an old command under its old key.
      other_body: Share of those whose key comes with another command.
      garbage: How many entries a stranger writes.
      redefine_s: When the practice is defined anew; 0 for never.
    """

    customers: int
    visits_max: int
    span_s: int
    think_s_max: int
    starts_ms: tuple[int, ...]
    auto: float = 0.2
    wishes: float = 0.5
    wished: m.TimeRange = ("06:00", "13:00")
    named: float = 0.5
    cancel: float = 0.25
    again: float = 0.1
    repeat: float = 0.15
    other_body: float = 0.2
    garbage: int = 0
    redefine_s: int = 0


class Acknowledged(msgspec.Struct, frozen=True):
    """An input of which the log said that it was written.

    Attributes:
      sent: Number of the event in the trace at which it was sent for the last time.
      order: Number of the event at which that was acknowledged.
    """

    book: str
    id: str
    key: str
    sent: int
    order: int


class Crowd:
    """All producers of one world.

    Args:
      connect: Opens a connection under a name; each producer has one of its own.
      draws: What everybody does.
      options: How likely it is.
      marks: What happened at least once.
      trace: Where sending and receiving is noted.
      books: Their names.
      practice: What the operator defines.
      changed: What it is changed to.

    Attributes:
      sent: How many commands and other entries were sent; those sent again for want of an answer
        count once.
      acknowledged: The inputs that the log acknowledged.
      seen: The outcomes that customers saw, each with its book.
    """

    def __init__(
        self,
        connect: Callable[[str], Log],
        draws: Draws,
        options: CrowdOptions,
        marks: Marks,
        trace: Trace,
        books: Sequence[str],
        practice: m.DefinePractice,
        changed: m.DefinePractice,
    ) -> None:
        self._connect = connect
        self._draws = draws
        self._options = options
        self._marks = marks
        self._trace = trace
        self._books = books
        self._practice = practice
        self._changed = changed
        self._decoder = msgspec.json.Decoder(m.Accepted | m.Refused)
        self.sent = 0
        self.acknowledged: list[Acknowledged] = []
        self.seen: list[tuple[str, OutcomeEntry]] = []
        self.missed: list[tuple[str, str]] = []
        """Book and input, where the first outcome after all others before it was a later one's."""

    async def run(self) -> None:
        """Let everybody come and go; returns when the last one has gone."""
        async with trio.open_nursery() as nursery:
            for book in self._books:
                nursery.start_soon(self._operator, book)
            for number in range(self._options.customers):
                if self._draws.chance("crowd.comes", 1.0, number):
                    nursery.start_soon(self._customer, number)
            for number in range(self._options.garbage):
                if self._draws.chance("crowd.stranger", 1.0, number):
                    nursery.start_soon(self._stranger, number)

    # -- the operator and strangers ----------------------------------------

    async def _operator(self, book: str) -> None:
        log = self._connect(f"operator-{book}")
        if book != self._books[0]:  # a practice that joins while others are busy
            bound = self._options.span_s * 1000
            await trio.sleep(self._draws.below("crowd.opens_ms", bound, book) / 1000)
        body = wire.encode_message(self._practice)
        await self.send(
            log, book, NewInput("define_practice", body, "practice-1", "service:office")
        )
        if self._options.redefine_s:
            await trio.sleep(self._options.redefine_s)
            self._marks.hit("redefined")
            body = wire.encode_message(self._changed)
            new = NewInput("define_practice", body, "practice-2", "service:office")
            await self.send(log, book, new)

    async def _stranger(self, number: int) -> None:
        await trio.sleep(
            self._draws.below("crowd.garbage_ms", self._options.span_s * 1000, number) / 1000
        )
        book = self._draws.pick("crowd.garbage_book", self._books, number)
        log = self._connect(f"stranger-{number}")
        await self.send(log, book, self._draws.pick("crowd.garbage", _GARBAGE, number))

    # -- customers ---------------------------------------------------------

    async def _customer(self, number: int) -> None:
        draws, options = self._draws, self._options
        await trio.sleep(draws.below("crowd.arrive_ms", options.span_s * 1000, number) / 1000)
        by = f"customer:K{number}"
        log = self._connect(f"customer-{number}")
        for visit in range(1 + draws.below("crowd.visits", options.visits_max, number)):
            drawn = (number, visit)
            if not draws.chance("crowd.visit", 1.0, *drawn):
                continue
            if visit:
                self._marks.hit("came_back")
            book = draws.pick("crowd.book", self._books, *drawn)
            request = self._request(by, drawn)
            booking = await self._ask(log, book, request, drawn)
            if booking and draws.chance("crowd.cancel", options.cancel, *drawn):
                await self._think("cancel", drawn)
                body = wire.encode_message(m.Cancel(booking))
                cancel = NewInput("cancel", body, f"c{visit}", by)
                await self._ask(log, book, cancel, (*drawn, 1))
            if draws.chance("crowd.repeat", options.repeat, *drawn):
                await self._think("repeat", drawn)
                if draws.chance("crowd.other_body", options.other_body, *drawn):
                    other = self._request(by, (*drawn, 2))
                    request = msgspec.structs.replace(other, key=request.key)
                await self._ask(log, book, request, (*drawn, 3))
            await self._think("leave", drawn)

    async def _think(self, about: str, drawn: tuple[int, ...]) -> None:
        bound = self._options.think_s_max * 1000 + 1
        await trio.sleep(self._draws.below(f"crowd.think_{about}", bound, *drawn) / 1000)

    def _request(self, by: str, drawn: tuple[int, ...]) -> NewInput:
        """What a customer asks for."""
        draws, options = self._draws, self._options
        key = f"r{drawn[1]}"
        service = draws.pick("crowd.service", self._practice.services, *drawn).id
        staff = draws.pick("crowd.staff", self._practice.staff, *drawn).id
        named = draws.chance("crowd.named", options.named, *drawn)
        start_ms = draws.pick("crowd.start", options.starts_ms, *drawn)
        if draws.chance("crowd.auto", options.auto, *drawn):
            auto = m.RequestAuto(service, staff=[staff] if named else [])
            if draws.chance("crowd.preference", options.wishes, *drawn):
                day = datetime.fromtimestamp(start_ms / 1000, UTC).date().isoformat()
                auto = msgspec.structs.replace(auto, days=[day], ranges=[options.wished])
            return NewInput("request_auto", wire.encode_message(auto), key, by)
        if draws.chance("crowd.off_grid", 0.05, *drawn):
            start_ms += _MINUTE_MS
        start = datetime.fromtimestamp(start_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        slot = m.RequestSlot(service, start, staff=staff if named else "")
        return NewInput("request_slot", wire.encode_message(slot), key, by)

    async def _ask(self, log: Log, book: str, new: NewInput, drawn: tuple[int, ...]) -> str:
        """Send a command and look at its outcome; the booking's id, or ""."""
        input_id = await self.send(log, book, new)
        if self._draws.chance("crowd.again", self._options.again, *drawn):
            await self.send(log, book, new)
        if not input_id:
            return ""
        outcome = await self.outcome(log, book, input_id)
        if outcome is None:
            self._marks.hit("outcome_unseen")
            return ""
        if outcome.status == "invalid":
            return ""
        result = self._decoder.decode(outcome.body)
        if isinstance(result, m.Refused):
            return ""
        for event in result.events:
            if isinstance(event, m.SlotHeld | m.SlotRequested):
                return event.booking
        return ""

    # -- the log -----------------------------------------------------------

    async def send(self, log: Log, book: str, new: NewInput) -> str:
        """Append until it is acknowledged; "" where that never came."""
        self.sent += 1
        wait_s = 0.25
        for attempt in range(SEND_ATTEMPTS_MAX):
            sent = self._trace.note(new.by, "send", f"{book} {new.type} {new.key}")
            try:
                (input_id,) = await log.append(book, [new])
            except (LogUnavailableError, ForeignDataError):
                if attempt == 0:
                    self._marks.hit("append_retried")
                await trio.sleep(wait_s)
                wait_s = min(wait_s * 2, 30.0)
            else:
                order = self._trace.note(new.by, "sent", input_id)
                self.acknowledged.append(Acknowledged(book, input_id, new.key, sent, order))
                return input_id
        return ""

    async def outcome(self, log: Log, book: str, input_id: str) -> OutcomeEntry | None:
        """The outcome of an input; None where it did not come in time."""
        with trio.move_on_after(OUTCOME_WAIT_S):
            while True:
                try:
                    after = {book: before(input_id)}
                    found = await log.read_outcomes(after, 1, OUTCOME_WAIT_S)
                except (LogUnavailableError, ForeignDataError):
                    await trio.sleep(1.0)
                    continue
                if any(one.status == BY_HAND for one in found.get(book, [])):
                    await trio.sleep(1.0)
                    continue
                for outcome in found.get(book, []):
                    self.seen.append((book, outcome))
                    self._trace.note(book, "outcome", f"{outcome.id} {outcome.status}")
                    if outcome.id == input_id:
                        return outcome
                    self.missed.append((book, input_id))
                    return None
        return None


def before(entry_id: str) -> str:
    """The greatest id that is less than *entry_id*."""
    ms, _, sequence = entry_id.partition("-")
    if int(sequence):
        return f"{ms}-{int(sequence) - 1}"
    return f"{int(ms) - 1}-{_SEQUENCE_LAST}"
