"""The rules that the audit holds a machine to, and the checks that look at values alone.

Those who wrap machines are in :mod:`holdfast.machine.audit` and, for a state in a database,
:mod:`holdfast.machine.async_audit`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, NoReturn

import msgspec

from holdfast.machine.core import (
    ACTIONS_MAX,
    ActionT,
    Completed,
    EmitFullError,
    MessageT,
    Normal,
    ResultT,
    Tracked,
    TransitionError,
    Untracked,
    action_order,
)
from holdfast.machine.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Sequence


class Rule(StrEnum):
    """What the audit holds a machine to."""

    ATOMIC = "atomic"
    """A refused input (TransitionError, EmitFullError) leaves the state as it was."""
    DETERMINISTIC = "deterministic"
    """The same input on a copy gives the same state, outcome and actions."""
    PURE = "pure"
    """No clock, randomness, file, socket, thread, process or environment inside the machine."""
    FRESH_IDS = "fresh ids"
    """Each action's id is ``<input id>:<n>`` and was not in use."""
    RECORDED = "recorded"
    """Each tracked action is among ``outstanding(state)`` when the transition returns."""
    RESTORE_COMPLETE = "restore complete"
    """Restore emits exactly the outstanding actions, page by page."""
    RESTORE_PURE = "restore pure"
    """Restore changes nothing."""
    RESTORE_ORDERED = "restore ordered"
    """Restore, and ``outstanding``, go up by id in the log's order, each id once."""
    RESTORE_REPEATABLE = "restore repeatable"
    """Restore says the same twice, whatever the size of the page."""
    ENCODING = "encoding"
    """``decode`` gives back what was encoded and shares nothing with the state."""
    HASH_SEED = "hash seed"
    """Digests are equal across processes with different PYTHONHASHSEED."""


class AuditError(Exception):
    """A machine broke a rule.

    Attributes:
      rule: Which.
      step: Number of the transition, from 1; 0 is before the first.
      detail: What was seen.
    """

    def __init__(self, rule: Rule, step: int, detail: str) -> None:
        super().__init__(f"step {step} breaks the rule {rule.value!r}: {detail}")
        self.rule = rule
        self.step = step
        self.detail = detail


class Attempt(msgspec.Struct):
    """What one run of a transition came to."""

    outcome: Any = None
    error: TransitionError | EmitFullError | None = None


_Actions = list[Tracked[ActionT] | Untracked[ActionT]]


