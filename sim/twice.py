"""The same seeds twice, in processes that differ in everything that must not matter.

A run that depends on more than its seed cannot be replayed. So each seed is run in two processes that
differ in hash seed, garbage collection, working folder, time zone, locale and wall clock; where their
traces differ, the first event that differs is told, since that is where determinism leaked.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.sim.run import Result, run_world
from holdfast.sim.runner import Job, run_job

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence


class Surroundings(msgspec.Struct, frozen=True):
    """What a process finds around it.

    Attributes:
      environment: Variables that it gets beside those of its parent.
      gc_thresholds: As of ``gc.set_threshold``.
      clock_ahead_s: How far its clocks are ahead of ours.
    """

    environment: dict[str, str]
    gc_thresholds: tuple[int, int, int]
    clock_ahead_s: float


SURROUNDINGS: Final = (
    Surroundings({"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"}, (700, 10, 10), 0.0),
    Surroundings(
        {"PYTHONHASHSEED": "4294967295", "TZ": "Asia/Kolkata", "LC_ALL": "C.UTF-8", "X": "x" * 999},
        (23, 3, 2),
        400 * 86_400.0 + 0.123,
    ),
)
"""Of the first process, and of the second."""


class Difference(msgspec.Struct, frozen=True):
    """Where the two runs of a world part.

    Attributes:
      event: Number of the first event that differs.
      first: What it was in the first process; "" where there was none.
      second: What it was in the second.
    """

    job: Job
    event: int
    first: str
    second: str


class _Request(msgspec.Struct):
    surroundings: Surroundings
    jobs: list[Job]
    whole: bool


class _Answer(msgspec.Struct):
    result: Result
    trace: list[str] = []


def differences(
    jobs: Iterable[Job],
    processes: Sequence[Surroundings] = SURROUNDINGS,
    seen: Callable[[Job, Result], None] = lambda _job, _result: None,
) -> list[Difference]:
    """Run each of *jobs* in two processes at a time; where their traces differ, and how.

    Args:
      jobs: Which worlds.
      processes: The surroundings of both.
      seen: Called with each world that was compared and what became of it in the first process.
    """
    jobs = list(jobs)
    found: list[Difference] = []
    with (
        _running(processes[0], jobs) as first,
        _running(processes[1], jobs) as second,
    ):
        for job, one, other in zip(jobs, first, second, strict=True):
            if one.result.digest != other.result.digest:
                found.append(_look_closer(job, processes))
            seen(job, one.result)
    return found


def _look_closer(job: Job, processes: Sequence[Surroundings]) -> Difference:
    """Run one world once more in each process, and compare event by event."""
    traces: list[list[str]] = []
    for surroundings in processes:
        with _running(surroundings, [job], whole=True) as answers:
            traces += [answer.trace for answer in answers]
    for event, (one, other) in enumerate(zip_longest(*traces, fillvalue="")):
        if one != other:
            return Difference(job, event, one, other)
    return Difference(job, len(traces[0]), "", "")  # not even two such processes agree each time


@contextmanager
def _running(
    surroundings: Surroundings, jobs: list[Job], *, whole: bool = False
) -> Generator[Iterator[_Answer]]:
    """A process in a folder of its own, and its answers as they come."""
    with tempfile.TemporaryDirectory(prefix="holdfast-twice-") as folder:
        request = Path(folder, "request.json")
        request.write_bytes(msgspec.json.encode(_Request(surroundings, jobs, whole)))
        child = subprocess.Popen(
            [
                "env",
                *(f"{name}={value}" for name, value in surroundings.environment.items()),
                sys.executable,
                *("-m", "holdfast.sim.twice", str(request)),
            ],
            stdout=subprocess.PIPE,
            cwd=folder,
        )
        with child:
            try:
                yield _answers(child)
            finally:
                child.kill()


def _answers(child: subprocess.Popen[bytes]) -> Iterator[_Answer]:
    assert child.stdout is not None
    for line in child.stdout:
        yield msgspec.json.decode(line, type=_Answer)
    if code := child.wait():
        raise RuntimeError(f"a simulating process ended with exit code {code}")


# -- in the child ---------------------------------------------------------


def _main() -> None:
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=_Request)
    gc.set_threshold(*request.surroundings.gc_thresholds)
    _put_clocks_ahead(request.surroundings.clock_ahead_s)
    for job in request.jobs:
        if request.whole:
            result, world = run_world(job.seed, job.scenario, job.groups)
            answer = _Answer(result, world.trace.text())
        else:
            answer = _Answer(run_job(job))
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


def _put_clocks_ahead(seconds: float) -> None:
    """Let this process believe that it is later."""
    for name, ahead in (
        ("time", seconds),
        ("monotonic", seconds),
        ("time_ns", round(seconds * 1e9)),
        ("monotonic_ns", round(seconds * 1e9)),
    ):
        _put_ahead(name, ahead)


def _put_ahead(name: str, ahead: float) -> None:
    real = getattr(time, name)
    setattr(time, name, lambda: real() + ahead)


if __name__ == "__main__":
    _main()
