"""One scenario, one seed, so many operations: inputs by the million, each on trial.

An operation is one input: a command, a result, a report, a tick, a takeover. All is a function of
scenario, seed and options: the :class:`Outcome`'s digest covers every input, answer and action in
order, and the book before the end phase.
"""

from __future__ import annotations

from collections import deque
from heapq import heappush
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.actors.booking import messages as m
from holdfast.sim.tier1.checks import ViolationError
from holdfast.sim.tier1.dice import Dice
from holdfast.sim.tier1.traffic import Traffic
from holdfast.sim.tier1.trial import Fate, Options, Trial, guarded

if TYPE_CHECKING:
    from holdfast.sim.tier1.scenarios import Scenario

LOST_MS = 5_000
"""After so long a call counts as unanswered."""


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to.

    Attributes:
      digest: Equal digests, equal runs.
      links: The hash chain's link after each ``LINK_EVERY`` operations.
      operations: All of them; ``end_operations`` belong to the end phase.
      commands: Those of them that asked for something, and how many were accepted.
      counts: Events by type, refusals by code, in alphabetical order.
      preauthorized: How many the provider put on hold, and how many it declined.
      bookings: How many were in the book before the end phase.
    """

    scenario: str
    seed: int
    digest: str
    links: tuple[str, ...]
    operations: int
    end_operations: int
    commands: int
    accepted: int
    counts: dict[str, int]
    preauthorized: int
    declined: int
    bookings: int

    @property
    def accepted_share(self) -> float:
        """Of the commands, 0 to 1."""
        return self.accepted / max(self.commands, 1)

    @property
    def declined_share(self) -> float:
        """Of the preauthorizations, 0 to 1."""
        return self.declined / max(self.declined + self.preauthorized, 1)


def run(scenario: Scenario, seed: int, options: Options | None = None) -> Outcome:
    """Run one seed of a scenario.

    Raises:
      ViolationError: The machine broke a promise; a note says where, and how to see it again.
    """
    running = Run(scenario, seed, options or Options())
    try:
        with guarded(running):
            return running.run()
    except ViolationError as error:
        command = command_of(scenario.name, seed, running.options.operations)
        error.add_note(f"at operation {error.operation}; again: {command}")
        raise


def command_of(scenario: str, seed: int, operations: int) -> str:
    """The command that runs this seed again."""
    return f"holdfast sim {scenario} --tier 1 --seeds {seed} --operations {operations}"


class Run(Trial):
    """One run while it goes on."""

    def __init__(self, scenario: Scenario, seed: int, options: Options) -> None:
        self.traffic = Traffic(scenario, seed)
        super().__init__(options, self.traffic.begin_ms)
        self.scenario, self.seed = scenario, seed
        self._dice = Dice(scenario.name, seed)
        self._reports: deque[m.DeliveryReport] = deque()
        self._words: tuple[int, ...] = ()
        self.entered, self.left = self.traffic.entered, self.traffic.left

    def run(self) -> Outcome:
        """All of it; see :func:`run`."""
        operations, step = self.options.operations, self._step
        self.open()
        for words in self._dice.rolls():
            if self.operation >= operations:
                break
            step(words)
        self.scan()
        digest, links = self.digest(), tuple(self.links)
        bookings, before = len(self.book.bookings), self.operation
        self.end()
        return Outcome(
            self.scenario.name,
            self.seed,
            digest,
            links,
            self.operation,
            self.operation - before,
            self.commands,
            self.accepted,
            self.counts(),
            self.till.authorized,
            self.till.declined,
            bookings,
        )

    def open(self) -> None:
        """The first command: the practice."""
        self.ask(self.traffic.open(), None)

    def _step(self, words: tuple[int, ...]) -> None:
        """The next input: what is under way first, in the order of time; then a customer."""
        self._words = words
        waiting, scenario, now = self._waiting, self.scenario, self.now
        if waiting and waiting[0][0] <= now:
            self._arrive()
        elif self._reports:
            self.report(self._reports.popleft())
        elif words[15] < scenario.takeovers * 4_295:  # of a million, in 2**32
            self.kill()
        else:
            burst = words[12] * 1000 >> 32 < scenario.bursts
            then = now + 1 + (words[0] * (100 if burst else 2 * scenario.gap_ms) >> 32)
            timers, due = self.book.timers, None
            if words[1] & 3 and timers and timers[0][0] <= then:  # else they fire with the rest
                due = self.book.next_due_ms()
            if waiting and waiting[0][0] <= then and (due is None or waiting[0][0] < due):
                self.now = waiting[0][0]
                self._arrive()
            elif due is not None and due <= then:
                self.now = max(now, due)
                self.tick()
            else:
                self.now = then
                self._next_command(words, burst)

    def _next_command(self, words: tuple[int, ...], burst: bool) -> None:
        traffic = self.traffic
        asked = traffic.next(self.now, words, burst)
        past = traffic.past(asked)
        outcome = self.ask(asked, past)
        kept = self.remember(asked, past, outcome)
        if kept is not None and past is None:
            traffic.may_ask_again(kept)

    # -- chance ---------------------------------------------------------------------------------

    def tell(self, action_id: str, notify: m.Notify) -> None:
        """Some messages come with a delivery report, which is the next input."""
        luck = self._words[13 if action_id[-1] in "02468" else 14]
        if not self.ending and luck * 1000 >> 32 < self.scenario.reports:
            self._reports.append(m.DeliveryReport(action_id, notify.booking, "delivered"))

    def fate(self, action_id: str) -> Fate:
        """How the call of an action fares, apart from when its answer comes."""
        return self._fate(self._dice.fate(action_id))

    def _fate(self, words: tuple[int, ...]) -> Fate:
        scenario = self.scenario
        declined = words[3] * 1000 >> 32 < scenario.declined
        if words[0] * 1000 >> 32 < scenario.unknown:
            return Fate(declined, _EFFECTS[words[1] & 3], known=False)
        if words[4] * 1000 >> 32 < scenario.lapsed:
            return Fate(declined, lapsed=True)
        return _DECLINED if declined else _DULL

    def call(self, action_id: str, action: m.PaymentAction) -> None:
        """Chance decides how a call fares, and when its answer comes, once or twice."""
        if self.ending:
            super().call(action_id, action)
            return
        words, scenario = self._dice.fate(action_id), self.scenario
        fate = self._fate(words)
        status = self.provide(action, fate)
        _, kind, delay, _, _, twice, again, away = words
        if not fate.known:
            if fate.effect == "late":
                self._order += 1
                due = self.now + 1 + (delay * 50_000 >> 32)
                heappush(self._waiting, (due, self._order, action_id, None, action))
            self._later(LOST_MS, action_id, action.payment, status)
            return
        wait = 50 + (delay * 1_000 >> 32)
        if kind * 1000 >> 32 < scenario.slow:
            wait = delay * 2_000 * scenario.hold_s >> 32
            if away & 15 == 0:  # the executors are away for hours
                wait += away * 10_800_000 >> 32
        self._later(wait, action_id, action.payment, status)
        if twice * 1000 >> 32 < scenario.doubled:
            wait += 20_000 if again & 3 else 108_000_000  # soon, or when the booking has left
            self._later(wait, action_id, action.payment, status)

    def carry_out_late(self, action_id: str, action: m.PaymentAction) -> None:
        """A call takes its effect when nobody waits for it any more."""
        self.till.do(action, self.fate(action_id).declined)


_DULL: Final = Fate()
_DECLINED: Final = Fate(declined=True)
_EFFECTS: Final = ("at once", "late", "never", "never")
