"""Inputs decided per second, end to end through a real server, and the round trip of one command.

    python bench/decided.py [--inputs 200000] [--commands 2000]

A durable server (appendfsync always) of our own, a backlog of inputs, and the booking actor in a
process of its own that works it off: outcomes and payment actions are committed. Beside it stands
the same server's raw rate: the backlog's own pipelined XADD in the same run. Then, under light load,
the time from pushing a command until its outcome is read. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio
from workload import practice

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.calendar import weekday_of
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.booking.zones import DAY_MS, MINUTE_MS, Zone, load
from holdfast.actors.ports import NewInput
from holdfast.bootstrap import SystemClock, calm_garbage_collection
from holdfast.transport.redis_log import open_redis_log
from holdfast.transport.server import EmbeddedServer, ServerConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.actors.ports import Log

BOOK = "bench"
STAFF = 20


def commands(seed: int, now_ms: int) -> Iterator[NewInput]:
    """Requests of many customers for the coming year, about half of which find a slot."""
    draw = random.Random(seed)
    zone = Zone(load("Europe/Berlin"))
    today = now_ms // DAY_MS
    days = [today + ahead for ahead in range(1, 360) if weekday_of(today + ahead) in range(1, 6)]
    starts = [
        zone.text(zone.day_start(day) + minute * MINUTE_MS)
        for day in days
        for minute in (*range(9 * 60, 12 * 60, 30), *range(14 * 60, 17 * 60, 30))
    ]
    number = 0
    while True:
        number += 1
        request = m.RequestSlot("checkup", draw.choice(starts), staff=f"s{draw.randrange(STAFF)}")
        customer = f"customer:K{draw.randrange(1_000_000)}"
        yield NewInput("request_slot", wire.encode_message(request), key=f"k{number}", by=customer)


async def backlog(log: Log, count: int) -> float:
    """Append *count* inputs; entries per second."""
    source = commands(1, SystemClock().now_ms())
    prepared = [list(islice(source, 2_000)) for _ in range(count // 2_000)]
    start = time.perf_counter()
    for inputs in prepared:
        await log.append(BOOK, inputs)
    return len(prepared) * 2_000 / (time.perf_counter() - start)


def start_actor(url: str) -> subprocess.Popen[bytes]:
    """The booking actor, a process of its own."""
    return subprocess.Popen([sys.executable, __file__, "--actor", url])


async def work_off(log: Log, last: str) -> float:
    """Wait until the backlog up to *last* is decided; seconds from the first commit on."""
    await log.read_outcomes({BOOK: "0-0"}, 1, 60.0)
    start = time.perf_counter()
    with trio.fail_after(600):
        while not await log.read_outcomes({BOOK: before(last)}, 1, 60.0):
            pass
    return time.perf_counter() - start


def before(entry_id: str) -> str:
    """The greatest id below one."""
    ms, _, sequence = entry_id.partition("-")
    return f"{ms}-{int(sequence) - 1}" if int(sequence) else f"{int(ms) - 1}-{2**64 - 1}"


async def round_trips(log: Log, count: int) -> list[float]:
    """Milliseconds from pushing a command until its outcome is read, one at a time; ascending."""
    took: list[float] = []
    source = commands(2, SystemClock().now_ms())
    at = (await log.facts(BOOK, "outcomes")).last_id
    for number in range(count):
        new = next(source)
        new = NewInput(new.type, new.body, key=f"r{number}", by=new.by)
        start = time.perf_counter()
        (mine,) = await log.append(BOOK, [new])
        while at != mine:  # nobody else pushes, so it is the last one
            found = await log.read_outcomes({BOOK: at}, 100, 5.0)
            at = found[BOOK][-1].id if found else at
        took.append((time.perf_counter() - start) * 1e3)
        await trio.sleep(0.002)  # light load: some hundreds a second
    return sorted(took)


async def measure(inputs: int, count: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(ServerConfig(Path(folder), durability="durable"))
        server.start()
        try:
            await server.wait_ready()
            async with open_redis_log(server.url, rng=random.Random(1)) as log:
                body = wire.encode_message(practice(STAFF))
                await log.append(BOOK, [NewInput("define_practice", body, key="p", by="service:b")])
                raw = await backlog(log, inputs)
                last = (await log.facts(BOOK, "inputs")).last_id
                actor = start_actor(server.url)
                seconds = await work_off(log, last)
                payments = (await log.facts(BOOK, "payments")).length
                trips = await round_trips(log, count)
                actor.terminate()
                actor.wait()
        finally:
            server.stop_now()
    decided = inputs / seconds
    print(
        json.dumps(
            {
                "inputs": inputs,
                "payment_actions": payments,
                "decided_per_s": round(decided),
                "raw_xadd_per_s": round(raw),
                "ratio_decided_to_raw": round(decided / raw, 3),
                "round_trip_ms_p50": round(trips[len(trips) // 2], 2),
                "round_trip_ms_p99": round(trips[len(trips) * 99 // 100], 2),
                "round_trips": len(trips),
            }
        )
    )


async def actor_process(url: str) -> None:
    """The booking actor, until SIGTERM."""
    calm_garbage_collection()
    stop = trio.Event()
    async with open_redis_log(url, rng=random.Random(2)) as log:
        await run_booking(
            log, SystemClock(), owner="bench", options=BookingOptions(), stop=stop, books=[BOOK]
        )


def main() -> None:
    """Run as the measurement, or as the booking actor that it starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--commands", type=int, default=2_000)
    parser.add_argument("--actor", help=argparse.SUPPRESS)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    if options.actor:
        trio.run(actor_process, options.actor)
    else:
        trio.run(measure, options.inputs, options.commands)


if __name__ == "__main__":
    main()
