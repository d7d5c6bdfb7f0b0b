"""Planted bugs of five kinds are shrunk to what a person can read."""

from __future__ import annotations

import pytest

from holdfast.sim.cases import Case, run_case
from holdfast.sim.shrink import shrink

from .planted import PLANTED, read_rows  # noqa: TID251 - our own package sim

ROWS = read_rows()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "slot-of-cancelled",  # booking rules
        "epoch-stands",  # commit and fencing
        "acknowledges-apart",  # executors
        "no-restore",  # restore
        "transient-kept",  # idempotency
        "new-key-each-time",  # payment
    ],
)
def test_a_planted_bug_becomes_a_case_that_can_be_read(name: str) -> None:
    """The first world in which it is caught, made smaller: it fails so still, and holds without the bug."""
    bug, row = PLANTED[name], ROWS[name]
    with bug.planted():
        shrunk = shrink(Case(row.seed, row.scenario, check=row.check))
        failed = run_case(shrunk.case)[0].violation
    assert failed is not None
    assert failed.check == row.check
    assert shrunk.size.client_events <= 10
    assert shrunk.size.faults <= 3
    assert shrunk.size.deviations <= 3
    assert run_case(shrunk.case)[0].violation is None
