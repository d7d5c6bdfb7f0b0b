"""The booking actor: leads books as long as its lease is held, and stands by for the others.

Any number of processes run it beside each other. Each holds one lease (``lease``), keeps a warm copy of
every book that another one leads (``standby``), decides the inputs of those that it leads (``leading``),
and takes over what nobody leads (``keeping``). This module runs all that as one, and stops it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, cast

import structlog
import trio

from holdfast.actors.booking.keeping import Keeping
from holdfast.actors.booking.lease import Lease
from holdfast.actors.booking.patience import Patience
from holdfast.actors.health import Health

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast.actors.booking.options import BookingOptions
    from holdfast.actors.ports import Clock, Log

_log = structlog.get_logger("booking")


async def run_booking(
    log: Log,
    clock: Clock,
    *,
    owner: str,
    options: BookingOptions,
    stop: trio.Event,
    books: Sequence[str] | None = None,
    place: str = "",
    rng: random.Random | None = None,
    health: Health | None = None,
) -> None:
    """Lead books that nobody leads, and stand by for the others.

    Until *stop* is set; then finish, commit, snapshot, and give up the lease.

    Args:
      log: The log.
      clock: For waiting only.
      owner: A random token, new for each run.
      options: How to work.
      stop: Set it for a clean stop.
      books: Which books; None for all there are and will be.
      place: Where this life runs, the same for all lives of which the next begins only when the last
        one is dead; such a one need not wait for its predecessor's lease. "" where nobody sees to that.
      rng: Where the jitter of waits comes from; None for the system's.
      health: Told when the log is away and when it is back, and of each book that was given up.

    Raises:
      TailLostError: A failover forgot what this actor knows: run another one.
      BookBugError: The machine failed on an input: a bug of ours.
      DivergedError: A replay contradicts the commit record.
      VersionError: A book was decided by another version of the machine.
      LogError: A book's log cannot be used as it is; a person must look.
        Each but the first gives up one book; the last one is raised when no book is left, unless
        the actor is to stay.
    """
    rng, health = rng or random.Random(), health or Health()
    host = _Actor(log, clock, owner, place, options, stop, rng, health)
    await host.run(books)


class _Actor:
    def __init__(
        self,
        log: Log,
        clock: Clock,
        owner: str,
        place: str,
        options: BookingOptions,
        stop: trio.Event,
        rng: random.Random,
        health: Health,
    ) -> None:
        self._options = options
        self._stop = stop
        patience = Patience(options.retry_s, options.retry_s_max, rng, health)
        self._lease = Lease(log, patience, owner, place, options.lease_s)
        self._keeping = Keeping(
            log,
            clock,
            patience,
            self._lease,
            owner=owner,
            options=options,
            stop=stop,
            health=health,
        )
        self._leading = self._keeping.leading

    async def run(self, books: Sequence[str] | None) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._lease.renew)
                await self._work(books)
                with trio.move_on_after(self._options.grace_s):
                    await self._leave()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first_leaf(group) from None

    async def _work(self, books: Sequence[str] | None) -> None:
        """Lead and stand by, until the stop."""
        keeping = self._keeping
        async with trio.open_nursery() as nursery:
            if books is None:
                nursery.start_soon(self._until_stop, keeping.discover)
            else:
                keeping.want(books)
            nursery.start_soon(self._until_stop, keeping.begin)
            nursery.start_soon(self._until_stop, keeping.look)
            nursery.start_soon(self._until_stop, keeping.standby.follow)
            nursery.start_soon(self._until_stop, self._leading.tick)
            nursery.start_soon(self._bound_the_stop, nursery.cancel_scope)
            async with trio.open_nursery() as working:
                working.start_soon(self._leading.commit)
                await self._leading.decide(keeping.has_nothing_left)
            nursery.cancel_scope.cancel()
        ended = not self._stop.is_set()  # for want of books, even if one came at the last moment
        if keeping.lost is not None and (ended or keeping.has_nothing_left()):
            raise keeping.lost

    async def _until_stop(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run *task* and cancel it when the actor is to stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task)
            await self._stop.wait()
            self._leading.interrupt()
            nursery.cancel_scope.cancel()

    async def _bound_the_stop(self, scope: trio.CancelScope) -> None:
        """Leave even where the log stays away."""
        await self._stop.wait()
        await trio.sleep(self._options.grace_s)
        scope.cancel()

    async def _leave(self) -> None:
        """Let others lead, without anything for them to replay."""
        await self._leading.leave()
        await self._lease.drop()
        _log.info("left", books=len(self._leading.books))


def _first_leaf(error: BaseException) -> BaseException:
    """The first single exception in a group: whatever came after it is a consequence."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
