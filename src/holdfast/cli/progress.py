"""How long work shows how far it is: a bar on a terminal, a line now and then elsewhere; on stderr."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

from holdfast.cli.common import console

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

LINE_EVERY_S: Final = 5.0
"""Where there is no terminal, progress is a line so often."""


@contextmanager
def progress_shown(doing: str) -> Generator[Callable[[int, int], None], None, None]:
    """Yield what is to be told how many of how many inputs are done (0: not known)."""
    if not sys.stderr.isatty():
        yield _Lines(doing)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=console(stderr=True), transient=True
    ) as bars:
        task = bars.add_task(doing, total=None)

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total or None)

        yield show


class _Lines:
    """Progress as lines."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._last = monotonic()

    def __call__(self, done: int, total: int) -> None:
        if monotonic() - self._last >= LINE_EVERY_S:
            self._last = monotonic()
            of = f" of {total}" if total else ""
            print(f"holdfast: {self._doing}: {done}{of} inputs", file=sys.stderr, flush=True)
