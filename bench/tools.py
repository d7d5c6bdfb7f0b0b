"""Restoring books and the round trip of a log, against a real embedded server.

    python bench/tools.py [--bookings 100000] [--inputs 1000000] [--round-trip 100000]

Prints one line of JSON: seconds to restore a book of that many bookings from its snapshot, and of
that many inputs from its log alone, by the clock and of the processor (all of this process; the
machine may be busy with others); the longest time for which a snapshot of that book keeps the booking
actor's loop from anything else; and the seconds of an export, an import and the comparisons, each of
which must come out as it should.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio
from workload import Crowd

from holdfast.actors.booking import wire
from holdfast.actors.booking.messages import Asked
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.ports import CommitRecord, InputEntry, Snapshot
from holdfast.bootstrap import calm_garbage_collection
from holdfast.machine import Normal
from holdfast.machine.digest import digest
from holdfast.tools.archive import Archive, ArchiveWriter
from holdfast.tools.compare import compare, compare_archives
from holdfast.tools.export import export_log
from holdfast.tools.replay import replay
from holdfast.tools.restore import fields_of, restore_log
from holdfast.tools.sources import ArchiveSource, LogSource, decided_to
from holdfast.transport.operator import Operator, Restored, open_operator
from holdfast.transport.redis_log import RedisLog, open_redis_log
from holdfast.transport.server import EmbeddedServer, ServerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator

CHUNK = 10_000
TICK_S = 0.000_5
_T = TypeVar("_T")


def ignore(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


async def agree(_under_way: int, _undecided: int) -> bool:
    """Nobody serves these books."""
    return True


def entries(made: Iterable[wire.BookingInput]) -> Iterator[InputEntry]:
    """A crowd's inputs as they would lie in a log."""
    for one in made:
        message = one.message if isinstance(one, Normal) else one.result
        if isinstance(message, Asked):
            command = message.command
            body = wire.encode_message(command)
            kind = wire.TYPES[type(command)]
            yield InputEntry(one.id, kind, body, message.key, message.by)
        else:
            assert isinstance(message, msgspec.Struct)
            body = wire.encode_message(message)
            yield InputEntry(one.id, wire.TYPES[type(message)], body, "", "service:bench")


async def pour(
    operator: Operator, book: str, crowd: Crowd, snapshot: Snapshot | None = None
) -> None:
    """Make *book* of what *crowd* did, decided as far as the snapshot, else not at all."""
    await operator.prepare(book)
    inputs = crowd.inputs
    for start in range(0, len(inputs), CHUNK):
        part = [(entry.id, fields_of(entry)) for entry in entries(inputs[start : start + CHUNK])]
        await operator.write(book, "inputs", part)
    last = inputs[-1].id
    record = CommitRecord()
    if snapshot is not None:
        record = CommitRecord(snapshot.position, version=1, digest=snapshot.digest)
    await operator.finish(book, Restored(len(inputs), 0, last, len(inputs), record, None, snapshot))


async def timed(work: Callable[[], Awaitable[_T]]) -> tuple[float, _T]:
    """Seconds, and what came of it."""
    gc.collect()
    start = perf_counter()
    result = await work()
    return perf_counter() - start, result


async def from_snapshot(
    log: RedisLog, operator: Operator, bookings: int, rounds: int
) -> dict[str, float]:
    """Restore a book of *bookings* from its snapshot, and take snapshots of it."""
    crowd = Crowd(7, staff=10)
    crowd.fill(bookings, first_day=70)
    position = crowd.inputs[-1].id
    state = crowd.machine.encode(crowd.book)
    await pour(operator, "filled", crowd, Snapshot(position, 1, digest(b"bench"), state))
    del crowd
    calm_garbage_collection()  # as the booking actor's process does
    seconds: list[float] = []
    processor: list[float] = []
    pauses: list[float] = []
    taken: list[float] = []
    for _ in range(rounds):

        async def restore() -> BookRunner:
            return BookRunner("filled", await log.read_snapshot("filled"))

        before = process_time()
        took, runner = await timed(restore)
        processor.append(process_time() - before)
        assert len(runner.state.bookings) == bookings
        seconds.append(took)
        record = await log.take_over("filled", "bench")
        async with longest_gap(pauses):
            start = perf_counter()
            snapshot = runner.snapshot()
            taken.append(perf_counter() - start)
            await log.save_snapshot("filled", snapshot, record.epoch, record.owner)
        del snapshot, runner
    return {
        "restore_s": round(median(seconds), 3),
        "restore_processor_s": round(median(processor), 3),
        "snapshot_bytes": len(state),
        "taken_ms": round(1000 * median(taken), 1),
        "longest_pause_ms": round(1000 * median(pauses), 1),
    }


