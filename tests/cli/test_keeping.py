"""Snapshots that an operator makes, trimming with its guards, and a clean stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.options import BookingOptions
from holdfast.bootstrap import SystemClock
from holdfast.cli.common import EXIT_FAILED, EXIT_USAGE
from holdfast.tools.replay import replay
from holdfast.tools.snapshots import make_snapshot, save_snapshot
from holdfast.tools.sources import LogSource
from holdfast.transport.operator import Operator, open_operator
from holdfast.transport.redis_log import open_redis_log
from holdfast.transport.server import EmbeddedServer, ServerConfig

from .books import ask, decide_all, entries_of, make_book, requests

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from typer.testing import Result

    from holdfast.transport.redis_log import RedisLog

    Invoke = Callable[..., Result]
    Holdfast = Callable[..., subprocess.CompletedProcess[str]]
    Service = Callable[..., AbstractContextManager[Any]]

pytestmark = pytest.mark.slow


def told(result: Result) -> Any:  # noqa: ANN401 - whatever was printed
    assert result.exit_code == 0, result.stderr
    return msgspec.json.decode(result.stdout)


def ignore(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


@pytest.fixture
async def operator(server_url: str) -> AsyncIterator[Operator]:
    """What operators may do on the real server."""
    async with open_operator(server_url) as operator:
        yield operator


def go_on(url: str, book: str, count: int) -> None:
    """Decide *count* more requests; the actor leaves with another snapshot."""

    async def work() -> None:
        async with open_redis_log(url) as log:
            await log.append(book, requests(count, seed=2))
            await decide_all(log, book)

    trio.run(work)


# -- snapshots ---------------------------------------------------------------------------


def test_a_snapshot_of_the_tool_is_the_one_that_the_owner_would_make(
    invoke: Invoke, server_url: str, new_book: Callable[[], str], tmp_path: Path
) -> None:
    book = new_book()
    record = make_book(server_url, book, requests(30))
    prefix = f"holdfast:{{{book}}}:"
    theirs = ask(server_url, "GET", f"{prefix}snapshot:{record.position}")
    ask(server_url, "DEL", f"{prefix}snapshot:{record.position}")
    ask(server_url, "HDEL", f"{prefix}commit", "snapshot")
    asked = invoke("snapshot", book, "--redis", server_url)
    assert asked.exit_code == EXIT_USAGE
    assert "say --yes to do it" in asked.stderr
    assert ask(server_url, "HGET", f"{prefix}commit", "snapshot") is None
    done = told(invoke("snapshot", book, "--yes", "--redis", server_url, "--json"))
    assert (done["position"], done["replayed"], done["saved"]) == (record.position, 32, True)
    assert ask(server_url, "GET", f"{prefix}snapshot:{record.position}") == theirs
    file = tmp_path / "book.snapshot"
    told(invoke("snapshot", book, "--to", file, "--redis", server_url, "--json"))
    go_on(server_url, book, 5)
    whole = told(invoke("replay", book, "--redis", server_url, "--json"))["replay"]
    for begin in (file, "newest"):
        args = ("replay", book, "--snapshot", begin, "--redis", server_url, "--json")
        assert told(invoke(*args))["replay"]["digest"] == whole["digest"]
    alone = told(invoke("replay", file, "--json"))["replay"]
    assert (alone["position"], alone["digest"]) == (record.position, record.digest)


def test_a_book_whose_log_says_something_else_gets_no_snapshot(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    book = new_book()
    make_book(server_url, book, requests(3))
    prefix = f"holdfast:{{{book}}}:"
    ask(server_url, "HSET", f"{prefix}commit", "digest", "00" * 16)
    failed = invoke("snapshot", book, "--yes", "--redis", server_url)
    assert failed.exit_code == EXIT_FAILED
    assert "does not give what its commit record says" in failed.stderr


async def test_a_snapshot_beside_the_owner_disturbs_nobody(
    redis_log: RedisLog, operator: Operator, book: str
) -> None:
    stop = trio.Event()
    options = BookingOptions(wait_s=0.05, snapshot_inputs=40)
    await redis_log.append(book, requests(5))
    saved = 0
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def own() -> None:
                clock = SystemClock()
                await run_booking(
                    redis_log, clock, owner="owner", options=options, stop=stop, books=[book]
                )

            nursery.start_soon(own)
            await redis_log.read_outcomes({book: "0-0"}, 1, 10)
            for seed in range(20):
                await redis_log.append(book, requests(20, seed=seed))
                saved += (await save_snapshot(redis_log, operator, book, ignore)).saved
            stop.set()
    record = await redis_log.read_record(book)
    assert (record.epoch, record.owner) == (1, "owner")
    assert saved > 0
    found = await replay(await LogSource.open(redis_log, book), to=record.position, tell=ignore)
    assert found.digest == record.digest
    snapshot, _, replayed = await make_snapshot(redis_log, operator, book, ignore)
    assert (snapshot.digest, replayed) == (record.digest, 0)


# -- trimming ----------------------------------------------------------------------------


def test_what_goes_must_be_in_the_export(
    invoke: Invoke, server_url: str, new_book: Callable[[], str], tmp_path: Path
) -> None:
    book = new_book()
    first = make_book(server_url, book, requests(30))
    where = ("--redis", server_url, "--json")
    early, whole = tmp_path / "early.jsonl.gz", tmp_path / "whole.jsonl.gz"
    ids = [entry_id for entry_id, _ in entries_of(server_url, book)]
    told(invoke("export", book, early, "--to", ids[10], *where))
    refused = invoke("trim", book, "--redis", server_url)
    assert refused.exit_code == EXIT_FAILED
    assert "it has no two snapshots yet" in refused.stderr
    go_on(server_url, book, 10)
    going = told(invoke("trim", book, *where))
    assert going["removed"] is None
    assert going["trimmable"] == {
        "book": book, "keep": first.position, "inputs": 31, "first": ids[0],
        "history": ask(server_url, "INFO", "replication")["master_replid"],
    }  # fmt: skip
    missing = invoke("trim", book, "--archive", early, "--yes", "--redis", server_url)
    assert missing.exit_code == EXIT_FAILED
    assert f"input {ids[11]} of {book} is not in {early}" in missing.stderr
    before = told(invoke("export", book, whole, *where))
    unasked = invoke("trim", book, "--archive", whole, "--redis", server_url)
    assert unasked.exit_code == EXIT_USAGE
    assert len(entries_of(server_url, book)) == before["inputs"]
    done = told(invoke("trim", book, "--archive", whole, "--yes", *where))
    assert done["removed"]["inputs"] == done["removed"]["outcomes"] == 31
    assert entries_of(server_url, book)[0][0] == first.position
    # What is left is whole by itself, and says where it comes from.
    digest = told(invoke("replay", book, *where))["replay"]["digest"]
    assert digest == before["link"]
    assert told(invoke("replay", whole, "--diff", book, *where))["equal"]
    rest = tmp_path / "rest.jsonl.gz"
    header = told(invoke("export", book, rest, *where))
    assert header["before"] + header["inputs"] == before["inputs"]
    assert (header["after"], header["link"]) == (first.position, before["link"])


def test_an_operator_trims_no_further_than_was_compared(
    server_url: str, new_book: Callable[[], str]
) -> None:
    """A snapshot that the owner writes meanwhile lets the server trim more."""
    book = new_book()
    make_book(server_url, book, requests(10))
    go_on(server_url, book, 10)
    ids = [entry_id for entry_id, _ in entries_of(server_url, book)]

    async def work() -> dict[Any, int]:
        async with open_operator(server_url) as operator:
            return dict(await operator.trim(book, ids[4]))

    removed = trio.run(work)
    assert (removed["inputs"], removed["outcomes"]) == (4, 4)
    assert entries_of(server_url, book)[0][0] == ids[4]


# -- draining ----------------------------------------------------------------------------


def test_draining_stops_the_service_with_a_snapshot_of_each_book(
    holdfast: Holdfast, up: Service, gone: Callable[..., list[int]], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with up(data) as service:
        body = '{"service":"checkup"}'
        push = ("push", "demo", "request_auto", "--key", "k", "--by", "customer:K1", "--wait")
        assert holdfast(*push, "--body", body, "--data", data).returncode == 0
        unasked = holdfast("drain", "--data", data)
        assert unasked.returncode == EXIT_USAGE
        assert service.process.poll() is None
        done = holdfast("drain", "--data", data, "--yes", "--json")
        assert done.returncode == 0, done.stderr
        assert gone(service.everything()) == []
    drained = msgspec.json.decode(done.stdout)
    (book,) = drained["books"]
    assert (book["book"], book["drained"]) == ("demo", True)
    replayed = holdfast("replay", "demo", "--snapshot", "newest", "--data", data, "--json")
    told_after = msgspec.json.decode(replayed.stdout)["replay"]
    assert told_after["begin"] == book["position"]
    again = holdfast("drain", "--data", data, "--yes")
    assert again.returncode == EXIT_FAILED
    assert "no service runs in" in again.stderr


def test_draining_says_of_a_book_that_another_process_leads_it_now(
    holdfast: Holdfast, up: Service, tmp_path: Path
) -> None:
    folders = tmp_path / "one", tmp_path / "two"
    server = EmbeddedServer(ServerConfig(tmp_path / "server", "durable"))
    server.start()
    trio.run(server.wait_ready)
    there = ("--redis", server.url)
    try:
        with up(folders[0], *there), up(folders[1], *there):
            body = '{"service":"checkup"}'
            push = ("push", "demo", "request_auto", "--key", "k", "--by", "customer:K1", "--wait")
            assert holdfast(*push, "--body", body, *there).returncode == 0
            ends = [holdfast("drain", "--data", folder, *there, "--yes") for folder in folders]
    finally:
        trio.run(server.stop)
    assert ends[0].returncode == EXIT_FAILED
    assert "✗ demo is led by another booking process" in ends[0].stdout
    assert ends[1].returncode == 0, ends[1].stdout
