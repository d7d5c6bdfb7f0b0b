"""What ``holdfast demo`` does: a whole service, a crowd, a kill, and the questions at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.booking.views import Appointment, payments, whole_calendar
from holdfast.bootstrap import open_log, open_provider
from holdfast.cli.checks import Checker, Finding
from holdfast.cli.crowd import Crowd, plan, script
from holdfast.cli.follow import catch_up, order
from holdfast.cli.practice import load_practice
from holdfast.cli.supervisor import Supervisor
from holdfast.cli.up import open_book

if TYPE_CHECKING:
    from holdfast.actors.booking.messages import DefinePractice
    from holdfast.actors.ports import InputEntry, Log, OutcomeEntry
    from holdfast.cli.crowd import Seen
    from holdfast.config.settings import Settings

BOOK: Final = "demo"
CUSTOMERS_PER_S: Final = 30
SPREAD_S: Final = (3.0, 10.0)
"""Over how long the crowd comes, at least and at most."""

REST_S_MAX: Final = 60.0
"""Longest wait for the last payments."""

TICK_S: Final = 0.25

POLICIES: Final = {"hold_s": 60, "check_settle_s": 2}
"""The practice's policies in the demo: shorter waits than anybody would want in life."""


class Counts(msgspec.Struct):
    """How things stand.

    Attributes:
      bookings: By status.
    """

    customers: int
    pushed: int = 0
    done: int = 0
    decided: int = 0
    bookings: dict[str, int] = {}

    def line(self) -> str:
        """One line for people."""
        bookings = ", ".join(f"{count} {status}" for status, count in sorted(self.bookings.items()))
        return (
            f"{self.done}/{self.customers} customers, {self.pushed} pushed, "
            f"{self.decided} decided: {bookings or 'no bookings yet'}"
        )


class Result(msgspec.Struct, frozen=True):
    """What ``--json`` prints."""

    holds: bool
    customers: int
    seed: int
    pushed: int
    retries: int
    outcomes: dict[str, int]
    bookings: dict[str, int]
    day: str
    calendar: list[Appointment]
    findings: list[Finding]
    restarts: dict[str, int]
    seconds: float


Show = Callable[["Counts | None", str], None]
"""Shows how things stand, or a sentence."""


async def rehearse(settings: Settings, customers: int, seed: int, show: Show) -> Result:
    """Run the service, let the crowd book, kill the booking actor, and ask what is left.

    Args:
      settings: Whose data folder is new.
      customers: How many.
      seed: Of what they want.
      show: Told how things stand.
    """
    began = monotonic()
    practice = _practice(load_practice("dentist"))
    settings.data.mkdir(parents=True, exist_ok=True)
    script_file = settings.data / "provider-script.json"
    script_file.write_bytes(msgspec.json.encode(script(seed)))

    def on_event(part: str, what: str) -> None:
        show(None, f"{part} {what}")

    supervisor = Supervisor(settings, to_files=True, script=script_file, on_event=on_event)
    show(None, "starting a server, a payment provider and three actors, each its own process")
    async with supervisor.running():
        found = supervisor.settings
        monday = _monday_after(await open_book(supervisor, BOOK, practice))
        spread_s = min(max(customers / CUSTOMERS_PER_S, SPREAD_S[0]), SPREAD_S[1])
        plans = plan(practice, monday, customers, seed, spread_s)
        crowd = Crowd(BOOK, plans, lambda: open_log(found))
        show(None, f"{customers} customers want the week of {monday}; the dentist has one chair")
        async with open_log(found) as log, open_provider(found) as provider:
            runner = await _let_them_book(supervisor, log, crowd, Counts(customers), show)
            show(None, "checking")
            tally = _Tally(crowd.seen)
            report = await Checker(log, provider, BOOK, tally).run()
            findings = await _own_findings(log, supervisor, crowd.seen, tally, runner)
        restarts = dict(supervisor.restarts)
    findings += report.findings
    day, calendar = _first_day(runner)
    return Result(
        holds=all(finding.holds for finding in findings),
        customers=customers,
        seed=seed,
        pushed=len(crowd.seen.pushed),
        retries=crowd.seen.retries,
        outcomes=dict(sorted(tally.outcomes.items())),
        bookings=_bookings(runner),
        day=day,
        calendar=calendar,
        findings=findings,
        restarts=restarts,
        seconds=round(monotonic() - began, 1),
    )


def _practice(practice: DefinePractice) -> DefinePractice:
    policies = msgspec.structs.replace(practice.policies, **POLICIES)
    return msgspec.structs.replace(practice, policies=policies)


def _monday_after(now_ms: int) -> date:
    """The Monday of the week after next: in the future of every time zone."""
    today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
    return today + timedelta(days=14 - today.weekday())


# --- while it runs ------------------------------------------------------------------------------


async def _let_them_book(
    supervisor: Supervisor, log: Log, crowd: Crowd, counts: Counts, show: Show
) -> BookRunner:
    """Run the crowd, kill the booking actor when half are through, wait for the last payment."""
    runner = BookRunner(BOOK)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, log, runner, crowd.seen, counts, show)
        nursery.start_soon(_kill_in_the_middle, supervisor, crowd.seen, counts.customers, show)
        await crowd.run()
        show(None, "everybody is through; waiting for the last payments")
        with trio.move_on_after(REST_S_MAX):
            await _until_at_rest(log, runner)
        nursery.cancel_scope.cancel()
    return runner


