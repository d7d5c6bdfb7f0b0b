"""Importing a small file with real processes: once, twice, and with kills."""

from __future__ import annotations

import gzip
import signal
from typing import TYPE_CHECKING

import msgspec
import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    Service = Callable[..., AbstractContextManager[Any]]
    End = Callable[[Any, signal.Signals], int]
    Holdfast = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

MAPPING = """
[rows]
order_by = "asked"
[book]
column = "place"
[practice]
file = "dentist"
zone = "America/Sao_Paulo"
currency = "BRL"
staff = 1
[practice.policies]
holds_per_customer_max = 0
advance_days_max = 3660
hold_s = 86400
[command]
type = "request_auto"
key = "row-{id}"
by = "service:import"
[command.body]
service = "checkup"
customer = { column = "who", kind = "number", prefix = "P" }
days = [{ column = "day", kind = "date", shift_weeks = 600 }]
first = { column = "day", kind = "date", shift_weeks = 600 }
last = { column = "day", kind = "date", shift_weeks = 600 }
"""
ROWS = 300
PLACES = ("São José", "CENTRO", "Joana d´Arc")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """300 rows for three practices on five days: more than there is room for, and two bad ones."""
    lines = ["id,who,day,place,asked,other"]
    for number in range(ROWS):
        day = f"2016-05-{2 + number % 5:02d}"  # Monday to Friday
        asked = f"2016-04-01 10:{number * 7 % 60:02d}:00"
        lines.append(f"{number},{number}.0,{day},{PLACES[number % 3]},{asked},x")
    lines.insert(5, "bad")
    lines.insert(9, "900,1.0,2016-02-31,CENTRO,2016-04-01 10:00:00,x")
    rows = tmp_path / "rows.csv.gz"
    rows.write_bytes(gzip.compress("\r\n".join(lines).encode("utf-8-sig")))
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(MAPPING)
    return rows, mapping


def result_of(out: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert out.returncode == 0, out.stderr
    assert out.stdout.count("\n") == 1
    result: dict[str, Any] = msgspec.json.decode(out.stdout)
    return result


def test_an_import_is_done_once_and_ends_the_same_whatever_is_killed(
    holdfast: Holdfast, files: tuple[Path, Path], tmp_path: Path
) -> None:
    rows, mapping = files
    command = ("import", rows, "--mapping", mapping, "--up", "--json", "--data")
    out = holdfast(*command, tmp_path / "one")
    first = result_of(out)
    assert "line 6 is left out: it has 1 columns instead of 6" in out.stderr
    assert "line 10 is left out: the column day is no date" in out.stderr
    assert (first["rows"], first["bad_rows"]) == (ROWS + 2, 2)
    assert first["appended"] == first["decided"] == ROWS
    assert first["accepted"] + sum(first["refused"].values()) == ROWS
    # There is more demand than room, and that is the only reason to refuse anybody.
    assert first["accepted"] > 0
    assert first["refused"]["no_slot_found"] > 0
    assert set(first["refused"]) == {"no_slot_found"}
    assert set(first["digests"]) == {"sao-jose", "centro", "joana-d-arc"}
    assert len(set(first["digests"].values())) == 3
    assert first["checks"] == "ok"

    second = result_of(holdfast(*command, tmp_path / "one"))
    assert second["appended"] == 0
    for name in ("decided", "accepted", "refused", "digests", "checks"):
        assert second[name] == first[name], name

    third = result_of(holdfast(*command, tmp_path / "two", "--kill-booking", "2"))
    assert third["kills"] == 2
    assert third["digests"] == first["digests"]
    assert third["checks"] == "ok"


def test_an_import_into_a_running_service_appends_the_rest(
    holdfast: Holdfast, up: Service, end: End, files: tuple[Path, Path], tmp_path: Path
) -> None:
    rows, mapping = files
    half = tmp_path / "half.csv"
    half.write_bytes(b"".join(gzip.decompress(rows.read_bytes()).splitlines(keepends=True)[:101]))
    with up(tmp_path / "data") as service:
        arguments = ("--mapping", mapping, "--redis", service.redis, "--json")
        some = result_of(holdfast("import", half, *arguments))
        assert some["appended"] == 98
        rest = result_of(holdfast("import", rows, *arguments))
        assert rest["appended"] == ROWS - 98
        assert end(service, signal.SIGTERM) == 0
