"""The job loop of tier 1: its counts, its order, its shares."""

from __future__ import annotations

import pytest

from holdfast.sim.tier1.jobs import (
    RUN_OPERATIONS,
    Job,
    Result,
    Summary,
    Tally,
    jobs_of,
    results_of,
    run_job,
    run_jobs,
)
from holdfast.sim.tier1.scenarios import SCENARIOS

from .planted import PLANTED  # noqa: TID251 - our own package sim

NAMES = [scenario.name for scenario in SCENARIOS]


def test_ten_million_operations_are_four_hundred_runs_of_all_scenarios() -> None:
    jobs = jobs_of([], 10_000_000)
    assert sum(job.operations for job in jobs) == 10_000_000
    assert [job.scenario for job in jobs[:12]] == NAMES
    assert len(set(jobs)) == len(jobs) == 10_000_000 // RUN_OPERATIONS
    assert jobs[12] == Job("mixed", 1, RUN_OPERATIONS)


def test_one_run_is_named_by_its_command() -> None:
    job = Job("retries", 7, 1_234)
    assert job.command == "holdfast sim retries --tier 1 --seeds 7 --operations 1234"
    assert jobs_of(["retries"], 1_234, 7) == [job]


def test_unknown_scenarios_and_nothing_to_do_are_refused() -> None:
    with pytest.raises(ValueError, match="no scenario 'x' in tier 1; there are mixed"):
        jobs_of(["x"], 1)
    with pytest.raises(ValueError, match="1 or more"):
        jobs_of([], 0)


@pytest.mark.slow
def test_two_processes_come_to_what_one_comes_to() -> None:
    jobs = [Job("mixed", 1, 900), Job("stress", 2, 100), Job("long", 3, 300)]
    assert list(results_of(jobs, 2)) == list(results_of(jobs)) == [run_job(job) for job in jobs]


@pytest.mark.slow
def test_a_violation_is_told_with_its_run_and_its_operation() -> None:
    bug = next(bug for bug in PLANTED if bug.name == "fresh-keys")
    jobs = [Job("mixed", 1, 50), Job("stress", 0, 500), Job("stress", 1, 500)]
    seen: list[int] = []
    with bug.planted():
        summary = run_jobs(jobs, until_failure=True, progress=lambda s: seen.append(s.total.runs))
    job, violation = summary.violations[0]
    assert (job, violation.check) == (jobs[1], "money")
    assert 0 < violation.operation < 500
    assert summary.scenarios["stress"].operations == violation.operation
    assert seen == [1, 2]


@pytest.mark.slow
def test_what_runs_come_to_is_counted() -> None:
    jobs = jobs_of(["sparse", "retries"], 2_000)
    summary = run_jobs([msg for job in jobs for msg in (job, job)])
    once = run_job(jobs[0]).tally
    assert summary.total.runs == 2 * len(jobs)
    assert summary.scenarios["sparse"].operations == 2 * once.operations > 4_000
    assert summary.operations_per_s > 0
    assert not summary.unhealthy()


@pytest.mark.parametrize(
    ("tally", "says"),
    [
        (Tally(1, 9_000, 5_000, 1_490, 0, 0), "29.8% of the commands are accepted, not 30% to 70%"),
        (Tally(1, 9_000, 5_000, 3_510, 0, 0), "70.2% of the commands"),
        (
            Tally(1, 9_000, 5_000, 2_500, 2_250, 1_750),
            "43.8% of the preauthorizations are declined",
        ),
        (Tally(1, 9_000, 5_000, 2_500, 2_000, 2_000), ""),
        (Tally(1, 900, 500, 0, 20, 0), ""),  # too few to tell
    ],
)
def test_shares_out_of_range_are_told(tally: Tally, says: str) -> None:
    summary = Summary()
    summary.add(Job("payment-failures", 1, 9_000), Result(tally))
    told = summary.unhealthy()
    assert len(told) == bool(says)
    assert says in "".join(told)
