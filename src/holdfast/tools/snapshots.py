"""Snapshots that an operator wants: one in the log now, and one in a file.

A snapshot is what the log says of a book at a position, so anybody who follows the log can make it.
The tool decides the log up to the position of the commit record, makes sure that it comes to the
record's digest, and then saves under the epoch and the token of whoever leads: if another actor took
over in between, the log refuses. So the owner is not asked, does not pause, and is not fought with;
where it saved a newer one meanwhile, that one stays. Where nobody leads it is the same.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.actors.booking.machine import BookingMachine
from holdfast.actors.ports import GENESIS, Snapshot, SupersededError
from holdfast.tools.errors import ToolError
from holdfast.tools.history import look_until_steady
from holdfast.tools.sources import decided_to
from holdfast.transport.snapshots import (
    DamagedSnapshotError,
    pack_nowait,
    unpack_snapshot,
)

if TYPE_CHECKING:
    from holdfast.actors.ports import CommitRecord, Log
    from holdfast.tools.ports import File, Operator
    from holdfast.tools.sources import Tell

ATTEMPTS_MAX: Final = 3
"""So often it is tried anew where another actor took the book over meanwhile."""

_MAGIC: Final = b"holdfast-book "


class SnapshotResult(msgspec.Struct, frozen=True):
    """A snapshot that was made.

    Attributes:
      replayed: Inputs decided to make it.
      bytes: Its size, compressed.
      saved: Whether it is in the log now; False for a file, or where a newer one is there.
    """

    book: str
    position: str
    digest: str
    replayed: int
    bytes: int
    saved: bool


async def make_snapshot(
    log: Log, operator: Operator, book: str, tell: Tell
) -> tuple[Snapshot, CommitRecord, int]:
    """The book at the position of its commit record, and how many inputs were decided for it.

    Raises:
      ToolError: Nothing is decided yet, another release decides, the log does not give what the
        record says, or the server failed over again and again.
    """
    return await look_until_steady(operator, book, partial(_make, log, book, tell))


async def _make(log: Log, book: str, tell: Tell) -> tuple[Snapshot, CommitRecord, int]:
    record = await log.read_record(book)
    if record.position == GENESIS:
        raise ToolError(
            f"nothing of book {book} is decided yet: start the service, or check the name"
        )
    if record.version != BookingMachine.version:
        raise ToolError(
            f"book {book} is decided by machine version {record.version}, this is "
            f"{BookingMachine.version}: use the release that runs"
        )
    replayed = 0

    def count(done: int, total: int) -> None:
        nonlocal replayed
        replayed = done
        tell(done, total)

    runner = await decided_to(log, book, record.position, count)
    if (runner.position, runner.digest) != (record.position, record.digest):
        raise ToolError(
            f"the log of {book} does not give what its commit record says; run 'holdfast check {book}'"
        )
    return runner.snapshot(), record, replayed


async def save_snapshot(log: Log, operator: Operator, book: str, tell: Tell) -> SnapshotResult:
    """Write a snapshot of *book* into the log, beside whoever leads it.

    Raises:
      ToolError: See :func:`make_snapshot`; or the book changes hands again and again.
    """
    for _ in range(ATTEMPTS_MAX):
        snapshot, record, replayed = await make_snapshot(log, operator, book, tell)
        try:
            await log.save_snapshot(book, snapshot, record.epoch, record.owner)
        except SupersededError:
            continue
        now = await log.read_record(book)
        size = len(pack_nowait(snapshot))
        saved = now.snapshot == snapshot.position
        return SnapshotResult(book, snapshot.position, snapshot.digest, replayed, size, saved)
    raise ToolError(
        f"book {book} changes hands again and again: find out which actors fight over it"
    )


async def write_snapshot_file(
    log: Log, operator: Operator, book: str, path: File, tell: Tell
) -> SnapshotResult:
    """Write a snapshot of *book* into the new file *path*; the log stays as it is.

    Raises:
      ToolError: See :func:`make_snapshot`; or there is such a file.
    """
    _require_new(path)
    snapshot, _, replayed = await make_snapshot(log, operator, book, tell)
    data = _MAGIC + book.encode() + b"\n" + pack_nowait(snapshot)
    _write(path, data)
    position, link = snapshot.position, snapshot.digest
    return SnapshotResult(book, position, link, replayed, len(data), saved=False)


def _require_new(path: File) -> None:
    if path.exists():
        raise ToolError(f"{path} exists already: name a new file")


def _write(path: File, data: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
        part.rename(path)
    except OSError as error:
        raise ToolError(f"cannot write {path}: {error.strerror}") from None


def _read(path: File) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read()
    except OSError as error:
        raise ToolError(f"cannot read {path}: {error.strerror}") from None


def is_snapshot(path: File) -> bool:
    """Whether *path* begins like a file of :func:`write_snapshot_file`."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


async def read_snapshot_file(path: File) -> tuple[str, Snapshot]:
    """The book's name and the snapshot in *path*.

    Raises:
      ToolError: It is none.
    """
    name, _, data = _read(path).removeprefix(_MAGIC).partition(b"\n")
    try:
        return name.decode("ascii"), await unpack_snapshot(data)
    except (DamagedSnapshotError, UnicodeDecodeError) as error:
        raise ToolError(f"{path} is no snapshot: {error}") from None
