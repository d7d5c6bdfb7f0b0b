"""The house: folders at the top, one package ``holdfast``, and lists that must name them all."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import holdfast

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
FACE = ROOT / "src" / "holdfast"
FOLDERS = ("machine", "actors", "transport", "sim", "config")
OTHERS = ("tests", "examples", "bench", "requirements")


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def shipped() -> set[str]:
    """Every file of the package as it lies in a wheel."""
    return {
        f"holdfast/{file.relative_to(top.parent if top is not FACE else FACE).as_posix()}"
        for top in (*(ROOT / name for name in FOLDERS), FACE)
        for file in files(top)
    }


def files(top: Path) -> Iterator[Path]:
    """Files below *top*; links are not followed."""
    for path in sorted(top.iterdir()):
        if path.is_symlink() or path.name == "__pycache__":
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def modules() -> list[Path]:
    tops = (*(ROOT / name for name in (*FOLDERS, *OTHERS) if (ROOT / name).is_dir()), FACE)
    return [file for top in tops for file in files(top) if file.suffix == ".py"]


def test_the_folders_are_all_that_is_linked() -> None:
    assert {path.name for path in FACE.iterdir() if path.is_symlink()} == set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_link_points_to_its_folder(name: str) -> None:
    link = FACE / name
    assert link.is_symlink(), "clone with `git config core.symlinks true`"
    assert link.readlink() == Path(f"../../{name}")
    assert link.resolve() == (ROOT / name).resolve()
    assert (link / "__init__.py").is_file()


@pytest.mark.parametrize("name", FOLDERS)
def test_every_list_names_every_folder(name: str) -> None:
    """Hatch loses a folder that one of its lists forgets; pyright does not enter links by itself."""
    tool = pyproject()["tool"]
    targets = tool["hatch"]["build"]["targets"]
    assert name in targets["wheel"]["only-include"]
    assert targets["wheel"]["sources"][name] == f"holdfast/{name}"
    assert name in targets["sdist"]["only-include"]
    assert f"src/holdfast/{name}" in tool["pyright"]["include"]
    assert name in tool["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    (layers,) = (c["layers"] for c in tool["importlinter"]["contracts"] if c["type"] == "layers")
    assert f"holdfast.{name}" in layers


def test_both_builds_name_every_file_of_the_face() -> None:
    targets = pyproject()["tool"]["hatch"]["build"]["targets"]
    face = {
        f"src/holdfast/{path.name}"
        for path in FACE.iterdir()
        if not path.is_symlink() and path.name != "__pycache__"
    }
    for target in ("wheel", "sdist"):
        named = {entry for entry in targets[target]["only-include"] if entry.startswith("src/")}
        assert face <= named


@pytest.mark.parametrize("name", OTHERS)
def test_the_type_checkers_see_everything_else(name: str) -> None:
    tool = pyproject()["tool"]
    assert name in tool["pyright"]["include"]
    assert name in tool["mypy"]["files"]


@pytest.mark.slow
def test_nobody_imports_the_short_names() -> None:
    """``import machine`` works from the checkout's root, as a second copy of every class."""
    wrong: list[str] = []
    for file in modules():
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            wrong += [f"{file}:{node.lineno}" for n in names if n.partition(".")[0] in FOLDERS]
    assert not wrong


ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}
MAY_READ = {
    "machine/guard.py": "makes reading it raise inside a transition",
    "machine/processes.py": "starts audited processes with another hash seed",
}


@pytest.mark.slow
def test_only_the_command_line_reads_the_environment() -> None:
    """It hands what it read to ``config.settings.load``; everyone else gets settings."""
    wrong: list[str] = []
    for file in modules():
        place = file.relative_to(ROOT)
        if place.as_posix() in MAY_READ or "tests" in place.parts or FACE / "cli" in file.parents:
            continue
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT:
                wrong.append(f"{place}:{node.lineno}")
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                names = {alias.name for alias in node.names}
                wrong += [f"{place}:{node.lineno}" for _ in names & ENVIRONMENT]
    assert wrong == []


def pins(name: str) -> dict[str, str]:
    """Version by package of one lock."""
    lines = (ROOT / "requirements" / name).read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {package: version for package, version in pairs}  # noqa: C416 - each must be a pair


LOCKS = ("run.txt", "build.txt", "test.txt", "dev.txt")


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_versions_and_says_nothing_else(name: str) -> None:
    """Where packages come from is decided where they are installed."""
    for package, version in pins(name).items():
        assert re.fullmatch(r"[a-z0-9-]+", package)
        assert re.fullmatch(r"[0-9][0-9a-z.+]*", version)


def test_the_locks_agree() -> None:
    whole = pins("dev.txt")
    for name in LOCKS:
        assert pins(name).items() <= whole.items()


def test_the_locks_satisfy_what_is_asked_for() -> None:
    """Whoever adds a dependency runs ``make lock``."""
    project = pyproject()
    groups = project["dependency-groups"]
    for lock, asked in (
        ("run.txt", project["project"]["dependencies"]),
        ("build.txt", project["build-system"]["requires"] + groups["build"]),
        ("test.txt", project["project"]["dependencies"] + groups["tests"] + groups["build"]),
        ("dev.txt", groups["lint"] + groups["typing"]),
    ):
        pinned = pins(lock)
        for requirement in map(Requirement, asked):
            version = pinned.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement} is not in {lock}; run: make lock"
            assert requirement.specifier.contains(version), f"{lock} has {version} of {requirement}"


def test_the_version_is_the_package_s() -> None:
    assert holdfast.__version__ == pyproject()["project"]["version"]


@pytest.mark.slow
def test_sdist_and_wheel_hold_every_file(tmp_path: Path) -> None:
    """The wheel is built from the sdist, so a file that either of them forgets is missing."""
    before = shipped()
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert before & shipped() <= held
    assert held <= before | shipped()
    for needed in ("config/dentist.toml", "py.typed", "__main__.py"):
        assert f"holdfast/{needed}" in held

    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        named = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/test_layout.py"} <= named
    for folder in FOLDERS:
        assert f"{folder}/__init__.py" in named
