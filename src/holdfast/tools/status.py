"""How a book fares: how far it is decided and carried out, who leads it, and what is wrong.

Ages are by the server's clock, which the ids come from; this machine's may differ.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.actors.booking import views
from holdfast.actors.ports import (
    BATCH_MAX,
    ActionStream,
    LogError,
    LogUnavailableError,
    TailLostError,
)
from holdfast.tools.history import HistoryChangedError, look_until_steady
from holdfast.tools.sources import decided_to
from holdfast.transport.keys import parse_id
from holdfast.transport.tails import LostTail

if TYPE_CHECKING:
    from holdfast.actors.ports import Log
    from holdfast.tools.ports import Operator

GROUPS: Final[tuple[ActionStream, ...]] = ("payments", "notifications")
EXECUTOR: Final = {"payments": "payment", "notifications": "notification"}


class StreamStatus(msgspec.Struct, frozen=True):
    """One stream of a book.

    Attributes:
      waiting: Entries that nobody has taken yet: inputs not decided, actions not handed out; -1
        where the server does not know.
      pending: Actions handed out and not carried out.
      oldest: The oldest of them all, "" where there is none.
      oldest_s: How long it has been waiting.
    """

    stream: str
    length: int
    waiting: int = 0
    pending: int = 0
    oldest: str = ""
    oldest_s: float = 0.0


class BookStatus(msgspec.Struct, frozen=True):
    """How a book fares.

    Attributes:
      position: The last input decided; "" where the book cannot be read as it is, and then there are
        problems alone.
      last: The last input there is.
      lag: How many inputs are between.
      owner: Token of the booking actor that took the book over last; it may be gone.
      lease_s: How long its lease still lasts, 0.0 where it has none; None where our user may not ask,
        infinite where it never lapses.
      snapshot: Position of the newest one, "" where there is none.
      snapshot_age_s: How long ago that was.
      since_snapshot: Inputs decided since then; -1 where there is none, or it was not looked.
      holds: Requests that wait for a payment; None where it was not looked.
      payments_under_way: Payments that are not at rest; None where it was not looked.
      losses: What the log was seen to have lost, in failovers and restarts, oldest first.
      problems: What is not as it should be, one sentence each.
    """

    book: str
    position: str = ""
    last: str = ""
    lag: int = 0
    epoch: int = 0
    owner: str = ""
    lease_s: float | None = 0.0
    version: int = 0
    digest: str = ""
    snapshot: str = ""
    snapshot_age_s: float = 0.0
    since_snapshot: int = -1
    streams: list[StreamStatus] = []
    dead_letters: int = 0
    holds: int | None = None
    payments_under_way: int | None = None
    losses: list[LostTail] = []
    problems: list[str] = []


async def book_status(
    log: Log, operator: Operator, book: str, *, late_s: float, quick: bool = False
) -> BookStatus:
    """How *book* fares now.

    Args:
      log: Where it lies.
      operator: The same.
      book: Which.
      late_s: What waits longer is a problem.
      quick: Do not decide anything: holds and payments are left out.

    Raises:
      LogUnavailableError: The server is away, or does not let us read.
    """
    look = partial(_look, log, operator, book, late_s, quick)
    try:
        return await look_until_steady(operator, book, look)
    except LogUnavailableError:
        raise
    except (
        LogError,
        HistoryChangedError,
    ) as error:  # of this book alone: the others are looked at too
        return BookStatus(book, problems=[str(error)])


async def _look(log: Log, operator: Operator, book: str, late_s: float, quick: bool) -> BookStatus:
    record = await log.read_record(book)
    now_ms = await operator.now_ms()
    inputs = await log.facts(book, "inputs")
    problems: list[str] = []
    lag, oldest = 0, ""
    if parse_id(record.position) > parse_id(inputs.last_id):
        with suppress(TailLostError):  # what is no stream is told by its own sentence
            await log.read_inputs({book: record.position}, 1, 0)
        problems.append(
            f"the log ends at {inputs.last_id}, before what was decided: it lost its tail"
        )
    else:
        lag, oldest = await _after(log, book, record.position)
    streams = [StreamStatus("inputs", inputs.length, lag, 0, oldest, _age_s(oldest, now_ms))]
    outcomes = await log.facts(book, "outcomes")
    streams.append(StreamStatus("outcomes", outcomes.length))
    for stream in GROUPS:
        facts, waits = await log.facts(book, stream), await operator.pending(book, stream)
        age_s = _age_s(waits.first, now_ms)
        streams.append(
            StreamStatus(stream, facts.length, waits.waiting, waits.count, waits.first, age_s)
        )
    problems += [_late(status) for status in streams if status.oldest_s > late_s]
    letters = await log.facts(book, "deadletters")
    since = -1
    if record.snapshot and not quick:
        since = max(0, (await _after(log, book, record.snapshot))[0] - lag)
    lease_s = await operator.lease_left_s(record.owner) if record.owner else 0.0
    if lease_s == math.inf:
        problems.append(
            f"the lease of {record.owner} never lapses, so nobody would take its books over: somebody "
            "else wrote it, delete it"
        )
    state = None if quick else await decided_to(log, book, record.position)
    return BookStatus(
        book=book,
        position=record.position,
        last=inputs.last_id,
        lag=lag,
        epoch=record.epoch,
        owner=record.owner,
        lease_s=lease_s,
        version=record.version,
        digest=record.digest,
        snapshot=record.snapshot,
        snapshot_age_s=_age_s(record.snapshot, now_ms),
        since_snapshot=since,
        streams=streams,
        dead_letters=letters.length,
        holds=None if state is None else len(views.holds(state.state)),
        payments_under_way=None
        if state is None
        else sum(not payment.at_rest for payment in views.payments(state.state)),
        losses=await operator.lost_tails(book),
        problems=problems,
    )


def _late(status: StreamStatus) -> str:
    if status.stream == "inputs":
        return (
            f"{status.waiting} inputs are not decided, the oldest for {status.oldest_s:.0f} s: "
            "no booking actor decides for this book"
        )
    count = status.pending + max(0, status.waiting) or "some"
    return (
        f"{count} {status.stream} are not carried out, the oldest for {status.oldest_s:.0f} s: "
        f"look at the {EXECUTOR[status.stream]} actor's log"
    )


def _age_s(entry_id: str, now_ms: int) -> float:
    return round(max(0, now_ms - parse_id(entry_id)[0]) / 1000, 3) if entry_id else 0.0


async def _after(log: Log, book: str, position: str) -> tuple[int, str]:
    """How many inputs there are after *position*, and the first of them."""
    count, first = 0, ""
    while True:
        entries = (await log.read_inputs({book: position}, BATCH_MAX, 0)).get(book, [])
        if entries and not first:
            first = entries[0].id
        count += len(entries)
        if len(entries) < BATCH_MAX:
            return count, first
        position = entries[-1].id
