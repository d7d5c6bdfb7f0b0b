"""Rows of a file become commands in the log, each exactly once, however often the import is run.

What was imported is remembered by the log itself: an import first reads which keys a book's inputs
already hold and appends only the rest, in order. So there is no progress file that could be lost or
lie, and the key's memory in the book, which is limited in time, is not needed for it. An append whose
answer was lost is looked up in the same way before it is tried again.

Back-pressure: a batch of a book is bounded, and where the service is ours, so is the number of rows
that are in its log and not decided yet.
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from holdfast.actors.booking.views import payments
from holdfast.actors.ports import BATCH_MAX, GENESIS, LogUnavailableError
from holdfast.cli.checks import Checker
from holdfast.cli.common import EXIT_FAILED, CliError
from holdfast.cli.follow import order
from holdfast.cli.mapping import RowError
from holdfast.cli.practice import define

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.actors.ports import InputEntry, Log, NewInput, OutcomeEntry, Provider
    from holdfast.cli.checks import Report
    from holdfast.cli.mapping import Mapper
    from holdfast.cli.rows import Line

CHUNK_MAX: Final = 256
"""Most rows of a book appended in one go."""

BACKLOG_MAX: Final = 2_048
"""Most rows of a book that are in the log and not decided, where somebody decides."""

POLL_S: Final = 0.25
STALL_S_MAX: Final = 120.0
"""If nothing moves for so long, nobody is deciding."""

SETTLE_TRIES_MAX: Final = 120
PRINCIPAL: Final = "service:import"

Name = tuple[str, str, str]


class BadRow(msgspec.Struct, frozen=True):
    """A row that is left out."""

    line: int
    problem: str


class BookRows:
    """The rows of one book, and how far they are.

    Attributes:
      waiting: Commands that are not in the log yet, in order; the last comes first.
      ids: Entry ids of those that are, ascending.
      names: Principal, type and key of every row.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting: list[NewInput] = []
        self.ids: list[tuple[int, int]] = []
        self.names: dict[Name, None] = {}
        self.scanned = GENESIS
        self.decided_to: tuple[int, int] = (0, 0)
        self.at_rest = False

    @property
    def decided(self) -> int:
        """How many of the rows in the log are decided."""
        return bisect_right(self.ids, self.decided_to)


class Progress(msgspec.Struct):
    """How far an import is.

    Attributes:
      appended: By this run.
      actions: Payment actions that there are; ``paid``: those that were carried out.
    """

    rows: int = 0
    appended: int = 0
    decided: int = 0
    actions: int = 0
    paid: int = 0

    @property
    def share(self) -> float:
        """0 at the beginning to 1 at the end."""
        whole = 2 * self.rows - self.decided + self.actions
        return (self.decided + self.paid) / whole if whole else 1.0


class Tally(msgspec.Struct):
    """What became of the rows."""

    decided: int = 0
    accepted: int = 0
    refused: dict[str, int] = {}


class _Refusal(msgspec.Struct):
    code: str = "unknown"


def collect(mapper: Mapper, lines: Sequence[Line]) -> tuple[dict[str, BookRows], list[BadRow]]:
    """The rows by book, and those that cannot be used."""
    books: dict[str, BookRows] = {}
    bad: list[BadRow] = []
    for line in lines:
        try:
            if line.problem:
                raise RowError(line.problem)
            name = mapper.book(line.row)
            command = mapper.command(line.row)
            rows = books.setdefault(name, BookRows(name))
            key = _name(command)
            if key in rows.names:
                raise RowError(f"it has the key of an earlier row: {command.key}")
        except RowError as error:
            bad.append(BadRow(line.number, str(error)))
            continue
        rows.names[key] = None
        rows.waiting.append(command)
    for rows in books.values():
        rows.waiting.reverse()
    return {name: books[name] for name in sorted(books) if books[name].names}, bad


def _name(entry: NewInput | InputEntry) -> Name:
    return entry.by, entry.type, entry.key


