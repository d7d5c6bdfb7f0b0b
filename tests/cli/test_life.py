"""The process that a supervisor starts: quick to begin, and plain where it cannot."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def python(*args: str) -> subprocess.CompletedProcess[str]:
    """Python with *args* and an empty environment."""
    return subprocess.run(
        [sys.executable, "-P", *args], capture_output=True, text=True, check=False, env={}
    )


def test_what_reads_a_persons_options_is_not_waited_for() -> None:
    """It would be a third of the start, and books wait for an actor that is started again."""
    code = (
        "import sys, holdfast.cli.life, holdfast.bootstrap; print({'typer'} & sys.modules.keys())"
    )
    done = python("-c", code)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_a_life_that_cannot_begin_says_why_in_one_sentence() -> None:
    done = python("-m", "holdfast.cli.life", "booking")
    assert done.returncode == 2
    assert "no server is named" in done.stderr
    assert "Traceback" not in done.stderr
