"""A coffee shop: points for each coffee, and points redeemed for rewards by a loyalty partner.

Run it: ``python examples/coffee_shop.py``. It shows a tracked action whose answer decides, a
refusal that changes nothing, and a crash in the worst moment: the partner has redeemed the points,
and the shop died before it heard so.

The points are set aside when a redemption is *asked for*, not when it is confirmed: checked then
and taken later, two redemptions under way would overdraw the card.

``coffee_shop_postgres.py`` is the same shop with its state in a database.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias

import msgspec

from holdfast.machine import (
    Completed,
    Emit,
    Input,
    Normal,
    Tracked,
    TransitionError,
    Untracked,
    action_order,
)
from holdfast.machine.audit import Audited
from holdfast.machine.digest import digest
from holdfast.machine.hosts import decide, restored

POINTS = {"espresso": 2, "flat white": 4, "cold brew": 5}
"""What a drink earns."""

REWARDS = {"free espresso": 6, "mug": 10}
"""What a reward costs, in points."""


# --- inputs --------------------------------------------------------------------------------------


class Buy(msgspec.Struct, frozen=True, tag=True):
    """A customer bought a drink."""

    customer: str
    drink: str


class Redeem(msgspec.Struct, frozen=True, tag=True):
    """A customer wants a reward for points."""

    customer: str
    reward: str


class Answer(StrEnum):
    """What the partner says of a redemption."""

    REDEEMED = "redeemed"
    DECLINED = "declined"


ShopInput: TypeAlias = Input[Buy | Redeem, Answer]


# --- actions -------------------------------------------------------------------------------------


class RedeemPoints(msgspec.Struct, frozen=True, tag=True):
    """Tracked: the partner is to take *points* off the card. The action's id is the reference."""

    customer: str
    points: int


class AskRedemption(msgspec.Struct, frozen=True, tag=True):
    """Tracked: what became of the redemption with this reference? The partner knows, or does it."""

    customer: str
    points: int


class Tell(msgspec.Struct, frozen=True, tag=True):
    """Untracked: show the customer a line. Nothing depends on it."""

    customer: str
    text: str


ShopAction: TypeAlias = RedeemPoints | AskRedemption | Tell


class Outcome(msgspec.Struct, frozen=True):
    """What became of an input.

    Attributes:
      status: ``accepted``, ``refused`` or ``ignored``.
      code: Why, where it was not accepted.
      points: The customer's points afterwards.
      voucher: Number of the redemption, from 1, or 0.
    """

    status: Literal["accepted", "refused", "ignored"]
    code: str = ""
    points: int = 0
    voucher: int = 0


# --- the machine ---------------------------------------------------------------------------------


class Redemption(msgspec.Struct, frozen=True):
    """A redemption that the partner was asked for; its points are set aside."""

    voucher: int
    customer: str
    reward: str
    points: int


class Shop(msgspec.Struct):
    """The state.

    Attributes:
      points: Points by customer, without those set aside.
      redemptions: Redemptions under way, by the id of their action.
      vouchers: How many redemptions there were: ids come from the state, never from a clock.
    """

    points: dict[str, int] = {}
    redemptions: dict[str, Redemption] = {}
    vouchers: int = 0


def check(message: Buy | Redeem) -> None:
    """Raise for what is not on the menu, before anything is changed."""
    match message:
        case Buy(drink=drink):
            if drink not in POINTS:
                raise TransitionError(f"no drink is called {drink!r}: {', '.join(POINTS)}")
        case Redeem(reward=reward):
            if reward not in REWARDS:
                raise TransitionError(f"no reward is called {reward!r}: {', '.join(REWARDS)}")


