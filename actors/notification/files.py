"""Messages as files, one each: the mailer until there is a real one.

A message lies in ``<folder>/<book>/<hash of its dedupe key>.eml``. It is written under another name
first and then linked to its own, which fails if that is there: so a file is whole or absent, and a
key has one, whoever is killed when and however many processes write. It is not forced to the disk.
Names come from hashes and checked book names alone, so no message can choose where it is written.
"""

from __future__ import annotations

import os
import re
from email.header import Header
from email.utils import formatdate
from hashlib import blake2b
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING

import structlog
import trio

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.actors.ports import Message

_LINE_LENGTH_MAX = 240
"""Characters; at most 960 bytes, and RFC 5322 allows 998."""

_BOOK_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,190}")
_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.([0-9]{1,10})\.[0-9]+\.tmp")
_PRINTABLE = re.compile(r"[ -~]{0,70}")
_BREAKS = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")

_log = structlog.get_logger(__name__)
_numbers = count()
_swept: dict[Path, None] = {}
_sweeping = Lock()


class FileMailer:
    """Writes each message to a file of its own.

    Args:
      folder: Where; made where there is none.
      sender: The address in ``From``.
    """

    def __init__(self, folder: Path, sender: str = "holdfast@localhost") -> None:
        self._folder = folder.absolute()
        self._sender = sender

    def path(self, message: Message) -> Path:
        """Where *message* is or will be."""
        return self._folder / _folder_name(message.book) / f"{_digest(message.key)}.eml"

    async def deliver(self, message: Message) -> bool:
        """Write *message*; True if it was written now, False if it had been before.

        Raises:
          OSError: It could not be written.
        """
        path = self.path(message)
        written = await trio.to_thread.run_sync(self._write, path, message)
        _log.debug("message_written", book=message.book, file=path.name, new=written)
        return written

    def _write(self, path: Path, message: Message) -> bool:
        if path.exists():
            return False
        _prepare(path.parent)
        draft = path.parent / f".{path.stem}.{os.getpid()}.{next(_numbers)}.tmp"
        try:
            with draft.open("xb") as file:
                file.write(_rfc5322(message, self._sender))
            os.link(draft, path)
        except FileExistsError:
            return False  # another process was faster by a hair
        finally:
            draft.unlink(missing_ok=True)
        return True


def _digest(key: str) -> str:
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _folder_name(book: str) -> str:
    """A book's folder: its name, or where that is no plain file name a hash of it."""
    return book if _BOOK_NAME.fullmatch(book) else f"~{_digest(book)}"


def _prepare(folder: Path) -> None:
    """Make *folder*; once in a process, remove the drafts of processes that were killed."""
    with _sweeping:
        if folder in _swept and folder.exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            leftover = _LEFTOVER.fullmatch(path.name)
            if leftover and not _another_lives(int(leftover[1])):
                path.unlink(missing_ok=True)
        _swept[folder] = None


def _another_lives(pid: int) -> bool:
    """Whether *pid* is a living process other than this one, which has no drafts here yet."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _rfc5322(message: Message, sender: str) -> bytes:
    """*message* as text with headers."""
    recipient = _BREAKS.sub(" ", message.recipient)
    if not _ADDRESS.fullmatch(recipient):  # a customer's id: a named group without members
        recipient = f"{_phrase(recipient)}:;"
    headers = [
        f"Message-ID: <{_digest(message.key)}@holdfast.invalid>",
        f"From: {sender}",
        f"To: {recipient}",
        f"Subject: {_unstructured(_BREAKS.sub(' ', message.subject))}",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
    ]
    if message.time_ms:
        headers.insert(0, f"Date: {formatdate(message.time_ms / 1000)}")
    lines = [
        line[i : i + _LINE_LENGTH_MAX]
        for line in message.text.replace("\0", "").splitlines()
        for i in range(0, max(1, len(line)), _LINE_LENGTH_MAX)
    ]
    return "\r\n".join([*headers, "", *lines, ""]).encode("utf-8", "replace")


def _unstructured(text: str) -> str:
    """*text* as a header's value, encoded and folded where it must be."""
    if _PRINTABLE.fullmatch(text) and "=?" not in text:
        return text
    return _encoded(text)


def _phrase(text: str) -> str:
    """*text* as a display name: a quoted string, or encoded where it must be."""
    if _PRINTABLE.fullmatch(text) and "=?" not in text:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return _encoded(text)


def _encoded(text: str) -> str:
    clean = text.encode("utf-8", "replace").decode()
    return Header(clean, "utf-8", maxlinelen=70).encode(linesep="\r\n")
