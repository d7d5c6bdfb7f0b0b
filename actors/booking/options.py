"""How a booking actor works; what it decides does not depend on it."""

from __future__ import annotations

import msgspec

from holdfast.actors.ports import BATCH_MAX


class BookingOptions(msgspec.Struct, frozen=True):
    """How the booking actor works. None of it changes what is decided.

    Attributes:
      batch_max: Most inputs of one book in a commit.
      wait_s: Longest single blocking read.
      snapshot_inputs: A snapshot after so many inputs of a book.
      snapshot_s: A snapshot after so long, if anything was decided.
      lease_s: How long others wait for a process that is silent before they lead its books.
      retry_s: First wait where the log is away; doubles up to ``retry_s_max``.
      trim: After a snapshot, trim what nobody needs any more, the log's history with it. Off, so that
        a book can be replayed from its beginning.
      grace_s: After a stop, how long to wait for a log that is away; then once more for snapshots.
      stay: Wait for better days where every book was given up; else end with the last one's error.
      check: Check the invariants after every input.
    """

    batch_max: int = BATCH_MAX
    wait_s: float = 5.0
    snapshot_inputs: int = 100_000
    snapshot_s: float = 300.0
    lease_s: float = 3.0
    retry_s: float = 0.05
    retry_s_max: float = 2.0
    trim: bool = False
    grace_s: float = 10.0
    stay: bool = False
    check: bool = True
