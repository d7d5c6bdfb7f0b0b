"""The blocks of ``docs/machine.md`` run, the wrong ones too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from holdfast.machine.audit import AuditError

GUIDE = Path(__file__).parents[2] / "docs" / "machine.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WRONG = re.compile(r"# AuditError: (.*)$", re.MULTILINE)


def test_every_block_of_the_guide_does_what_it_says() -> None:
    text = GUIDE.read_text()
    names: dict[str, Any] = {"__name__": "guide"}
    wrong = 0
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        # Empty lines first, so that a failure points to the line in the guide.
        code = compile("\n" * line + block[1], str(GUIDE), "exec", dont_inherit=True)
        promised = WRONG.search(block[1])
        if promised is None:
            exec(code, names)
            continue
        with pytest.raises(AuditError) as caught:
            exec(code, names)
        assert str(caught.value).startswith(promised[1]), f"block at line {line}"
        wrong += 1
    assert wrong == 6


def test_the_guide_is_short() -> None:
    assert GUIDE.read_text().count("\n") < 200
