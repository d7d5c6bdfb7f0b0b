"""What others do to a book's streams, as a request of ours finds them.

Somebody writes inputs that are none; an operator's hands, or the old state of a replica that was promoted,
have moved groups; and what executors are given is little, early, or in another order. All of it is keyed by
the request before which it happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.transport.codec import decode_input
from holdfast.transport.keys import format_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.ports import ActionEntry, ActionStream
    from holdfast.sim.server import SimServer
    from holdfast.transport.memory_log import MemoryLog

    Key = tuple[str, str, int]
    """Of a request: its operation, the process, and its number."""

_SHORT_MAX: Final = 3
"""A batch that is cut has so many entries at most."""

FOREIGN_ENTRIES: Final[tuple[tuple[bytes, ...], ...]] = (
    (b"hello", b"world"),
    (b"type", b"cancel"),
    (b"type", b"cancel", b"type", b"cancel", b"body", b"{}"),
    (b"type", b"cancel", b"body", b"\xff\xfe"),
    (b"type", b"cancel", b"body", b"not JSON", b"key", b"k", b"by", b"customer:K1"),
    (b"type", b"cancel", b"body", b"x" * 65_537, b"key", b"k", b"by", b"customer:K1"),
    (b"type", b"no_such_command", b"body", b"{}", b"key", b"k", b"by", b"customer:K1"),
)
"""Entries that somebody may write to the inputs and that are none."""


def write_foreign(
    server: SimServer, log: MemoryLog, book: str, key: tuple[str, str, int, int]
) -> None:
    """Somebody writes to the inputs, just before us, what is none."""
    if not server.draws.chance("inputs.foreign", server.faults.foreign, *key):
        return
    fields = server.draws.pick("inputs.foreign_fields", FOREIGN_ENTRIES, *key)
    stream = log.book(book).inputs
    if book not in log.registered or stream.foreign:
        return
    pair = stream.next_id(server.server_clock.now_ms())
    entry = decode_input(format_id(*pair).encode(), list(fields))
    stream.add(pair, entry)
    server.counts.fire("foreign", f"{book} {entry.id}", mattered=True)
    if server.on_foreign is not None and log is server.log:
        server.on_foreign(book, entry)
    log.ring(book, "inputs")


def trouble_groups(
    server: SimServer,
    log: MemoryLog,
    stream: ActionStream,
    books: Sequence[str],
    key: Key,
) -> None:
    """An operator's hands, or a replica's old state, on the groups of *books*."""
    draws, faults, counts = server.draws, server.faults, server.counts
    for book in books:
        actions = log.book(book).actions(stream)
        group = actions.groups.get(stream)
        if group is None:
            continue
        named = (*key, book)
        if draws.chance("groups.missing", faults.group_missing, *named):
            counts.fire("group_missing", book, mattered=bool(actions.ids))
            del actions.groups[stream]
            continue
        if draws.chance("groups.back", faults.group_back, *named):
            given = [id_ for id_ in actions.ids if id_ <= group.last]
            back = 1 + draws.below("groups.back_by", faults.group_back_max, *named)
            counts.fire("group_back", f"{book} by {back}", mattered=bool(given))
            group.last = given[-back - 1] if len(given) > back else (0, 0)
        if draws.chance("groups.consumer", faults.consumer_missing, *named):
            names = list(dict.fromkeys(one.consumer for one in group.pending.values()))
            if names:
                gone = draws.pick("groups.consumer_name", names, *named)
                counts.fire("consumer_missing", f"{book} {gone}", mattered=True)
                for id_ in [i for i, one in group.pending.items() if one.consumer == gone]:
                    del group.pending[id_]


def shortened(server: SimServer, count: int, key: Key) -> int:
    """How many entries a read gives that asks for *count*: at times it is cut."""
    if count < 2 or not server.draws.chance("groups.short", server.faults.short, *key):
        return count
    return 1 + server.draws.below("groups.short_to", min(count - 1, _SHORT_MAX), *key)


def claim_idle_s(
    server: SimServer,
    log: MemoryLog,
    stream: ActionStream,
    books: Sequence[str],
    idle_s: float,
    key: Key,
) -> float:
    """How long an action must lie idle to be claimed: at times somebody claims at once."""
    if not server.draws.chance("groups.claim_early", server.faults.claim_early, *key):
        return idle_s
    now_ms = server.server_clock.now_ms()
    young = [
        one
        for book in books
        if (group := log.book(book).actions(stream).groups.get(stream)) is not None
        for one in group.pending.values()
        if now_ms - one.since_ms < idle_s * 1000
    ]
    server.counts.fire("claim_early", " ".join(map(str, key)), mattered=bool(young))
    return 0.0


def reordered(
    server: SimServer, found: list[tuple[str, ActionEntry]], key: Key
) -> list[tuple[str, ActionEntry]]:
    """What a claim gives, at times in another order."""
    if len(found) < 2 or not server.draws.chance("groups.reorder", server.faults.reorder, *key):
        return found
    server.counts.fire("reorder", " ".join(map(str, key)), mattered=True)
    generator = server.draws.generator("groups.order", *key)
    return generator.sample(found, len(found))
