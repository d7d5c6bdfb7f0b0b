"""The production actors outlive each kind of fault of the server, and all of them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest
import structlog
import trio

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.invariants import full_scan
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.payment.actor import PaymentOptions, run_payment
from holdfast.actors.ports import LogError, LogUnavailableError, NewInput
from holdfast.sim.clock import START_MS, WorldClock
from holdfast.sim.draws import Draws
from holdfast.sim.faults import (
    SERVER_FAULTS,
    Durability,
    Failover,
    RefusingWindow,
    ServerFaults,
    Window,
    draw_server_faults,
)
from holdfast.sim.marks import Marks
from holdfast.sim.provider import ProviderFaults, SimProvider
from holdfast.sim.scheduler import Uniform
from holdfast.sim.server import SimServer
from holdfast.sim.trace import Trace

from .stories import ALWAYS, REPLICATED  # noqa: TID251 - the tests' own package sim

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from holdfast.actors.ports import Log

_WHOLE_DAY: list[m.TimeRange] = [("00:00", "24:00")]
PRACTICE = m.DefinePractice(
    name="Practice",
    zone="UTC",
    currency="EUR",
    services=[m.Service("checkup", "Checkup", 30, 7_500)],
    staff=[m.Staff("s1", "First")],
    hours={str(day): _WHOLE_DAY for day in range(7)},
)
FAULT_S = 60
REST_S = 1_200
_SPAN = Window(START_MS, START_MS + FAULT_S * 1000)
_MIDDLE = Window(START_MS + 10_000, START_MS + 30_000)
KINDS: dict[str, ServerFaults] = {
    "drop_before": ServerFaults(drop_before=0.2),
    "drop_after": ServerFaults(drop_after=0.2),
    "silent": ServerFaults(silent=0.1),
    "cut": ServerFaults(cut=0.5, latency_ms_max=500),  # so that both books have something
    "slow": ServerFaults(slow=0.3, slow_ms_max=5_000, latency_ms_max=50),
    "partition": ServerFaults(partition=ALWAYS, partitions=_SPAN),
    "away": ServerFaults(away=(_MIDDLE, Window(START_MS + 40_000, START_MS + 40_500))),
    "refusing": ServerFaults(
        refusing=(
            RefusingWindow(_MIDDLE, "OOM"),
            RefusingWindow(Window(START_MS + 35_000, START_MS + 45_000), "LOADING"),
        )
    ),
    "refuse_some": ServerFaults(refuse_some=0.5, slow=0.3, slow_ms_max=2_000),
    "failover": ServerFaults(
        failovers=(Failover(START_MS + 20_000, 3_000, 500), Failover(START_MS + 40_000, 9_000, 500))
    ),
    "old_file": ServerFaults(failovers=(Failover(START_MS + 40_000, 35_000, 500, old_file=True),)),
    "restart": ServerFaults(
        restarts=(
            Failover(START_MS + 20_000, 2_000, 500),
            Failover(START_MS + 40_000, 2_000, 9_000),
        )
    ),
    "lag": ServerFaults(replica_ms_max=2_000, stalled=(_MIDDLE,)),
    "old_primary": ServerFaults(
        failovers=(Failover(START_MS + 20_000, 1_000, 500, 15_000),), left_behind=0.5
    ),
    "still": ServerFaults(still=(_MIDDLE,)),
    "in_flight": ServerFaults(latency_ms_max=500, in_flight=1.0),
    "claim_early": ServerFaults(claim_early=ALWAYS),
    "reorder": ServerFaults(reorder=ALWAYS, claim_early=ALWAYS),
    "short": ServerFaults(short=ALWAYS),
    "group_back": ServerFaults(group_back=0.3),
    "group_missing": ServerFaults(group_missing=0.2),
    "consumer_missing": ServerFaults(consumer_missing=0.3),
    "foreign": ServerFaults(foreign=0.5),
    "evicted": ServerFaults(evict_s=10),
}


class Life:
    """A book's life: customers, a booking actor and two payment executors on one server.

    Args:
      faults: What the server does to them for the first ``FAULT_S`` seconds.
      seed: Of all draws.
      mortal: Processes die every few seconds.
    """

    def __init__(
        self, faults: ServerFaults, seed: int, *, mortal: bool = False, standby: bool = False
    ) -> None:
        self.mortal = mortal
        self.standby = standby
        self.draws = Draws(seed)
        self.faults = faults
        self.clock = WorldClock()
        self.trace = Trace(self.clock.now_ms)
        self.server: SimServer
        self.healed = False
        self.ends: list[str] = []

    def run(self) -> None:
        self.clock.run(self._main, strategy=Uniform(self.draws))

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self.server = SimServer(
                self.clock,
                self.draws,
                self.faults,
                nursery,
                options=REPLICATED if self.faults.replica_ms_max else None,
                on_fault=lambda kind, details: self.trace.note("server", kind, details),
            )
            self.provider = SimProvider(
                self.draws, ProviderFaults(), self.trace, Marks(), nursery, self.clock.now_ms
            )
            async with trio.open_nursery() as processes:
                for book in ("one", "two"):
                    processes.start_soon(self._customers, book)
                processes.start_soon(self._supervise, "booking", self._booking)
                if self.standby:
                    processes.start_soon(self._supervise, "booking-2", self._booking)
                for number in (1, 2):
                    processes.start_soon(self._supervise, f"payment-{number}", self._payment)
                await trio.sleep(FAULT_S)
                self.server.heal()
                self.healed = True
                if self.faults.consumer_missing:  # only a takeover brings lost actions back
                    self.restart.cancel()
                await self._rest()
                processes.cancel_scope.cancel()
            nursery.cancel_scope.cancel()

    async def _customers(self, book: str) -> None:
        log = self.server.connect(f"customers of {book}")
        commands: list[m.Command] = [PRACTICE]
        commands += [m.RequestSlot("checkup", f"2026-01-06T{8 + n % 7:02}:00") for n in range(14)]
        for number, command in enumerate(commands):
            body = wire.encode_message(command)
            by = f"customer:K{number}" if number else "service:web"
            one = NewInput(wire.TYPES[type(command)], body, f"{book}-{number}", by)
            while True:
                try:
                    await log.append(book, [one])
                    break
                except LogUnavailableError:
                    await trio.sleep(0.5)
            await trio.sleep(self.draws.below("customers.think_ms", 4_000, book, number) / 1000)

    async def _supervise(
        self, name: str, process: Callable[[Log, str, int], Awaitable[None]]
    ) -> None:
        for life in range(1, 1_000):
            with trio.CancelScope() as scope:
                if self.mortal and not self.healed:
                    life_ms = self.draws.below("life_ms", 8_000, name, life)
                    scope.deadline = trio.current_time() + 1 + life_ms / 1000
                if name == "booking":
                    self.restart = scope
                try:
                    await process(self.server.connect(f"{name}.{life}"), name, life)
                except LogError as error:
                    self.ends.append(type(error).__name__)
            await trio.sleep(1)

    async def _booking(self, log: Log, name: str, life: int) -> None:
        await run_booking(
            log,
            self.clock,
            owner=f"{name}-{life}",
            options=BookingOptions(snapshot_inputs=5, batch_max=3),
            stop=trio.Event(),
            rng=self.draws.generator("booking", name, life),
        )

    async def _payment(self, log: Log, name: str, life: int) -> None:
        options = PaymentOptions(claim_idle_s=10, keep_claim_s=2)
        rng = self.draws.generator("payment", name, life)
        await run_payment(
            log,
            self.provider,
            consumer=f"{name}.{life}",
            options=options,
            stop=trio.Event(),
            rng=rng,
        )

    async def _rest(self) -> None:
        with trio.move_on_after(REST_S):
            while not self._at_rest():  # noqa: ASYNC110 - nothing tells
                await trio.sleep(60)
        assert self._at_rest(), [
            (name, book.record, book.inputs.facts(), book.payments.facts("payments"))
            for name, book in self.server.log.books.items()
        ]

    def _at_rest(self) -> bool:
        log = self.server.log
        lost = 2 - len(log.registered)  # a failover may lose a whole book
        if (lost and not self.faults.failovers) or self.server.under_way:
            return False
        for book in log.books.values():
            facts = book.payments.facts("payments")
            decided = book.record.position == book.inputs.facts().last_id
            if not decided or facts.pending or facts.lag:
                return False
        return trio.current_time() > FAULT_S + 60

    def assert_sound(self) -> None:
        """Each book's log replays to its record, its outcomes and its actions; nothing broken."""
        for name in self.server.log.registered:
            book = self.server.log.book(name)
            runner = BookRunner(name)
            replayed = runner.decide(list(book.inputs.entries))
            assert book.outcomes.entries == replayed.outcomes
            assert runner.digest == book.record.digest
            assert book.payments.entries == replayed.payments
            assert full_scan(runner.state) == []
            # Either may lose the practice itself.
            if not self.faults.failovers and not self.faults.restarts:
                assert len(runner.state.bookings) >= 5


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What actors log is not of interest here."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


