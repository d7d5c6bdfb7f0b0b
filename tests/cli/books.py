"""Books on the real server that tools' tests look at: decided by the real booking actor."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import redis
import trio

from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.ports import NewInput
from holdfast.bootstrap import SystemClock
from holdfast.cli.practice import define, load_practice
from holdfast.transport.redis_log import open_redis_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.ports import CommitRecord, Log

BAD: Final = {b"type": b"cancel", b"body": b"\xff\xfe{}", b"by": b"customer:K1", b"k\xe9y": b"1"}
"""Fields that nobody can read."""

WAIT_S: Final = 20


def requests(count: int, seed: int = 1, name: str = "") -> list[NewInput]:
    """Requests of customers, some for the best slot, many for one that is taken."""
    draw = random.Random(seed)
    return [
        NewInput(
            "request_auto",
            msgspec.json.encode(
                {
                    "service": draw.choice(["checkup", "cleaning"]),
                    "first": "2031-03-03",
                    "last": f"2031-03-{draw.randrange(5, 28):02}",
                    "name": name or f"Customer {number}",
                }
            ),
            key=f"k-{number}",
            by=f"customer:K{draw.randrange(count)}",
        )
        for number in range(count)
    ]


async def decide_all(log: Log, book: str) -> CommitRecord:
    """Let a booking actor take *book* over, decide what there is, and leave with a snapshot."""
    stop = trio.Event()
    options = BookingOptions(wait_s=0.05)
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                clock = SystemClock()
                await run_booking(
                    log, clock, owner="tests", options=options, stop=stop, books=[book]
                )

            nursery.start_soon(run)
            while True:
                record = await log.read_record(book)
                facts = await log.facts(book, "inputs")
                if record.owner == "tests" and record.position == facts.last_id:
                    break
                await trio.sleep(0.01)
            stop.set()
    return await log.read_record(book)


def make_book(
    url: str, book: str, inputs: Sequence[NewInput], *, bad: int = 0, undecided: int = 0
) -> CommitRecord:
    """A dentist's book with *inputs*, then *bad* unreadable entries, decided; the rest is not."""

    async def make() -> CommitRecord:
        async with open_redis_log(url) as log:
            practice = load_practice("dentist")
            policies = msgspec.structs.replace(practice.policies, advance_days_max=3660)
            practice = msgspec.structs.replace(practice, policies=policies)
            await log.append(book, [define(practice, by="service:test"), *inputs])
            for _ in range(bad):
                fields = [part for pair in BAD.items() for part in pair]
                ask(url, "XADD", f"holdfast:{{{book}}}:inputs", "*", *fields)
            record = await decide_all(log, book)
            if undecided:
                await log.append(book, requests(undecided, seed=9))
            return record

    return trio.run(make)


def ask(url: str, *command: str | bytes) -> Any:  # noqa: ANN401 - whatever the command gives
    """What the server at *url* answers to one command of an independent client."""
    with client(url) as foreign:
        answer: Any = cast("Any", foreign).execute_command(*command)
        return answer


def entries_of(url: str, book: str, stream: str = "inputs") -> list[tuple[str, dict[bytes, bytes]]]:
    """Every entry of a stream: its id and its fields."""
    with client(url) as foreign:
        found: Any = foreign.xrange(f"holdfast:{{{book}}}:{stream}")
    return [(entry_id.decode(), fields) for entry_id, fields in found]


def client(url: str) -> redis.Redis:
    """An independent client of the server at *url*, which is the embedded one."""
    return redis.Redis(unix_socket_path=url.removeprefix("unix://"))