class CoffeeShop:
    """Sells coffee in memory."""

    version = 1

    def genesis(self) -> Shop:
        """A shop without customers."""
        return Shop()

    def transition(self, state: Shop, input: ShopInput, emit: Emit[ShopAction]) -> Outcome:  # noqa: A002
        """Decide one input."""
        if isinstance(input, Completed):
            return self._answered(state, input, emit)
        check(input.message)
        if isinstance(input.message, Buy):
            return self._buy(state, input.message, emit)
        return self._redeem(state, input.message, emit)

    def _buy(self, state: Shop, buy: Buy, emit: Emit[ShopAction]) -> Outcome:
        emit.reserve(1)
        points = state.points.get(buy.customer, 0) + POINTS[buy.drink]
        state.points[buy.customer] = points
        emit.untracked(Tell(buy.customer, f"you have {points} points"))
        return Outcome("accepted", points=points)

    def _redeem(self, state: Shop, redeem: Redeem, emit: Emit[ShopAction]) -> Outcome:
        have, price = state.points.get(redeem.customer), REWARDS[redeem.reward]
        if have is None:
            return Outcome("refused", "unknown_customer")
        if have < price:
            return Outcome("refused", "not_enough_points", have)
        emit.reserve(1)
        state.vouchers += 1
        state.points[redeem.customer] = have - price
        action_id = emit.tracked(RedeemPoints(redeem.customer, price))
        state.redemptions[action_id] = Redemption(
            state.vouchers, redeem.customer, redeem.reward, price
        )
        return Outcome("accepted", points=have - price, voucher=state.vouchers)

    def _answered(self, state: Shop, input: Completed[Answer], emit: Emit[ShopAction]) -> Outcome:  # noqa: A002
        if input.action_id not in state.redemptions:
            return Outcome("ignored", "not_under_way")  # late, or twice
        emit.reserve(1)
        redemption = state.redemptions.pop(input.action_id)
        if input.result is Answer.DECLINED:
            state.points[redemption.customer] += redemption.points
        emit.untracked(told(redemption, input.result))
        return Outcome(
            "accepted", points=state.points[redemption.customer], voucher=redemption.voucher
        )

    def outstanding(self, state: Shop) -> list[str]:
        """Redemptions under way, in the order of the log."""
        return sorted(state.redemptions, key=action_order)

    def restore(self, state: Shop, emit: Emit[ShopAction], after: str = "") -> bool:
        """Ask what became of each redemption under way: redeeming again might take points twice."""
        for action_id in self.outstanding(state):
            if after and action_order(action_id) <= action_order(after):
                continue
            if not emit.room:
                return False
            redemption = state.redemptions[action_id]
            emit.again(action_id, AskRedemption(redemption.customer, redemption.points))
        return True

    def encode(self, state: Shop) -> bytes:
        """JSON with sorted keys: the same bytes in every process."""
        return msgspec.json.encode(state, order="deterministic")

    def decode(self, data: bytes) -> Shop:
        """The state that was encoded."""
        return msgspec.json.decode(data, type=Shop)


def told(redemption: Redemption, answer: Answer) -> Tell:
    """What the customer reads when the partner has answered."""
    text = (
        f"here is your {redemption.reward}" if answer is Answer.REDEEMED else "your points are back"
    )
    return Tell(redemption.customer, text)


# --- the outside ---------------------------------------------------------------------------------


class Partner:
    """The loyalty partner, outside of the shop: it remembers each reference, so asking is safe."""

    def __init__(self) -> None:
        self.redeemed: dict[str, int] = {}
        self.closed_cards: set[str] = set()

    def carry_out(self, action: Tracked[ShopAction] | Untracked[ShopAction]) -> Answer | None:
        """Do what an action says; None if it has no answer."""
        if isinstance(action, Untracked) or isinstance(action.action, Tell):
            return None
        if action.action.customer in self.closed_cards:
            return Answer.DECLINED
        self.redeemed.setdefault(action.id, action.action.points)
        return Answer.REDEEMED


def main() -> None:
    """A morning in the shop."""
    machine, partner = Audited(CoffeeShop()), Partner()
    state, log = machine.genesis(), list[ShopInput]()
    emit: Emit[ShopAction] = Emit(4)

    def happens(entry: ShopInput) -> None:
        log.append(entry)
        try:
            outcome = decide(machine, state, entry, emit)
        except TransitionError as error:
            print(f"{entry.id}  malformed: {error}")
            return
        why = f" ({outcome.code})" if outcome.code else ""
        print(f"{entry.id}  {outcome.status}{why}, points: {outcome.points}")
        for action in emit.actions:
            print(f"        -> {action.action}")

    ms = 1000
    for message in (
        Buy("ann", "flat white"),
        Buy("ann", "cold brew"),
        Buy("ann", "water"),
        Redeem("ann", "mug"),
        Buy("ann", "cold brew"),
        Redeem("ann", "mug"),
        Redeem("ann", "free espresso"),
    ):
        ms += 1
        happens(Normal(f"{ms}-0", ms, message))
        for action in list(emit.actions):
            partner.carry_out(action)  # and nobody lives to hear the answer
    before = digest(machine.encode(state))

    print("crash!  the partner has redeemed the points; the shop does not know")
    state = machine.genesis()
    for entry in log:
        try:
            decide(machine, state, entry, emit)
        except TransitionError:
            continue
    print(f"replayed {len(log)} inputs, same digest: {digest(machine.encode(state)) == before}")
    for action in list(restored(machine, state)):
        print(f"restored: {action.id} {action.action}")
        answer = partner.carry_out(action)
        assert answer is not None
        ms += 1
        happens(Completed(f"{ms}-0", ms, action.id, answer))
    print(f"taken by the partner: {sum(partner.redeemed.values())} points, once")


if __name__ == "__main__":
    main()
