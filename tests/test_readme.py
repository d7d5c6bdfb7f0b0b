"""What the pages for people say must be there: files, targets, commands."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import tempfile
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


def walk_through() -> list[list[str]]:
    """The README's commands, in order, each as arguments."""
    blocks = re.findall(r"```console\n(.*?)```", text("README.md"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line[2:]) for line in lines]


@pytest.mark.slow
def test_the_walk_through_works_as_it_stands(tmp_path: Path) -> None:
    """Every command of the README is run, in order, against the service that it starts."""
    make, up, *rest = walk_through()
    assert make == ["make", "run"]
    assert up[:2] == ["holdfast", "up"]
    # A socket's path is short; the data folder of the README lies where the reader stands.
    with tempfile.TemporaryDirectory() as folder:
        service = subprocess.Popen(
            [sys.executable, "-m", *up], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        assert service.stdout is not None
        try:
            for line in service.stdout:
                if "Stop with Ctrl-C" in line:
                    break
            for command in rest:
                done = run_as_written(command, Path(folder))
                assert done.returncode == 0, (command, done.stdout, done.stderr)
        finally:
            service.send_signal(signal.SIGINT)
            service.communicate(timeout=30)
    assert service.returncode == 130


def run_as_written(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the README in *folder*, with this Python."""
    if command[0] == "holdfast":
        argv = [sys.executable, "-m", *command]
    else:
        assert command[0] == "python"
        script, *arguments = command[1:]
        argv = [sys.executable, str(ROOT / script)]
        argv += [argument.replace("$PWD", str(folder)) for argument in arguments]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
