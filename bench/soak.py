"""The whole service under a steady load: what grows that should not?

    python bench/soak.py [--minutes 20] [--rate 100] [--warm 5] [--json]

Server, provider and actors run as ``holdfast up`` runs them, on a temporary folder, trimming
(``booking.trim``) and with a snapshot every half minute. A crowd sends so many commands a second, and
what it books it gives back (:mod:`soak_crowd`). Every ten seconds everything that could grow is
looked at, from outside: the processes' memory, the server's, streams and groups, the book as a
follower has it, the files. At the end, or at Ctrl-C, a table by minute and a verdict
(:mod:`flatness`); exit 1 where a figure is not flat. Linux, since it reads ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import redis
import trio
from flatness import Figure, Verdict, judge, table
from soak_crowd import BEATS_PER_S, BOOK, DAY_MS, Crowd, script, yesterday

from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.ports import CommitRecord
from holdfast.bootstrap import (
    OUTBOX_FOLDER,
    PROVIDER_FOLDER,
    SystemClock,
    open_log,
    open_operator,
)
from holdfast.cli.follow import catch_up
from holdfast.cli.supervisor import LOG_FOLDER, PARTS, Supervisor
from holdfast.config.settings import load
from holdfast.tools.restore import fields_of
from holdfast.transport.operator import Restored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.actors.ports import Log, StreamName
    from holdfast.config.settings import Settings

SAMPLE_S: Final = 10.0
SNAPSHOT_S: Final = 30.0
SPARE_S: Final = 180
"""Yesterday's load lasted so much longer than today's, so that it never runs out."""

MB: Final = 1_000_000
STREAMS: Final[tuple[StreamName, ...]] = (
    *("inputs", "outcomes", "payments", "notifications", "deadletters"),
)
_LEDGER: Final = "a ledger keeps every payment"
_OUTBOX: Final = "whoever sends the messages takes them away"
_LOGS: Final = "a line for each call and message; whoever keeps the output rotates it"

FIGURES: Final = (
    *(Figure(f"{part} RSS, MB", 1.0, grows=_LEDGER * (part == "provider")) for part in PARTS),
    Figure("server used_memory, MB", 1.0),
    *(Figure(f"{stream}, entries") for stream in STREAMS),
    *(Figure(f"{name} {what}", 5.0) for name in STREAMS[2:4] for what in ("pending", "waiting")),
    Figure("inputs not decided", 50.0),
    Figure("decided per s", 1.0, level=True),
    Figure("bookings in the book"),
    Figure("keys in the book"),
    Figure("timers in the book", share=0.25),  # leftovers are swept when they are so many
    Figure("files", 2.0),
    Figure("server's files, MB", share=0.5),  # rewritten at twice their size, 64 MB at least
    Figure("messages written", grows=_OUTBOX),
    Figure("logs, MB", grows=_LOGS),
    Figure("provider's journal, MB", grows=_LEDGER),
)


class Soak:
    """One run and what it saw."""

    def __init__(
        self, minutes: float, rate: float, folder: Path, tell: Callable[[str], None]
    ) -> None:
        self._minutes = minutes
        self._rate = rate
        self._data = folder / "data"
        self._folder = folder
        self._tell = tell
        self.samples: list[tuple[float, dict[str, float]]] = []
        self.sent = 0
        self.digests_agree = False
        self.restarts: dict[str, int] = {}

    async def run(self, over: trio.Event) -> None:
        """Run the service under load, until the time is up or *over*."""
        settings = load(
            None,
            {},
            {"data": self._data, "booking.trim": True, "booking.snapshot_s": SNAPSHOT_S},
        )
        behaviour = self._folder / "script.json"
        behaviour.write_bytes(msgspec.json.encode(script()))
        async with AsyncExitStack() as stack:
            service = Supervisor(settings, to_files=True, script=behaviour)
            await stack.enter_async_context(service.running())
            await self._place_yesterday(service.settings)
            log = await stack.enter_async_context(open_log(service.settings))
            looker = _Looker(service, log, self._data)
            await looker.begin()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._load, service.settings)
                nursery.start_soon(looker.watch_lengths)
                with trio.move_on_after(self._minutes * 60 + SAMPLE_S / 2):
                    nursery.start_soon(self._look, looker)
                    await over.wait()
                nursery.cancel_scope.cancel()
            self.digests_agree = await looker.agrees()
            self.restarts = dict(service.restarts)
            looker.close()

    async def _place_yesterday(self, settings: Settings) -> None:
        """Put the book as it would be, had there been the same load a day ago, into place."""
        seconds = int(self._minutes * 60) + SPARE_S
        began = perf_counter()
        book = yesterday(self._rate, seconds, SystemClock().now_ms() - DAY_MS)
        assert book.last is not None
        snapshot = book.runner.snapshot()
        record = CommitRecord(snapshot.position, version=snapshot.version, digest=snapshot.digest)
        async with open_operator(settings) as operator:
            await operator.prepare(BOOK)
            await operator.write(BOOK, "inputs", [(book.last.id, fields_of(book.last))])
            await operator.finish(
                BOOK, Restored(1, 0, book.last.id, book.count, record, None, snapshot)
            )
        state = book.runner.state
        self._tell(
            f"yesterday: {book.count:,} inputs left {len(state.bookings):,} bookings and "
            f"{len(state.keys):,} keys, made in {perf_counter() - began:.0f} s"
        )

    async def _load(self, settings: Settings) -> None:
        """Send what the crowd wants, beat by beat; a beat that is late is not left out."""
        crowd = Crowd("today", self._rate, SystemClock().now_ms())
        async with open_log(settings) as log:
            begun, beat = trio.current_time(), 0
            while True:
                beat += 1
                await trio.sleep_until(begun + beat / BEATS_PER_S)
                inputs = crowd.beat()
                crowd.sent(await log.append(BOOK, inputs) if inputs else [])
                self.sent += len(inputs)

    async def _look(self, looker: _Looker) -> None:
        begun = trio.current_time()
        number = 0
        while True:
            number += 1
            await trio.sleep_until(begun + number * SAMPLE_S)
            found = await looker.look()
            at_s = number * SAMPLE_S
            self.samples.append((at_s, found))
            shown = (
                "decided per s",
                "inputs, entries",
                "booking RSS, MB",
                "server used_memory, MB",
            )
            told = ", ".join(f"{name} {found[name]:,.0f}" for name in shown)
            self._tell(f"{at_s / 60:5.1f} min: {told}")


class _Looker:
    """Looks at a service from outside."""

    def __init__(self, service: Supervisor, log: Log, data: Path) -> None:
        self._service = service
        self._log = log
        self._data = data
        self._client: Any = cast("Any", redis.Redis).from_url(service.settings.redis_url)
        self._runner = BookRunner(BOOK)
        self._decided = (0, 0.0)
        self._lengths: list[list[int]] = []

    async def begin(self) -> None:
        """Begin to follow the book."""
        snapshot = await self._log.read_snapshot(BOOK)
        self._runner = BookRunner(BOOK, snapshot)
        facts = await self._log.facts(BOOK, "outcomes")
        self._decided = (facts.added, trio.current_time())

    async def look(self) -> dict[str, float]:
        """Every figure as it is now."""
        found: dict[str, float] = {}
        for part, pid in self._service.pids.items():
            found[f"{part} RSS, MB"] = _resident(pid) / MB
        found["server used_memory, MB"] = self._client.info("memory")["used_memory"] / MB
        added: dict[str, int] = {}
        lengths, self._lengths = self._lengths or [self._measure()], []
        for stream, seen in zip(STREAMS, zip(*lengths, strict=True), strict=True):
            facts = await self._log.facts(BOOK, stream)
            found[f"{stream}, entries"], added[stream] = fmean(seen), facts.added
            if stream in ("payments", "notifications"):
                found[f"{stream} pending"], found[f"{stream} waiting"] = facts.pending, facts.lag
        (before, since), now = self._decided, trio.current_time()
        self._decided = (added["outcomes"], now)
        found["decided per s"] = (added["outcomes"] - before) / (now - since)
        await catch_up(self._log, BOOK, self._runner)
        found["inputs not decided"] = await self._undecided()
        state = self._runner.state
        found["bookings in the book"] = len(state.bookings)
        found["keys in the book"] = len(state.keys)
        found["timers in the book"] = len(state.timers)
        return found | await trio.to_thread.run_sync(self._files)

    async def watch_lengths(self) -> None:
        """Measure the streams every second. They are saws: a look now and then sees but a tooth's phase."""
        while True:
            self._lengths.append(self._measure())
            await trio.sleep(1)

    def _measure(self) -> list[int]:
        pipeline = self._client.pipeline(transaction=False)
        for stream in STREAMS:
            pipeline.xlen(f"holdfast:{{{BOOK}}}:{stream}")
        return cast("list[int]", pipeline.execute())

    async def _undecided(self) -> int:
        """Inputs after the commit record's position, 512 at most."""
        record = await self._log.read_record(BOOK)
        return len((await self._log.read_inputs({BOOK: record.position}, 512, 0)).get(BOOK, []))

    def _files(self) -> dict[str, float]:
        counts = dict.fromkeys(("files", "messages written"), 0)
        for folder, _, names in os.walk(self._data):
            outbox = Path(folder).is_relative_to(self._data / OUTBOX_FOLDER)
            counts["messages written" if outbox else "files"] += len(names)
        return {
            **counts,
            "server's files, MB": _size(self._data / "appendonlydir") / MB,
            "logs, MB": _size(self._data / LOG_FOLDER) / MB,
            "provider's journal, MB": _size(self._data / PROVIDER_FOLDER) / MB,
        }

    async def agrees(self) -> bool:
        """Whether a follower comes to the digest of the commit record."""
        record = await self._log.read_record(BOOK)
        await catch_up(self._log, BOOK, self._runner, record.position)
        while self._runner.position != record.position:  # which went on meanwhile
            record = await self._log.read_record(BOOK)
            await catch_up(self._log, BOOK, self._runner, record.position)
        return self._runner.digest == record.digest

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()


