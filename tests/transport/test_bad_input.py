"""Whatever somebody puts into a book's inputs: one clear sentence, a dead letter, and the log goes on.

The entries are written by a client that is not ours, to a real server, and decided by the real
actor. Each sentence stands in ``docs/failures.md``.
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
import redis
import trio
from structlog.testing import capture_logs

from holdfast.actors.booking.actor import run_booking
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.ports import GENESIS, ForeignDataError, LogTrimmedError, NewInput
from holdfast.bootstrap import SystemClock
from holdfast.cli.practice import define, load_practice
from holdfast.transport.keys import BookKeys, action_stream_id
from holdfast.transport.pool import ServerOptions
from holdfast.transport.redis_log import RedisLog, open_redis_log
from holdfast.transport.server import EmbeddedServer, ServerConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping


TICK = NewInput("tick", b"{}", by="service:test")
DOCUMENT = Path(__file__).parents[2] / "docs" / "failures.md"
TYPE, KEY, BY = {"type": "cancel"}, {"key": "k"}, {"by": "customer:K1"}
REST = TYPE | KEY | BY
REQUEST = {"type": "request_auto", "key": "k", "by": "customer:K1"}


def deep(levels: int) -> bytes:
    """A body in which lists nest *levels* deep."""
    return b'{"service":"checkup","days":' + b"[" * levels + b"]" * levels + b"}"


BAD: dict[str, Mapping[str, str | bytes | int]] = {
    "no fields of ours": {"what": "ever"},
    "bytes that are no text": {"type": "cancel", "body": "{}", "by": b"\xff\xfe", "key": "k"},
    "a body that is no text": REST | {"body": b'{"booking":"\xff"}'},
    "a body that is no JSON": REST | {"body": "booking=b"},
    "a body that is cut off": REST | {"body": '{"booking":'},
    "a body that is a list": REST | {"body": "[]"},
    "a value of a wrong type": REST | {"body": '{"booking":5}'},
    "not a number": REQUEST | {"body": '{"service":"checkup","days":[NaN]}'},
    "a number beyond 64 bits": REQUEST | {"body": '{"service":"checkup","days":[99999999999999999999]}'},
    "a number with an enormous exponent": REQUEST | {"body": '{"service":"checkup","days":[1e999999]}'},
    "nested a thousand deep": REQUEST | {"body": deep(1_000)},
    "nested thirty thousand deep": REQUEST | {"body": deep(30_000)},
    "a body of 10 MB": REST | {"body": b"x" * 10_000_000},
    "an idempotency key of 10 kB": REST | {"body": '{"booking":"b"}', "key": "k" * 10_000},
    "an idempotency key of 256 characters": REST | {"body": '{"booking":"b"}', "key": "k" * 256},
    "an unknown type": KEY | BY | {"type": "make_coffee", "body": "{}"},
    "a field of a newer version": REST | {"body": '{"booking":"b","colour":"red"}'},
    "an entry field that we do not know": REST | {"body": "{}", "colour": "red"},
    "no type": KEY | BY | {"body": "{}"},
    "no body": dict(REST),
    "no author": TYPE | KEY | {"body": '{"booking":"b"}'},
    "a key of the body twice": REST | {"body": '{"booking":"a","booking":"b"}'},
    "a report that a customer sends": KEY | BY | {"type": "tick", "body": "{}"},
}  # fmt: skip
"""What is put into the log, by name."""


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server for this module alone: the books that are spoilt here would trouble others."""
    server = EmbeddedServer(ServerConfig(tmp_path_factory.mktemp("spoilt"), durability="relaxed"))
    server.start()
    anyio.run(server.wait_ready, backend="trio")
    yield server
    server.stop_now()


@pytest.fixture(scope="module")
def server_url(real_server: EmbeddedServer) -> str:
    return real_server.url


@pytest.fixture
def client(real_server: EmbeddedServer) -> Iterator[Any]:
    with redis.Redis(unix_socket_path=str(real_server.socket)) as client:
        yield client


@pytest.fixture
async def guarded_log(real_server: EmbeddedServer) -> AsyncIterator[RedisLog]:
    """The log as a booking actor opens it."""
    options = ServerOptions(ahead_max_s=60.0)
    async with open_redis_log(real_server.url, rng=random.Random(1), options=options) as log:
        yield log


