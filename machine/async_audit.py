"""The audit for a machine whose state is a database transaction; see :mod:`holdfast.machine.audit`.

There is no copy of a database to rehearse on. A step is rehearsed in a savepoint, rolled back, and
done again: what it leaves must be the same both times, and nothing when it was rolled back.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Generic

from holdfast.machine.core import (
    ActionT,
    AsyncStateMachine,
    Completed,
    Emit,
    EmitFullError,
    MessageT,
    Normal,
    OutcomeT,
    ResultT,
    StateT,
    Tracked,
    TransitionError,
)
from holdfast.machine.rules import Attempt, Checks, Rule, page_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextlib import AbstractAsyncContextManager

    from holdfast.machine.guard import Guard


class AsyncAudited(
    Checks[MessageT, ResultT, ActionT],
    Generic[StateT, MessageT, ResultT, OutcomeT, ActionT],
):
    """The same for a machine whose state is a database transaction.

    Args:
      machine: What to watch.
      rehearsal: Opens a savepoint in the state's transaction that is always rolled back; with
        psycopg ``lambda connection: connection.transaction(force_rollback=True)``.
      trusted: Packages through which the state is reached; these alone may do I/O.
      every: Audit each so-many-th transition.
      reemitting: As for :class:`Audited`.
      allow: As for :class:`Audited`.
    """

    def __init__(
        self,
        machine: AsyncStateMachine[StateT, MessageT, ResultT, OutcomeT, ActionT],
        rehearsal: Callable[[StateT], AbstractAsyncContextManager[object]],
        *,
        trusted: tuple[str, ...],
        every: int = 1,
        reemitting: type | tuple[type, ...] = (),
        allow: tuple[str, ...] = (),
    ) -> None:
        super().__init__(every, reemitting, allow, trusted)
        self._machine = machine
        self._rehearsal = rehearsal

    @property
    def version(self) -> int:
        """The machine's version."""
        return self._machine.version

    async def genesis(self, state: StateT) -> None:
        """As the machine."""
        await self._machine.genesis(state)

    async def outstanding(self, state: StateT) -> list[str]:
        """As the machine."""
        return await self._machine.outstanding(state)

    async def encode(self, state: StateT) -> bytes:
        """As the machine."""
        return await self._machine.encode(state)

    async def transition(
        self,
        state: StateT,
        input: Normal[MessageT] | Completed[ResultT],  # noqa: A002 - the field's word
        emit: Emit[ActionT],
    ) -> OutcomeT:
        """Let the machine decide, and check all rules if it is this step's turn.

        Raises:
          AuditError: A rule was broken; roll the transaction back.
          TransitionError: As the machine.
          EmitFullError: As the machine.
        """
        machine = self._machine
        if not self.is_due():
            return await machine.transition(state, input, emit)
        before = await machine.encode(state)
        waiting = await machine.outstanding(state)
        twin_emit, start = emit.twin(), len(emit.actions)
        async with self._rehearsal(state):
            twin = await self._attempt(state, input, twin_emit)
            twin_after = b"" if twin.error else await machine.encode(state)
        if await machine.encode(state) != before:
            self.fail(Rule.ATOMIC, "a rolled back step left a trace: something is kept elsewhere")
        real = await self._attempt(state, input, emit)
        self.check_same(real, emit.actions, twin, twin_emit.actions)
        if real.error is not None:
            raise real.error
        if await machine.encode(state) != twin_after:
            self.fail(Rule.DETERMINISTIC, "the same input, rolled back and repeated, differs")
        self.check_ids(input, emit.actions, start, waiting)
        self.check_recorded(emit.actions, start, await machine.outstanding(state))
        await self._check_restore(state, twin_after)
        outcome: OutcomeT = real.outcome
        return outcome

    async def restore(self, state: StateT, emit: Emit[ActionT], after: str = "") -> bool:
        """Let the machine restore, and check it; from the beginning, all pages.

        Raises:
          AuditError: A rule was broken.
        """
        before = await self._machine.encode(state)
        if not after:
            await self._check_restore(state, before)
        last: bool = await self._watched(self._machine.restore(state, emit, after), "restore")
        if await self._machine.encode(state) != before:
            self.fail(Rule.RESTORE_PURE, "restore changed the state")
        return last

    async def _watched(self, call: Coroutine[Any, Any, Any], where: str) -> Any:  # noqa: ANN401
        guard = self.guard()
        try:
            result = await _guarded(call, guard)
        except (TransitionError, EmitFullError):
            self.check_touched(guard, where)
            raise
        except Exception as error:
            self.check_touched(guard, where, error)
            raise
        self.check_touched(guard, where)
        return result

    async def _attempt(
        self,
        state: StateT,
        input: Normal[MessageT] | Completed[ResultT],  # noqa: A002
        emit: Emit[ActionT],
    ) -> Attempt:
        attempt = Attempt()
        try:
            attempt.outcome = await self._watched(
                self._machine.transition(state, input, emit), "the transition"
            )
        except (TransitionError, EmitFullError) as error:
            attempt.error = error
        return attempt

    async def _check_restore(self, state: StateT, encoded: bytes) -> None:
        waiting = await self._machine.outstanding(state)
        self.check_outstanding(waiting)
        few, all_at_once = page_sizes(len(waiting))
        first = await self._restored(state, few, len(waiting))
        if await self._machine.encode(state) != encoded:
            self.fail(Rule.RESTORE_PURE, "restore changed the state")
        self.check_complete(first, waiting)
        self.check_repeated(first, await self._restored(state, all_at_once, len(waiting)))

    async def _restored(self, state: StateT, room: int, count: int) -> list[Tracked[ActionT]]:
        found: list[Tracked[ActionT]] = []
        for _ in range(count // room + 2):
            emit: Emit[ActionT] = Emit(room)
            after = found[-1].id if found else ""
            try:
                last = await self._watched(self._machine.restore(state, emit, after), "restore")
            except EmitFullError as error:
                self.restore_full(room, error)
            found += self.check_page(emit.actions, after, last, room)
            if last:
                break
        return found


@types.coroutine
def _guarded(call: Coroutine[Any, Any, Any], guard: Guard) -> Generator[Any, Any, Any]:
    """Await *call* with *guard* on while it runs and off while it waits.

    While it waits, the event loop runs, and loops look at clocks.
    """
    with guard:
        try:
            waits_for = call.send(None)
        except StopIteration as stop:
            return stop.value
    while True:
        try:
            sent, thrown = (yield waits_for), None
        except BaseException as error:
            sent, thrown = None, error
        with guard:
            try:
                waits_for = call.throw(thrown) if thrown is not None else call.send(sent)
            except StopIteration as stop:
                return stop.value
