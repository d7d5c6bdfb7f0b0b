"""Somebody who writes to a book's keys by hand, beside a live service, and a person who puts it right.

A key of a wrong type lies in a stream's place, an outcome or an action is written by hand, actions are
deleted. Whoever meets it must say so with the name of the key, leave this one book alone, and go on with it
once it is put right, without a restart. Whose actions were deleted goes on by itself: a takeover asks for
all that is under way.

What somebody deletes of the inputs or the outcomes has no place here. Without its inputs there is no book
to go on with, and its outcomes are needed by nobody who decides: ``check`` tells of both.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import trio

from holdfast.actors.booking.loading import DivergedError
from holdfast.actors.ports import (
    ActionEntry,
    ForeignDataError,
    OutcomeEntry,
    StreamName,
)
from holdfast.sim.action_letters import ACTIONS
from holdfast.sim.history import BY_HAND
from holdfast.transport.keys import format_id, parse_id
from holdfast.transport.memory_log import MemoryStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.sim.action_letters import ActionLetters
    from holdfast.sim.tool_log import ToolLog
    from holdfast.sim.troubles import Slot
    from holdfast.sim.workbench import Workbench

KINDS: Final = ("type", "outcome", "deleted", "action")

BROKEN_S_MAX: Final = 90
"""How long a book stays spoilt, at most."""

AHEAD_MS: Final = 3_600_000
"""By how much an outcome that is written by hand is ahead."""

_KEYS: Final = ("inputs", "outcomes", "payments", "notifications", "deadletters", "commit")
_LOOK_S: Final = 1.0


class Meddling:
    """What is done to the keys of one world's books by hand.

    Args:
      bench: What tools work with.
      letters: Takes away what was written among the actions.
      slots: All processes.

    Attributes:
      touched: The books that somebody meddled with, and what was done.
    """

    def __init__(self, bench: Workbench, letters: ActionLetters, slots: Sequence[Slot]) -> None:
        self._bench = bench
        self._letters = letters
        self._slots = slots
        self.touched: dict[str, list[str]] = {}
        self._last_words: list[tuple[str, str]] = []
        self._outcomes: dict[tuple[str, tuple[int, int]], None] = {}

    def excuses(self, error: BaseException) -> bool:
        """Whether a process may end by *error*: all of its books were spoilt."""
        known = isinstance(error, ForeignDataError | DivergedError)
        spoilt = [book for book in self.touched if known and book in str(error)]
        self._last_words += [(f"book {book}", str(error)) for book in spoilt]
        return bool(spoilt)

    # -- spoiling ------------------------------------------------------------

    async def meddle(self, log: ToolLog, book: str, number: int) -> None:
        """Spoil *book*, see what is said of it, and put it right after a while."""
        bench = self._bench
        draws = bench.draws
        kind = draws.pick("meddle.kind", KINDS, book, number)
        what = getattr(self, f"_spoil_{kind}")(book, number)
        self.touched.setdefault(book, []).append(what)
        bench.did(f"meddled_{kind}", f"{book} {what}")
        until = trio.current_time() + draws.below("meddle.s", BROKEN_S_MAX, book, number)
        told = False
        while trio.current_time() < until:
            await trio.sleep(_LOOK_S)
            told = any(self._look(book, what)) or told
        if told:
            bench.marks.hit(f"tool_meddled_{kind}_told")
        self._mend(book)
        if kind == "action":
            await self._letters.clear(log, book)

    def _spoil_type(self, book: str, number: int) -> str:
        held = self._bench.log.book(book)
        key = self._bench.draws.pick("meddle.key", _KEYS, book, number)
        if key == "commit":
            held.foreign = True
            return "commit record"
        held.stream(_stream(key)).foreign = True
        return key

    def _spoil_outcome(self, book: str, number: int) -> str:
        del number
        outcomes = self._bench.log.book(book).outcomes
        ms, _ = max(outcomes.last, (self._bench.log.now_ms(), 0))
        id_ = (ms + AHEAD_MS, 0)
        outcomes.add(id_, OutcomeEntry(format_id(*id_), BY_HAND, b"{}"))
        self._outcomes[book, id_] = None
        self._bench.log.ring(book, "outcomes")
        return "outcomes"

    def _spoil_deleted(self, book: str, number: int) -> str:
        stream = self._bench.draws.pick("meddle.stream", ACTIONS, book, number)
        held = self._bench.log.book(book)
        if stream == "payments":
            held.payments = MemoryStream()
        else:
            held.notifications = MemoryStream()
            self._bench.checks.messages_lost = True
        return stream

    def _spoil_action(self, book: str, number: int) -> str:
        stream = self._bench.draws.pick("meddle.stream", ACTIONS, book, number)
        held = self._bench.log.book(book).actions(stream)
        ms, sequence = held.last
        id_ = (ms, sequence + 1)
        held.add(id_, ActionEntry(format_id(*id_), "by hand", "preauthorize", b"{}"))
        self._letters.by_hand[book, stream, id_] = None
        self._bench.log.ring(book, stream)
        return stream

    def _look(self, book: str, what: str) -> list[str]:
        """What is said of *book* that names *what* was spoilt; nobody may say so of a book that is well."""
        said, self._last_words = self._last_words, []
        for slot in self._slots:
            if slot.gate is not None:
                said += slot.gate.health.troubles.items()
        told: list[str] = []
        for subject, why in said:
            name = subject.removeprefix("book ")
            if name == subject or "find out who" not in why:
                continue
            if name not in self.touched:
                self._bench.checks.fail("L9 health", f"{name} is said to be spoilt, too: {why}")
            words = re.split(r"[^a-z]+", why)
            if name == book and all(word in words for word in what.split()):
                told.append(why)
        return told

    # -- putting right -------------------------------------------------------

    def _mend(self, book: str) -> None:
        """Bring back what a key had, and take away what was written by hand, with its id."""
        held = self._bench.log.book(book)
        held.foreign = False
        for name in _KEYS[:-1]:
            held.stream(_stream(name)).foreign = False
        outcomes = held.outcomes
        for known, id_ in self._outcomes:
            if known == book and outcomes.get(id_) is not None:
                deleted = outcomes.deleted
                outcomes.remove(id_)
                outcomes.deleted = deleted
                outcomes.added -= 1
                outcomes.last = parse_id(held.record.position)

    async def mend_all(self, log: ToolLog) -> None:
        """Put everything right that is not yet, where nothing befalls the log any more.

        A failover may have brought back what was put right before.

        Raises:
          ViolationError: Executors do not find what somebody wrote among their actions.
        """
        for book in self.touched:
            self._mend(book)
        await self._letters.clear_all(log)


def _stream(name: str) -> StreamName:
    return name  # type: ignore[return-value]
