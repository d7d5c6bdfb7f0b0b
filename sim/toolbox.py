"""The tools of the simulated world's operator: those of ``holdfast.tools``, beside a live book.

Each tool has a connection of its own (``tool_log``), which suffers what connections suffer: the server is
away in the middle, fails over, or the book changes hands. What a tool then says must be an error of its own
kind; whatever else it says must be so, unless the server fails over just as it is said.

Exports are imported elsewhere: on a second server, with troubles of its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio

from holdfast.actors.booking.runner import BookBugError, VersionError
from holdfast.actors.ports import GENESIS, LogError, LogUnavailableError
from holdfast.bootstrap import BookingPorts, run_with
from holdfast.sim.crowd import Acknowledged
from holdfast.sim.leaks import LeakError
from holdfast.sim.memory_files import MemoryFolder
from holdfast.sim.releases import OtherRelease
from holdfast.sim.server import SimServer, fingerprint
from holdfast.sim.tool_log import ToolLog
from holdfast.sim.trace import TooManyEventsError
from holdfast.sim.violations import ViolationError
from holdfast.tools.archive import Archive
from holdfast.tools.compare import compare
from holdfast.tools.errors import ToolError
from holdfast.tools.export import export_log
from holdfast.tools.history import HistoryChangedError
from holdfast.tools.letters import read_letters, retry_letter
from holdfast.tools.replay import replay
from holdfast.tools.restore import restore_log
from holdfast.tools.snapshots import save_snapshot
from holdfast.tools.sources import ArchiveSource, LogSource
from holdfast.tools.status import book_status
from holdfast.tools.trim import require_archived, trimmable
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.booking.actor import BookingOptions
    from holdfast.sim.checks import Checks
    from holdfast.sim.crowd import Crowd
    from holdfast.sim.draws import Draws
    from holdfast.sim.history import RecordingLog
    from holdfast.sim.marks import Marks
    from holdfast.sim.trace import Trace
    from holdfast.tools.letters import Letter
    from holdfast.tools.replay import Replay
    from holdfast.transport.memory_log import MemoryBook

_T = TypeVar("_T")

ATTEMPTS_MAX: Final = 4
"""So often somebody imports an export where the server is away."""

AGAIN_S: Final = 10.0
SERVED_S: Final = 5.0
"""How long a booking actor serves a book that was imported."""

RELEASE_S: Final = 20.0
"""When another release that finds nothing to refuse is stopped."""

LATE_S: Final = 60.0

_IMPORTS: Final = tuple(
    f"operator_{op}" for op in ("prepare", "write", "finish", "register", "abandon")
)

_MAY: Final = {
    "keep": ("save_snapshot",),
    "tidy": ("operator_trim",),
    "letters": ("operator_retry", "operator_drop"),
}
"""What a tool asks for beside what only looks."""

_ALARMS: Final = (
    *("does not give what", "decided otherwise", "altered", "damaged", "cut short"),
    "it would come back",
)
"""What a tool may say only where something was lost or spoilt; letters are put right here."""


class Toolbox:
    """The tools of one world.

    Args:
      server: The world's.
      log: The truth.
      crowd: Whose are the commands that are put right and sent again.
      checks: What is known of the books; told where a tool says what is not so.
      draws: What exactly is done.
      marks: What happened at least once.
      trace: Where it is noted.
      nursery: The world's own, for the second server.
      booking: How the booking actor works that takes over what was imported.
      command: Type and body of a command that can be understood, for a letter that is put right.
    """

    def __init__(
        self,
        server: SimServer,
        log: RecordingLog,
        crowd: Crowd,
        checks: Checks,
        draws: Draws,
        marks: Marks,
        trace: Trace,
        nursery: trio.Nursery,
        booking: BookingOptions,
        command: tuple[str, bytes],
    ) -> None:
        self._server = server
        self._log = log
        self._crowd = crowd
        self._checks = checks
        self._draws = draws
        self._marks = marks
        self._trace = trace
        self._nursery = nursery
        self._booking = booking
        self._command = command
        self._folder = MemoryFolder()
        self._elsewhere: SimServer | None = None
        self._sent_again: dict[tuple[str, str], str] = {}
        """The keys of letters that were sent again, by book and letter."""

    def heal(self) -> None:
        """Nothing befalls the second server any more."""
        if self._elsewhere is not None:
            self._elsewhere.heal()

    async def use(self, tool: str, book: str, number: int) -> None:
        """Use *tool*, the name of a method, for the *number*-th time.

        Raises:
          ViolationError: It said what is not so, or ended by an error that is none of its own.
        """
        log = self._open(f"{tool}-{number}", _MAY.get(tool, ()))
        try:
            await getattr(self, tool)(log, book, number)
        except LogUnavailableError as error:
            self._ended(tool, "unavailable", error)
        except HistoryChangedError as error:
            self._ended(tool, "history_changed", error)
        except (ToolError, LogError) as error:
            self._ended(tool, "refused", error)
            if any(alarm in str(error) for alarm in _ALARMS):
                self._tell(log, "tools", f"{tool} of {book}: {error}")
        except BookBugError as error:
            self._ended(tool, "refused", error)
            self._tell(log, "no bug", f"{tool} of {book}: {error}")
        except (ViolationError, LeakError, TooManyEventsError):
            raise
        except Exception as error:
            self._checks.fail("no bug", f"{tool} of {book}: {type(error).__name__}: {error}")
        if log.superseded:
            self._marks.hit("tool_superseded")

    def _ended(self, tool: str, how: str, error: Exception) -> None:
        self._marks.hit(f"tool_{how}")
        self._trace.note("operator", f"{tool} {how}", str(error))

    def _did(self, what: str, details: str) -> None:
        self._marks.hit(f"tool_{what}")
        self._trace.fault("operator", f"tool {what}", details)

    def _tell(self, log: ToolLog, check: str, what: str) -> None:
        """Fail the world, unless what was read over *log* is of a history that is over by now."""
        if log.is_of_now:
            self._checks.fail(check, what)

    def _open(self, name: str, may: Sequence[str] = (), server: SimServer | None = None) -> ToolLog:
        """A tool's connection, which lets the requests *may* through and others that only look."""
        tell = partial(self._checks.fail, "S15 no live effect")
        return ToolLog(server or self._server, name, may, tell)

    # -- looking -------------------------------------------------------------

    async def look(self, log: ToolLog, book: str, number: int) -> None:
        """``status``; ``replay`` of all, with ``--until-violation``, and of a part, with ``--to``."""
        await self.inspect(log, book, number)
        self._did("looked", book)

    async def inspect(self, log: ToolLog, book: str, number: int) -> None:
        """What ``look`` does, and no mark of it: at the end of the world it tells nothing new."""
        status = await book_status(log, log.operator, book, late_s=LATE_S)
        self._same(log, book, "status", status.position, status.digest)
        if any("lost its tail" in problem for problem in status.problems):
            self._tell(log, "tools", f"{book}: status says {status.problems}")
        source = await LogSource.open(log, book, operator=log.operator)
        whole = await replay(source, until_violation=True, tell=_tell)
        self._replayed(log, book, whole)
        commits = self._log.of(book).commits
        if commits:
            to = self._draws.pick("tools.to", commits, book, number).commit.position
            source = await LogSource.open(log, book, operator=log.operator)
            self._replayed(log, book, await replay(source, to=to, tell=_tell))

    def _replayed(self, log: ToolLog, book: str, result: Replay) -> None:
        if result.violated or result.parted:
            what = f"violated {result.violated}, parted {result.parted or 'nowhere'}"
            self._tell(log, "tools", f"replay of {book} to {result.position}: {what}")
        self._same(log, book, "replay", result.position, result.digest)

    def _same(self, log: ToolLog, book: str, tool: str, position: str, digest: str) -> None:
        """Make sure that *digest* is the one with which the book came to *position*."""
        known = self._checks.shadows[book].digests.get(position, digest)
        if known != digest:
            self._tell(log, "tools", f"{tool} of {book} says {digest} at {position}, not {known}")

    # -- archiving -----------------------------------------------------------

    async def archive(self, log: ToolLog, book: str, number: int) -> None:
        """``export``, ``replay FILE --diff BOOK``, and ``import`` on another server."""
        archive = await self._export(log, book, f"archive-{number}")
        source = await LogSource.open(log, book, operator=log.operator)
        difference = await compare(ArchiveSource(archive), source, tell=_tell)
        if difference.first:
            self._tell(log, "tools", f"the export of {book} differs from it: {difference}")
        self._did("exported", f"{book} {archive.header.last}")
        await self._import(log, book, archive, f"{book}-copy-{number}")

    async def copy(self, log: ToolLog, book: str, number: int) -> None:
        """``export``, and ``deadletters list``."""
        await read_letters(log.operator, book, 100)
        await self._export(log, book, f"copy-{number}")

    async def _export(self, log: ToolLog, book: str, name: str, to: str = "") -> Archive:
        file = self._folder.file(f"{book}-{name}")
        header, problem = await export_log(
            log, book, file, to=to, operator=log.operator, tell=_tell
        )
        archive = Archive(file)
        inputs = [archived.entry for archived in archive.inputs()]
        if to and header.last != to:
            self._tell(log, "tools", f"the export of {book} up to {to} ends at {header.last}")
        if problem or inputs != self._checks.between(book, header.after, header.last):
            self._tell(
                log, "tools", f"the export of {book} up to {header.last} is not its log: {problem}"
            )
        self._same(log, book, "export", header.last, header.link)
        return archive

    async def _import(self, log: ToolLog, book: str, archive: Archive, name: str) -> None:
        server = self._elsewhere or self._open_elsewhere()
        elsewhere = self._open(f"import-{name}", _IMPORTS, server)
        for attempt in range(ATTEMPTS_MAX):
            try:
                await restore_log(archive, elsewhere.operator, name, _tell, _agree)
                break
            except LogUnavailableError:
                self._marks.hit("tool_unavailable")
                await trio.sleep(AGAIN_S)
            except LogError:
                if attempt and name in server.log.books:
                    break  # an attempt of which nobody heard was one too many
                raise
        else:
            return  # nobody said that it was done
        held = server.log.books.get(name)
        if held is None or not held.inputs.added:
            return
        if not _has_lost(server):
            self._check_copy(log, book, archive, name, server)
        self._did("imported", f"{book} {archive.header.last} {name}")
        await self._serve_copy(book, name, server)
        if not _has_lost(server):
            self._check_served(book, archive, held)

    def _open_elsewhere(self) -> SimServer:
        """A second server, which suffers from now on what the first one does."""
        server, now_ms = self._server, self._server.clock.now_ms()
        faults = msgspec.structs.replace(
            server.faults,
            away=tuple(one for one in server.faults.away if one.end_ms > now_ms),
            failovers=tuple(
                one for one in server.faults.failovers if one.at_ms - one.lost_ms > now_ms
            ),
        )
        self._elsewhere = SimServer(
            server.clock, self._draws, faults, self._nursery, options=server.options
        )
        if server.healed:
            self._elsewhere.heal()
        return self._elsewhere

    def _check_copy(
        self, log: ToolLog, book: str, archive: Archive, name: str, server: SimServer
    ) -> None:
        """Make sure that a book that was imported is there as a whole."""
        header, held = archive.header, server.log.book(name)
        fail = partial(self._checks.fail, "tools")
        if name not in server.log.registered:
            fail(f"the import of {book} made a book that nobody knows")
        inputs = [archived.entry for archived in archive.inputs()]
        first = archive.begin is not None
        if held.inputs.entries[first : first + len(inputs)] != inputs:
            fail(f"the import of {book} has other inputs than the export")
        decided = max(header.after, min(header.decided, header.last, key=parse_id), key=parse_id)
        if held.record.position != decided and not held.record.owner:
            fail(f"the import of {book} is at {held.record.position}, not at {decided}")
        self._same(log, book, "import", held.record.position, held.record.digest)
        outcomes = self._log.whole_outcomes(book)
        if any(outcomes.get(parse_id(one.id)) != one for one in held.outcomes.entries):
            self._tell(log, "tools", f"the import of {book} has other outcomes than the book")

    async def _serve_copy(self, book: str, name: str, server: SimServer) -> None:
        """Let a booking actor take the copy over and go on with it for a while."""
        stop = trio.Event()
        token = f"{self._draws.keyed('tools.owner', book, name):032x}"
        leads = server.connect(f"booking-{name}")
        rng = self._draws.generator("tools.booking", token)
        ports = BookingPorts(leads, server.clock, token, self._booking, rng=rng)

        async def serve() -> None:
            try:
                await run_with(ports, stop)
            except LogError as error:
                self._trace.note("operator", "copy given up", f"{name} {error}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await trio.sleep(SERVED_S)
            stop.set()

    def _check_served(self, book: str, archive: Archive, held: MemoryBook) -> None:
        """Make sure that the copy asks what became of calls, and makes none a second time."""
        decided = parse_id(archive.header.decided)
        made = {
            action.action: None
            for written in self._log.of(book).commits
            if parse_id(written.commit.position) <= decided
            for action in written.commit.payments
        }
        for action in held.payments.entries:
            if action.action in made and action.type != "check_status":
                self._checks.fail("S6 one effect", f"a copy of {book} makes {action.action} again")
        if held.payments.entries:
            self._marks.hit("tool_imported_mattered")

    # -- keeping -------------------------------------------------------------

    async def keep(self, log: ToolLog, book: str, number: int) -> None:
        """``snapshot``, into the log."""
        kept = await save_snapshot(log, log.operator, book, _tell)
        self._same(log, book, "snapshot", kept.position, kept.digest)
        self._did("kept", f"{book} {kept.position}")
        if kept.saved:
            self._marks.hit("tool_kept_mattered")

    async def tidy(self, log: ToolLog, book: str, number: int) -> None:
        """``export``, and ``trim --archive FILE``."""
        # Sometimes somebody takes an export that is too old.
        commits = self._log.of(book).commits
        old = commits and self._draws.chance("tools.old", 0.3, book, number)
        to = self._draws.pick("tools.until", commits, book, number).commit.position if old else ""
        archive = await self._export(log, book, f"tidy-{number}", to)
        going = await trimmable(log.operator, book)
        if not going.keep:
            return
        await require_archived(log.operator, archive, going, _tell)
        removed = await log.operator.trim(book, going.keep, going.history)
        self._did("tidied", f"{book} {removed}")
        if removed["inputs"]:
            self._marks.hit("tool_tidied_mattered")
            archived = dict.fromkeys(one.entry.id for one in archive.inputs())
            first, keep = parse_id(going.first), parse_id(going.keep)
            for entry in self._checks.between(book, GENESIS, going.keep):
                if first <= parse_id(entry.id) < keep and entry.id not in archived:
                    self._tell(log, "tools", f"{book}: {entry.id} was trimmed and is in no archive")

    async def release(self, log: ToolLog, book: str, number: int) -> None:
        """Start a booking actor of another release: it refuses the books, and leaves them alone."""

        def on_take_over(taken: str) -> None:
            self._checks.fail("releases", f"another release took {taken} over")

        other = OtherRelease(self._server, f"release-{number}", on_take_over)
        owner = f"{self._draws.keyed('tools.release', book, number):032x}"
        rng = self._draws.generator("tools.release", book, number)
        ports = BookingPorts(other, self._server.clock, owner, self._booking, rng=rng)
        with trio.move_on_after(RELEASE_S):
            try:
                await run_with(ports, trio.Event())
            except VersionError as error:
                self._did("other_release", str(error))

    # -- dead letters --------------------------------------------------------

    async def letters(self, log: ToolLog, book: str, number: int) -> None:
        """``deadletters list``, then ``retry`` or ``drop`` of one."""
        found = await read_letters(log.operator, book, 100)
        if not found:
            return
        letter = self._draws.pick("tools.letter", found, book, number)
        if self._draws.chance("tools.drop", 0.25, book, number):
            dropped = await log.operator.drop_letters(book, [letter.id])
            if dropped > 1:
                self._checks.fail("tools", f"{dropped} letters of {book} were dropped, not one")
            if dropped:
                self._did("letter_dropped", f"{book} {letter.id}")
            return
        await self._retry(log, book, letter)

    async def _retry(self, log: ToolLog, book: str, letter: Letter) -> None:
        """Put a letter right and send it again; somebody else may do so at the same time."""
        key = f"letter-{letter.id}"
        kind, body = self._command
        changes = {"type": kind, "body": body.decode(), "key": key, "by": "service:letters"}
        self._sent_again[book, letter.id] = key
        sent = self._trace.note("service:letters", "send", f"{book} {kind} {key}")
        _, input_id = await retry_letter(log.operator, book, letter.id, changes, dry=False)
        order = self._trace.note("service:letters", "sent", input_id)
        self._crowd.acknowledged.append(Acknowledged(book, input_id, key, sent, order))
        self._did("letter_retried", f"{book} {letter.id} {input_id}")
        outcome = await self._crowd.outcome(log, book, input_id)
        if outcome is not None and outcome.status != "invalid":
            self._marks.hit("tool_letter_retried_mattered")

    # -- afterwards ----------------------------------------------------------

    def at_end(self) -> None:
        """Make sure that each letter that was sent again is one input, or still a letter."""
        for (book, letter), key in self._sent_again.items():
            inputs = self._log.whole_inputs(book).entries
            count = sum(entry.key == key for entry in inputs)
            kept = self._log.book(book).deadletters.get(parse_id(letter)) is not None
            if count > 1 or (count and kept and not self._checks.failover):
                what = (
                    f"{count} times among the inputs, {'and' if kept else 'not'} among the letters"
                )
                self._checks.fail("S14 poison", f"{book}: the letter {letter} is {what}")

    async def look_at_stopped(self, books: Sequence[str]) -> None:
        """Use all that only looks, where nobody else changes anything: all is left to the last byte."""
        checks = self._checks
        calls = len(checks.provider.calls), len(checks.mailer.arrivals)
        before = fingerprint(self._log)
        for book in books:
            await self.use("inspect", book, -1)
            await self.use("copy", book, -1)
        if fingerprint(self._log) != before:
            checks.fail("S15 no live effect", "tools that only look changed the log")
        if calls != (len(checks.provider.calls), len(checks.mailer.arrivals)):
            checks.fail("S15 no live effect", "tools called somebody")


def _has_lost(server: SimServer) -> bool:
    """Whether *server* went back to what it was some time ago."""
    return any(kind in server.counts.fired for kind in ("failover", "old_file"))


def _tell(_done: int, _total: int) -> None:
    """Nobody watches the progress."""


async def _agree(_under_way: int, _undecided: int) -> bool:
    return True
