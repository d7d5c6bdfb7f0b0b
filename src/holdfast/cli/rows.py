"""The rows of a CSV file, plain or gzipped: streamed, and a bad one never stops the rest."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.cli.common import CliError
from holdfast.cli.mapping import Row

if TYPE_CHECKING:
    from _csv import Reader
    from collections.abc import Sequence

    from holdfast.cli.mapping import Rows

ROWS_MAX: Final = 5_000_000
"""Most rows of one file."""


class Line(msgspec.Struct, frozen=True, gc=False):
    """A row and where it stands.

    Attributes:
      number: Of the row's last line in the file, from 1.
      row: The columns that were asked for.
      problem: Empty, or why the row cannot be used; ``row`` is empty then.
    """

    number: int
    row: Row
    problem: str = ""


def read_rows(path: Path, rows: Rows, columns: Sequence[str]) -> Iterator[Line]:
    """Each row of the file *path*, in the file's order.

    Args:
      path: CSV with a line of headings; gzipped if its name ends in ``.gz``.
      rows: How to read it.
      columns: Those that are wanted.

    Raises:
      CliError: The file cannot be read, is cut short, or a column is missing.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(
            path, "rt", encoding=rows.encoding, errors="surrogateescape", newline=""
        ) as file:
            yield from _lines(csv.reader(file, delimiter=rows.delimiter), path, columns)
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CliError(f"cannot read {path}: {why}") from None
    except LookupError:
        raise CliError(f"the mapping's encoding {rows.encoding!r} is unknown; try utf-8") from None


def sorted_rows(path: Path, rows: Rows, columns: Sequence[str]) -> list[Line]:
    """All rows in the order that *rows* asks for; equal ones in the file's order. Bad ones come first.

    Raises:
      CliError: As :func:`read_rows`.
    """
    lines = list(read_rows(path, rows, columns))
    if rows.order_by:
        lines.sort(key=lambda line: line.row.get(rows.order_by, ""))
    return lines


def _lines(reader: Reader, path: Path, columns: Sequence[str]) -> Iterator[Line]:
    try:
        headings = next(reader)
    except StopIteration:
        raise CliError(f"{path} is empty: its first line must name the columns") from None
    except csv.Error as error:
        raise CliError(f"the first line of {path} does not name columns: {error}") from None
    missing = [name for name in columns if name not in headings]
    if missing:
        raise CliError(
            f"{path} has no column {missing[0]}; it has {', '.join(headings)[:200]}: "
            "correct the mapping"
        )
    places = [(name, headings.index(name)) for name in columns]
    for count in range(1, ROWS_MAX + 2):
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Line(reader.line_num, {}, f"it is no CSV: {error}")
            continue
        if count > ROWS_MAX:
            raise CliError(f"{path} has more than {ROWS_MAX} rows; split it")
        if values:  # an empty line is none
            yield _line(reader.line_num, values, len(headings), places)


def _line(number: int, values: list[str], width: int, places: list[tuple[str, int]]) -> Line:
    if len(values) != width:
        return Line(number, {}, f"it has {len(values)} columns instead of {width}")
    row = {name: values[place] for name, place in places}
    if not all(map(_is_text, row.values())):
        return Line(number, {}, "it is not in the mapping's encoding")
    return Line(number, row)


def _is_text(value: str) -> bool:
    """Whether *value* decoded well: what did not is a lone surrogate."""
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
