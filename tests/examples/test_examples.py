"""The examples: their stories run, and memory and PostgreSQL decide alike, under the audit."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from holdfast.machine import Completed, Emit, EmitFullError, Normal, Tracked, TransitionError
from holdfast.machine.async_audit import AsyncAudited
from holdfast.machine.audit import Audited, AuditError, Rule
from holdfast.machine.hosts import (
    decide,
    decide_in_transaction,
    restored,
    restored_in_transaction,
)
from holdfast.machine.processes import check_across_processes

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.slow  # a server has to start, and each story is a process


def run_example(name: str, *arguments: str) -> str:
    """Run it as its reader would; anything on stderr is a fault."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# --- stories -------------------------------------------------------------------------------------


def test_the_counter_counts_crashes_and_restores() -> None:
    said = run_example("counter.py")
    assert "malformed: amount must be 1 to 25, not 99; the value is still 32" in said
    assert "replayed 3 inputs: value 42, same digest: True" in said
    assert "restored: 1003-0:0 announce 20" in said
    assert said.endswith("all heard: 0 announcements outstanding\n")


def test_the_coffee_shop_redeems_once_through_a_crash() -> None:
    said = run_example("coffee_shop.py")
    assert "malformed: no drink is called 'water'" in said
    assert "same digest: True" in said
    assert "restored: 1006-0:0 AskRedemption(customer='ann', points=10)" in said
    assert said.endswith("taken by the partner: 10 points, once\n")


def test_reserving_is_the_difference() -> None:
    """C42: one machine is left half changed, and the other as it was."""
    said = run_example("reserve.py").splitlines()
    assert said[0].startswith("Wrong: step 1 breaks the rule 'atomic'")
    assert said[1].endswith("{'1000-0:0': 'dairy', '1000-0:1': 'bakery'}")
    assert said[2] == "Right: input 1000-0 wants 3 more actions; 2 of 2 fit"
    assert said[3].endswith("nothing")


def test_the_counter_on_postgresql(database: str) -> None:
    said = run_example("counter_postgres.py", database)
    assert "malformed, rolled back: amount must be 1 to 25, not 99" in said
    assert "restored: 1001-0:2 announce 30" in said
    assert said.endswith("all heard: 0 announcements outstanding\n")


def test_the_coffee_shop_on_postgresql(database: str) -> None:
    said = run_example("coffee_shop_postgres.py", database)
    assert "malformed, rolled back: no drink is called 'tea'" in said
    assert "restored: 1004-0:0 AskRedemption(customer='ann', points=10)" in said
    assert said.endswith("under way: 0 redemptions\ntaken by the partner: 10 points, once\n")


