"""Takeover of many books: from the lapse of a leader's lease to the last book that has a new one.

    python bench/takeover.py [--books 100] [--bookings 1000] [--runs 5] [--rate 50] [--json]

A durable server of our own, books of so many bookings each, and real booking processes under a light
load. Each run has three parts, and each begins with one process that leads all books:

- ``kill``: a second process stands by and follows all books; the first one gets SIGKILL;
- ``stop``: likewise, and the first one gets SIGTERM, so that it hands its books over;
- ``cold``: it gets SIGKILL, and its lease lapses before another process is started.

What is measured is read from the log: a takeover's time is in the id of its ``taken_over``, by the
server's clock, which is this machine's. ``decided`` is when an outcome could be read that was decided
after it. Seconds, from the lapse for ``kill``, from the signal for ``stop``, from the start of the
process for ``cold``.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import redis
import trio
from processes import EVENT_S_MAX, BookingProcess, until
from tools import pour
from workload import Crowd

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.zones import DAY_MS
from holdfast.actors.ports import NewInput, Snapshot
from holdfast.bootstrap import SystemClock, open_log, open_operator
from holdfast.cli.follow import order
from holdfast.config.settings import load
from holdfast.machine.digest import digest
from holdfast.transport.keys import lease_key
from holdfast.transport.server import EmbeddedServer, ServerConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.actors.ports import Log
    from holdfast.config.settings import Settings

SETTLE_S: Final = 2.0
"""How long the load goes on before a signal."""

WORDS: Final = {"kill": "lapse", "stop": "SIGTERM", "cold": "start"}


class Measured(msgspec.Struct):
    """One takeover of all books.

    Attributes:
      part: What brought it about.
      first_s: Until the first book was taken over.
      last_s: Until the last one was.
      decided_s: Until the last of the books had a decided input.
      ended_s: Until the process that was stopped had ended; None where it was killed.
    """

    part: str
    first_s: float
    last_s: float
    decided_s: float
    ended_s: float | None = None


class Bench:
    """The books, who leads them, and who asks for appointments."""

    def __init__(self, settings: Settings, log: Log, options: argparse.Namespace) -> None:
        self._settings = settings
        self._log = log
        self._rate = options.rate
        self._books = [f"book-{number:03d}" for number in range(options.books)]
        self._bookings = options.bookings
        self._number = 0

    async def fill(self) -> None:
        """Make the books, all alike, as if their bookings had been made yesterday."""
        crowd = Crowd(7, begin_ms=SystemClock().now_ms() - DAY_MS)
        crowd.fill(self._bookings, first_day=30)
        state = crowd.machine.encode(crowd.book)
        snapshot = Snapshot(crowd.inputs[-1].id, crowd.machine.version, digest(b"bench"), state)
        async with open_operator(self._settings) as operator:
            for book in self._books:
                await pour(cast("Any", operator), book, crowd, snapshot)

    async def run(self, runs: int, tell: Callable[[Measured], None]) -> None:
        """Measure."""
        leader = self._start()
        try:
            await until("a leader of all books", lambda: self._is_led_otherwise({""}))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._load)
                for _ in range(runs):
                    for part in WORDS:
                        leader, measured = await self._part(part, leader)
                        tell(measured)
                nursery.cancel_scope.cancel()
        finally:
            leader.child.close()

    def _start(self) -> BookingProcess:
        self._number += 1
        return BookingProcess(self._settings, self._settings.data / f"booking-{self._number}.log")

    async def _part(self, part: str, old: BookingProcess) -> tuple[BookingProcess, Measured]:
        """One takeover from *old*; the new leader, and what it took."""
        new = None if part == "cold" else self._start()
        try:
            if new is not None:
                await self._wait_followed(new)
            await trio.sleep(SETTLE_S)
            owners = await self._owners()
            old.child.send(signal.SIGTERM if part == "stop" else signal.SIGKILL)
            since = now_s()
            if part != "stop":
                since = await self._lapse(owners)
            if new is None:
                await trio.sleep(max(0.0, since - now_s()))
                since = now_s()
                new = self._start()
            measured = await self._measure(part, since, owners)
            if part == "stop":
                assert await old.child.wait() == 0
                measured.ended_s = now_s() - since
        except BaseException:
            if new is not None:
                new.child.close()
            raise
        finally:
            old.child.close()
        return new, measured

    async def _wait_followed(self, process: BookingProcess) -> None:
        async def follows() -> bool:
            return process.count("book_followed") == len(self._books)

        await until("a standby of all books", follows)

    async def _owners(self) -> set[str]:
        return {record.owner for record in await self._log.read_records(self._books)}

    async def _is_led_otherwise(self, owners: set[str]) -> bool:
        return not owners & await self._owners()

    async def _lapse(self, owners: set[str]) -> float:
        """When the lease of the one owner lapses."""
        (owner,) = owners
        url = cast("str", self._settings.redis_url)
        with cast("Any", redis.Redis).from_url(url) as client:
            left_ms: int = client.pttl(lease_key(owner))
        assert left_ms > 0
        return now_s() + left_ms / 1000

    async def _measure(self, part: str, since: float, owners: set[str]) -> Measured:
        """Wait until all books are led by somebody else and decided again."""
        after = {
            book: record.position
            for book, record in zip(
                self._books, await self._log.read_records(self._books), strict=True
            )
        }
        taken: dict[str, float] = {}
        decided: dict[str, float] = {}
        with trio.fail_after(EVENT_S_MAX):
            while len(decided) < len(self._books):
                waiting = {book: at for book, at in after.items() if book not in decided}
                found = await self._log.read_outcomes(waiting, 512, 1.0)
                now = now_s()
                for book, outcomes in found.items():
                    after[book] = outcomes[-1].id
                    if book not in taken:
                        await self._find_takeover(book, waiting[book], taken)
                    if book in taken and order(after[book])[0] / 1000 >= taken[book]:
                        decided[book] = now
        assert not owners & await self._owners()
        return Measured(
            part,
            min(taken.values()) - since,
            max(taken.values()) - since,
            max(decided.values()) - since,
        )

    async def _find_takeover(self, book: str, after: str, taken: dict[str, float]) -> None:
        for entry in (await self._log.read_inputs({book: after}, 512, 0.0)).get(book, ()):
            if entry.type == "taken_over":
                taken[book] = order(entry.id)[0] / 1000

    async def _load(self) -> None:
        """Ask for appointments, one book after the other."""
        draw = random.Random(3)
        for number in range(sys.maxsize):
            book = self._books[number % len(self._books)]
            body = wire.encode_message(m.RequestAuto("checkup", days=[draw.randrange(1, 6)]))
            key = f"load-{number}"
            await self._log.append(book, [NewInput("request_auto", body, key, f"customer:{key}")])
            await trio.sleep(1 / self._rate)


def now_s() -> float:
    """By the clock that the server's ids come from."""
    return SystemClock().now_ms() / 1000


