"""Every choice of a simulated world, from one seed; recorded, so that it can be replayed and changed.

There are two kinds of draws.

*Keyed* draws decide workload and faults. A value is a pure function of the seed, a label and a key:
what happens to the third answer on connection 5 does not depend on how many draws were made before
it. So a shrinker can take one event out of a run, and everything else stays as it was. A keyed draw
goes by its name, such as ``drop('reply', 5, 3)``, and can be changed by it.

*Scheduling* draws say which task runs next. They come one after the other; their values alone are
the tape that replays a run's interleaving. A tape that is too short goes on with zeros.

In both kinds 0 is the dullest choice: no fault, the least delay, the first of a sequence, the task
that waits longest. Setting draws to 0 makes a run simpler.
"""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")

Draw = tuple[str, int, int]
"""One draw: its name, its bound, and its value, 0 ≤ value < bound."""

SCHEDULE: Final = "schedule"
"""The name of every scheduling draw; they are told apart by their order."""

_SPAN: Final = 2**64


class Draws:
    """All draws of one run.

    Args:
      seed: Which run this is; any integer.
      tape: Values of the scheduling draws, to be replayed in order. A value that is out of bounds
        counts as 0. None draws them from the seed.
      changes: Values of keyed draws by name, instead of those that the seed gives; bounds apply
        as above.

    Attributes:
      seed: As given.
      tape: Every draw made so far. A draw among a single possibility is none and is not listed.
    """

    __slots__ = ("_changes", "_next", "_replay", "_sequence", "_state", "seed", "tape")

    def __init__(
        self,
        seed: int,
        tape: Sequence[int] | None = None,
        changes: Mapping[str, int] | None = None,
    ) -> None:
        self.seed = seed
        self.tape: list[Draw] = []
        self._state = blake2b(f"holdfast {seed}\n".encode(), digest_size=8)
        self._changes: dict[str, int] = dict(changes or {})
        self._replay = None if tape is None else tuple(tape)
        self._next = 0
        self._sequence = self.generator(SCHEDULE)

    def keyed(self, label: str, *key: object) -> int:
        """A number of 64 random-looking bits.

        Args:
          label: What is decided; with no ``(`` in it.
          key: Which one of that kind: strings, integers, bytes or None.

        Raises:
          TypeError: A part of the key is of another type: its text could differ between processes.
        """
        name = _name(label, key)
        return self._record(name, _SPAN, self._hash(name))

    def below(self, label: str, bound: int, *key: object) -> int:
        """A number from 0 to *bound* - 1. *bound* is at least 1; for the rest see :meth:`keyed`."""
        if bound <= 1:
            assert bound == 1, f"{label} cannot be drawn below {bound}"
            return 0
        name = _name(label, key)
        return self._record(name, bound, self._hash(name) * bound >> 64)

    def between(self, label: str, low: int, high: int, *key: object) -> int:
        """A number from *low* to *high*, both included; *low* is the dullest."""
        return low + self.below(label, high - low + 1, *key)

    def chance(self, label: str, probability: float, *key: object) -> bool:
        """True with *probability*, which is from 0 to 1. False is the dull choice.

        What cannot happen is not on the tape, and yet a change can make it happen.
        """
        if probability <= 0 and not self._changes:
            return False
        name = _name(label, key)
        if probability <= 0 and name not in self._changes:
            return False
        return self._record(name, 2, int(self._hash(name) < probability * _SPAN)) == 1

    def pick(self, label: str, sequence: Sequence[T], *key: object) -> T:
        """One of *sequence*, whose first element is the dullest."""
        return sequence[self.below(label, len(sequence), *key)]

    def generator(self, label: str, *key: object) -> random.Random:
        """A generator of its own, for code that wants one. What it yields is not on the tape."""
        return random.Random(self._hash(_name(label, key)))

    def schedule(self, bound: int, wanted: int | None = None) -> int:
        """Which of *bound* runnable tasks is next, 0 being the one that waits longest.

        Args:
          bound: At least 1.
          wanted: What a strategy chose by other means; it is recorded, but a tape that is being
            replayed wins. None draws uniformly.
        """
        if bound <= 1:
            assert bound == 1, f"a task cannot be chosen out of {bound}"
            return 0
        if self._replay is not None:
            value = self._replay[self._next] if self._next < len(self._replay) else 0
            self._next += 1
            if not 0 <= value < bound:
                value = 0
        elif wanted is None:
            value = int(self._sequence.random() * bound)
        else:
            value = wanted
        self.tape.append((SCHEDULE, bound, value))
        return value

    @property
    def replaying(self) -> bool:
        """Whether a tape was given."""
        return self._replay is not None

    def schedule_tape(self) -> list[int]:
        """The values of the scheduling draws so far: the *tape* that replays this interleaving."""
        return [value for name, _, value in self.tape if name == SCHEDULE]

    def _hash(self, name: str) -> int:
        state = self._state.copy()
        state.update(name.encode())
        return int.from_bytes(state.digest(), "little")

    def _record(self, name: str, bound: int, value: int) -> int:
        if self._changes:
            value = self._changes.get(name, value)
            if not 0 <= value < bound:
                value = 0
        self.tape.append((name, bound, value))
        return value


def _name(label: str, key: tuple[object, ...]) -> str:
    for part in key:
        if part is not None and not isinstance(part, str | int | bytes):
            raise TypeError(
                f"a draw's key is made of str, int, bytes or None, not {type(part).__name__}: "
                f"pass what tells one {label!r} from another"
            )
    return f"{label}{key!r}"
