"""From the log to a book: the newest snapshot, and a replay to a position that is checked by digest.

Whoever leads a book and whoever stands by load it here; both need exactly what the commit record says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.booking.runner import BookRunner, VersionError
from holdfast.actors.ports import SupersededError

if TYPE_CHECKING:
    from holdfast.actors.booking.patience import Patience
    from holdfast.actors.ports import CommitRecord, Log


class DivergedError(Exception):
    """A replay did not give what the commit record says: the log or the code was changed."""


async def load(
    log: Log, patience: Patience, book: str, record: CommitRecord, *, batch_max: int, check: bool
) -> BookRunner:
    """*book* at *record*'s position, from its newest snapshot.

    Args:
      log: Where it is.
      patience: How to wait for it.
      book: Which.
      record: How far it is decided.
      batch_max: Most inputs of one read.
      check: Check the invariants after every input.

    Raises:
      LogTrimmedError: Inputs after the snapshot are gone.
      DivergedError: The replay gave something else than the record says.
      VersionError: The snapshot is of another version of the machine.
    """
    snapshot = await patience.call(log.read_snapshot, book)
    if snapshot is not None and order(snapshot.position) > order(record.position):
        snapshot = None  # of a tail that a failover lost
    runner = BookRunner(book, snapshot, check=check)
    await advance(log, patience, runner, record, batch_max=batch_max)
    return runner


async def advance(
    log: Log, patience: Patience, runner: BookRunner, record: CommitRecord, *, batch_max: int
) -> None:
    """Replay *runner* to *record*'s position. Raises like :func:`load`."""
    book = runner.book
    if order(runner.position) > order(record.position):
        raise DivergedError(
            f"book {book}: it was followed to {runner.position}, and the commit record says "
            f"{record.position}; run 'holdfast check {book}'"
        )
    while order(runner.position) < order(record.position):
        after = {book: runner.position}
        entries = (await patience.call(log.read_inputs, after, batch_max, 0.0)).get(book, [])
        entries = [entry for entry in entries if order(entry.id) <= order(record.position)]
        if not entries:
            raise DivergedError(
                f"book {book}: the inputs up to {record.position} are not all in the log; "
                "restore them, or start from a snapshot"
            )
        runner.replay(entries)
        await trio.lowlevel.checkpoint()
    if record.digest and runner.digest != record.digest:
        raise DivergedError(
            f"book {book}: replay to {record.position} gives digest {runner.digest}, the commit "
            f"record says {record.digest}; run 'holdfast check {book}'"
        )


async def explained(
    log: Log, patience: Patience, book: str, epoch: int, owner: str, error: Exception
) -> Exception:
    """*error*, for which *owner* cannot use *book*, which it took over with *epoch*.

    Or that it is superseded: what it lacks, the new owner may have trimmed.
    """
    held = await patience.call(log.read_record, book)
    if (held.epoch, held.owner) == (epoch, owner) or held.epoch < epoch:
        return error
    return superseded(book, epoch)


def superseded(book: str, epoch: int) -> SupersededError:
    """Why who took *book* over with *epoch* leads it no more."""
    return SupersededError(
        f"another booking actor took over {book} from our epoch {epoch}: step down"
    )


def check_version(book: str, record: CommitRecord) -> None:
    """Make sure that this version of the machine may go on with *book*.

    Raises:
      VersionError: Another one decided it.
    """
    version = BookingMachine.version
    if record.version not in (0, version):
        raise VersionError(
            f"book {book} was decided by machine version {record.version}, this is {version}: "
            "drain it with the old release first"
        )


def order(entry_id: str) -> tuple[int, int]:
    """(milliseconds, sequence) of an entry's id."""
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence)