class Actor:
    """A booking actor on some books, for the length of a block; ``why`` it gave any of them up."""

    def __init__(self, log: RedisLog, *books: str) -> None:
        self._log = log
        self._books = books
        self.lines: list[Any] = []

    async def until_decided(self, book: str, entry_id: str) -> None:
        """Run it until *entry_id* is decided."""
        stop = trio.Event()
        options = BookingOptions(wait_s=0.1)
        run = partial(run_booking, owner="me", options=options, stop=stop, books=self._books)
        with trio.fail_after(20), capture_logs() as lines:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, self._log, SystemClock())
                after = GENESIS
                while after != entry_id:
                    found = await self._log.read_outcomes({book: after}, 500, 5.0)
                    for outcome in found.get(book, []):
                        after = outcome.id
                        if after == entry_id:
                            break
                stop.set()
        self.lines += lines

    async def until_given_up(self) -> str:
        """Run it until it has no book any more; why."""
        with capture_logs() as lines, pytest.RaisesGroup(Exception, allow_unwrapped=True):
            await run_booking(
                self._log,
                SystemClock(),
                owner="me",
                options=BookingOptions(wait_s=0.1, retry_s=0.01),
                stop=trio.Event(),
                books=self._books,
            )
        (line,) = [line for line in lines if line["event"] == "book_given_up"]
        return str(line["why"])


def documented(sentence: str, book: str, *ids: str) -> None:
    """*sentence* stands in the document, for the book ``demo`` and with ids left out."""
    for number, id_ in enumerate(ids, 1):
        sentence = sentence.replace(id_, f"ID{number}")
    shown = sentence.replace(book, "demo")
    assert shown in DOCUMENT.read_text("utf-8"), shown


