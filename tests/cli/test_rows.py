"""Reading files that other programs wrote."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from holdfast.cli.common import CliError
from holdfast.cli.mapping import Rows
from holdfast.cli.rows import read_rows, sorted_rows

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "id,name\n2,b\n1,a\n"
CUT_SHORT = gzip.compress(TEXT.encode() * 999, mtime=0)[:-20]


def write(tmp_path: Path, data: bytes, name: str = "rows.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_only_the_wanted_columns_are_kept(tmp_path: Path) -> None:
    lines = list(read_rows(write(tmp_path, TEXT.encode()), Rows(), ["name"]))
    assert [(line.number, line.row) for line in lines] == [(2, {"name": "b"}), (3, {"name": "a"})]


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_a_byte_order_mark_and_gzip_make_no_difference(tmp_path: Path, name: str) -> None:
    data = TEXT.encode("utf-8-sig")
    path = write(tmp_path, gzip.compress(data) if name.endswith(".gz") else data, name)
    assert [line.row["id"] for line in read_rows(path, Rows(), ["id"])] == ["2", "1"]


def test_rows_are_sorted_stably_by_a_column(tmp_path: Path) -> None:
    path = write(tmp_path, b"id,at\na,2\nb,1\nc,2\nd,1\n")
    lines = sorted_rows(path, Rows(order_by="at"), ["id", "at"])
    assert [line.row["id"] for line in lines] == ["b", "d", "a", "c"]


def test_bad_rows_are_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    data = b'id,name\n1\n2,a,b\n\n3,\xff\n4,"two\nlines"\n5,e\n'
    lines = list(read_rows(write(tmp_path, data), Rows(), ["id", "name"]))
    assert [(line.number, line.problem) for line in lines] == [
        (2, "it has 1 columns instead of 2"),
        (3, "it has 3 columns instead of 2"),
        (5, "it is not in the mapping's encoding"),
        (7, ""),
        (8, ""),
    ]
    assert lines[-2].row["name"] == "two\nlines"


def test_a_field_without_end_is_one_bad_row(tmp_path: Path) -> None:
    data = b'id,name\n1,"' + b"x" * 200_000 + b"\n2,b\n"
    lines = list(read_rows(write(tmp_path, data), Rows(), ["id", "name"]))
    assert lines[0].problem.startswith("it is no CSV")


def test_accents_of_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path, "id\nSuá\n".encode("latin-1"))
    [line] = read_rows(path, Rows(encoding="latin-1"), ["id"])
    assert line.row == {"id": "Suá"}


@pytest.mark.parametrize(
    ("data", "name", "rows", "sentence"),
    [
        (b"", "rows.csv", Rows(), "is empty"),
        (b"x,y\n", "rows.csv", Rows(), "has no column id; it has x, y"),
        (b"no gzip", "rows.csv.gz", Rows(), "cannot read"),
        (CUT_SHORT, "rows.csv.gz", Rows(), "cannot read"),
        (TEXT.encode(), "rows.csv", Rows(encoding="klingon"), "encoding 'klingon' is unknown"),
    ],
    ids=["empty", "no column", "no gzip", "cut short", "encoding"],
)
def test_a_file_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, data: bytes, name: str, rows: Rows, sentence: str
) -> None:
    with pytest.raises(CliError, match=sentence):
        list(read_rows(write(tmp_path, data, name), rows, ["id"]))


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="No such file"):
        list(read_rows(tmp_path / "none.csv", Rows(), ["id"]))
