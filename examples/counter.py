"""The smallest machine with a tracked action: a counter that has its milestones announced.

Run it: ``python examples/counter.py``. It counts, crashes, loads its snapshot, replays the rest of
its log, restores, and ends where it would have ended anyway.

``counter_postgres.py`` is the same machine with its state in a database.
"""

from __future__ import annotations

from typing import TypeAlias

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

MILESTONE = 10
AMOUNT_MAX = 25
VALUE_MAX = 100
MILESTONES_MAX = AMOUNT_MAX // MILESTONE + 1  # most that one input can pass


class Add(msgspec.Struct, frozen=True):
    """Count so many more, 1 to ``AMOUNT_MAX``."""

    amount: int


class Announce(msgspec.Struct, frozen=True):
    """Tell the world that the counter reached *milestone*. Tracked: it must be heard."""

    milestone: int


class Outcome(msgspec.Struct, frozen=True):
    """What became of an input: *status* is ``accepted``, ``refused`` or ``ignored``."""

    status: str
    value: int


CounterInput: TypeAlias = Input[Add, bool]


def check(message: Add) -> None:
    """Raise for what no counter could understand, before anything is changed."""
    if not 1 <= message.amount <= AMOUNT_MAX:
        raise TransitionError(f"amount must be 1 to {AMOUNT_MAX}, not {message.amount}")


def milestones(before: int, after: int) -> list[int]:
    """Milestones passed on the way from *before* to *after*."""
    first = before // MILESTONE + 1
    return [n * MILESTONE for n in range(first, after // MILESTONE + 1)]


class State(msgspec.Struct):
    """The counter, and the milestones that are being announced, by action id."""

    value: int = 0
    announcing: dict[str, int] = {}


class Counter:
    """Counts to ``VALUE_MAX``; a milestone that nobody heard is announced again."""

    version = 1

    def genesis(self) -> State:
        """A counter at 0."""
        return State()

    def transition(self, state: State, input: CounterInput, emit: Emit[Announce]) -> Outcome:  # noqa: A002
        """Decide one input: validate, reserve, then change."""
        if isinstance(input, Completed):
            return self._heard(state, input, emit)
        check(input.message)
        after = state.value + input.message.amount
        if after > VALUE_MAX:
            return Outcome("refused", state.value)  # a business refusal: an outcome, no error
        emit.reserve(MILESTONES_MAX)
        for milestone in milestones(state.value, after):
            state.announcing[emit.tracked(Announce(milestone))] = milestone
        state.value = after
        return Outcome("accepted", after)

    def _heard(self, state: State, input: Completed[bool], emit: Emit[Announce]) -> Outcome:  # noqa: A002
        if input.action_id not in state.announcing:
            return Outcome("ignored", state.value)  # late, or twice
        emit.reserve(1)
        milestone = state.announcing.pop(input.action_id)
        if not input.result:
            state.announcing[emit.tracked(Announce(milestone))] = milestone
        return Outcome("accepted", state.value)

    def outstanding(self, state: State) -> list[str]:
        """Announcements under way, in the order of the log."""
        return sorted(state.announcing, key=action_order)

    def restore(self, state: State, emit: Emit[Announce], after: str = "") -> bool:
        """Announce again under the same id: hearing it twice does no harm."""
        for action_id in self.outstanding(state):
            if after and action_order(action_id) <= action_order(after):
                continue
            if not emit.room:
                return False
            emit.again(action_id, Announce(state.announcing[action_id]))
        return True

    def encode(self, state: State) -> bytes:
        """JSON with sorted keys: the same bytes in every process."""
        return msgspec.json.encode(state, order="deterministic")

    def decode(self, data: bytes) -> State:
        """The state that was encoded."""
        return msgspec.json.decode(data, type=State)


def described(action: Tracked[Announce] | Untracked[Announce]) -> str:
    """An action as the story prints it."""
    return f"{action.id} announce {action.action.milestone}"


def main() -> None:
    """Count, crash, restore."""
    machine = Audited(Counter())
    emit: Emit[Announce] = Emit(8)
    log: list[CounterInput] = [
        Normal("1000-0", 1000, Add(7)),
        Normal("1001-0", 1001, Add(25)),
        Completed("1002-0", 1002, "1001-0:0", result=True),
        Completed("1003-0", 1003, "1001-0:1", result=False),
        Normal("1004-0", 1004, Add(99)),
        Normal("1005-0", 1005, Add(10)),
    ]
    state = machine.genesis()
    snapshot, position = b"", 0
    for number, entry in enumerate(log, start=1):
        try:
            outcome = decide(machine, state, entry, emit)
        except TransitionError as error:
            print(f"{entry.id}  malformed: {error}; the value is still {state.value}")
            continue
        todo = "; ".join(described(action) for action in emit.actions) or "nothing to do"
        print(f"{entry.id}  {outcome.status}, the value is {outcome.value}: {todo}")
        if number == 3:
            snapshot, position = machine.encode(state), number
            print("        snapshot taken")
    before = digest(machine.encode(state))

    print("crash!  all that is left is the log and the snapshot")
    state = machine.decode(snapshot)
    for entry in log[position:]:
        try:
            decide(machine, state, entry, emit)
        except TransitionError:
            continue
    same = digest(machine.encode(state)) == before
    print(f"replayed {len(log) - position} inputs: value {state.value}, same digest: {same}")
    for again in restored(machine, state):
        print(f"restored: {described(again)}")
    for number, action_id in enumerate(machine.outstanding(state)):
        done = Completed(f"{2000 + number}-0", 2000 + number, action_id, result=True)
        decide(machine, state, done, emit)
    print(f"all heard: {len(machine.outstanding(state))} announcements outstanding")


if __name__ == "__main__":
    main()
