"""The one rule that a single process cannot see: digests do not depend on PYTHONHASHSEED.

Python seeds the hash of strings anew in each process, and with it the order of sets. A machine that
iterates a set of strings is deterministic within a process, and differs from its own replay.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from holdfast.machine.audit import AuditError, Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROGRAM = """
import importlib, sys
module, _, function = sys.argv[1].partition(":")
sys.stdout.write(str(getattr(importlib.import_module(module), function)()))
"""


def check_across_processes(
    target: str,
    *,
    seeds: Sequence[int] = (1, 2),
    path: Sequence[str] = (),
    timeout_s: float = 60.0,
) -> str:
    """Run *target* in one process for each seed; all must return the same.

    Args:
      target: ``module:function``; it takes nothing, drives a machine, and returns a digest or a
        link of a chain. What it prints is part of the comparison, so it had better not.
      seeds: Values of PYTHONHASHSEED, at least two.
      path: Folders to find the module in, before the usual ones.
      timeout_s: Longest run of one process, seconds.

    Returns:
      What all of them returned.

    Raises:
      AuditError: They differ; rule ``hash seed``.
      RuntimeError: *target* failed; the message carries the process's last words.
      subprocess.TimeoutExpired: It took too long.
      ValueError: Fewer than two seeds.
    """
    if len(seeds) < 2:
        raise ValueError("it takes two processes to differ: give two seeds or more")
    results = [_run(target, seed, path, timeout_s) for seed in seeds]
    for seed, result in zip(seeds, results, strict=True):
        if result != results[0]:
            raise AuditError(
                Rule.HASH_SEED,
                0,
                f"{target} gives {results[0]!r} with PYTHONHASHSEED={seeds[0]} and {result!r} with "
                f"{seed}: look for a set that is iterated, or hash() of a string",
            )
    return results[0]


def _run(target: str, seed: int, path: Sequence[str], timeout_s: float) -> str:
    environment = dict(os.environ, PYTHONHASHSEED=str(seed))
    before = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([*path, *([before] if before else [])])
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, target],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{target} failed; repair it first:\n{done.stderr[-2000:]}")
    return done.stdout
