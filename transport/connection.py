"""One connection to a Redis or Valkey server, for the hot path: pipelines, and nothing else.

hiredis packs commands and parses replies; anyio carries the bytes, so the same code serves trio (the
actors) and asyncio (the HTTP door). A connection runs one pipeline at a time. If a pipeline is
cancelled, times out or fails, the connection is closed for good: the next reply on it would be the
answer to another question.

Passwords never appear in messages: what is shown of a URL is its address alone.
"""

from __future__ import annotations

import math
import select
import ssl
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from urllib.parse import parse_qs, unquote, urlsplit

import anyio
import hiredis
import msgspec
from anyio.abc import SocketAttribute

from holdfast.actors.ports import ForeignDataError, LogError, LogUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyio.abc import SocketStream, UNIXSocketStream
    from anyio.streams.tls import TLSStream

Command: TypeAlias = "tuple[str | bytes | int, ...]"
Reply: TypeAlias = Any
"""int, bytes, None, a list of replies, or ``hiredis.ReplyError`` as a value."""

RECEIVE_BYTES = 131_072

_pack = cast("Callable[[Command], bytes]", cast("Any", hiredis).pack_command)
"""A command as the protocol wants it; hiredis does not say what it returns."""


class ConnectionLostError(LogUnavailableError):
    """The connection broke.

    Attributes:
      sent: False where the server cannot have seen any of the commands.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Address(msgspec.Struct, frozen=True):
    """Where a server is and as whom to enter.

    Attributes:
      tls: Whether to speak TLS, and to accept only who can show that it is *host*.
      ca: A file of the authorities that are believed; "" for the system's.
      certificate: A file with a certificate of our own, where the server asks for one.
      key: A file with its key; "" where that is in the same file.
    """

    host: str = ""
    port: int = 6379
    path: str = ""
    user: str = ""
    password: str = ""
    database: int = 0
    tls: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def __str__(self) -> str:
        """The address without user or password."""
        return self.path or f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r}, database={self.database})"


_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def parse_url(url: str) -> Address:
    """The address in ``redis://[user[:password]@]host[:port][/db]`` or ``unix:///path[?db=n]``.

    ``rediss://`` speaks TLS. It takes the files of :class:`Address` as ``ssl_ca_certs``,
    ``ssl_certfile`` and ``ssl_keyfile`` behind a question mark, as redis-py names them.

    Raises:
      ValueError: It is neither.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.scheme == "unix" and parts.path and query.keys() <= {"db"}:
            database = int(query.get("db", "0"))
            return Address(
                path=unquote(parts.path), user=user, password=password, database=database
            )
        if parts.scheme == "redis" and parts.hostname and query.keys() <= {"db"}:
            database = int(parts.path.strip("/") or query.get("db", "0"))
            return Address(parts.hostname, port, "", user, password, database)
        if parts.scheme == "rediss" and parts.hostname and query.keys() <= {"db", *_TLS_FILES}:
            database = int(parts.path.strip("/") or query.get("db", "0"))
            files = (query.get(name, "") for name in _TLS_FILES)
            return Address(parts.hostname, port, "", user, password, database, True, *files)
    except ValueError:
        pass  # The cause may quote the URL, and with it a password.
    raise ValueError(
        "the server's address is not understood: "
        "write redis://[user:password@]host:port/db, or rediss:// for TLS (with ssl_ca_certs=FILE "
        "behind a question mark), or unix:///path"
    )


UNAVAILABLE = {
    "LOADING": "the server is loading its data: try again soon",
    "OOM": "the server's memory is full and it refuses writes: give it more memory or trim books",
    "READONLY": "this server is a read-only replica: connect to the primary",
    "MISCONF": "the server cannot write to its disk and refuses writes: look into its log",
    "BUSY": "the server is busy running a script: try again soon",
    "CLUSTERDOWN": "the cluster is down: bring its nodes back",
    "MASTERDOWN": "the replica has lost its primary: bring the primary back",
    "NOREPLICAS": "too few replicas are there and the server refuses writes: bring them back",
    "TRYAGAIN": "the cluster is moving these keys: try again soon",
    "UNBLOCKED": "the server became a replica while we waited: connect to the primary",
    # Rights can be given back while we wait, so an actor outlives a mistake in the server's rules.
    "NOAUTH": "the server wants a password: put user and password into its URL",
    "WRONGPASS": "the server does not accept the user or the password: check its URL",
    "NOPERM": "the server's ACL forbids this to our user: give it the rules of its role",
    "EXECABORT": "the server refused a transaction: look into its log",
}
"""What the codes of errors mean that end by themselves or by an operator's hand."""

