"""The payment executor: one effect at the provider, one result in the log, whoever dies when."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from holdfast.actors.booking.messages import (
    Capture,
    CheckStatus,
    PaymentAction,
    PaymentResult,
    Preauthorize,
    Refund,
    Void,
)
from holdfast.actors.executor import LEFT_OUT_S
from holdfast.actors.health import Health
from holdfast.actors.payment.actor import PaymentOptions, run_payment
from holdfast.actors.payment.ledger import Capture as CaptureCall
from holdfast.actors.payment.ledger import Hold, Ledger, Reply
from holdfast.actors.payment.ledger import Refund as RefundCall
from holdfast.actors.payment.ledger import Void as VoidCall
from holdfast.actors.ports import (
    ActionEntry,
    Commit,
    ForeignDataError,
    InputEntry,
    LogUnavailableError,
    NewInput,
    OutcomeEntry,
    ProviderAnswer,
    ProviderUnavailableError,
)
from holdfast.transport.memory_log import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio.testing import MockClock

    from holdfast.actors.ports import ActionStream, DeadLetter

OPTIONS = PaymentOptions(wait_s=0.5, call_timeout_s=2.0, attempts_max=2, stop_grace_s=5.0)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class TrioClock:
    def now_ms(self) -> int:
        return 1_700_000_000_000 + int(trio.current_time() * 1000)


class FlakyLog(MemoryLog):
    """A log that is away for as many calls as one says; a lost post was written or not."""

    away = 0
    books_away = 0
    reads_away = 0
    lost_after = 0
    spoilt = ""

    async def read_actions(
        self, stream: ActionStream, books: Sequence[str], consumer: str, count: int, wait_s: float
    ) -> list[tuple[str, ActionEntry]]:
        if self.spoilt in books:
            raise ForeignDataError("somebody wrote there")
        if self.reads_away:
            self.reads_away -= 1
            raise LogUnavailableError("away")
        return await super().read_actions(stream, books, consumer, count, wait_s)

    async def wait_books(self, known: int, wait_s: float) -> list[str]:
        if known and self.books_away:
            self.books_away -= 1
            raise LogUnavailableError("away")
        return await super().wait_books(known, wait_s)

    async def finish_actions(
        self,
        stream: object,
        book: str,
        finished: Sequence[tuple[str, NewInput | None]],
        dead_letters: Sequence[DeadLetter] = (),
    ) -> None:
        if self.away:
            self.away -= 1
            raise LogUnavailableError("away")
        await super().finish_actions("payments", book, finished, dead_letters)
        if self.lost_after:
            self.lost_after -= 1
            raise LogUnavailableError("the connection was lost")


class FakeProvider:
    """A provider on the sandbox's own ledger; *before* and *after* each effect it does as told."""

    def __init__(self) -> None:
        self.ledger_ = Ledger()
        self.keys: list[str] = []
        self.running = self.running_most = 0
        self.too_much = 0
        self.before: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.after: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    async def _do(self, call: Hold | CaptureCall | VoidCall | RefundCall) -> ProviderAnswer:
        self.keys.append(call.key)
        self.running += 1
        self.running_most = max(self.running_most, self.running)
        try:
            await self.before()
            reply = self.ledger_.apply(call)
            await self.after()
        finally:
            self.running -= 1
        return self._answer(reply)

    def _answer(self, reply: Reply) -> ProviderAnswer:
        payment = reply.payment
        if payment is None:
            return ProviderAnswer("none")
        return ProviderAnswer(payment.status, payment.id, "", payment.amount_cents + self.too_much)

    async def preauthorize(
        self, payment: str, amount_cents: int, currency: str, customer: str, key: str
    ) -> ProviderAnswer:
        return await self._do(Hold(payment, key, amount_cents, currency, customer))

    async def capture(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        return await self._do(CaptureCall(payment, key, amount_cents))

    async def void(self, payment: str, key: str) -> ProviderAnswer:
        return await self._do(VoidCall(payment, key))

    async def refund(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        return await self._do(RefundCall(payment, key, amount_cents))

    async def status(self, payment: str) -> ProviderAnswer:
        await self.before()
        return self._answer(Reply(self.ledger_.payment(payment)))

    async def ledger(self, prefix: str = "") -> dict[str, ProviderAnswer]:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


async def emit(log: MemoryLog, book: str, *actions: PaymentAction | ActionEntry) -> None:
    """Let the book commit one input that emits *actions*."""
    await log.append(book, [NewInput("tick", b"{}", by="service:booking")])
    record = await log.take_over(book, "owner")
    inputs = (await log.read_inputs({book: record.position}, 512, 0))[book]
    last = inputs[-1].id
    ms, _, seq = last.partition("-")
    entries: list[ActionEntry] = []
    for n, action in enumerate(actions):
        stream_id = f"{ms}-{int(seq) * 4096 + n}"
        if isinstance(action, ActionEntry):
            entries.append(msgspec.structs.replace(action, id=stream_id))
            continue
        kind = msgspec.json.decode(msgspec.json.encode(action))["type"]
        body = msgspec.json.encode(action)
        entries.append(ActionEntry(stream_id, f"{last}:{n}", kind, body, TRACE))
    outcomes = [OutcomeEntry(i.id, "accepted", b"{}") for i in inputs]
    commit = Commit(
        book, record.epoch, "owner", record.position, last, 1, "d", outcomes, entries, [], []
    )
    assert await log.commit([commit]) == [None]


async def results(log: MemoryLog, book: str, count: int) -> list[PaymentResult]:
    """The first *count* results in the log, in its order."""
    found: list[InputEntry] = []
    after = "0-0"
    with trio.fail_after(300):
        while len(found) < count:
            entries = (await log.read_inputs({book: after}, 512, 1.0)).get(book, [])
            found += [e for e in entries if e.type == "payment_result"]
            after = entries[-1].id if entries else after
    assert all((e.by, e.key) == ("service:payment", "") for e in found)
    return [msgspec.json.decode(e.body, type=PaymentResult) for e in found]


async def run_until_idle(
    log: MemoryLog,
    provider: FakeProvider,
    count: int,
    options: PaymentOptions = OPTIONS,
    book: str = "demo",
) -> list[PaymentResult]:
    """Run one executor until *count* results are there, and stop it."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start(log, provider, "one", options, stop))
        found = await results(log, book, count)
        stop.set()
    facts = await log.facts(book, "payments")
    assert (facts.pending, facts.lag) == (0, 0)
    return found


def start(
    log: MemoryLog,
    provider: FakeProvider,
    consumer: str,
    options: PaymentOptions,
    stop: trio.Event,
) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        rng = random.Random(1)
        await run_payment(log, provider, consumer=consumer, options=options, stop=stop, rng=rng)

    return run


def hold(n: int) -> Preauthorize:
    return Preauthorize(f"p{n}", 100, "EUR", "K1", f"k{n}")


@pytest.fixture
def log() -> FlakyLog:
    return FlakyLog(TrioClock())


async def test_each_action_becomes_its_call_and_one_result(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    provider = FakeProvider()
    seen: list[str] = []
    for action in (
        hold(1),
        CheckStatus("p1"),
        Capture("p1", 100, "kc"),
        Refund("p1", 100, "kr"),
        Void("p9", "kv"),
        CheckStatus("p9"),
    ):
        await emit(log, "demo", action)
        found = await run_until_idle(log, provider, len(seen) + 1)
        seen.append(found[-1].status)
    assert seen == ["authorized", "authorized", "captured", "refunded", "none", "none"]
    assert provider.keys == ["demo:k1", "demo:kc", "demo:kr", "demo:kv"]
    assert provider.ledger_.payment("demo:p1") is not None


async def test_a_result_carries_the_actions_id_and_trace(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    await emit(log, "demo", hold(1))
    (result,) = await run_until_idle(log, FakeProvider(), 1)
    entries = (await log.read_inputs({"demo": "0-0"}, 512, 0))["demo"]
    posted = next(e for e in entries if e.type == "payment_result")
    assert posted.trace == TRACE
    assert result.payment == "p1"
    assert result.action.endswith(":0")
    assert result.reference == "pay_00000001"


async def test_an_amount_that_is_not_what_was_asked_for_is_told_to_a_person(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    """The status is the truth all the same; which of the two amounts is wrong nobody here can know."""
    provider = FakeProvider()
    with capture_logs() as lines:
        await emit(log, "demo", hold(1))
        await run_until_idle(log, provider, 1)
        assert "amount_differs" not in [line["event"] for line in lines]
        provider.too_much = 7
        await emit(log, "demo", CheckStatus("p1"), Capture("p1", 100, "kc"))
        assert (await run_until_idle(log, provider, 3))[-1].status == "captured"
    (line,) = [line for line in lines if line["event"] == "amount_differs"]
    assert (line["log_level"], line["payment"]) == ("error", "p1")
    assert (line["asked_cents"], line["told_cents"]) == (100, 107)


async def test_no_answer_is_unknown_after_a_few_attempts_with_one_key(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    provider = FakeProvider()
    provider.before = trio.sleep_forever
    await emit(log, "demo", hold(1))
    (result,) = await run_until_idle(log, provider, 1)
    assert (result.status, provider.keys) == ("unknown", ["demo:k1"] * 2)


async def test_an_answer_lost_after_the_effect_is_asked_for_again(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    provider = FakeProvider()

    async def lose_once() -> None:
        provider.after = trio.lowlevel.checkpoint
        raise ProviderUnavailableError("500")

    provider.after = lose_once
    await emit(log, "demo", hold(1))
    (result,) = await run_until_idle(log, provider, 1)
    assert (result.status, provider.keys) == ("authorized", ["demo:k1"] * 2)
    assert provider.ledger_.totals()["EUR"].held == 100


async def test_a_status_that_means_nothing_is_unknown(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    class Strange(FakeProvider):
        async def status(self, payment: str) -> ProviderAnswer:
            return ProviderAnswer("requires_dance", "r" * 300, "x" * 600)

    await emit(log, "demo", CheckStatus("p1"))
    (result,) = await run_until_idle(log, Strange(), 1)
    assert result.status == "unknown"
    assert len(result.reference) == 255


@pytest.mark.parametrize(
    "entry",
    [
        ActionEntry("", "1-0:0", "void", b"{"),
        ActionEntry("", "1-0:0", "void", b"\xff"),
        ActionEntry("", "1-0:0", "refund", b'{"type":"void","payment":"p1","key":"k"}'),
        ActionEntry("", "1-0:0", "void", b'{"type":"void","payment":"","key":"k"}'),
        ActionEntry("", "", "void", b'{"type":"void","payment":"p1","key":"k"}'),
        ActionEntry("", "1-0:0", "void", b" " * 70_000),
    ],
)
async def test_what_cannot_be_understood_is_a_dead_letter_and_the_rest_goes_on(
    autojump_clock: MockClock, log: FlakyLog, entry: ActionEntry
) -> None:
    provider = FakeProvider()
    await emit(log, "demo", entry, hold(1))
    await run_until_idle(log, provider, 1)
    assert (await log.facts("demo", "deadletters")).added == 1
    assert provider.keys == ["demo:k1"]


async def test_never_more_calls_at_a_time_than_allowed(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    provider = FakeProvider()

    async def slow() -> None:
        await trio.sleep(0.1)

    provider.before = slow
    await emit(log, "demo", *(hold(n) for n in range(100)))
    options = msgspec.structs.replace(OPTIONS, concurrency_max=7, read_max=20)
    found = await run_until_idle(log, provider, 100, options)
    assert len({r.action for r in found}) == 100
    assert provider.running_most == 7


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_dead_executors_action_is_claimed_and_has_one_effect(
    autojump_clock: MockClock, log: FlakyLog, moment: str
) -> None:
    provider = FakeProvider()
    reached = trio.Event()

    async def hang() -> None:
        reached.set()
        await trio.sleep_forever()

    setattr(provider, moment, hang)
    options = msgspec.structs.replace(OPTIONS, call_timeout_s=1_000.0)
    await emit(log, "demo", hold(1))
    async with trio.open_nursery() as dying:
        dying.start_soon(start(log, provider, "dead", options, trio.Event()))
        await reached.wait()
        dying.cancel_scope.cancel()
    setattr(provider, moment, trio.lowlevel.checkpoint)

    (result,) = await run_until_idle(log, provider, 1)

    assert (result.status, provider.keys) == ("authorized", ["demo:k1"] * 2)
    assert provider.ledger_.totals()["EUR"].authorized == 100


async def test_a_long_call_is_not_taken_for_a_dead_one(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    """Two executors on one book: the call outlasts the claim's idle time and is made once."""
    provider = FakeProvider()

    async def long() -> None:
        await trio.sleep(120)

    provider.before = long
    options = msgspec.structs.replace(OPTIONS, call_timeout_s=1_000.0)
    stop = trio.Event()
    await emit(log, "demo", hold(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start(log, provider, "one", options, stop))
        nursery.start_soon(start(log, provider, "two", options, stop))
        await results(log, "demo", 1)
        stop.set()
    assert provider.keys == ["demo:k1"]


async def test_results_wait_until_the_log_is_back_and_reading_stops_meanwhile(
    autojump_clock: MockClock,
    log: FlakyLog,
) -> None:
    provider = FakeProvider()
    log.away = 8
    await emit(log, "demo", *(hold(n) for n in range(50)))
    options = msgspec.structs.replace(OPTIONS, read_max=10, posts_max=1)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start(log, provider, "one", options, stop))
        await trio.sleep(2)
        assert log.away > 0
        assert len(provider.keys) == 10
        assert len(await results(log, "demo", 50)) == 50
        stop.set()
    assert sorted(provider.keys) == sorted(f"demo:k{n}" for n in range(50))


async def test_a_post_of_unknown_fate_is_posted_again(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    log.lost_after = 1
    await emit(log, "demo", hold(1))
    found = await run_until_idle(log, FakeProvider(), 2)
    assert found[0] == found[1]


async def test_a_log_or_a_provider_that_is_away_is_told_and_so_is_that_it_is_back(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    health, provider, stop = Health(), FakeProvider(), trio.Event()
    heard: list[dict[str, str]] = []
    health.listen(lambda: heard.append(health.troubles))
    answers: list[ProviderUnavailableError | None] = [ProviderUnavailableError("busy"), None]
    log.away = 2

    async def answer() -> None:
        if error := answers.pop(0):
            raise error

    provider.before = answer
    await emit(log, "demo", hold(1))
    run = partial(run_payment, consumer="one", options=OPTIONS, stop=stop, health=health)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, log, provider)
        await results(log, "demo", 1)
        stop.set()
    assert heard == [
        {"provider": "the provider is unavailable: busy"},
        {},
        {"log": "away"},
        {},
    ]


async def told_until_well(log: MemoryLog, wait_s: float) -> list[dict[str, str]]:
    """The troubles that an actor on *log* tells of, one after the other, until it has none any more."""
    health, stop = Health(), trio.Event()
    heard: list[dict[str, str]] = []

    def hear() -> None:
        heard.append(health.troubles)
        if not health.troubles:
            stop.set()

    health.listen(hear)
    await emit(log, "demo")
    options = msgspec.structs.replace(OPTIONS, wait_s=wait_s)
    with trio.fail_after(60):
        await run_payment(
            log, FakeProvider(), consumer="one", options=options, stop=stop, health=health
        )
    return heard


@pytest.mark.parametrize("away", ["books_away", "reads_away"])
async def test_that_a_log_is_back_is_told_though_nothing_arrives(
    autojump_clock: MockClock, log: FlakyLog, away: str
) -> None:
    setattr(log, away, 1)
    assert await told_until_well(log, 3600) == [{"log": "away"}, {}]


async def test_a_log_that_lost_all_books_while_it_was_away_is_not_called_away_for_ever(
    autojump_clock: MockClock,
) -> None:
    class LostBooks(MemoryLog):
        async def read_actions(
            self,
            stream: ActionStream,
            books: Sequence[str],
            consumer: str,
            count: int,
            wait_s: float,
        ) -> list[tuple[str, ActionEntry]]:
            self.registered.clear()
            raise LogUnavailableError("away")

    assert await told_until_well(LostBooks(TrioClock()), OPTIONS.wait_s) == [{"log": "away"}, {}]


async def test_a_book_that_is_left_out_is_told_until_a_person_has_looked(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    health, stop = Health(), trio.Event()
    heard: list[dict[str, str]] = []

    def hear() -> None:
        heard.append(health.troubles)
        stop.set()

    health.listen(hear)
    log.spoilt = "demo"
    await emit(log, "demo", hold(1))
    run = partial(run_payment, consumer="one", options=OPTIONS, stop=stop, health=health)
    await run(log, FakeProvider())
    assert heard == [{"book demo": "somebody wrote there"}]


async def test_books_that_come_later_are_served(autojump_clock: MockClock, log: FlakyLog) -> None:
    provider = FakeProvider()
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start(log, provider, "one", OPTIONS, stop))
        for book in ("a", "b", "c"):
            await emit(log, book, hold(1))
            assert (await results(log, book, 1))[0].status == "authorized"
        stop.set()
    assert sorted(provider.keys) == ["a:k1", "b:k1", "c:k1"]


async def test_a_book_that_came_in_the_place_of_one_that_a_failover_lost_is_served(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    """Found by the simulator (seed 51783, sparse): there were as many books as before."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start(log, FakeProvider(), "one", OPTIONS, stop))
        await emit(log, "a", hold(1))
        await results(log, "a", 1)
        log.registered.clear()
        log.books.clear()
        await emit(log, "b", hold(1))
        assert (await results(log, "b", 1))[0].status == "authorized"
        stop.set()


async def test_a_stop_finishes_the_calls_under_way(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    provider = FakeProvider()
    stop = trio.Event()

    async def slow() -> None:
        stop.set()
        await trio.sleep(1.5)

    provider.before = slow
    await emit(log, "demo", hold(1))
    await start(log, provider, "one", OPTIONS, stop)()
    assert [r.status for r in await results(log, "demo", 1)] == ["authorized"]


async def test_a_stop_ends_within_its_grace_and_leaves_the_rest_pending(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    provider = FakeProvider()
    stop = trio.Event()

    async def hang() -> None:
        stop.set()
        await trio.sleep_forever()

    provider.before = hang
    await emit(log, "demo", hold(1))
    began = trio.current_time()
    options = msgspec.structs.replace(OPTIONS, call_timeout_s=1_000.0)
    await start(log, provider, "one", options, stop)()
    assert trio.current_time() - began < 7
    assert (await log.facts("demo", "payments")).pending == 1


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PaymentOptions(read_max=0)
    with pytest.raises(ValueError, match="half"):
        PaymentOptions(keep_claim_s=20, claim_idle_s=30)
    with pytest.raises(ValueError, match="call_timeout_s"):
        PaymentOptions(call_timeout_s=0)


@pytest.mark.parametrize("spoilt", ["payments", "inputs"])
async def test_a_book_with_a_key_of_a_wrong_type_does_not_keep_others_from_their_payments(
    autojump_clock: MockClock, log: FlakyLog, spoilt: str
) -> None:
    """It is left out with an error, and what was taken of it stays pending."""
    stop = trio.Event()
    await emit(log, "demo", hold(1))
    await emit(log, "other", hold(1))
    log.book("demo").stream(cast("Any", spoilt)).foreign = True
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start(log, FakeProvider(), "one", OPTIONS, stop))
            await results(log, "other", 1)
            await emit(log, "other", hold(2))
            await results(log, "other", 2)
            await trio.sleep(10)
            stop.set()
    (line,) = [line for line in lines if line["event"] == "book_left_out"]
    assert (line["log_level"], line["book"]) == ("error", "demo")
    assert (await log.facts("other", "payments")).pending == 0
    if spoilt == "inputs":
        assert (await log.facts("demo", "payments")).pending == 1


@pytest.mark.parametrize("spoilt", ["payments", "inputs"])
async def test_a_book_that_a_person_has_mended_is_served_again_without_a_restart(
    autojump_clock: MockClock, log: FlakyLog, spoilt: str
) -> None:
    """Longer each time it is looked at in vain; what was taken of it is claimed and posted once."""
    health, stop, provider = Health(), trio.Event(), FakeProvider()
    await emit(log, "demo", hold(1))
    key = log.book("demo").stream(cast("Any", spoilt))
    key.foreign = True
    run = partial(run_payment, consumer="one", options=OPTIONS, stop=stop, health=health)
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, log, provider)
            await trio.sleep(LEFT_OUT_S * 4)
            assert "is no stream" in health.troubles["book demo"]
            key.foreign = False
            log.reads_away = 1
            assert (await results(log, "demo", 1))[0].status == "authorized"
            await trio.sleep(OPTIONS.claim_idle_s)
            assert health.troubles == {}
            await emit(log, "demo", hold(2))
            await results(log, "demo", 2)
            stop.set()
    told = [line["event"] for line in lines if line["event"].startswith("book_")]
    assert told[-2:] == ["book_left_out", "book_served_again"]
    assert dict.fromkeys(provider.keys) == {"demo:k1": None, "demo:k2": None}
    assert (await log.facts("demo", "payments")).pending == 0


async def test_a_long_call_of_a_book_that_is_spoilt_meanwhile_stays_pending(
    autojump_clock: MockClock, log: FlakyLog
) -> None:
    """Signs of life and claims find the key spoilt first; the others' calls go on."""
    provider = FakeProvider()
    stop = trio.Event()
    await emit(log, "demo", hold(1))
    await emit(log, "other", hold(1))

    async def spoil() -> None:
        log.book("demo").payments.foreign = True
        await trio.sleep(60)

    provider.before = spoil
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start(log, provider, "one", OPTIONS, stop))
            await results(log, "other", 1)
            stop.set()
    assert [line["book"] for line in lines if line["event"] == "book_left_out"] == ["demo"]
    assert (await log.facts("other", "payments")).pending == 0
