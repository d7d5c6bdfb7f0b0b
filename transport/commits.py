"""What every log must hold a commit to, and how an unknown result is resolved.

A commit compares and sets: it is written only if the record still has the writer's epoch, its owner
token and the position it decided from. So an unknown result can be resolved by reading the record,
and a commit that is sent again after such a reading can never be written twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.actors.ports import ForeignDataError, LogError, SupersededError
from holdfast.transport.keys import ascends

if TYPE_CHECKING:
    from holdfast.actors.ports import Commit, CommitRecord


def check_commit(commit: Commit) -> None:
    """Make sure that the server can refuse *commit* only as a whole.

    Raises:
      ValueError: Ids do not ascend, or the position is not the last outcome's: our own bug.
    """
    outcome_ids = [outcome.id for outcome in commit.outcomes]
    if not outcome_ids or outcome_ids[-1] != commit.position:
        raise ValueError("a commit's position must be the id of its last outcome")
    payment_ids = [action.id for action in commit.payments]
    notification_ids = [action.id for action in commit.notifications]
    if not (ascends(outcome_ids) and ascends(payment_ids) and ascends(notification_ids)):
        raise ValueError("the ids of a commit's entries must ascend")


def superseded(book: str, epoch: int) -> SupersededError:
    """The error that tells a writer of *epoch* to step down."""
    return SupersededError(
        f"another booking actor took over {book} from our epoch {epoch}: drop the book and step down"
    )


def moved(commit: Commit, position: str) -> ForeignDataError:
    """The error where the record has our epoch and owner, and a position that is not ours."""
    return ForeignDataError(
        f"the record of {commit.book} is at {position} and not at {commit.after}, though nobody "
        "took the book over: somebody else writes to our keys, find out who"
    )


def resolve_commit(commit: Commit, record: CommitRecord) -> LogError | bool:
    """What became of *commit*, from the record: written, not written, or an error."""
    if (record.epoch, record.owner) != (commit.epoch, commit.owner):
        return superseded(commit.book, commit.epoch)
    if (record.position, record.digest) == (commit.position, commit.digest):
        return True
    return False if record.position == commit.after else moved(commit, record.position)