_REFUSED = {
    "MOVED": "this is a node of a cluster and the book lives on another: name that one",
    "ASK": "the cluster is moving the book to another node: try again later",
    "WRONGTYPE": "a key has the wrong type, so somebody else writes to our keys: find out who",
}


def error_of(reply: hiredis.ReplyError, doing: str) -> LogError:
    """The error that says what *reply* means for us while *doing* something."""
    text = str(reply)
    code = text.partition(" ")[0]
    if code in UNAVAILABLE:
        return LogUnavailableError(f"{doing}: {UNAVAILABLE[code]}")
    if "unauthenticated" in text:  # a long command before AUTH is no protocol, says the server
        return LogUnavailableError(f"{doing}: {UNAVAILABLE['NOAUTH']}")
    if "max number of clients" in text:
        return LogUnavailableError(f"{doing}: the server has too many clients: raise maxclients")
    if code == "WRONGTYPE":
        return ForeignDataError(f"{doing}: {_REFUSED[code]}")
    if code in _REFUSED:
        return LogError(f"{doing}: {_REFUSED[code]}")
    return LogError(f"{doing}: the server answered {text[:300]!r}: look into its log")


class Connection:
    """An open connection. Make one with :func:`connect`."""

    def __init__(
        self, stream: SocketStream | UNIXSocketStream | TLSStream, address: Address
    ) -> None:
        self._stream = stream
        self._address = address
        self._reader = hiredis.Reader()
        self._poll = select.poll()
        self._poll.register(stream.extra(SocketAttribute.raw_socket), select.POLLIN)
        self.closed = False

    @property
    def stale(self) -> bool:
        """Whether an idle connection has something to read: that can only be its end."""
        return self.closed or bool(self._poll.poll(0))

    async def call(self, *command: str | bytes | int, timeout_s: float) -> Reply:
        """The reply to one command; an error reply is returned, not raised."""
        return (await self.pipeline([command], timeout_s=timeout_s))[0]

    async def pipeline(self, commands: Sequence[Command], *, timeout_s: float) -> list[Reply]:
        """Send all *commands*, then read a reply for each.

        Args:
          commands: Names and arguments; text is sent as UTF-8.
          timeout_s: For sending and reading together.

        Returns:
          Shape: one reply for each command; error replies are values.

        Raises:
          ConnectionLostError: The connection broke or the time is over; it is closed.
        """
        if self.closed:
            raise ConnectionLostError(f"the connection to {self._address} is closed", sent=False)
        data = b"".join([_pack(command) for command in commands])
        replies: list[Reply] = []
        done = False
        try:
            with anyio.fail_after(timeout_s if timeout_s < math.inf else None):
                await self._send(data)
                await self._read(len(commands), replies)
            done = True
            return replies
        except TimeoutError:
            raise ConnectionLostError(
                f"{self._address} did not answer within {timeout_s:g} s: see whether it is well",
                sent=True,
            ) from None
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):
            why = self._last_words(replies)
            raise ConnectionLostError(why, sent=True) from None
        except hiredis.ProtocolError:
            raise ConnectionLostError(
                f"{self._address} does not speak the Redis protocol: check the address", sent=True
            ) from None
        finally:
            if not done:
                await self.aclose()

    async def _send(self, data: bytes) -> None:
        """Send. Where nobody takes it, reading tells more: a server that hung up may have said why."""
        with suppress(anyio.BrokenResourceError):
            await self._stream.send(data)

    def _last_words(self, replies: Sequence[Reply]) -> str:
        """What to say of a connection that was lost after *replies*."""
        if len(replies) == 1 and isinstance(replies[0], hiredis.ReplyError):
            error = error_of(replies[0], f"asking {self._address}")
            if isinstance(error, LogUnavailableError):
                return str(error)
        return f"the connection to {self._address} was lost: see whether the server runs"

    async def _read(self, count: int, replies: list[Reply]) -> None:
        """Read into *replies* until there are *count*."""
        gets, feed, receive = self._reader.gets, self._reader.feed, self._stream.receive
        while True:
            while (reply := gets()) is not False:
                replies.append(reply)
                if len(replies) == count:
                    return
            feed(await receive(RECEIVE_BYTES))

    async def aclose(self) -> None:
        """Close at once, without a farewell. Works in a cancelled scope too."""
        self.closed = True
        # It never waits, and without the shield whoever closes several would stop after the first.
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(self._stream)


