"""What every log must hold a commit to, and how an unknown result is resolved.

A commit compares and sets: it is written only if the record still has the writer's epoch, its owner
token and the position it decided from. So an unknown result can be resolved by reading the record,
and a commit that is sent again after such a reading can never be written twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from holdfast.actors.ports import (
    CommitUnknownError,
    ForeignDataError,
    LogError,
    LogUnavailableError,
    SupersededError,
    TailLostError,
)
from holdfast.transport.connection import ConnectionLostError
from holdfast.transport.keys import ascends, parse_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast.actors.ports import Commit, CommitRecord


_ATTEMPTS_MAX = 5
"""Most times that one commit is sent."""


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


def superseded(book: str, epoch: int, held: int) -> SupersededError | TailLostError:
    """The error that tells a writer of *epoch* that the record's is *held*: to step down, mostly.

    Epochs grow, so where the record's is lower, the log has forgotten our takeover.
    """
    if held < epoch:
        return TailLostError(
            f"the log of {book} is at epoch {held} and has forgotten ours, {epoch}: it has lost its "
            "tail, so read it anew"
        )
    return SupersededError(
        f"another booking actor took over {book} from our epoch {epoch}: drop the book and step down"
    )


def moved(commit: Commit, position: str) -> ForeignDataError | TailLostError:
    """The error where the record has our epoch and owner, and a position that is not ours."""
    if parse_id(position) < parse_id(commit.after):
        return forgotten(commit.book, position, commit.after)
    return ForeignDataError(
        f"the record of {commit.book} is at {position} and not at {commit.after}, though nobody "
        "took the book over: somebody else writes to our keys, find out who"
    )


def forgotten(book: str, kept: str, lost_to: str) -> TailLostError:
    """The error where the log has the decisions up to *kept* only, and had those up to *lost_to*."""
    return TailLostError(
        f"the inputs of {book} after {kept} up to {lost_to} were decided, and their decisions are in "
        "the log no more: it has lost its tail, so read it anew"
    )


def lost(commit: Commit) -> TailLostError:
    """The error where the inputs that *commit* decided are in the log no more."""
    return TailLostError(
        f"the inputs of {commit.book} up to {commit.position} were decided and are not in the log "
        "any more: it has lost its tail, so read it anew"
    )


def behind(book: str, position: str) -> TailLostError:
    """The error where a snapshot, which is only saved of what was written, is beyond the record."""
    return TailLostError(
        f"the log of {book} ends at {position}, before the snapshot that was to be saved: it has lost its "
        "tail, so read it anew"
    )


def resolve_commit(commit: Commit, record: CommitRecord) -> LogError | bool:
    """What became of *commit*, from the record: written, not written, or an error."""
    if (record.epoch, record.owner) != (commit.epoch, commit.owner):
        return superseded(commit.book, commit.epoch, record.epoch)
    if (record.position, record.digest) == (commit.position, commit.digest):
        return True
    return False if record.position == commit.after else moved(commit, record.position)


async def write_commits(
    commits: Sequence[Commit],
    send: Callable[[Sequence[int]], Awaitable[list[LogError | None]]],
    resolve: Callable[[Sequence[Commit]], Awaitable[list[LogError | bool]]],
    *,
    resolve_s: float,
    pause_s: float,
) -> list[LogError | None]:
    """``Log.commit`` over a connection that may break: what is unknown is read, never guessed.

    Args:
      commits: What is to be written.
      send: Sends those of *commits* with the given indexes, once, and says what became of each.
        Raises ConnectionLostError where it does not know.
      resolve: ``Log.resolve``.
      resolve_s: How long to try to read what became of a lost attempt.
      pause_s: Between two such readings.

    Raises:
      CommitUnknownError: The server stays away, or refused some commits and took others.
      LogUnavailableError: None was written.
    """
    results: list[LogError | None] = [None] * len(commits)
    waiting = list(range(len(commits)))
    for attempt in range(_ATTEMPTS_MAX):
        if not waiting:
            break
        try:
            answers = await send(waiting)
        except ConnectionLostError as lost:
            if attempt == 0 and not lost.sent:
                raise LogUnavailableError(f"nothing was committed: {lost}") from lost
            wanted = [commits[index] for index in waiting]
            states = await _resolve_patiently(wanted, resolve, resolve_s, pause_s)
            for index, state in zip(waiting, states, strict=True):
                results[index] = state if isinstance(state, LogError) else None
            waiting = [
                index for index, state in zip(waiting, states, strict=True) if state is False
            ]
            continue
        for index, answer in zip(waiting, answers, strict=True):
            results[index] = answer
        return _weigh(results)
    if waiting:
        raise CommitUnknownError("the connection was lost again and again: resolve, then retry")
    return _weigh(results)


def _weigh(results: list[LogError | None]) -> list[LogError | None]:
    """Raise what concerns all: a server that refused every commit, or some and not others."""
    away = [error for error in results if isinstance(error, LogUnavailableError)]
    if away and len(away) == len(results):
        raise away[0]
    if away:
        raise CommitUnknownError(f"some commits were refused ({away[0]}): resolve, then retry")
    return results


async def _resolve_patiently(
    commits: Sequence[Commit],
    resolve: Callable[[Sequence[Commit]], Awaitable[list[LogError | bool]]],
    resolve_s: float,
    pause_s: float,
) -> list[LogError | bool]:
    """Resolve, while the server may be coming back.

    Raises:
      CommitUnknownError: It did not come back in time.
    """
    with anyio.move_on_after(resolve_s):
        while True:
            try:
                return await resolve(commits)
            except LogUnavailableError:
                # Attempts to connect pace themselves; a server that loads answers at once.
                await anyio.sleep(pause_s)
    raise CommitUnknownError(
        "the connection was lost during a commit and the server stays away: resolve later"
    )
