"""The lease: a booking actor's word that it lives.

One lease covers all books that one life of a process leads; the commit records name its owner. It only
tells who should lead. That nobody writes who was taken over from is the commit's business, so a lease
that is lost, late or forgotten costs time and never a booking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.actors.booking.patience import Patience
    from holdfast.actors.ports import CommitRecord, Log

RENEWALS: Final = 3
"""A lease is renewed so often in its time: one renewal may be late."""

LOOKS: Final = 6
"""Who stands by looks at a lease so often in its time."""


class Lease:
    """The lease of one life, and how it judges those of others.

    Args:
      log: Where leases lie.
      patience: How to wait for it.
      owner: The life's token.
      place: Where it lives. Whoever lived in the same place before is dead, since there is one process
        in a place; "" knows nothing of that.
      lease_s: How long a lease is good for.

    Attributes:
      held: Set once it is held for the first time.
    """

    def __init__(
        self, log: Log, patience: Patience, owner: str, place: str, lease_s: float
    ) -> None:
        self._log = log
        self._patience = patience
        self._owner = owner
        self._place = place
        self._lease_s = lease_s
        self._renewing = trio.CancelScope()
        self.held = trio.Event()

    @property
    def look_s(self) -> float:
        """How often to look at the leases of others."""
        return self._lease_s / LOOKS

    async def renew(self) -> None:
        """Hold it until :meth:`drop`."""
        with self._renewing:
            while True:
                await self.hold()
                self.held.set()
                await trio.sleep(self._lease_s / RENEWALS)

    async def hold(self) -> None:
        """Hold it from now on for its whole time."""
        await self._patience.call(self._log.hold_lease, self._owner, self._place, self._lease_s)

    async def drop(self) -> None:
        """Give it up, so that others need not wait until it lapses."""
        self._renewing.cancel()
        await self._patience.call(self._log.drop_lease, self._owner)

    async def without_leader(self, records: Mapping[str, CommitRecord]) -> list[str]:
        """Those of the books with these *records* that nobody leads."""
        owners = dict.fromkeys(record.owner for record in records.values() if record.owner)
        held = await self._patience.call(self._log.read_leases, list(owners)) if owners else {}
        # While the log was away nobody could renew: give them time to come back.
        judged = trio.current_time() - self._patience.away_at_s >= self._lease_s
        return [book for book, record in records.items() if self._is_free(record, held, judged)]

    def _is_free(self, record: CommitRecord, held: Mapping[str, str], judged: bool) -> bool:
        if record.owner in ("", self._owner):
            return True
        place = held.get(record.owner)
        if place is None:
            return judged
        return place != "" and place == self._place
