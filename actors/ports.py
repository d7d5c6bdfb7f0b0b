"""What the actors need from outside, as protocols. ``holdfast.bootstrap`` chooses who provides it.

The log's port speaks of books, entries and commits; how they lie in Redis is ``transport``'s
business. Message bodies cross it as JSON bytes: only ``holdfast.actors.booking.messages`` knows
what is in them, and only the commit knows what is written together.

Entry ids are strings ``<milliseconds>-<sequence>``; ``"0-0"`` is before the first. Times that end in
``_s`` are seconds. Every method may raise :class:`LogUnavailableError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha1
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ActionStream = Literal["payments", "notifications"]
"""A stream of actions; its consumer group has the same name."""

StreamName = Literal["inputs", "outcomes", "payments", "notifications", "deadletters"]

GENESIS = "0-0"
"""The position before the first input."""

BATCH_MAX = 512
"""Most inputs of one book in one commit."""

BODY_BYTES_MAX = 65_536
"""Longest body of an entry; a longer one is a dead letter and is not decoded."""


class LogError(Exception):
    """The log cannot do what was asked. The message says what to do next."""


class LogUnavailableError(LogError):
    """The server is away, loading, full, read-only or does not let us in: nothing was written; try
    again later.
    """


class SupersededError(LogError):
    """Another booking actor took the book over: drop its state and stand by."""


class CommitUnknownError(LogError):
    """The connection was lost during a commit: read the commit record to learn what became of it."""


class ForeignDataError(LogError):
    """Somebody else wrote to our keys, or a key has the wrong type: stop, a person must look."""


class LogTrimmedError(LogError):
    """Inputs after the wanted position were trimmed away: replaying from there would lie."""


class TailLostError(LogTrimmedError):
    """The log ends before what we know of it: a failover or a restart forgot what we have seen.
    Drop all that was built upon it and begin anew from the log as it is.
    """


class NewInput(msgspec.Struct, frozen=True, gc=False):
    """An input about to be appended.

    Attributes:
      type: The message's type, such as ``request_slot``.
      body: A JSON object.
      key: Idempotency key; required for commands, empty otherwise.
      by: Principal, such as ``customer:K1``, ``staff:S1``, ``service:web``.
      trace: W3C traceparent, or empty.
    """

    type: str
    body: bytes
    key: str = ""
    by: str = ""
    trace: str = ""


class InputEntry(msgspec.Struct, frozen=True, gc=False):
    """An input as it lies in the log.

    Attributes:
      problem: Empty, or why the entry's fields cannot be read (missing, twice, not UTF-8, too
        large): then ``body`` is empty, and the entry becomes a dead letter.
      raw: The entry's fields as they lie in the log, name and value in turn; filled only where there
        is a problem.
    """

    id: str
    type: str
    body: bytes
    key: str = ""
    by: str = ""
    trace: str = ""
    problem: str = ""
    raw: tuple[bytes, ...] = ()

    @property
    def ms(self) -> int:
        """The entry's time, milliseconds since the epoch, UTC."""
        return int(self.id.partition("-")[0])

    @property
    def fingerprint(self) -> str:
        """Tells it from another entry under the same id; "" where the entry cannot be read."""
        if self.problem:
            return ""
        words = "\0".join((self.type, self.key, self.by, self.trace, "")).encode()
        return sha1(words + self.body, usedforsecurity=False).hexdigest()


class OutcomeEntry(msgspec.Struct, frozen=True, gc=False):
    """What became of one input; lies in ``outcomes`` under the input's own id.

    Attributes:
      status: ``accepted``, ``refused``, or ``invalid``: the entry could not be understood.
      body: JSON: the events, or the refusal.
      timers: JSON array of the events of timers that were due before this input, or empty.
      replayed: ``body`` is the answer to an earlier input with the same idempotency key.
    """

    id: str
    status: str
    body: bytes
    timers: bytes = b""
    replayed: bool = False


