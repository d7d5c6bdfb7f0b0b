"""An import against a log that loses answers and a log that nobody decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from holdfast.actors.ports import LogUnavailableError
from holdfast.cli import importing
from holdfast.cli.common import CliError
from holdfast.cli.importing import CHUNK_MAX, Importer, Progress, collect
from holdfast.cli.mapping import Mapper, MappingFile
from holdfast.cli.rows import Line
from holdfast.transport.memory_log import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio.testing

    from holdfast.actors.ports import NewInput

MAPPING = msgspec.convert(
    {
        "book": {"name": "demo"},
        "command": {
            "type": "request_auto",
            "key": "row-{id}",
            "by": "service:import",
            "body": {"service": "checkup", "customer": {"column": "id", "prefix": "C"}},
        },
    },
    MappingFile,
)
ROWS = 3 * CHUNK_MAX + 10


class StillClock:
    def now_ms(self) -> int:
        return 1_800_000_000_000


class LosingLog(MemoryLog):
    """Writes a part of every other append, and then the answer is lost."""

    def __init__(self) -> None:
        super().__init__(StillClock())
        self.appends = 0

    async def append(self, book: str, inputs: Sequence[NewInput]) -> list[str]:
        self.appends += 1
        if self.appends % 2:
            await super().append(book, inputs[: self.appends * 37 % (len(inputs) + 1)])
            raise LogUnavailableError("the connection was lost")
        return await super().append(book, inputs)


def importer_of(log: MemoryLog, rows: int = ROWS) -> Importer:
    mapper = Mapper(MAPPING)
    books, bad = collect(mapper, [Line(n + 2, {"id": str(n)}) for n in range(rows)])
    assert not bad
    return Importer(log, books, mapper, lambda _progress: None)


async def keys(log: MemoryLog) -> list[str]:
    entries = await log.read_inputs({"demo": "0-0"}, 10 * ROWS, 0)
    return [entry.key for entry in entries["demo"]]


async def test_an_append_whose_answer_is_lost_is_looked_up_and_never_repeated() -> None:
    log = LosingLog()
    importer = importer_of(log)
    await importer.append(somebody_decides=False)
    assert await keys(log) == [f"row-{n}" for n in range(ROWS)]
    assert importer.appended == ROWS


async def test_an_import_that_was_cut_short_goes_on_where_it_stopped() -> None:
    log = MemoryLog(StillClock())
    await importer_of(log, 100).append(somebody_decides=False)
    rest = importer_of(log)
    await rest.append(somebody_decides=False)
    assert rest.appended == ROWS - 100
    assert await keys(log) == [f"row-{n}" for n in range(ROWS)]
    again = importer_of(log)
    await again.append(somebody_decides=False)
    assert again.appended == 0


async def test_a_backlog_that_nobody_works_off_stays_bounded_and_ends_with_a_sentence(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BACKLOG_MAX", 2 * CHUNK_MAX)
    log = MemoryLog(StillClock())
    importer = importer_of(log)
    with pytest.raises(CliError, match="run the import again: it goes on where it stopped"):
        await importer.append(somebody_decides=True)
    assert len(await keys(log)) == 2 * CHUNK_MAX


async def test_the_log_of_a_book_must_be_whole() -> None:
    log = MemoryLog(StillClock())
    await importer_of(log, 3).append(somebody_decides=False)
    held = log.books["demo"].inputs
    del held.ids[0], held.entries[0]
    with pytest.raises(CliError, match="were trimmed away"):
        await importer_of(log).append(somebody_decides=False)


@pytest.mark.parametrize(
    ("progress", "share"),
    [
        (Progress(), 1.0),
        (Progress(rows=10), 0.0),
        (Progress(rows=10, decided=10, actions=10), 0.5),
        (Progress(rows=10, decided=10, actions=4, paid=4), 1.0),
    ],
)
def test_the_share_of_the_work_that_is_done(progress: Progress, share: float) -> None:
    assert progress.share == share
