"""What the pages for people say must be there: files, targets, commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def text(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def code(page: str) -> str:
    """Everything on the page that is set as code."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text(page), flags=re.DOTALL))


def test_the_readme_is_short() -> None:
    assert len(text("README.md").splitlines()) < 120


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text(page))
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), flags=re.MULTILINE))
    assert "test" in targets
    assert set(re.findall(r"\bmake ([a-z]+)", code(page))) <= targets


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    commands = re.findall(r"(?:^|[`$/ ])holdfast ([a-z]+)", code(page), flags=re.MULTILINE)
    for command in sorted(set(commands)):
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", command, "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"holdfast {command}: {done.stderr}"