class Checks(Generic[MessageT, ResultT, ActionT]):
    """The checks that look at values alone, alike for memory and database."""

    def __init__(
        self,
        every: int,
        reemitting: type | tuple[type, ...],
        allow: tuple[str, ...],
        trusted: tuple[str, ...],
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be 1 or more, not {every}")
        self._every = every
        self._reemitting = reemitting
        self._allow = allow
        self._trusted = trusted
        self._steps = 0

    @property
    def steps(self) -> int:
        """How many transitions there were, audited or not."""
        return self._steps

    def is_due(self) -> bool:
        """Count one more transition; True if it is to be audited."""
        self._steps += 1
        return self._steps % self._every == 0

    def fail(self, rule: Rule, detail: str, cause: BaseException | None = None) -> NoReturn:
        """Raise for *rule* at this step."""
        raise AuditError(rule, self._steps, detail) from cause

    def guard(self) -> Guard:
        """A guard for one call into the machine, or for a loop of them."""
        return Guard(self._allow, self._trusted)

    def check_touched(self, guard: Guard, where: str, cause: BaseException | None = None) -> None:
        """Raise if *guard* saw something touched, even if the machine swallowed the error."""
        if guard.touched:
            self.fail(Rule.PURE, f"{where} touched {guard.touched[0]}", cause)

    def check_same(
        self, real: Attempt, real_actions: object, twin: Attempt, twin_actions: object
    ) -> None:
        """Compare a step with its rehearsal; actions of a refused input do not count."""
        for what, one, other in (
            ("error", said(real.error), said(twin.error)),
            ("outcome", real.outcome, twin.outcome),
            ("actions", None if real.error else real_actions, None if twin.error else twin_actions),
        ):
            if one != other:
                detail = f"the same input on a copy gave another {what}: {one!r}, then {other!r}"
                self.fail(Rule.DETERMINISTIC, detail)

    def check_ids(
        self,
        input: Normal[MessageT] | Completed[ResultT],  # noqa: A002
        actions: _Actions[ActionT],
        start: int,
        waiting: Sequence[str],
    ) -> None:
        """*actions* from index *start* on are new; *waiting* was outstanding before the step."""
        may_repeat = isinstance(input, Normal) and isinstance(input.message, self._reemitting)
        used = set(waiting)
        for index, action in enumerate(actions):
            if index < start:
                continue
            if may_repeat and isinstance(action, Tracked) and action.id in used:
                used.discard(action.id)  # once more, but not twice more
                continue
            expected = f"{input.id}:{index}"
            if action.id != expected:
                self.fail(
                    Rule.FRESH_IDS,
                    f"action {index} of input {input.id} has the id {action.id!r}, not "
                    f"{expected!r}: ids come from emit, and only restore emits again",
                )
            if action.id in used:
                self.fail(Rule.FRESH_IDS, f"the id {action.id!r} is already outstanding")

    def check_recorded(
        self, actions: _Actions[ActionT], start: int, waiting: Sequence[str]
    ) -> None:
        """Each tracked action from index *start* on is in *waiting*, taken after the step."""
        known = set(waiting)
        for action in actions[start:]:
            if isinstance(action, Tracked) and action.id not in known:
                self.fail(
                    Rule.RECORDED,
                    f"the tracked action {action.id} ({action.action!r}) is not in the state: "
                    "a crash would lose it",
                )

    def check_outstanding(self, waiting: Sequence[str]) -> None:
        """``outstanding`` itself must ascend."""
        last: tuple[int, int, int] | None = None
        for action_id in waiting:
            last = self._check_ascends(action_id, last, "outstanding lists")

    def _check_ascends(
        self, action_id: str, last: tuple[int, int, int] | None, who: str
    ) -> tuple[int, int, int]:
        try:
            order = action_order(action_id)
        except ValueError as error:
            self.fail(Rule.FRESH_IDS, f"{who} {action_id!r}, which is no action id", error)
        if last is not None and order <= last:
            before = f"{last[0]}-{last[1]}:{last[2]}"
            self.fail(Rule.RESTORE_ORDERED, f"{who} {action_id} after {before}")
        return order

    def check_page(
        self, actions: _Actions[ActionT], after: str, last: bool, room: int
    ) -> list[Tracked[ActionT]]:
        """One page of restore: tracked only, ascending, and some progress."""
        tracked: list[Tracked[ActionT]] = []
        order = action_order(after) if after else None
        for action in actions:
            if not isinstance(action, Tracked):
                self.fail(Rule.RESTORE_COMPLETE, f"restore emits the untracked {action!r}")
            order = self._check_ascends(action.id, order, "restore emits")
            tracked.append(action)
        if not last and not actions:
            self.fail(
                Rule.RESTORE_COMPLETE,
                f"restore emits nothing after {after!r} with room for {room}, but says there is more",
            )
        return tracked

    def check_complete(self, actions: list[Tracked[ActionT]], waiting: Sequence[str]) -> None:
        """All pages of restore together are what is outstanding."""
        emitted = [action.id for action in actions]
        if emitted != list(waiting):
            forgotten = [action_id for action_id in waiting if action_id not in emitted]
            invented = [action_id for action_id in emitted if action_id not in waiting]
            self.fail(
                Rule.RESTORE_COMPLETE,
                f"restore forgets {forgotten[:3]} and invents {invented[:3]} "
                f"({len(emitted)} emitted, {len(waiting)} outstanding)",
            )

    def restore_full(self, room: int, error: EmitFullError) -> NoReturn:
        """Raise for a restore that ran over its page."""
        detail = f"restore emits more than the {room} there is room for: stop there, return False"
        self.fail(Rule.RESTORE_COMPLETE, detail, error)

    def check_repeated(self, one: object, other: object) -> None:
        """Two runs of restore are alike."""
        if one != other:
            self.fail(Rule.RESTORE_REPEATABLE, f"restore said {one!r}, then {other!r}")


def said(error: Exception | None) -> str:
    """An error by its type and text, to be compared."""
    return f"{type(error).__name__}: {error}" if error is not None else "none"


def page_sizes(count: int) -> tuple[int, int]:
    """A size that makes restore page, however little there is, and one that takes all at once."""
    return max(1, min(ACTIONS_MAX, (count + 1) // 2)), max(1, min(ACTIONS_MAX, count + 1))
