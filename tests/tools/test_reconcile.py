"""What counts as money that nobody wants; ``tests/cli/test_reconcile.py`` has the command."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from holdfast.actors.booking import payments, wire
from holdfast.actors.booking.messages import PaymentResult, RequestAuto
from holdfast.actors.ports import Commit, NewInput, ProviderAnswer
from holdfast.cli.practice import define, load_practice
from holdfast.tools.reconcile import find_orphans
from holdfast.tools.sources import decided_to
from holdfast.transport.keys import format_id, parse_id
from holdfast.transport.memory_log import MemoryLog
from holdfast.transport.memory_operator import MemoryOperator

if TYPE_CHECKING:
    from holdfast.tools.reconcile import Provider

BOOK = "demo"
DAY_MS = 86_400_000


class Clock:
    now = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.now


class Ledger:
    """A provider that knows these payments."""

    def __init__(self, *names: str, status: str = "authorized") -> None:
        held = ProviderAnswer(status, amount_cents=7500)
        self._payments = {f"{BOOK}:{name}": held for name in names}

    async def ledger(self, prefix: str = "") -> dict[str, ProviderAnswer]:
        return {name: one for name, one in self._payments.items() if name.startswith(prefix)}


def name_at(ms: int, sequence: int) -> str:
    """The name of a payment that was asked for at that id."""
    return payments.name_of(format_id(ms, sequence), "0123456789abcdef")


async def orphans_of(log: MemoryLog, provider: Ledger) -> dict[str, str]:
    """Why nobody wants what nobody wants, by payment."""
    found = await find_orphans(log, MemoryOperator(log), cast("Provider", provider), BOOK)
    return {one.payment.removeprefix(f"{BOOK}:"): one.why for one in found.orphans}


async def decide(log: MemoryLog) -> str:
    """Take the book over, and decide all that there is; the position."""
    record = await log.take_over(BOOK, "token")
    runner = await decided_to(log, BOOK, record.position)
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
    body = wire.encode_message(RequestAuto("checkup", days=[1]))
    for number in range(3):
        await log.append(BOOK, [NewInput("request_auto", body, f"k{number}", "service:web")])
    lost, elsewhere = name_at(ms - 1, 0), name_at(ms, sequence + 1)
    assert await orphans_of(log, Ledger(lost, elsewhere)) == {lost: "the log has no request of it"}


async def test_money_of_a_book_that_was_lost_whole_is_an_orphan_whenever_it_was_asked_for() -> None:
    lost = name_at(1_700_000_000_000, 7)
    found = await orphans_of(MemoryLog(Clock()), Ledger(lost))
    assert found == {lost: "the log has no request of it"}


async def test_money_of_another_request_that_had_the_same_id_is_an_orphan() -> None:
    """A new primary may give an id out again, and the log has a request of that id: not the same."""
    clock = Clock()
    log = MemoryLog(clock)
    command = RequestAuto("checkup")
    (_, asked_at) = await log.append(
        BOOK,
        [
            define(load_practice("dentist"), by="service:web"),
            NewInput("request_auto", wire.encode_message(command), "k", "customer:K1"),
        ],
    )
    mine, lost = (
        payments.name_of(asked_at, wire.asked(command, "k", by).digest)
        for by in ("customer:K1", "customer:K2")
    )
    await decide(log)
    for status in ("authorized", "captured"):
        assert await orphans_of(log, Ledger(mine, lost, status=status)) == {
            lost: "the log has no request of it"
        }

    declined = PaymentResult(f"{asked_at}:0", mine, "declined")
    result = NewInput("payment_result", wire.encode_message(declined), by="service:payment")
    await log.append(BOOK, [result])
    clock.now += 400 * DAY_MS
    await log.append(BOOK, [NewInput("tick", b"{}", by="service:booking")])
    await decide(log)
    assert await orphans_of(log, Ledger(mine, lost, status="captured")) == {
        lost: "the log has no request of it"
    }
    assert await orphans_of(log, Ledger(mine, lost)) == {
        mine: "its booking has left the book",
        lost: "the log has no request of it",
    }
