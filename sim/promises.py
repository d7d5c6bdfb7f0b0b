"""What the log told the booking actors to be written, and what they said when it was lost.

At ``replicated`` nothing that was called written may be lost by a failover. At the other levels it may;
then whoever was told so, and lives on, must notice it and report its range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.actors.ports import GENESIS
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.actors.ports import Commit
    from holdfast.sim.history import RecordingLog
    from holdfast.sim.marks import Marks
    from holdfast.transport.tails import LostTail


class Promises:
    """What was promised in one world.

    Args:
      log: The truth.
      marks: What happened at least once.
      fail: Says that a check does not hold.
      digest_of: The link at a position of a book, as it was committed; "" where nothing is.
      kept: Whether the durability level lets no failover break a promise.
    """

    def __init__(
        self,
        log: RecordingLog,
        marks: Marks,
        fail: Callable[[str, str], None],
        digest_of: Callable[[str, str], str],
        *,
        kept: bool,
    ) -> None:
        self._log = log
        self._marks = marks
        self._fail = fail
        self._digest_of = digest_of
        self._kept = kept
        self._told: dict[str, dict[str, str]] = {}  # by process and book: the last position
        self._written: dict[str, dict[str, str]] = {}  # by book and position: the digest
        self._reported: dict[tuple[str, str], str] = {}

    def on_written(self, process: str, commit: Commit) -> None:
        """*process* is told that *commit* is written."""
        book, position = commit.book, commit.position
        self._told.setdefault(process, {})[book] = position
        if self._kept or self._digest_of(book, position) == commit.digest:
            self._written.setdefault(book, {})[position] = commit.digest

    def on_failover(self, book: str, position: str) -> None:
        """A failover took *book* back to *position*."""
        written, last = self._written.get(book, {}), parse_id(position)
        for told in [told for told in written if parse_id(told) > last]:
            if self._kept:
                self._fail(
                    "S7 one outcome",
                    f"{book}: {told} was called written, and a failover went back to {position}",
                )
            del written[told]

    def on_lost_tail(self, process: str, lost: LostTail, *, once: bool = True) -> None:
        """*process* reports that the log has lost its tail; an id is given out *once*, if it is."""
        self._marks.hit("tail_reported")
        known = self._log.whole_inputs(lost.book).get(parse_id(lost.inputs_lost_to))
        if lost.inputs_kept != lost.inputs_lost_to and known is not None and once:
            self._fail(
                "S7 one outcome",
                f"{process} reports that {lost.book} has lost {lost.inputs_lost_to}, and it is there",
            )
        if lost.decided_kept != lost.decided_lost_to:
            self._marks.hit("tail_reported_outcomes")
        before = self._reported.get((process, lost.book), GENESIS)
        self._reported[process, lost.book] = max(before, lost.decided_lost_to, key=parse_id)

    def unreported(self, process: str) -> str:
        """What *process*, which lives or ended by itself, was told of, is lost, and did not report."""
        for book, position in self._told.get(process, {}).items():
            id_ = parse_id(position)
            inputs = self._log.book(book).inputs
            if inputs.get(id_) is not None:
                continue
            if inputs.added > len(inputs.ids) and id_ < (
                inputs.ids[0] if inputs.ids else inputs.last
            ):
                continue  # it was trimmed past since, and nobody can tell that from being lost
            reported = parse_id(self._reported.get((process, book), GENESIS))
            if reported < id_ and self._log.whole_inputs(book).get(id_) is None:
                return (
                    f"{process} was told that {position} of {book} is decided; it is lost, and nobody "
                    "was told"
                )
        return ""

    def check_written(self) -> None:
        """Make sure that all that was called written, and is not known to be lost, is there."""
        for book, written in self._written.items():
            for position, digest in written.items():
                if self._digest_of(book, position) != digest:
                    self._fail(
                        "S7 one outcome", f"{book}: {position} was called written and is not there"
                    )
