"""What operators and their tools do to a log, and servers: trims, imports, groups made anew."""

# What is replaced here is private, and each replacement takes whatever the original takes.
# pyright: reportPrivateUsage=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from holdfast.actors.booking.keeping import Keeping
from holdfast.actors.booking.leading import Leading
from holdfast.actors.executor import Executor
from holdfast.tools import drained, export, letters, reconcile, restore, trim, whatif
from holdfast.tools.history import History
from holdfast.tools.sources import LogSource
from holdfast.transport import memory_log, memory_operator
from holdfast.transport.memory_log import MemoryLog
from holdfast.transport.memory_operator import MemoryOperator

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
            "trim_nowait",
            "min([group.last, *group.pending])",
            "group.last",
        ),
    ),
    Bug(
        "tools",
        "trims-what-is-decided",
        "Inputs are trimmed up to the position, whatever the snapshots need.",
        "mixed",
        edit(MemoryLog, "trim_nowait", _INPUTS, "[parse_id(held.record.position)]"),
    ),
    Bug(
        "tools",
        "trims-to-the-newest",
        "Inputs are trimmed up to the newest snapshot, and the older one is of no use.",
        "mixed",
        edit(
            MemoryLog,
            "trim_nowait",
            _INPUTS,
            "[parse_id(held.snapshots[-1].position)] if older else []",
        ),
    ),
    Bug(
        "tools",
        "trims-what-was-not-compared",
        "A trim goes as far as the server allows by then, whatever the operator wants to keep.",
        "upkeep",
        edit(MemoryLog, "trim_nowait", "if older and keep:", "if False:"),
    ),
    Bug(
        "tools",
        "trims-without-archive",
        "What goes is not compared with the export.",
        "upkeep",
        edit(trim, "_compare", "if held is None or held.entry != entry:", "if False:"),
    ),
    Bug(
        "tools",
        "mixes-histories",
        "A tool does not look whether the server failed over while it read.",
        "upkeep",
        edit(
            History,
            "require_same",
            "if await self._operator.history() != self.name:",
            "if False:",
        ),
    ),
    Bug(
        "tools",
        "exports-no-letters",
        "An export leaves out the inputs that became dead letters.",
        "upkeep",
        edit(
            export._Exporter,
            "take",
            "self.writer.add(entry,",
            "entry.problem or self.writer.add(entry,",
        ),
    ),
    Bug(
        "tools",
        "exports-one-less",
        "An export ends before the last input of its range.",
        "upkeep",
        edit(export._Exporter, "take", "entry_id > self._to", "entry_id >= self._to"),
    ),
    Bug(
        "tools",
        "imports-undecided",
        "An imported book is to be decided anew, its calls are made again.",
        "upkeep",
        edit(
            restore._Restorer,
            "_write",
            "if parse_id(archived.entry.id) <= self._decided",
            "if False",
        ),
    ),
    Bug(
        "tools",
        "import-unknown",
        "An import whose connection broke at its end leaves a book that nobody knows.",
        "upkeep",
        edit(MemoryOperator, "_existing", "if await", "if False and await"),
    ),
    Bug(
        "tools",
        "imports-at-once",
        "An import puts in place what somebody else prepared.",
        "upkeep",
        edit(
            memory_operator,
            "_put",
            "(len(inputs.ids), len(outcomes.ids)) != (restored.inputs, restored.outcomes)",
            "False",
        ),
    ),
    Bug(
        "tools",
        "replay-takes-over",
        "A replay takes the book over, to read it in peace.",
        "upkeep",
        edit(
            LogSource,
            "_open",
            "record = await log.read_record(book)",
            "record = await log.take_over(book, 'replay')",
        ),
    ),
    Bug(
        "tools",
        "look-makes-groups",
        "Looking at what is pending makes the group where it is missing.",
        "upkeep",
        edit(
            MemoryOperator,
            "pending",
            "group = held.groups.get(stream)",
            "from holdfast.transport.memory_log import MemoryGroup; "
            "group = held.groups.setdefault(stream, MemoryGroup())",
        ),
    ),
    Bug(
        "tools",
        "retry-keeps-letter",
        "A dead letter that is sent again stays one, and can be sent once more.",
        "upkeep",
        edit(
            MemoryOperator,
            "retry_input",
            "if not log.drop_letters_nowait(book, [letter]):",
            "if log.book(book).deadletters.get(parse_id(letter)) is None:",
        ),
    ),
    Bug(
        "tools",
        "retry-as-it-was",
        "A dead letter is sent again without what was put right.",
        "upkeep",
        edit(letters, "_corrected", "fields[name] = value.encode()", "pass"),
    ),
    Bug(
        "tools",
        "retry-loses-input",
        "A dead letter is removed, and its input is not appended.",
        "upkeep",
        edit(
            MemoryOperator,
            "retry_input",
            "return log.append_nowait(book, new)",
            'return f"{log.now_ms()}-0"',
        ),
    ),
    Bug(
        "tools",
        "drops-all-letters",
        "Dropping one dead letter drops all.",
        "upkeep",
        edit(
            MemoryOperator,
            "drop_letters",
            "log.drop_letters_nowait(book, letters)",
            "log.drop_letters_nowait(book, [f'{a}-{b}' for a, b in log.book(book).deadletters.ids])",
        ),
    ),
    Bug(
        "tools",
        "snapshot-begins-anew",
        "A replay from a snapshot decides once more what is before it.",
        "upkeep",
        edit(
            LogSource,
            "inputs",
            "position = GENESIS if self.begin is None else self.begin.position",
            "position = GENESIS",
        ),
    ),
    Bug(
        "tools",
        "what-if-forgets",
        "Policies that are tried end where somebody defines the practice anew.",
        "upkeep",
        edit(whatif, "_what_if", "_with(entry, policies)", "entry"),
    ),
    Bug(
        "tools",
        "what-if-of-both",
        "What was is told of the policies that are tried, too.",
        "upkeep",
        edit(
            whatif,
            "_what_if",
            "decided = was.decide([entry])",
            "decided = was.decide([_with(entry, policies)])",
        ),
    ),
    Bug(
        "tools",
        "drained-though-led",
        "A drained book is said to be so although somebody who stood by leads it.",
        "upkeep",
        edit(drained, "_look", " and not led", ""),
    ),
    Bug(
        "tools",
        "drained-without-snapshot",
        "A book that nobody leads is said to be drained, whether it has a snapshot or not.",
        "upkeep",
        edit(drained, "_look", "record.snapshot == record.position and not led", "not led"),
    ),
    Bug(
        "tools",
        "reconciles-with-the-past",
        "The reconciler compares the ledger with the newest snapshot alone.",
        "upkeep",
        edit(
            reconcile,
            "_decided",
            "decided_to(log, book, facts.last_id, check=True)",
            'decided_to(log, book, record.snapshot or "0-0")',
            "if parse_id(runner.position) < max(parse_id(record.position), parse_id(facts.last_id)):",
            "if False:",
        ),
    ),
    Bug(
        "tools",
        "reconciles-without-a-log",
        "The reconciler takes a book whose inputs cannot be read for one that wants no money.",
        "upkeep",
        edit(
            reconcile,
            "_decided",
            "if parse_id(runner.position) < max(parse_id(record.position), parse_id(facts.last_id)):",
            "if False:",
        ),
    ),
    Bug(
        "tools",
        "left-out-for-good",
        "An executor that has left a book out never looks at it again.",
        "upkeep",
        edit(Executor, "_serve_again", "further = self._failures[book] - 1", "return"),
    ),
    Bug(
        "tools",
        "deletion-unseen",
        "Nobody notices that a stream of actions was deleted, with what is under way.",
        "upkeep",
        edit(MemoryLog, "_commit", "and stream.last < last:", "and False:"),
    ),
    Bug(
        "tools",
        "retry-hands-out-nothing",
        "An action whose dead letter is sent again is handed to nobody.",
        "upkeep",
        edit(
            MemoryOperator,
            "retry_action",
            "held.groups[stream].pending[id_] = MemoryPending(OPERATOR, since_ms, 1)",
            "pass",
        ),
    ),
    Bug(
        "tools",
        "gives-all-up",
        "A booking actor that cannot read one book's inputs gives up all that it leads.",
        "upkeep",
        edit(
            Leading,
            "_lose_spoiled",
            "await self._patiently(self._log.read_inputs, {book: led.runner.position}, 1, 0.0)",
            "raise spoiled",
        ),
    ),
    Bug(
        "tools",
        "leaves-no-snapshot",
        "A booking actor that is asked to stop leaves without a snapshot.",
        "mixed",
        edit(Leading, "leave", "if led.committed != GENESIS", "if False"),
    ),
    Bug(
        "tools",
        "release-takes-over",
        "A process of another release takes a book over before it looks who decided it.",
        "upkeep",
        edit(Keeping, "_load", "check_version(book, record)", "pass"),
        edit(
            Keeping,
            "_lead",
            "check_version(book, seen)",
            "pass",
            "runner = await self._catch_up(runner, record)",
            "check_version(book, record)\n    runner = await self._catch_up(runner, record)",
        ),
    ),
    Bug(
        "tools",
        "gap-unseen",
        "Inputs are trimmed up to the position, and a reader does not see what it missed.",
        "mixed",
        edit(MemoryLog, "trim_nowait", _INPUTS, "[parse_id(held.record.position)]"),
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
