"""A book made anew from its log: what ``show`` looks at and ``check`` compares with.

A follower decides the same inputs by the same machine and emits nothing. It needs nobody's answer:
what the log holds is decided, whether or not the booking actor has come to it yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.ports import BATCH_MAX
from holdfast.cli.common import EXIT_FAILED, CliError
from holdfast.transport.keys import book_keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast.actors.booking.runner import Decided
    from holdfast.actors.ports import InputEntry, Log

BATCHES_MAX: Final = 10_000_000
"""Most batches that one call reads; a log that grows faster than we read ends with an error."""


def order(entry_id: str) -> tuple[int, int]:
    """Sort key of an entry's id."""
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq)


def id_before(entry_id: str) -> str:
    """The greatest id below *entry_id*."""
    ms, seq = order(entry_id)
    return f"{ms}-{seq - 1}" if seq else f"{ms - 1}-{2**64 - 1}"


def check_book(book: str) -> None:
    """Make sure that *book* is a book's name.

    Raises:
      CliError: It is none.
    """
    try:
        book_keys(book)
    except ValueError as error:
        raise CliError(str(error)) from None


async def require_book(log: Log, book: str) -> None:
    """Make sure that there is such a book.

    Raises:
      CliError: There is none.
    """
    check_book(book)
    if (await log.facts(book, "inputs")).added:
        return
    known = await log.wait_books(0, 0)
    names = ", ".join(known[:5]) + (", …" if len(known) > 5 else "")
    hint = f"there are {names}" if known else "there is none at all yet"
    raise CliError(f"there is no book {book}; {hint}", EXIT_FAILED)


async def catch_up(
    log: Log,
    book: str,
    runner: BookRunner,
    until: str = "",
    on_batch: Callable[[Sequence[InputEntry], Decided], Awaitable[None]] | None = None,
) -> None:
    """Let *runner* decide the inputs after its position.

    Args:
      until: Id of the last input to decide; "" for the last one there is at the moment.
      on_batch: Called with each batch and what was decided.

    Raises:
      CliError: The log grows faster than we read.
    """
    last = order(until or (await log.facts(book, "inputs")).last_id)
    for _ in range(BATCHES_MAX):
        after = runner.position
        if order(after) >= last:
            return
        entries = (await log.read_inputs({book: after}, BATCH_MAX, 0)).get(book, [])
        entries = [entry for entry in entries if order(entry.id) <= last]
        if not entries:
            return
        decided = runner.decide(entries)
        if on_batch is not None:
            await on_batch(entries, decided)
    raise CliError(f"the log of {book} grows faster than it can be read", EXIT_FAILED)


async def follow(log: Log, book: str) -> BookRunner:
    """*book* as of the last input in its log, from its newest snapshot."""
    snapshot = await log.read_snapshot(book)
    runner = BookRunner(book, snapshot)
    await catch_up(log, book, runner)
    return runner
