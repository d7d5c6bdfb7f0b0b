"""The counter of ``counter.py`` with its state in PostgreSQL: the state *is* the transaction.

Run it: ``python examples/counter_postgres.py postgresql://user@host/database``; it needs psycopg,
and leaves its two tables behind.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import psycopg
from counter import (
    MILESTONES_MAX,
    VALUE_MAX,
    Add,
    Announce,
    CounterInput,
    Outcome,
    check,
    described,
    milestones,
)

from holdfast.machine import Completed, Emit, Normal, TransitionError, action_order
from holdfast.machine.async_audit import AsyncAudited
from holdfast.machine.hosts import decide_in_transaction, restored_in_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

Connection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]

SCHEMA = """
CREATE TABLE IF NOT EXISTS counter (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), value bigint NOT NULL
);
INSERT INTO counter (value) VALUES (0) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS announcing (
  ms bigint, seq bigint, n bigint, milestone bigint NOT NULL, PRIMARY KEY (ms, seq, n)
)
"""


class PostgresCounter:
    """The same rules; nothing is kept but in the transaction."""

    version = 1

    async def genesis(self, state: Connection) -> None:
        """Make the tables if they are not there."""
        for statement in SCHEMA.split(";"):
            await state.execute(statement.encode())

    async def transition(
        self,
        state: Connection,
        input: CounterInput,  # noqa: A002
        emit: Emit[Announce],
    ) -> Outcome:
        """Decide one input; whatever raises, the host rolls back."""
        value = await self._value(state)
        if isinstance(input, Completed):
            return await self._heard(state, value, input, emit)
        check(input.message)
        after = value + input.message.amount
        if after > VALUE_MAX:
            return Outcome("refused", value)
        emit.reserve(MILESTONES_MAX)
        await state.execute("UPDATE counter SET value = %s", (after,))
        for milestone in milestones(value, after):
            await self._announce(state, emit, milestone)
        return Outcome("accepted", after)

    async def _heard(
        self,
        state: Connection,
        value: int,
        input: Completed[bool],  # noqa: A002
        emit: Emit[Announce],
    ) -> Outcome:
        found = await state.execute(
            "DELETE FROM announcing WHERE (ms, seq, n) = (%s, %s, %s) RETURNING milestone",
            action_order(input.action_id),
        )
        row = await found.fetchone()
        if row is None:
            return Outcome("ignored", value)
        if not input.result:
            await self._announce(state, emit, row[0])
        return Outcome("accepted", value)

    async def _announce(self, state: Connection, emit: Emit[Announce], milestone: int) -> None:
        key = action_order(emit.tracked(Announce(milestone)))
        await state.execute("INSERT INTO announcing VALUES (%s, %s, %s, %s)", (*key, milestone))

    async def _value(self, state: Connection) -> int:
        row = await (await state.execute("SELECT value FROM counter FOR UPDATE")).fetchone()
        assert row is not None, "call genesis first"
        return int(row[0])

    async def _announcing(self, state: Connection, after: str, limit: int) -> list[tuple[str, int]]:
        start = action_order(after) if after else (-1, -1, -1)
        rows = await state.execute(
            "SELECT ms, seq, n, milestone FROM announcing WHERE (ms, seq, n) > (%s, %s, %s) "
            "ORDER BY ms, seq, n LIMIT %s",
            (*start, limit),
        )
        return [(f"{ms}-{seq}:{n}", milestone) for ms, seq, n, milestone in await rows.fetchall()]

    async def outstanding(self, state: Connection) -> list[str]:
        """Announcements under way, in the order of the log."""
        return [action_id for action_id, _ in await self._announcing(state, "", 1_000_000)]

    async def restore(self, state: Connection, emit: Emit[Announce], after: str = "") -> bool:
        """Announce again, a page at a time; one row more than fits tells whether there is more."""
        room = emit.room
        rows = await self._announcing(state, after, room + 1)
        for action_id, milestone in rows[:room]:
            emit.again(action_id, Announce(milestone))
        return len(rows) <= room

    async def encode(self, state: Connection) -> bytes:
        """Value and announcements as JSON."""
        value = await self._value(state)
        return msgspec.json.encode([value, await self._announcing(state, "", 1_000_000)])


def transactions(
    connection: Connection,
) -> Callable[[], AbstractAsyncContextManager[Connection]]:
    """What the host needs: each call opens a transaction."""

    @asynccontextmanager
    async def transaction() -> AsyncGenerator[Connection]:
        async with connection.transaction():
            yield connection

    return transaction


def audited(
    machine: PostgresCounter,
) -> AsyncAudited[Connection, Add, bool, Outcome, Announce]:
    """The machine under the audit; steps are rehearsed in a savepoint."""
    return AsyncAudited(
        machine,
        lambda connection: connection.transaction(force_rollback=True),
        trusted=("psycopg", "psycopg_binary"),
    )


async def story(conninfo: str) -> None:
    """Count, crash between commit and announcement, restore."""
    machine = audited(PostgresCounter())
    emit: Emit[Announce] = Emit(8)
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        begin = transactions(connection)
        async with begin() as state:
            await machine.genesis(state)
        for number, amount in enumerate((7, 25, 99)):
            entry = Normal(f"{1000 + number}-0", 1000 + number, Add(amount))
            try:
                outcome = await decide_in_transaction(machine, begin, entry, emit)
            except TransitionError as error:
                print(f"{entry.id}  malformed, rolled back: {error}")
                continue
            todo = "; ".join(described(action) for action in emit.actions) or "nothing to do"
            print(f"{entry.id}  {outcome.status}, the value is {outcome.value}: {todo}")

    print("crash!  committed, and nothing was announced yet")
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        begin = transactions(connection)
        async with begin() as state:
            todo_again = [action async for action in restored_in_transaction(machine, state)]
        for number, action in enumerate(todo_again):
            print(f"restored: {described(action)}")
            done = Completed(f"{2000 + number}-0", 2000 + number, action.id, result=True)
            await decide_in_transaction(machine, begin, done, emit)
        async with begin() as state:
            print(f"all heard: {len(await machine.outstanding(state))} announcements outstanding")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/counter_postgres.py postgresql://user@host/database")
    asyncio.run(story(sys.argv[1]))
