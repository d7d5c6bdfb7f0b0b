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

_EMPTY = b"\xc4\x00"  # how MessagePack has bytes: none of them,
_LARGE = b"\xc6"  # and more than 65,535, after their number

_Content = tuple[str, int, str, bytes]


class DamagedSnapshotError(ValueError):
    """These bytes are no snapshot."""


async def pack_snapshot(snapshot: Snapshot) -> bytes:
    """*snapshot* as bytes."""
    if len(snapshot.state) < _IN_THREAD_BYTES:
        content = (snapshot.position, snapshot.version, snapshot.digest, snapshot.state)
        return _MAGIC + zlib.compress(msgspec.msgpack.encode(content), _LEVEL)
    return await anyio.to_thread.run_sync(_pack_large, snapshot)


def _pack_large(snapshot: Snapshot) -> bytes:
    """The same bytes, without a copy of the state: a copy of a large one stops the actor meanwhile."""
    head = msgspec.msgpack.encode((snapshot.position, snapshot.version, snapshot.digest, b""))
    size = len(snapshot.state).to_bytes(4, "big")
    packer = zlib.compressobj(_LEVEL)
    parts = [
        *(_MAGIC, packer.compress(head.removesuffix(_EMPTY) + _LARGE + size)),
        *(packer.compress(snapshot.state), packer.flush()),
    ]
    return b"".join(parts)


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
