"""A log becomes a file, and the file a book that decides the same."""

from __future__ import annotations

import gzip
import os
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import pytest
import trio

from holdfast.actors.ports import LogError
from holdfast.cli.common import EXIT_FAILED, EXIT_USAGE
from holdfast.tools import export, restore
from holdfast.tools.archive import Archive
from holdfast.transport.keys import parse_id
from holdfast.transport.operator import open_operator
from holdfast.transport.redis_log import open_redis_log

from .books import BAD, ask, client, decide_all, entries_of, make_book, requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    from holdfast.transport.redis_log import RedisLog

    Invoke = Callable[..., Result]

pytestmark = pytest.mark.slow


def lines_of(file: Path) -> list[bytes]:
    return gzip.decompress(file.read_bytes()).splitlines(keepends=True)


def told(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = msgspec.json.decode(result.stdout)
    return found


def test_an_imported_log_has_the_same_entries_outcomes_and_digest(
    invoke: Invoke, server_url: str, new_book: Callable[[], str], tmp_path: Path
) -> None:
    book, copy = new_book(), new_book()
    record = make_book(server_url, book, requests(300), bad=2, undecided=7)
    file, where = tmp_path / "log.jsonl.gz", ("--redis", server_url, "--json")
    header = told(invoke("export", book, file, *where))
    assert header["inputs"] == 1 + 300 + 2 + 1 + 7  # the practice first, and a takeover
    assert header["decided"] == record.position
    done = told(invoke("import", file, "--book", copy, "--yes", *where))
    assert (done["digest"], done["undecided"]) == (record.digest, 7)
    assert entries_of(server_url, copy) == entries_of(server_url, book)
    assert any(fields == BAD for _, fields in entries_of(server_url, copy))
    assert entries_of(server_url, copy, "outcomes") == entries_of(server_url, book, "outcomes")
    assert ask(server_url, "KEYS", f"holdfast:{{{copy}}}:restoring:*") == []
    digests = [told(invoke("replay", name, *where))["replay"]["digest"] for name in (book, copy)]
    assert digests == [header["link"]] * 2
    assert told(invoke("replay", file, "--diff", copy, *where))["equal"]


def test_a_range_begins_with_the_book_as_it_was_there(
    invoke: Invoke, server_url: str, new_book: Callable[[], str], tmp_path: Path
) -> None:
    book, copy = new_book(), new_book()
    make_book(server_url, book, requests(40))
    ids = [entry_id for entry_id, _ in entries_of(server_url, book)]
    file, where = tmp_path / "range.jsonl.gz", ("--redis", server_url, "--json")
    header = told(invoke("export", book, file, "--after", ids[9], "--to", ids[29], *where))
    assert (header["inputs"], header["before"], header["first"]) == (20, 10, ids[10])
    done = told(invoke("import", file, "--book", copy, "--yes", *where))
    assert (done["position"], done["undecided"]) == (ids[29], 0)
    whole = told(invoke("replay", book, "--to", ids[29], *where))
    assert done["digest"] == whole["replay"]["digest"]
    assert told(invoke("replay", copy, "--diff", book, "--to", ids[29], *where))["equal"]
    with client(server_url) as foreign:
        info = foreign.xinfo_stream(f"holdfast:{{{copy}}}:inputs")
    # As if it had been trimmed: the input at the older snapshot is there.
    assert (info["length"], info["entries-added"]) == (21, 30)


@pytest.mark.parametrize("after", [0, 50])
def test_the_booking_actor_goes_on_where_the_exported_book_stopped(
    invoke: Invoke, server_url: str, new_book: Callable[[], str], tmp_path: Path, after: int
) -> None:
    book, copy = new_book(), new_book()
    record = make_book(server_url, book, requests(40), undecided=5)
    ids = [entry_id for entry_id, _ in entries_of(server_url, book)]
    file, where = tmp_path / "log.jsonl.gz", ("--redis", server_url, "--json")
    begin = () if not after else ("--after", record.position)
    told(invoke("export", book, file, *begin, *where))
    told(invoke("import", file, "--book", copy, "--yes", *where))

    async def go_on() -> None:
        async with open_redis_log(server_url) as log:
            assert copy in await log.wait_books(0, 0)
            await decide_all(log, copy)

    trio.run(go_on)
    outcomes = [entry_id for entry_id, _ in entries_of(server_url, copy, "outcomes")]
    assert outcomes[-6:-1] == ids[-5:]
    with client(server_url) as foreign:
        assert foreign.hget(f"holdfast:{{{copy}}}:commit", "epoch") == b"2"
    # What was asked of the provider before is not asked anew: its status is, by the takeover.
    asked = {fields[b"type"] for _, fields in entries_of(server_url, copy, "payments")[:-1]}
    assert b"check_status" in asked
    old = [entry_id for entry_id, _ in entries_of(server_url, book, "payments")]
    new = entries_of(server_url, copy, "payments")
    preauthorized = [entry_id for entry_id, one in new if one[b"type"] == b"preauthorize"]
    assert all(parse_id(entry_id) > parse_id(old[-1]) for entry_id in preauthorized)


def test_a_book_that_is_there_is_never_imported_over(
    invoke: Invoke, server_url: str, new_book: Callable[[], str], tmp_path: Path
) -> None:
    book = new_book()
    make_book(server_url, book, requests(3))
    file = tmp_path / "log.jsonl.gz"
    told(invoke("export", book, file, "--redis", server_url, "--json"))
    before = entries_of(server_url, book)
    refused = invoke("import", file, "--redis", server_url)
    assert refused.exit_code == EXIT_FAILED
    assert f"there is a book {book} already" in refused.stderr
    assert entries_of(server_url, book) == before


@pytest.fixture(scope="module")
def exported(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """An export of twenty requests, and its lines."""
    from typer.testing import CliRunner

    from holdfast.cli.app import app

    file = tmp_path_factory.mktemp("exported") / "log.jsonl.gz"
    book = "exported"
    make_book(server_url, book, requests(20))
    done = CliRunner().invoke(app, ["export", book, str(file), "--redis", server_url])
    assert done.exit_code == 0, done.stderr
    return file, lines_of(file)


def altered(lines: list[bytes]) -> list[bytes]:
    assert b"Customer 9" in lines[11]
    return [*lines[:11], lines[11].replace(b"Customer 9", b"Customer X"), *lines[12:]]


Change: TypeAlias = "Callable[[list[bytes]], list[bytes]]"

CHANGES: list[tuple[Change, str]] = [
    (altered, "was altered or cut short at line 12, input 1"),
    (lambda lines: [*lines[:5], *lines[6:]], "was altered or cut short at line 6, input 1"),
    (lambda lines: [*lines[:7], lines[8], lines[7], *lines[9:]], "at line 8, input 1"),
    (lambda lines: lines[:-1], "was cut short: it has 21 inputs"),
    (lambda lines: [*lines[:-1], lines[-1][:30]], "cut short at line 23, input 1"),
    (
        lambda lines: [lines[0].replace(b'"version":1', b'"version":7'), *lines[1:]],
        "has version 7 of the format, this release reads 1",
    ),
    (lambda lines: [b'{"format":"holdfast-log"}\n'], "its first line is no header"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
def test_a_file_that_was_altered_is_named_with_its_line(
    invoke: Invoke,
    server_url: str,
    book: str,
    tmp_path: Path,
    exported: tuple[Path, list[bytes]],
    change: Change,
    sentence: str,
) -> None:
    file = tmp_path / "bad.jsonl.gz"
    file.write_bytes(gzip.compress(b"".join(change(exported[1]))))
    for command in (("import", file, "--book", book), ("replay", file)):
        refused = invoke(*command, "--redis", server_url)
        assert refused.exit_code == EXIT_FAILED
        assert sentence in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert ask(server_url, "KEYS", f"holdfast:{{{book}}}:*") == []


def test_a_file_whose_bytes_end_early_is_named(
    invoke: Invoke, exported: tuple[Path, list[bytes]], tmp_path: Path
) -> None:
    file = tmp_path / "short.jsonl.gz"
    file.write_bytes(exported[0].read_bytes()[:-300])
    refused = invoke("replay", file)
    assert refused.exit_code == EXIT_FAILED
    assert "was cut short: its end is missing" in refused.stderr


def test_an_export_writes_over_nothing(
    invoke: Invoke, server_url: str, exported: tuple[Path, list[bytes]]
) -> None:
    file, lines = exported
    book = msgspec.json.decode(lines[0])["book"]
    refused = invoke("export", book, file, "--redis", server_url)
    assert refused.exit_code == EXIT_FAILED
    assert "exists already" in refused.stderr
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name]


def test_a_log_takes_no_mapping_and_a_csv_needs_one(
    invoke: Invoke, exported: tuple[Path, list[bytes]], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("number\n1\n")
    for args, sentence in (
        ((exported[0], "--mapping", rows), "is an exported log"),
        ((rows,), "a CSV needs --mapping"),
    ):
        refused = invoke("import", *args)
        assert refused.exit_code == EXIT_USAGE
        assert sentence in refused.stderr


async def agree(_under_way: int, _undecided: int) -> bool:
    return True


def test_what_a_service_would_go_on_with_is_asked_about(
    invoke: Invoke, server_url: str, book: str, exported: tuple[Path, list[bytes]]
) -> None:
    asked = invoke("import", exported[0], "--book", book, "--redis", server_url)
    assert asked.exit_code == EXIT_USAGE
    assert f"payments of {book} are under way or on hold and 0 inputs" in asked.stderr
    assert "say --yes to do it" in asked.stderr
    assert ask(server_url, "KEYS", f"holdfast:{{{book}}}:*") == []


async def test_an_import_that_is_interrupted_leaves_nothing(
    server_url: str,
    book: str,
    exported: tuple[Path, list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restore, "BATCH", 4)
    scope = trio.CancelScope()

    def interrupt(done: int, _total: int) -> None:
        assert done == 4
        keys = ask(server_url, "KEYS", f"holdfast:{{{book}}}:*")
        assert len(keys) == 2  # what is prepared, beside the book
        scope.cancel()

    async with open_operator(server_url) as operator:
        with scope:
            await restore.restore_log(Archive(exported[0]), operator, book, interrupt, agree)
    assert scope.cancelled_caught
    assert ask(server_url, "KEYS", f"holdfast:{{{book}}}:*") == []


async def test_an_export_that_is_interrupted_leaves_no_file(
    server_url: str, tmp_path: Path, redis_log: RedisLog, book: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TELL_EVERY", 1)
    await redis_log.append(book, requests(1_000))
    scope = trio.CancelScope()
    told: list[int] = []

    def interrupt(done: int, _total: int) -> None:
        told.append(done)
        scope.cancel()

    async with open_operator(server_url) as operator:
        with scope:
            file = tmp_path / "log.jsonl.gz"
            await export.export_log(redis_log, book, file, operator=operator, tell=interrupt)
    assert scope.cancelled_caught
    assert told[0] == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("meanwhile", "sentence"),
    [
        (("XADD", "inputs", "*", "type", "tick", "body", "{}"), "there is a book"),
        (("DEL", "restoring:inputs"), "somebody else restores"),
        (("XADD", "restoring:inputs", f"{2**60}-0", "a", "b"), "somebody else restores"),
    ],
)
async def test_nobody_else_may_make_the_book_meanwhile(
    server_url: str,
    book: str,
    exported: tuple[Path, list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.setattr(restore, "BATCH", 10)
    name, stream, *rest = meanwhile

    def meddle(done: int, _total: int) -> None:
        if done == 10:
            ask(server_url, name, f"holdfast:{{{book}}}:{stream}", *rest)

    async with open_operator(server_url) as operator:
        with pytest.raises(LogError, match=sentence):
            await restore.restore_log(Archive(exported[0]), operator, book, meddle, agree)
    left = ask(server_url, "KEYS", f"holdfast:{{{book}}}:*")
    assert left == ([f"holdfast:{{{book}}}:inputs".encode()] if stream == "inputs" else [])
