"""Commits on Redis: packing a batch for the script, and what its answer means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hiredis

from holdfast.actors.ports import (
    CommitRecord,
    ForeignDataError,
    LogError,
)
from holdfast.transport import scripts
from holdfast.transport.codec import encode_raw
from holdfast.transport.commits import behind, check_commit, lost, moved, superseded
from holdfast.transport.connection import Reply, error_of
from holdfast.transport.keys import book_keys
from holdfast.transport.pool import ScriptCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.ports import ActionEntry, Commit, DeadLetter


class Wrote:
    """The last actions that this process wrote to each book, in the epoch in which it did."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, str, str, str]] = {}

    def before(self, commit: Commit) -> tuple[str, str]:
        """The last payment and the last notification before *commit*, "" where there was none."""
        epoch, owner, payment, notification = self._last.get(commit.book, (0, "", "", ""))
        if (epoch, owner) != (commit.epoch, commit.owner):
            return "", ""  # whoever takes a book over asks for all that is under way
        return payment, notification

    def note(self, commit: Commit) -> None:
        """*commit* is written."""
        payment, notification = self.before(commit)
        payment = commit.payments[-1].id if commit.payments else payment
        notification = commit.notifications[-1].id if commit.notifications else notification
        self._last[commit.book] = (commit.epoch, commit.owner, payment, notification)


def commit_call(commit: Commit, wrote: tuple[str, str] = ("", "")) -> ScriptCall:
    """The script call that writes *commit*; *wrote* is of ``Wrote.before``."""
    check_commit(commit)
    keys = book_keys(commit.book)
    args: list[str | bytes | int] = [
        commit.epoch,
        commit.owner,
        commit.after,
        commit.position,
        commit.version,
        commit.digest,
        len(commit.outcomes),
        len(commit.payments),
        len(commit.notifications),
        len(commit.dead_letters),
        *wrote,
        commit.decided,
    ]
    for outcome in commit.outcomes:
        replayed = "1" if outcome.replayed else ""
        args += (outcome.id, outcome.status, outcome.body, outcome.timers, replayed)
    _add_actions(args, commit.payments)
    _add_actions(args, commit.notifications)
    add_dead_letters(args, commit.dead_letters)
    names = (
        *(keys.commit, keys.outcomes, keys.payments, keys.notifications),
        *(keys.deadletters, keys.inputs),
    )
    return ScriptCall(scripts.COMMIT, names, tuple(args))


def _add_actions(args: list[str | bytes | int], actions: list[ActionEntry]) -> None:
    for action in actions:
        args += (action.id, action.action, action.type, action.body, action.trace)


def add_dead_letters(args: list[str | bytes | int], letters: Sequence[DeadLetter]) -> None:
    """Append the arguments that the scripts want for *letters*."""
    for letter in letters:
        args += (letter.stream, letter.id, letter.why, encode_raw(letter.fields))


def decode_record(fields: list[bytes], book: str = "the book") -> CommitRecord:
    """The commit record from the reply of HGETALL.

    Raises:
      ForeignDataError: Somebody else wrote it.
    """
    values = {fields[i]: fields[i + 1] for i in range(0, len(fields), 2)}
    try:
        return CommitRecord(
            position=values.get(b"position", b"0-0").decode("ascii"),
            epoch=int(values.get(b"epoch", b"0")),
            owner=values.get(b"owner", b"").decode(),
            version=int(values.get(b"version", b"0")),
            digest=values.get(b"digest", b"").decode("ascii"),
            snapshot=values.get(b"snapshot", b"").decode("ascii"),
        )
    except ValueError:
        raise ForeignDataError(
            f"the commit record of {book} was not written by a booking actor: find out who else "
            "writes to it"
        ) from None


def script_error(reply: hiredis.ReplyError, book: str, epoch: int, doing: str) -> LogError:
    """What an error reply of one of our scripts means."""
    code, _, rest = str(reply).partition(" ")
    if code == "HF_SUPERSEDED":
        return superseded(book, epoch, int(rest) if rest.isdigit() else epoch)
    if code == "HF_FOREIGN":
        return ForeignDataError(
            f"{doing} {book}: {rest}: somebody else writes to our keys, find out who"
        )
    if code == "HF_AHEAD":
        return behind(book, rest)
    return error_of(reply, f"{doing} {book}")


def commit_error(commit: Commit, reply: Reply) -> LogError | None:
    """What the script's answer to *commit* means; None: it is written."""
    if not isinstance(reply, hiredis.ReplyError):
        return None
    code, _, rest = str(reply).partition(" ")
    if code == "HF_POSITION":
        position, _, digest = rest.partition(" ")
        if (position, digest) == (commit.position, commit.digest):
            return None  # Written by an earlier attempt whose answer was lost.
        return moved(commit, position)
    if code == "HF_LOST":
        return lost(commit)
    return script_error(reply, commit.book, commit.epoch, "committing to")
