"""Two booking processes on the same books, and whichever leads stands still, again and again.

    python bench/stops.py [--stops 10] [--stop-s 5] [--lease 3] [--seed 1] [--json]

The leader gets SIGSTOP, and SIGCONT when it has stood still for that long and the other one leads: so
it wakes up believing that it still leads, with inputs read and decided, and tries to commit them.
Customers book, pay and cancel meanwhile, at a real server, provider and executors.

At the end everything that was written is compared with a replay, and with the provider. That nobody
whose epoch is over has written anything is seen by a witness: the server tells it every command, in
the order of their execution, with epoch and owner, and whether it wrote.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import redis
import trio
from aftermath import (
    answers_gone,
    assert_actions_are_those_of_a_replay,
    assert_one_effect_each,
    read_streams,
    report_of,
    wait_rest,
)
from customers import CANCELS, any_card, any_wish, cancel, days_ahead, practice
from processes import EVENT_S_MAX, BookingProcess, until

from holdfast.actors.booking import messages as m
from holdfast.bootstrap import open_log
from holdfast.cli.crowd import script
from holdfast.cli.push import wait_outcome
from holdfast.cli.supervisor import Supervisor
from holdfast.config.settings import load
from holdfast.transport import scripts

if TYPE_CHECKING:
    from collections.abc import Callable

    from aftermath import Streams

    from holdfast.actors.ports import Log, NewInput, OutcomeEntry
    from holdfast.cli.supervisor import Part
    from holdfast.config.settings import Settings

BOOKS: Final[tuple[str, ...]] = ("north", "east", "south", "west")
PARTS: Final[tuple[Part, ...]] = ("server", "provider", "payment", "notification")
POLICIES: Final = m.Policies(hold_s=5, holds_per_customer_max=0, check_settle_s=2)
CUSTOMERS: Final = 16
BETWEEN_S: Final = 1.0
ANSWER_S_MAX: Final = 90.0


class Stops(msgspec.Struct):
    """What happened.

    Attributes:
      takeovers: Of all books; the first one of each is nobody's loss.
      late_commits: By processes whose epoch was over; all were refused.
      commits: That were written.
      stepped_down: How often a process found that it leads a book no more.
      gaps_s: At each stop, the longest time that any of the books went without a decision.
      effects: Money moved at the provider, by kind.
    """

    seed: int
    stop_s: float
    lease_s: float
    seconds: float = 0.0
    stops: int = 0
    takeovers: int = 0
    late_commits: int = 0
    commits: int = 0
    stepped_down: int = 0
    inputs: int = 0
    outcomes: dict[str, int] = {}
    effects: dict[str, int] = {}
    gaps_s: list[float] = []
    gap_s_median: float = 0.0
    gap_s_most: float = 0.0


# --- the witness ----------------------------------------------------------------------------------


class Witness:
    """Hears every command that the server executes, and judges who wrote.

    Attributes:
      commits: How many were written.
      late: How many were tried by somebody from whom the book had been taken.
      takeovers: The epochs of each book, in the order of their takeovers.
      wrong: What must not be: a commit that was written by such a one, or an epoch that fell.
    """

    _COMMAND = re.compile(r'\[\d+ ([^\]]*)\] "(\w+)"')
    _WORD = re.compile(r'"([^"]*)"')
    _KEY = re.compile(r"holdfast:\{(.*)\}:(commit|outcomes|payments|notifications)$")

    def __init__(self, url: str) -> None:
        self._client = cast("Any", redis.Redis).from_url(url, decode_responses=True)
        self._leaders: dict[str, tuple[int, str]] = {}
        self._committing: tuple[str, int, str] | None = None
        self._left = trio.Event()
        self.commits = 0
        self.late = 0
        self.takeovers: dict[str, list[int]] = {}
        self.wrong: list[str] = []

    async def watch(self, task_status: trio.TaskStatus[None]) -> None:
        """Listen until :meth:`leave`."""
        with self._client.monitor() as monitor:
            task_status.started()
            listen = monitor.connection.read_response
            await trio.to_thread.run_sync(self.hear, listen, abandon_on_cancel=True)
        self._left.set()

    async def leave(self) -> None:
        """Hear what was executed until now, and no more."""
        self._client.echo("the witness leaves")
        with trio.fail_after(EVENT_S_MAX):
            await self._left.wait()
        self._client.close()

    def hear(self, listen: Callable[[], str]) -> None:
        """Judge what *listen* tells, command by command, until it tells that the witness leaves."""
        while '"the witness leaves"' not in (line := listen()):
            found = self._COMMAND.search(line, 0, 200)
            assert found is not None, line[:200]
            if found[2].upper() == "EVALSHA":
                self._called(self._words(line, 12))
            elif found[1] == "lua":
                self._wrote(self._words(line, 6))

    def _words(self, line: str, count: int) -> list[str]:
        found = self._WORD.finditer(line)
        return [word[1] for word, _ in zip(found, range(count), strict=False)]

    def _called(self, words: list[str]) -> None:
        """Somebody runs a script."""
        self._committing = None
        if words[1] == scripts.COMMIT.sha:
            found = self._KEY.match(words[3])
            assert found is not None, words
            book, epoch, owner = found[1], int(words[9]), words[10]
            self._committing = book, epoch, owner
            self.late += self._leaders[book] != (epoch, owner)

    def _wrote(self, words: list[str]) -> None:
        """The script that runs does something."""
        found = self._KEY.match(words[1]) if len(words) > 1 else None
        if found is None or words[0].upper() not in ("HSET", "XADD"):
            return
        book, kind = found.groups()
        if kind == "commit" and words[2] == "epoch":
            epoch = int(words[3])
            if epoch <= self._leaders.get(book, (0, ""))[0]:
                self.wrong.append(f"{book}: epoch {epoch} after {self._leaders[book][0]}")
            self._leaders[book] = epoch, words[5]
            self.takeovers.setdefault(book, []).append(epoch)
        elif kind != "commit" or words[2] == "position":
            if self._committing != (book, *self._leaders[book]):
                self.wrong.append(f"{book}: {self._committing} wrote in {self._leaders[book]}")
            self.commits += kind == "commit"


# --- the customers --------------------------------------------------------------------------------


class Customers:
    """Those who ask, now and then twice, and cancel.

    Attributes:
      told: What each book's inputs were told to have become.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self.leave = trio.Event()
        self.told: dict[str, dict[str, OutcomeEntry]] = {book: {} for book in BOOKS}

    async def live(
        self, number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """One household at one practice, until all shall leave."""
        draw = random.Random(f"{self._seed} {number}")
        book = BOOKS[number % len(BOOKS)]
        count = 0
        async with open_log(self._settings) as log:
            task_status.started()
            while not self.leave.is_set():
                count += 1
                card, key = any_card(draw), f"k{number}-{count}"
                by = f"customer:{card}{number}-{draw.randrange(20)}"
                wish = any_wish(draw, days_ahead(draw.randrange(3, 30)), key, by)
                outcome = await self._ask(log, book, wish, draw)
                if outcome.status == "accepted" and draw.random() < CANCELS:
                    await self._ask(log, book, cancel(outcome.id, key, by), draw)
                await trio.sleep(draw.random() * 0.2)

    async def _ask(self, log: Log, book: str, new: NewInput, draw: random.Random) -> OutcomeEntry:
        ids = await log.append(book, [new] * draw.choices((1, 2), (9, 1))[0])
        outcome = await wait_outcome(log, book, ids[-1], ANSWER_S_MAX)
        assert outcome is not None, f"{ids[-1]} of {book} has no outcome"
        self.told[book][outcome.id] = outcome
        return outcome


# --- the two processes ----------------------------------------------------------------------------


class Process(BookingProcess):
    """One of them."""

    def took(self) -> set[tuple[str, int]]:
        """Book and epoch of each takeover it made."""
        taken = (line for line in self.said() if line["event"] == "book_taken_over")
        return {(line["book"], line["epoch"]) for line in taken}


class Decisions:
    """When outcomes of each book could be read."""

    def __init__(self) -> None:
        self._at_s: dict[str, list[float]] = {book: [] for book in BOOKS}

    async def watch(self, log: Log) -> None:
        """Look until cancelled."""
        after: dict[str, str] = dict.fromkeys(BOOKS, "0-0")
        while True:
            for book, outcomes in (await log.read_outcomes(after, 512, 5.0)).items():
                after[book] = outcomes[-1].id
                self._at_s[book].append(trio.current_time())

    def longest_gap_s(self, begin_s: float, end_s: float) -> float:
        """The longest time without one in any book, of those that reach into a span."""
        return max(
            later - earlier
            for times in self._at_s.values()
            for earlier, later in pairwise(times)
            if later >= begin_s and earlier <= end_s
        )


class World:
    """The service with its two booking processes."""

    def __init__(self, settings: Settings, log: Log, stops: Stops) -> None:
        self._settings = settings
        self._log = log
        self._stops = stops
        self._draw = random.Random(stops.seed)
        self.processes: list[Process] = []
        self.decisions = Decisions()

    async def run(self, count: int) -> tuple[Witness, Customers]:
        """Stop the leader *count* times under load; come to rest."""
        witness = Witness(cast("str", self._settings.redis_url))
        customers = Customers(self._settings, self._stops.seed)
        async with trio.open_nursery() as nursery:
            await nursery.start(witness.watch)
            for book in BOOKS:
                await self._log.append(book, [practice(POLICIES)])
            # Two that begin at once may share the books, and then nobody ever leads them all.
            self._begin("first")
            await self._wait_leader(None)
            self._begin("second")
            nursery.start_soon(self.decisions.watch, self._log)
            async with trio.open_nursery() as living:
                for number in range(CUSTOMERS):
                    await living.start(customers.live, number)
                await self._stop_often(count)
                customers.leave.set()
            for book in BOOKS:
                await wait_rest(self._log, book)
            self._assert_alive()
            await witness.leave()
            nursery.cancel_scope.cancel()
        return witness, customers

    def _begin(self, name: str) -> None:
        self.processes.append(Process(self._settings, self._settings.data / f"{name}.log"))

    def _assert_alive(self) -> None:
        for process in self.processes:
            assert process.child.code is None, f"a booking process has ended: {process.said()[-1:]}"

    async def _leaders(self) -> set[int]:
        """Who leads the books: numbers of processes."""
        records = zip(BOOKS, await self._log.read_records(BOOKS), strict=True)
        now = {(book, record.epoch) for book, record in records}
        return {number for number, process in enumerate(self.processes) if now & process.took()}

    async def _wait_leader(self, other_than: int | None) -> int:
        """Wait until one process leads all books."""

        async def leads() -> bool:
            self._assert_alive()
            leaders = await self._leaders()
            return len(leaders) == 1 and other_than not in leaders

        await until("another leader of all books", leads)
        (leader,) = await self._leaders()
        return leader

    async def _stop_often(self, count: int) -> None:
        begun = trio.current_time()
        for _ in range(count):
            await trio.sleep(BETWEEN_S * 2 * self._draw.random())
            leader = await self._wait_leader(None)
            child = self.processes[leader].child
            stopped_s = trio.current_time()
            child.send(signal.SIGSTOP)
            try:
                await trio.sleep(self._stops.stop_s)
                await self._wait_leader(leader)
            finally:
                child.send(signal.SIGCONT)
            continued_s = trio.current_time()
            self._stops.stops += 1
            gap_s = self.decisions.longest_gap_s(stopped_s, continued_s)
            self._stops.gaps_s.append(round(gap_s, 2))
        self._stops.seconds = round(trio.current_time() - begun, 1)


# --- what must hold at the end --------------------------------------------------------------------


def assert_epochs_ascend(streams: Streams) -> list[int]:
    """In the order of the log; the epoch of each takeover."""
    bodies = [fields["body"] for _, fields in streams["inputs"] if fields["type"] == "taken_over"]
    taken = [msgspec.json.decode(body, type=m.TakenOver) for body in bodies]
    epochs = [one.epoch for one in taken if not one.after]  # further pages of a restore are of one
    assert epochs == list(range(1, len(epochs) + 1)), epochs
    return epochs


async def assert_all_holds(
    world: World, settings: Settings, log: Log, witness: Witness, customers: Customers, stops: Stops
) -> None:
    """The questions at the end; the figures go into *stops*."""
    assert not witness.wrong, witness.wrong
    streams = {book: read_streams(settings, book) for book in BOOKS}
    outcomes: Counter[str] = Counter()
    for book, of_book in streams.items():
        report, record = await report_of(log, settings, book)
        assert report.holds, report.findings
        assert not answers_gone(of_book, customers.told[book])
        epochs = assert_epochs_ascend(of_book)
        assert epochs == witness.takeovers[book]
        assert record.epoch == epochs[-1]
        await assert_actions_are_those_of_a_replay(log, book, of_book)
        outcomes.update(fields["status"] for _, fields in of_book["outcomes"])
        stops.takeovers += len(epochs)
    stops.effects = assert_one_effect_each(streams, settings.data)
    for process in world.processes:
        errors = [line for line in process.said() if line["level"] not in ("info", "debug")]
        assert not errors, errors
    stops.stepped_down = sum(process.count("stepped_down") for process in world.processes)
    stops.inputs, stops.outcomes = sum(outcomes.values()), dict(outcomes)
    stops.late_commits, stops.commits = witness.late, witness.commits
    stops.gap_s_median, stops.gap_s_most = median(stops.gaps_s), max(stops.gaps_s)


async def run(count: int, stops: Stops, data: Path) -> Stops:
    """Everything, in the new folder *data*.

    Raises:
      AssertionError: Something does not hold.
    """
    settings = load(
        None,
        {},
        {
            "data": data,
            "log.format": "json",
            "booking.lease_s": stops.lease_s,
            "booking.snapshot_s": 5,
            "payment.claim_idle_s": 3,
            "notification.claim_idle_s": 3,
        },
    )
    behaviour = data / "script.json"
    behaviour.write_bytes(msgspec.json.encode(script(stops.seed)))
    async with (
        Supervisor(settings, parts=PARTS, to_files=True, script=behaviour).running() as service,
        open_log(service.settings) as log,
    ):
        world = World(service.settings, log, stops)
        try:
            witness, customers = await world.run(count)
            await assert_all_holds(world, service.settings, log, witness, customers, stops)
            for process in world.processes:
                assert await process.child.stop(30) == 0, "a booking process ended by an error"
        finally:
            for process in world.processes:
                process.child.close()
    return stops


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--stop-s", type=float, default=5.0)
    parser.add_argument("--lease", type=float, default=3.0, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stops = Stops(options.seed, options.stop_s, options.lease)
        stops = trio.run(run, options.stops, stops, Path(folder))
    told = msgspec.to_builtins(stops)
    if options.json:
        print(json.dumps(told))
        return
    for name, value in told.items():
        print(f"{name:14} {value}")


if __name__ == "__main__":
    main()
