"""The tools of the simulated world's operator: those of ``holdfast.tools``, beside a live book.

Each tool has a connection of its own (``tool_log``), which suffers what connections suffer: the server is
away in the middle, fails over, or the book changes hands. What a tool then says must be an error of its own
kind; whatever else it says must be so, unless the server fails over just as it is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from holdfast.actors.booking.runner import BookBugError, BookRunner, VersionError
from holdfast.actors.booking.views import whole_calendar
from holdfast.actors.ports import (
    GENESIS,
    LogError,
    LogUnavailableError,
    ProviderUnavailableError,
)
from holdfast.bootstrap import BookingPorts, run_with
from holdfast.sim.crowd import Acknowledged
from holdfast.sim.leaks import LeakError
from holdfast.sim.reconciling import WAIT_S_MAX
from holdfast.sim.releases import OtherRelease
from holdfast.sim.server import fingerprint
from holdfast.sim.trace import TooManyEventsError
from holdfast.sim.violations import ViolationError
from holdfast.sim.workbench import no_progress
from holdfast.tools.errors import ToolError
from holdfast.tools.history import HistoryChangedError
from holdfast.tools.letters import read_letters, retry_letter
from holdfast.tools.replay import replay
from holdfast.tools.snapshots import read_snapshot_file, save_snapshot, write_snapshot_file
from holdfast.tools.sources import LogSource, SnapshotSource
from holdfast.tools.status import book_status
from holdfast.tools.trim import require_archived, trimmable
from holdfast.tools.whatif import what_if
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeAlias

    from holdfast.actors.booking.options import BookingOptions
    from holdfast.sim.action_letters import ActionLetters
    from holdfast.sim.crowd import Crowd
    from holdfast.sim.draining import Draining
    from holdfast.sim.meddling import Meddling
    from holdfast.sim.moving import Moving
    from holdfast.sim.reconciling import Reconciling
    from holdfast.sim.tool_log import ToolLog
    from holdfast.sim.workbench import Workbench
    from holdfast.tools.letters import Letter
    from holdfast.tools.replay import Replay
    from holdfast.tools.whatif import WhatIf

    Tool: TypeAlias = Callable[[ToolLog, str, int], Awaitable[None]]

ASKED_S_MAX: Final = 300
"""How long somebody may think about what a tool asks before it does it."""

RELEASE_S: Final = 20.0
"""When another release that finds nothing to refuse is stopped."""

LATE_S: Final = 60.0

_MAY: Final = {
    "keep": ("save_snapshot",),
    "tidy": ("operator_trim",),
    "letters": ("operator_retry", "operator_drop"),
    "reconcile": ("append",),
    "meddle": ("operator_retry", "operator_drop"),
    "strange": ("operator_retry", "operator_drop"),
}
"""What a tool asks for beside what only looks."""

_ONLY_LOOK: Final = ("look", "copy", "archive", "policies", "file")

_NEVER: Final[dict[str, object]] = {"minimum_notice_min": 525_600}
"""Policies under which no slot of a world can be asked for: all are within days."""

_ALARMS: Final = (
    *("does not give what", "decided otherwise", "altered", "damaged", "cut short"),
    "it would come back",
)
"""What a tool may say only where something was lost or spoilt; letters are put right here."""


class Toolbox:
    """The tools of one world.

    Args:
      bench: What tools work with.
      moving: Exports and imports.
      draining: Stops of the service.
      meddling: What is done to keys by hand.
      letters: Dead letters that are actions.
      reconciling: The world's reconciler.
      crowd: Whose are the commands that are put right and sent again.
      booking: How a booking actor of another release works.
      command: Type and body of a command that can be understood, for a letter that is put right.
    """

    def __init__(
        self,
        bench: Workbench,
        moving: Moving,
        draining: Draining,
        meddling: Meddling,
        letters: ActionLetters,
        reconciling: Reconciling,
        crowd: Crowd,
        booking: BookingOptions,
        command: tuple[str, bytes],
    ) -> None:
        self._bench = bench
        self._moving = moving
        self._meddling = meddling
        self._reconciling = reconciling
        self._crowd = crowd
        self._booking = booking
        self._command = command
        self._tools: dict[str, Tool] = {
            "look": self.look,
            "inspect": self.inspect,
            "copy": moving.copy,
            "archive": moving.archive,
            "keep": self.keep,
            "tidy": self.tidy,
            "release": self.release,
            "letters": self.letters,
            "policies": self.policies,
            "file": self.file,
            "reconcile": self.reconcile,
            "drain": draining.drain,
            "meddle": meddling.meddle,
            "strange": letters.strange,
        }
        self._sent_again: dict[tuple[str, str], str] = {}
        """The keys of letters that were sent again, by book and letter."""

    async def use(self, tool: str, book: str, number: int) -> None:
        """Use *tool*, one of ``_tools``, for the *number*-th time.

        Raises:
          ViolationError: It said what is not so, or ended by an error that is none of its own.
        """
        log = self._bench.open(f"{tool}-{number}", _MAY.get(tool, ()))
        try:
            await self._tools[tool](log, book, number)
            if log.mixed and tool in _ONLY_LOOK:
                self._bench.checks.fail("tools", f"{tool} of {book} tells of two histories at once")
        except (LogUnavailableError, ProviderUnavailableError) as error:
            self._bench.ended(tool, "unavailable", error)
        except HistoryChangedError as error:
            self._bench.ended(tool, "history_changed", error)
        except (ToolError, LogError) as error:
            self._bench.ended(tool, "refused", error)
            if any(alarm in str(error) for alarm in _ALARMS):
                self._bench.tell(log, "tools", f"{tool} of {book}: {error}")
        except BookBugError as error:
            self._bench.ended(tool, "refused", error)
            self._bench.tell(log, "no bug", f"{tool} of {book}: {error}")
        except (ViolationError, LeakError, TooManyEventsError):
            raise
        except Exception as error:
            self._bench.checks.fail("no bug", f"{tool} of {book}: {type(error).__name__}: {error}")
        if log.superseded:
            self._bench.marks.hit("tool_superseded")

    # -- looking -------------------------------------------------------------

    async def look(self, log: ToolLog, book: str, number: int) -> None:
        """``status``; ``replay`` of all, with ``--until-violation``, and of a part, with ``--to``."""
        await self.inspect(log, book, number)
        self._bench.did("looked", book)

    async def inspect(self, log: ToolLog, book: str, number: int) -> None:
        """What ``look`` does, and no mark of it: at the end of the world it tells nothing new."""
        status = await book_status(log, log.operator, book, late_s=LATE_S)
        self._bench.same(log, book, "status", status.position, status.digest)
        if any("lost its tail" in problem for problem in status.problems):
            self._bench.tell(log, "tools", f"{book}: status says {status.problems}")
        source = await LogSource.open(log, book, operator=log.operator)
        whole = await replay(source, until_violation=True, tell=no_progress)
        self._replayed(log, book, whole)
        commits = self._bench.log.of(book).commits
        if commits:
            to = self._bench.draws.pick("tools.to", commits, book, number).commit.position
            source = await LogSource.open(log, book, operator=log.operator)
            self._replayed(log, book, await replay(source, to=to, tell=no_progress))

    def _replayed(self, log: ToolLog, book: str, result: Replay) -> None:
        if result.violated or result.parted:
            what = f"violated {result.violated}, parted {result.parted or 'nowhere'}"
            self._bench.tell(log, "tools", f"replay of {book} to {result.position}: {what}")
        self._bench.same(log, book, "replay", result.position, result.digest)

    async def policies(self, log: ToolLog, book: str, number: int) -> None:
        """``replay --with``: what other policies would have done."""
        bench = self._bench
        since = ""
        commits = bench.log.of(book).commits
        if commits and bench.draws.chance("tools.since", 0.3, book, number):
            since = bench.draws.pick("tools.first", commits, book, number).commit.position
        source = await LogSource.open(log, book, operator=log.operator)
        found = await what_if(source, _NEVER, since=since, tell=no_progress)
        self._check_what_if(log, source, found)
        bench.did("tried", f"{book} {found.differ} of {found.inputs}")
        if found.differ:
            bench.marks.hit("tool_tried_mattered")

    def _check_what_if(self, log: ToolLog, source: LogSource, found: WhatIf) -> None:
        """Who may book nothing has no appointments; and what there was is as it was."""
        book, bench = found.book, self._bench
        first = parse_id(found.since or "0-0")
        after = GENESIS if source.begin is None else source.begin.position
        inputs = bench.checks.between(book, after, source.last)
        count = sum(parse_id(entry.id) >= first for entry in inputs)
        if found.inputs != count:
            bench.tell(log, "tools", f"replay of {book} tried {found.inputs} inputs, not {count}")
        was = BookRunner(book, source.begin, check=False)
        was.decide(inputs)
        calendar = len(whole_calendar(was.state))
        if found.appointments[0] != calendar:
            what = f"{found.appointments[0]} appointments in {book}, not {calendar}"
            bench.tell(log, "tools", f"replay with other policies says that there were {what}")
        if not found.since and source.begin is None and found.appointments[1]:
            what = f"{found.appointments[1]} appointments that nobody could have asked for"
            bench.tell(log, "tools", f"replay of {book} with other policies tells of {what}")

    # -- keeping -------------------------------------------------------------

    async def keep(self, log: ToolLog, book: str, number: int) -> None:
        """``snapshot``, into the log."""
        kept = await save_snapshot(log, log.operator, book, no_progress)
        self._bench.same(log, book, "snapshot", kept.position, kept.digest)
        self._bench.did("kept", f"{book} {kept.position}")
        if kept.saved:
            self._bench.marks.hit("tool_kept_mattered")

    async def file(self, log: ToolLog, book: str, number: int) -> None:
        """``snapshot --to FILE``, and ``replay`` of the file alone and of the book from there."""
        bench = self._bench
        path = bench.folder.file(f"{book}-{number}.snapshot")
        made = await write_snapshot_file(log, log.operator, book, path, no_progress)
        bench.same(log, book, "snapshot", made.position, made.digest)
        name, snapshot = await read_snapshot_file(path)
        alone = await replay(SnapshotSource(str(path), name, snapshot), tell=no_progress)
        if (name, alone.position, alone.digest) != (book, made.position, made.digest):
            what = f"{name} at {alone.position} with {alone.digest}"
            bench.checks.fail("tools", f"a snapshot of {book} at {made.position} is {what}")
        source = await LogSource.open(log, book, snapshot, operator=log.operator)
        rest = await replay(source, until_violation=True, tell=no_progress)
        self._replayed(log, book, rest)
        bench.did("filed", f"{book} {made.position}")
        if rest.inputs:
            bench.marks.hit("tool_filed_mattered")

    async def reconcile(self, log: ToolLog, book: str, number: int) -> None:
        """``reconcile``, where a failover lost something or nothing did."""
        bench = self._bench
        wait_s = bench.draws.below("tools.wait_s", WAIT_S_MAX, book, number)
        found = await self._reconciling.reconcile(log, book, wait_s)
        if found.orphans and not bench.checks.failover:
            what = f"{[one.payment for one in found.orphans]} of {book} to be orphans"
            bench.checks.fail("tools", f"reconcile takes {what}, and nothing was lost")
        bench.did("reconciled", book)

    async def tidy(self, log: ToolLog, book: str, number: int) -> None:
        """``export``, and ``trim --archive FILE``."""
        # Sometimes somebody takes an export that is too old.
        commits = self._bench.log.of(book).commits
        old = commits and self._bench.draws.chance("tools.old", 0.3, book, number)
        to = (
            self._bench.draws.pick("tools.until", commits, book, number).commit.position
            if old
            else ""
        )
        archive = await self._moving.export(log, book, f"tidy-{number}", to)
        going = await trimmable(log.operator, book)
        if not going.keep:
            return
        await require_archived(log.operator, archive, going, no_progress)
        await trio.sleep(self._bench.draws.below("tools.asked_s", ASKED_S_MAX, book, number))
        removed = await log.operator.trim(book, going.keep, going.history)
        self._bench.did("tidied", f"{book} {removed}")
        if removed["inputs"]:
            self._bench.marks.hit("tool_tidied_mattered")
            archived = dict.fromkeys(one.entry.id for one in archive.inputs())
            first, keep = parse_id(going.first or going.keep), parse_id(going.keep)
            for entry in self._bench.checks.between(book, GENESIS, going.keep):
                if first <= parse_id(entry.id) < keep and entry.id not in archived:
                    self._bench.tell(
                        log, "tools", f"{book}: {entry.id} was trimmed and is in no archive"
                    )

    async def release(self, log: ToolLog, book: str, number: int) -> None:
        """Start a booking actor of another release: it refuses the books, and leaves them alone."""

        def on_take_over(taken: str) -> None:
            self._bench.checks.fail("releases", f"another release took {taken} over")

        other = OtherRelease(self._bench.server, f"release-{number}", on_take_over)
        owner = f"{self._bench.draws.keyed('tools.release', book, number):032x}"
        rng = self._bench.draws.generator("tools.release", book, number)
        ports = BookingPorts(other, self._bench.server.clock, owner, self._booking, rng=rng)
        with trio.move_on_after(RELEASE_S):
            try:
                await run_with(ports, trio.Event())
            except VersionError as error:
                self._bench.did("other_release", str(error))

    # -- dead letters --------------------------------------------------------

    async def letters(self, log: ToolLog, book: str, number: int) -> None:
        """``deadletters list``, then ``retry`` or ``drop`` of one input; of actions see ``action_letters``."""
        found = await read_letters(log.operator, book, 100)
        found = [letter for letter in found if letter.stream == "inputs"]
        if not found:
            return
        letter = self._bench.draws.pick("tools.letter", found, book, number)
        if self._bench.draws.chance("tools.drop", 0.25, book, number):
            dropped = await log.operator.drop_letters(book, [letter.id])
            if dropped > 1:
                self._bench.checks.fail(
                    "tools", f"{dropped} letters of {book} were dropped, not one"
                )
            if dropped:
                self._bench.did("letter_dropped", f"{book} {letter.id}")
            return
        await self._retry(log, book, letter)

    async def _retry(self, log: ToolLog, book: str, letter: Letter) -> None:
        """Put a letter right and send it again; somebody else may do so at the same time."""
        key = f"letter-{letter.id}"
        kind, body = self._command
        changes = {"type": kind, "body": body.decode(), "key": key, "by": "service:letters"}
        self._sent_again[book, letter.id] = key
        sent = self._bench.trace.note("service:letters", "send", f"{book} {kind} {key}")
        _, input_id = await retry_letter(log.operator, book, letter.id, changes, dry=False)
        order = self._bench.trace.note("service:letters", "sent", input_id)
        self._crowd.acknowledged.append(Acknowledged(book, input_id, key, sent, order))
        self._bench.did("letter_retried", f"{book} {letter.id} {input_id}")
        outcome = await self._crowd.outcome(log, book, input_id)
        if outcome is not None and outcome.status != "invalid":
            self._bench.marks.hit("tool_letter_retried_mattered")

    # -- afterwards ----------------------------------------------------------

    def at_end(self) -> None:
        """Make sure that each letter that was sent again is one input, or still a letter."""
        for (book, letter), key in self._sent_again.items():
            inputs = self._bench.log.whole_inputs(book).entries
            count = sum(entry.key == key for entry in inputs)
            kept = self._bench.log.book(book).deadletters.get(parse_id(letter)) is not None
            if count > 1 or (count and kept and not self._bench.checks.failover):
                what = (
                    f"{count} times among the inputs, {'and' if kept else 'not'} among the letters"
                )
                self._bench.checks.fail("S14 poison", f"{book}: the letter {letter} is {what}")

    async def put_right(self) -> None:
        """Put right what is still spoilt, where nothing befalls the log any more."""
        log = self._bench.open("put-right", _MAY["meddle"])
        await self._meddling.mend_all(log)

    async def look_at_stopped(self, books: Sequence[str]) -> None:
        """Use all that only looks, where nobody else changes anything: all is left to the last byte."""
        checks = self._bench.checks
        calls = len(checks.provider.calls), len(checks.mailer.arrivals)
        before = fingerprint(self._bench.log)
        for book in books:
            await self.use("inspect", book, -1)
            await self.use("copy", book, -1)
        if fingerprint(self._bench.log) != before:
            checks.fail("S15 no live effect", "tools that only look changed the log")
        if calls != (len(checks.provider.calls), len(checks.mailer.arrivals)):
            checks.fail("S15 no live effect", "tools called somebody")
