"""Connections to one server: pooled, bounded, reopened with backoff; scripts by their names.

Commands that block on the server and those that do not have pools of their own, so a waiting read
never delays a commit. Every concurrent call has a connection to itself.

When the server is away each attempt to connect waits for its turn: the pause doubles from
``backoff_least_s`` to ``backoff_most_s``, less a random part, so that actors which simply try again
do not storm a server that comes back.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import hiredis
import msgspec

from holdfast.actors.ports import LogUnavailableError
from holdfast.transport.connection import (
    Address,
    Command,
    Connection,
    ConnectionLostError,
    Reply,
    connect,
    error_of,
)
from holdfast.transport.durability import Disk
from holdfast.transport.scripts import Script

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Sequence


class ServerOptions(msgspec.Struct, frozen=True):
    """Limits of the connections to one server.

    Attributes:
      connections_max: Open connections for commands that answer at once.
      blocking_max: Open connections for reads that wait.
      connect_s: Longest wait for a connection.
      reply_s: Longest wait for replies, beyond the time that a read is meant to wait.
      resolve_s: How long a commit with an unknown result tries to read the record.
      backoff_least_s: First pause between attempts to connect.
      backoff_most_s: Longest pause.
      disk: How soon the server must have on disk what it answers; None: not looked at.
      replicas_min: How many replicas must have a commit, or an action, before it is acted upon.
      replicas_s: How long one attempt waits for them.
      ahead_max_s: How far an input may be ahead of the server's clock before reading it fails. Only
        who decides inputs needs a limit: whoever just looks at a log must be able to see it.
    """

    connections_max: int = 16
    blocking_max: int = 64
    connect_s: float = 5.0
    reply_s: float = 30.0
    resolve_s: float = 10.0
    backoff_least_s: float = 0.02
    backoff_most_s: float = 2.0
    disk: Disk | None = None
    replicas_min: int = 0
    replicas_s: float = 1.0
    ahead_max_s: float = math.inf


class ScriptCall(msgspec.Struct, frozen=True, gc=False):
    """A script with its keys and arguments."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[str | bytes | int, ...]

    def command(self) -> Command:
        """As a command, by the script's name."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)


class _Pool:
    """Idle connections and how many may be open."""

    def __init__(self, limit: int) -> None:
        self.limiter = anyio.Semaphore(limit, fast_acquire=True)
        self.idle: list[Connection] = []

    def take(self) -> Connection | None:
        """The idle connection used last, or None."""
        return self.idle.pop() if self.idle else None


class Server:
    """The connections of one log to one server."""

    def __init__(self, address: Address, options: ServerOptions, rng: random.Random) -> None:
        self._address = address
        self.options = options
        self._random = rng
        self._direct = _Pool(options.connections_max)
        self._blocking = _Pool(options.blocking_max)
        self._failures = 0
        self._not_before = -math.inf
        self._closed = False
        self.losses = 0
        """How many connections were lost: whoever caches what the server said compares it."""

    async def run(
        self,
        commands: Sequence[Command],
        *,
        blocking_s: float | None = None,
        again: bool = False,
    ) -> list[Reply]:
        """The replies to *commands*, in one round trip.

        Args:
          commands: Names and arguments.
          blocking_s: How long the server may wait before it answers; None where it does not.
          again: Whether to try once more on a new connection where one is lost.

        Raises:
          ConnectionLostError: The connection broke, or there is none to be had.
        """
        pool = self._direct if blocking_s is None else self._blocking
        timeout_s = self.options.reply_s + (blocking_s or 0.0)
        async with self._connection(pool) as connection:
            try:
                return await connection.pipeline(commands, timeout_s=timeout_s)
            except ConnectionLostError:
                self.losses += 1
                if not again:
                    raise
        async with self._connection(pool) as connection:
            return await connection.pipeline(commands, timeout_s=timeout_s)

    async def check(
        self,
        commands: Sequence[Command],
        doing: str,
        *,
        blocking_s: float | None = None,
        again: bool = False,
    ) -> list[Reply]:
        """Like :meth:`run`; the first error reply is raised as what it means.

        Raises:
          LogError: See :func:`~holdfast.transport.connection.error_of`.
        """
        replies = await self.run(commands, blocking_s=blocking_s, again=again)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise error_of(reply, doing)
        return replies

    async def wrong_type(self, keys: Sequence[str | bytes]) -> str:
        """Names the keys of *keys* that are no streams: the server does not say which it met."""
        replies = await self.run([("TYPE", key) for key in keys], again=True)
        named = [
            key if isinstance(key, str) else key.decode()
            for key, reply in zip(keys, replies, strict=True)
            if reply not in (b"stream", b"none")
        ]
        return ", ".join(named) or "a key"

    async def call_scripts(
        self, calls: Sequence[ScriptCall], *, then: Sequence[Command] = (), again: bool = False
    ) -> list[Reply]:
        """The replies to *calls*; scripts the server does not know are loaded and run then.

        Args:
          calls: The scripts.
          then: Commands to send behind them on the same connection; their replies come last.
          again: See :meth:`run`.
        """
        replies = await self.run([*[call.command() for call in calls], *then], again=again)
        missing = [
            index
            for index, reply in enumerate(replies[: len(calls)])
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")
        ]
        if missing:
            sources = {calls[index].script.source: None for index in missing}
            commands: list[Command] = [("SCRIPT", "LOAD", source) for source in sources]
            commands += [calls[index].command() for index in missing]
            commands += then
            try:
                late = await self.run(commands, again=again)
            except ConnectionLostError as lost:
                sent = lost.sent or len(missing) < len(calls)
                raise ConnectionLostError(str(lost), sent=sent) from lost
            where = [*missing, *range(len(calls), len(replies))]
            for index, reply in zip(where, late[len(sources) :], strict=True):
                replies[index] = reply
        return replies

    @asynccontextmanager
    async def _connection(self, pool: _Pool) -> AsyncGenerator[Connection]:
        """A connection to use alone; it goes back to the pool if it is still good."""
        async with pool.limiter:
            connection = pool.take()
            while connection is not None and connection.stale:
                await connection.aclose()
                self.losses += 1
                connection = pool.take()
            if connection is None:
                connection = await self._connect()
            try:
                yield connection
            finally:
                if self._closed and not connection.closed:
                    await connection.aclose()
                if not connection.closed:
                    pool.idle.append(connection)

    async def _connect(self) -> Connection:
        if self._closed:
            raise ConnectionLostError("this log is closed: open another", sent=False)
        await anyio.sleep_until(self._not_before)
        options = self.options
        try:
            connection = await connect(self._address, timeout_s=options.connect_s)
        except LogUnavailableError:
            most = min(
                options.backoff_most_s, options.backoff_least_s * 2 ** min(self._failures, 30)
            )
            self._failures += 1
            self._not_before = anyio.current_time() + most * (0.5 + self._random.random() / 2)
            raise
        self._failures = 0
        self._not_before = -math.inf
        return connection

    async def aclose(self) -> None:
        """Close all connections; those in use, when they come back."""
        self._closed = True
        for pool in (self._direct, self._blocking):
            while (connection := pool.take()) is not None:
                await connection.aclose()
