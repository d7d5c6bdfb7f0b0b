"""The operator who reconciles the books with the provider, after failovers that lost a tail.

What commits had acted on that are lost is at the provider all the same: holds that no book wants, money
that a book believes in and that was given back. The tool of ``holdfast reconcile`` finds both. It is run
while the world goes on, and once more where nothing is left to do; after that the ledger must equal the
books as if nothing had been lost.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from holdfast.actors.ports import LogError, ProviderUnavailableError
from holdfast.sim.tool_log import ToolLog
from holdfast.tools import reconcile as tool
from holdfast.tools.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.ports import Provider, ProviderAnswer
    from holdfast.sim.checks import Checks
    from holdfast.sim.draws import Draws
    from holdfast.sim.marks import Marks
    from holdfast.sim.server import SimServer
    from holdfast.sim.trace import Trace
    from holdfast.tools.reconcile import Reconciled

CALL_S: Final = 15.0
"""How long the tool waits for an answer of the provider."""

WAIT_S_MAX: Final = 60
"""Until an operator reconciles after a failover, and until the tool looks again, at most."""


class Reconciling:
    """One world's reconciliations.

    Args:
      server: Where the books are.
      provider: The world's.
      checks: Told of each release beforehand.
      draws: When it is done.
      marks: What happened at least once.
      trace: Where it is noted.
      books: Their names.
    """

    def __init__(
        self,
        server: SimServer,
        provider: Provider,
        checks: Checks,
        draws: Draws,
        marks: Marks,
        trace: Trace,
        books: Sequence[str],
    ) -> None:
        self._server = server
        self._provider = provider
        self._checks = checks
        self._draws = draws
        self._marks = marks
        self._trace = trace
        self._books = books
        self._runs = 0

    async def later(self) -> None:
        """Reconcile all books some time after a failover, or leave it to the end of the world."""
        self._runs += 1
        number = self._runs
        if not self._draws.chance("reconcile.later", 0.3, number):
            return
        await trio.sleep(self._draws.below("reconcile.ms", WAIT_S_MAX * 1000, number) / 1000)
        wait_s = self._draws.below("reconcile.wait_s", WAIT_S_MAX, number)
        log = self._open(number)
        for book in self._books:
            try:
                await self.reconcile(log, book, wait_s)
            except (LogError, ToolError, ProviderUnavailableError) as error:
                self._trace.note("operator", "gave up", f"reconcile {book}: {type(error).__name__}")

    async def at_rest(self) -> bool:
        """Reconcile where nothing is left to do; whether anything had to be done.

        Raises:
          LogError: The log cannot be read.
          ProviderUnavailableError: The provider does not answer.
        """
        self._runs += 1
        log = self._open(self._runs)
        results = [await self.reconcile(log, book, 0) for book in self._books]
        return any(result.orphans or result.differing for result in results)

    def _open(self, number: int) -> ToolLog:
        tell = partial(self._checks.fail, "S15 no live effect")
        return ToolLog(self._server, f"reconcile-{number}", ("append",), tell)

    async def reconcile(self, log: ToolLog, book: str, wait_s: float) -> Reconciled:
        """Reconcile *book* over *log*: what the tool did, or found where there was nothing to do."""
        provider, operator = _Told(self._provider, self._checks, log), log.operator
        first = await tool.find_orphans(log, operator, provider, book)
        self._marks.hit("reconciled")
        if first.settled:
            return first
        done = await tool.reconcile(
            *(log, operator, provider, first),
            wait_s=wait_s,
            orphans_max=len(first.orphans),
            refund=True,
        )
        for orphan in done.orphans:
            self._trace.note(
                "operator", "release", f"{orphan.payment} {orphan.status} {orphan.now}"
            )
        for one in done.differing:
            self._trace.note("operator", "tell", f"{one.payment} {one.in_book} {one.status}")
        if done.released:
            self._marks.hit("orphan_released")
        if done.differing:
            self._marks.hit("reconciled_told")
        return done


class _Told:
    """The provider as the tool has it: with a time limit, and each release is told beforehand."""

    def __init__(self, provider: Provider, checks: Checks, log: ToolLog) -> None:
        self._provider = provider
        self._checks = checks
        self._log = log

    def _tell(self, payment: str, key: str) -> None:
        book, _, _ = payment.partition(":")
        self._checks.on_release(payment, key, misled=self._log.is_misled(book))

    async def ledger(self, prefix: str = "") -> dict[str, ProviderAnswer]:
        return await self._provider.ledger(prefix)

    async def void(self, payment: str, key: str) -> ProviderAnswer:
        self._tell(payment, key)
        with trio.move_on_after(CALL_S):
            return await self._provider.void(payment, key)
        raise ProviderUnavailableError("no answer in time")

    async def refund(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        self._tell(payment, key)
        with trio.move_on_after(CALL_S):
            return await self._provider.refund(payment, amount_cents, key)
        raise ProviderUnavailableError("no answer in time")
