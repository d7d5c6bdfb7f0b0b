"""Randomness by the million: sixteen numbers for each operation, whatever came before it.

The draws of tier 2 (:mod:`holdfast.sim.draws`) are recorded, for a shrinker to change; ten million
operations are too many to record. Here a number is a pure function of the seed, the operation and
its place, so that a run can be told from its seed alone, and what one operation draws does not
depend on how many draws were made before.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import Final

PLACES: Final = 16
"""How many numbers an operation has."""

SPAN: Final = 2**32
"""Each is from 0 to ``SPAN`` - 1."""

_WORDS = Struct(f"<{PLACES}I")


class Dice:
    """All the chance of one run.

    Args:
      scenario: Runs of two scenarios with the same seed have nothing in common.
      seed: Which run this is.
    """

    __slots__ = ("_state",)

    def __init__(self, scenario: str, seed: int) -> None:
        self._state = blake2b(f"tier 1 {scenario} {seed}\n".encode(), digest_size=4 * PLACES)

    def roll(self, operation: int) -> tuple[int, ...]:
        """The ``PLACES`` numbers of *operation*, from 1."""
        state = self._state.copy()
        state.update(operation.to_bytes(8, "little"))
        return _WORDS.unpack(state.digest())

    def fate(self, action_id: str) -> tuple[int, ...]:
        """The ``PLACES`` numbers that decide how a call fares, whatever else its input drew."""
        state = self._state.copy()
        state.update(action_id.encode())
        return _WORDS.unpack(state.digest())


def below(word: int, bound: int) -> int:
    """A number from 0 to *bound* - 1 out of one of :meth:`Dice.roll`'s."""
    return word * bound >> 32
