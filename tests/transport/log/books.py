"""Books in a known state, and what is written to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.actors.ports import (
    ActionEntry,
    Commit,
    CommitRecord,
    DeadLetter,
    NewInput,
    OutcomeEntry,
    Snapshot,
)
from holdfast.transport.keys import action_stream_id

if TYPE_CHECKING:
    from holdfast.actors.ports import InputEntry, Log, StreamName


WRITTEN: tuple[StreamName, ...] = ("outcomes", "payments", "notifications", "deadletters")
"""The streams that a commit writes to."""


def new_input(number: int) -> NewInput:
    return NewInput("cancel", b'{"booking":"b"}', f"k-{number}", "customer:K1")


async def all_inputs(log: Log, book: str) -> list[InputEntry]:
    return (await log.read_inputs({book: "0-0"}, 1000, 0)).get(book, [])


async def led_book(log: Log, book: str, inputs: int = 3) -> tuple[CommitRecord, list[str]]:
    """A book that "me" leads, with the ids of its inputs; the first is the takeover."""
    record = await log.take_over(book, "me")
    ids = await log.append(book, [new_input(number) for number in range(inputs)])
    return record, [(await all_inputs(log, book))[0].id, *ids]


async def committed(log: Log, book: str, inputs: int = 6) -> list[str]:
    """A led book, everything decided, one input a commit."""
    _, ids = await led_book(log, book, inputs=inputs)
    after = "0-0"
    for id_ in ids:
        assert await log.commit([commit(book, [id_], after=after)]) == [None]
        after = id_
    return ids


async def with_payments(log: Log, book: str, count: int = 3) -> list[ActionEntry]:
    """A led book with *count* payment actions of one input."""
    _, ids = await led_book(log, book, inputs=0)
    actions = [action(ids[0], number) for number in range(count)]
    assert await log.commit([commit(book, ids, payments=actions)]) == [None]
    return actions


def action(input_id: str, number: int = 0) -> ActionEntry:
    stream_id = action_stream_id(input_id, number)
    return ActionEntry(stream_id, f"{input_id}:{number}", "capture", b'{"payment":"p"}')


def commit(
    book: str,
    ids: list[str],
    *,
    after: str = "0-0",
    epoch: int = 1,
    owner: str = "me",
    payments: list[ActionEntry] | None = None,
    notifications: list[ActionEntry] | None = None,
    dead_letters: list[DeadLetter] | None = None,
    decided: str = "",
) -> Commit:
    return Commit(
        book=book,
        epoch=epoch,
        owner=owner,
        after=after,
        position=ids[-1],
        version=7,
        digest=f"d-{ids[-1]}",
        outcomes=[OutcomeEntry(id_, "accepted", b'{"events":[]}') for id_ in ids],
        payments=payments or [],
        notifications=notifications or [],
        dead_letters=dead_letters or [],
        decided=decided,
    )


def snapshot(position: str, state: bytes = b"book") -> Snapshot:
    return Snapshot(position, 7, f"d-{position}", state + position.encode())


def ids_of(found: list[tuple[str, ActionEntry]]) -> list[str]:
    return [entry.id for _, entry in found]


async def lengths(log: Log, book: str) -> dict[str, int]:
    return {name: (await log.facts(book, name)).length for name in WRITTEN}