@pytest.mark.slow
async def test_every_bad_entry_has_an_outcome_a_dead_letter_and_a_sentence(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    keys = BookKeys(book)
    ids: dict[str, str] = {}
    for name, fields in BAD.items():
        ids[client.xadd(keys.inputs, dict(fields)).decode()] = name
    (last,) = await redis_log.append(book, [TICK])
    await Actor(redis_log, book).until_decided(book, last)

    outcomes = {o.id: o for o in (await redis_log.read_outcomes({book: GENESIS}, 500, 0))[book]}
    assert outcomes[last].status == "accepted"
    letters: dict[str, str] = {
        fields[b"id"].decode(): fields[b"why"].decode()
        for _, fields in client.xrange(keys.deadletters)
    }
    assert letters.keys() == ids.keys()
    for id_, why in letters.items():
        refusal = msgspec.json.decode(outcomes[id_].body)
        assert (outcomes[id_].status, refusal["code"]) == ("invalid", "validation_failed")
        assert refusal["details"] == why
        documented(f"| {ids[id_]} | {why.replace('|', chr(92) + '|')} |", book)

    runner = BookRunner(book)
    while entries := (await redis_log.read_inputs({book: runner.position}, 500, 0)).get(book):
        runner.decide(entries)
    assert (await redis_log.read_record(book)).digest == runner.digest


async def test_an_unknown_command_without_a_key_is_refused_and_a_reused_key_too(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    """Both are answers to the sender, not bad entries: there is no dead letter."""
    inputs = BookKeys(book).inputs
    command = {"type": "cancel", "by": "customer:K1", "body": '{"booking":"b"}'}
    missing = client.xadd(inputs, command).decode()
    client.xadd(inputs, command | {"key": "k"})
    reused = client.xadd(inputs, command | {"key": "k", "body": '{"booking":"c"}'}).decode()
    await Actor(redis_log, book).until_decided(book, reused)
    outcomes = {o.id: o for o in (await redis_log.read_outcomes({book: GENESIS}, 500, 0))[book]}
    for id_ in (missing, reused):
        assert outcomes[id_].status == "refused"
        refusal = msgspec.json.decode(outcomes[id_].body)
        documented(refusal["details"], book)
    assert client.xlen(BookKeys(book).deadletters) == 0


@pytest.mark.parametrize("number", [2**52, 2**64 - 1])
async def test_an_id_of_the_far_future_stops_its_book_before_it_moves_the_time(
    guarded_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
    number: int,
) -> None:
    (good,) = await guarded_log.append(book, [TICK])
    await Actor(guarded_log, book).until_decided(book, good)
    client.xadd(BookKeys(book).inputs, {"type": "tick", "body": "{}"}, id=f"{number}-7")
    why = await Actor(guarded_log, book).until_given_up()
    assert f"{number}-7 of {book}" in why
    # The takeover's own input comes after it, so nobody can go on; what was decided is as it was.
    assert "somebody set its id by hand" in why
    documented(why.partition(" ahead")[2], book)
    assert (await guarded_log.read_record(book)).position >= good


async def test_the_greatest_id_leaves_no_room_for_anybody(
    guarded_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    id_ = f"{2**64 - 1}-{2**64 - 1}"
    client.xadd(BookKeys(book).inputs, {"type": "tick", "body": "{}"}, id=id_)
    documented(await Actor(guarded_log, book).until_given_up(), book)


@pytest.mark.parametrize("stream", ["inputs", "outcomes", "payments", "deadletters", "commit"])
async def test_a_key_of_a_wrong_type_stops_its_book_alone(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
    stream: str,
) -> None:
    other = f"{book}-b"
    (good,) = await redis_log.append(other, [TICK])
    client.set(f"holdfast:{{{book}}}:{stream}", "not ours")
    why = await Actor(redis_log, book).until_given_up()
    documented(why, book)
    await Actor(redis_log, other).until_decided(other, good)
    client.delete(f"holdfast:{{{book}}}:{stream}")  # and goes on once it is put right
    (good,) = await redis_log.append(book, [TICK])
    await Actor(redis_log, book).until_decided(book, good)


async def test_an_outcome_written_by_hand_stops_its_book(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    """Our next outcome's id would be lower than the last: refused, and never taken for a double."""
    (first,) = await redis_log.append(book, [TICK])
    await Actor(redis_log, book).until_decided(book, first)
    ahead = f"{int(first.partition('-')[0]) + 86_400_000}-0"
    client.xadd(BookKeys(book).outcomes, {"status": "accepted", "body": "{}"}, id=ahead)
    await redis_log.append(book, [TICK])
    record = await redis_log.read_record(book)
    why = await Actor(redis_log, book).until_given_up()
    ours = why.rpartition("our next, ")[2].partition(":")[0]
    documented(why, book, ahead, ours)
    assert (await redis_log.read_record(book)).position == record.position
    client.rename(BookKeys(book).outcomes, f"spoilt:{book}")  # as the document says
    (last,) = await redis_log.append(book, [TICK])
    await Actor(redis_log, book).until_decided(book, last)


async def test_actions_that_were_deleted_stop_their_book_until_it_is_taken_over(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    """A takeover asks for all that is under way; until then nobody would, and money would stay on hold."""
    practice = load_practice("dentist")
    policies = msgspec.structs.replace(practice.policies, advance_days_max=3660)
    practice = msgspec.structs.replace(practice, policies=policies)
    await redis_log.append(book, [define(practice, by="service:test")])
    payments = BookKeys(book).payments
    said: list[str] = []

    async def serve() -> None:
        said.append(await Actor(redis_log, book).until_given_up())

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            body = b'{"service":"checkup","first":"2031-03-03","last":"2031-03-28"}'
            asked = NewInput("request_auto", body, "k", "customer:K1")
            (mine,) = await redis_log.append(book, [asked])
            while not client.xlen(payments):
                await redis_log.read_outcomes({book: mine}, 1, 0.05)
            ((id_, _),) = client.xrange(payments)
            client.delete(payments)
            await redis_log.append(book, [TICK])
    documented(said[0], book, id_.decode())
    (last,) = await redis_log.append(book, [TICK])
    await Actor(redis_log, book).until_decided(book, last)
    ((_, fields),) = client.xrange(payments)
    assert fields[b"type"] == b"check_status"


async def test_an_action_written_by_hand_is_a_dead_letter(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    record = await redis_log.take_over(book, "me")
    id_ = action_stream_id(f"{int(record.position.partition('-')[0]) + 1}-0", 0)
    client.xadd(BookKeys(book).payments, {"what": "ever"}, id=id_)
    assert await redis_log.read_actions("payments", [book], "c", 10, 0) == []
    ((_, letter),) = client.xrange(BookKeys(book).deadletters)
    documented(letter[b"why"].decode(), book, id_)


async def test_a_trimmed_log_is_not_followed(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    ids = await redis_log.append(book, [TICK] * 4)
    client.xtrim(BookKeys(book).inputs, minid=ids[2], approximate=False)
    with pytest.raises(LogTrimmedError) as caught:
        await redis_log.read_inputs({book: ids[0]}, 10, 0)
    documented(str(caught.value), book, ids[0], ids[2])
    client.xdel(BookKeys(book).inputs, ids[3])
    with pytest.raises(LogTrimmedError) as caught:
        await redis_log.read_inputs({book: ids[2]}, 10, 0)
    documented(str(caught.value), book, ids[2], ids[3])


async def test_another_machine_version_is_refused_before_the_book_is_taken_over(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    await redis_log.append(book, [TICK])
    client.hset(BookKeys(book).commit, mapping={"version": "99", "epoch": "4"})
    documented(await Actor(redis_log, book).until_given_up(), book)
    assert (await redis_log.read_record(book)).epoch == 4


async def test_a_commit_record_written_by_hand_stops_its_book(
    redis_log: RedisLog,
    client: Any,  # noqa: ANN401
    book: str,
) -> None:
    await redis_log.append(book, [TICK])
    client.hset(BookKeys(book).commit, "epoch", "four")
    with pytest.raises(ForeignDataError) as caught:
        await redis_log.read_record(book)
    documented(str(caught.value), book)
    documented(await Actor(redis_log, book).until_given_up(), book)