@pytest.mark.parametrize("name", ["counter_postgres.py", "coffee_shop_postgres.py"])
def test_without_a_database_they_say_how_to_run_them(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"usage: python examples/{name} postgresql://user@host/database\n"


# --- memory and PostgreSQL -----------------------------------------------------------------------


def counter_message(rng: Random) -> object:
    return importlib.import_module("counter").Add(rng.choice((0, 1, 5, 12, 25, 26)))


def counter_result(rng: Random) -> object:
    return rng.random() < 0.6


def shop_message(rng: Random) -> object:
    shop = importlib.import_module("coffee_shop")
    customer = rng.choice(("ann", "Bob", "çiğdem", "o'neill"))
    if rng.random() < 0.5:
        return shop.Buy(customer, rng.choice((*shop.POINTS, "tea")))
    return shop.Redeem(customer, rng.choice((*shop.REWARDS, "car")))


def shop_result(rng: Random) -> object:
    return rng.choice(list(importlib.import_module("coffee_shop").Answer))


KINDS: dict[str, tuple[str, str, Callable[[Random], object], Callable[[Random], object]]] = {
    "counter": ("Counter", "PostgresCounter", counter_message, counter_result),
    "coffee_shop": ("CoffeeShop", "PostgresCoffeeShop", shop_message, shop_result),
}


def new_input(kind: str, rng: Random, step: int, waiting: list[str]) -> Any:  # noqa: ANN401
    _, _, message, result = KINDS[kind]
    entry_id, now = f"{1000 + step // 2}-{step % 2}", 1000 + step // 2
    if waiting and rng.random() < 0.5:
        action_id = rng.choice(waiting) if rng.random() < 0.8 else "1-0:0"
        return Completed(entry_id, now, action_id, result(rng))
    return Normal(entry_id, now, message(rng))


@pytest.mark.parametrize("kind", list(KINDS))
def test_memory_and_postgresql_decide_alike(kind: str, database: str) -> None:
    """Same inputs: same outcomes, same refusals, same actions, same ids, same restore."""
    memory_name, postgres_name, _, _ = KINDS[kind]
    in_memory = importlib.import_module(kind)
    in_database = importlib.import_module(f"{kind}_postgres")
    memory: Any = Audited(getattr(in_memory, memory_name)())
    postgres: Any = in_database.audited(getattr(in_database, postgres_name)())

    async def run() -> tuple[int, int]:
        rng, state, emit = Random(7), memory.genesis(), Emit[Any](3)
        database_emit = Emit[Any](3)
        accepted = malformed = 0
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            begin = in_database.transactions(connection)
            async with begin() as transaction:
                await postgres.genesis(transaction)
            for step in range(150):
                entry = new_input(kind, rng, step, memory.outstanding(state))
                wanted = said = None
                try:
                    wanted = decide(memory, state, entry, emit)
                except TransitionError as error:
                    wanted = str(error)
                    malformed += 1
                try:
                    said = await decide_in_transaction(postgres, begin, entry, database_emit)
                except TransitionError as error:
                    said = str(error)
                assert said == wanted
                assert database_emit.actions == emit.actions
                accepted += getattr(wanted, "status", "") == "accepted"
            async with begin() as transaction:
                again = [a async for a in restored_in_transaction(postgres, transaction, page=1)]
            assert again == list(restored(memory, state, page=2))
        return accepted, malformed

    accepted, malformed = asyncio.run(run())
    assert accepted > 20
    assert malformed > 10


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_digest_is_the_same_in_every_process(kind: str, tmp_path: Path) -> None:
    (tmp_path / "drive.py").write_text(f"""
import {kind}
from holdfast.machine import Emit, Normal
from holdfast.machine.digest import digest
from holdfast.machine.hosts import decide

def drive():
    machine = {kind}.{KINDS[kind][0]}()
    state, emit = machine.genesis(), Emit()
    for ms, name in enumerate(("ann", "bob", "cem", "dora") * 3):
        message = {"counter.Add(3)" if kind == "counter" else "coffee_shop.Buy(name, 'espresso')"}
        decide(machine, state, Normal(f"{{ms}}-0", ms, message), emit)
    return digest(machine.encode(state))
""")
    assert len(check_across_processes("drive:drive", path=[str(tmp_path), str(EXAMPLES)])) == 32


# --- a transaction is a state --------------------------------------------------------------------


def in_a_transaction(
    database: str,
    machine: Any,  # noqa: ANN401
    entry: Any,  # noqa: ANN401
    room: int = 8,
) -> tuple[bytes, bytes, Emit[Any]]:
    """Run one input; return the state before and after, and the container."""
    counter = importlib.import_module("counter_postgres")
    emit = Emit[Any](room)

    async def run() -> tuple[bytes, bytes]:
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            begin = counter.transactions(connection)
            async with begin() as state:
                await machine.genesis(state)
                before = await machine.encode(state)
            with contextlib.suppress(TransitionError, EmitFullError):
                await decide_in_transaction(machine, begin, entry, emit)
            async with begin() as state:
                return before, await machine.encode(state)

    return *asyncio.run(run()), emit


class Wrapped:
    """The counter on PostgreSQL, to be broken in one place."""

    def __init__(self) -> None:
        self.inner: Any = importlib.import_module("counter_postgres").PostgresCounter()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.inner, name)


