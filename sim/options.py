"""Everything about a world that its seed decides before it begins.

Each seed draws its own practice, its own processes with their own limits and timeouts, and its own
faults: about half of the kinds of faults are off in any one world (a swarm), since faults hide each
other. Options are printed with a failing seed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec

from holdfast.actors.booking import messages as m
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.notification.actor import NotificationOptions
from holdfast.actors.payment.actor import PaymentOptions
from holdfast.sim.clock import START_MS
from holdfast.sim.crowd import CrowdOptions
from holdfast.sim.faults import Durability, ServerFaults, draw_server_faults
from holdfast.sim.mailer import MailerFaults
from holdfast.sim.operator_faults import OperatorFaults, draw_operator_faults
from holdfast.sim.processes import ProcessFaults
from holdfast.sim.provider_faults import ProviderFaults, draw_provider_faults
from holdfast.transport.pool import ServerOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.sim.draws import Draws

FAULTS: Final[Mapping[str, str]] = {
    "wire": "connections to the log break, lose requests or answers, are slow or cut off",
    "server": "the log's server is away, refuses, and its clock stands still",
    "groups": "consumer groups go back or get lost, batches are cut, claims come early",
    "inputs": "somebody writes to the inputs what is no input",
    "failover": "a replica takes over that has not got the last writes",
    "provider": "the payment provider is late, wrong, away, or forgets",
    "mailer": "messages cannot be delivered, or nobody knows",
    "process": "processes crash, stop, pause, and begin again",
    "operator": "an operator changes the practice, trims, replays, and appends old entries again",
}
"""Name and sentence of each group of faults."""

FAULT_GROUPS: Final = tuple(FAULTS)

Schedule = Literal["fifo", "uniform", "pct"]

SCENARIOS: Final[Mapping[str, str]] = {
    "mixed": "a bit of everything",
    "high-contention": "one member of staff and few slots that all want",
    "payment-failures": "half of the payments are declined",
    "auto-selection": "most customers let the slot be found",
    "sparse": "few customers, far apart",
    "long": "appointments within the hour, until all are over and paid",
    "stress": "three times as many customers at once",
    "preferences": "found slots must lie within days, hours and staff",
    "rivals": "two booking actors, and leases that vanish: each takes the book from the other",
    "crashes": "processes that live for seconds",
    "outages": "a provider that is away, late and forgetful",
    "retries": "customers who send everything twice and come back with old keys",
    "contention": "nobody holds a slot, the first payment wins",
    "upkeep": "an operator who uses every tool beside the live books",
}
"""Name and sentence of each scenario."""

OVER_S: Final = 3_600
"""How soon appointments are over in worlds that wait for that."""

_DAY_MS: Final = 86_400_000
_MINUTE_MS: Final = 60_000


class Options(msgspec.Struct, frozen=True):
    """One world.

    Attributes:
      schedule: Who runs next among the runnable.
      durability: What the service promises, and what a world may lose by it.
      books: How many books.
      booking_actors: How many at a time; a second one stands by.
      lose_leader: At the end who leads dies for good, and who stands by must lead.
      stop_leader: Who leads is then stopped cleanly instead.
      places: The lives of a booking actor know each other, as those under a supervisor do.
      turns: The second booking actor starts only when the first one has ended.
      payment_executors: How many at a time.
      notification_executors: How many at a time.
      fault_s: How long faults happen.
      rest_s_max: How long after that the world may take to come to rest.
      restart: Every process is restarted when the faults stop. Otherwise only what died is.
      over_s: The world runs on until every appointment that ends so soon is over; 0 for none.
    """

    scenario: str
    schedule: Schedule
    durability: Durability
    books: int
    booking_actors: int
    lose_leader: bool
    stop_leader: bool
    places: bool
    turns: bool
    payment_executors: int
    notification_executors: int
    fault_s: int
    rest_s_max: int
    restart: bool
    over_s: int
    practice: m.DefinePractice
    changed: m.DefinePractice
    crowd: CrowdOptions
    booking: BookingOptions
    payment: PaymentOptions
    notification: NotificationOptions
    provider: ProviderFaults
    operator: OperatorFaults
    mailer: MailerFaults
    process: ProcessFaults
    server: ServerFaults
    connections: ServerOptions


class _Swarm:
    """Draws shares of faults; about half of the kinds are off in any one world."""

    def __init__(self, draws: Draws, groups: Sequence[str]) -> None:
        self._draws = draws
        self.groups = groups

    def share(self, group: str, name: str, greatest: float) -> float:
        """0, or up to *greatest*."""
        if group not in self.groups or not self._draws.chance("swarm.on", 0.5, name):
            return 0.0
        return greatest * (1 + self._draws.below("swarm.share", 10, name)) / 10


def draw_options(draws: Draws, scenario: str, groups: Sequence[str]) -> Options:
    """The world of *draws*' seed.

    Args:
      draws: Of the seed.
      scenario: One of ``SCENARIOS``.
      groups: Fault groups that may happen.

    Raises:
      ValueError: There is no such scenario or group.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"there is no scenario {scenario!r}; see 'holdfast sim list'")
    for group in groups:
        if group not in FAULT_GROUPS:
            raise ValueError(
                f"there is no fault group {group!r}: take of {', '.join(FAULT_GROUPS)}"
            )
    swarm = _Swarm(draws, groups)
    until_completed = scenario == "long" or draws.chance("world.until_completed", 0.08)
    practice = _practice(draws, scenario)
    rivals = scenario == "rivals" or draws.chance("world.rivals", 0.3)
    fault_s = draws.between("world.fault_s", 20, 90)
    hold_s = practice.policies.hold_s
    restart = draws.chance("world.restart", 0.5)
    durability = draws.pick("world.durability", get_args(Durability))
    return Options(
        scenario=scenario,
        schedule=draws.pick("world.schedule", get_args(Schedule)),
        durability=durability,
        books=1 + draws.chance("world.books", 0.15),
        booking_actors=1 + rivals,
        lose_leader=rivals and draws.chance("world.lose_leader", 0.5),
        stop_leader=draws.chance("world.stop_leader", 0.3),
        places=draws.chance("world.places", 0.5),
        turns=scenario != "rivals" and draws.chance("world.turns", 0.2),
        payment_executors=draws.between("world.payment_executors", 1, 2),
        notification_executors=1 + draws.chance("world.notification_executors", 0.2),
        fault_s=fault_s,
        rest_s_max=2_400 + 2 * hold_s + (OVER_S if until_completed else 0),
        restart=restart,
        over_s=OVER_S if until_completed else 0,
        practice=practice,
        changed=_changed(draws, practice),
        crowd=_crowd(draws, scenario, practice, fault_s, until_completed),
        booking=_booking(draws, rivals=rivals, stays=scenario == "upkeep"),
        payment=_payment(draws),
        notification=_notification(draws),
        provider=draw_provider_faults(
            draws, partial(swarm.share, "provider"), scenario, START_MS, fault_s
        ),
        operator=draw_operator_faults(swarm.share, fault_s, every_tool=scenario == "upkeep"),
        mailer=MailerFaults(
            error_before=swarm.share("mailer", "mailer.error_before", 0.3),
            error_after=swarm.share("mailer", "mailer.error_after", 0.3),
        ),
        process=_process(draws, swarm, scenario),
        server=draw_server_faults(
            draws,
            START_MS,
            fault_s,
            groups,
            lossy=restart,
            rivals=scenario == "rivals",
            durability=durability,
        ),
        connections=ServerOptions(
            reply_s=draws.pick("connections.reply_s", (3.0, 10.0, 30.0)),
            resolve_s=draws.pick("connections.resolve_s", (10.0, 1.0)),
            backoff_most_s=draws.pick("connections.backoff_s", (2.0, 0.2)),
            disk="relaxed" if durability == "relaxed" else "durable",
            replicas_min=int(durability == "replicated"),
            replicas_s=draws.pick("connections.replicas_s", (1.0, 0.2)),
        ),
    )


