"""What counts as money that nobody wants; ``tests/cli/test_reconcile.py`` has the command."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from holdfast.actors.booking.messages import RequestAuto
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.booking.wire import encode_message
from holdfast.actors.ports import Commit, NewInput, ProviderAnswer
from holdfast.tools.reconcile import find_orphans
from holdfast.transport.keys import format_id, parse_id
from holdfast.transport.memory_log import MemoryLog
from holdfast.transport.memory_operator import MemoryOperator

if TYPE_CHECKING:
    from holdfast.tools.reconcile import Provider

BOOK = "demo"


class Clock:
    def now_ms(self) -> int:
        return 1_700_000_000_000


class Ledger:
    """A provider that holds money for requests of these ids."""

    def __init__(self, *ids: str) -> None:
        held = ProviderAnswer("authorized", amount_cents=7500)
        self._payments = {f"{BOOK}:p{id_}": held for id_ in ids}

    async def ledger(self, prefix: str = "") -> dict[str, ProviderAnswer]:
        return {name: one for name, one in self._payments.items() if name.startswith(prefix)}


async def decide(log: MemoryLog) -> str:
    """Take the book over, and decide all that there is; the position."""
    record = await log.take_over(BOOK, "token")
    runner = BookRunner(BOOK, None)
    done = runner.decide((await log.read_inputs({BOOK: record.position}, 512, 0))[BOOK])
    commit = Commit(
        *(BOOK, record.epoch, "token", record.position, runner.position, runner.machine.version),
        *(runner.digest, done.outcomes, done.payments, done.notifications, done.dead_letters),
    )
    assert await log.commit([commit]) == [None]
    return runner.position


async def test_money_for_what_is_later_than_all_decisions_is_no_orphan() -> None:
    """An old primary that lives on knows nothing of what its successor's customers asked for.

    Producers may still append to it, but nobody decides there.
    """
    log = MemoryLog(Clock())
    ms, sequence = parse_id(await decide(log))
    body = encode_message(RequestAuto("checkup", days=[1]))
    for number in range(3):
        await log.append(BOOK, [NewInput("request_auto", body, f"k{number}", "service:web")])
    lost, elsewhere = format_id(ms - 1, 0), format_id(ms, sequence + 1)
    provider = cast("Provider", Ledger(lost, elsewhere))
    found = await find_orphans(log, MemoryOperator(log), provider, BOOK)
    assert [one.payment for one in found.orphans] == [f"{BOOK}:p{lost}"]


async def test_money_of_a_book_that_was_lost_whole_is_an_orphan_whenever_it_was_asked_for() -> None:
    log, provider = MemoryLog(Clock()), cast("Provider", Ledger("1700000000000-7"))
    found = await find_orphans(log, MemoryOperator(log), provider, BOOK)
    assert [one.payment for one in found.orphans] == [f"{BOOK}:p1700000000000-7"]
