"""Snapshots as bytes."""

from __future__ import annotations

import random
import zlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from holdfast.actors.ports import Snapshot
from holdfast.transport.snapshots import DamagedSnapshotError, pack_snapshot, unpack_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pieces:
    """A state that is put together anew whenever somebody asks for it."""

    def __init__(self, state: bytes, size: int) -> None:
        self._parts = [state[start : start + size] for start in range(0, len(state), size)]

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 70_000, 300_000])
async def test_whole_states_and_those_in_pieces_have_the_same_form(size: int) -> None:
    """Whoever reads one need not know how it was written."""
    state = random.Random(size).randbytes(size)
    snapshot = Snapshot("1780000000000-7", 1, "ab" * 16, state)
    pieces = Snapshot("1780000000000-7", 1, "ab" * 16, Pieces(state, 1_000))
    assert pieces == snapshot
    assert pieces.whole().content == state
    for packed in (await pack_snapshot(snapshot), await pack_snapshot(pieces)):
        assert await unpack_snapshot(packed) == snapshot
        line, _, rest = packed.partition(b"\n")
        assert line == b"holdfast-snapshot 1"
        head = zlib.decompressobj()
        assert msgspec.msgpack.decode(head.decompress(rest)) == [
            *(snapshot.position, snapshot.version, snapshot.digest, size)
        ]
        assert zlib.decompress(head.unused_data) == state


@pytest.mark.parametrize("size", [0, 100, 70_000])
async def test_a_snapshot_that_was_cut_or_altered_anywhere_is_refused(size: int) -> None:
    state = random.Random(size).randbytes(size)
    packed = await pack_snapshot(Snapshot("1780000000000-7", 1, "ab" * 16, state))
    places = [*range(min(len(packed), 90)), *range(90, len(packed), 9_973), len(packed) - 1]
    for at in places:
        altered = bytearray(packed)
        altered[at] ^= 1
        for bad in (packed[:at], bytes(altered)):
            with pytest.raises(DamagedSnapshotError):
                await unpack_snapshot(bad)


def test_snapshots_are_equal_where_all_of_them_is() -> None:
    snapshot = Snapshot("1-1", 1, "ab", b"state")
    same = Snapshot("1-1", 1, "ab", Pieces(b"state", 2))
    assert snapshot == same
    assert not snapshot != same  # noqa: SIM202 - structs have both operators of their own
    assert snapshot != Snapshot("1-2", 1, "ab", b"state")
    assert snapshot != Snapshot("1-1", 2, "ab", b"state")
    assert snapshot != Snapshot("1-1", 1, "cd", b"state")
    assert snapshot != Snapshot("1-1", 1, "ab", b"other")
    assert snapshot != b"state"
