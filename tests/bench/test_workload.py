"""The crowd of the benches: what it did is what a log of it says."""

from __future__ import annotations

from tools import entries
from workload import Crowd

from holdfast.actors.booking.runner import BookRunner


def test_a_log_of_the_crowd_gives_its_book() -> None:
    crowd = Crowd(1)
    crowd.run(1_000)
    runner = BookRunner("lived")
    decided = runner.decide(list(entries(crowd.inputs)))
    assert decided.dead_letters == []
    assert len(crowd.book.bookings) > 100
    assert runner.machine.encode(runner.state) == crowd.machine.encode(crowd.book)
