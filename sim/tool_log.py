"""The connection of an operator's tool in the simulated world.

Each tool has one of its own, which suffers what connections suffer. It lets only those requests through
that its tool says it makes: whatever else would change the server is told. And it knows whether what the
tool found can be compared with the books of now: after a failover it may be of a history that is over.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from holdfast.actors.ports import SupersededError
from holdfast.sim.faulty_log import FaultyLog
from holdfast.sim.server import fingerprint
from holdfast.transport.memory_operator import MemoryOperator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast.actors.ports import Snapshot
    from holdfast.sim.server import SimServer
    from holdfast.transport.memory_log import MemoryLog
    from holdfast.transport.memory_operator import Weight

_T = TypeVar("_T")


class ToolLog(FaultyLog):
    """The log as one tool sees it.

    Args:
      server: Where it leads.
      name: The tool's.
      may: Requests that it may make beside those that only look.
      tell: Called with a sentence about a request that should not have been.

    Attributes:
      operator: What the tool may do beside the log, over the same connection.
      superseded: Whether the book changed hands while the tool made a snapshot.
      mixed: Whether anything was read in another history than the tool was last told that it is in.
      leased: Who held a lease when the tool last looked at leases.
      histories: Of the server, in which the tool began and in which it was told that it is.
    """

    def __init__(
        self, server: SimServer, name: str, may: Sequence[str], tell: Callable[[str], None]
    ) -> None:
        super().__init__(server, f"operator-{name}")
        self.histories = {server.history_of(server.log).id: None}
        self.superseded = False
        self.mixed = False
        self.leased: list[str] = []
        self._told = ""
        self._answering = server.log

        def on_request(op: str, weight: Weight) -> None:
            if weight != "read" and op not in may:
                tell(f"{name} asked for {op}")

        def on_change(op: str) -> None:
            tell(f"{name} only looked, and {op} changed something")

        self._connection.on_request = on_request
        self.operator: MemoryOperator = _ToolOperator(self, server, on_change)

    @property
    def is_of_now(self) -> bool:
        """Whether the server goes on with the only history that the tool has ever seen."""
        return list(self.histories) == [self._server.history_of(self._server.log).id]

    def is_misled(self, book: str) -> bool:
        """Whether it looks at an old primary that nothing tells from the new one: somebody decides there."""
        return self._server.is_decided_apart(self._answering, book)

    def asked(self, log: MemoryLog) -> str:
        """The tool asks for the history, and *log* answers."""
        name = self._server.history_of(log).id
        if name != self._told:
            self.mixed = False  # it is told so, and begins anew
        self._told = name
        self.histories[name] = None
        return name

    def answered(self, log: MemoryLog) -> None:
        """The tool reads something, and *log* answers."""
        self._answering = log
        if self._told and self._told != self._server.history_of(log).id:
            self.mixed = True

    async def _read(self, op: str, wait_s: float, read: Callable[[], Awaitable[_T]]) -> _T:
        async def reading() -> _T:
            log = (
                self._log
            )  # an answer is of the server that was asked, whatever happens on its way
            found = await read()
            if op in ("read_record", "read_inputs"):
                self.answered(log)
            elif op == "read_leases":
                self.leased = list(log.leases)
            return found

        return await super()._read(op, wait_s, reading)

    async def save_snapshot(self, book: str, snapshot: Snapshot, epoch: int, owner: str) -> None:
        """See ``Log``."""
        try:
            await super().save_snapshot(book, snapshot, epoch, owner)
        except SupersededError:
            self.superseded = True
            raise


class _ToolOperator(MemoryOperator):
    def __init__(
        self, connection: ToolLog, server: SimServer, on_change: Callable[[str], None]
    ) -> None:
        super().__init__(server.log)
        self._server = server
        self._connection = connection
        self._on_change = on_change

    async def _request(
        self, op: str, weight: Weight, ask: Callable[[MemoryLog], _T], *, again: bool = False
    ) -> _T:
        if weight == "read":
            ask = partial(self._look, op, ask)
        return await self._connection.request(op, weight, ask, again=again)

    def _history_of(self, log: MemoryLog) -> str:
        return self._connection.asked(log)

    def _look(self, op: str, ask: Callable[[MemoryLog], _T], log: MemoryLog) -> _T:
        before = fingerprint(log)
        found = ask(log)
        self._connection.answered(log)
        if fingerprint(log) != before:
            self._on_change(op)
        return found
