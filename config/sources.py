"""Where settings are read from, and what is said where one is wrong.

The three sources come down to one form: a value by dotted key, already of its setting's type,
beside the name of where it was found. Which settings there are follows from the struct alone.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeGuard,
    Union,
    cast,
    get_args,
    get_origin,
)

import msgspec

from holdfast.config.redact import redacted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "HOLDFAST_"
"""How the names of our environment variables begin."""

SHOWN_MAX = 60
"""Longest piece of a wrong value that an error shows, in characters."""


class SettingsError(Exception):
    """A file, variable or option says something that cannot be. The message says what to do."""


class Setting(NamedTuple):
    """One thing that can be set.

    Attributes:
      key: Dotted.
      type: What its value must convert to.
      allowed: The same for a person.
      optional: Whether the empty text stands for None.
    """

    key: str
    type: Any
    allowed: str
    optional: bool


Known = dict[str, Setting]
"""Settings by dotted key."""

Found = dict[str, tuple[object, str]]
"""By dotted key: the value, and where it was found."""


def known_settings(struct: type[msgspec.Struct], prefix: str = "") -> Known:
    """Every leaf of *struct* by its dotted key, in the order of declaration."""
    known: Known = {}
    for field in msgspec.structs.fields(struct):
        key = prefix + field.name
        type_: object = field.type
        if _is_struct(type_):
            known |= known_settings(type_, key + ".")
        else:
            known[key] = Setting(key, type_, _allowed(type_), NoneType in get_args(type_))
    return known


def environ_name(key: str) -> str:
    """The environment variable of a dotted key."""
    return PREFIX + key.upper().replace(".", "__")


def read_file(known: Known, file: Path) -> Found:
    """What the TOML *file* sets.

    Raises:
      SettingsError: It cannot be read, is no TOML, or sets something wrong.
    """
    return _read_table(known, read_toml(file), str(file), "")


def read_toml(file: Path) -> dict[str, object]:
    """The TOML *file* as it is.

    Raises:
      SettingsError: It cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file} is not UTF-8 text at byte {error.start}.") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is not valid TOML: {error}.") from error


def read_environ(known: Known, environ: Mapping[str, str]) -> Found:
    """What the environment sets; names without our prefix are none of our business.

    Raises:
      SettingsError: A variable with our prefix is unknown, or its value is wrong.
    """
    keys = {environ_name(key).removeprefix(PREFIX): key for key in known}
    found: Found = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        key = keys.get(name.removeprefix(PREFIX))
        if key is None:
            raise SettingsError(
                f"{name}, an environment variable, is not a setting"
                f"{did_you_mean(name.removeprefix(PREFIX), keys, PREFIX)}"
            )
        found[key] = (_value(known[key], environ[name], name), name)
    return found


def read_overrides(known: Known, overrides: Mapping[str, object]) -> Found:
    """What the caller sets, by dotted key; None means that it does not.

    Raises:
      SettingsError: A key is unknown, or its value is wrong.
    """
    found: Found = {}
    for key, value in overrides.items():
        if key not in known:
            raise SettingsError(f"{key} is not a setting{did_you_mean(key, known)}")
        if value is not None:
            found[key] = (_value(known[key], value, key), "the command line")
    return found


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence about an unknown *name*: the nearest known one, or all of them.

    *prefix* is put before what is named.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {prefix}{near[0]}?"
    return f"; known are {', '.join(prefix + name for name in names)}."


def shown(value: object) -> str:
    """A wrong *value* as an error may show it: short, and without a secret."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(redacted(value)) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…"


def _is_struct(type_: object) -> TypeGuard[type[msgspec.Struct]]:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def _read_table(known: Known, table: Mapping[str, object], file: str, prefix: str) -> Found:
    sections = {key.partition(".")[0] for key in known if "." in key}
    found: Found = {}
    for name, value in table.items():
        key = prefix + name
        if key in known:
            found[key] = (_value(known[key], value, f"{file}: {key}", text_too=False), file)
        elif key in sections:
            if not isinstance(value, dict):
                raise SettingsError(
                    f"{file}: {key} is {shown(value)}, but must be a table, [{key}]."
                )
            found |= _read_table(known, cast("dict[str, object]", value), file, f"{key}.")
        else:
            here = [k for k in known if k.startswith(prefix)] if prefix else [*known, *sections]
            raise SettingsError(f"{file}: {key} is not a setting{did_you_mean(key, here)}")
    return found


def _value(setting: Setting, value: object, where: str, *, text_too: bool = True) -> object:
    """*value* as the setting's type; *text_too* lets text stand for a number or a bool."""
    if setting.optional and value == "":
        return None
    try:
        return msgspec.convert(
            value, setting.type, strict=not (text_too and not setting.optional), dec_hook=_to_path
        )
    except (msgspec.ValidationError, TypeError) as error:
        is_url = "://" in setting.allowed
        hidden = is_url and not (isinstance(value, str) and "://" in value)
        found = "something else" if hidden else shown(value)
        # The cause is left out: msgspec's own sentence could show the value.
        del error
        message = f"{where} is {found}, but must be {setting.allowed}."
    raise SettingsError(message)


def _to_path(_type: type, value: object) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise TypeError("not a path")
    return Path(value)


def _allowed(type_: object) -> str:
    """What values *type_* takes, for a person."""
    names = {bool: "true or false", Path: "the path of a folder", int: "a whole number"}
    if isinstance(type_, type):
        return names[type_]
    origin, args = get_origin(type_), get_args(type_)
    if origin is Literal:
        return "one of " + ", ".join(repr(value) for value in args)
    if origin in (Union, UnionType):
        return _allowed(next(arg for arg in args if arg is not NoneType))
    if origin is Annotated:
        meta = next(arg for arg in args if isinstance(arg, msgspec.Meta))
        if meta.description:
            return meta.description
        noun = "a whole number" if args[0] is int else "a number"
        return f"{noun} from {meta.ge} to {meta.le}"
    raise AssertionError(f"no words for {type_}")
