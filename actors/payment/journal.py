"""The sandbox provider's memory: every change of its ledger as a line of JSON, appended, replayed.

A line is handed to the operating system before its call is answered, so a killed process loses
nothing that anybody was told. It is not forced to the disk: a machine that loses power may lose the
last moments, as befits a sandbox. The file is locked while it is open, so there is one writer.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import msgspec
import structlog

from holdfast.actors.payment.ledger import Change, Ledger

if TYPE_CHECKING:
    from pathlib import Path

_log = structlog.get_logger(__name__)
_encoder = msgspec.json.Encoder()


class JournalError(Exception):
    """The journal cannot be used. The message says what to do next."""


class Journal:
    """An open journal.

    Args:
      path: The file; made where there is none.

    Raises:
      JournalError: Another process has it open.
      OSError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise JournalError(
                f"{path} is used by another sandbox provider; stop that one or name another folder"
            ) from error

    def replay(self) -> Ledger:
        """The ledger that the lines give. A torn last line was never answered and is dropped.

        Raises:
          JournalError: A line in the middle is no change of a ledger.
        """
        ledger = Ledger()
        decoder = msgspec.json.Decoder(Change)
        good = 0
        with os.fdopen(os.dup(self._fd), "rb") as lines:
            lines.seek(0)
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    _log.warning("journal_torn_line_dropped", path=str(self._path), line=number)
                    break
                try:
                    change = decoder.decode(line)
                except msgspec.DecodeError as error:
                    raise JournalError(
                        f"{self._path} is damaged at line {number} ({error}); "
                        "restore the file or move it away to begin an empty ledger"
                    ) from error
                ledger.apply(change)
                good += len(line)
        os.ftruncate(self._fd, good)
        self._size = good
        return ledger

    def append(self, change: Change) -> None:
        """Write *change*; when this returns, it survives the process.

        Raises:
          OSError: It could not be written; the file is as it was before.
        """
        line = _encoder.encode(change) + b"\n"
        try:
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError(28, "no room for a whole line", str(self._path))
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)

    def close(self) -> None:
        """Close the file and give up the lock."""
        os.close(self._fd)
