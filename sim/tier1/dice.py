"""Randomness by the million: sixteen numbers for each step, whatever came before it.

The draws of tier 2 (:mod:`holdfast.sim.draws`) are recorded, for a shrinker to change; ten million
operations are too many to record. Here a number is a pure function of the seed, the step and
its place, so that a run can be told from its seed alone, and what one step draws does not
depend on how many draws were made before.
"""

from __future__ import annotations

from hashlib import blake2b, shake_128
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACES: Final = 16
"""How many numbers a step has."""

SPAN: Final = 2**32
"""Each is from 0 to ``SPAN`` - 1; ``number * bound >> 32`` makes it one from 0 to *bound* - 1."""

FATES: Final = 8
"""How many numbers a call has."""

_BLOCK: Final = 128  # steps whose numbers are made at a time: one by one takes twice as long
_WORDS = Struct(f"<{PLACES}I")
_FATE = Struct(f"<{FATES}I")


class Dice:
    """All the chance of one run.

    Args:
      scenario: Runs of two scenarios with the same seed have nothing in common.
      seed: Which run this is.
    """

    __slots__ = ("_fates", "_seed")

    def __init__(self, scenario: str, seed: int) -> None:
        self._seed = f"tier 1 {scenario} {seed}\n".encode()
        self._fates = blake2b(self._seed, digest_size=_FATE.size)

    def rolls(self) -> Iterator[tuple[int, ...]]:
        """The ``PLACES`` numbers of each step, one step after the other, without end."""
        block = 0
        while True:
            made = shake_128(self._seed + block.to_bytes(8, "little"))
            yield from _WORDS.iter_unpack(made.digest(_BLOCK * _WORDS.size))
            block += 1

    def fate(self, action_id: str) -> tuple[int, ...]:
        """The ``FATES`` numbers that decide how a call fares, whatever else its input drew."""
        state = self._fates.copy()
        state.update(action_id.encode())
        return _FATE.unpack(state.digest())
