"""The world's clock: exact, in order, never waiting for real time, and sure to notice the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from holdfast.sim.clock import START_MS, DeadlockError, LivelockError, WorldClock
from holdfast.sim.draws import Draws
from holdfast.sim.scheduler import Fifo, Uniform

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

S = 1_000_000_000


def test_no_real_time_is_slept() -> None:
    """A year takes no longer than a second."""

    async def main() -> None:
        for _ in range(6):
            await trio.sleep(30 * 86_400)
            await clock.sleep(30 * 86_400)

    clock = WorldClock()
    began = time.monotonic()
    clock.run(main)
    assert time.monotonic() - began < 60
    assert clock.now_ns == 360 * 86_400 * S
    assert clock.now_ms() == START_MS + 360 * 86_400_000


def test_events_and_trios_deadlines_happen_in_order() -> None:
    async def main() -> None:
        async def sleeper(name: str, sleep: Callable[[float], Awaitable[None]], s: float) -> None:
            await sleep(s)
            trace.append((clock.now_ns, name))

        clock.call_at(2 * S, lambda: trace.append((clock.now_ns, "call")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper, "ours late", clock.sleep, 3.0)
            nursery.start_soon(sleeper, "trio", trio.sleep, 1.5)
            nursery.start_soon(sleeper, "ours early", clock.sleep, 1.0)
            nursery.start_soon(sleeper, "trio late", trio.sleep, 4.0)

    trace: list[tuple[int, str]] = []
    clock = WorldClock()
    clock.run(main, strategy=Fifo(Draws(1)))
    assert trace == [
        (1 * S, "ours early"),
        (int(1.5 * S), "trio"),
        (2 * S, "call"),
        (3 * S, "ours late"),
        (4 * S, "trio late"),
    ]


def test_what_happens_at_the_same_instant_wins_over_a_deadline() -> None:
    """An answer that arrives at the very moment of the timeout has arrived."""

    async def main() -> bool:
        event = trio.Event()
        clock.call_at(1 * S, event.set)
        with trio.move_on_at(1.0) as scope:
            await event.wait()
        return scope.cancelled_caught

    clock = WorldClock()
    assert not clock.run(main)
    assert clock.now_ns == 1 * S


@pytest.mark.slow
@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(0, 1e6) | st.floats(0, 1e-6) | st.sampled_from([1, 2])),
        max_size=12,
    )
)
def test_every_sleeper_wakes_at_its_own_time(sleeps: list[tuple[bool, float]]) -> None:
    async def main() -> None:
        async def ours(seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append(clock.now_ns)
            assert 0 <= clock.now_ns / S - seconds < 2e-9

        async def trios(seconds: float) -> None:
            await trio.sleep(seconds)
            woken.append(clock.now_ns)
            assert 0 <= trio.current_time() - seconds < 2e-9

        async with trio.open_nursery() as nursery:
            for is_ours, seconds in sleeps:
                nursery.start_soon(ours if is_ours else trios, seconds)

    clock = WorldClock()
    woken: list[int] = []
    clock.run(main)
    assert len(woken) == len(sleeps)
    assert woken == sorted(woken)


def test_a_sleeper_can_be_cancelled() -> None:
    async def main() -> bool:
        with trio.move_on_after(1) as scope:
            await clock.sleep(5)
        return scope.cancelled_caught

    clock = WorldClock()
    assert clock.run(main)
    assert clock.now_ns == 1 * S


def test_a_call_can_be_cancelled_and_made_late() -> None:
    async def main() -> None:
        cancelled = clock.call_after(1 * S, lambda: trace.append(-1))
        assert cancelled.pending
        cancelled.cancel()
        assert not cancelled.pending
        cancelled.cancel()
        await clock.sleep(2)
        late = clock.call_at(1 * S, lambda: trace.append(clock.now_ns))
        assert trace == []
        await clock.sleep(1)
        assert not late.pending

    trace: list[int] = []
    clock = WorldClock()
    clock.run(main)
    assert trace == [2 * S]


def test_calls_that_call_at_once_do_not_keep_the_others_waiting() -> None:
    async def main() -> None:
        def again() -> None:
            trace.append("again")
            clock.call_after(0 if len(trace) < 5 else 1, again)

        clock.call_after(0, again)
        await clock.sleep_until(1)
        trace.append("slept")

    trace: list[str] = []
    clock = WorldClock()
    clock.run(main)
    assert trace[:5] == ["again"] * 5
    assert "slept" in trace


def test_an_error_in_a_call_fails_the_run() -> None:
    async def main() -> None:
        def broken() -> None:
            raise ValueError("broken")

        clock.call_after(5, broken)
        await trio.sleep_forever()

    clock = WorldClock()
    with pytest.raises(ValueError, match="broken"):
        clock.run(main)


def test_a_deadlock_fails_at_once_and_names_who_waits() -> None:
    async def main() -> None:
        event = trio.Event()

        async def wait_for_payment() -> None:
            await event.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_payment, name="the cashier")
            await trio.sleep(3)

    clock = WorldClock()
    with pytest.raises(DeadlockError) as caught:
        clock.run(main, strategy=Uniform(Draws(1)))
    text = str(caught.value)
    assert "there is no event and no deadline, and these tasks wait:" in text
    assert "the cashier waits at" in text
    assert "wait_for_payment (Event.wait)" in text
    assert "test_clock" in text
    assert clock.now_ns == 3 * S


def test_a_deadlock_counts_even_where_its_victims_fail_while_they_end() -> None:
    async def main() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in the way")

    with pytest.raises(DeadlockError):
        WorldClock().run(main)


def test_a_deadlock_of_a_task_that_cannot_be_cancelled_ends_the_run_too() -> None:
    async def main() -> None:
        with trio.CancelScope(shield=True):
            await clock.sleep(1)
            await ended.wait()

    ended = trio.Event()
    clock = WorldClock()
    with pytest.raises(DeadlockError):
        clock.run(main)


def test_waiting_for_a_socket_is_a_deadlock() -> None:
    """Nobody outside exists who could send."""

    async def main() -> None:
        left, right = trio.socket.socketpair()
        with left, right:
            await left.recv(1)

    with pytest.raises(DeadlockError, match=r"the main task waits at .*test_clock"):
        WorldClock().run(main)


def test_what_trio_sends_itself_is_not_a_deadlock() -> None:
    async def main() -> None:
        event = trio.Event()
        trio.lowlevel.current_trio_token().run_sync_soon(event.set)
        await event.wait()

    WorldClock().run(main)


@pytest.mark.slow
def test_tasks_that_never_wait_for_time_are_a_livelock() -> None:
    async def spin_round() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    clock = WorldClock()
    with pytest.raises(LivelockError, match="spin_round"):
        clock.run(spin_round, strategy=Fifo(Draws(1)))


def test_waiting_until_all_wait_takes_no_time() -> None:
    async def main() -> None:
        clock.call_at(1 * S, lambda: trace.append("call"))
        await wait_all_tasks_blocked()
        trace.append("all wait")
        await clock.sleep(2)

    trace: list[str] = []
    clock = WorldClock()
    clock.run(main)
    assert trace == ["all wait", "call"]


def test_a_clock_serves_one_run() -> None:
    clock = WorldClock()
    clock.run(trio.lowlevel.checkpoint)
    with pytest.raises(trio.TrioInternalError) as caught:
        clock.run(trio.lowlevel.checkpoint)
    assert "serves one run" in str(caught.value.__cause__)


def test_the_result_and_the_errors_of_a_run_are_those_of_its_main_task() -> None:
    async def fine() -> int:
        await clock.sleep(1)
        return 7

    async def broken() -> None:
        raise KeyError("x")

    clock = WorldClock()
    assert clock.run(fine) == 7
    with pytest.raises(KeyError):
        WorldClock().run(broken)


def test_a_run_may_be_failed_from_anywhere() -> None:
    async def main() -> None:
        async def check() -> None:
            await clock.sleep(1)
            clock.fail(RuntimeError("S1 is violated"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(check)
            await clock.sleep(10)

    clock = WorldClock()
    with pytest.raises(RuntimeError, match="S1 is violated"):
        clock.run(main, strategy=Uniform(Draws(1)))
    assert clock.now_ns == 1 * S
