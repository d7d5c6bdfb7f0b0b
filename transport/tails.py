"""Notice what a failover or a restart took out of the log, and report its range.

A log that goes back says nothing of it: the keys of a book go back together, and what is left is a
consistent prefix. Only who remembers more can tell. So a process remembers, of each book that it
works on, the last input it saw and the last position whose commit it was told of, and of the server
the replication id and offset. Whenever a connection was lost it looks before it goes on: where the
log ends before what is remembered, the range between is lost.

The ids tell what was lost; the replication id tells why. A promoted replica has its old primary's id
as ``master_replid2``, good up to ``second_repl_offset``: beyond that offset the old history is
forgotten. A server that was restarted, or begun from a backup, has an id that nobody knows.

The report is a line in the log, and an entry of the book's stream ``losses``, for the tools.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol

import anyio
import hiredis
import msgspec
import structlog

from holdfast.actors.ports import GENESIS, ForeignDataError, LogError, LogUnavailableError
from holdfast.transport.commits import forgotten
from holdfast.transport.connection import error_of
from holdfast.transport.keys import book_keys, parse_id
from holdfast.transport.redis_follow import stream_facts
from holdfast.transport.server import parse_info

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from holdfast.transport.connection import Command, Reply
    from holdfast.transport.pool import Server

_log: Any = structlog.get_logger("log")

REMEMBER_S = 1.0
"""How often the server's replication offset is remembered, while there are commits."""

LOSSES_MAX = 1_000
"""Reports that a book keeps."""


class History(msgspec.Struct, frozen=True):
    """Where a server is in the history of its data.

    Attributes:
      id: ``master_replid``: the history it goes on with.
      offset: How far, in bytes.
      before_id: ``master_replid2``: the history it came from, if it was promoted.
      before_end: ``second_repl_offset``: the first byte of that history that it does not have; -1
        where there is none.
    """

    id: str = ""
    offset: int = 0
    before_id: str = ""
    before_end: int = -1


class LostTail(msgspec.Struct, frozen=True):
    """What a book's log has forgotten.

    Attributes:
      book: Whose.
      inputs_kept: The last of the inputs known to us that is still there; those after it, up to
        ``inputs_lost_to``, are lost. What came in since the loss does not count.
      inputs_lost_to: The last one known to have been there; the same where none is lost.
      decided_kept: The last of the outcomes known to us that is still there.
      decided_lost_to: The last one whose commit was told to be written.
      cause: ``failover``: a replica was promoted that had less. ``cut``: the same history is shorter.
        ``other history``: the server was restarted, or begun from other data.
      bytes: How much of the old history's stream is forgotten at least; -1 where that is not known.
    """

    book: str
    inputs_kept: str
    inputs_lost_to: str
    decided_kept: str
    decided_lost_to: str
    cause: Literal["failover", "cut", "other history"]
    bytes: int


def history_of(info: Mapping[str, str]) -> History:
    """The server's history from its INFO."""
    return History(
        id=info.get("master_replid", ""),
        offset=int(info.get("master_repl_offset", "0")),
        before_id=info.get("master_replid2", ""),
        before_end=int(info.get("second_repl_offset", "-1")),
    )


def cause_of(
    before: History, now: History
) -> tuple[Literal["failover", "cut", "other history"], int]:
    """Why something seen in the history *before* may be missing in *now*, and how many bytes are."""
    if now.id == before.id:
        return "cut", max(0, before.offset - now.offset)
    if now.before_id == before.id and now.before_end >= 0:
        return "failover", max(0, before.offset - (now.before_end - 1))
    return "other history", -1


class _Seen(msgspec.Struct):
    """The last input and the last decided position that this process knows of a book."""

    inputs: str = GENESIS
    decided: str = GENESIS

    def add(self, inputs: str, decided: str) -> None:
        self.inputs = _later(self.inputs, inputs)
        self.decided = _later(self.decided, decided)


