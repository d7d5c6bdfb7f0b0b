"""A large book is made of its snapshot without a look for cycles, and set aside from later ones."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from holdfast.actors.booking import collector
from holdfast.actors.booking.runner import BookRunner

from .world import entries_of_random_run

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    """As it was before, whatever a test does."""
    enabled, frozen = gc.isenabled(), gc.get_freeze_count()
    gc.enable()
    yield
    if not frozen:
        gc.unfreeze()
    (gc.enable if enabled else gc.disable)()


def test_nothing_is_collected_while_a_large_book_is_made() -> None:
    before = gc.get_freeze_count()
    with collector.at_rest(collector.LARGE_BYTES):
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before


def test_a_small_book_is_left_to_the_collector() -> None:
    before = gc.get_freeze_count()
    with collector.at_rest(collector.LARGE_BYTES - 1):
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_who_does_not_collect_is_left_alone() -> None:
    """As inside a guarded transition, where nothing may be collected until its end."""
    gc.disable()
    before = gc.get_freeze_count()
    with collector.at_rest(collector.LARGE_BYTES):
        assert not gc.isenabled()
    assert not gc.isenabled()
    assert gc.get_freeze_count() == before


def test_the_collector_works_again_after_a_snapshot_that_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="damaged"), collector.at_rest(collector.LARGE_BYTES):
        raise ValueError("damaged")
    assert gc.isenabled()


def test_a_large_book_is_no_longer_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "LARGE_BYTES", 1)
    runner = BookRunner("b")
    runner.decide(entries_of_random_run(1, 150, "hold"))
    again = BookRunner("b", runner.snapshot().whole())
    looked_through = {id(found) for found in gc.get_objects()}
    assert id(again.state.timers) not in looked_through
    again.state.timers = list(again.state.timers)
    assert id(again.state.timers) in {id(found) for found in gc.get_objects()}
