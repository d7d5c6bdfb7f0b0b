"""What a server says of itself, for people who look at it: as far as its rules let our user ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import hiredis
import msgspec

from holdfast.transport.connection import UNAVAILABLE, error_of
from holdfast.transport.durability import Disk, DurabilityError, check_disk, check_replicas
from holdfast.transport.server import parse_info

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.transport.connection import Reply
    from holdfast.transport.pool import Server


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is at the moment. None is what our user may not ask.

    Attributes:
      name: ``valkey`` or ``redis``.
      replicas: Those that are connected.
      memory_max_bytes: At this it refuses writes; 0 for no limit.
      appendonly: Whether it keeps an append-only file.
      appendfsync: When it syncs that to disk.
      problems: What is not as it should be, one sentence each.
    """

    name: str | None = None
    version: str | None = None
    role: Literal["primary", "replica"] | None = None
    replicas: int | None = None
    memory_bytes: int | None = None
    memory_max_bytes: int | None = None
    appendonly: bool | None = None
    appendfsync: str | None = None
    problems: list[str] = []


async def ask_server(
    server: Server, disk: Disk | None = None, replicas_min: int = 0
) -> ServerFacts:
    """What *server* says of itself.

    Args:
      server: Which.
      disk: How soon it must have on disk what it answers; None where nothing was promised.
      replicas_min: How many replicas must be connected.

    Raises:
      LogError: It does not answer as it should.
    """
    info_reply, sync_reply = await server.run(
        [("INFO",), ("CONFIG", "GET", "appendfsync")], again=True
    )
    appendfsync = None
    if _may_ask(sync_reply, "asking the server when it syncs"):
        appendfsync = bytes(sync_reply[1]).decode() if sync_reply else "unknown"
    if not _may_ask(info_reply, "asking the server what it is"):
        return ServerFacts(appendfsync=appendfsync)
    info = parse_info(info_reply)
    problems = _problems(info)
    try:
        check_replicas(info, replicas_min)
        if disk is not None and appendfsync is not None:
            await check_disk(server, info, disk)
    except DurabilityError as error:
        problems.append(str(error))
    name = "valkey" if "valkey_version" in info else "redis"
    return ServerFacts(
        name=name,
        version=info.get(f"{name}_version", ""),
        role="replica" if info.get("role") == "slave" else "primary",
        replicas=int(info.get("connected_slaves", "0")),
        memory_bytes=int(info.get("used_memory", "0")),
        memory_max_bytes=int(info.get("maxmemory", "0")),
        appendonly=info.get("aof_enabled") == "1",
        appendfsync=appendfsync,
        problems=problems,
    )


def _may_ask(reply: Reply, doing: str) -> bool:
    """Whether *reply* is an answer, and not that our user may not ask.

    Raises:
      LogError: It is another error.
    """
    if not isinstance(reply, hiredis.ReplyError):
        return True
    if str(reply).startswith("NOPERM"):
        return False
    raise error_of(reply, doing)


def _problems(info: Mapping[str, str]) -> list[str]:
    problems: list[str] = []
    if info.get("role") == "slave":
        problems.append(UNAVAILABLE["READONLY"])
    if 0 < int(info.get("maxmemory", "0")) <= int(info.get("used_memory", "0")):
        problems.append(UNAVAILABLE["OOM"])
    if info.get("aof_last_write_status", "ok") != "ok":
        problems.append(UNAVAILABLE["MISCONF"])
    return problems
