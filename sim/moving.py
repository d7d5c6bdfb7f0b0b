"""Books that an operator of the simulated world moves: exported, and imported on a second server.

What was exported must be the log; what was imported must be the book, as a whole or not at all, and
whoever serves it then must go on where the other one stopped. The second server has troubles of its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from holdfast.actors.ports import LogError, LogUnavailableError
from holdfast.bootstrap import BookingPorts, run_with
from holdfast.sim.server import SimServer
from holdfast.sim.workbench import no_progress
from holdfast.tools.archive import Archive
from holdfast.tools.compare import compare
from holdfast.tools.export import export_log
from holdfast.tools.letters import read_letters
from holdfast.tools.restore import restore_log
from holdfast.tools.sources import ArchiveSource, LogSource
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from holdfast.actors.booking.options import BookingOptions
    from holdfast.sim.tool_log import ToolLog
    from holdfast.sim.workbench import Workbench
    from holdfast.transport.memory_log import MemoryBook

ATTEMPTS_MAX: Final = 4
"""So often somebody imports an export where the server is away."""

AGAIN_S: Final = 10.0
SERVED_S: Final = 5.0
"""How long a booking actor serves a book that was imported."""

_IMPORTS: Final = tuple(
    f"operator_{op}" for op in ("prepare", "write", "finish", "register", "abandon")
)


class Moving:
    """Exports and imports of one world.

    Args:
      bench: What tools work with.
      nursery: The world's own, for the second server.
      booking: How the booking actor works that takes over what was imported.
    """

    def __init__(self, bench: Workbench, nursery: trio.Nursery, booking: BookingOptions) -> None:
        self._bench = bench
        self._nursery = nursery
        self._booking = booking
        self._elsewhere: SimServer | None = None

    def heal(self) -> None:
        """Nothing befalls the second server any more."""
        if self._elsewhere is not None:
            self._elsewhere.heal()

    async def archive(self, log: ToolLog, book: str, number: int) -> None:
        """``export``, ``replay FILE --diff BOOK``, and ``import`` on another server."""
        newest = self._bench.draws.chance("tools.newest", 0.3, book, number)
        archive = await self.export(log, book, f"archive-{number}", newest=newest)
        source = await LogSource.open(log, book, operator=log.operator)
        difference = await compare(ArchiveSource(archive), source, tell=no_progress)
        if difference.first:
            self._bench.tell(log, "tools", f"the export of {book} differs from it: {difference}")
        self._bench.did("exported", f"{book} {archive.header.last}")
        await self._import(log, book, archive, f"{book}-copy-{number}")

    async def copy(self, log: ToolLog, book: str, number: int) -> None:
        """``export``, and ``deadletters list``."""
        await read_letters(log.operator, book, 100)
        await self.export(log, book, f"copy-{number}")

    async def export(
        self, log: ToolLog, book: str, name: str, to: str = "", *, newest: bool = False
    ) -> Archive:
        """``export`` up to *to*, from the first input or the *newest* snapshot: it must be the log."""
        file = self._bench.folder.file(f"{book}-{name}")
        header, problem = await export_log(
            *(log, book, file),
            to=to,
            newest=newest,
            operator=log.operator,
            tell=no_progress,
        )
        archive = Archive(file)
        inputs = [archived.entry for archived in archive.inputs()]
        if to and header.last != to:
            self._bench.tell(log, "tools", f"the export of {book} up to {to} ends at {header.last}")
        if problem or inputs != self._bench.checks.between(book, header.after, header.last):
            self._bench.tell(
                log, "tools", f"the export of {book} up to {header.last} is not its log: {problem}"
            )
        self._bench.same(log, book, "export", header.last, header.link)
        return archive

    async def _import(self, log: ToolLog, book: str, archive: Archive, name: str) -> None:
        server = self._elsewhere or self._open_elsewhere()
        elsewhere = self._bench.open(f"import-{name}", _IMPORTS, server)
        for attempt in range(ATTEMPTS_MAX):
            try:
                await restore_log(archive, elsewhere.operator, name, no_progress, _agree)
                break
            except LogUnavailableError:
                self._bench.marks.hit("tool_unavailable")
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
        self._bench.did("imported", f"{book} {archive.header.last} {name}")
        await self._serve_copy(book, name, server)
        if not _has_lost(server):
            self._check_served(book, archive, held)

    def _open_elsewhere(self) -> SimServer:
        """A second server, which suffers from now on what the first one does."""
        server, now_ms = self._bench.server, self._bench.server.clock.now_ms()
        faults = msgspec.structs.replace(
            server.faults,
            away=tuple(one for one in server.faults.away if one.end_ms > now_ms),
            failovers=tuple(
                one for one in server.faults.failovers if one.at_ms - one.lost_ms > now_ms
            ),
        )
        self._elsewhere = SimServer(
            server.clock, self._bench.draws, faults, self._nursery, options=server.options
        )
        if server.healed:
            self._elsewhere.heal()
        return self._elsewhere

    def _check_copy(
        self, log: ToolLog, book: str, archive: Archive, name: str, server: SimServer
    ) -> None:
        """Make sure that a book that was imported is there as a whole."""
        header, held = archive.header, server.log.book(name)
        fail = partial(self._bench.checks.fail, "tools")
        if name not in server.log.registered:
            fail(f"the import of {book} made a book that nobody knows")
        inputs = [archived.entry for archived in archive.inputs()]
        first = archive.begin is not None
        if held.inputs.entries[first : first + len(inputs)] != inputs:
            fail(f"the import of {book} has other inputs than the export")
        decided = max(header.after, min(header.decided, header.last, key=parse_id), key=parse_id)
        if held.record.position != decided and not held.record.owner:
            fail(f"the import of {book} is at {held.record.position}, not at {decided}")
        self._bench.same(log, book, "import", held.record.position, held.record.digest)
        outcomes = self._bench.log.whole_outcomes(book)
        if any(outcomes.get(parse_id(one.id)) != one for one in held.outcomes.entries):
            self._bench.tell(log, "tools", f"the import of {book} has other outcomes than the book")

    async def _serve_copy(self, book: str, name: str, server: SimServer) -> None:
        """Let a booking actor take the copy over and go on with it for a while."""
        stop = trio.Event()
        token = f"{self._bench.draws.keyed('tools.owner', book, name):032x}"
        leads = server.connect(f"booking-{name}")
        rng = self._bench.draws.generator("tools.booking", token)
        ports = BookingPorts(leads, server.clock, token, self._booking, rng=rng)

        async def serve() -> None:
            try:
                await run_with(ports, stop)
            except LogError as error:
                self._bench.trace.note("operator", "copy given up", f"{name} {error}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await trio.sleep(SERVED_S)
            stop.set()

    def _check_served(self, book: str, archive: Archive, held: MemoryBook) -> None:
        """Make sure that the copy asks what became of calls, and makes none a second time."""
        decided = parse_id(archive.header.decided)
        made = {
            action.action: None
            for written in self._bench.log.of(book).commits
            if parse_id(written.commit.position) <= decided
            for action in written.commit.payments
        }
        for action in held.payments.entries:
            if action.action in made and action.type != "check_status":
                self._bench.checks.fail(
                    "S6 one effect", f"a copy of {book} makes {action.action} again"
                )
        if held.payments.entries:
            self._bench.marks.hit("tool_imported_mattered")


def _has_lost(server: SimServer) -> bool:
    """Whether *server* went back to what it was some time ago."""
    return any(kind in server.counts.fired for kind in ("failover", "old_file"))


async def _agree(_under_way: int, _undecided: int) -> bool:
    return True
