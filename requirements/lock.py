"""Pin what pyproject.toml asks for, and all that those need, into the files beside this one.

``make lock`` runs it. Pins that are already there are kept; with ``--upgrade`` everything moves to the
newest version. It needs pip and nothing else, and is to be run with the oldest Python we support,
since newer ones need a subset.

The files name versions only: where packages come from is decided where they are installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
OLDEST = (3, 11)


class Lock(NamedTuple):
    """One file: the groups of pyproject.toml that it serves, and whether the service itself."""

    file: str
    groups: tuple[str, ...]
    service: bool
    what: str


LOCKS = (  # the first has everything, the others are parts of it
    Lock("dev.txt", ("dev",), service=True, what="to work on Holdfast"),
    Lock("test.txt", ("tests", "build"), service=True, what="to run its tests"),
    Lock("run.txt", (), service=True, what="to run it"),
    Lock("build.txt", ("build",), service=False, what="to build or install it from source"),
)


def wanted(lock: Lock) -> list[str]:
    """The requirements that *lock* starts from, as pyproject.toml has them."""
    project: dict[str, Any] = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))
    found: list[str] = list(project["project"]["dependencies"]) if lock.service else []
    groups = list(lock.groups)
    while groups:
        for item in project["dependency-groups"][groups.pop()]:
            if isinstance(item, str):
                found.append(item)
            else:
                groups.append(item["include-group"])
    if lock.groups:
        found += project["build-system"]["requires"]
    return found


def resolve(requirements: list[str], pins: str) -> list[str]:
    """What pip would install for *requirements* into an empty environment, as sorted pins."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(pins)
        constraints.flush()
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", "-"]
        command += ["--constraint", constraints.name, *requirements]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit("nothing was written: pip cannot resolve it; `make lock UPGRADE=1` drops old pins")
    report: dict[str, Any] = json.loads(done.stdout)
    packages = [item["metadata"] for item in report["install"]]
    return sorted(f"{normal(item['name'])}=={item['version']}" for item in packages)


def normal(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Write every file, the whole first, then its parts with the same pins."""
    if sys.version_info[:2] != OLDEST:
        sys.exit(f"lock with Python {OLDEST[0]}.{OLDEST[1]}: `make lock PYTHON=python3.11`")
    whole = HERE / LOCKS[0].file
    pins = whole.read_text("utf-8") if whole.exists() and "--upgrade" not in sys.argv[1:] else ""
    for lock in LOCKS:
        lines = resolve(wanted(lock), pins)
        if lock is LOCKS[0]:
            pins = "\n".join(lines)
        head = f"# What it takes {lock.what}. `make lock` writes this file."
        (HERE / lock.file).write_text("\n".join([head, *lines, ""]), "utf-8")
        sys.stdout.write(f"    {lock.file}: {len(lines)} packages\n")


if __name__ == "__main__":
    main()