def test_every_kind_of_fault_is_tried() -> None:
    assert list(KINDS) == list(SERVER_FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_actors_outlive_each_kind_of_fault(kind: str) -> None:
    fired = mattered = 0
    for seed in range(5):
        life = Life(KINDS[kind], seed, mortal=kind == "in_flight", standby=kind == "evicted")
        life.run()
        life.assert_sound()
        fired += life.server.counts.fired.get(kind, 0)
        mattered += life.server.counts.mattered.get(kind, 0)
    assert fired > 0
    assert mattered > 0 or kind == "slow"


@pytest.mark.slow
def test_the_actors_outlive_whole_swarms_of_faults() -> None:
    fired: dict[str, int] = {}
    for seed in range(40):
        level = get_args(Durability)[seed % 3]
        faults = draw_server_faults(Draws(seed), START_MS, FAULT_S, durability=level)
        life = Life(faults, seed, mortal=seed % 2 == 1)
        life.run()
        life.assert_sound()
        fired |= life.server.counts.fired
    assert sorted(fired) == sorted(kind for kind in SERVER_FAULTS if kind != "consumer_missing")


@pytest.mark.slow
def test_the_same_seed_is_the_same_run() -> None:
    digests: list[tuple[str, dict[str, int], int]] = []
    for _ in range(2):
        draws = Draws(3)
        life = Life(draw_server_faults(draws, START_MS, FAULT_S), 3)
        life.run()
        digests.append((life.trace.digest(), life.server.counts.mattered, len(life.draws.tape)))
    assert digests[0] == digests[1]
    assert len(digests[0][1]) > 1