class Importer:
    """Carries one import out.

    Args:
      log: Where the commands go.
      books: What :func:`collect` gave.
      mapper: Knows the practices.
      on_progress: Called now and then.
    """

    def __init__(
        self,
        log: Log,
        books: dict[str, BookRows],
        mapper: Mapper,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._log = log
        self._books = books
        self._mapper = mapper
        self._on_progress = on_progress
        self._progress = Progress(rows=sum(len(rows.names) for rows in books.values()))
        self.tally = Tally()

    @property
    def appended(self) -> int:
        """Rows appended by this run."""
        return self._progress.appended

    # -- appending ---------------------------------------------------------

    async def append(self, *, somebody_decides: bool) -> None:
        """Append what is not in the log yet.

        Args:
          somebody_decides: Keep each book's backlog bounded.

        Raises:
          CliError: A book's log was trimmed, or nothing moves.
        """
        for rows in self._books.values():
            await self._open(rows)
        self._on_progress(self._progress)
        patience = _Patience()
        while True:
            moved = 0
            for rows in self._books.values():
                if somebody_decides and len(rows.ids) - rows.decided >= BACKLOG_MAX:
                    continue
                moved += await self._append_chunk(rows)
            self._progress.appended += moved
            if not any(rows.waiting for rows in self._books.values()):
                return
            if somebody_decides:
                await self._look_if_possible()
            patience.note(self._progress)
            self._on_progress(self._progress)
            if not moved:
                await trio.sleep(POLL_S)

    async def _open(self, rows: BookRows) -> None:
        """Read what the book holds, and define its practice if that is not among it."""
        facts = await self._log.facts(rows.name, "inputs")
        if facts.added != facts.length:
            raise CliError(
                f"older inputs of the book {rows.name} were trimmed away, so nobody can tell which rows "
                "are imported already; import into another book or server",
                EXIT_FAILED,
            )
        practice = self._mapper.practice_of(rows.name)
        definition = None if practice is None else define(practice, PRINCIPAL)
        found = await self._scan(rows)
        if definition is not None and _name(definition) not in found:
            await self._log.append(rows.name, [definition])

    async def _scan(self, rows: BookRows) -> set[Name]:
        """Look through the book's inputs that were not looked at before; drop rows that are there."""
        found: dict[Name, tuple[int, int]] = {}
        while True:
            entries = await self._log.read_inputs({rows.name: rows.scanned}, BATCH_MAX, 0)
            for entry in entries.get(rows.name, []):
                rows.scanned = entry.id
                if entry.key:
                    found.setdefault(_name(entry), order(entry.id))
            if not entries:
                break
        own = [found[name] for name in found if name in rows.names]
        rows.ids = sorted({*rows.ids, *own})
        rows.waiting = [command for command in rows.waiting if _name(command) not in found]
        return set(found)

    async def _append_chunk(self, rows: BookRows) -> int:
        """Append the next few rows; return how many."""
        chunk = rows.waiting[: -CHUNK_MAX - 1 : -1]
        if not chunk:
            return 0
        try:
            ids = await self._log.append(rows.name, chunk)
        except LogUnavailableError:
            # They may be there or not. Look, and leave the rest to the next round.
            return await self._find_out(rows)
        del rows.waiting[-len(chunk) :]
        rows.ids += map(order, ids)
        rows.scanned = ids[-1]
        return len(chunk)

    async def _find_out(self, rows: BookRows) -> int:
        before = len(rows.waiting)
        with trio.move_on_after(STALL_S_MAX):
            while True:
                try:
                    await self._scan(rows)
                except LogUnavailableError:
                    await trio.sleep(POLL_S)
                    continue
                return before - len(rows.waiting)
        raise CliError(
            "the server has gone away; run the import again when it is back", EXIT_FAILED
        )

    # -- waiting -----------------------------------------------------------

    async def wait_until_at_rest(self) -> None:
        """Wait until all is decided, and no action waits to be carried out.

        Raises:
          CliError: Nothing moves any more.
        """
        patience = _Patience()
        while True:
            await self._look_if_possible()
            self._on_progress(self._progress)
            if all(rows.at_rest for rows in self._books.values()):
                return
            patience.note(self._progress)
            await trio.sleep(POLL_S)

    async def _look_if_possible(self) -> None:
        """See how far every book is; while the server is away, what was seen last stands."""
        with suppress(LogUnavailableError):
            await self._look()

    async def _look(self) -> None:
        """See how far every book is."""
        actions = paid = decided = 0
        for rows in self._books.values():
            record = await self._log.read_record(rows.name)
            rows.decided_to = order(record.position)
            decided += rows.decided
            facts = await self._log.facts(rows.name, "payments")
            waiting = facts.lag + facts.pending
            actions += facts.added
            paid += facts.added - waiting
            rows.at_rest = not waiting and not rows.waiting and await self._is_at_rest(rows)
        self._progress.decided, self._progress.actions = decided, actions
        self._progress.paid = paid

    async def _is_at_rest(self, rows: BookRows) -> bool:
        notifications = await self._log.facts(rows.name, "notifications")
        inputs = await self._log.facts(rows.name, "inputs")
        return (
            not notifications.lag
            and not notifications.pending
            and rows.decided_to >= order(inputs.last_id)
        )

    # -- the end -----------------------------------------------------------

    async def check(self, provider: Provider | None, *, settle: bool) -> list[Report]:
        """Check every book and count what became of the rows.

        Args:
          provider: Whose ledger to compare; None for nobody's.
          settle: Wait until no payment waits for a status check.

        Raises:
          CliError: A payment does not come to rest.
        """
        reports: list[Report] = []
        self.tally = Tally()
        for rows in self._books.values():
            for _ in range(SETTLE_TRIES_MAX):
                tally = Tally()
                checker = Checker(self._log, provider, rows.name, _Counter(rows, tally))
                report = await checker.run()
                if not settle or all(payment.at_rest for payment in payments(checker.runner.state)):
                    break
                await trio.sleep(1)
            else:
                raise CliError(f"payments of the book {rows.name} do not come to rest", EXIT_FAILED)
            reports.append(report)
            self._add(tally)
        return reports

    def _add(self, tally: Tally) -> None:
        self.tally.decided += tally.decided
        self.tally.accepted += tally.accepted
        for code, count in tally.refused.items():
            self.tally.refused[code] = self.tally.refused.get(code, 0) + count


class _Counter:
    """Counts the outcomes of an import's rows, each once."""

    def __init__(self, rows: BookRows, tally: Tally) -> None:
        self._left = dict(rows.names)
        self._tally = tally
        self._decoder = msgspec.json.Decoder(_Refusal)

    def __call__(self, entry: InputEntry, outcome: OutcomeEntry) -> None:
        if not entry.key or self._left.pop(_name(entry), entry) is entry:
            return
        self._tally.decided += 1
        if outcome.status == "accepted":
            self._tally.accepted += 1
        else:
            code = self._decoder.decode(outcome.body).code
            self._tally.refused[code] = self._tally.refused.get(code, 0) + 1


class _Patience:
    """Ends when nothing has moved for too long."""

    def __init__(self) -> None:
        self._last: tuple[int, ...] = ()
        self._since = trio.current_time()

    def note(self, progress: Progress) -> None:
        """Take in how far things are.

        Raises:
          CliError: As far as ``STALL_S_MAX`` ago.
        """
        now = (progress.appended, progress.decided, progress.actions, progress.paid)
        if now != self._last:
            self._last, self._since = now, trio.current_time()
        elif trio.current_time() - self._since > STALL_S_MAX:
            raise CliError(
                f"nothing has moved for {STALL_S_MAX:.0f} s; see the logs in the data folder, "
                "and run the import again: it goes on where it stopped",
                EXIT_FAILED,
            )
