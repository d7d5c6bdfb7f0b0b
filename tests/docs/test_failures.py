"""The page of failures names tests that there are, and sentences that are said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.config.settings import SettingsError, load

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "failures.md").read_text("utf-8")


def test_every_test_that_the_page_names_is_there() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 10
    assert [name for name in sorted(named) if f"def {name}(" not in source] == []


@pytest.mark.parametrize("text", ["bookng = 1", "[booking]\nbatch_max = 0", "x = "])
def test_what_is_said_of_a_wrong_file_stands_there(tmp_path: Path, text: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(file)
    assert f"| {str(caught.value).replace(str(file), 'settings.toml')} |" in PAGE


def test_what_is_said_of_a_wrong_variable_stands_there() -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, {"HOLDFAST_BOOKING__BATCH_MXA": "1"})
    assert f"| {caught.value} |" in PAGE
