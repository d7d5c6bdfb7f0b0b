"""``holdfast import``: a CSV becomes commands, once."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from holdfast.cli.common import (
    EXIT_FAILED,
    EXIT_GOOD,
    CliError,
    ConfigOption,
    DataOption,
    JsonOption,
    RedisOption,
    console,
    errors_of_one_sentence,
    print_json,
    run,
    settings_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from holdfast.actors.booking.messages import DefinePractice
    from holdfast.actors.ports import Log
    from holdfast.cli.checks import Report
    from holdfast.cli.importing import BadRow, BookRows, Importer, Progress
    from holdfast.cli.mapping import Mapper, PracticeOf
    from holdfast.cli.supervisor import Supervisor
    from holdfast.config.settings import Settings

BAD_ROWS_SHOWN_MAX: Final = 10
RESTART_LOOK_S: Final = 0.05
"""How often to look whether a killed booking actor runs again."""

LINE_EVERY_S: Final = 5.0
"""Where there is no terminal, progress is a line so often."""


class Result(msgspec.Struct, frozen=True):
    """What ``--json`` prints.

    Attributes:
      rows: In the file, bad ones too.
      appended: By this run.
      decided: Of the rows that could be used, also in earlier runs.
      refused: By code.
      books: How many.
      digests: By book, of its calendar alone.
      checks: ``ok``, or what failed.
    """

    rows: int
    bad_rows: int
    appended: int
    decided: int
    accepted: int
    refused: dict[str, int]
    books: int
    digests: dict[str, str]
    checks: str | list[str]
    kills: int
    seconds: float


def import_file(
    file: Annotated[
        Path, typer.Argument(help="A CSV file, .gz too, or an exported log.", dir_okay=False)
    ],
    mapping: Annotated[
        Path | None,
        typer.Option(metavar="TOML", help="How a CSV's rows become commands.", dir_okay=False),
    ] = None,
    book: Annotated[
        str, typer.Option(metavar="NAME", help="What a log becomes.  \\[default: what it was]")
    ] = "",
    up: Annotated[
        bool, typer.Option("--up", help="Run the service until all is decided, then check.")
    ] = False,
    kill_booking: Annotated[
        int,
        typer.Option(metavar="N", help="A rehearsal: kill the booking actor N times.", min=0),
    ] = 0,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Import a log although somebody may go on with its payments."),
    ] = False,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make commands of a CSV's rows, each exactly once; or a new book of an exported log.

    A CSV may be imported twice and be interrupted: a row that is in the log is not appended again.
    A log becomes a book that is not there yet, all of it or nothing, with the ids that it had. Where
    payments are under way or on hold, whoever serves it goes on with them, so it asks first.

    Examples:

      holdfast import appointments.csv --mapping mapping.toml --up --data rehearsal

      holdfast import appointments.csv.gz --mapping mapping.toml --redis redis://10.0.0.5:6379

      holdfast import demo.jsonl.gz --book rehearsal --yes
    """
    from holdfast.cli.mapping import Mapper, load_mapping
    from holdfast.cli.rows import sorted_rows
    from holdfast.tools.archive import is_archive

    started = monotonic()
    with errors_of_one_sentence():
        from holdfast.cli.importing import collect

        if is_archive(file):
            if mapping is not None or up or kill_booking:
                raise CliError(f"{file} is an exported log: give --book and where to, nothing else")
            from holdfast.cli.export import import_log

            return import_log(settings_of(data, redis, config), file, book, yes, as_json)
        if mapping is None or book:
            raise CliError(f"{file} is no exported log: a CSV needs --mapping, and no --book")
        if kill_booking and not up:
            raise CliError("--kill-booking kills what --up runs: give both")
        settings = settings_of(data, redis, config)
        loaded = load_mapping(mapping)
        mapper = Mapper(loaded, _practice(loaded.practice, mapping))
        lines = sorted_rows(file, loaded.rows, mapper.columns())
        books, bad = collect(mapper, lines)

    async def main() -> int:
        with _progress_shown() as show:
            importer, reports, kills = await _import(
                settings, mapper, books, up, kill_booking, show
            )
        failed = [
            f"{report.book}: {problem}"
            for report in reports
            for finding in report.findings
            for problem in finding.problems
        ]
        result = Result(
            rows=len(lines),
            bad_rows=len(bad),
            appended=importer.appended,
            decided=importer.tally.decided,
            accepted=importer.tally.accepted,
            refused=dict(sorted(importer.tally.refused.items())),
            books=len(reports),
            digests={report.book: report.calendar for report in reports},
            checks=failed or "ok",
            kills=kills,
            seconds=round(monotonic() - started, 1),
        )
        _tell(result, bad, as_json)
        undecided = up and result.decided < result.rows - result.bad_rows
        return EXIT_FAILED if failed or undecided else EXIT_GOOD

    run(main)


