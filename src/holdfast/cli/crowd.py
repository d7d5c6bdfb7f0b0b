"""The crowd of ``holdfast demo``: customers who want the same few slots, on real connections.

What each customer wants is drawn from one seed before anything runs. What they get depends on who
comes first, as in life. Their cards behave by the first letter of their ids: see :func:`script`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import date, timedelta
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from holdfast.actors.booking.messages import Cancel, RequestAuto, RequestSlot
from holdfast.actors.payment.script import Rule, Script
from holdfast.actors.ports import Log, LogUnavailableError
from holdfast.cli.commands import encode_command
from holdfast.cli.push import wait_outcome

if TYPE_CHECKING:
    from holdfast.actors.booking.messages import DefinePractice
    from holdfast.actors.ports import NewInput, OutcomeEntry

Connect = Callable[[], AbstractAsyncContextManager[Log]]

CARDS: Final = (("D", 0.12), ("T", 0.04), ("B", 0.04), ("P", 0.04))
"""Shares of customers whose card is declined, whose provider times out after or before it put the
money on hold, and whose payment stays pending for a while. All others are K."""

OUTCOME_S_MAX: Final = 30.0
PUSHES_MAX: Final = 4
POPULAR: Final = 6
"""So many slots are wanted by almost half of the crowd."""


class Plan(msgspec.Struct, frozen=True):
    """What one customer is going to do.

    Attributes:
      at_s: When they come, seconds from the beginning.
      impatient: They send their request twice without waiting for an answer.
      doubtful: They send it again, under the same key, when they have the answer.
      flexible: If they do not get what they ask for, they take any slot of the week.
      fickle: They give a booking back.
    """

    customer: str
    at_s: float
    wish: RequestSlot | RequestAuto
    impatient: bool
    doubtful: bool
    flexible: bool
    fickle: bool


class Seen(msgspec.Struct):
    """What the crowd saw.

    Attributes:
      pushed: Ids of the inputs that were acknowledged.
      done: Customers who are through.
      unanswered: Inputs that got no outcome in time.
      contradicted: Retries that got another answer than the first.
    """

    pushed: list[str] = []
    retries: int = 0
    done: int = 0
    unanswered: list[str] = []
    contradicted: list[str] = []


def script(seed: int) -> Script:
    """How the payment provider behaves towards the crowd."""
    return Script(
        seed=seed,
        rules=(
            Rule(verdict="declined", operation="hold", customer_prefix="D"),
            Rule(verdict="pending", operation="hold", customer_prefix="P"),
            Rule(fault="timeout_after", operation="hold", customer_prefix="T", first=1),
            Rule(fault="timeout_before", operation="hold", customer_prefix="B", first=1),
        ),
        delay_ms=10,
        delay_spread_ms=60,
        wait_s=3.0,
        pending_reads=0,
    )


def plan(
    practice: DefinePractice, monday: date, customers: int, seed: int, spread_s: float
) -> list[Plan]:
    """The crowd's plans; the same arguments give the same plans.

    Args:
      practice: What can be booked.
      monday: The week that everybody wants begins then.
      customers: How many.
      seed: Of everything that is drawn.
      spread_s: Over how long they come.
    """
    rng = Random(seed)
    starts = _starts(practice, monday)
    popular = rng.sample(starts[: len(starts) // 3], min(POPULAR, len(starts) // 3))
    plans: list[Plan] = []
    for number in range(1, customers + 1):
        customer = f"{_card(rng)}{number:04d}"
        plans.append(
            Plan(
                customer=customer,
                at_s=round(rng.random() * spread_s, 3),
                wish=_wish(rng, practice, customer, monday, starts, popular),
                impatient=rng.random() < 0.15,
                doubtful=rng.random() < 0.15,
                flexible=rng.random() < 0.4,
                fickle=rng.random() < 0.08,
            )
        )
    return sorted(plans, key=lambda item: (item.at_s, item.customer))


def _card(rng: Random) -> str:
    share = rng.random()
    for letter, rate in CARDS:
        if share < rate:
            return letter
        share -= rate
    return "K"


def _starts(practice: DefinePractice, monday: date) -> list[str]:
    """Every start of the grid in the week, local time."""
    starts: list[str] = []
    for day in (monday + timedelta(days=number) for number in range(7)):
        for begin, end in practice.hours.get(str(day.isoweekday() % 7), []):
            minutes = range(_minutes(begin), _minutes(end), practice.grid_min)
            starts += [f"{day}T{minute // 60:02d}:{minute % 60:02d}" for minute in minutes]
    return starts


def _minutes(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def _wish(
    rng: Random,
    practice: DefinePractice,
    customer: str,
    monday: date,
    starts: list[str],
    popular: list[str],
) -> RequestSlot | RequestAuto:
    service = rng.choice(practice.services).id
    kind = rng.random()
    if kind < 0.45:
        return RequestSlot(service=service, start=rng.choice(popular), customer=customer)
    if kind < 0.65:
        return RequestSlot(service=service, start=rng.choice(starts), customer=customer)
    days = [(monday + timedelta(days=number)).isoformat() for number in range(5)]
    return RequestAuto(
        service=service,
        days=list(rng.sample(days, 2)),
        ranges=[("08:00", "12:00")] if rng.random() < 0.5 else [],
        first=days[0],
        last=days[-1],
        customer=customer,
    )


class Crowd:
    """Carries the plans out.

    Args:
      book: Where.
      plans: What :func:`plan` gave.
      connect: Opens one more connection.
    """

    def __init__(self, book: str, plans: list[Plan], connect: Connect) -> None:
        self._book = book
        self._plans = plans
        self._connect = connect
        self.seen = Seen()

    async def run(self) -> None:
        """Let everybody come, and wait until all are through."""
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for item in self._plans:
                await trio.sleep_until(began + item.at_s)
                nursery.start_soon(self._live, item)

    async def _live(self, item: Plan) -> None:
        async with self._connect() as log:
            customer = _Customer(log, self._book, item, self.seen)
            await customer.live()
        self.seen.done += 1


class _Customer:
    def __init__(self, log: Log, book: str, item: Plan, seen: Seen) -> None:
        self._log = log
        self._book = book
        self._plan = item
        self._seen = seen
        self._number = 0

    async def live(self) -> None:
        """Ask, ask again, try something else, and perhaps give it back."""
        item = self._plan
        outcome = await self._ask(item.wish)
        if outcome is None:
            return
        if outcome.status != "accepted" and item.flexible:
            any_slot = RequestAuto(
                service=item.wish.service, customer=item.customer, first=_first(item.wish)
            )
            outcome = await self._ask(any_slot)
        if outcome is not None and outcome.status == "accepted" and item.fickle:
            await self._ask(Cancel(booking=f"b{outcome.id}", reason="changed my mind"))

    async def _ask(self, command: RequestSlot | RequestAuto | Cancel) -> OutcomeEntry | None:
        """Push *command*, in this customer's manner; its first outcome."""
        item = self._plan
        self._number += 1
        new = encode_command(
            _TYPES[type(command)],
            msgspec.to_builtins(command),
            key=f"{item.customer}-{self._number}",
            by=f"customer:{item.customer}",
        )
        ids = [await self._push(new)]
        if item.impatient:
            ids.append(await self._push(new))
            self._seen.retries += 1
        first = await self._outcome(ids[0])
        if item.doubtful:
            ids.append(await self._push(new))
            self._seen.retries += 1
        for entry_id in ids[1:]:
            again = await self._outcome(entry_id)
            if first is not None and again is not None and again.body != first.body:
                self._seen.contradicted.append(entry_id)
        return first

    async def _push(self, new: NewInput) -> str:
        """Append *new*; where no answer comes, send it again under the same key."""
        for _ in range(PUSHES_MAX):
            try:
                [entry_id] = await self._log.append(self._book, [new])
            except LogUnavailableError:
                self._seen.retries += 1
                await trio.sleep(0.5)
                continue
            self._seen.pushed.append(entry_id)
            return entry_id
        raise LogUnavailableError("the server does not take what the crowd pushes")

    async def _outcome(self, entry_id: str) -> OutcomeEntry | None:
        outcome = await wait_outcome(self._log, self._book, entry_id, OUTCOME_S_MAX)
        if outcome is None:
            self._seen.unanswered.append(entry_id)
        return outcome


_TYPES: Final = {RequestSlot: "request_slot", RequestAuto: "request_auto", Cancel: "cancel"}


def _first(wish: RequestSlot | RequestAuto) -> str:
    return wish.start[:10] if isinstance(wish, RequestSlot) else wish.first
