"""What operators and servers do to a log: trimming, groups that are made anew."""

# What is replaced here is private, and each replacement takes whatever the original takes.
# pyright: reportPrivateUsage=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from holdfast.transport import memory_log
from holdfast.transport.memory_log import MemoryLog

from . import Bug, edit  # noqa: TID251 - our own package sim

_INPUTS = "[*bounds, parse_id(older)] if older else []"

BUGS = [
    Bug(
        "tools",
        "trims-what-is-pending",
        "Actions are trimmed once they are handed out, though nobody has finished them.",
        "mixed",
        edit(
            MemoryLog,
            "trim",
            "min(group.pending) if group.pending else group.last",
            "group.last",
        ),
    ),
    Bug(
        "tools",
        "trims-what-is-decided",
        "Inputs are trimmed up to the position, whatever the snapshots need.",
        "mixed",
        edit(MemoryLog, "trim", _INPUTS, "[parse_id(held.record.position)]"),
    ),
    Bug(
        "tools",
        "trims-to-the-newest",
        "Inputs are trimmed up to the newest snapshot, and the older one is of no use.",
        "mixed",
        edit(
            MemoryLog, "trim", _INPUTS, "[parse_id(held.snapshots[-1].position)] if older else []"
        ),
        harmless="The older one is for a newest that cannot be read, and no world spoils what the log "
        "keeps.",
    ),
    Bug(
        "tools",
        "gap-unseen",
        "Inputs are trimmed up to the position, and a reader does not see what it missed.",
        "mixed",
        edit(MemoryLog, "trim", _INPUTS, "[parse_id(held.record.position)]"),
        (memory_log, "_refuse_gap", lambda _: lambda name, stream, position: None),
    ),
    Bug(
        "tools",
        "group-from-the-end",
        "A consumer group that is made anew begins after what is there.",
        "mixed",
        edit(
            MemoryLog,
            "_make_groups",
            "actions.groups.setdefault(stream, MemoryGroup())",
            "actions.groups.setdefault(stream, MemoryGroup(actions.last))",
        ),
        edit(
            MemoryLog,
            "take_over",
            "held.actions(name).groups.setdefault(name, MemoryGroup())",
            "held.actions(name).groups.setdefault(name, MemoryGroup(held.actions(name).last))",
        ),
    ),
]
