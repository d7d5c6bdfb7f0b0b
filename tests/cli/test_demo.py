"""The main job, end to end, as a user runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from holdfast.cli.crowd import plan
from holdfast.cli.practice import load_practice

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.slow
def test_the_demo_holds(
    holdfast: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    data = tmp_path / "demo"
    out = holdfast("demo", "--customers", "60", "--seed", "3", "--data", data, "--json")
    assert out.returncode == 0, out.stdout + out.stderr
    result = msgspec.json.decode(out.stdout)
    assert result["holds"] is True
    assert result["restarts"] == {"booking": 1}
    assert result["bookings"]["confirmed"] > 0
    assert result["outcomes"]["slot_conflict"] > 0
    assert {finding["name"] for finding in result["findings"]} == {
        "crash",
        "nothing lost",
        "retries",
        "no double booking",
        "payments",
        "replay",
        "invariants",
        "ledger",
    }
    assert holdfast("check", "demo", "--data", data).returncode == 0


def test_the_crowd_follows_from_the_seed() -> None:
    from datetime import date

    practice = load_practice("dentist")
    monday = date(2026, 6, 1)
    one = plan(practice, monday, 50, 1, 5.0)
    assert one == plan(practice, monday, 50, 1, 5.0)
    assert one != plan(practice, monday, 50, 2, 5.0)
    assert len({item.customer for item in one}) == 50
    assert all(0 <= item.at_s <= 5 for item in one)