class Asked(Protocol):
    """What a watch asks its server, as ``pool.Server`` answers it."""

    @property
    def losses(self) -> int:
        """How many connections were lost."""
        ...

    async def run(self, commands: Sequence[Command], *, again: bool = False) -> list[Reply]:
        """The replies to *commands*; see ``pool.Server.run``."""
        ...


class TailWatch:
    """What one process remembers of the books on *server*."""

    def __init__(self, server: Asked) -> None:
        self._server = server
        self._seen: dict[str, _Seen] = {}
        self._doubtful: dict[str, _Seen] = {}
        self._forgotten: dict[str, LostTail] = {}  # whose reader is still to be told
        self._history: History | None = None
        self._losses = server.losses
        self._remember_at = -math.inf
        self._looking = anyio.Lock()

    async def saw(self, book: str, inputs: str = GENESIS, decided: str = GENESIS) -> None:
        """Remember that the log had an input, or a decided position, of *book*.

        What is told after a connection was lost may be of the old history, in an answer that had just
        come, or of a new one. It is not added to what is remembered of the old one before it was
        looked for; where that cannot be done now, the next time will do.
        """
        if self._server.losses == self._losses:
            self._seen.setdefault(book, _Seen()).add(inputs, decided)
            return
        self._doubtful.setdefault(book, _Seen()).add(inputs, decided)
        with suppress(LogError):
            await self.look()

    def commands(self) -> tuple[Command, ...]:
        """What to send behind a commit, so that the server's offset is known; nothing mostly."""
        return (("INFO", "replication"),) if anyio.current_time() >= self._remember_at else ()

    def remember(self, reply: Reply) -> None:
        """Take the reply to that, unless it may be of a new history that was not looked at yet."""
        self._remember_at = anyio.current_time() + REMEMBER_S
        if self._server.losses == self._losses and not isinstance(reply, hiredis.ReplyError):
            self._history = history_of(parse_info(reply))

    async def look(self) -> list[LostTail]:
        """What was lost since the last look; nothing is asked where no connection was lost since.

        Raises:
          LogError: The server does not answer as it should; look again.
        """
        losses = self._server.losses
        if losses == self._losses:
            return []
        if not self._seen and not self._doubtful:
            self._losses = losses
            return []
        async with self._looking:  # who reads and who commits come back at the same time
            if losses <= self._losses:
                return []
            (reply,) = await self._server.run([("INFO", "replication")], again=True)
            before = self._history or History()
            now = before if isinstance(reply, hiredis.ReplyError) else history_of(parse_info(reply))
            found: list[LostTail] = []
            books = list(dict.fromkeys((*self._seen, *self._doubtful)))
            while books:
                for book in books:
                    found += await self._look_at(book, before, now)
                books = list(self._doubtful)  # what was told meanwhile
            self._history, self._losses = now, losses
        return found

    async def _look_at(self, book: str, before: History, now: History) -> list[LostTail]:
        """Report what the log of *book* has no more; then only what it has counts as seen."""
        keys = book_keys(book)
        seen = self._seen.setdefault(book, _Seen())
        doubtful = self._doubtful.pop(book, _Seen())
        asked = (
            *((keys.inputs, seen.inputs), (keys.inputs, doubtful.inputs)),
            *((keys.outcomes, seen.decided), (keys.outcomes, doubtful.decided)),
        )
        try:
            # The last entry that is not after the one we saw is that very one, or it is lost.
            replies = await self._server.run(
                [("XREVRANGE", key, id_, "-", "COUNT", 1) for key, id_ in asked], again=True
            )
            if any(_is_denied(reply) for reply in replies):
                return []  # A producer's role may not look.
            kept = [
                _last_of(reply, book) or await self._kept(*one)
                for one, reply in zip(asked, replies, strict=True)
            ]
            inputs = _range(seen.inputs, doubtful.inputs, *kept[:2])
            decided = _range(seen.decided, doubtful.decided, *kept[2:])
            if inputs[0] == inputs[1] and decided[0] == decided[1]:
                found = []
            else:
                found = [LostTail(book, *inputs, *decided, *cause_of(before, now))]
                await self._report(found[0], keep=_later(*decided) != GENESIS)
                if decided[0] != decided[1]:
                    self._forgotten[book] = found[0]
        except LogError:
            self._doubtful.setdefault(book, _Seen()).add(doubtful.inputs, doubtful.decided)
            raise
        seen.inputs, seen.decided = _later(*kept[:2]), _later(*kept[2:])
        return found

    def refuse_lost(self, books: Iterable[str]) -> None:
        """Tell a reader of *books* that what it was told was decided is not; each loss once.

        Where the inputs themselves are still there, nothing else would tell it: it would wait for the
        next one, and leave those undecided that have lost their decisions.

        Raises:
          TailLostError: So it is, of one of them.
        """
        lost = [self._forgotten.pop(book) for book in books if book in self._forgotten]
        if lost:
            raise forgotten(lost[0].book, lost[0].decided_kept, lost[0].decided_lost_to)

    async def _kept(self, key: str, seen: str) -> str:
        """What a stream kept that has no entry up to *seen*: none of it, or all, if it was trimmed."""
        if seen == GENESIS:
            return seen
        (info,) = await self._server.run([("XINFO", "STREAM", key)], again=True)
        facts = stream_facts(info)
        later = facts.first_id and parse_id(facts.first_id) > parse_id(seen)
        return seen if later and facts.added > facts.length else GENESIS

    async def _report(self, lost: LostTail, *, keep: bool) -> None:
        """Say it; *keep* it with the book too, where we decide for it and do not just look on."""
        told = msgspec.structs.asdict(lost)
        _log.error("tail_lost", **told)
        if not keep:
            return
        fields = [str(part) for pair in told.items() for part in pair]
        key = book_keys(lost.book).losses
        (reply,) = await self._server.run([("XADD", key, "MAXLEN", LOSSES_MAX, "*", *fields)])
        if isinstance(reply, hiredis.ReplyError):
            error = error_of(reply, f"reporting what {lost.book} has lost")
            if isinstance(error, LogUnavailableError):
                raise error


