"""Digests of states, and the chain of them that finds where two histories part.

A *digest* tells in 32 characters whether two states are equal. A *chain* does the same for whole
histories: each link hashes the link before it together with what happened, so two processes that
agree on one link agree on everything up to it. Once two chains differ they differ for ever, which
is why :func:`first_difference` may bisect: a divergence among a million inputs is found by looking
at twenty links.

The hash is blake2b with 128 bits: it guards against mistakes, and chance will not fool it. It is no
signature.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DIGEST_BYTES = 16
"""Length of a digest and of a link; twice as many characters in hexadecimal."""

_FRESH = blake2b(digest_size=DIGEST_BYTES)


def digest(data: bytes) -> str:
    """Digest of a state's canonical encoding: ``digest(machine.encode(state))``, hexadecimal."""
    return blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


class Chain:
    """A hash chain: ``link = blake2b(previous link, then each part after its length)``.

    The lengths keep ``feed(b"ab", b"c")`` apart from ``feed(b"a", b"bc")``.

    Args:
      link: Where to resume, as :attr:`hex` gave it; ``""`` is before the first link.

    Raises:
      ValueError: *link* is not a link.
    """

    __slots__ = ("_link",)

    def __init__(self, link: str = "") -> None:
        self._link = bytes.fromhex(link)
        if len(self._link) not in (0, DIGEST_BYTES):
            raise ValueError(
                f"a link has {2 * DIGEST_BYTES} hexadecimal digits, not {len(link)}: "
                "resume from what Chain.hex gave"
            )

    def feed(self, *parts: bytes) -> None:
        """Add one link that stands for *parts*, each shorter than 4 GiB."""
        link = _FRESH.copy()  # a fifth faster than to make one
        link.update(self._link)
        for part in parts:
            link.update(len(part).to_bytes(4, "little") + part)
        self._link = link.digest()

    @property
    def hex(self) -> str:
        """The last link, hexadecimal; ``""`` before the first."""
        return self._link.hex()


def first_difference(
    length: int, link_a: Callable[[int], str], link_b: Callable[[int], str]
) -> int | None:
    """Where two chains part, in O(log *length*) looks at each.

    Args:
      length: How many links both chains have.
      link_a: The link of the first chain at an index, 0 to ``length - 1``.
      link_b: The same of the second.

    Returns:
      The index of the first link that differs, or None if all are equal.
    """
    if length <= 0 or link_a(length - 1) == link_b(length - 1):
        return None
    low, high = 0, length - 1  # all links before low are equal, the one at high differs
    while low < high:
        middle = (low + high) // 2
        if link_a(middle) == link_b(middle):
            low = middle + 1
        else:
            high = middle
    return low
