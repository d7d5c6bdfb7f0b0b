"""The framework: deterministic state machines, and the audit that enforces their rules.

It knows nothing of bookings and imports nothing of ours. ``docs/machine.md`` is its guide.

Here is what a machine needs. Elsewhere: ``digest`` (digests and the hash chain), ``hosts`` (run one
input, in memory or in a database transaction), ``audit`` and ``processes`` (for tests).
"""

from holdfast.machine.core import (
    ACTIONS_MAX,
    AsyncStateMachine,
    Completed,
    Emit,
    EmitFullError,
    Input,
    Normal,
    StateMachine,
    Tracked,
    TransitionError,
    Untracked,
    action_order,
)

__all__ = [
    "ACTIONS_MAX",
    "AsyncStateMachine",
    "Completed",
    "Emit",
    "EmitFullError",
    "Input",
    "Normal",
    "StateMachine",
    "Tracked",
    "TransitionError",
    "Untracked",
    "action_order",
]
