"""How rows become commands."""

from __future__ import annotations

import unicodedata
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cli.importing import collect
from holdfast.cli.mapping import (
    BOOK_NAME,
    Column,
    Kind,
    Mapper,
    MappingError,
    MappingFile,
    RowError,
    load_mapping,
    slug,
)
from holdfast.cli.rows import Line

if TYPE_CHECKING:
    from collections.abc import Mapping

VITORIA = Path(__file__).parents[2] / "config" / "imports" / "vitoria.toml"


def mapping(**changes: object) -> MappingFile:
    whole: dict[str, object] = {
        "book": {"column": "place"},
        "command": {
            "type": "request_auto",
            "key": "row-{id}",
            "by": "service:import",
            "body": {
                "service": "checkup",
                "customer": {"column": "who", "prefix": "P", "kind": "number"},
                "days": [{"column": "day", "kind": "date", "shift_weeks": 2}],
            },
        },
    }
    return msgspec.convert(whole | changes, MappingFile)


ROW = {"id": "7", "who": "12.0", "day": "2026-01-05", "place": "São José"}


def test_a_row_becomes_a_command() -> None:
    mapper = Mapper(mapping())
    command = mapper.command(ROW)
    assert mapper.book(ROW) == "sao-jose"
    assert (command.type, command.key, command.by) == ("request_auto", "row-7", "service:import")
    assert msgspec.json.decode(command.body) == {
        "service": "checkup",
        "customer": "P12",
        "days": ["2026-01-19"],
    }


def test_columns_are_all_that_the_mapping_names() -> None:
    mapper = Mapper(mapping(rows={"order_by": "asked"}))
    assert mapper.columns() == ["place", "asked", "id", "who", "day"]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("text", "  a b ", "a b"),
        ("number", "29872499824296.0", "29872499824296"),
        ("number", "43741.75652", "43741.75652"),
        ("number", "1E+3", "1000"),
        ("number", "100", "100"),
        ("number", "0.0", "0"),
        ("integer", "12.0", 12),
        ("money", "75.5", 7550),
        ("money", "75", 7500),
        ("date", "2026-02-28", "2026-02-28"),
        ("instant", "2026-02-28 09:30:00", "2026-02-28T09:30"),
        ("instant", "2026-02-28T09:30:00+01:00", "2026-02-28T09:30+01:00"),
    ],
)
def test_kinds(kind: Kind, text: str, value: object) -> None:
    assert Column("c", kind=kind).take({"c": text}) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("number", "abc"),
        ("number", "NaN"),
        ("number", "1E+99999"),
        ("integer", "1.5"),
        ("integer", "1E+999999"),
        ("money", "75.555"),
        ("money", "Infinity"),
        ("date", "2026-02-30"),
        ("date", "tomorrow"),
        ("instant", "9 o'clock"),
    ],
)
def test_a_value_of_another_kind_is_a_bad_row(kind: Kind, text: str) -> None:
    with pytest.raises(RowError, match=f"is no {kind}"):
        Column("c", kind=kind).take({"c": text})


def test_an_empty_column_takes_its_default_or_is_a_bad_row() -> None:
    assert Column("c", default="x").take({"c": " "}) == "x"
    with pytest.raises(RowError, match="the column c is empty"):
        Column("c").take({"c": ""})


def test_a_shift_out_of_the_calendar_is_a_bad_row() -> None:
    with pytest.raises(RowError):
        Column("c", kind="date", shift_weeks=10_000).take({"c": "9999-01-01"})


@given(st.dates(date(1900, 1, 1), date(2200, 1, 1)), st.integers(-2_000, 2_000))
def test_a_shift_by_whole_weeks_keeps_the_weekday(day: date, weeks: int) -> None:
    column = Column("c", kind="date", shift_weeks=weeks)
    shifted = date.fromisoformat(str(column.take({"c": day.isoformat()})))
    assert shifted.weekday() == day.weekday()
    assert shifted - day == timedelta(weeks=weeks)


@given(st.text())
def test_a_slug_is_a_book_name_or_nothing(text: str) -> None:
    name = slug(text)
    assert not name or BOOK_NAME.match(name)


