"""Somebody who writes to a book's keys by hand, beside a live service, and a person who puts it right.

A key of a wrong type lies in a stream's place, an outcome or an action is written by hand, actions are
deleted. Whoever meets it must say so with the name of the key, leave this one book alone, and go on with it
once it is put right, without a restart. Whose actions were deleted goes on by itself: a takeover asks for
all that is under way. An executor of another release makes dead letters of good actions, which are sent
again.

What somebody deletes of the inputs or the outcomes has no place here. Without its inputs there is no book
to go on with, and its outcomes are needed by nobody who decides: ``check`` tells of both.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from holdfast.actors.booking.loading import DivergedError
from holdfast.actors.ports import (
    ActionEntry,
    ActionStream,
    ForeignDataError,
    LogError,
    LogUnavailableError,
    OutcomeEntry,
    StreamName,
)
from holdfast.bootstrap import PaymentPorts, run_with
from holdfast.sim.history import BY_HAND
from holdfast.sim.releases import OtherExecutor
from holdfast.tools.errors import ToolError
from holdfast.tools.letters import read_letters, retry_letter
from holdfast.transport.keys import format_id, parse_id
from holdfast.transport.memory_log import MemoryStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.payment.actor import PaymentOptions
    from holdfast.actors.ports import Provider
    from holdfast.sim.tool_log import ToolLog
    from holdfast.sim.troubles import Slot
    from holdfast.sim.workbench import Workbench
    from holdfast.tools.letters import Letter

KINDS: Final = ("type", "outcome", "deleted", "action")

BROKEN_S_MAX: Final = 90
"""How long a book stays spoilt, at most."""

STRANGE_S_MAX: Final = 5
"""How long an executor of another release runs, at most."""

AHEAD_MS: Final = 3_600_000
"""By how much an outcome that is written by hand is ahead."""

MENDED_S_MAX: Final = 900.0
"""How long executors may take to find what somebody wrote among their actions."""

_ACTIONS: Final[tuple[ActionStream, ...]] = ("payments", "notifications")
_KEYS: Final = ("inputs", "outcomes", "payments", "notifications", "deadletters", "commit")
_LETTERS_MAX: Final = 1_000
_LOOK_S: Final = 1.0


class Meddling:
    """What is done to the keys of one world's books by hand.

    Args:
      bench: What tools work with.
      slots: All processes.
      provider: The world's, whom an executor of another release never calls.
      payment: How that executor works.

    Attributes:
      touched: The books that somebody meddled with, and what was done.
      restart: Whether the booking actors must be started again: what an executor of another release
        could not carry out was trimmed away.
    """

    def __init__(
        self,
        bench: Workbench,
        slots: Sequence[Slot],
        provider: Provider,
        payment: PaymentOptions,
    ) -> None:
        self._bench = bench
        self._slots = slots
        self._provider = provider
        self._payment = payment
        self.touched: dict[str, list[str]] = {}
        self.restart = False
        self._last_words: list[tuple[str, str]] = []
        self._by_hand: dict[tuple[str, StreamName, tuple[int, int]], None] = {}

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
            await self._clear_letters(log, book)

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
        self._by_hand[book, "outcomes", id_] = None
        self._bench.log.ring(book, "outcomes")
        return "outcomes"

    def _spoil_deleted(self, book: str, number: int) -> str:
        stream = self._bench.draws.pick("meddle.stream", _ACTIONS, book, number)
        held = self._bench.log.book(book)
        if stream == "payments":
            held.payments = MemoryStream()
        else:
            held.notifications = MemoryStream()
            self._bench.checks.messages_lost = True
        return stream

    def _spoil_action(self, book: str, number: int) -> str:
        stream = self._bench.draws.pick("meddle.stream", _ACTIONS, book, number)
        held = self._bench.log.book(book).actions(stream)
        ms, sequence = held.last
        id_ = (ms, sequence + 1)
        held.add(id_, ActionEntry(format_id(*id_), "by hand", "preauthorize", b"{}"))
        self._by_hand[book, stream, id_] = None
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
        for known, stream, id_ in self._by_hand:
            outcomes = held.outcomes
            if (known, stream) == (book, "outcomes") and outcomes.get(id_) is not None:
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
        deadline = trio.current_time() + MENDED_S_MAX
        while True:
            for book in self._bench.checks.shadows:
                await self._clear_letters(log, book)
            left = [one for one in self._by_hand if self._is_unread(*one)]
            if not left and not self._bench.server.under_way and not self._letters_left():
                return
            if trio.current_time() >= deadline:
                self._bench.checks.fail("S14 poison", f"nobody found {left}")
            await trio.sleep(_LOOK_S)

    def _letters_left(self) -> bool:
        logs = [self._bench.log.book(book) for book in self._bench.checks.shadows]
        return any(one.stream in _ACTIONS for log in logs for one in log.deadletters.entries)

    def _is_unread(self, book: str, stream: StreamName, id_: tuple[int, int]) -> bool:
        """Whether an executor still has to find the entry *id_*."""
        if stream == "outcomes":
            return False
        held = self._bench.log.book(book).stream(stream)
        group = held.groups.get(stream)
        if held.get(id_) is None:
            return False
        return group is None or group.last < id_ or id_ in group.pending

    # -- dead letters of actions ---------------------------------------------

    async def strange(self, log: ToolLog, book: str, number: int) -> None:
        """Let an executor of another release run, then send again what it could not carry out."""
        bench = self._bench
        name = f"strange-{number}"
        other = OtherExecutor(bench.server, name)
        rng = bench.draws.generator("tools.strange", book, number)
        stop = trio.Event()
        run_s = 1 + bench.draws.below("tools.strange_s", STRANGE_S_MAX, book, number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(self._run_strange, stop),
                PaymentPorts(other, self._provider, name, self._payment, rng),
            )
            await trio.sleep(run_s)
            stop.set()
        await trio.sleep(bench.draws.below("tools.redo_s", BROKEN_S_MAX, book, number))
        await self._clear_letters(log, book)

    async def _run_strange(self, stop: trio.Event, ports: PaymentPorts) -> None:
        try:
            await run_with(ports, stop)
        except LogError as error:
            self._bench.trace.note("operator", "strange ended", str(error))

    async def _clear_letters(self, log: ToolLog, book: str) -> None:
        """``deadletters list``; ``retry`` of each action that is good, ``drop`` of all others."""
        for letter in await read_letters(log.operator, book, _LETTERS_MAX):
            if letter.stream not in _ACTIONS:
                continue
            key = (book, letter.stream, parse_id(letter.entry))
            if key in self._by_hand:
                await self._drop(log, book, letter)
                continue
            try:
                await retry_letter(log.operator, book, letter.id, {}, dry=False)
            except LogUnavailableError:
                raise
            except (ToolError, LogError) as error:
                self._bench.trace.note("operator", "not again", str(error))
                if "trimmed away" in str(error):
                    self.restart = True
                    await self._drop(log, book, letter)
            else:
                self._bench.did("action_retried", f"{book} {letter.entry}")

    async def _drop(self, log: ToolLog, book: str, letter: Letter) -> None:
        if await log.operator.drop_letters(book, [letter.id]):
            self._bench.did("action_dropped", f"{book} {letter.entry}")


def _stream(name: str) -> StreamName:
    return name  # type: ignore[return-value]
