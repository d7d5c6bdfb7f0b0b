"""What the watch for lost tails asks of its server, answered from the memory of the simulated one.

``transport.tails.TailWatch`` is the production's own, and speaks to a server in a few commands. The
offset of a history is the number of inputs and outcomes that were ever written in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from holdfast.transport.keys import format_id, parse_id
from holdfast.transport.tails import History, LostTail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.transport.connection import Command, Reply
    from holdfast.transport.memory_log import MemoryBook, MemoryLog


def offset_of(books: Mapping[str, MemoryBook]) -> int:
    """How far a log of *books* is in its history."""
    return sum(book.inputs.added + book.outcomes.added for book in books.values())


def describe(history: History, log: MemoryLog) -> bytes:
    """What a server says of its replication."""
    lines = (
        f"master_replid:{history.id}",
        f"master_repl_offset:{offset_of(log.books)}",
        f"master_replid2:{history.before_id}",
        f"second_repl_offset:{history.before_end}",
    )
    return "\r\n".join(lines).encode()


def lost_tail(command: Command) -> LostTail | None:
    """The report that *command* adds to a book's losses; None where it is another command."""
    if command[0] != "XADD":
        return None
    fields = [str(part) for part in command[5:]]
    return msgspec.convert(
        dict(zip(fields[::2], fields[1::2], strict=True)), LostTail, strict=False
    )


def answer(log: MemoryLog, history: History, command: Command) -> Reply:
    """What the server answers to a *command* of the watch's that only looks."""
    name = command[0]
    if name == "INFO":
        return describe(history, log)
    head, _, kind = str(command[2 if name == "XINFO" else 1]).rpartition(":")
    book = log.book(head.partition("{")[2].rstrip("}"))
    stream = book.inputs if kind == "inputs" else book.outcomes
    if name == "XREVRANGE":
        known = stream.between((0, 0), parse_id(str(command[2])))
        return [[known[-1].id.encode(), []]] if known else []
    assert name == "XINFO", name
    first: Reply = [format_id(*stream.ids[0]).encode(), []] if stream.ids else None
    facts: list[Reply] = [b"length", len(stream.ids), b"entries-added", stream.added]
    return [*facts, b"last-generated-id", format_id(*stream.last).encode(), b"first-entry", first]
