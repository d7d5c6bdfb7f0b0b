"""A deterministic state machine with tracked actions, and nothing else.

The idea, from S2 ("PHASM"): a *transition* takes a state and one input, changes the state, returns
an outcome, and describes *actions* for others to carry out. It never carries them out itself, and
it never learns anything that is not in its arguments: no clock, no randomness, no file, no socket.
So whoever replays the inputs gets the same state, the same outcomes and the same actions with the
same ids.

A *tracked* action's result comes back as an input and matters; the state knows every outstanding
one before it leaves. An *untracked* action's result matters to nobody's correctness. After a crash,
:meth:`StateMachine.restore` says, from the state alone, which actions must be under way.

:class:`StateMachine` keeps its state in memory. :class:`AsyncStateMachine` keeps it in a database:
its state is an open transaction. :mod:`holdfast.machine.hosts` runs one input of either.

The rules are enforced by :mod:`holdfast.machine.audit`, which wraps any machine in tests.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeAlias, TypeVar

import msgspec

StateT = TypeVar("StateT")
MessageT = TypeVar("MessageT")
ResultT = TypeVar("ResultT")
ActionT = TypeVar("ActionT")
OutcomeT = TypeVar("OutcomeT")
StateT_contra = TypeVar("StateT_contra", contravariant=True)
MessageT_contra = TypeVar("MessageT_contra", contravariant=True)
ResultT_contra = TypeVar("ResultT_contra", contravariant=True)
OutcomeT_co = TypeVar("OutcomeT_co", covariant=True)
MessageT_co = TypeVar("MessageT_co", covariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)
ActionT_co = TypeVar("ActionT_co", covariant=True)

ACTIONS_MAX = 4096
"""Most actions that one input may emit: the log leaves that many ids after each input's own."""


def action_order(action_id: str) -> tuple[int, int, int]:
    """Sort key of an action id, ``<ms>-<seq>:<n>``, in the order of emission."""
    entry_id, _, number = action_id.rpartition(":")
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq), int(number)


class TransitionError(Exception):
    """The input is malformed; the state is as it was before.

    A machine raises it only before its first change. A business refusal ("slot taken") is not an
    error but an outcome, recorded like any other.
    """


class EmitFullError(Exception):
    """The container of actions has no room for what a transition wants to emit."""


class Normal(msgspec.Struct, Generic[MessageT_co], frozen=True, gc=False):
    """An input that asks for something.

    Attributes:
      id: The log's id of the entry, ``<milliseconds>-<sequence>``.
      now: The entry's time: milliseconds since the epoch, UTC. The only "now" there is.
      message: What is asked.
    """

    id: str
    now: int
    message: MessageT_co


class Completed(msgspec.Struct, Generic[ResultT_co], frozen=True, gc=False):
    """An input that brings the result of a tracked action.

    Attributes:
      id: The log's id of the entry.
      now: The entry's time, milliseconds since the epoch, UTC.
      action_id: The id under which the action was emitted.
      result: What became of it.
    """

    id: str
    now: int
    action_id: str
    result: ResultT_co


Input: TypeAlias = Normal[MessageT] | Completed[ResultT]


class Tracked(msgspec.Struct, Generic[ActionT_co], frozen=True, gc=False):
    """An action whose result comes back as :class:`Completed` under the same id."""

    id: str
    action: ActionT_co


class Untracked(msgspec.Struct, Generic[ActionT_co], frozen=True, gc=False):
    """An action on whose result no decision depends."""

    id: str
    action: ActionT_co


class Emit(Generic[ActionT]):
    """The bounded container into which one transition emits its actions.

    Ids derive from the input's id and a counter: ``<input id>:<n>``, ``n`` from 0. A transition that
    may emit ``k`` actions calls :meth:`reserve` before its first change, so that no emit can fail
    after one (S2's own example got this wrong).

    Args:
      limit: Most actions one input may emit, 1 to ``ACTIONS_MAX``.
    """

    __slots__ = ("_input_id", "_limit", "actions")

    def __init__(self, limit: int = ACTIONS_MAX) -> None:
        if not 1 <= limit <= ACTIONS_MAX:
            raise ValueError(f"limit must be 1 to {ACTIONS_MAX}, not {limit}")
        self._limit = limit
        self._input_id = ""
        self.actions: list[Tracked[ActionT] | Untracked[ActionT]] = []

    def begin(self, input_id: str) -> None:
        """Empty the container and derive ids from *input_id* from now on. The host calls it."""
        self._input_id = input_id
        self.actions = []

    def clear(self) -> None:
        """Empty the container, same input: the caller does so after a transition that raised."""
        self.actions = []

    def twin(self) -> Emit[ActionT]:
        """A container alike: same limit, same input, same actions. For who rehearses a step."""
        twin: Emit[ActionT] = Emit(self._limit)
        twin.begin(self._input_id)
        twin.actions = list(self.actions)
        return twin

    @property
    def room(self) -> int:
        """How many actions still fit."""
        return self._limit - len(self.actions)

    def reserve(self, count: int) -> None:
        """Make sure that *count* more actions fit.

        Raises:
          EmitFullError: They do not. Nothing was emitted.
        """
        if len(self.actions) + count > self._limit:
            raise EmitFullError(
                f"input {self._input_id} wants {count} more actions; {self.room} of {self._limit} fit"
            )

    def tracked(self, action: ActionT) -> str:
        """Emit an action whose result matters; return its id, to be kept in the state."""
        actions = self.actions
        if len(actions) >= self._limit:
            self.reserve(1)
        action_id = f"{self._input_id}:{len(actions)}"
        actions.append(Tracked(action_id, action))
        return action_id

    def untracked(self, action: ActionT) -> str:
        """Emit an action on whose result nothing depends; return its id."""
        actions = self.actions
        if len(actions) >= self._limit:
            self.reserve(1)
        action_id = f"{self._input_id}:{len(actions)}"
        actions.append(Untracked(action_id, action))
        return action_id

    def again(self, action_id: str, action: ActionT) -> None:
        """Emit a tracked action once more under the id it had. Only restore does so."""
        self.reserve(1)
        self.actions.append(Tracked(action_id, action))


