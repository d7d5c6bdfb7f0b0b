"""The wire format, seen by a client that knows nothing of our code: plain redis-py.

What is promised to producers and consumers in other languages is spelled out here by hand.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis

from holdfast.actors.ports import ActionEntry, Commit, DeadLetter, NewInput, OutcomeEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.transport.redis_log import RedisLog
    from holdfast.transport.server import EmbeddedServer


@pytest.fixture
def client(real_server: EmbeddedServer) -> Iterator[Any]:
    with redis.Redis(unix_socket_path=str(real_server.socket), decode_responses=True) as client:
        yield cast("Any", client)


async def test_any_client_can_push_a_command(redis_log: RedisLog, client: Any, book: str) -> None:  # noqa: ANN401
    """The command of the design, word by word."""
    body = '{"service":"checkup","start":"2026-06-02T10:00+02:00"}'
    entry_id = client.execute_command(
        *("XADD", f"holdfast:{{{book}}}:inputs", "*"),
        *("type", "request_slot", "key", "k-1", "by", "customer:K1", "body", body),
    )
    (entry,) = (await redis_log.read_inputs({book: "0-0"}, 10, 0))[book]
    assert (entry.id, entry.type, entry.key, entry.by) == (
        entry_id,
        "request_slot",
        "k-1",
        "customer:K1",
    )
    assert entry.body == body.encode()
    assert (entry.problem, entry.raw, entry.trace) == ("", (), "")


async def test_any_client_can_read_what_became_of_it(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    await redis_log.take_over(book, "me")
    prefix = f"holdfast:{{{book}}}:"
    taken_over = client.xrange(prefix + "inputs")[0][0]
    entry_id = client.xadd(prefix + "inputs", {"type": "tick", "body": "{}"})
    ms, sequence = map(int, entry_id.split("-"))
    stream_id = f"{ms}-{sequence * 4096 + 1}"
    batch = Commit(
        book=book,
        epoch=1,
        owner="me",
        after="0-0",
        position=entry_id,
        version=3,
        digest="abcd",
        outcomes=[
            OutcomeEntry(taken_over, "accepted", b'{"events":[]}'),
            OutcomeEntry(entry_id, "refused", b'{"code":"slot_taken"}', b"[{}]"),
        ],
        payments=[ActionEntry(stream_id, f"{entry_id}:1", "capture", b'{"payment":"p"}', "00-a")],
        notifications=[ActionEntry(stream_id, f"{entry_id}:1", "notify", b"{}")],
        dead_letters=[DeadLetter("inputs", entry_id, "not JSON", (b"body", b"\xff"))],
    )
    assert await redis_log.commit([batch]) == [None]
    just_before = f"{ms}-{sequence - 1}" if sequence else f"{ms - 1}-{2**64 - 1}"
    ((_, entries),) = client.xread({prefix + "outcomes": just_before}, block=5000)
    assert entries == [
        (entry_id, {"status": "refused", "body": '{"code":"slot_taken"}', "timers": "[{}]"})
    ]
    assert client.xrange(prefix + "outcomes", count=1) == [
        (taken_over, {"status": "accepted", "body": '{"events":[]}'})
    ]
    common = {"action": f"{entry_id}:1"}
    assert client.xrange(prefix + "payments") == [
        (stream_id, common | {"type": "capture", "body": '{"payment":"p"}', "trace": "00-a"})
    ]
    assert client.xrange(prefix + "notifications") == [
        (stream_id, common | {"type": "notify", "body": "{}"})
    ]
    ((_, letter),) = client.xrange(prefix + "deadletters")
    assert json.loads(letter.pop("fields")) == ["body", {"base64": "/w=="}]
    assert letter == {"stream": "inputs", "id": entry_id, "why": "not JSON"}
    assert client.hgetall(prefix + "commit") == {
        "position": entry_id,
        "epoch": "1",
        "owner": "me",
        "version": "3",
        "digest": "abcd",
    }


async def test_what_we_append_and_take_over_looks_the_same(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    prefix = f"holdfast:{{{book}}}:"
    (entry_id,) = await redis_log.append(book, [NewInput("cancel", b"{}", "k", "staff:S1", "00-t")])
    await redis_log.take_over(book, 'a "quoted" owner')
    first, second = client.xrange(prefix + "inputs")
    assert first == (
        entry_id,
        {"type": "cancel", "body": "{}", "key": "k", "by": "staff:S1", "trace": "00-t"},
    )
    assert json.loads(second[1].pop("body")) == {
        "epoch": 1,
        "owner": 'a "quoted" owner',
        "position": "0-0",
    }
    assert second[1] == {"type": "taken_over", "by": "service:booking"}
    assert [group["name"] for group in client.xinfo_groups(prefix + "payments")] == ["payments"]
    assert [group["name"] for group in client.xinfo_groups(prefix + "notifications")] == [
        "notifications"
    ]
    registered = [fields for _, fields in client.xrange("holdfast:books")]
    assert registered.count({"book": book}) == 1


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (["body", "{}"], "type is missing"),
        (["type", "tick"], "body is missing"),
        (["type", "tick", "body", ""], "body is missing or empty"),
        (["type", "", "body", "{}"], "type is missing or empty"),
        (["type", "tick", "body", "{}", "type", "tick"], "type is there twice"),
        (["type", "tick", "body", "{}", "colour", "red"], "unknown field 'colour'"),
        (["type", "tick", "body", "{}", b"\xff", "red"], "unknown field"),
        (["type", "tick", "body", b'"\xff"'], "body is not UTF-8"),
        (["type", b"\xff", "body", "{}", "key", "k", "by", "b"], "type is not UTF-8"),
        (["type", "tick", "body", "x" * 65_537], "at most 65536 fit"),
        (["type", "t" * 70_000, "body", "{}", "key", "k", "by", "b"], "at most 69632 fit"),
    ],
)
async def test_a_bad_entry_is_shown_and_passed(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
    fields: list[str | bytes],
    problem: str,
) -> None:
    key = f"holdfast:{{{book}}}:inputs"
    bad_id = client.execute_command("XADD", key, "*", *fields)
    good_id = client.xadd(key, {"type": "tick", "body": "{}"})
    bad, good = (await redis_log.read_inputs({book: "0-0"}, 10, 0))[book]
    assert (bad.id, bad.type, bad.body) == (bad_id, "", b"")
    assert problem in bad.problem
    assert bad.raw == tuple(field.encode() if isinstance(field, str) else field for field in fields)
    assert (good.id, good.problem) == (good_id, "")


async def test_an_id_that_leaves_no_room_for_actions_is_shown(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    key = f"holdfast:{{{book}}}:inputs"
    client.xadd(key, {"type": "tick", "body": "{}"}, id=f"1780000000000-{2**52 - 1}")
    client.xadd(key, {"type": "tick", "body": "{}"}, id=f"1780000000000-{2**52}")
    good, bad = (await redis_log.read_inputs({book: "0-0"}, 10, 0))[book]
    assert good.problem == ""
    assert "let the server choose ids" in bad.problem
