"""Names of keys and ids of entries: where everything of a book lies in Redis.

All keys of one book share the hash tag ``{BOOK}``, so that a cluster keeps them in one slot and one
script may write them together. The registry of books is in another slot; the set that keeps it free
of doubles has the registry's own name as its tag, so that these two are together as well.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from holdfast.actors.ports import GENESIS

if TYPE_CHECKING:
    from collections.abc import Mapping

ACTION_IDS = 4096
"""Ids that an action stream leaves for the actions of one input (``machine.core.ACTIONS_MAX``)."""

SEQUENCE_MAX = 2**52 - 1
"""Greatest sequence of an input's id: a greater one leaves no room for its actions' ids."""

NUMBER_MAX = 2**64 - 1
"""Greatest milliseconds and greatest sequence of an id."""

REGISTRY = "holdfast:books"
"""The stream that names every book once, in the order of registration."""

REGISTRY_KNOWN = "{holdfast:books}:known"
"""The set of registered books; in the registry's cluster slot."""

LEASES = "holdfast:lease:"
"""What the key of a booking actor's lease begins with; its token follows."""

_BOOK = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)


def check_book(book: str) -> str:
    """Return *book* if it is a book's name.

    Raises:
      ValueError: It is not; the message says what a name looks like.
    """
    if _BOOK.fullmatch(book) is None:
        raise ValueError(
            f"{book[:80]!r} is no name of a book: use 1 to 64 of a-z, 0-9, '-' and '_', "
            "beginning with a letter or digit"
        )
    return book


class BookKeys:
    """The keys of one book.

    Args:
      book: Its name.

    Raises:
      ValueError: *book* is no name of a book.
    """

    __slots__ = (
        "book",
        "commit",
        "deadletters",
        "inputs",
        "losses",
        "notifications",
        "outcomes",
        "payments",
        "snapshot_prefix",
    )

    def __init__(self, book: str) -> None:
        prefix = f"holdfast:{{{check_book(book)}}}:"
        self.book = book
        self.inputs = prefix + "inputs"
        self.outcomes = prefix + "outcomes"
        self.payments = prefix + "payments"
        self.notifications = prefix + "notifications"
        self.deadletters = prefix + "deadletters"
        self.losses = prefix + "losses"
        self.commit = prefix + "commit"
        self.snapshot_prefix = prefix + "snapshot:"

    def stream(self, name: str) -> str:
        """The key of the stream *name*, one of ``ports.StreamName``."""
        return f"holdfast:{{{self.book}}}:{name}"

    def snapshot(self, position: str) -> str:
        """The key of the snapshot at *position*."""
        return self.snapshot_prefix + position


@lru_cache(maxsize=16_384)
def book_keys(book: str) -> BookKeys:
    """The keys of *book*, from a bounded cache. Raises like :class:`BookKeys`."""
    return BookKeys(book)


def lease_key(owner: str) -> str:
    """The key of the lease of a booking actor; in no book's slot, since it may lead many."""
    return f"{LEASES}{owner}"


def parse_id(entry_id: str) -> tuple[int, int]:
    """(milliseconds, sequence) of an entry id.

    Raises:
      ValueError: *entry_id* is not ``<milliseconds>-<sequence>``, or beyond 64 bits.
    """
    match = _ID.fullmatch(entry_id)
    if match is not None:
        ms, sequence = int(match[1]), int(match[2])
        if ms <= NUMBER_MAX and sequence <= NUMBER_MAX:
            return ms, sequence
    raise ValueError(f"{entry_id[:80]!r} is no entry id: it must be <milliseconds>-<sequence>")


def check_reading(after: Mapping[str, str], count: int) -> None:
    """Make sure that a read by cursor asks for what there can be.

    Raises:
      ValueError: A book's name or a position is none, or *count* is less than 1.
    """
    for book, position in after.items():
        book_keys(book)
        parse_id(position)
    if count < 1:
        raise ValueError(f"a read must ask for at least one entry, not {count}")


def format_id(ms: int, sequence: int) -> str:
    """The entry id of (milliseconds, sequence)."""
    return f"{ms}-{sequence}"


def action_stream_id(input_id: str, number: int) -> str:
    """The entry id, in its stream, of an input's action *number*, from 0.

    It grows with the input's id and the number, and nobody else can have the same, so that writing
    an action twice is refused by the server.

    Raises:
      ValueError: The input's sequence or the number is too great for an id.
    """
    ms, sequence = parse_id(input_id)
    if not 0 <= number < ACTION_IDS:
        raise ValueError(f"action numbers are 0 to {ACTION_IDS - 1}, not {number}")
    if sequence > SEQUENCE_MAX:
        raise ValueError(f"input {input_id} leaves no room for the ids of its actions")
    return f"{ms}-{sequence * ACTION_IDS + number}"


def ascends(ids: list[str]) -> bool:
    """Whether *ids* are all greater than ``0-0`` and each is greater than the one before."""
    before = GENESIS
    for entry_id in ids:
        # Ids of our time have 13 digits of milliseconds: then equal lengths compare as text.
        if (
            len(entry_id) == len(before)
            and entry_id[13:14] == "-" == before[13:14]
            and entry_id > before
        ):
            before = entry_id
            continue
        if parse_id(entry_id) <= parse_id(before):
            return False
        before = entry_id
    return True