async def _watch(log: Log, runner: BookRunner, seen: Seen, counts: Counts, show: Show) -> None:
    """Follow the log, and show how things stand."""

    async def count(entries: Sequence[InputEntry], _decided: object) -> None:
        counts.decided += len(entries)

    while True:
        await catch_up(log, BOOK, runner, on_batch=count)
        counts.pushed, counts.done = len(seen.pushed), seen.done
        counts.bookings = _bookings(runner)
        show(counts, "")
        await trio.sleep(TICK_S)


async def _kill_in_the_middle(
    supervisor: Supervisor, seen: Seen, customers: int, show: Show
) -> None:

    while seen.done * 2 < customers:  # noqa: ASYNC110 - the crowd counts, it signals nothing
        await trio.sleep(0.01)
    pid = supervisor.pids.get("booking")
    if supervisor.kill("booking"):
        show(None, f"the booking actor, process {pid}, is killed with SIGKILL")


async def _until_at_rest(log: Log, runner: BookRunner) -> None:
    """Wait until every input is decided and committed, and no action or payment is under way."""
    while True:
        await trio.sleep(TICK_S)
        inputs = await log.facts(BOOK, "inputs")
        record = await log.read_record(BOOK)
        if order(inputs.last_id) > order(record.position) or runner.position != inputs.last_id:
            continue
        if not all(payment.at_rest for payment in payments(runner.state)):
            continue
        waiting = 0
        for stream in ("payments", "notifications"):
            facts = await log.facts(BOOK, stream)
            waiting += facts.lag + facts.pending
        if not waiting:
            return


def _bookings(runner: BookRunner) -> dict[str, int]:
    counts: dict[str, int] = {}
    for booking in runner.state.bookings.values():
        counts[booking.status] = counts.get(booking.status, 0) + 1
    return dict(sorted(counts.items()))


def _first_day(runner: BookRunner) -> tuple[str, list[Appointment]]:
    """The first day that has appointments, and these."""
    calendar = whole_calendar(runner.state)
    if not calendar:
        return "", []
    day = calendar[0].start[:10]
    return day, [item for item in calendar if item.start[:10] == day]


# --- at the end ---------------------------------------------------------------------------------


class _Tally:
    """Counts outcomes, and notes which inputs have one."""

    def __init__(self, seen: Seen) -> None:
        self.outcomes: dict[str, int] = {}
        self.lost = dict.fromkeys(seen.pushed)

    def __call__(self, entry: InputEntry, outcome: OutcomeEntry) -> None:
        self.lost.pop(entry.id, None)
        if not entry.key:
            return
        what = outcome.status
        if what == "refused":
            what = str(msgspec.json.decode(outcome.body, type=dict[str, str])["code"])
        self.outcomes[what] = self.outcomes.get(what, 0) + 1


async def _own_findings(
    log: Log, supervisor: Supervisor, seen: Seen, tally: _Tally, runner: BookRunner
) -> list[Finding]:

    inputs = await log.facts(BOOK, "inputs")
    outcomes = await log.facts(BOOK, "outcomes")
    lost = [f"{entry_id} was pushed and has no outcome" for entry_id in tally.lost]
    lost += [f"{entry_id} was not answered in time" for entry_id in seen.unanswered]
    if inputs.added != outcomes.added:
        lost.append(f"there are {inputs.added} inputs and {outcomes.added} outcomes")
    killed = supervisor.restarts.get("booking", 0)
    calendar = whole_calendar(runner.state)
    unsettled = [p.payment for p in payments(runner.state) if not p.at_rest]
    return [
        Finding(
            "crash",
            "The booking actor was killed with SIGKILL in the middle and started again.",
            [] if killed else ["it was not started again"],
        ),
        Finding(
            "nothing lost",
            f"Each of the {len(seen.pushed)} requests pushed has exactly one outcome.",
            lost,
        ),
        Finding(
            "retries",
            f"All {seen.retries} retries under the same key got the first one's answer.",
            [f"{entry_id} got another answer" for entry_id in seen.contradicted],
        ),
        Finding(
            "no double booking",
            f"Nobody is double-booked: {len(calendar)} appointments, no two at one time.",
            _overlaps(calendar),
        ),
        Finding(
            "payments",
            "No payment is left in the air.",
            [f"{payment} is still under way" for payment in unsettled],
        ),
    ]


def _overlaps(calendar: list[Appointment]) -> list[str]:
    """Appointments of one member of staff that overlap, found without the book's own bookkeeping."""
    problems: list[str] = []
    ends: dict[str, tuple[datetime, str]] = {}
    for item in sorted(calendar, key=lambda each: datetime.fromisoformat(each.start)):
        start, end = datetime.fromisoformat(item.start), datetime.fromisoformat(item.end)
        before = ends.get(item.staff)
        if before is not None and start < before[0]:
            problems.append(f"{item.booking} overlaps {before[1]}")
        if before is None or end > before[0]:
            ends[item.staff] = (end, item.booking)
    return problems
