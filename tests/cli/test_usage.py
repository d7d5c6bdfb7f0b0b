"""What the command line says to people, and its exit codes."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

PUSH = ("push", "demo", "request_auto", "--key", "k", "--by", "customer:K1", "--body")


@pytest.mark.parametrize(
    "command",
    [
        *("demo", "up", "push", "show", "check", "import", "export", "replay", "tail", "status"),
        *("snapshot", "trim", "drain", "reconcile"),
        *(f"deadletters {what}" for what in ("list", "show", "retry", "drop")),
    ],
)
def test_every_command_tells_its_use_with_an_example(
    invoke: Callable[..., Result], command: str
) -> None:
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"holdfast {command}" in result.output


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("status", "[default: all]"),
        ("replay", "Try these [policies]."),
        ("replay", "[default: data]"),
        ("import", "[default: what it was]"),
    ],
)
def test_what_stands_in_brackets_is_shown(
    invoke: Callable[..., Result], command: str, words: str
) -> None:
    """Brackets are markup, too, and what is taken for it is left out."""
    assert words in invoke(command, "--help").output


def test_the_command_that_supervisors_run_is_not_shown(invoke: Callable[..., Result]) -> None:
    shown = invoke("--help").output
    assert "│ demo " in shown
    assert "│ actor " not in shown


def test_the_version_is_the_package_s(invoke: Callable[..., Result]) -> None:
    from holdfast import __version__

    assert invoke("--version").output == f"holdfast {__version__}\n"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((*PUSH, "{"), "the body is no JSON"),
        ((*PUSH, "{}"), "missing required field `service`"),
        ((*PUSH, '{"service":"checkup","colour":1}'), "unknown field `colour`"),
        (("push", "Demo", *PUSH[2:], '{"service":"x"}'), "is no book's name"),
        (("push", "demo", "fly", *PUSH[3:], "{}"), "there is no command 'fly'"),
        (
            ("push", "demo", "cancel", "--key", "k", "--by", "me", "--body", '{"booking":"b1-0"}'),
            "customer:ID, staff:ID or service:NAME",
        ),
        (("show", "demo", "--day", "tomorrow"), "'tomorrow' is no date"),
        (("show", "demo", "--day", "2026-01-01", "--week", "2026-01-01"), "not both"),
        (("up", "--practice", "nowhere.toml"), "nowhere.toml is neither a file nor a practice"),
        (("up", "--book", "A B"), "is no book's name"),
        (("up", "--redis", "ftp://x"), "must be a URL that begins with redis://"),
        (("import", "rows.csv", "--mapping", "nowhere.toml"), "cannot read the mapping"),
        (("import", "rows.csv", "--mapping", "m.toml", "--kill-booking", "1"), "give both"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    invoke: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*args)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.startswith("holdfast: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_command_that_needs_a_service_says_how_to_start_one(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    result = invoke(*PUSH, '{"service":"checkup"}', "--data", tmp_path)
    assert result.exit_code == 1
    assert "start one with 'holdfast up" in result.stderr


def test_looking_into_an_empty_folder_is_refused(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    result = invoke("show", "demo", "--data", tmp_path)
    assert result.exit_code == 2
    assert "there is no service's data" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_one_sentence(invoke: Callable[..., Result]) -> None:
    result = invoke("show", "demo", "--redis", "redis://127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("holdfast: ")
    assert "Traceback" not in result.stderr


def test_the_demo_wants_a_new_folder(invoke: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    result = invoke("demo", "--data", tmp_path)
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.slow
def test_help_loads_nothing_that_it_does_not_need() -> None:
    code = (
        "import sys; from holdfast.cli.app import app\n"
        "heavy = {'trio', 'httpx', 'uvicorn', 'starlette', 'redis', 'hiredis', 'structlog'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