async def connect(address: Address, *, timeout_s: float) -> Connection:
    """Open a connection and enter: AUTH and SELECT as *address* says.

    Raises:
      ConnectionLostError: Nobody answers there.
      LogError: The server does not let us in.
    """
    connection: Connection | None = None
    done = False
    try:
        with anyio.fail_after(timeout_s):
            if address.path:
                connection = Connection(await anyio.connect_unix(address.path), address)
            else:
                connection = Connection(await _connect_tcp(address), address)
        await _enter(connection, address, timeout_s)
        done = True
        return connection
    except TimeoutError:
        raise ConnectionLostError(
            f"{address} does not answer: start the server", sent=False
        ) from None
    except ssl.SSLError as error:
        raise LogUnavailableError(f"no TLS with {address}: {_tls_reason(error, address)}") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConnectionLostError(
            f"no connection to {address} ({reason}): start the server or check its address",
            sent=False,
        ) from None
    except ConnectionLostError as error:
        raise ConnectionLostError(str(error), sent=False) from None
    finally:
        if connection is not None and not done:
            await connection.aclose()


async def _connect_tcp(address: Address) -> SocketStream | TLSStream:
    if not address.tls:
        return await anyio.connect_tcp(address.host, address.port)
    context = tls_context(address.ca, address.certificate, address.key)
    return await anyio.connect_tcp(
        address.host,
        address.port,
        tls_hostname=address.host,
        ssl_context=context,
        tls_standard_compatible=False,  # a server that ends without a farewell has just ended
    )


@lru_cache(maxsize=16)
def tls_context(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """What is believed and shown in TLS; arguments as in :class:`Address`.

    Raises:
      LogError: One of the files cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or type(error).__name__
        raise LogError(
            f"the file of authorities {ca} cannot be used ({why}): name one with ssl_ca_certs"
        ) from None
    if certificate:
        try:
            context.load_cert_chain(certificate, key or None, password="")
        except (OSError, ssl.SSLError) as error:
            why = error.strerror or type(error).__name__
            raise LogError(
                f"our certificate {certificate} cannot be used ({why}): name it with ssl_certfile, "
                "and its key, without a password, with ssl_keyfile"
            ) from None
    return context


def _tls_reason(error: ssl.SSLError, address: Address) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        believed = address.ca or "the system's authorities"
        return (
            f"its certificate is not accepted ({error.verify_message}): name its authority with "
            f"ssl_ca_certs in the URL, instead of {believed}, or the host as the certificate does"
        )
    return f"{error.reason or type(error).__name__}: see whether it speaks TLS on this port"


async def _enter(connection: Connection, address: Address, timeout_s: float) -> None:
    commands: list[Command] = []
    if address.password:
        names = (address.user, address.password) if address.user else (address.password,)
        commands.append(("AUTH", *names))
    if address.database:
        commands.append(("SELECT", address.database))
    if commands:
        for reply in await connection.pipeline(commands, timeout_s=timeout_s):
            if isinstance(reply, hiredis.ReplyError):
                raise error_of(reply, f"entering {address}")
