"""The simulated provider: one effect per key on whatever side of it a call breaks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from holdfast.actors.ports import Message, ProviderUnavailableError
from holdfast.sim.bank import fate_of
from holdfast.sim.clock import WorldClock
from holdfast.sim.draws import Draws
from holdfast.sim.mailer import MailerFaults, SimMailer
from holdfast.sim.marks import Marks
from holdfast.sim.provider import ProviderFaults, SimProvider
from holdfast.sim.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Story = Callable[[SimProvider], Awaitable[None]]

QUICK = ProviderFaults(decline=0.0, latency_ms_max=0)


def live(faults: ProviderFaults, story: Story, seed: int = 1) -> SimProvider:
    """Tell *story* to a provider with *faults*; return it when all it set off is over."""
    clock = WorldClock()
    made: list[SimProvider] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            trace = Trace(clock.now_ms)
            provider = SimProvider(Draws(seed), faults, trace, Marks(), nursery, clock.now_ms)
            made.append(provider)
            await story(provider)

    clock.run(main)
    return made[0]


def with_fault(name: str) -> ProviderFaults:
    return ProviderFaults(decline=0.0, latency_ms_max=0, **{name: 1.0})  # type: ignore[arg-type]


async def hold(provider: SimProvider) -> str:
    """Ask for a hold; the answer's status, or "" where none came."""
    with trio.move_on_after(5.0):
        try:
            return (await provider.preauthorize("b:p1", 5_000, "EUR", "K1", "key-1")).status
        except ProviderUnavailableError:
            return ""
    return ""


@pytest.mark.parametrize(
    ("fault", "effect"),
    [
        ("timeout_before", False),
        ("timeout_after", True),
        ("late", True),
        ("error_before", False),
        ("error_after", True),
        ("busy", False),
        ("busy_after", True),
    ],
)
def test_a_fault_hides_the_answer_and_its_side_decides_the_effect(fault: str, effect: bool) -> None:
    async def story(provider: SimProvider) -> None:
        assert await hold(provider) == ""

    provider = live(with_fault(fault), story)
    assert (provider.book_of_record.payment("b:p1") is not None) is effect
    assert provider.under_way == 0


def test_a_late_effect_comes_after_the_caller_gave_up() -> None:
    async def story(provider: SimProvider) -> None:
        with trio.move_on_after(0.5):
            await provider.preauthorize("b:p1", 5_000, "EUR", "K1", "key-1")
        assert provider.book_of_record.payment("b:p1") is None
        assert provider.under_way == 1

    assert live(with_fault("late"), story).book_of_record.payment("b:p1") is not None


def test_the_same_key_has_one_effect() -> None:
    async def story(provider: SimProvider) -> None:
        assert await hold(provider) == "authorized"
        assert (await provider.void("b:p1", "key-2")).status == "voided"
        assert await hold(provider) == "authorized"  # the first answer, as providers replay it
        assert (await provider.status("b:p1")).status == "voided"

    provider = live(QUICK, story)
    assert [call.first for call in provider.calls] == [True, True, False]
    assert provider.book_of_record.totals()["EUR"].held == 0


def test_a_pending_hold_is_decided_later() -> None:
    async def story(provider: SimProvider) -> None:
        assert await hold(provider) == "pending"

    settled = live(with_fault("pending"), story).book_of_record.payment("b:p1")
    assert settled is not None
    assert settled.status == "authorized"


def test_a_stale_status_is_the_one_before() -> None:
    async def story(provider: SimProvider) -> None:
        assert await hold(provider) == "authorized"
        assert (await provider.status("b:p1")).status == "none"
        await trio.sleep(provider.faults.stale_s_max)
        assert (await provider.status("b:p1")).status == "authorized"

    live(with_fault("stale"), story)


def test_a_hold_lapses_by_itself() -> None:
    async def story(provider: SimProvider) -> None:
        assert await hold(provider) == "authorized"

    provider = live(with_fault("lapse"), story)
    assert list(provider.lapsed) == ["b:p1"]
    assert provider.book_of_record.totals()["EUR"].voided == 5_000


def test_nothing_works_in_an_outage_and_everything_after_healing() -> None:
    now = WorldClock().now_ms()
    faults = ProviderFaults(decline=0.0, outages=((now, now + 60_000),))

    async def story(provider: SimProvider) -> None:
        assert await hold(provider) == ""
        provider.heal()
        assert await hold(provider) == "authorized"

    live(faults, story)


def test_a_key_that_the_provider_forgot_is_decided_anew_and_moves_no_money_twice() -> None:
    """The reference is unique for ever, whatever becomes of keys: so forgetting one does no harm."""

    async def story(provider: SimProvider) -> None:
        assert await hold(provider) == "authorized"
        assert (await provider.void("b:p1", "key-2")).status == "voided"
        assert await hold(provider) == "voided"  # not the first answer: that is forgotten
        assert (await provider.void("b:p1", "key-2")).status == "voided"

    provider = live(with_fault("key_expired"), story)
    assert provider.book_of_record.totals()["EUR"].authorized == 5_000
    assert [call.first for call in provider.calls] == [True, True, False, False]


