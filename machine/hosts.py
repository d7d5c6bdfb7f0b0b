"""Runs one input: in memory, or inside a database transaction.

A host puts inputs in order, gives each its id and time, keeps what comes out, and carries the
actions out *after* the state is safe. These helpers are the middle of that: what every host must
do alike. They log nothing, retry nothing and know no database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.machine.core import (
    ActionT,
    AsyncStateMachine,
    Completed,
    Emit,
    MessageT,
    Normal,
    OutcomeT,
    ResultT,
    StateMachine,
    StateT,
    Tracked,
    Untracked,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager


def decide(
    machine: StateMachine[StateT, MessageT, ResultT, OutcomeT, ActionT],
    state: StateT,
    input: Normal[MessageT] | Completed[ResultT],  # noqa: A002 - the field's word
    emit: Emit[ActionT],
) -> OutcomeT:
    """Decide one input in memory; ``emit.actions`` then holds what to do.

    Raises:
      TransitionError: The input is malformed; *state* is as it was and *emit* is empty.
      EmitFullError: The actions do not fit; likewise.
    """
    emit.begin(input.id)
    try:
        return machine.transition(state, input, emit)
    except BaseException:
        emit.clear()  # it may be dirty: actions of a refused input must not leave
        raise


async def decide_in_transaction(
    machine: AsyncStateMachine[StateT, MessageT, ResultT, OutcomeT, ActionT],
    transaction: Callable[[], AbstractAsyncContextManager[StateT]],
    input: Normal[MessageT] | Completed[ResultT],  # noqa: A002 - the field's word
    emit: Emit[ActionT],
) -> OutcomeT:
    """Decide one input inside a database transaction of its own.

    Only when this has returned is anything committed and may ``emit.actions`` be carried out. A
    crash in between loses them; :meth:`AsyncStateMachine.restore` brings them back.

    Args:
      machine: What decides.
      transaction: Opens a transaction and gives it as the state; commits when left in peace and
        rolls back when left by an exception. It must isolate like ``SERIALIZABLE``, or have one
        writer at a time.
      input: What to decide.
      emit: Where the actions go.

    Raises:
      TransitionError: The input is malformed; everything is rolled back and *emit* is empty.
      EmitFullError: The actions do not fit; likewise.
    """
    emit.begin(input.id)
    try:
        async with transaction() as state:
            outcome = await machine.transition(state, input, emit)
    except BaseException:
        emit.clear()  # the commit itself may have failed
        raise
    return outcome


def restored(
    machine: StateMachine[StateT, MessageT, ResultT, OutcomeT, ActionT],
    state: StateT,
    page: int = 512,
) -> Iterator[Tracked[ActionT]]:
    """All actions that must be under way, ascending by id, *page* of them at a time.

    Raises:
      RuntimeError: The machine says there is more, and emits nothing: a bug in its ``restore``.
    """
    emit: Emit[ActionT] = Emit(page)
    after = ""
    last = False
    while not last:
        emit.clear()
        last = machine.restore(state, emit, after)
        yield from (tracked := _tracked(emit.actions))
        after = _next_page(tracked, after, last)


async def restored_in_transaction(
    machine: AsyncStateMachine[StateT, MessageT, ResultT, OutcomeT, ActionT],
    state: StateT,
    page: int = 512,
) -> AsyncIterator[Tracked[ActionT]]:
    """The same for a state in a database, read within one transaction.

    Raises:
      RuntimeError: The machine says there is more, and emits nothing: a bug in its ``restore``.
    """
    emit: Emit[ActionT] = Emit(page)
    after = ""
    last = False
    while not last:
        emit.clear()
        last = await machine.restore(state, emit, after)
        tracked = _tracked(emit.actions)
        for action in tracked:
            yield action
        after = _next_page(tracked, after, last)


def _tracked(actions: list[Tracked[ActionT] | Untracked[ActionT]]) -> list[Tracked[ActionT]]:
    return [action for action in actions if isinstance(action, Tracked)]


def _next_page(tracked: list[Tracked[ActionT]], after: str, last: bool) -> str:
    if tracked:
        return tracked[-1].id
    if not last:
        raise RuntimeError(
            f"restore emitted nothing after {after or 'the beginning'!r} but says there is more: "
            "it must return True on the last page"
        )
    return after
