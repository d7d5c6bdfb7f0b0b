"""The garbage collector while a large book is made of its snapshot.

A book has no reference cycles; it goes when nobody holds it any more. To look for cycles among its
hundreds of thousands of parts takes an eighth of the time to make them, and whenever a process looks
through all it has, the book would keep it up again. So nobody looks while a large book is made, and
it is set aside from those that are looked through. What lies about in cycles at that moment is set
aside too, and stays: a few kilobytes, once for each large book.

Small books, of which a simulation makes thousands, are left alone: there what lies about would add up.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

LARGE_BYTES: Final = 1 << 20
"""The state of some thousand bookings."""


@contextmanager
def at_rest(state_bytes: int) -> Generator[None]:
    """Make a book of *state_bytes* in this block without collecting, and set it aside if it is large."""
    if state_bytes < LARGE_BYTES or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
