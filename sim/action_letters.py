"""Dead letters that are actions, in the simulated world: how they come to be, and what becomes of them.

An executor of another release makes dead letters of good actions; somebody writes an action by hand. A
person with ``deadletters`` sends the good ones again, which nobody else would, and drops the others.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from holdfast.actors.ports import ActionStream, LogError, LogUnavailableError
from holdfast.bootstrap import PaymentPorts, run_with
from holdfast.sim.releases import OtherExecutor
from holdfast.tools.errors import ToolError
from holdfast.tools.letters import read_letters, retry_letter
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from holdfast.actors.payment.actor import PaymentOptions
    from holdfast.actors.ports import Provider
    from holdfast.sim.tool_log import ToolLog
    from holdfast.sim.workbench import Workbench
    from holdfast.tools.letters import Letter

STRANGE_S_MAX: Final = 5
"""How long an executor of another release runs, at most."""

AGAIN_S_MAX: Final = 90
"""After how long a person sends its letters again, at most."""

FOUND_S_MAX: Final = 900.0
"""How long executors may take to find what somebody wrote among their actions."""

ACTIONS: Final[tuple[ActionStream, ...]] = ("payments", "notifications")

_LETTERS_MAX: Final = 1_000
_LOOK_S: Final = 1.0


class ActionLetters:
    """The dead letters of one world's actions.

    Args:
      bench: What tools work with.
      provider: The world's, whom an executor of another release never calls.
      payment: How that executor works.

    Attributes:
      by_hand: Entries that somebody wrote among the actions: book, stream and id.
      restart: Whether the booking actors must be started again: what an executor of another release
        could not carry out was trimmed away.
    """

    def __init__(self, bench: Workbench, provider: Provider, payment: PaymentOptions) -> None:
        self._bench = bench
        self._provider = provider
        self._payment = payment
        self.by_hand: dict[tuple[str, ActionStream, tuple[int, int]], None] = {}
        self.restart = False

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
        await trio.sleep(bench.draws.below("tools.redo_s", AGAIN_S_MAX, book, number))
        await self.clear(log, book)

    async def _run_strange(self, stop: trio.Event, ports: PaymentPorts) -> None:
        try:
            await run_with(ports, stop)
        except LogError as error:
            self._bench.trace.note("operator", "strange ended", str(error))

    async def clear(self, log: ToolLog, book: str) -> None:
        """``deadletters list``; ``retry`` of each action that is good, ``drop`` of all others."""
        for letter in await read_letters(log.operator, book, _LETTERS_MAX):
            if letter.stream not in ACTIONS:
                continue
            if (book, letter.stream, parse_id(letter.entry)) in self.by_hand:
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

    async def clear_all(self, log: ToolLog) -> None:
        """Clear the letters of all books, where nothing befalls the log any more, until there are none.

        Raises:
          ViolationError: Executors do not find what somebody wrote among their actions.
        """
        deadline = trio.current_time() + FOUND_S_MAX
        while True:
            for book in self._bench.checks.shadows:
                await self.clear(log, book)
            unread = [one for one in self.by_hand if self._is_unread(*one)]
            if not unread and not self._bench.server.under_way and not self._are_left():
                return
            if trio.current_time() >= deadline:
                self._bench.checks.fail("S14 poison", f"nobody found {unread}")
            await trio.sleep(_LOOK_S)

    def _are_left(self) -> bool:
        logs = [self._bench.log.book(book) for book in self._bench.checks.shadows]
        return any(one.stream in ACTIONS for log in logs for one in log.deadletters.entries)

    def _is_unread(self, book: str, stream: ActionStream, id_: tuple[int, int]) -> bool:
        """Whether an executor still has to find the entry *id_*; none looks at a book that a failover lost."""
        held = self._bench.log.book(book).actions(stream)
        group = held.groups.get(stream)
        if held.get(id_) is None or book not in self._bench.log.registered:
            return False
        return group is None or group.last < id_ or id_ in group.pending