def test_a_failed_call_may_leave_no_key_behind() -> None:
    faults = msgspec.structs.replace(with_fault("error_after"), unremembered=1.0)

    async def story(provider: SimProvider) -> None:
        assert await hold(provider) == ""
        provider.heal()
        assert (await provider.void("b:p1", "key-2")).status == "voided"
        assert await hold(provider) == "voided"

    live(faults, story)


def test_a_key_that_somebody_else_used_is_refused_however_often_it_comes() -> None:
    async def story(provider: SimProvider) -> None:
        assert await hold(provider) == "failed"
        provider.heal()
        assert await hold(provider) == "failed"
        assert (await provider.status("b:p1")).status == "none"

    assert list(live(with_fault("key_taken"), story).turned_away) == ["b:p1"]


@pytest.mark.parametrize("kind", ["capture", "void"])
def test_a_refused_call_succeeds_under_a_later_key(kind: str) -> None:
    async def once(provider: SimProvider, key: str) -> str:
        if kind == "capture":
            return (await provider.capture("b:p1", 5_000, key)).status
        return (await provider.void("b:p1", key)).status

    async def story(provider: SimProvider) -> None:
        assert await hold(provider) == "authorized"
        provider.heal()  # a bank's refusal is no fault that heals
        answers = [await once(provider, "key-2"), await once(provider, "key-2")]
        assert answers == ["failed", "failed"]
        assert (await provider.status("b:p1")).status == "authorized"
        answers = [await once(provider, f"key-{number}") for number in range(3, 3 + 3)]
        assert answers[-1] == ("captured" if kind == "capture" else "voided")

    live(with_fault("refused"), story)


def test_who_is_refused_for_good_is_refused_until_the_hold_lapses() -> None:
    faults = msgspec.structs.replace(with_fault("refused"), refused_for_good=1.0)

    async def story(provider: SimProvider) -> None:
        assert await hold(provider) == "authorized"
        for number in range(9):
            assert (await provider.capture("b:p1", 5_000, f"key-{number}")).status == "failed"
        await trio.sleep(provider.faults.lapse_s_max)
        assert (await provider.capture("b:p1", 5_000, "key-9")).status == "voided"

    assert list(live(faults, story).lapsed) == ["b:p1"]


def test_a_wrong_amount_is_only_told() -> None:
    async def story(provider: SimProvider) -> None:
        answer = await provider.preauthorize("b:p1", 5_000, "EUR", "K1", "key-1")
        assert answer.status == "authorized"
        assert answer.amount_cents > 5_000

    assert live(with_fault("wrong_amount"), story).book_of_record.totals()["EUR"].held == 5_000


def test_what_waits_at_the_door_comes_in_at_once_when_an_outage_ends() -> None:
    now = WorldClock().now_ms()
    faults = ProviderFaults(decline=0.0, outages=((now, now + 30_000),), held=1.0, late_s_max=20)

    async def ask(provider: SimProvider, number: int) -> None:
        with trio.move_on_after(3.0), contextlib.suppress(ProviderUnavailableError):
            await provider.preauthorize(f"b:p{number}", 100, "EUR", f"K{number}", f"k{number}")

    async def story(provider: SimProvider) -> None:
        await ask(provider, 0)  # too early: no call may take effect so late
        await trio.sleep(10.0)
        for number in (1, 2, 3):
            await ask(provider, number)
        assert provider.under_way == 3
        assert len(provider.book_of_record) == 0
        await trio.sleep(30.0 - 19.0)
        assert len(provider.book_of_record) == 3

    live(faults, story)


def test_declines_are_a_share_and_each_customer_keeps_theirs() -> None:
    async def story(provider: SimProvider) -> None:
        for number in range(200):
            await provider.preauthorize(f"b:p{number}", 1, "EUR", f"K{number}", f"k{number}")

    def declined(seed: int) -> list[str]:
        provider = live(ProviderFaults(decline=0.5, latency_ms_max=0), story, seed)
        return [p.customer for p in provider.book_of_record.payments() if p.status == "declined"]

    assert declined(1) == declined(1) != declined(2)
    assert 80 <= len(declined(1)) <= 120


@pytest.mark.parametrize(("fault", "arrived"), [("error_before", 0), ("error_after", 1)])
def test_the_mailer_fails_on_either_side(fault: str, arrived: int) -> None:
    clock = WorldClock()
    trace = Trace(clock.now_ms)
    faults = MailerFaults(**{fault: 1.0})  # type: ignore[arg-type]
    mailer = SimMailer(Draws(1), faults, trace, Marks())
    message = Message("k", "b", "a@example.org", "s", "t")

    async def main() -> None:
        with pytest.raises(OSError, match="the mailer"):
            await mailer.deliver(message)
        mailer.heal()
        assert await mailer.deliver(message) is (arrived == 0)

    clock.run(main)
    assert [a.new for a in mailer.arrivals].count(True) == 1


def test_a_payments_fate_goes_by_its_request_and_not_by_what_was_asked() -> None:
    assert fate_of("book1:p17-2-0123456789abcdef") == "book1:p17-2"
    assert fate_of("book1:bk:p17-2-0123456789abcdef:void:2") == "book1:bk:p17-2:void:2"
