"""Stories that are told to a simulated server: what somebody does on it, and a book to do it with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from holdfast.actors.ports import ActionEntry, Commit, NewInput, OutcomeEntry
from holdfast.sim.clock import WorldClock
from holdfast.sim.draws import Draws
from holdfast.sim.server import SimServer
from holdfast.transport.keys import action_stream_id
from holdfast.transport.pool import ServerOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.sim.faults import ServerFaults
    from holdfast.sim.faulty_log import FaultyLog

BOOK = "demo"
REPLICATED = ServerOptions(replicas_min=1, replicas_s=0.5, resolve_s=2.0)
ALWAYS = 1.0


def simulate(
    faults: ServerFaults,
    story: Callable[[SimServer, FaultyLog], Awaitable[None]],
    seed: int = 1,
    **given: Any,  # noqa: ANN401 - as SimServer takes them
) -> SimServer:
    """Tell *story* to a server with *faults* and one connection to it; the server as it was left."""
    clock = WorldClock()
    servers: list[SimServer] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = SimServer(clock, Draws(seed), faults, nursery, **given)
            servers.append(server)
            await story(server, server.connect("process"))
            nursery.cancel_scope.cancel()

    clock.run(main)
    return servers[0]


def new(number: int) -> NewInput:
    return NewInput("cancel", b'{"booking":"b"}', f"k-{number}", "customer:K1")


def keys(server: SimServer, book: str = BOOK) -> list[str]:
    """The idempotency keys of the inputs that the server holds."""
    return [entry.key for entry in server.log.book(book).inputs.entries if entry.key]


async def prepared(server: SimServer, book: str = BOOK, payments: int = 3) -> Commit:
    """A book that "me" leads, with one input and a commit of it that has yet to be written."""
    await server.log.take_over(book, "me")
    (entry,) = server.log.book(book).inputs.entries
    actions = [
        ActionEntry(action_stream_id(entry.id, n), f"{entry.id}:{n}", "void", b"{}")
        for n in range(payments)
    ]
    outcomes = [OutcomeEntry(entry.id, "accepted", b"{}")]
    return Commit(book, 1, "me", "0-0", entry.id, 7, "d", outcomes, actions, [], [])


async def with_actions(server: SimServer) -> list[str]:
    """A book with payment actions; their entry ids."""
    commit = await prepared(server)
    await server.log.commit([commit])
    return [action.id for action in commit.payments]
