"""A payment provider in a few dicts, with a ledger of its own: the oracle for money.

The book is asked nothing here. What was promised comes from the events that customers see, what was
done from the calls that arrive, and both must agree when a booking leaves the book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from holdfast.actors.booking import messages as m
from holdfast.sim.tier1.checks import ViolationError

if TYPE_CHECKING:
    from collections.abc import Mapping

State = Literal["none", "authorized", "declined", "captured", "voided", "refunded", "expired"]
Status = Literal[
    "authorized",
    "captured",
    "voided",
    "refunded",
    "declined",
    "expired",
    "pending",
    "none",
    "unknown",
    "failed",
]


class Account(msgspec.Struct, gc=False):
    """One payment as the provider knows it.

    Attributes:
      price_cents: What the customer was told.
      key: Under which the preauthorization came.
      completed: The appointment took place.
    """

    price_cents: int
    state: State = "none"
    key: str = ""
    completed: bool = False


class Till:
    """Carries calls out and keeps the ledger.

    Attributes:
      accounts: By booking; those whose booking has left the book are settled and gone.
      held_cents: What was ever put on hold; it is captured, released, or still on hold.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.authorized = self.declined = 0
        self.held_cents = self.captured_cents = self.released_cents = 0

    def promise(self, event: m.SlotHeld | m.SlotRequested, prices: Mapping[str, int]) -> None:
        """A customer was told a price.

        Raises:
          ViolationError: It is not the service's.
        """
        if event.price_cents != prices.get(event.service):
            raise ViolationError("money", f"{event.booking} was told {event.price_cents} cents")
        if event.price_cents:
            self.accounts[event.booking] = Account(event.price_cents)

    def do(self, action: m.Action, decline: bool) -> State:
        """Carry a call out, and say what the payment is now.

        Raises:
          ViolationError: The call is none that an honest book makes.
        """
        assert not isinstance(action, m.Notify)
        account = self.accounts.get(_booking_of(action.payment))
        if account is None:
            raise ViolationError("money", f"a call for {action.payment}, which nobody ordered")
        kind = type(action)
        if kind is m.Preauthorize:
            assert isinstance(action, m.Preauthorize)
            self._preauthorize(account, action, decline)
        elif kind is m.Void:
            if account.state == "authorized":
                account.state = "voided"
                self.released_cents += account.price_cents
        elif kind is m.Capture:
            assert isinstance(action, m.Capture)
            if action.amount_cents != account.price_cents:
                raise ViolationError("money", f"{action.payment}: {action.amount_cents} captured")
            if not account.completed:
                raise ViolationError("money", f"{action.payment} is captured before its time")
            if account.state == "authorized":
                account.state = "captured"
                self.captured_cents += account.price_cents
        elif kind is m.Refund and account.state == "captured":
            account.state = "refunded"
            self.captured_cents -= account.price_cents
            self.released_cents += account.price_cents
        return account.state

    def _preauthorize(self, account: Account, action: m.Preauthorize, decline: bool) -> None:
        if action.amount_cents != account.price_cents:
            raise ViolationError("money", f"{action.payment}: {action.amount_cents} put on hold")
        if account.key and account.key != action.key:
            raise ViolationError("money", f"{action.payment} is put on hold twice")
        account.key = action.key
        if account.state == "none":
            if decline:
                account.state = "declined"
                self.declined += 1
            else:
                account.state = "authorized"
                self.authorized += 1
                self.held_cents += account.price_cents

    def lapse(self, payment: str) -> None:
        """A preauthorization ends by itself, as real ones do."""
        account = self.accounts[_booking_of(payment)]
        if account.state == "authorized":
            account.state = "expired"
            self.released_cents += account.price_cents

    def confirmed(self, booking: str) -> None:
        """A customer was told that a booking is confirmed.

        Raises:
          ViolationError: The money is not on hold.
        """
        account = self.accounts.get(booking)
        if account is not None and account.state not in ("authorized", "expired"):
            raise ViolationError("money", f"{booking} is confirmed, its money {account.state}")

    def completed(self, booking: str) -> None:
        """A customer was told that an appointment is over."""
        account = self.accounts.get(booking)
        if account is not None:
            account.completed = True

    def dropped(self, booking: str) -> None:
        """A booking has left the book: nothing may be left of its money.

        Raises:
          ViolationError: Money is on hold, or taken for nothing, or not taken for something.
        """
        account = self.accounts.pop(booking, None)
        if account is None:
            return
        settled = (
            ("captured", "expired")
            if account.completed
            else ("none", "declined", "voided", "expired", "refunded")
        )
        if account.state not in settled:
            word = "completed" if account.completed else "given up"
            raise ViolationError("money", f"{booking} is {word}, and its money {account.state}")

    def on_hold_cents(self) -> int:
        """What is on hold now."""
        return sum(a.price_cents for a in self.accounts.values() if a.state == "authorized")

    def balance(self) -> None:
        """Money is conserved.

        Raises:
          ViolationError: It is not.
        """
        if self.held_cents != self.captured_cents + self.released_cents + self.on_hold_cents():
            raise ViolationError("money", "what was put on hold is neither taken nor given back")


def _booking_of(payment: str) -> str:
    request, _, _ = payment.removeprefix("p").rpartition("-")
    return "b" + request
