"""``holdfast demo``: the main job in half a minute, with a crash in the middle."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Final

import typer

from holdfast.cli.common import (
    EXIT_FAILED,
    EXIT_GOOD,
    CliError,
    JsonOption,
    console,
    errors_of_one_sentence,
    print_json,
    run,
    settings_of,
)

if TYPE_CHECKING:
    from holdfast.cli.rehearsal import Counts, Result, Show

LINE_EVERY_S: Final = 2.0
"""Where there is no terminal, progress is a line so often."""


def demo(
    customers: Annotated[int, typer.Option(metavar="N", help="How many.", min=1, max=2_000)] = 300,
    seed: Annotated[int, typer.Option(metavar="S", help="What they want follows from it.")] = 1,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder to keep; else a temporary one."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the service, let a crowd book, kill the booking actor, and check that nothing was lost.

    Exit 0 only if everything holds.

    Examples:

      holdfast demo

      holdfast demo --customers 500 --seed 7 --json
    """
    with errors_of_one_sentence():
        if data is not None and data.exists() and any(data.iterdir()):
            raise CliError(f"{data} is not empty: the demo wants a new folder")
        folder = data or Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
        settings = settings_of(
            folder, None, None, payment__call_timeout_s=1, payment__attempts_max=1
        )

    async def main() -> int:
        import trio

        from holdfast.cli.rehearsal import rehearse

        try:
            with _live(as_json) as show:
                result = await rehearse(settings, customers, seed, show)
        except trio.Cancelled:
            _forget(folder, data)
            raise
        if as_json:
            print_json(result)
        else:
            _print(result)
        if not result.holds:
            print(f"holdfast: the data is kept in {folder}", file=sys.stderr)
            return EXIT_FAILED
        _forget(folder, data)
        return EXIT_GOOD

    run(main)


def _forget(folder: Path, named: Path | None) -> None:
    """Remove the temporary folder; one that the user named stays."""
    if named is None:
        shutil.rmtree(folder, ignore_errors=True)


def _print(result: Result) -> None:
    from holdfast.cli.tables import calendar_table, finding_lines

    out = console()
    out.print()
    out.print(calendar_table(f"The first day, {result.day}", result.calendar, out.width))
    outcomes = ", ".join(f"{count} {code}" for code, count in result.outcomes.items())
    bookings = ", ".join(f"{count} {status}" for status, count in result.bookings.items())
    out.print(f"Outcomes: {outcomes}")
    out.print(f"Bookings: {bookings}")
    out.print()
    for line in finding_lines(result.findings):
        out.print(line)
    verdict = "Everything holds." if result.holds else "Something does not hold."
    out.print(f"\n{verdict} {result.seconds} s")


@contextmanager
def _live(quiet: bool) -> Generator[Show, None, None]:
    """How progress is shown: a line that changes on a terminal, a line now and then elsewhere."""
    if quiet:
        yield _nothing
    elif not sys.stdout.isatty():
        yield _Lines()
    else:
        out = console()
        with out.status("") as status:

            def show(counts: Counts | None, note: str) -> None:
                if counts is not None:
                    status.update(counts.line())
                if note:
                    out.print(f"[bold]•[/] {note}")

            yield show


def _nothing(_counts: Counts | None, _note: str) -> None:
    """Show nothing."""


class _Lines:
    """Progress as lines."""

    def __init__(self) -> None:
        self._last = monotonic()

    def __call__(self, counts: Counts | None, note: str) -> None:
        if note:
            print(f"• {note}", flush=True)
        elif counts is not None and monotonic() - self._last >= LINE_EVERY_S:
            self._last = monotonic()
            print(f"  {counts.line()}", flush=True)
