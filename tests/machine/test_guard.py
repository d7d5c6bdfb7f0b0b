"""What the guard does to the process around a transition; what it notices is in test_audit.py."""

from __future__ import annotations

import gc
import time
from typing import Any

from holdfast.machine.guard import Guard


class Knot:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.self = self


def test_other_peoples_callbacks_of_a_collection_do_not_run_inside() -> None:
    """A test tool that times collections would look like a transition that looks at the clock."""
    seen: list[float] = []

    def look_at_the_clock(_phase: str, _facts: dict[str, Any]) -> None:
        seen.append(time.perf_counter())

    before = gc.get_threshold()
    gc.set_threshold(1)
    gc.callbacks.append(look_at_the_clock)
    guard = Guard()
    try:
        with guard, Guard():
            knots = [Knot() for _ in range(100)]
    finally:
        gc.callbacks.remove(look_at_the_clock)
        gc.set_threshold(*before)
    assert len(knots) == 100
    assert guard.touched == []
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with Guard():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
