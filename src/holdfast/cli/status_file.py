"""``status.json`` in the data folder: what runs there, and how each part of it fares.

The supervisor writes it, whole or not at all, whenever something in it changes. A child tells of its
troubles at most a few times a second, and so often the file is written at most. Who reads it looks at
the lock beside it too: a file that a killed service left is not taken for a running one.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import IO, TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STATUS_FILE: Final = "status.json"
LOCK_FILE: Final = "service.lock"

PartHealth = Literal["starting", "ok", "waiting", "restarting"]
"""``waiting``: it runs, and something that it needs is away. ``restarting``: it died."""


class Trouble(msgspec.Struct, frozen=True):
    """Why a part does not get on.

    Attributes:
      subject: What troubles it: ``log``, ``provider``, ``mailer``, ``book demo``, or ``process`` where
        it died itself.
      why: One sentence.
      since_ms: Since when, milliseconds since the epoch.
    """

    subject: str
    why: str
    since_ms: int


class PartStatus(msgspec.Struct, frozen=True):
    """One process of the service.

    Attributes:
      pid: Its process id; while it is started again that of its last life, or 0.
      restarts: How often it was started again.
    """

    pid: int
    restarts: int = 0
    health: PartHealth = "ok"
    troubles: list[Trouble] = []


class Status(msgspec.Struct, frozen=True):
    """What is in ``status.json``.

    Attributes:
      pid: Of the supervisor.
      redis: URL of the server.
      provider: URL of the payment provider, or "" where none runs.
      started_ms: When the service was started, milliseconds since the epoch.
      durability: What it promises of an accepted outcome.
      replicas: How many replicas must have it; 0 for none.
    """

    pid: int
    redis: str
    provider: str
    started_ms: int
    parts: dict[str, PartStatus] = {}
    durability: Literal["relaxed", "durable", "replicated"] = "durable"
    replicas: int = 0


def read_status(data: Path) -> Status | None:
    """What runs in the folder *data*; None where nothing does."""
    try:
        with (data / LOCK_FILE).open("rb") as lock:
            if _is_locked(lock):
                return msgspec.json.decode((data / STATUS_FILE).read_bytes(), type=Status)
    except (OSError, msgspec.DecodeError):
        pass
    return None


def _is_locked(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def write_status(data: Path, status: Status) -> None:
    """Put *status* into the folder *data*.

    Raises:
      OSError: The folder cannot be written; what was there before still is.
    """
    path = data / STATUS_FILE
    new = path.with_suffix(".new")
    text = msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n"
    # The server's URL may have a password in it: nobody else may read the file.
    with open(new, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
    new.replace(path)


class Board:
    """How the parts fare, as the supervisor learns it."""

    def __init__(self) -> None:
        self._parts: dict[str, PartStatus] = {}

    def parts(self, pids: Mapping[str, int], restarts: Mapping[str, int]) -> dict[str, PartStatus]:
        """All that were begun, with their process ids and how often they were started again."""
        return {
            name: msgspec.structs.replace(
                part, pid=pids.get(name, 0), restarts=restarts.get(name, 0)
            )
            for name, part in self._parts.items()
        }

    def note(self, part: str, health: PartHealth, whys: Mapping[str, str]) -> bool:
        """Take down how *part* fares and why, by subject; whether that is news.

        A trouble that goes on keeps the time since which it does, also where it is told in other words.
        """
        old = self._parts.get(part)
        before = {} if old is None else {trouble.subject: trouble for trouble in old.troubles}
        now_ms = time.time_ns() // 1_000_000
        troubles = [
            Trouble(subject, why, before[subject].since_ms if subject in before else now_ms)
            for subject, why in whys.items()
        ]
        new = PartStatus(0, 0, health, troubles)
        self._parts[part] = new
        return new != old
