"""The framework: deterministic state machines, and the audit that enforces their rules.

It knows nothing of bookings and imports nothing of ours.
"""

from holdfast.machine.core import (
    ACTIONS_MAX,
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