def test_a_refused_input_is_rolled_back(database: str) -> None:
    """Even after it has written, and the actions it emitted do not leave."""
    counter = importlib.import_module("counter_postgres")

    class WritesThenRefuses(Wrapped):
        async def transition(self, state: Any, input: Any, emit: Any) -> Any:  # noqa: A002, ANN401
            await self.inner.transition(state, input, emit)
            raise TransitionError("changed my mind")

    before, after, emit = in_a_transaction(
        database, WritesThenRefuses(), Normal("1-0", 1, counter.Add(12))
    )
    assert after == before
    assert emit.actions == []


def test_actions_that_do_not_fit_are_rolled_back(database: str) -> None:
    counter = importlib.import_module("counter_postgres")
    machine = counter.audited(counter.PostgresCounter())
    entry = Normal("1-0", 1, counter.Add(12))
    before, after, emit = in_a_transaction(database, machine, entry, room=1)
    assert after == before
    assert emit.actions == []


def broken(fault: str) -> Any:  # noqa: ANN401
    """A counter on PostgreSQL with one fault."""
    counter = importlib.import_module("counter_postgres")

    class Broken(Wrapped):
        calls = 0

        async def transition(self, state: Any, input: Any, emit: Any) -> Any:  # noqa: A002, ANN401
            self.calls += 1
            match fault:
                case "clock":
                    await asyncio.sleep(0)
                    asyncio.get_running_loop().time()
                case "swallowed clock":
                    with pytest.raises(Exception, match="monotonic"):
                        asyncio.get_running_loop().time()
                    raise TransitionError("no")
                case "memory":
                    await state.execute("UPDATE counter SET value = value + %s", (self.calls,))
                case "sequence":
                    await state.execute(b"UPDATE counter SET value = nextval('numbers')")
                case "forgets":
                    emit.tracked(counter.Announce(5))
                case "own id":
                    emit.actions.append(Tracked("mine", counter.Announce(5)))
                case _:
                    pass
            return await self.inner.transition(state, input, emit)

        async def encode(self, state: Any) -> bytes:  # noqa: ANN401
            kept = str(self.calls) if fault == "hybrid" else ""
            return bytes(await self.inner.encode(state)) + kept.encode()

        async def genesis(self, state: Any) -> None:  # noqa: ANN401
            await self.inner.genesis(state)
            await state.execute(b"CREATE SEQUENCE numbers")

        async def restore(self, state: Any, emit: Any, after: str = "") -> bool:  # noqa: ANN401
            if fault == "writing restore":
                await state.execute(b"UPDATE counter SET value = value + 1")
            if fault == "restores nothing":
                return True
            return bool(await self.inner.restore(state, emit, after))

    return counter.audited(Broken())


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("clock", Rule.PURE),
        ("swallowed clock", Rule.PURE),
        ("hybrid", Rule.ATOMIC),
        ("memory", Rule.DETERMINISTIC),
        ("sequence", Rule.DETERMINISTIC),
        ("forgets", Rule.RECORDED),
        ("own id", Rule.FRESH_IDS),
        ("writing restore", Rule.RESTORE_PURE),
        ("restores nothing", Rule.RESTORE_COMPLETE),
    ],
)
def test_the_audit_sees_into_transactions(fault: str, rule: Rule, database: str) -> None:
    counter = importlib.import_module("counter_postgres")
    entry = Normal("1-0", 1, counter.Add(12))
    with pytest.raises(AuditError) as caught:
        in_a_transaction(database, broken(fault), entry)
    assert (caught.value.rule, caught.value.step) == (rule, 1)


def test_a_sample_of_transactions_is_taken_by_count(database: str) -> None:
    counter = importlib.import_module("counter_postgres")
    machine: Any = AsyncAudited(
        counter.PostgresCounter(),
        lambda state: state.transaction(force_rollback=True),
        trusted=(),
        every=2,
    )
    before, after, _ = in_a_transaction(database, machine, Normal("1-0", 1, counter.Add(12)))
    assert before != after
    assert (machine.steps, machine.version) == (1, 1)
    with pytest.raises(AuditError, match="touched") as caught:
        in_a_transaction(database, machine, Normal("2-0", 1, counter.Add(12)))
    assert caught.value.rule == Rule.PURE, "nobody is trusted, so not even the driver"
