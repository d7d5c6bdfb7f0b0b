"""The guide to imports does what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "import.md"


def block(language: str) -> str:
    """The guide's block in *language*."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    return str(found)


@pytest.mark.slow
def test_the_guides_example_is_imported_once(tmp_path: Path) -> None:
    (tmp_path / "visits.csv").write_text(block("csv"))
    (tmp_path / "mapping.toml").write_text(block("toml"))
    program, *arguments = shlex.split(block("console").removeprefix("$ "))
    assert program == "holdfast"
    for appended in (3, 0):
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        result = msgspec.json.decode(done.stdout)
        assert (result["rows"], result["appended"], result["accepted"]) == (3, appended, 3)
        assert set(result["digests"]) == {"north", "south"}
        assert result["checks"] == "ok"