async def _import(
    settings: Settings,
    mapper: Mapper,
    books: dict[str, BookRows],
    up: bool,
    kills: int,
    show: Callable[[Progress], None],
) -> tuple[Importer, list[Report], int]:
    from holdfast.bootstrap import open_provider
    from holdfast.cli.importing import Importer

    async with AsyncExitStack() as stack:
        supervisor, found, log = await stack.enter_async_context(_service(settings, up))
        killer = _Killer(supervisor, kills)

        def on_progress(progress: Progress) -> None:
            killer.note(progress)
            show(progress)

        importer = Importer(log, books, mapper, on_progress)
        await importer.append(somebody_decides=up)
        if up:
            await importer.wait_until_at_rest()
            await killer.finish()
        provider = None
        if found.provider.url is not None:
            provider = await stack.enter_async_context(open_provider(found))
        reports = await importer.check(provider, settle=up)
        return importer, reports, killer.killed


@asynccontextmanager
async def _service(
    settings: Settings, up: bool
) -> AsyncGenerator[tuple[Supervisor | None, Settings, Log], None]:
    """The service that runs, or one of our own."""
    from holdfast.bootstrap import open_log
    from holdfast.cli.service import log_of_running_service
    from holdfast.cli.supervisor import Supervisor

    if not up:
        async with log_of_running_service(settings) as (found, log):
            yield None, found, log
        return
    supervisor = Supervisor(settings, to_files=True, on_event=_tell_event)
    async with supervisor.running(), open_log(supervisor.settings) as log:
        yield supervisor, supervisor.settings, log


class _Killer:
    """Kills the booking actor a few times, spread over the run."""

    def __init__(self, supervisor: Supervisor | None, kills: int) -> None:
        self._supervisor = supervisor
        self._kills = kills
        self.killed = 0

    def note(self, progress: Progress) -> None:
        if self._supervisor is None or self.killed >= self._kills or not progress.appended:
            return
        due = (self.killed + 1) / (self._kills + 1)
        if progress.share >= due and self._supervisor.kill("booking"):
            self.killed += 1

    async def finish(self) -> None:
        """Kill as often as is left to do: the last rows may have been decided between two looks."""
        import trio

        while self._supervisor is not None and self.killed < self._kills:
            if self._supervisor.kill("booking"):
                self.killed += 1
            await trio.sleep(RESTART_LOOK_S)  # until it is started again


def _practice(practice: PracticeOf | None, mapping: Path) -> DefinePractice | None:
    """The practice of a mapping: its file's, with what stands beside it replaced."""
    from holdfast.actors.booking.messages import DefinePractice, Staff
    from holdfast.cli.mapping import MappingError
    from holdfast.cli.practice import read_practice
    from holdfast.config.practices import find_practice

    if practice is None:
        return None
    beside = mapping.parent / practice.file
    base = read_practice(beside if beside.is_file() else find_practice(practice.file))
    changes: dict[str, object] = {
        name: value
        for name, value in (("zone", practice.zone), ("currency", practice.currency))
        if value
    }
    if practice.staff:
        width = len(str(practice.staff))
        changes["staff"] = [
            msgspec.to_builtins(Staff(f"s{number:0{width}}", f"Staff {number}"))
            for number in range(1, practice.staff + 1)
        ]
    body: dict[str, object] = msgspec.to_builtins(base)
    body["policies"] = {**msgspec.to_builtins(base.policies), **practice.policies}
    try:
        return msgspec.convert(body | changes, DefinePractice)
    except msgspec.ValidationError as error:
        raise MappingError(f"[practice] of {mapping} is wrong: {error}") from None


def _tell_event(part: str, what: str) -> None:
    print(f"holdfast: {part} {what}", file=sys.stderr, flush=True)


@contextmanager
def _progress_shown() -> Generator[Callable[[Progress], None], None, None]:
    """Bars on a terminal, a line now and then elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(stderr=True),
    ) as bars:
        tasks = [bars.add_task(name, total=None) for name in ("appended", "decided", "paid")]

        def show(progress: Progress) -> None:
            values = (progress.appended, progress.decided, progress.paid)
            totals = (progress.rows, progress.rows, progress.actions)
            for task, value, total in zip(tasks, values, totals, strict=True):
                bars.update(task, completed=value, total=total)

        yield show


class _Lines:
    """Progress as lines."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        if monotonic() - self._last >= LINE_EVERY_S:
            self._last = monotonic()
            print(
                f"holdfast: {progress.rows} rows, {progress.appended} appended, "
                f"{progress.decided} decided, {progress.paid} of {progress.actions} payments made",
                file=sys.stderr,
                flush=True,
            )


def _tell(result: Result, bad: list[BadRow], as_json: bool) -> None:
    for row in bad[:BAD_ROWS_SHOWN_MAX]:
        print(f"holdfast: line {row.line} is left out: {row.problem}", file=sys.stderr)
    if len(bad) > BAD_ROWS_SHOWN_MAX:
        print(f"holdfast: and {len(bad) - BAD_ROWS_SHOWN_MAX} more lines", file=sys.stderr)
    if as_json:
        print_json(result)
        return
    print(f"{result.rows} rows, {result.bad_rows} left out; {result.appended} appended")
    refused = ", ".join(f"{count} {code}" for code, count in result.refused.items()) or "none"
    print(f"{result.decided} decided: {result.accepted} accepted; refused: {refused}")
    if result.checks == "ok":
        print(f"All {result.books} books hold.")
    for problem in result.checks if isinstance(result.checks, list) else ():
        print(f"✗ {problem}")
    print(f"{result.seconds} s")
