"""Two booking processes, and the one that leads stands still for longer than its lease, again and again.

The world, its customers, its witness and the questions at the end are those of ``bench/stops.py``,
which stops the leader ten times in a minute; four times do here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_FILE = Path(__file__).parents[1] / "bench" / "stops.py"
STOPS = 4
BOOKS = 4


@pytest.mark.slow
def test_who_stood_still_and_was_taken_over_from_writes_nothing_more() -> None:
    """It tries: it wakes up with inputs of every book, decides them, and is refused."""
    argv = [sys.executable, "-W", "error", str(_FILE), "--stops", str(STOPS), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["stops"] == STOPS
    assert told["takeovers"] >= (1 + STOPS) * BOOKS
    assert told["late_commits"] >= STOPS
    # Whoever lost a book has found out, and leads it no more, and lives.
    assert told["stepped_down"] == told["takeovers"] - BOOKS
    assert told["outcomes"]["accepted"] > 500
    assert told["effects"]["hold"] > 100
