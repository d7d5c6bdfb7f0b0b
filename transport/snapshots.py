"""Snapshots as bytes: compressed, and refused when a bit has changed.

The form is a line that names it, then zlib (whose checksum finds damage) around MessagePack. Level 1
is half as large again as level 9 and twenty times as fast. Large books are compressed in a thread,
for that gives the interpreter's lock away.
"""

from __future__ import annotations

import zlib

import anyio.to_thread
import msgspec

from holdfast.actors.ports import Snapshot

_MAGIC = b"holdfast-snapshot 1\n"
_LEVEL = 1
_IN_THREAD_BYTES = 65_536

_Content = tuple[str, int, str, bytes]


class DamagedSnapshotError(ValueError):
    """These bytes are no snapshot."""


async def pack_snapshot(snapshot: Snapshot) -> bytes:
    """*snapshot* as bytes."""
    content: _Content = (snapshot.position, snapshot.version, snapshot.digest, snapshot.state)
    data = msgspec.msgpack.encode(content)
    if len(data) < _IN_THREAD_BYTES:
        return _MAGIC + zlib.compress(data, _LEVEL)
    return _MAGIC + await anyio.to_thread.run_sync(zlib.compress, data, _LEVEL)


async def unpack_snapshot(data: bytes) -> Snapshot:
    """The snapshot that :func:`pack_snapshot` made *data* of.

    Raises:
      DamagedSnapshotError: It is none, or damaged.
    """
    if not data.startswith(_MAGIC):
        raise DamagedSnapshotError("the value is no snapshot of a form that is known here")
    try:
        packed = data[len(_MAGIC) :]
        if len(packed) < _IN_THREAD_BYTES:
            content = zlib.decompress(packed)
        else:
            content = await anyio.to_thread.run_sync(zlib.decompress, packed)
        return Snapshot(*msgspec.msgpack.decode(content, type=_Content))
    except (zlib.error, msgspec.DecodeError) as error:
        raise DamagedSnapshotError("the snapshot is damaged") from error