@asynccontextmanager
async def longest_gap(gaps: list[float]) -> AsyncGenerator[None]:
    """Add to *gaps* the longest time for which the loop did not come round."""
    longest = 0.0
    done = trio.Event()

    async def tick() -> None:
        nonlocal longest
        before = perf_counter()
        while not done.is_set():
            await trio.sleep(TICK_S)
            now = perf_counter()
            longest, before = max(longest, now - before - TICK_S), now

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        await trio.sleep(10 * TICK_S)
        yield
        await trio.sleep(10 * TICK_S)
        done.set()
    gaps.append(longest)


async def from_log(log: RedisLog, operator: Operator, inputs: int) -> dict[str, float]:
    """Restore a book of *inputs* from its log alone."""
    crowd = Crowd(1)
    crowd.run(inputs)
    count, last, wanted = len(crowd.inputs), crowd.inputs[-1].id, len(crowd.book.bookings)
    await pour(operator, "lived", crowd)
    del crowd
    calm_garbage_collection()
    before = process_time()
    took, runner = await timed(lambda: decided_to(log, "lived", last))
    processor = process_time() - before
    assert (runner.position, len(runner.state.bookings)) == (last, wanted)
    return {
        "inputs": count,
        "restore_s": round(took, 2),
        "restore_processor_s": round(processor, 2),
        "inputs_per_s": round(count / took),
    }


async def round_trip(
    log: RedisLog, operator: Operator, inputs: int, folder: Path
) -> dict[str, float]:
    """Export, import, replay both, and find one altered input."""
    crowd = Crowd(2)
    crowd.run(inputs)
    runner = BookRunner("source")
    runner.decide(list(entries(crowd.inputs)))
    await pour(operator, "source", crowd, runner.snapshot())
    file, other = folder / "log.jsonl.gz", folder / "other.jsonl.gz"
    export_s, (header, problem) = await timed(
        lambda: export_log(log, "source", file, operator=operator, tell=ignore)
    )
    assert not problem
    archive = Archive(file)
    import_s, restored = await timed(lambda: restore_log(archive, operator, "copy", ignore, agree))
    assert (restored.inputs, restored.undecided) == (header.inputs, 0)
    digests: list[str] = []
    for book in ("source", "copy"):
        done = await replay(await LogSource.open(log, book), tell=ignore)
        digests.append(done.digest)
    assert digests == [header.link] * 2, "a replay differs"
    where = alter(archive, other, inputs // 3)
    altered = Archive(other)
    sums_s, found = await timed(lambda: compare_archives(archive, altered, ignore))
    assert found.first == where
    source = await LogSource.open(log, "copy")
    diff_s, difference = await timed(lambda: compare(source, ArchiveSource(altered), tell=ignore))
    assert difference.first == where
    return {
        "inputs": header.inputs,
        "file_bytes": file.stat().st_size,
        "export_s": round(export_s, 2),
        "import_s": round(import_s, 2),
        "diff_by_sums_s": round(sums_s, 2),
        "sums_looked_at": found.looks,
        "diff_by_deciding_s": round(diff_s, 2),
    }


def alter(archive: Archive, path: Path, at: int) -> str:
    """Write *archive* with another customer in the first request after input *at*; its id."""
    header = archive.header
    writer = ArchiveWriter(path, archive.begin)
    found = ""
    for number, line in enumerate(archive.inputs()):
        entry = line.entry
        if number >= at and not found and entry.type == "request_slot":
            entry, found = msgspec.structs.replace(entry, by="customer:X"), entry.id
        writer.add(entry, line.link)
    writer.finish(
        book=header.book,
        before=header.before,
        decided=header.decided,
        epoch=header.epoch,
        machine=header.machine,
        link=header.link,
    )
    writer.close()
    return found


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """All three, on a server of their own."""
    server = EmbeddedServer(ServerConfig(folder / "server", durability="relaxed"))
    server.start()
    try:
        await server.wait_ready()
        async with open_redis_log(server.url) as log, open_operator(server.url) as operator:
            return {
                "round_trip": await round_trip(log, operator, options.round_trip, folder),
                "snapshot": await from_snapshot(log, operator, options.bookings, options.rounds),
                "log": await from_log(log, operator, options.inputs),
            }
    finally:
        server.stop_now()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bookings", type=int, default=100_000)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--round-trip", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(trio.run(measure, options, Path(folder))))


if __name__ == "__main__":
    main()