class ActionEntry(msgspec.Struct, frozen=True, gc=False):
    """An action as it lies in its stream.

    Attributes:
      id: The entry's id there, derived from the input's id and the action's number.
      action: The action's own id, ``<input id>:<n>``. After a takeover both differ.
      type: Such as ``preauthorize``.
      body: JSON object of the action.
      trace: The input's traceparent, or empty.
      deliveries: How often it was handed to a consumer, from 1; 0 where that is not known.
    """

    id: str
    action: str
    type: str
    body: bytes
    trace: str = ""
    deliveries: int = 0


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """An entry that could not be decoded or carried out, kept for a person.

    Attributes:
      stream: Where it came from.
      id: Its id there.
      why: One sentence.
      fields: Its fields, name and value in turn, as they were.
    """

    stream: StreamName
    id: str
    why: str
    fields: tuple[bytes, ...]


class CommitRecord(msgspec.Struct, frozen=True, gc=False):
    """How far a book is decided, and who may go on.

    Attributes:
      position: Id of the last input decided.
      epoch: Fencing token; grows by one each takeover.
      owner: The random token of the booking actor that holds this epoch.
      version: The machine's version that decided up to here; 0 where nothing was decided.
      digest: The hash chain's link at ``position``, hexadecimal; empty before the first input.
      snapshot: Position of the newest snapshot, or "" where there is none.
    """

    position: str = GENESIS
    epoch: int = 0
    owner: str = ""
    version: int = 0
    digest: str = ""
    snapshot: str = ""


class Commit(msgspec.Struct, frozen=True, gc=False):
    """What one batch writes, all of it or nothing.

    Attributes:
      book: Whose.
      epoch: The writer's; must be the record's.
      owner: The writer's token; must be the record's.
      after: The record's position must still be this one.
      position: The new one: id of the batch's last input.
      version: The machine's.
      digest: The hash chain's link at ``position``, hexadecimal.
      outcomes: One for each input of the batch, ascending.
      payments: Actions for the payment actor, ascending by stream id.
      notifications: Actions for the notification actor, ascending by stream id.
      dead_letters: Inputs that could not be decoded.
      decided: Fingerprint of the input at ``position``, "" where nothing is known of it. After a failover
        another one may lie there: two servers that both take inputs may give out the same id.
    """

    book: str
    epoch: int
    owner: str
    after: str
    position: str
    version: int
    digest: str
    outcomes: list[OutcomeEntry]
    payments: list[ActionEntry]
    notifications: list[ActionEntry]
    dead_letters: list[DeadLetter]
    decided: str = ""


