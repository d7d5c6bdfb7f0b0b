"""What a server must be for each level of durability, and waiting until replicas have a write.

- ``relaxed``: an append-only file, written to disk about once a second.
- ``durable``: every write is on disk before it is answered (``appendfsync always``).
- ``replicated``: the same, and K replicas have it too before it is called written.

The server's own configuration is looked at when an actor starts: a promise that the server does not
keep is refused with the sentence that mends it.

``WAIT`` counts the replicas that have the last *write of the same connection*. Behind a read it says
nothing: tried on Valkey 9, it answered at once, with all replicas, behind an ``XREAD``, behind an
``XREADGROUP`` that had been blocked, and on a new connection. So it is only ever sent in one
pipeline behind a write of ours. ``WAITAOF`` is not used: under ``everysec`` it answers before any
sync.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio
import hiredis

from holdfast.actors.ports import CommitUnknownError, LogError, LogUnavailableError
from holdfast.transport.connection import error_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from holdfast.transport.connection import Command, Reply
    from holdfast.transport.pool import Server

Disk: TypeAlias = Literal["relaxed", "durable"]

_SYNCS = {"relaxed": ("everysec", "always"), "durable": ("always",)}


class DurabilityError(LogError):
    """The server does not promise what the settings promise. The message says how to mend it."""


async def check_disk(server: Server, info: Mapping[str, str], disk: Disk) -> None:
    """Make sure that what *server* answers is on disk, as *disk* says.

    Args:
      server: Which.
      info: Its INFO.
      disk: How soon.

    Raises:
      DurabilityError: It is not.
    """
    lower = "" if disk == "relaxed" else ", or set durability to 'relaxed'"
    if info.get("aof_enabled") != "1":
        raise DurabilityError(
            f"a {disk} service needs the server's append-only file, which is off: set 'appendonly "
            "yes' in its configuration and with CONFIG SET"
        )
    reply = (await server.run([("CONFIG", "GET", "*appendfsync*")], again=True))[0]
    if isinstance(reply, hiredis.ReplyError):
        if disk == "relaxed":
            return  # The file is there, and a server that hides its settings may keep them.
        raise DurabilityError(
            "a durable service must see that the server syncs every write, and may not look "
            f"({str(reply)[:80]}): allow our user +config|get{lower}"
        )
    names = [bytes(part).decode() for part in reply]
    found = dict(zip(names[::2], names[1::2], strict=True))
    sync = found.get("appendfsync", "unknown")
    if sync not in _SYNCS[disk]:
        raise DurabilityError(
            f"a {disk} service needs 'appendfsync {_SYNCS[disk][0]}' and the server has '{sync}': set "
            f"it in the server's configuration and with CONFIG SET{lower}"
        )
    if disk == "durable" and found.get("no-appendfsync-on-rewrite") == "yes":
        raise DurabilityError(
            "a durable service needs every write synced, and the server leaves that out while it "
            f"rewrites its file: set 'no-appendfsync-on-rewrite no'{lower}"
        )


def check_replicas(info: Mapping[str, str], replicas_min: int) -> None:
    """Make sure that so many replicas are connected and in step.

    Raises:
      DurabilityError: There are fewer.
    """
    replicas = [value for name, value in info.items() if _is_replica(name)]
    online = sum("state=online" in value for value in replicas)
    if online < replicas_min:
        raise DurabilityError(
            f"a replicated service needs {_replicas(replicas_min)} and the server has {online} "
            "connected: attach more with REPLICAOF, or lower 'replicas'"
        )


def _is_replica(name: str) -> bool:
    return name.startswith("slave") and name[5:].isdigit()


def _replicas(count: int) -> str:
    return f"{count} replica" if count == 1 else f"{count} replicas"


class Copies:
    """Waits until enough replicas have what was just written.

    Args:
      replicas_min: How many; 0 for none, and then nothing is waited for.
      wait_s: How long one attempt waits.
    """

    def __init__(self, replicas_min: int, wait_s: float) -> None:
        self.wanted = replicas_min
        self.wait_s = wait_s

    def commands(self) -> tuple[Command, ...]:
        """What to send behind the writes, in the same pipeline."""
        return (("WAIT", self.wanted, max(1, int(self.wait_s * 1000))),) if self.wanted else ()

    def check(self, reply: Reply) -> None:
        """Make sure that *reply*, to the command above, says that enough have it.

        Raises:
          LogUnavailableError: It does not: what was written is on the primary, and may be forgotten.
        """
        if isinstance(reply, hiredis.ReplyError):
            error = error_of(reply, "waiting for replicas")
            raise (
                error if isinstance(error, LogUnavailableError) else LogUnavailableError(str(error))
            )
        if reply < self.wanted:
            raise LogUnavailableError(
                f"it is written, but {reply} of {_replicas(self.wanted)} had it within "
                f"{self.wait_s:g} s, so it is not called written: bring replicas back"
            )

    def check_commits(self, reply: Reply, *, before: bool) -> None:
        """Make sure that *reply* speaks of all commits that were answered as written.

        Args:
          reply: To the command above.
          before: Whether one of them was written *before*, maybe on another connection.

        Raises:
          CommitUnknownError: Too few have them, or it says nothing of that one.
        """
        try:
            self.check(reply)
        except LogUnavailableError as error:
            raise CommitUnknownError(str(error)) from None
        if before:
            raise CommitUnknownError("it was written before: see whether replicas have it")

    async def until_copied(
        self, write: Callable[[], Awaitable[Reply | None]], give_up_s: float
    ) -> bool:
        """Write, and wait for copies, again and again until there are enough.

        Args:
          write: Writes something with the command above behind it, and gives the reply to that; None
            where there was nothing to write.
          give_up_s: How long it is tried again.

        Returns:
          Whether all that was there before is copied; False where there was nothing to write.

        Raises:
          LogUnavailableError: Too few have it after that time.
        """
        deadline = anyio.current_time() + give_up_s
        while True:
            reply = await write()
            if reply is None:
                return False
            try:
                self.check(reply)
            except LogUnavailableError:
                if anyio.current_time() >= deadline:
                    raise
            else:
                return True
