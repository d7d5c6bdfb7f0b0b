"""The coffee shop of ``coffee_shop.py`` with its state in PostgreSQL.

Run it: ``python examples/coffee_shop_postgres.py postgresql://user@host/database``; it needs
psycopg, and leaves its tables behind.

Voucher numbers come from a row inside the transaction, not from a SEQUENCE: PostgreSQL does not
roll a sequence back, so a replay after a refused input would give other numbers.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import psycopg
from coffee_shop import (
    POINTS,
    REWARDS,
    Answer,
    AskRedemption,
    Buy,
    Outcome,
    Partner,
    Redeem,
    RedeemPoints,
    Redemption,
    ShopAction,
    ShopInput,
    Tell,
    check,
    told,
)

from holdfast.machine import Completed, Emit, Normal, TransitionError, action_order
from holdfast.machine.async_audit import AsyncAudited
from holdfast.machine.hosts import decide_in_transaction, restored_in_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

Connection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]

SCHEMA = """
CREATE TABLE IF NOT EXISTS shop (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), vouchers bigint NOT NULL
);
INSERT INTO shop (vouchers) VALUES (0) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS customers (
  name text PRIMARY KEY, points bigint NOT NULL CHECK (points >= 0)
);
CREATE TABLE IF NOT EXISTS redemptions (
  ms bigint, seq bigint, n bigint, voucher bigint NOT NULL UNIQUE,
  customer text NOT NULL REFERENCES customers, reward text NOT NULL, points bigint NOT NULL,
  PRIMARY KEY (ms, seq, n)
)
"""


class PostgresCoffeeShop:
    """The same rules; nothing is kept but in the transaction."""

    version = 1

    async def genesis(self, state: Connection) -> None:
        """Make the tables if they are not there."""
        for statement in SCHEMA.split(";"):
            await state.execute(statement.encode())

    async def transition(
        self,
        state: Connection,
        input: ShopInput,  # noqa: A002
        emit: Emit[ShopAction],
    ) -> Outcome:
        """Decide one input; whatever raises, the host rolls back."""
        # One writer at a time: inputs have an order, and this row is its lock.
        await state.execute("SELECT vouchers FROM shop FOR UPDATE")
        if isinstance(input, Completed):
            return await self._answered(state, input, emit)
        check(input.message)
        if isinstance(input.message, Buy):
            return await self._buy(state, input.message, emit)
        return await self._redeem(state, input.message, emit)

    async def _buy(self, state: Connection, buy: Buy, emit: Emit[ShopAction]) -> Outcome:
        points = await self._one(
            state,
            "INSERT INTO customers VALUES (%s, %s) ON CONFLICT (name) "
            "DO UPDATE SET points = customers.points + excluded.points RETURNING points",
            (buy.customer, POINTS[buy.drink]),
        )
        emit.untracked(Tell(buy.customer, f"you have {points} points"))
        return Outcome("accepted", points=points)

    async def _redeem(self, state: Connection, redeem: Redeem, emit: Emit[ShopAction]) -> Outcome:
        price = REWARDS[redeem.reward]
        have = await self._one(
            state, "SELECT points FROM customers WHERE name = %s", (redeem.customer,)
        )
        if have is None:
            return Outcome("refused", "unknown_customer")
        if have < price:
            return Outcome("refused", "not_enough_points", have)
        voucher = await self._one(
            state, "UPDATE shop SET vouchers = vouchers + 1 RETURNING vouchers"
        )
        await state.execute(
            "UPDATE customers SET points = points - %s WHERE name = %s", (price, redeem.customer)
        )
        key = action_order(emit.tracked(RedeemPoints(redeem.customer, price)))
        await state.execute(
            "INSERT INTO redemptions VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (*key, voucher, redeem.customer, redeem.reward, price),
        )
        return Outcome("accepted", points=have - price, voucher=voucher)

    async def _answered(
        self,
        state: Connection,
        input: Completed[Answer],  # noqa: A002
        emit: Emit[ShopAction],
    ) -> Outcome:
        rows = await state.execute(
            "DELETE FROM redemptions WHERE (ms, seq, n) = (%s, %s, %s) "
            "RETURNING voucher, customer, reward, points",
            action_order(input.action_id),
        )
        row = await rows.fetchone()
        if row is None:
            return Outcome("ignored", "not_under_way")
        redemption = Redemption(*row)
        back = redemption.points if input.result is Answer.DECLINED else 0
        points = await self._one(
            state,
            "UPDATE customers SET points = points + %s WHERE name = %s RETURNING points",
            (back, redemption.customer),
        )
        emit.untracked(told(redemption, input.result))
        return Outcome("accepted", points=points, voucher=redemption.voucher)

    async def _one(self, state: Connection, query: str, values: tuple[Any, ...] = ()) -> Any:  # noqa: ANN401
        row = await (await state.execute(query.encode(), values)).fetchone()
        return None if row is None else row[0]

    async def _redemptions(
        self, state: Connection, after: str, limit: int
    ) -> list[tuple[str, Redemption]]:
        start = action_order(after) if after else (-1, -1, -1)
        rows = await state.execute(
            "SELECT ms, seq, n, voucher, customer, reward, points FROM redemptions "
            "WHERE (ms, seq, n) > (%s, %s, %s) ORDER BY ms, seq, n LIMIT %s",
            (*start, limit),
        )
        return [
            (f"{ms}-{seq}:{n}", Redemption(*rest)) for ms, seq, n, *rest in await rows.fetchall()
        ]

    async def outstanding(self, state: Connection) -> list[str]:
        """Redemptions under way, in the order of the log."""
        return [action_id for action_id, _ in await self._redemptions(state, "", 1_000_000)]

    async def restore(self, state: Connection, emit: Emit[ShopAction], after: str = "") -> bool:
        """Ask what became of each redemption, a page at a time."""
        room = emit.room
        rows = await self._redemptions(state, after, room + 1)
        for action_id, redemption in rows[:room]:
            emit.again(action_id, AskRedemption(redemption.customer, redemption.points))
        return len(rows) <= room

    async def encode(self, state: Connection) -> bytes:
        """All rows as JSON, in an order that no server's collation decides."""
        customers = await state.execute(
            'SELECT name, points FROM customers ORDER BY name COLLATE "C"'
        )
        content = [
            await self._one(state, "SELECT vouchers FROM shop"),
            await customers.fetchall(),
            await self._redemptions(state, "", 1_000_000),
        ]
        return msgspec.json.encode(content)


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
    machine: PostgresCoffeeShop,
) -> AsyncAudited[Connection, Buy | Redeem, Answer, Outcome, ShopAction]:
    """The machine under the audit; steps are rehearsed in a savepoint."""
    return AsyncAudited(
        machine,
        lambda connection: connection.transaction(force_rollback=True),
        trusted=("psycopg", "psycopg_binary"),
    )


