"""``holdfast drain`` in the simulated world: a service is stopped as a whole, looked at, and started again.

The service is all processes, or all but a booking actor that runs elsewhere and stands by. Where the tool
says that a book is drained, its snapshot is where it stands, and nobody decides for it until somebody
is started again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from holdfast.actors.booking.lease import LOOKS
from holdfast.tools.drained import look_drained

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast.sim.processes import Gate
    from holdfast.sim.tool_log import ToolLog
    from holdfast.sim.troubles import Slot
    from holdfast.sim.workbench import Workbench
    from holdfast.tools.drained import Drained

DOWN_S_MAX: Final = 8
"""How long a drained service is down, at most."""

_LOOK_S: Final = 0.5


class Draining:
    """The stops of one world's service.

    Args:
      bench: What tools work with.
      slots: All processes.
      stop_in_time: Asks a process to stop, and fails the world where it does not.
      books: Their names.
      lease_s: Of the booking actors.
    """

    def __init__(
        self,
        bench: Workbench,
        slots: Sequence[Slot],
        stop_in_time: Callable[[Slot, Gate | None], Awaitable[None]],
        books: Sequence[str],
        lease_s: float,
    ) -> None:
        self._bench = bench
        self._slots = slots
        self._stop_in_time = stop_in_time
        self._books = books
        self._lease_s = lease_s

    async def drain(self, log: ToolLog, book: str, number: int) -> None:
        """``drain``, and after a while ``up`` again."""
        draws = self._bench.draws
        slots = list(self._slots)
        elsewhere = draws.chance("drain.elsewhere", 0.5, book, number)
        if elsewhere and sum(slot.kind == "booking" for slot in slots) > 1:
            slots.remove(next(slot for slot in slots if slot.kind == "booking"))
        begin = trio.Event()
        for slot in slots:
            slot.may_begin = begin
        try:
            await self._stop(slots)
            await trio.sleep(2 * self._lease_s / LOOKS)  # who stands by looks, and may take over
            left: list[Drained] = []
            for one in self._books:
                epoch = self._bench.log.book(one).record.epoch
                left.append(await look_drained(log, log.operator, one))
                self._check(log, left[-1], epoch)
            # What was on its way to the log when somebody ended may arrive while nobody is there.
            quiet = len(slots) == len(self._slots) and not self._bench.server.under_way
            await trio.sleep(draws.below("drain.down_s", DOWN_S_MAX, book, number))
            if quiet:
                for known in left:
                    self._check_still(log, known)
        finally:
            begin.set()
        self._tell(left)

    async def _stop(self, slots: Sequence[Slot]) -> None:
        """Ask all of *slots* to stop, and wait until they have."""
        async with trio.open_nursery() as nursery:
            for slot in slots:
                if slot.lives_now and slot.stop is not None:
                    nursery.start_soon(self._stop_in_time, slot, slot.gate)
        while any(slot.lives_now for slot in slots):  # noqa: ASYNC110 - a pause tells nobody
            await trio.sleep(_LOOK_S)

    def _check(self, log: ToolLog, left: Drained, epoch: int) -> None:
        """A book that is said to be drained is, if nobody took it over since its *epoch*."""
        bench = self._bench
        record = bench.log.book(left.book).record
        bench.same(log, left.book, "drain", left.position, left.digest)
        if not left.drained or record.epoch != epoch:
            return
        if record.owner in log.leased:
            bench.tell(log, "drain", f"{left.book} is said to be drained, and is led")
        back = record.snapshot in bench.log.of(left.book).put_back
        if record.position == left.position != record.snapshot and not back:
            what = f"drained at {left.position}, its snapshot is at {record.snapshot or 'none'}"
            bench.tell(log, "drain", f"{left.book} is said to be {what}")

    def _check_still(self, log: ToolLog, left: Drained) -> None:
        """Nobody decided for *left* while nobody was there."""
        record = self._bench.log.book(left.book).record
        if record.position != left.position:
            what = f"is at {record.position} and was left at {left.position}"
            self._bench.tell(log, "drain", f"{left.book} {what}, and nobody was there")

    def _tell(self, left: Sequence[Drained]) -> None:
        bench = self._bench
        if all(one.drained for one in left):
            bench.did("drained", " ".join(one.position for one in left))
            if any(one.waiting for one in left):
                bench.marks.hit("tool_drained_mattered")
        if any(one.led for one in left):
            bench.did("drained_led", " ".join(one.book for one in left if one.led))
