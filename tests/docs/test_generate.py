"""The documents for producers are those of the code, whole, and refer to nothing that is not there."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from holdfast.actors.booking import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[2] / "docs"
NAMES = ("messages.json", "asyncapi.json")


def load(name: str) -> Any:  # noqa: ANN401 - JSON
    return json.loads((DOCS / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_the_documents_are_current(name: str) -> None:
    script = runpy.run_path(str(DOCS / "generate.py"))
    documents = cast("dict[str, str]", script["documents"]())
    assert set(documents) == set(NAMES)
    text = (DOCS / name).read_text(encoding="utf-8")
    assert text == documents[name], "a message has changed: run python docs/generate.py"


def walk(value: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        node = cast("dict[str, Any]", value)
        yield node
        for inner in node.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:  # pyright: ignore[reportUnknownVariableType]
            yield from walk(inner)


@pytest.mark.parametrize("name", NAMES)
def test_every_reference_leads_somewhere(name: str) -> None:
    document = load(name)
    references = [str(node["$ref"]) for node in walk(document) if "$ref" in node]
    assert len(references) > 50
    for reference in references:
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        assert target


@pytest.mark.parametrize("name", NAMES)
def test_patterns_mean_the_same_everywhere(name: str) -> None:
    """Python's own anchors and named groups are no part of what JSON Schema allows."""
    patterns = {
        str(node["pattern"]) for node in walk(load(name)) if isinstance(node.get("pattern"), str)
    }
    assert patterns
    for pattern in patterns:
        re.compile(pattern)
        assert not re.search(r"\\Z|\\A|\(\?P|\(\?<", pattern)


def test_every_message_is_described() -> None:
    types = load("messages.json")["x-types"]
    assert set(types["inputs"]) == {*wire.COMMANDS, *wire.REPORTS}
    assert set(types["payments"]) == {"preauthorize", "capture", "void", "refund", "check_status"}
    assert set(types["outcomes"]) == {"accepted", "refused"}
    channels = load("asyncapi.json")["channels"]
    assert set(channels) == {"inputs", "outcomes", "payments", "notifications", "deadletters"}
    for stream in ("inputs", "outcomes", "payments", "notifications"):
        assert set(channels[stream]["messages"]) == set(types[stream])


def test_an_entrys_headers_are_what_the_decoder_asks() -> None:
    found = load("asyncapi.json")["components"]["messages"]
    for name in wire.COMMANDS:
        assert found[name]["headers"]["required"] == ["type", "key", "by"]
        by = found[name]["headers"]["properties"]["by"]["pattern"]
        assert re.search(by, "customer:K1")
        assert not re.search(by, "admin:K1")
    for name in wire.REPORTS:
        assert found[name]["headers"]["required"] == ["type", "by"]
