"""Transitions per second in memory, every input checked incrementally; one core, no server.

    python bench/transitions.py [--inputs 200000]

Prints one line of JSON. Ratios are taken in the same run: with the check against without, and the
cost of an input on a book of 100,000 bookings against one of 1,000.
"""

from __future__ import annotations

import argparse
import json
from statistics import median
from time import process_time
from typing import TYPE_CHECKING

from workload import Crowd

from holdfast.actors.booking.invariants import check_touched, full_scan
from holdfast.actors.booking.machine import BookingMachine
from holdfast.bootstrap import calm_garbage_collection
from holdfast.machine import Emit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.booking.book import Book
    from holdfast.actors.booking.messages import Action
    from holdfast.actors.booking.wire import BookingInput


def timed(book: Book, inputs: Sequence[BookingInput], check: bool) -> float:
    """Decide *inputs* on *book*; CPU seconds for each input."""
    machine = BookingMachine()
    emit: Emit[Action] = Emit()
    transition, begin = machine.transition, emit.begin
    calm_garbage_collection()  # as the booking actor's process does
    start = process_time()
    if check:
        for made in inputs:
            begin(made.id)
            transition(book, made, emit)
            check_touched(book)
    else:
        for made in inputs:
            begin(made.id)
            transition(book, made, emit)
    return (process_time() - start) / len(inputs)


def by_size(size: int, count: int) -> tuple[bytes, list[BookingInput]]:
    """A book of *size* bookings, and inputs that follow."""
    crowd = Crowd(7, staff=10)
    crowd.fill(size, first_day=70)  # later than what the crowd asks for: the same mix on both
    state = crowd.book.encode()
    crowd.inputs.clear()
    crowd.run(count)
    return state, crowd.inputs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    crowd = Crowd(1)
    crowd.run(options.inputs)
    machine = BookingMachine()
    checked: list[float] = []
    plain: list[float] = []
    for _ in range(options.rounds):
        book = machine.genesis()
        checked.append(timed(book, crowd.inputs, check=True))
        plain.append(timed(machine.genesis(), crowd.inputs, check=False))
        assert book.encode() == crowd.book.encode(), "a replay differs"
        assert not full_scan(book)
    small_state, small_inputs = by_size(1_000, options.inputs // 10)
    large_state, large_inputs = by_size(100_000, options.inputs // 10)
    small: list[float] = []
    large: list[float] = []
    for _ in range(options.rounds):
        small.append(timed(machine.decode(small_state), small_inputs, check=True))
        large.append(timed(machine.decode(large_state), large_inputs, check=True))
    print(
        json.dumps(
            {
                "inputs": len(crowd.inputs),
                "accepted_share": round(crowd.accepted / crowd.asked, 3),
                "transitions_per_s": round(1 / median(checked)),
                "transitions_per_s_unchecked": round(1 / median(plain)),
                "ratio_checked_to_unchecked": round(median(checked) / median(plain), 3),
                "spread": round(max(checked) / min(checked), 3),
                "us_per_input_1000_bookings": round(median(small) * 1e6, 2),
                "us_per_input_100000_bookings": round(median(large) * 1e6, 2),
                "ratio_100000_to_1000": round(median(large) / median(small), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