@given(st.text())
def test_a_slug_does_not_depend_on_how_accents_are_written(text: str) -> None:
    assert slug(unicodedata.normalize("NFC", text)) == slug(unicodedata.normalize("NFD", text))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("JARDIM DA PENHA", "jardim-da-penha"),
        ("ENSEADA DO SUÁ", "enseada-do-sua"),
        ("JOANA D´ARC", "joana-d-arc"),
        ("  --x-- ", "x"),
        ("日本", ""),
        ("x" * 80, "x" * 64),
    ],
)
def test_slugs(text: str, name: str) -> None:
    assert slug(text) == name


def test_two_values_of_one_slug_are_refused_and_not_mixed() -> None:
    mapper = Mapper(mapping())
    assert mapper.book({"place": "São José"}) == "sao-jose"
    assert mapper.book({"place": "São José"}) == "sao-jose"
    with pytest.raises(RowError, match="would both be the book sao-jose"):
        mapper.book({"place": "Sao Jose"})


def test_a_value_without_a_slug_is_a_bad_row() -> None:
    with pytest.raises(RowError, match="gives no book name"):
        Mapper(mapping()).book({"place": "日本"})


def test_a_command_that_the_book_would_not_understand_is_a_bad_row() -> None:
    with pytest.raises(RowError, match="customer"):
        Mapper(mapping()).command(ROW | {"who": "0." + "1" * 63})


def lines(*rows: Mapping[str, str]) -> list[Line]:
    return [Line(number, row) for number, row in enumerate(rows, start=2)]


def test_rows_are_collected_by_book_in_order_and_bad_ones_are_reported() -> None:
    other = ROW | {"id": "8", "place": "Centro"}
    bad = ROW | {"id": "9", "day": "never"}
    again = ROW | {"day": "2026-01-06"}
    books, left_out = collect(
        Mapper(mapping()), [*lines(ROW, other, bad, again), Line(9, {}, "it is no CSV")]
    )
    assert list(books) == ["centro", "sao-jose"]
    assert [command.key for command in books["sao-jose"].waiting] == ["row-7"]
    assert [(row.line, row.problem) for row in left_out] == [
        (4, "the column day is no date: 'never'"),
        (5, "it has the key of an earlier row: row-7"),
        (9, "it is no CSV"),
    ]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mapping.toml"
    path.write_text(text)
    return path


COMMAND = """
[command]
type = "request_auto"
key = "row-{id}"
by = "service:import"
body = {service = "checkup"}
"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[", "is wrong"),
        (COMMAND, "missing required field `book`"),
        ("[book]\n" + COMMAND, "either a name or a column"),
        ('[book]\nname = "a"\ncolumn = "b"\n' + COMMAND, "either a name or a column"),
        ('[book]\nname = "A"\n' + COMMAND, "use a-z, 0-9, - and _ only"),
        ('[book]\nname = "a"\n' + COMMAND.replace("{id}", "1"), "gives every row the same key"),
        ('[book]\nname = "a"\ncolor = 1\n' + COMMAND, "unknown field `color`"),
    ],
)
def test_a_wrong_mapping_is_told_before_any_row(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(MappingError, match=sentence):
        load_mapping(written(tmp_path, text))


def test_a_wrong_column_of_the_body_is_told_with_its_place() -> None:
    body = {"days": [{"column": "day", "kind": "moon"}]}
    command = {"type": "request_auto", "key": "{id}", "by": "service:x", "body": body}
    with pytest.raises(MappingError, match=r"command.body.days\[0\]"):
        Mapper(mapping(command=command))


def test_the_mapping_of_real_appointments_gives_what_it_says() -> None:
    row = {
        "PatientId": "93779.52927",
        "AppointmentID": "5642903",
        "ScheduledDay": "2016-04-29 18:38:08",
        "AppointmentDay": "2016-04-29",
        "Neighbourhood": "JARDIM DA PENHA",
    }
    mapper = Mapper(load_mapping(VITORIA))
    assert set(mapper.columns()) == set(row)
    command = mapper.command(row)
    day = "2027-10-29"
    assert date.fromisoformat(day).weekday() == date(2016, 4, 29).weekday()
    assert command.key == "appointment-5642903"
    assert msgspec.json.decode(command.body) == {
        "service": "checkup",
        "customer": "P93779.52927",
        "days": [day],
        "first": day,
        "last": day,
    }
