"""The soak itself runs, and tells what it saw when it is told to end early."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

_FILE = Path(__file__).parents[2] / "bench" / "soak.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_soak_that_is_interrupted_tells_what_it_saw() -> None:
    argv = [sys.executable, "-W", "error", str(_FILE), "--rate", "20", "--json"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as soak:
        assert soak.stderr is not None
        guard = threading.Timer(240, soak.kill)
        guard.start()
        try:
            lines = [soak.stderr.readline() for _ in range(2)]
            soak.send_signal(signal.SIGINT)
            said, errors = soak.communicate(timeout=180)
        finally:
            guard.cancel()
            soak.kill()
    assert lines[0].startswith("yesterday: ")
    assert lines[1].startswith("  0.2 min: decided per s ")
    assert (soak.returncode, errors) == (0, "")
    told: dict[str, Any] = json.loads(said)
    assert (told["digests_agree"], told["restarts"], told["not_flat"]) == (True, {}, [])
    assert told["sent"] > 100
    # Too short a time to judge anything, but everything was found.
    assert len(told["figures"]) > 20
    assert all(figure["flat"] is None for figure in told["figures"])
