"""Why a machine reserves room before it changes anything.

The container of actions is bounded, so emitting can fail. A machine that changes its state first
and emits afterwards is left half changed when the container is full: a payment in the books that
nobody was told to make. Three lines, and the bug stays hidden until the day it is busy.

Run it: ``python examples/reserve.py``. The same input goes to two machines that differ in one line.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from holdfast.machine import Completed, Emit, EmitFullError, Input, Normal, action_order
from holdfast.machine.audit import Audited, AuditError
from holdfast.machine.hosts import decide


class PayAll(msgspec.Struct, frozen=True):
    """Pay each of these suppliers."""

    suppliers: tuple[str, ...]


class Books(msgspec.Struct):
    """Payments under way, by action id."""

    paying: dict[str, str] = {}


BooksInput: TypeAlias = Input[PayAll, str]


class Wrong:
    """Changes, then emits, and hopes."""

    version = 1

    def genesis(self) -> Books:
        """No payments."""
        return Books()

    def transition(self, state: Books, input: BooksInput, emit: Emit[str]) -> int:  # noqa: A002
        """Pay all suppliers, or take note of a result."""
        if isinstance(input, Completed):
            return 1 if state.paying.pop(input.action_id, None) else 0
        for supplier in input.message.suppliers:
            state.paying[emit.tracked(supplier)] = supplier  # the third raises; two are written
        return len(input.message.suppliers)

    def outstanding(self, state: Books) -> list[str]:
        """Payments under way."""
        return sorted(state.paying, key=action_order)

    def restore(self, state: Books, emit: Emit[str], after: str = "") -> bool:
        """Pay again: the id is the bank's idempotency key."""
        ids = self.outstanding(state)
        rest = [i for i in ids if not after or action_order(i) > action_order(after)]
        page = rest[: emit.room]
        for action_id in page:
            emit.again(action_id, state.paying[action_id])
        return len(page) == len(rest)

    def encode(self, state: Books) -> bytes:
        """JSON with sorted keys."""
        return msgspec.json.encode(state, order="deterministic")

    def decode(self, data: bytes) -> Books:
        """The state that was encoded."""
        return msgspec.json.decode(data, type=Books)


class Right(Wrong):
    """Makes sure that all fit before it changes anything."""

    def transition(self, state: Books, input: BooksInput, emit: Emit[str]) -> int:  # noqa: A002
        """The same, after one line."""
        if isinstance(input, Normal):
            emit.reserve(len(input.message.suppliers))
        return super().transition(state, input, emit)


def main() -> None:
    """Give both machines three payments and room for two."""
    order = Normal("1000-0", 1000, PayAll(("dairy", "bakery", "roastery")))
    for machine in (Wrong(), Right()):
        name, books = type(machine).__name__, machine.genesis()
        try:
            decide(Audited(machine), books, order, Emit(2))
        except AuditError as error:
            print(f"{name}: {error}")
        except EmitFullError as error:
            print(f"{name}: {error}")
        print(f"       the books now say: {books.paying or 'nothing'}")


if __name__ == "__main__":
    main()