async def story(conninfo: str) -> None:
    """Sell, redeem, crash after the commit and before the partner was asked, restore."""
    machine, partner = audited(PostgresCoffeeShop()), Partner()
    emit: Emit[ShopAction] = Emit(4)
    messages: list[Buy | Redeem] = [
        Buy("ann", drink) for drink in ("cold brew", "tea", "cold brew")
    ]
    messages.append(Redeem("ann", "mug"))
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        begin = transactions(connection)
        async with begin() as state:
            await machine.genesis(state)
        for ms, message in enumerate(messages, start=1001):
            entry: ShopInput = Normal(f"{ms}-0", ms, message)
            try:
                outcome = await decide_in_transaction(machine, begin, entry, emit)
            except TransitionError as error:
                print(f"{ms}-0  malformed, rolled back: {error}")
                continue
            print(f"{ms}-0  {outcome.status}, points: {outcome.points}")
            for action in emit.actions:
                print(f"        -> {action.action}")

    print("crash!  committed, and the partner was not asked yet")
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        begin = transactions(connection)
        async with begin() as state:
            again = [action async for action in restored_in_transaction(machine, state)]
        for ms, action in enumerate(again, start=2001):
            print(f"restored: {action.id} {action.action}")
            answer = partner.carry_out(action)
            assert answer is not None
            done: ShopInput = Completed(f"{ms}-0", ms, action.id, answer)
            outcome = await decide_in_transaction(machine, begin, done, emit)
            print(f"{ms}-0  {outcome.status}, points: {outcome.points}")
        async with begin() as state:
            print(f"under way: {len(await machine.outstanding(state))} redemptions")
    print(f"taken by the partner: {sum(partner.redeemed.values())} points, once")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/coffee_shop_postgres.py postgresql://user@host/database")
    asyncio.run(story(sys.argv[1]))
