"""A log decided anew: up to somewhere, beside another one, and under other policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from holdfast.cli.common import EXIT_FAILED, EXIT_USAGE
from holdfast.tools import replay as replaying
from holdfast.tools.archive import Archive, ArchiveWriter
from holdfast.transport.keys import parse_id

from .books import ask, client, make_book, requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    from holdfast.actors.booking.book import Book

    Invoke = Callable[..., Result]

pytestmark = pytest.mark.slow

COUNT = 200
ALTERED = 120


@pytest.fixture(scope="module")
def book(server_url: str) -> str:
    """A book of a practice, COUNT requests and a takeover."""
    make_book(server_url, "replayed", requests(COUNT))
    return "replayed"


@pytest.fixture(scope="module")
def archive(book: str, server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    from typer.testing import CliRunner

    from holdfast.cli.app import app

    file = tmp_path_factory.mktemp("replayed") / "log.jsonl.gz"
    done = CliRunner().invoke(app, ["export", book, str(file), "--redis", server_url])
    assert done.exit_code == 0, done.stderr
    return Archive(file)


def altered(archive: Archive, path: Path, name: bytes = b"Customer X") -> str:
    """Write an archive as it would be had one customer another name; the id of that input."""
    header = archive.header
    writer = ArchiveWriter(path, archive.begin)
    found = ""
    for number, line in enumerate(archive.inputs()):
        entry = line.entry
        if number == ALTERED:
            body = entry.body.replace(b"Customer %d" % (ALTERED - 1), name)
            assert (body != entry.body) == (name == b"Customer X")
            entry, found = msgspec.structs.replace(entry, body=body), entry.id
        writer.add(entry, line.link)
    writer.finish(
        book=header.book,
        before=0,
        decided=header.decided,
        epoch=header.epoch,
        machine=header.machine,
        link=header.link,
    )
    writer.close()
    return found


def pour(archive: Archive, url: str, book: str, change: Callable[[int, bytes], bytes]) -> None:
    """Append the inputs of *archive* to another book by hand, each body as *change* has it."""
    key = f"holdfast:{{{book}}}:inputs"
    for number, line in enumerate(archive.inputs()):
        entry = line.entry
        fields: list[str | bytes] = ["type", entry.type, "body", change(number, entry.body)]
        fields += ["by", entry.by, *(("key", entry.key) if entry.key else ())]
        ask(url, "XADD", key, entry.id, *fields)


def told(result: Result, code: int = 0) -> dict[str, Any]:
    assert result.exit_code == code, result.stderr
    found: dict[str, Any] = msgspec.json.decode(result.stdout)
    return found


def test_a_live_book_comes_to_the_digest_of_its_record(
    invoke: Invoke, server_url: str, book: str, archive: Archive
) -> None:
    for name in (book, archive.path):
        done = told(invoke("replay", name, "--redis", server_url, "--json"))["replay"]
        assert done["digest"] == archive.header.link
        assert (done["inputs"], done["parted"]) == (COUNT + 2, "")
        assert sum(done["outcomes"].values()) == COUNT + 2
    with client(server_url) as foreign:
        key = f"holdfast:{{{book}}}:commit"
        was = foreign.hget(key, "digest")
        assert was is not None
        foreign.hset(key, "digest", "00" * 16)
        failed = invoke("replay", book, "--redis", server_url)
        foreign.hset(key, "digest", was)
    assert failed.exit_code == EXIT_FAILED
    assert "is not the one that was recorded" in failed.stdout


def test_a_replay_ends_where_it_is_told_to(
    invoke: Invoke, archive: Archive, server_url: str, book: str
) -> None:
    line = list(archive.inputs())[50]
    done = told(invoke("replay", book, "--to", line.entry.id, "--redis", server_url, "--json"))[
        "replay"
    ]
    assert (done["position"], done["digest"], done["inputs"]) == (line.entry.id, line.link, 51)


def test_two_exports_are_compared_by_a_few_sums(
    invoke: Invoke, archive: Archive, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl.gz"
    where = altered(archive, other)
    found = told(invoke("replay", archive.path, "--diff", other, "--json"), EXIT_FAILED)
    difference = found["difference"]
    assert (difference["first"], difference["what"]) == (where, "input")
    assert difference["equal"] == ALTERED
    assert difference["looks"] <= 2 * 9
    assert "Customer X" in difference["right"]["body"]


@pytest.mark.parametrize("seed", range(3))
def test_a_single_altered_input_of_a_live_book_is_found(
    invoke: Invoke, archive: Archive, server_url: str, new_book: Callable[[], str], seed: int
) -> None:
    other, at = new_book(), (3, ALTERED, COUNT)[seed]
    wanted = f"Customer {at - 1}".encode()

    def change(number: int, body: bytes) -> bytes:
        return body.replace(wanted, b"Somebody") if number == at else body

    pour(archive, server_url, other, change)
    args = ("replay", archive.path, "--diff", other, "--redis", server_url)
    found = told(invoke(*args, "--json"), EXIT_FAILED)["difference"]
    entry = list(archive.inputs())[at].entry
    assert (found["first"], found["what"], found["equal"]) == (entry.id, "input", at)
    shown = invoke(*args)
    assert shown.exit_code == EXIT_FAILED
    assert f"They differ from {entry.id} on: something else was asked" in shown.stdout


def test_equal_logs_are_equal_though_one_is_longer(
    invoke: Invoke, archive: Archive, server_url: str, book: str, new_book: Callable[[], str]
) -> None:
    other = new_book()
    pour(archive, server_url, other, lambda _number, body: body)
    with client(server_url) as foreign:
        foreign.xadd(f"holdfast:{{{other}}}:inputs", {"type": "tick", "body": "{}"})
    found = told(invoke("replay", book, "--diff", other, "--redis", server_url, "--json"))
    assert found["equal"]
    assert found["difference"]["longer"] == other
    assert found["difference"]["equal"] == COUNT + 2


def test_an_export_that_is_decided_otherwise_here_is_found(
    invoke: Invoke, archive: Archive, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl.gz"
    where = altered(archive, other)
    failed = invoke("replay", other)
    assert failed.exit_code == EXIT_FAILED
    assert f"the digest after {where} is not the one that was recorded" in failed.stdout


@pytest.mark.parametrize("every", [7, 512])
def test_the_input_that_breaks_a_rule_is_found(
    invoke: Invoke, archive: Archive, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    def scan(book: Book) -> list[str]:
        return ["too many"] if len(book.bookings) >= 40 else []

    monkeypatch.setattr(replaying, "full_scan", scan)
    monkeypatch.setattr(replaying, "SCAN_EVERY", every)
    done = told(invoke("replay", archive.path, "--until-violation", "--json"), EXIT_FAILED)[
        "replay"
    ]
    assert done["violated"] == ["too many"]
    line = next(line for line in archive.inputs() if line.entry.id == done["position"])
    assert line.link == done["digest"]
    before = told(invoke("replay", archive.path, "--to", done["position"], "--json"))["replay"]
    assert before["outcomes"]["accepted"] == 1 + 40  # the practice, and a booking each
    assert line.entry.type == "request_auto"


def test_other_policies_are_tried_on_the_same_inputs(
    invoke: Invoke, archive: Archive, tmp_path: Path, server_url: str, book: str
) -> None:
    file = tmp_path / "stricter.toml"
    file.write_text("[policies]\nadvance_days_max = 10\n")
    found = told(invoke("replay", book, "--with", file, "--redis", server_url, "--json"))
    accepted = told(invoke("replay", archive.path, "--json"))["replay"]["outcomes"]["accepted"]
    (change,) = [change for change in found["changes"] if change["was"] == "accepted"]
    assert change["count"] == accepted - 2  # all but the practice and the takeover
    assert found["appointments"] == [accepted - 2, 0]
    assert change["would_be"].startswith("refused: ")
    assert len(change["examples"]) == 3
    assert '"first":"2031-03-03"' in change["examples"][0]["body"]


def test_policies_may_be_tried_from_some_input_on(
    invoke: Invoke, archive: Archive, tmp_path: Path
) -> None:
    file = tmp_path / "stricter.toml"
    file.write_text("[policies]\nadvance_days_max = 10\n")
    since = list(archive.inputs())[100].entry.id
    found = told(invoke("replay", archive.path, "--with", file, "--since", since, "--json"))
    assert found["inputs"] == COUNT + 2 - 100
    ids = [example["id"] for change in found["changes"] for example in change["examples"]]
    assert ids
    assert all(parse_id(entry_id) >= parse_id(since) for entry_id in ids)
    assert 0 < found["appointments"][1] < found["appointments"][0]


def test_policies_that_change_nothing_change_nothing(
    invoke: Invoke, archive: Archive, tmp_path: Path
) -> None:
    file = tmp_path / "same.toml"
    file.write_text("[policies]\nadvance_days_max = 3660\n")
    found = told(invoke("replay", archive.path, "--with", file, "--json"))
    assert (found["differ"], found["same_calendar"]) == (0, True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[policies]\nhold_seconds = 3\n", "there is no policy hold_seconds; did you mean hold_s?"),
        ("[policies]\nhold_s = -3\n", "Expected `int` >= 1"),
        ("zone = 'UTC'\n", "must have one table [policies]"),
    ],
)
def test_policies_that_cannot_be_are_one_sentence(
    invoke: Invoke, archive: Archive, tmp_path: Path, text: str, sentence: str
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    failed = invoke("replay", archive.path, "--with", file)
    assert failed.exit_code == EXIT_FAILED
    assert sentence in failed.stderr
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("demo", "--to", "yesterday"), "is no entry id"),
        (("demo", "--diff", "x", "--until-violation"), "give one of --diff, --with"),
        (("demo", "--since", "1-0"), "give both"),
        (("No Such Thing",), "there is no file No Such Thing"),
    ],
)
def test_a_mistake_is_one_sentence(
    invoke: Invoke, tmp_path: Path, args: tuple[str, ...], sentence: str
) -> None:
    failed = invoke("replay", *args, "--data", tmp_path)
    assert failed.exit_code == EXIT_USAGE
    assert sentence in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_there_is_no_such_book(invoke: Invoke, server_url: str) -> None:
    failed = invoke("replay", "nobody", "--redis", server_url)
    assert failed.exit_code == EXIT_FAILED
    assert "there is no book nobody" in failed.stderr
