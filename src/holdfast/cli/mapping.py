"""How the rows of a CSV become commands: the mapping file, read once and checked before any row.

A mapping is TOML. Its ``[command.body]`` looks like the body of the command that comes out; where a
value shall come from the row, it is a table ``{ column = "…", kind = "…" }`` instead of a constant:

============  ==================================================================================
``kind``      what the column's text becomes
============  ==================================================================================
``text``      itself, without the space around it (the default)
``number``    a number's shortest spelling, as text: ``29872499824296.0`` is ``29872499824296``
``integer``   an integer
``money``     an integer of minor units: ``75.5`` is ``7550``
``date``      an ISO date, ``shift_weeks`` whole weeks later
``instant``   an ISO date and time, ``shift_weeks`` whole weeks later
============  ==================================================================================

``prefix`` goes before the text, and a column that is empty gives ``default`` where there is one. A row
that cannot be mapped raises :class:`RowError`, which is counted and reported, and never stops an import.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from holdfast.actors.booking import messages
from holdfast.actors.ports import NewInput
from holdfast.cli.commands import MessageError, encode_command

Kind = Literal["text", "number", "integer", "money", "date", "instant"]
Row: TypeAlias = Mapping[str, str]
Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value]"

BOOK_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,63}$")
"""What a book may be called."""

SHIFT_WEEKS_MAX = 10_000


class MappingError(Exception):
    """The mapping file is wrong. The message says where and what to do."""


class RowError(Exception):
    """A row cannot become a command. The message says why."""


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value that comes from the row."""

    column: str
    kind: Kind = "text"
    prefix: str = ""
    shift_weeks: Annotated[int, Meta(ge=-SHIFT_WEEKS_MAX, le=SHIFT_WEEKS_MAX)] = 0
    default: str | None = None

    def take(self, row: Row) -> str | int:
        """This column's value in *row*, converted.

        Raises:
          RowError: The column is missing, empty without a default, or not of this kind.
        """
        text = (row.get(self.column) or "").strip()
        if not text:
            if self.default is None:
                raise RowError(f"the column {self.column} is empty")
            text = self.default
        try:
            value = _CONVERT[self.kind](text, timedelta(weeks=self.shift_weeks))
        except (ValueError, OverflowError, InvalidOperation):
            raise RowError(f"the column {self.column} is no {self.kind}: {text[:40]!r}") from None
        return f"{self.prefix}{value}" if self.prefix else value


def _number(text: str, _shift: timedelta) -> str:
    number = Decimal(text)
    if not number.is_finite() or number.adjusted() > 60:
        raise ValueError(text)
    spelled = format(number, "f")
    return spelled.rstrip("0").rstrip(".") if "." in spelled else spelled


def _integer(text: str, _shift: timedelta) -> int:
    number = Decimal(text)
    if not number.is_finite() or number.adjusted() > 18 or number != number.to_integral_value():
        raise ValueError(text)
    return int(number)


def _money(text: str, _shift: timedelta) -> int:
    number = Decimal(text)
    if not number.is_finite() or number.adjusted() > 15:
        raise ValueError(text)
    cents = number * 100
    if cents != cents.to_integral_value():
        raise ValueError(text)
    return int(cents)


def _date(text: str, shift: timedelta) -> str:
    return (date.fromisoformat(text) + shift).isoformat()


def _instant(text: str, shift: timedelta) -> str:
    return (datetime.fromisoformat(text) + shift).isoformat(timespec="minutes")


def _text(text: str, _shift: timedelta) -> str:
    return text


_CONVERT: dict[Kind, Callable[[str, timedelta], str | int]] = {
    "text": _text,
    "number": _number,
    "integer": _integer,
    "money": _money,
    "date": _date,
    "instant": _instant,
}


class Rows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the file is read.

    Attributes:
      order_by: Column by whose text the rows are sorted (stable); empty keeps the file's order.
    """

    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    encoding: str = "utf-8-sig"
    order_by: str = ""


class BookOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which book a row belongs to: always ``name``, or the slug of a column's value."""

    name: str = ""
    column: str = ""


class CommandOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a row becomes.

    Attributes:
      key: Template of the idempotency key, such as ``appointment-{AppointmentID}``; must differ in
        every row, since rows already imported are known by it.
      by: Template of the principal.
    """

    type: Literal["request_slot", "request_auto", "cancel"]
    key: str
    by: str
    body: dict[str, object]


class PracticeOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The practice of each book: that of ``file`` with what stands beside it replaced.

    Attributes:
      file: A practice file, relative to the mapping file.
      name: The practice's name; empty: the column's value, or the book's name.
      staff: So many members of staff in place of the file's; zero keeps the file's.
      policies: These replace the file's one by one.
    """

    file: str
    name: str = ""
    zone: str = ""
    currency: str = ""
    staff: Annotated[int, Meta(ge=0, le=200)] = 0
    policies: dict[str, object] = {}


class MappingFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping file as it is written."""

    command: CommandOf
    book: BookOf
    practice: PracticeOf | None = None
    rows: Rows = Rows()


class Mapper:
    """Makes commands of rows by one mapping.

    Args:
      mapping: The mapping file's content.
      practice: The practice of ``mapping.practice``, loaded; None where books exist already.
    """

    def __init__(
        self, mapping: MappingFile, practice: messages.DefinePractice | None = None
    ) -> None:
        self.mapping = mapping
        self.practice = practice
        self._body = {name: _compile(value, name) for name, value in mapping.command.body.items()}
        self._books: dict[str, str] = {}

    def columns(self) -> list[str]:
        """Every column that the mapping names, each once."""
        names: dict[str, None] = {}
        if self.mapping.book.column:
            names[self.mapping.book.column] = None
        if self.mapping.rows.order_by:
            names[self.mapping.rows.order_by] = None
        for template in (self.mapping.command.key, self.mapping.command.by):
            names.update(dict.fromkeys(_FIELD.findall(template)))
        for value in self._body.values():
            _names(value, names)
        return list(names)

    def book(self, row: Row) -> str:
        """The name of *row*'s book.

        Raises:
          RowError: The column is empty, or two values of it have the same slug.
        """
        if not self.mapping.book.column:
            return self.mapping.book.name
        value = unicodedata.normalize("NFC", (row.get(self.mapping.book.column) or "").strip())
        name = slug(value)
        if not name:
            raise RowError(f"the column {self.mapping.book.column} gives no book name: {value!r}")
        if self._books.setdefault(name, value) != value:
            raise RowError(
                f"{value!r} and {self._books[name]!r} of the column {self.mapping.book.column} "
                f"would both be the book {name}; rename one of them"
            )
        return name

    def command(self, row: Row) -> NewInput:
        """*row* as a command.

        Raises:
          RowError: A value cannot be converted, or the message does not allow it.
        """
        command = self.mapping.command
        body = {name: _evaluate(value, row) for name, value in self._body.items()}
        try:
            return encode_command(
                command.type, body, key=_fill(command.key, row), by=_fill(command.by, row)
            )
        except MessageError as error:
            raise RowError(str(error)) from None

    def practice_of(self, book: str) -> messages.DefinePractice | None:
        """The practice of *book*, one of those that :meth:`book` has named."""
        if self.practice is None or self.mapping.practice is None:
            return self.practice
        name = self.mapping.practice.name or self._books.get(book, book)
        return msgspec.structs.replace(self.practice, name=name)


_Compiled: TypeAlias = "Column | Value"
_FIELD = re.compile(r"\{([^{}]+)\}")


def _compile(value: object, where: str) -> object:
    """*value* of the mapping's body, with each table that names a column made a :class:`Column`."""
    if isinstance(value, dict):
        table: dict[str, object] = msgspec.convert(value, dict[str, object])
        if "column" in table:
            try:
                return msgspec.convert(table, Column)
            except msgspec.ValidationError as error:
                raise MappingError(f"command.body.{where}: {error}") from None
        return {name: _compile(part, f"{where}.{name}") for name, part in table.items()}
    if isinstance(value, list):
        return [
            _compile(part, f"{where}[{index}]")
            for index, part in enumerate(msgspec.convert(value, list[object]))
        ]
    return value


def _evaluate(value: object, row: Row) -> object:
    if isinstance(value, Column):
        return value.take(row)
    if isinstance(value, dict):
        table: dict[str, object] = value  # pyright: ignore[reportUnknownVariableType]
        return {name: _evaluate(part, row) for name, part in table.items()}
    if isinstance(value, list):
        parts: list[object] = value  # pyright: ignore[reportUnknownVariableType]
        return [_evaluate(part, row) for part in parts]
    return value


def _names(value: object, names: dict[str, None]) -> None:
    if isinstance(value, Column):
        names[value.column] = None
    elif isinstance(value, dict):
        for part in msgspec.convert(value, dict[str, object]).values():
            _names(part, names)
    elif isinstance(value, list):
        for part in msgspec.convert(value, list[object]):
            _names(part, names)


def _fill(template: str, row: Row) -> str:
    """*template* with each ``{Column}`` replaced."""

    def value(match: re.Match[str]) -> str:
        text = (row.get(match[1]) or "").strip()
        if not text:
            raise RowError(f"the column {match[1]} is empty")
        return text

    return _FIELD.sub(value, template)


def slug(text: str) -> str:
    """*text* as a book name: lower case, accents dropped, everything else a hyphen; "" if nothing is left."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].rstrip("-")


def load_mapping(path: Path) -> MappingFile:
    """Read a mapping file and check what can be checked without a row.

    Raises:
      MappingError: It cannot be read, or says something that is not allowed.
    """
    try:
        with path.open("rb") as file:
            mapping = msgspec.convert(tomllib.load(file), MappingFile)
    except OSError as error:
        raise MappingError(f"cannot read the mapping {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise MappingError(f"the mapping {path} is wrong: {error}") from None
    if bool(mapping.book.name) == bool(mapping.book.column):
        raise MappingError(f"the mapping {path} must give [book] either a name or a column")
    if mapping.book.name and not BOOK_NAME.match(mapping.book.name):
        raise MappingError(
            f"the mapping {path} names the book {mapping.book.name!r}: use a-z, 0-9, - and _ only"
        )
    if not _FIELD.search(mapping.command.key):
        raise MappingError(
            f"the mapping {path} gives every row the same key; name a column in it: 'row-{{Id}}'"
        )
    return mapping
