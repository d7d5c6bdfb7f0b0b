"""The guide to the tools shows what they print. ``python tests/docs/test_tools_guide.py`` renews it."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

GUIDE = Path(__file__).parents[2] / "docs" / "tools.md"
SETTLE_S = 20


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "holdfast", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@contextmanager
def service(folder: Path) -> Generator[None]:
    """The service that the guide tells of, with everything at rest."""
    with (folder / "up.log").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "holdfast", "up", "--json"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), (folder / "up.log").read_text()  # all is ready
        push = ("push", "demo", "request_auto", "--body", '{"service":"checkup"}', "--key")
        for number in range(1, 5):
            run(folder, *push, f"k-{number}", "--by", f"customer:K{number}", "--wait")
        deadline = time.monotonic() + SETTLE_S
        while run(folder, "tail", "demo", "-n", "20").stdout.count("delivery_report") < 4:
            assert time.monotonic() < deadline
        cancel = ("push", "demo", "cancel", "--key", "c-1", "--by", "customer:K1", "--wait")
        run(folder, *cancel, "--body", '{"booking":"b1-0"}')
        run(folder, *push, "k-5", "--by", "nobody", "--raw", "--wait")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(SETTLE_S)
        process.stdout.close()


def renewed(text: str, folder: Path) -> str:
    """*text* with each command's output as it is now."""
    (settings,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    (folder / "stricter.toml").write_text(settings)

    def block(found: re.Match[str]) -> str:
        shown: list[str] = []
        for line in found[1].splitlines():
            if line.startswith("$ "):
                program, *arguments = shlex.split(line.removeprefix("$ "))
                assert program == "holdfast"
                done = run(folder, *arguments)
                shown += [line, *(part.rstrip() for part in done.stdout.splitlines())]
                shown += done.stderr.splitlines()
        return "```console\n" + "\n".join(shown) + "\n```"

    with service(folder):
        return re.sub(r"```console\n(.*?)\n```", block, text, flags=re.DOTALL)


def same(text: str) -> list[str]:
    """What of the page does not differ from run to run."""
    text = re.sub(r"\b[0-9a-f]{32}\b", "DIGEST", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"\b(Service|server|provider|booking|payment|notification) +\d+", r"\1 PID", text)
    text = re.sub(r"\b(valkey|redis) [\d.]+", "SERVER VERSION", text)
    text = re.sub(r"[\d,.]+ (bytes|s|min|MB)\b", r"N \1", text)
    return [
        " ".join(line.split()) for line in re.sub(r"\d{6,}-\d+|\d{4,}", "ID", text).splitlines()
    ]


@pytest.mark.slow
def test_the_guide_shows_what_the_tools_print(tmp_path: Path) -> None:
    text = GUIDE.read_text("utf-8")
    assert same(renewed(text, tmp_path)) == same(text)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        GUIDE.write_text(renewed(GUIDE.read_text("utf-8"), Path(name)), "utf-8")