async def read_losses(server: Server, book: str) -> list[LostTail]:
    """The reports of what *book* has lost, oldest first.

    Raises:
      ForeignDataError: Somebody else wrote one.
    """
    (entries,) = await server.check(
        [("XRANGE", book_keys(book).losses, "-", "+")], f"reading the losses of {book}", again=True
    )
    found: list[LostTail] = []
    for _, fields in entries:
        texts = [field.decode("utf-8", "replace") for field in fields]
        values = dict(zip(texts[::2], texts[1::2], strict=True))
        try:
            found.append(msgspec.convert(values, LostTail, strict=False))
        except msgspec.ValidationError:
            raise ForeignDataError(
                f"the losses of {book} have an entry that we did not write: find out who did"
            ) from None
    return found


def _is_denied(reply: Reply) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOPERM")


def _range(seen: str, doubtful: str, kept: str, kept_doubtful: str) -> tuple[str, str]:
    """Of two ids that were seen, what is kept up to there and what is lost up to where."""
    lost = [id_ for id_, there in ((seen, kept), (doubtful, kept_doubtful)) if id_ != there]
    if not lost:
        return _later(seen, doubtful), _later(seen, doubtful)
    return (kept if kept != seen else kept_doubtful), max(lost, key=parse_id)


def _last_of(reply: Reply, book: str) -> str:
    """The id of the one entry in a reply, "" where there is none.

    Raises:
      LogError: The server sent an error.
    """
    if isinstance(reply, hiredis.ReplyError):
        error = error_of(reply, f"looking at {book}")
        if isinstance(error, ForeignDataError):
            return ""  # Whoever reads or commits says what is wrong.
        raise error
    return str(reply[0][0], "ascii") if reply else ""


def _later(one: str, other: str) -> str:
    return one if parse_id(one) >= parse_id(other) else other
