"""The rules of a state machine, enforced while it runs.

Wrap the machine, use the wrapper in its place in tests and simulation, and the first step that
breaks a rule raises :class:`AuditError` with the rule, the number of the step and what was seen::

    machine = Audited(BookingMachine())

A step is rehearsed on a copy of the state, so that the audit never changes the state it watches.
It costs several encodings of the state a step; with ``every=100`` only each hundredth step is
audited, by count and never by chance, so that a run can be repeated.

:class:`~holdfast.machine.async_audit.AsyncAudited` does the same for a state in a database, rehearsing in a savepoint.
:func:`holdfast.machine.processes.check_across_processes` holds the one rule that a single process
cannot see.
"""

from __future__ import annotations

from typing import Generic

from holdfast.machine.core import (
    ActionT,
    Completed,
    Emit,
    EmitFullError,
    MessageT,
    Normal,
    OutcomeT,
    ResultT,
    StateMachine,
    StateT,
    Tracked,
    TransitionError,
)
from holdfast.machine.guard import TouchedError
from holdfast.machine.rules import Attempt, AuditError, Checks, Rule, page_sizes, said

__all__ = ["AuditError", "Audited", "Rule"]


class Audited(
    Checks[MessageT, ResultT, ActionT],
    Generic[StateT, MessageT, ResultT, OutcomeT, ActionT],
):
    """A state machine that behaves as *machine* does and raises when it breaks a rule.

    Outcomes and actions must compare by value, as structs and dataclasses do.

    Args:
      machine: What to watch. It is called twice for an audited step.
      every: Audit each so-many-th transition, from 1: each.
      reemitting: Types of messages whose transition may emit outstanding tracked actions again
        under the ids they have, as an input that stands for a restart does.
      allow: What may be touched all the same, as for :class:`~holdfast.machine.guard.Guard`.
    """

    def __init__(
        self,
        machine: StateMachine[StateT, MessageT, ResultT, OutcomeT, ActionT],
        *,
        every: int = 1,
        reemitting: type | tuple[type, ...] = (),
        allow: tuple[str, ...] = (),
    ) -> None:
        super().__init__(every, reemitting, allow, ())
        self._machine = machine

    @property
    def version(self) -> int:
        """The machine's version."""
        return self._machine.version

    def genesis(self) -> StateT:
        """The machine's state before the first input."""
        return self._machine.genesis()

    def outstanding(self, state: StateT) -> list[str]:
        """The machine's outstanding action ids."""
        return self._machine.outstanding(state)

    def encode(self, state: StateT) -> bytes:
        """The machine's encoding."""
        return self._machine.encode(state)

    def decode(self, data: bytes) -> StateT:
        """The machine's decoding."""
        return self._machine.decode(data)

    def transition(
        self,
        state: StateT,
        input: Normal[MessageT] | Completed[ResultT],  # noqa: A002 - the field's word
        emit: Emit[ActionT],
    ) -> OutcomeT:
        """Let the machine decide, and check all rules if it is this step's turn.

        Raises:
          AuditError: A rule was broken; the state is then worth nothing but a look.
          TransitionError: As the machine.
          EmitFullError: As the machine.
        """
        machine = self._machine
        if not self.is_due():
            return machine.transition(state, input, emit)
        before = machine.encode(state)
        waiting = machine.outstanding(state)
        twin_state = machine.decode(before)
        if machine.encode(twin_state) != before:
            self.fail(Rule.ENCODING, "a decoded state encodes to something else")
        twin_emit, start = emit.twin(), len(emit.actions)

        real = self._attempt(state, input, emit)
        after = machine.encode(state)
        if real.error is not None and after != before:
            self.fail(
                Rule.ATOMIC,
                f"input {input.id} raised {said(real.error)!r} after it had changed the state: "
                "validate and reserve first",
                real.error,
            )
        twin = self._attempt(twin_state, input, twin_emit)
        if machine.encode(state) != after:
            self.fail(Rule.ENCODING, "what happens to a decoded state happens to its original too")
        self.check_same(real, emit.actions, twin, twin_emit.actions)
        if machine.encode(twin_state) != after:
            self.fail(Rule.DETERMINISTIC, "the same input on a copy gave another state")
        if real.error is not None:
            raise real.error
        self.check_ids(input, emit.actions, start, waiting)
        self.check_recorded(emit.actions, start, machine.outstanding(state))
        self._check_restore(state, after)
        outcome: OutcomeT = real.outcome
        return outcome

    def restore(self, state: StateT, emit: Emit[ActionT], after: str = "") -> bool:
        """Let the machine restore, and check it; from the beginning, all pages.

        Raises:
          AuditError: A rule was broken.
        """
        before = self._machine.encode(state)
        if not after:
            self._check_restore(state, before)
        guard = self.guard()
        try:
            with guard:
                last = self._machine.restore(state, emit, after)
        except TouchedError as error:
            self.check_touched(guard, "restore", error)
            raise
        self.check_touched(guard, "restore")
        if self._machine.encode(state) != before:
            self.fail(Rule.RESTORE_PURE, "restore changed the state")
        return last

    def _attempt(
        self,
        state: StateT,
        input: Normal[MessageT] | Completed[ResultT],  # noqa: A002
        emit: Emit[ActionT],
    ) -> Attempt:
        attempt = Attempt()
        guard = self.guard()
        try:
            with guard:
                attempt.outcome = self._machine.transition(state, input, emit)
        except (TransitionError, EmitFullError) as error:
            attempt.error = error
        except Exception as error:
            self.check_touched(guard, "the transition", error)
            raise
        self.check_touched(guard, "the transition", attempt.error)
        return attempt

    def _check_restore(self, state: StateT, encoded: bytes) -> None:
        waiting = self._machine.outstanding(state)
        self.check_outstanding(waiting)
        few, all_at_once = page_sizes(len(waiting))
        first = self._restored(state, few, len(waiting))
        if self._machine.encode(state) != encoded:
            self.fail(Rule.RESTORE_PURE, "restore changed the state")
        self.check_complete(first, waiting)
        self.check_repeated(first, self._restored(state, all_at_once, len(waiting)))

    def _restored(self, state: StateT, room: int, count: int) -> list[Tracked[ActionT]]:
        found: list[Tracked[ActionT]] = []
        guard = self.guard()
        for _ in range(count // room + 2):
            emit: Emit[ActionT] = Emit(room)
            after = found[-1].id if found else ""
            try:
                with guard:
                    last = self._machine.restore(state, emit, after)
            except EmitFullError as error:
                self.restore_full(room, error)
            except Exception as error:
                self.check_touched(guard, "restore", error)
                raise
            self.check_touched(guard, "restore")
            found += self.check_page(emit.actions, after, last, room)
            if last:
                break
        return found
