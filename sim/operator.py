"""The operator of the simulated world: a person, with tools, who works on the log of a live service.

Nothing that is done here may harm: the practice is changed under bookings, old entries are appended
again, the log is trimmed by the port's own guarded trim, an older snapshot is put back, and books are
replayed by the side of those who decide them. What spoils a book until somebody puts it right is told in
``meddling``. What destroys its inputs ends its service with an error that says what to do; that has tests of
its own, since such a world does not come to rest.

Each thing that is done hangs on a draw of its own (``operator.does``), as those of the crowd do.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import msgspec
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.book import LIVE
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.ports import (
    ForeignDataError,
    LogTrimmedError,
    LogUnavailableError,
    NewInput,
)
from holdfast.sim.operator_faults import KINDS, TOOLS
from holdfast.transport.codec import encode_input
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.actors.ports import Log, OutcomeEntry
    from holdfast.sim.checks import Checks
    from holdfast.sim.crowd import Crowd
    from holdfast.sim.draws import Draws
    from holdfast.sim.history import RecordingLog
    from holdfast.sim.marks import Marks
    from holdfast.sim.operator_faults import OperatorFaults
    from holdfast.sim.toolbox import Toolbox
    from holdfast.sim.trace import Trace

BY: Final = "service:office"
SCRIPT_LINES_MAX: Final = 4
PAGE: Final = 16
"""Inputs that a replay reads at a time, so that it goes on while the book does."""

_CHANGES: Final = ("prices", "hours", "policies", "holiday", "staff", "back")


class Operator:
    """One world's operator.

    Args:
      connect: Opens a connection under a name.
      log: The truth, where no port reads it: dead letters, old results, snapshots.
      crowd: How commands are sent, and what the practice offers.
      checks: Told where a replay differs; knows what is live.
      draws: What is done, and when.
      faults: How often.
      marks: What happened at least once.
      trace: Where it is noted.
      books: Their names.
      practice: What is changed.
      starts_ms: The slots that are asked for, by their beginning.
      toolbox: Tools, for what is done with them.
    """

    def __init__(
        self,
        connect: Callable[[str], Log],
        log: RecordingLog,
        crowd: Crowd,
        checks: Checks,
        draws: Draws,
        faults: OperatorFaults,
        marks: Marks,
        trace: Trace,
        books: Sequence[str],
        practice: m.DefinePractice,
        starts_ms: Sequence[int],
        toolbox: Toolbox,
    ) -> None:
        self._connect = connect
        self._log = log
        self._crowd = crowd
        self._checks = checks
        self._draws = draws
        self._faults = faults
        self._marks = marks
        self._trace = trace
        self._books = books
        self._practice = practice
        self._starts_ms = starts_ms
        self._toolbox = toolbox

    async def run(self) -> None:
        """Do everything; returns when it is done."""
        async with trio.open_nursery() as nursery:
            for kind in (*KINDS, *TOOLS):
                for number in range(getattr(self._faults, kind)):
                    if self._draws.chance("operator.does", 1.0, kind, number):
                        nursery.start_soon(self._do, kind, number)

    async def _do(self, kind: str, number: int) -> None:
        drawn = (kind, number)
        await trio.sleep(
            self._draws.below("operator.ms", self._faults.span_s * 1000, *drawn) / 1000
        )
        book = self._draws.pick("operator.book", self._books, *drawn)
        if kind in TOOLS:
            await self._toolbox.use(kind, book, number)
            return
        log = self._connect(f"operator-{kind}-{number}")
        try:
            await getattr(self, f"_{kind}")(log, book, number)
        except (LogUnavailableError, ForeignDataError):
            self._trace.note("operator", "gave up", f"{kind} {book}")

    def _did(self, what: str, details: str) -> None:
        self._marks.hit(f"operator_{what}")
        self._trace.fault("operator", what, details)

    # -- commands ----------------------------------------------------------

    async def _redefine(self, log: Log, book: str, number: int) -> None:
        change = self._draws.pick("operator.change", _CHANGES, number)
        practice = changed(self._practice, change, number, self._starts_ms[0])
        live = [one for one in self._checks.state_of(book).bookings.values() if one.status in LIVE]
        body = wire.encode_message(practice)
        if not await self._crowd.send(
            log, book, NewInput("define_practice", body, f"change-{number}", BY)
        ):
            return
        self._did("redefined", f"{book} {change}")
        if live:
            self._marks.hit("operator_redefined_mattered")
        closed = [day for day in self._practice.hours if day not in practice.hours]
        if any(_weekday(one.start_ms, practice.zone) in closed for one in live):
            self._marks.hit("operator_holiday")

    async def _script(self, log: Log, book: str, number: int) -> None:
        """Run a producer's script to its end, and again."""
        lines = [
            self._line(number, line)
            for line in range(1 + self._draws.below("operator.lines", SCRIPT_LINES_MAX, number))
        ]
        first = await self._run_script(log, book, lines)
        await trio.sleep(self._draws.below("operator.again_s", self._faults.span_s, number))
        self._did("script", book)
        for one, other in zip(first, await self._run_script(log, book, lines), strict=True):
            if one is None or other is None:
                continue
            if other.replayed and one.status == "accepted":
                self._marks.hit("operator_script_mattered")
            same = other.replayed and one.body == other.body
            if one.status == "accepted" and not same and not self._checks.failover:
                what = f"{book}: {other.id} got another answer than {one.id} under the same key"
                self._checks.fail("S7 one outcome", what)

    def _line(self, number: int, line: int) -> NewInput:
        drawn = ("script", number, line)
        service = self._draws.pick("operator.service", self._practice.services, *drawn).id
        start_ms = self._draws.pick("operator.start", self._starts_ms, *drawn)
        start = datetime.fromtimestamp(start_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        slot = m.RequestSlot(service, start, customer=f"S{number}-{line}")
        key = f"script-{number}-{line}"
        return NewInput("request_slot", wire.encode_message(slot), key, "service:script")

    async def _run_script(
        self, log: Log, book: str, lines: Sequence[NewInput]
    ) -> list[OutcomeEntry | None]:
        outcomes: list[OutcomeEntry | None] = []
        for line in lines:
            input_id = await self._crowd.send(log, book, line)
            outcomes.append(await self._crowd.outcome(log, book, input_id) if input_id else None)
        return outcomes

    async def _redrive(self, log: Log, book: str, number: int) -> None:
        """Append a dead letter again as it was; one that is no text of ours stays where it is."""
        fields = [letter.fields for letter in self._log.book(book).deadletters.entries]
        ours = [new for new in map(_new_input, fields) if new is not None]
        if not ours:
            return
        new = self._draws.pick("operator.letter", ours, number)
        if await self._crowd.send(log, book, new):
            self._did("redriven", f"{book} {new.type}")

    async def _result(self, log: Log, book: str, number: int) -> None:
        """Append an old result again: an executor that was taken for dead has it still."""
        inputs = self._log.book(book).inputs.entries
        results = [entry for entry in inputs if entry.type == "payment_result" and not entry.raw]
        if not results:
            return
        entry = self._draws.pick("operator.result", results, number)
        new = NewInput(entry.type, entry.body, entry.key, entry.by, entry.trace)
        if await self._crowd.send(log, book, new):
            self._did("result_again", f"{book} {entry.id}")

    # -- tools -------------------------------------------------------------

    async def _replay(self, log: Log, book: str, _number: int) -> None:
        """Decide the whole book anew beside its owner: the same digest, and nobody is called."""
        record = await log.read_record(book)
        runner = BookRunner(book, check=False)
        try:
            await _follow(log, runner, record.position)
        except LogTrimmedError:
            snapshot = await log.read_snapshot(book)
            if snapshot is None or parse_id(snapshot.position) > parse_id(record.position):
                return
            runner = BookRunner(book, snapshot, check=False)
            try:
                await _follow(log, runner, record.position)
            except LogTrimmedError:
                return  # trimmed once more, while it was reading
            self._marks.hit("operator_replayed_rest")
        if self._checks.failover or not record.digest:
            return  # what was read before a failover may be gone
        self._did("replayed", f"{book} {record.position}")
        if (runner.position, runner.digest) != (record.position, record.digest):
            what = f"{book}: a replay to {record.position} beside its owner gives another digest"
            self._checks.fail("S10 replay", what)

    async def _trim(self, log: Log, book: str, _number: int) -> None:
        removed = await log.trim(book)
        self._did("trimmed", f"{book} {sum(removed.values())} entries")
        if any(removed.values()):
            self._marks.hit("operator_trimmed_mattered")

    async def _snapshot(self, _log: Log, book: str, number: int) -> None:
        """Put back a snapshot from which the log can still be followed, and forget the newer ones."""
        held = self._log.book(book)
        first = held.inputs.ids[0] if held.inputs.ids else held.inputs.last
        trimmed = held.inputs.added > len(held.inputs.ids)
        last = parse_id(held.record.snapshot or "0-0")
        older = [
            one
            for one in self._log.of(book).snapshots
            if parse_id(one.position) < last and (not trimmed or parse_id(one.position) >= first)
        ]
        if not older:
            return
        back = self._draws.pick("operator.snapshot", older, number)
        held.snapshots = [back]
        held.record = msgspec.structs.replace(held.record, snapshot=back.position)
        self._log.of(book).put_back[back.position] = None
        self._did("snapshot_back", f"{book} {back.position}")


async def _follow(log: Log, runner: BookRunner, until: str) -> None:
    """Read and decide up to *until*, page by page."""
    last = parse_id(until)
    while parse_id(runner.position) < last:
        found = await log.read_inputs({runner.book: runner.position}, PAGE, 0.0)
        entries = [one for one in found.get(runner.book, []) if parse_id(one.id) <= last]
        if not entries:
            return
        runner.decide(entries)


def changed(
    practice: m.DefinePractice, change: str, number: int, first_ms: int
) -> m.DefinePractice:
    """*practice* after its owner has thought again.

    Args:
      change: Of what: ``prices``, ``hours``, ``policies``, ``holiday``, ``staff``; any other for none.
      number: The how-many-th change it is; prices rise with it.
      first_ms: A moment of the day that a holiday closes.
    """
    replace = msgspec.structs.replace
    policies = practice.policies
    match change:
        case "prices":
            services = [
                replace(service, price_cents=service.price_cents + 100 * (number + 1))
                for service in practice.services
            ]
            return replace(practice, services=services)
        case "hours":
            early: list[m.TimeRange] = [("06:00", "10:00")]
            return replace(practice, hours=dict.fromkeys(practice.hours, early))
        case "policies":
            first_wins = policies.contention == "first_payment_wins"
            other = replace(
                policies,
                contention="hold" if first_wins else "first_payment_wins",
                hold_s=policies.hold_s + 7,
                late_authorization=not policies.late_authorization,
                cancellation_deadline_min=60,
                keep_failed_h=1,
            )
            return replace(practice, policies=other)
        case "holiday":
            weekday = _weekday(first_ms, practice.zone)
            hours = {day: ranges for day, ranges in practice.hours.items() if day != weekday}
            return replace(practice, hours=hours)
        case "staff":
            return replace(practice, staff=practice.staff[-1:])
        case _:
            return practice


def _weekday(at_ms: int, zone: str) -> str:
    """The local weekday as a practice's hours name it."""
    local = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(ZoneInfo(zone))
    return str(local.isoweekday() % 7)


def _new_input(fields: Sequence[bytes]) -> NewInput | None:
    """The entry of *fields*, if the port can append it as it was."""
    values = dict(zip(fields[::2], fields[1::2], strict=False))
    names = (b"type", b"body", b"key", b"by", b"trace")
    if len(fields) % 2 or len(values) * 2 != len(fields) or not set(values) <= set(names):
        return None
    try:
        kind, key, by, trace = (
            values.get(name, b"").decode() for name in (b"type", b"key", b"by", b"trace")
        )
    except UnicodeDecodeError:
        return None
    new = NewInput(kind, values.get(b"body", b""), key, by, trace)
    try:
        encode_input(new)
    except ValueError:
        return None
    return new if new.type and new.body else None