class StateMachine(Protocol[StateT, MessageT_contra, ResultT_contra, OutcomeT_co, ActionT]):
    """What a host runs. All methods are pure but for changing the state they are given."""

    @property
    def version(self) -> int:
        """Grows with every change of behaviour; a log is never re-decided by another version."""
        ...

    def genesis(self) -> StateT:
        """The state before the first input."""
        ...

    def transition(
        self,
        state: StateT,
        input: Normal[MessageT_contra] | Completed[ResultT_contra],  # noqa: A002 - the field's word
        emit: Emit[ActionT],
    ) -> OutcomeT_co:
        """Decide one input: validate, then change *state*, emit actions, say what became of it.

        Raises:
          TransitionError: The input is malformed; nothing was changed.
          EmitFullError: The actions do not fit; nothing was changed.
        """
        ...

    def restore(self, state: StateT, emit: Emit[ActionT], after: str = "") -> bool:
        """Emit :meth:`Emit.again` the actions that must be under way, ascending by id.

        Reads *state* and changes nothing. Where the first attempt may have happened, what is
        emitted asks what became of it. It emits one page, as many as *emit* has room for.

        Args:
          state: What to restore from.
          emit: Where the actions go.
          after: Only actions with a greater id: the last one of the page before, or "" to begin.

        Returns:
          True if this was the last page.
        """
        ...

    def outstanding(self, state: StateT) -> list[str]:
        """Ids of the tracked actions whose results *state* awaits, ascending in the log's order."""
        ...

    def encode(self, state: StateT) -> bytes:
        """*state* in its one canonical form: equal states give equal bytes, in every process."""
        ...

    def decode(self, data: bytes) -> StateT:
        """The state that :meth:`encode` wrote; shares nothing with it."""
        ...


class AsyncStateMachine(
    Protocol[StateT_contra, MessageT_contra, ResultT_contra, OutcomeT_co, ActionT]
):
    """The same for a state in a database: *state* is an open transaction, never ours to commit.

    The rules are those of :class:`StateMachine`, and every method awaits nothing but *state*. Two
    differ. A refused input may have written already: the host rolls the transaction back. And
    there is no ``decode``: the audit rehearses a step in a savepoint instead of on a copy.

    Numbers that the state hands out come from rows, not from ``SEQUENCE``: PostgreSQL does not roll
    a sequence back, so that a refused input would change what the next one is given. Action ids
    come from the input, as ever.
    """

    @property
    def version(self) -> int:
        """Grows with every change of behaviour; a log is never re-decided by another version."""
        ...

    async def genesis(self, state: StateT_contra) -> None:
        """Make what must be there before the first input, such as tables; may be called again."""
        ...

    async def transition(
        self,
        state: StateT_contra,
        input: Normal[MessageT_contra] | Completed[ResultT_contra],  # noqa: A002 - the field's word
        emit: Emit[ActionT],
    ) -> OutcomeT_co:
        """Decide one input, as :meth:`StateMachine.transition`.

        Raises:
          TransitionError: The input is malformed; the host rolls *state* back.
          EmitFullError: The actions do not fit; the host rolls *state* back.
        """
        ...

    async def restore(self, state: StateT_contra, emit: Emit[ActionT], after: str = "") -> bool:
        """Emit what must be under way, page by page, as :meth:`StateMachine.restore`."""
        ...

    async def outstanding(self, state: StateT_contra) -> list[str]:
        """Ids of the tracked actions whose results *state* awaits, ascending in the log's order."""
        ...

    async def encode(self, state: StateT_contra) -> bytes:
        """All that the machine keeps in *state*, in one canonical form."""
        ...