def _practice(draws: Draws, scenario: str) -> m.DefinePractice:
    staff = 1 if scenario == "high-contention" else draws.between("practice.staff", 1, 3)
    first_wins = scenario == "contention" or draws.chance("practice.first_wins", 0.3)
    whole_day: list[m.TimeRange] = [("00:00", "24:00")]
    two_parts: list[m.TimeRange] = [("08:00", "12:00"), ("13:00", "18:00")]
    hours = draws.pick("practice.hours", (whole_day, two_parts))
    free = draws.chance("practice.free", 0.2)
    policies = m.Policies(
        contention="first_payment_wins" if first_wins else "hold",
        hold_s=draws.pick("practice.hold_s", (20, 60, 5, 180)),
        cancellation_deadline_min=draws.pick("practice.deadline_min", (0, 60, 1_440)),
        cooling_off_min=draws.pick("practice.cooling_off_min", (15, 0, 1)),
        holds_per_customer_max=draws.pick("practice.holds_max", (3, 1, 0)),
        late_authorization=not draws.chance("practice.no_late", 0.3),
        keep_failed_h=draws.pick("practice.keep_failed_h", (24, 1, 0)),
        check_settle_s=draws.pick("practice.settle_s", (60, 30)),
    )
    services = [
        m.Service("cleaning", "Cleaning", 15, 0 if free else 5_000),
        m.Service("checkup", "Check-up", 30, 7_500),
    ]
    members = [
        m.Staff(f"s{number}", f"Member {number}", {"1": two_parts} if number == 2 else None)
        for number in range(staff)
    ]
    return m.DefinePractice(
        name="Practice",
        zone=draws.pick("practice.zone", ("Europe/Berlin", "UTC", "America/New_York")),
        currency="EUR",
        services=services,
        staff=members,
        hours={str(day): hours for day in range(7)},
        grid_min=15,
        policies=policies,
    )


