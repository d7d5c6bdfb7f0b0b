"""The book's own housekeeping: what is over leaves nothing behind."""

from __future__ import annotations

import pytest

from holdfast.actors.booking import book
from holdfast.actors.booking.runner import BookRunner

from .world import HOUR, Desk, dentist, entries_of_random_run, slot


def test_what_was_given_back_leaves_no_timer_behind() -> None:
    """An appointment's timer was kept until its time came, however long it had been cancelled."""
    desk = Desk(dentist(keep_failed_h=1), scan=False)
    sizes: list[int] = []
    for _ in range(4 * book.LEFTOVERS_SPARE):
        booking = desk.confirmed(slot("2026-09-01T10:00"))
        desk.cancel(booking)
        desk.settle(booking, "voided")
        desk.tick(desk.now + HOUR)
        assert not desk.state.bookings
        sizes.append(len(desk.state.timers))
    assert max(sizes) <= 2 * book.LEFTOVERS_SPARE


def test_timers_that_are_set_survive_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "LEFTOVERS_SPARE", -1_000_000)  # a sweep with every booking
    desk = Desk(dentist())
    first = desk.confirmed()
    second = desk.hold(slot("2026-06-02T11:00"), "customer:K2")
    desk.settle(second, "unknown")
    third = desk.hold(slot("2026-06-02T11:30"), "customer:K3")
    own = [(booking.due_ms, booking.id, 0) for booking in (first, second, third)]
    assert sorted(desk.state.timers) == sorted([*own, (second.payment.due_ms, second.id, 1)])


@pytest.mark.parametrize("contention", ["hold", "first_payment_wins"])
@pytest.mark.parametrize("seed", range(4))
def test_sweeping_changes_nothing_that_is_decided(
    seed: int, contention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = entries_of_random_run(seed, 150, contention)
    links: list[str] = []
    for spare in (1_000_000, -1_000_000):  # never, and with every booking
        monkeypatch.setattr(book, "LEFTOVERS_SPARE", spare)
        runner = BookRunner("b")
        runner.decide(entries)
        links.append(runner.digest)
    assert links[0] == links[1]
