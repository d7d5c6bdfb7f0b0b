"""Takeovers, restores, replays and snapshots."""

# What is replaced here is private, and each replacement takes whatever the original takes.
# pyright: reportPrivateUsage=false
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false

from __future__ import annotations

from holdfast.actors.booking import keeping, loading, machine
from holdfast.actors.booking.book import Book
from holdfast.actors.booking.keeping import Keeping
from holdfast.actors.booking.leading import Leading
from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.booking.runner import BookRunner
from holdfast.transport.memory_log import MemoryLog

from ..tier1 import planted as tier1  # noqa: TID251, TID252 - our own package sim
from . import Bug, Patch, edit  # noqa: TID251 - our own package sim

_TIER1 = {bug.name: bug for bug in tier1.PLANTED}
_NEWER = "if position > parse_id(record.position):"


def _in_advance(old: str, new: str) -> list[Patch]:
    """A patch of the replay to a record, for those who load a book and for those who take it over."""
    return [edit(loading, "advance", old, new), edit(keeping, "advance", old, new)]


def _again(name: str, scenario: str) -> Bug:
    """A bug of tier 1, to be seen here too."""
    bug = _TIER1[name]
    return Bug(bug.group, name, bug.does, scenario, *bug.patches)


BUGS = [
    _again("call-lost", "crashes"),
    _again("checks-lost", "outages"),
    _again("keys-lost", "retries"),
    _again("sheets-lost", "crashes"),
    _again("charges-again", "crashes"),
    _again("backwards", "crashes"),
    Bug(
        "restore",
        "no-restore",
        "A takeover asks nothing about calls under way.",
        "crashes",
        (BookingMachine, "restore", lambda _: lambda *args: True),
    ),
    Bug(
        "restore",
        "one-too-few",
        "A takeover forgets the last call under way.",
        "rivals",
        edit(
            BookingMachine,
            "restore",
            "for action_id, booking in state.in_flight.items():",
            "for action_id, booking in list(state.in_flight.items())[:-1]:",
        ),
    ),
    Bug(
        "restore",
        "new-ids",
        "A takeover asks under new ids.",
        "rivals",
        edit(
            BookingMachine,
            "restore",
            "emit.again(action_id, CheckStatus(booking.payment.id))",
            "emit.tracked(CheckStatus(booking.payment.id))",
        ),
    ),
    Bug(
        "restore",
        "orphans-lost",
        "Results that nobody knew are forgotten in the book that is read back.",
        "outages",
        edit(Book, "decode", "book.orphans = state.orphans", "pass"),
    ),
    Bug(
        "restore",
        "deliveries-lost",
        "Counts of deliveries are forgotten in the book that is read back.",
        "crashes",
        edit(Book, "decode", "book.deliveries = state.deliveries", "pass"),
    ),
    Bug(
        "restore",
        "old-practice",
        "The book that is read back has its first practice.",
        "mixed",
        edit(Book, "decode", "book.practices[-1] if", "book.practices[0] if"),
    ),
    Bug(
        "restore",
        "holds-unknown",
        "Holds are not counted in the book that is read back.",
        "crashes",
        edit(Book, "decode", "return book", "book.customer_holds.clear()\n    return book"),
    ),
    Bug(
        "restore",
        "tail-not-replayed",
        "A booking actor begins from its snapshot and replays nothing.",
        "crashes",
        edit(
            loading,
            "advance",
            "while order(runner.position) < order(record.position):",
            "runner.position = record.position\n    while False:",
        ),
    ),
    Bug(
        "restore",
        "replays-too-far",
        "A takeover replays what nobody has decided yet.",
        "rivals",
        *_in_advance("if order(entry.id) <= order(record.position)]\n", "]\n"),
    ),
    Bug(
        "restore",
        "replay-has-effects",
        "A takeover does again what a replay says.",
        "crashes",
        *_in_advance(
            "runner.replay(entries)",
            "runner.__dict__.setdefault('_again', []).extend(runner.decide(entries).payments)",
        ),
        edit(
            Leading,
            "_decide_batch",
            "decided.payments,",
            "runner.__dict__.pop('_again', []) + decided.payments,",
        ),
    ),
    Bug(
        "restore",
        "epoch-from-before",
        "A booking actor writes with the epoch that was there before its takeover.",
        "mixed",
        edit(
            Keeping,
            "_lead",
            "self.leading.add(runner, record)",
            "record = msgspec.structs.replace(record, epoch=max(record.epoch - 1, 1))\n"
            "    self.leading.add(runner, record)",
        ),
    ),
    Bug(
        "snapshots",
        "before-the-commit",
        "A snapshot is written before the commit of its inputs.",
        "mixed",
        edit(
            Leading,
            "commit",
            "        async for batch in self._receive:\n",
            "        async for batch in self._receive:\n"
            "            for book, snapshot in batch.snapshots:\n"
            "                await self._save(book, snapshot, self._led[book].epoch)\n",
        ),
    ),
    Bug(
        "snapshots",
        "unfenced-and-early",
        "A snapshot is written before the commit, and nothing guards it.",
        "rivals",
        edit(
            Leading,
            "commit",
            "        async for batch in self._receive:\n",
            "        async for batch in self._receive:\n"
            "            for book, snapshot in batch.snapshots:\n"
            "                if book in self._led:\n"
            "                    await self._save(book, snapshot, self._led[book].epoch)\n",
        ),
        edit(
            MemoryLog,
            "save_snapshot",
            _NEWER,
            "if False:",
            "if _fenced(record, epoch, owner):",
            "if False:",
        ),
    ),
    Bug(
        "snapshots",
        "unfenced",
        "A snapshot is written whoever holds the book.",
        "rivals",
        edit(MemoryLog, "save_snapshot", "if _fenced(record, epoch, owner):", "if False:"),
    ),
    Bug(
        "snapshots",
        "of-a-later-book",
        "A snapshot's book goes on while it waits to be written.",
        "mixed",
        edit(
            Leading,
            "_save",
            "await self._log.save_snapshot(book, snapshot, epoch, self._owner)",
            "if book in self._led:\n"
            "            later = self._led[book].runner.snapshot()\n"
            "            snapshot = msgspec.structs.replace(snapshot, content=later.state)\n"
            "        await self._log.save_snapshot(book, snapshot, epoch, self._owner)",
        ),
    ),
    Bug(
        "snapshots",
        "middle-of-a-batch",
        "A snapshot is taken before the last input of its batch.",
        "mixed",
        edit(
            Leading,
            "_decide_batch",
            "runner.snapshot()",
            "msgspec.structs.replace(runner.snapshot(), content=early.snapshot().state)",
            "decided = runner.decide(entries)\n",
            "early = BookRunner(book, runner.snapshot())\n"
            "            early.decide(entries[:-1])\n"
            "            decided = runner.decide(entries)\n",
        ),
    ),
    Bug(
        "snapshots",
        "first-forms",
        "A snapshot has bookings as the first input that touched them left them.",
        "mixed",
        edit(
            Book,
            "seal",
            "self.forms[booking.id] = form",
            "self.forms.setdefault(booking.id, form)",
        ),
    ),
    Bug(
        "snapshots",
        "untouched",
        "A delivery report changes a booking without saying so.",
        "mixed",
        edit(machine, "_delivery", "        book.touch(booking)\n", ""),
    ),
    Bug(
        "snapshots",
        "old-link",
        "A snapshot carries the hash chain's first link.",
        "crashes",
        edit(
            BookRunner, "__init__", "self._chain = Chain(snapshot.digest)", "self._chain = Chain()"
        ),
    ),
    Bug(
        "snapshots",
        "away-ends-it",
        "A snapshot that cannot be written ends the booking actor.",
        "mixed",
        edit(
            Leading,
            "_save",
            '_log.warning("snapshot_failed", book=book, why=str(error))\n        return',
            "raise",
        ),
    ),
    Bug(
        "snapshots",
        "superseded-ends-it",
        "A snapshot of one who was superseded ends it by an error of ours.",
        "rivals",
        edit(
            Leading,
            "_save",
            "        return  # the next commit will say so",
            "        raise RuntimeError('superseded')",
        ),
    ),
]
