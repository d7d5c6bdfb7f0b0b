"""Whether a reader of a stream would skip entries without noticing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.actors.ports import LogTrimmedError, TailLostError
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from holdfast.actors.ports import StreamFacts


def gap_error(
    stream: str, book: str, after: str, facts: StreamFacts, deleted: str
) -> LogTrimmedError | None:
    """The error of who would skip entries, or None; arguments like :func:`gap`'s."""
    why = gap(after, facts, deleted)
    if not why:
        return None
    is_shorter = parse_id(after) > parse_id(facts.last_id)
    return (TailLostError if is_shorter else LogTrimmedError)(
        f"the {stream} of {book} cannot be followed from {after}: {why}; "
        "begin from the newest snapshot, or bring the stream back from a backup"
    )


def gap(after: str, facts: StreamFacts, deleted: str) -> str:
    """Why reading a stream after a position would skip entries, or "".

    Args:
      after: The position.
      facts: The stream's.
      deleted: The greatest id that was deleted singly, ``0-0`` if none was.
    """
    position, last = parse_id(after), parse_id(facts.last_id)
    if position > last:
        return f"the log ends at {facts.last_id}, before it: the log has lost its tail"
    if position == last:
        return ""
    if facts.added == facts.length:  # nothing ever left it, so it holds whatever was read from it
        begun_after = facts.first_id and (0, 0) < position < parse_id(facts.first_id)
        return f"it was deleted and begun anew with {facts.first_id}" if begun_after else ""
    if parse_id(deleted) > position:
        return f"the entry {deleted} was deleted"
    if facts.first_id and parse_id(facts.first_id) <= position:
        return ""
    return f"entries up to {facts.first_id or facts.last_id} were trimmed away"
