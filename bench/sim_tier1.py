"""Operations per second of tier 1, each scenario, every operation decided and checked; one core.

    python bench/sim_tier1.py [--operations 100000] [SCENARIO...]

Prints one line of JSON. Made, decided, checked and hashed are timed together, as CI runs them.
``machine_share`` says how much of that time is the machine deciding and checking the very same
inputs, played again from a list: no runner, however fast, could be faster than that.
"""

from __future__ import annotations

import argparse
import json
from time import process_time
from typing import TYPE_CHECKING

from holdfast.actors.booking.invariants import check_touched
from holdfast.actors.booking.machine import BookingMachine
from holdfast.bootstrap import calm_garbage_collection
from holdfast.machine import Emit, Normal
from holdfast.sim.tier1.scenarios import BY_NAME, Scenario
from holdfast.sim.tier1.trial import Options
from holdfast.sim.tier1.volume import Run

if TYPE_CHECKING:
    from holdfast.actors.booking.messages import Action, Outcome
    from holdfast.actors.booking.wire import BookingInput

AIM = 300_000


class Recorded(Run):
    """A run that keeps its inputs."""

    def __init__(self, scenario: Scenario, seed: int, options: Options) -> None:
        super().__init__(scenario, seed, options)
        self.inputs: list[BookingInput] = []

    def decide(self, entry: BookingInput, reemits: bool = False) -> Outcome:
        """Keep the input, and decide it."""
        self.inputs.append(entry)
        return super().decide(entry, reemits)


def replayed_s(inputs: list[BookingInput]) -> float:
    """CPU seconds for deciding and checking *inputs*, and nothing else."""
    machine = BookingMachine()
    emit: Emit[Action] = Emit()
    book = machine.genesis()
    start = process_time()
    for entry in inputs:
        emit.begin(entry.id)
        machine.transition(book, entry, emit)
        check_touched(book)
    return process_time() - start


def measure(scenario: Scenario, operations: int) -> dict[str, float]:
    """One scenario."""
    options = Options(operations=operations)
    Run(scenario, 0, Options(operations=1_000)).run()  # time zones are loaded once per process
    start = process_time()
    outcome = Run(scenario, 0, options).run()
    seconds = process_time() - start
    recorded = Recorded(scenario, 0, options)
    assert recorded.run() == outcome, "a run differs from itself"
    assert isinstance(recorded.inputs[0], Normal)
    return {
        "operations_per_s": round(outcome.operations / seconds),
        "machine_share": round(replayed_s(recorded.inputs) / seconds, 2),
        "accepted_share": round(outcome.accepted_share, 3),
        "declined_share": round(outcome.declined_share, 3),
        "operations": outcome.operations,
        "us": seconds / outcome.operations * 1e6,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("scenarios", nargs="*", default=list(BY_NAME))
    options = parser.parse_args()
    calm_garbage_collection()
    found = {name: measure(BY_NAME[name], options.operations) for name in options.scenarios}
    mean_us = sum(result.pop("us") for result in found.values()) / len(found)
    print(
        json.dumps(
            {
                "operations_per_s": round(1e6 / mean_us),
                "aim": AIM,
                "of_the_aim": round(1e6 / mean_us / AIM, 3),
                "scenarios": found,
            }
        )
    )


if __name__ == "__main__":
    main()