class Snapshot(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A book at a position. Equal snapshots have equal states, in whatever pieces.

    Attributes:
      position: Id of the last input decided.
      version: The machine's.
      digest: The hash chain's link at ``position``, hexadecimal.
      content: The state, whole or in pieces, which may be made only when they are asked for.
    """

    position: str
    version: int
    digest: str
    content: bytes | Iterable[bytes]

    @property
    def state(self) -> bytes:
        """What the machine's ``encode`` gave; of a large book it takes a while to put together."""
        return self.content if isinstance(self.content, bytes) else b"".join(self.content)

    @property
    def pieces(self) -> Iterable[bytes]:
        """The state, piece by piece."""
        return (self.content,) if isinstance(self.content, bytes) else self.content

    def whole(self) -> Snapshot:
        """The same snapshot with its state in one piece."""
        return Snapshot(self.position, self.version, self.digest, self.state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        mine = (self.position, self.version, self.digest)
        return mine == (other.position, other.version, other.digest) and self.state == other.state

    def __ne__(self, other: object) -> bool:  # a struct has one of its own, which compares fields
        return not self == other


class StreamFacts(msgspec.Struct, frozen=True, gc=False):
    """A stream's length and ids, and for a stream of actions its group's progress.

    Attributes:
      length: Entries it holds.
      last_id: The last one ever added, ``0-0`` where there was none.
      first_id: The oldest it holds, "" where it is empty.
      added: Entries ever added.
      pending: Entries delivered to a consumer and not yet acknowledged.
      lag: Entries not yet delivered to the group.
    """

    length: int = 0
    last_id: str = GENESIS
    first_id: str = ""
    added: int = 0
    pending: int = 0
    lag: int = 0


class Log(Protocol):
    """The log of many books on one server."""

    # -- producers ---------------------------------------------------------

    async def append(self, book: str, inputs: Sequence[NewInput]) -> list[str]:
        """Append *inputs* in their order; return their ids. The first to a book registers it.

        Raises:
          LogUnavailableError: Where the connection was lost the inputs may be there or not: append
            again with the same idempotency keys.
        """
        ...

    # -- whoever follows ---------------------------------------------------

    async def wait_books(self, known: int, wait_s: float) -> list[str]:
        """All registered books in the order of registration, once there are more than *known*, or
        after *wait_s*.
        """
        ...

    async def read_inputs(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[InputEntry]]:
        """Inputs after each book's position; waits up to *wait_s* until any book has one.

        Args:
          after: Position by book. A book whose stream does not exist yet has no entries.
          count: Most entries for each book.
          wait_s: 0 answers at once.

        Returns:
          Only books that have entries, each list ascending and not empty.
        """
        ...

    async def read_outcomes(
        self, after: Mapping[str, str], count: int, wait_s: float
    ) -> dict[str, list[OutcomeEntry]]:
        """The same for outcomes."""
        ...

    async def read_record(self, book: str) -> CommitRecord:
        """The commit record; the default one where nothing was ever committed."""
        ...

    async def read_records(self, books: Sequence[str]) -> list[CommitRecord]:
        """The same for many books, in their order."""
        ...

    async def read_snapshot(self, book: str) -> Snapshot | None:
        """The newest snapshot that can be read, or None."""
        ...

    async def facts(self, book: str, stream: StreamName) -> StreamFacts:
        """Length, ids and lag of one stream; zeros where it does not exist."""
        ...

    # -- the booking actor -------------------------------------------------

    async def hold_lease(self, owner: str, place: str, lease_s: float) -> None:
        """Say that *owner* lives: for *lease_s* from now, unless it says so again.

        A lease tells who should lead, and nothing depends on it but how soon somebody leads.

        Args:
          owner: The token of a booking actor's life.
          place: Where it lives, such as a supervisor's name for it; "" where nobody gave it one.
          lease_s: Seconds.
        """
        ...

    async def drop_lease(self, owner: str) -> None:
        """Say that *owner* leads no more."""
        ...

    async def read_leases(self, owners: Sequence[str]) -> dict[str, str]:
        """Those of *owners* whose lease has not lapsed, with their places."""
        ...

    async def take_over(self, book: str, owner: str, seen: int | None = None) -> CommitRecord:
        """Raise the epoch, make *owner* its holder, append the input ``taken_over``, and make sure
        that both groups exist; return the record as it is now. One atomic step.

        The input's type is ``taken_over``, its ``by`` ``service:booking``, its body
        ``{"epoch":…,"owner":…,"position":…}``, the position being the record's.

        Args:
          book: Which.
          owner: The token of who takes it.
          seen: The epoch that the book must still have; None for any. Where *owner* has the next one,
            by a call whose answer was lost, nothing happens and the record is returned.

        Raises:
          SupersededError: Somebody else took the book over since its epoch was *seen*.
          ForeignDataError: A key of the book has the wrong type.
        """
        ...

    async def commit(self, commits: Sequence[Commit]) -> list[LogError | None]:
        """Write each of *commits*, of different books, each atomically, in one round trip.

        Returns:
          Shape: one for each commit, in order: None where it is written (or was already:
          an unknown result has been resolved by reading the record), else a
          :class:`SupersededError`, :class:`TailLostError` or :class:`ForeignDataError`: nothing of
          it was written.

        Raises:
          CommitUnknownError: The server went away and what became of the commits cannot be read
            yet. Call :meth:`resolve` until it answers.
          LogUnavailableError: None was written.
        """
        ...

    async def resolve(self, commits: Sequence[Commit]) -> list[LogError | bool]:
        """What became of *commits* after a :class:`CommitUnknownError`, from the commit records.

        Returns:
          Shape: one for each: True if it is written, False if it is not and may be written now, or
          a :class:`SupersededError` or :class:`TailLostError`.
        """
        ...

    async def save_snapshot(self, book: str, snapshot: Snapshot, epoch: int, owner: str) -> None:
        """Write a snapshot, note it in the record, and drop all but the last two.

        Raises:
          SupersededError: The epoch is no longer this writer's.
          TailLostError: The record is behind it, though what it is of was written.
        """
        ...

    async def trim(self, book: str) -> dict[StreamName, int]:
        """Trim what nobody needs any more: by ``MINID``, never past the older kept snapshot, nor
        past what a group has not acknowledged. Return the entries removed by stream.
        """
        ...

    # -- executors ---------------------------------------------------------

    async def read_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, wait_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """Actions not yet handed to any consumer, now pending for *consumer*: (book, entry)."""
        ...

    async def claim_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, idle_s: float
    ) -> list[tuple[str, ActionEntry]]:
        """Take over actions that were handed out *idle_s* ago or longer and not acknowledged."""
        ...

    async def keep_claim(
        self, stream: ActionStream, book: str, consumer: str, ids: Sequence[str]
    ) -> None:
        """Show that *consumer* still works on entries *ids*: their idle time starts anew."""
        ...

    async def finish_actions(
        self,
        stream: ActionStream,
        book: str,
        finished: Sequence[tuple[str, NewInput | None]],
        dead_letters: Sequence[DeadLetter] = (),
    ) -> None:
        """Append each result to the book's inputs and acknowledge its entry, in one transaction.

        Args:
          finished: (entry id, its result); None acknowledges without a result.
          dead_letters: Copies of entries that could not be carried out.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class Clock(Protocol):
    """The only source of time outside the log; used for waiting, never for deciding."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...


class ProviderUnavailableError(Exception):
    """The provider did not answer or says to come back later; what was asked may have happened."""


class ProviderAnswer(msgspec.Struct, frozen=True, gc=False):
    """What a payment provider says of one payment.

    Attributes:
      status: The payment's status as the provider knows it after the call: ``authorized``,
        ``captured``, ``voided``, ``refunded``, ``declined``, ``pending`` (ask again) or ``none``
        (never heard of it).
      reference: The provider's own id of the payment, or "".
      reason: For ``declined``: the provider's reason code.
      amount_cents: Of the preauthorization; 0 where the provider does not tell.
    """

    status: str
    reference: str = ""
    reason: str = ""
    amount_cents: int = 0


class Provider(Protocol):
    """A payment provider. *payment* is our id of the payment, unique for ever, which the provider
    keeps as its reference; *key* is the call's idempotency key: the same key has one effect however
    often it is sent. Every method may raise :class:`ProviderUnavailableError`.
    """

    async def preauthorize(
        self, payment: str, amount_cents: int, currency: str, customer: str, key: str
    ) -> ProviderAnswer:
        """Put *amount_cents* on hold."""
        ...

    async def capture(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        """Take money that is on hold."""
        ...

    async def void(self, payment: str, key: str) -> ProviderAnswer:
        """Release money that is on hold."""
        ...

    async def refund(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        """Give back money that was taken."""
        ...

    async def status(self, payment: str) -> ProviderAnswer:
        """What the provider knows of *payment*; has no effect."""
        ...

    async def ledger(self, prefix: str = "") -> dict[str, ProviderAnswer]:
        """Every payment whose id begins with *prefix*, by id."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message to a person.

    Attributes:
      key: Dedupe key: the same key is delivered at most once, as far as the medium allows.
      recipient: E-mail address or customer id.
      subject: One line.
      text: Plain text.
      time_ms: When what it tells was decided, milliseconds since the epoch, UTC; 0 if not known.
    """

    key: str
    book: str
    recipient: str
    subject: str
    text: str
    time_ms: int = 0


class Mailer(Protocol):
    """Delivers messages."""

    async def deliver(self, message: Message) -> bool:
        """Deliver; True if it went out now, False if it had before.

        Raises:
          OSError: It could not be delivered now.
        """
        ...
