"""The status file: whole, for its owner alone, and true only while its service runs."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

import pytest

from holdfast.cli.status_file import (
    LOCK_FILE,
    STATUS_FILE,
    Board,
    PartStatus,
    Status,
    Trouble,
    read_status,
    write_status,
)

if TYPE_CHECKING:
    from pathlib import Path

TROUBLE = Trouble("log", "the server's memory is full", 1_700_000_000_000)
STATUS = Status(
    1, "redis://:open-sesame@h", "", 2, {"payment": PartStatus(3, 4, "waiting", [TROUBLE])}
)


def test_what_is_written_is_read_while_the_service_holds_its_lock(tmp_path: Path) -> None:
    write_status(tmp_path, STATUS)
    with (tmp_path / LOCK_FILE).open("ab") as lock:
        assert read_status(tmp_path) is None
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_status(tmp_path) == STATUS
    assert read_status(tmp_path) is None


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """The server's URL may have a password in it."""
    write_status(tmp_path, STATUS)
    assert (tmp_path / STATUS_FILE).stat().st_mode & 0o077 == 0


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_status(tmp_path, STATUS)
    before = (tmp_path / STATUS_FILE).read_bytes()
    (tmp_path / "status.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_status(tmp_path, STATUS)
    assert (tmp_path / STATUS_FILE).read_bytes() == before


def test_a_trouble_keeps_the_time_since_which_it_lasts() -> None:
    board = Board()
    assert board.note("payment", "starting", {})
    assert board.note("payment", "waiting", {"log": "away"})
    assert not board.note("payment", "waiting", {"log": "away"})
    first = board.parts({"payment": 7}, {})["payment"]
    assert (first.pid, first.restarts, first.health) == (7, 0, "waiting")
    assert board.note("payment", "waiting", {"log": "full", "provider": "slow"})
    later = board.parts({}, {"payment": 2})["payment"]
    assert (later.pid, later.restarts) == (0, 2)
    log, provider = later.troubles
    assert (log.why, log.since_ms) == ("full", first.troubles[0].since_ms)
    assert provider.since_ms >= log.since_ms
    assert board.note("payment", "ok", {})
    assert board.parts({}, {})["payment"].troubles == []
