"""What must hold of trims, snapshots and stops, whoever asks for them: an actor or a person's tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.actors.ports import GENESIS
from holdfast.transport.keys import format_id, parse_id

if TYPE_CHECKING:
    from holdfast.actors.ports import ActionStream, Snapshot, StreamName
    from holdfast.sim.checks import Checks
    from holdfast.transport.memory_log import IdPair

_NEVER: IdPair = (0, 0)


def on_trim(checks: Checks, book: str, keep: str, gone: dict[StreamName, list[IdPair]]) -> None:
    """Check a trim that the server has just done.

    Args:
      checks: The world's.
      book: Whose streams.
      keep: The input that was to be kept, "" where none was named.
      gone: What went, by stream.
    """
    held = checks.server.book(book)
    older = parse_id(held.snapshots[-2].position) if len(held.snapshots) > 1 else _NEVER
    named = [parse_id(keep)] if keep else []
    streams: tuple[StreamName, ...] = ("inputs", "outcomes")
    for stream in streams:
        last = gone.get(stream, [_NEVER])[-1]
        if last >= min([older, *named]) > _NEVER or (last > _NEVER and older == _NEVER):
            what = (
                f"{stream} of {book} up to {format_id(*last)} went, {keep or 'none'} was to be kept"
            )
            checks.fail("trimming", f"{what}, the older snapshot is at {format_id(*older)}")
    actions: tuple[ActionStream, ...] = ("payments", "notifications")
    for stream in actions:
        group = held.actions(stream).groups.get(stream)
        for id_ in gone.get(stream, []):
            if group is None or id_ > group.last or id_ in group.pending:
                checks.fail(
                    "trimming", f"{stream} of {book}: {format_id(*id_)} was not carried out"
                )


def on_snapshot(checks: Checks, book: str, snapshot: Snapshot, epoch: int, owner: str) -> None:
    """Check a snapshot that the server has just taken."""
    record = checks.server.book(book).record
    if (record.epoch, record.owner) != (epoch, owner):
        checks.fail(
            "S8 store",
            f"{book}: a snapshot at {snapshot.position} was written in epoch {epoch} by one who does "
            f"not hold the book in epoch {record.epoch}",
        )
    if checks.shadows[book].digests.get(snapshot.position) != snapshot.digest:
        checks.fail("S10 replay", f"{book}: the snapshot at {snapshot.position} differs")


def on_stopped(checks: Checks, owner: str) -> None:
    """Check that *owner*, which stopped cleanly with nothing in its way, has drained its books."""
    for book in checks.shadows:
        record = checks.server.book(book).record
        drained = record.snapshot == record.position or record.position == GENESIS
        if record.owner == owner and not drained:
            what = f"{book} is at {record.position}, its snapshot at {record.snapshot or 'none'}"
            checks.fail("drain", what)
