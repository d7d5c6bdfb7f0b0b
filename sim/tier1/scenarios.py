"""What customers, the provider and the operator do, by name: the eight of S0, and ours.

A scenario is numbers only; :mod:`holdfast.sim.tier1.volume` makes inputs of them. They are chosen so
that a run never saturates: the horizon of bookable days moves on as time passes, and slots come back
by cancellations, declines and expiries about as fast as they are asked for. So 30 to 70 % of the
commands are accepted from the first thousand operations to the last, which a test holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from holdfast.actors.booking import messages as m

if TYPE_CHECKING:
    from collections.abc import Sequence

BEGIN_MS: Final = 1_774_515_600_000
"""2026-03-26, a Thursday, 10:00 in Berlin: three days before its clocks change."""

SERVICES: Final = (
    m.Service("checkup", "Check-up", 30, 7_500),
    m.Service("cleaning", "Cleaning", 15, 5_000),
    m.Service("filling", "Filling", 45, 15_000),
    m.Service("root-canal", "Root canal", 60, 20_000),
    m.Service("advice", "Advice", 15, 0),
)

MORNING: Final[m.TimeRange] = ("09:00", "12:00")
AFTERNOON: Final[m.TimeRange] = ("14:00", "17:00")

_WORKDAYS = ("1", "2", "3", "4", "5")
_NIGHTS: list[m.TimeRange] = [("01:15", "05:00"), ("22:00", "24:00")]

WEEKS: Final[tuple[dict[str, list[m.TimeRange]], ...]] = (
    {day: [MORNING, AFTERNOON] for day in _WORKDAYS},
    {"0": _NIGHTS, **{day: [("08:00", "11:30"), ("13:30", "18:00")] for day in _WORKDAYS}},
    {"0": _NIGHTS, "3": [], "6": [MORNING], **{day: [("09:00", "17:00")] for day in "1245"}},
    {"2": [("10:00", "12:00")], "4": [("10:00", "12:00")]},
)
"""Opening hours to choose from; the second and third are open while clocks change."""


class Scenario(msgspec.Struct, frozen=True):
    """One way of life of a practice. Shares are per mille.

    Attributes:
      says: One sentence for a person.
      staff: How many people work there.
      week: Which of ``WEEKS``.
      days: How far ahead customers ask.
      gap_ms: Mean time between commands.
      customers: How many there are.
      bursts: Of the commands: how many come at once after another, of the same customer or for the
        same slot.
      hot: How many starts everybody wants, or 0: then all alike.
      auto: Of the commands: auto-selections; ``cancel``, ``retry``, ``probe`` (nonsense),
        ``redefine`` (of the practice) likewise; the rest asks for a certain slot.
      rebook: Of the cancellations: how many ask for a slot at once again.
      anybody: Of the requests: how many name no member of staff.
      wishes: How much auto-selections vary: 0 a weekday or two, 1 everything.
      declined: Of the preauthorizations.
      unknown: Of the calls: no answer; half of them had an effect, some of them later.
      slow: Of the results: come minutes later.
      doubled: Of the results: come twice.
      lapsed: Of the preauthorizations: end by themselves while the slot is booked.
      reports: Of the messages: how many come with a delivery report.
      takeovers: Of the operations, per million: crashes, with all that follows.
      holds: How many a customer may have at a time.
      contentions: Policies to choose from by seed.
    """

    name: str
    says: str
    staff: int = 3
    week: int = 0
    days: int = 7
    gap_ms: int = 300_000
    customers: int = 2_000
    bursts: int = 60
    hot: int = 0
    auto: int = 150
    cancel: int = 150
    retry: int = 20
    probe: int = 20
    redefine: int = 0
    rebook: int = 0
    anybody: int = 600
    wishes: int = 0
    declined: int = 100
    unknown: int = 20
    slow: int = 20
    doubled: int = 10
    lapsed: int = 2
    reports: int = 100
    takeovers: int = 50
    hold_s: int = 600
    holds: int = 3
    notice_min: int = 0
    deadline_min: int = 120
    contentions: tuple[Literal["hold", "first_payment_wins"], ...] = ("hold",)

    def practice(self, seed: int, variant: int = 0) -> m.DefinePractice:
        """The practice of a seed; *variant* counts the operator's changes of mind."""
        week = WEEKS[self.week]
        services = list(SERVICES)
        staff = [m.Staff(f"s{n}", f"Member {n}") for n in range(self.staff)]
        grid_min, zone = 15, "Europe/Berlin"
        if variant:
            week = WEEKS[1 + variant % 2]
            grid_min = (15, 30, 15)[variant % 3]
            zone = ("Europe/Berlin", "Europe/Rome", "Europe/London")[variant // 2 % 3]
            if variant % 4 == 1:
                staff[0] = m.Staff("s0", "Member 0", {day: [("07:00", "15:00")] for day in "12345"})
            if variant % 5 == 4:
                staff.pop()
            if variant % 7 == 5:
                services[0] = m.Service("checkup", "Check-up", 30, 8_000)
            if variant % 7 == 6:
                services.pop(2)
        return m.DefinePractice(
            "Practice",
            zone,
            "EUR",
            services,
            staff,
            week,
            grid_min,
            m.Policies(
                contention=self.contentions[seed % len(self.contentions)],
                hold_s=self.hold_s,
                holds_per_customer_max=self.holds,
                minimum_notice_min=self.notice_min,
                advance_days_max=self.days + 1,
                cancellation_deadline_min=self.deadline_min,
                contenders_max=8,
                keep_past_days=1,
                keep_failed_h=1,
            ),
        )


_BOTH: tuple[Literal["hold", "first_payment_wins"], ...] = ("hold", "first_payment_wins")

SCENARIOS: Final[Sequence[Scenario]] = (
    Scenario("mixed", "A practice's ordinary life, a little of everything."),
    Scenario(
        "high-contention",
        "Everybody wants the same few slots; by seed, the first to ask or the first to pay wins.",
        hot=10,
        gap_ms=350_000,
        bursts=200,
        contentions=_BOTH,
    ),
    Scenario("payment-failures", "Every second card is declined.", declined=500, gap_ms=180_000),
    Scenario("auto-selection", "Nearly everybody lets the practice choose.", auto=750),
    Scenario(
        "sparse", "One person, four hours a week.", staff=1, week=3, gap_ms=5_500_000, days=21
    ),
    Scenario("long", "A large practice, booked a season ahead.", staff=8, days=60, gap_ms=120_000),
    Scenario(
        "stress",
        "Everything goes wrong at the provider, and the booking actor is killed all the time.",
        declined=200,
        unknown=200,
        slow=150,
        doubled=100,
        lapsed=20,
        takeovers=1_500,
        contentions=_BOTH,
        gap_ms=260_000,
        bursts=200,
        redefine=2,
    ),
    Scenario(
        "preferences", "Wishes of every kind: dates, weekdays, hours, people.", auto=800, wishes=1
    ),
    Scenario("retries", "Four commands in ten come again, under the same key.", retry=400),
    Scenario(
        "cancel-and-rebook",
        "People change their minds, and want another slot at once.",
        cancel=400,
        rebook=800,
        gap_ms=80_000,
    ),
    Scenario(
        "changing-practice",
        "Hours, prices, staff, grid and zone change under bookings, and clocks change at night.",
        week=1,
        redefine=40,
        slow=300,
        hold_s=300,
        auto=300,
        wishes=1,
        contentions=_BOTH,
    ),
    Scenario(
        "waits-and-expiries",
        "Holds are short, the provider is slow: half of the payments come after the deadline.",
        hold_s=60,
        slow=500,
        unknown=100,
        notice_min=60,
        gap_ms=300_000,
        hot=16,
        customers=60,
        holds=1,
        bursts=200,
        contentions=_BOTH,
    ),
)

BY_NAME: Final = {scenario.name: scenario for scenario in SCENARIOS}