def _resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _size(folder: Path) -> int:
    """Bytes of the files of a folder; one that goes meanwhile is none."""
    size = 0
    for path in folder.iterdir():
        try:
            size += path.stat().st_size
        except FileNotFoundError:
            continue
    return size


def verdicts(samples: Sequence[tuple[float, dict[str, float]]], warm_min: int) -> list[Verdict]:
    """What became of each figure."""
    return [
        judge(
            figure,
            # A part that is being started again has no memory to look at.
            [(at_s, found[figure.name]) for at_s, found in samples if figure.name in found],
            warm_min,
        )
        for figure in FIGURES
    ]


async def soak(soaking: Soak) -> None:
    """Run, and end early where somebody asks for it."""
    over = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def listen() -> None:
            async for _ in signals:
                over.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await soaking.run(over)
            nursery.cancel_scope.cancel()


def main() -> int:
    """Run, and print what became of it; 1 where something is not flat."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=100.0, help="commands per second")
    parser.add_argument("--warm", type=int, default=5, help="minutes that are not judged")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soaking = Soak(options.minutes, options.rate, Path(folder), tell)
        trio.run(soak, soaking)
        # Before the folder goes, which takes its time with so many messages in it.
        return report(soaking, options)


def report(soaking: Soak, options: argparse.Namespace) -> int:
    """Print what became of a run; the exit code."""
    found = verdicts(soaking.samples, options.warm)
    uneven = [verdict.name for verdict in found if verdict.flat is False]
    if options.json:
        print(
            json.dumps(
                {
                    "minutes": options.minutes,
                    "rate": options.rate,
                    "sent": soaking.sent,
                    "restarts": soaking.restarts,
                    "digests_agree": soaking.digests_agree,
                    "not_flat": uneven,
                    "figures": [msgspec.structs.asdict(verdict) for verdict in found],
                }
            ),
            flush=True,
        )
    else:
        print(table(found))
        for figure in FIGURES:
            if figure.grows:
                print(f"{figure.name}: not judged, {figure.grows}")
        agree = "agrees" if soaking.digests_agree else "DOES NOT AGREE"
        print(
            f"{soaking.sent:,} inputs sent; a follower's digest {agree} with the commit record's."
        )
        print(f"Died and started again: {', '.join(soaking.restarts) or 'nothing'}.")
        short = all(verdict.flat is None for verdict in found)
        told = "too short a time to tell" if short else ", ".join(uneven) or "nothing"
        print(f"Not flat: {told}.", flush=True)
    return 0 if soaking.digests_agree and not uneven and not soaking.restarts else 1


if __name__ == "__main__":
    sys.exit(main())