async def measure(options: argparse.Namespace, folder: Path) -> list[Measured]:
    """All runs, on a server of their own."""
    server = EmbeddedServer(ServerConfig(folder / "server", durability="durable"))
    server.start()
    found: list[Measured] = []

    def tell(measured: Measured) -> None:
        found.append(measured)
        print(f"  {len(found)}: {measured.part} {measured.last_s:.3f} s", file=sys.stderr)

    try:
        await server.wait_ready()
        settings = load(
            None,
            {},
            {
                "data": folder,
                "redis_url": server.url,
                "booking.lease_s": options.lease,
                "log.format": "json",
            },
        )
        async with open_log(settings) as log:
            bench = Bench(settings, log, options)
            await bench.fill()
            await bench.run(options.runs, tell)
    finally:
        server.stop_now()
    return found


def summary(found: Sequence[Measured]) -> dict[str, Any]:
    """Least, median and most of each figure of each part."""
    told: dict[str, Any] = {}
    for part in WORDS:
        for name in ("first_s", "last_s", "decided_s", "ended_s"):
            values = [getattr(one, name) for one in found if one.part == part]
            if values and values[0] is not None:
                spread = (min(values), median(values), max(values))
                told.setdefault(part, {})[name] = [round(value, 3) for value in spread]
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--books", type=int, default=100)
    parser.add_argument("--bookings", type=int, default=1_000, help="of each book")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=50.0, help="inputs per second, of all books")
    parser.add_argument("--lease", type=float, default=3.0, help="seconds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = summary(trio.run(measure, options, Path(folder)))
    if options.json:
        print(json.dumps(told))
        return
    print(f"{options.books} books of {options.bookings} bookings, {options.runs} runs")
    for part, figures in told.items():
        for name, (least, middle, most) in figures.items():
            print(
                f"{part:5} {name:10} {least:8.3f} {middle:8.3f} {most:8.3f}  s from {WORDS[part]}"
            )


if __name__ == "__main__":
    main()
