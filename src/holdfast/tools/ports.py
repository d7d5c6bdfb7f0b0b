"""What operators' tools need beside the log's port, as protocols.

On a real server ``transport.operator`` gives it, in memory ``transport.memory_operator``; so the tools
run in the simulated world as they are. Files are ``pathlib.Path`` outside of it.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from holdfast.actors.ports import ActionStream, Snapshot, StreamName
    from holdfast.transport.operator import Pending, RawEntry, Restored
    from holdfast.transport.tails import LostTail


class File(Protocol):
    """The name of a file and what lies under it: a part of ``pathlib.Path``."""

    @property
    def name(self) -> str:
        """The last part of it."""
        ...

    def exists(self) -> bool:
        """Whether there is such a file."""
        ...

    def open(self, mode: Literal["rb", "wb"]) -> IO[bytes]:
        """Open it. Raises OSError."""
        ...

    def with_name(self, name: str, /) -> Self:
        """Another file in the same folder."""
        ...

    def rename(self, target: Self, /) -> Self:
        """Give it another name."""
        ...

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove it."""
        ...


class Operator(Protocol):
    """What an operator may do to the books on one server.

    Every method may raise ``LogUnavailableError``; what was to be changed may be so all the same.
    """

    # -- looking -----------------------------------------------------------

    async def read(
        self, book: str, stream: StreamName, after: str, count: int, wait_s: float = 0.0
    ) -> list[RawEntry]:
        """Up to *count* entries after the id *after*, waiting up to *wait_s* for the first."""
        ...

    async def read_one(self, book: str, stream: StreamName, entry_id: str) -> RawEntry | None:
        """The entry *entry_id*, or None."""
        ...

    async def pending(self, book: str, stream: ActionStream) -> Pending:
        """What the group of *stream* has not carried out."""
        ...

    async def now_ms(self) -> int:
        """The server's clock, milliseconds since the epoch: the one that ids come from."""
        ...

    async def lease_left_s(self, owner: str) -> float | None:
        """How long the lease of the booking actor *owner* still lasts; 0.0 where it has none.

        Infinite where somebody wrote one that never lapses; None where our user may not ask.
        """
        ...

    async def history(self) -> str:
        """The name of the history that the server goes on with; "" where our user may not ask.

        It is another one after each failover and each restart.
        """
        ...

    async def lost_tails(self, book: str) -> list[LostTail]:
        """What *book*'s log was seen to have lost, in failovers and restarts, oldest first."""
        ...

    async def oldest_snapshot(self, book: str) -> Snapshot | None:
        """The older of the two kept snapshots, or None where there is none that can be read."""
        ...

    async def least_needed(self, book: str) -> str:
        """The first input that must be kept: trimming goes no further; "" where all must be."""
        ...

    async def trim(self, book: str, keep: str, history: str = "") -> dict[StreamName, int]:
        """``Log.trim``, but keep the input *keep* and all after it, whatever may be trimmed by then.

        Raises:
          LogError: The server goes on with another history than *history*; "" for any. Nothing is
            trimmed.
        """
        ...

    # -- restoring a log ---------------------------------------------------

    async def prepare(self, book: str) -> None:
        """Begin to restore *book*: forget what an earlier attempt has left.

        Raises:
          LogError: There is such a book.
        """
        ...

    async def write(
        self, book: str, stream: StreamName, entries: Sequence[tuple[str, Sequence[str | bytes]]]
    ) -> None:
        """Prepare entries of ``inputs`` or ``outcomes``: ids, and names and values in turn.

        Raises:
          LogError: An id does not follow the one before: somebody else restores the same book.
        """
        ...

    async def finish(self, book: str, restored: Restored) -> None:
        """Put what was prepared into place as *book*, and make it known. One atomic step each.

        Raises:
          LogError: There is such a book by now, or somebody else wrote to what was prepared.
        """
        ...

    async def abandon(self, book: str) -> None:
        """Forget what was prepared."""
        ...

    # -- dead letters ------------------------------------------------------

    async def retry_input(self, book: str, letter: str, fields: Mapping[str, bytes]) -> str:
        """Append an input with *fields* and remove the dead letter; return the input's id.

        Raises:
          LogError: The letter is no longer there.
        """
        ...

    async def retry_action(
        self, book: str, letter: str, stream: ActionStream, entry_id: str
    ) -> str:
        """Hand an action to its group anew and remove the dead letter; return the entry's id.

        Raises:
          LogError: The letter is no longer there, or the action was trimmed away.
        """
        ...

    async def drop_letters(self, book: str, letters: Sequence[str]) -> int:
        """Remove dead letters for good; how many there were."""
        ...
