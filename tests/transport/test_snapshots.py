"""Snapshots as bytes."""

from __future__ import annotations

import random
import zlib

import msgspec
import pytest

from holdfast.actors.ports import Snapshot
from holdfast.transport.snapshots import pack_snapshot, unpack_snapshot


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 70_000, 300_000])
async def test_small_and_large_states_have_the_same_form(size: int) -> None:
    """A large one is packed in pieces, without being copied; whoever reads it need not know."""
    state = random.Random(size).randbytes(size)
    snapshot = Snapshot("1780000000000-7", 1, "ab" * 16, state)
    packed = await pack_snapshot(snapshot)
    assert await unpack_snapshot(packed) == snapshot
    line, _, rest = packed.partition(b"\n")
    assert line == b"holdfast-snapshot 1"
    assert zlib.decompress(rest) == msgspec.msgpack.encode(
        (snapshot.position, snapshot.version, snapshot.digest, state)
    )