def _changed(draws: Draws, practice: m.DefinePractice) -> m.DefinePractice:
    """The practice after its owner has thought again: shorter hours, other prices, fewer staff."""
    shorter: list[m.TimeRange] = [("09:00", "11:00")]
    services = [
        msgspec.structs.replace(service, price_cents=service.price_cents + 100)
        for service in practice.services
    ]
    fewer = draws.chance("changed.fewer_staff", 0.5)
    return msgspec.structs.replace(
        practice,
        services=services,
        staff=practice.staff[:1] if fewer else practice.staff,
        hours={str(day): shorter for day in range(7)},
    )


def _crowd(
    draws: Draws, scenario: str, practice: m.DefinePractice, fault_s: int, soon: bool
) -> CrowdOptions:
    first_ms = START_MS + (10 * _MINUTE_MS if soon else _DAY_MS)
    first_ms -= first_ms % (15 * _MINUTE_MS)
    few = scenario in ("high-contention", "contention", "stress")
    slots = draws.between("crowd.slots", 2, 4) if few else draws.between("crowd.slots", 3, 12)
    step_ms = (15 if soon else 30) * _MINUTE_MS
    customers = draws.between("crowd.customers", 3, 8)
    retries = scenario == "retries"
    found = scenario in ("auto-selection", "preferences")
    return CrowdOptions(
        customers={"stress": 3 * customers, "sparse": 2}.get(scenario, customers),
        visits_max=draws.between("crowd.visits_max", 1, 3),
        span_s=fault_s // (4 if scenario == "stress" else 1),
        think_s_max=draws.pick("crowd.think_s", (5, 20, 1)),
        starts_ms=tuple(first_ms + number * step_ms for number in range(slots)),
        auto=0.8 if found else 0.2,
        # Where every wish can be met nobody is refused, and nothing is learnt from that.
        wishes=0.9 if found else 0.5,
        wished=("09:00", "10:00") if found else ("06:00", "13:00"),
        named=1.0 if scenario == "high-contention" else 0.5,
        cancel=draws.pick("crowd.cancel_share", (0.25, 0.0, 0.6)),
        again=0.8 if retries else 0.1,
        repeat=0.8 if retries else 0.15,
        garbage=draws.below("crowd.garbage_count", 3),
        redefine_s=fault_s // 2 if draws.chance("crowd.redefine", 0.15) else 0,
    )


