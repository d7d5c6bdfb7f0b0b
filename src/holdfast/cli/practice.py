"""A practice file as the command that opens a book, checked like everyone else's commands."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from holdfast.actors.booking.messages import DefinePractice
from holdfast.config.practices import find_practice, load_practice_body
from holdfast.config.settings import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.actors.ports import NewInput


def load_practice(name: str) -> DefinePractice:
    """The practice of a file, or a shipped one by its name.

    Raises:
      SettingsError: There is no such file, or what it says cannot be.
    """
    return read_practice(find_practice(name))


def read_practice(file: Path) -> DefinePractice:
    """The practice of *file*.

    Raises:
      SettingsError: The file cannot be read, or what it says cannot be.
    """
    try:
        return msgspec.convert(load_practice_body(file), DefinePractice)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{file} is no practice: {error}.") from None


def define(practice: DefinePractice, by: str, revision: int = 0) -> NewInput:
    """The command that opens a book with *practice*, or changes it to that.

    Its idempotency key derives from the practice, so that the same practice is defined once, and
    from *revision*, so that it can be defined again after another one.
    """
    from holdfast.cli.commands import encode_command

    body = msgspec.json.encode(practice)
    digest = hashlib.blake2b(body, digest_size=8).hexdigest()
    return encode_command(
        "define_practice", msgspec.json.decode(body), key=f"practice-{digest}-{revision}", by=by
    )