def _booking(draws: Draws, *, rivals: bool, stays: bool) -> BookingOptions:
    retry_s = draws.pick("booking.retry_s", (0.05, 0.5))
    return BookingOptions(
        batch_max=draws.pick("booking.batch_max", (512, 1, 2, 7)),
        wait_s=draws.pick("booking.wait_s", (60.0, 60.0, 60.0, 5.0)),
        snapshot_inputs=draws.pick("booking.snapshot_inputs", (100_000, 1, 5, 20)),
        snapshot_s=draws.pick("booking.snapshot_s", (300.0, 20.0)),
        lease_s=draws.pick("booking.lease_s", (10.0, 3.0, 60.0) if rivals else (60.0, 30.0, 10.0)),
        retry_s=retry_s,
        retry_s_max=draws.pick("booking.retry_s_max", (2.0, 10.0)),
        trim=draws.chance("booking.trim", 0.2),
        grace_s=draws.pick("booking.grace_s", (10.0, 1.0)),
        stay=stays and draws.chance("booking.stay", 0.5),
    )


def _executor(draws: Draws, stream: str) -> dict[str, float]:
    claim_idle_s = draws.pick(f"{stream}.claim_idle_s", (30.0, 10.0, 90.0))
    return {
        "concurrency_max": draws.pick(f"{stream}.concurrency_max", (4, 1, 2)),
        "read_max": draws.pick(f"{stream}.read_max", (64, 2, 8)),
        "finish_max": draws.pick(f"{stream}.finish_max", (16, 1)),
        "posts_max": 2,
        "wait_s": draws.pick(f"{stream}.wait_s", (60.0, 60.0, 60.0, 10.0)),
        "claim_idle_s": claim_idle_s,
        "claim_every_s": claim_idle_s,
        "keep_claim_s": claim_idle_s / 4,
        "attempts_max": draws.pick(f"{stream}.attempts_max", (3, 1, 2)),
        "backoff_s": draws.pick(f"{stream}.backoff_s", (0.2, 1.0)),
        "backoff_max_s": 5.0,
        "stop_grace_s": draws.pick(f"{stream}.stop_grace_s", (10.0, 1.0)),
    }


def _payment(draws: Draws) -> PaymentOptions:
    fields = _executor(draws, "payment")
    fields["call_timeout_s"] = draws.pick("payment.call_timeout_s", (5.0, 1.0, 15.0))
    return msgspec.convert(fields, PaymentOptions)


def _notification(draws: Draws) -> NotificationOptions:
    return msgspec.convert(_executor(draws, "notification"), NotificationOptions)


def _process(draws: Draws, swarm: _Swarm, scenario: str) -> ProcessFaults:
    if scenario == "crashes" and "process" in swarm.groups:
        return ProcessFaults(0.6, 30, 0.5, 15, 0.2, 0.2, 60, 5, 0.5, 0.2, 60, 0.2, 0.3)
    return ProcessFaults(
        crash_at_call=swarm.share("process", "process.crash_at_call", 0.8),
        crash_call_max=draws.pick("process.crash_call_max", (60, 10, 200)),
        crash_in_time=swarm.share("process", "process.crash_in_time", 0.6),
        crash_s_max=draws.pick("process.crash_s_max", (60, 10)),
        stop=swarm.share("process", "process.stop", 0.3),
        pause=swarm.share("process", "process.pause", 0.4),
        pause_s_max=draws.pick("process.pause_s_max", (30, 150)),
        restart_s_max=draws.pick("process.restart_s_max", (5, 2, 30)),
        crash_stopping=swarm.share("process", "process.crash_stopping", 0.8),
        skew=swarm.share("process", "process.skew", 0.4),
        skew_s_max=draws.pick("process.skew_s_max", (5, 60, 7_200)),
        jump=swarm.share("process", "process.jump", 0.4),
        storm=swarm.share("process", "process.storm", 0.2),
    )
