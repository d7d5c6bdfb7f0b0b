"""Producers append, and whoever follows a book reads on from its position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from holdfast.actors.ports import LogTrimmedError, NewInput, TailLostError

from .books import all_inputs, committed, led_book, new_input

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.actors.ports import InputEntry, Log

    from .vandals import Vandal


async def test_appended_inputs_come_back_in_their_order(log: Log, book: str) -> None:
    new = [NewInput("tick", b"{}", by="service:booking"), new_input(1), new_input(2)]
    new.append(NewInput("cancel", '{"reason":"à"}'.encode(), "ключ", "staff:S1", "00-ab-cd-01"))
    ids = await log.append(book, new)
    assert ids == sorted(set(ids), key=lambda id_: tuple(map(int, id_.split("-"))))
    entries = await all_inputs(log, book)
    assert [entry.id for entry in entries] == ids
    assert [
        NewInput(entry.type, entry.body, entry.key, entry.by, entry.trace) for entry in entries
    ] == new
    assert not any(entry.problem or entry.raw for entry in entries)


async def test_nothing_to_append_registers_nothing(log: Log, book: str) -> None:
    assert await log.append(book, []) == []
    assert book not in await log.wait_books(0, 0)


async def test_a_body_too_large_is_refused_before_it_is_written(log: Log, book: str) -> None:
    with pytest.raises(ValueError, match="at most 65536 fit"):
        await log.append(book, [new_input(1), NewInput("cancel", b" " * 65_537)])
    assert await all_inputs(log, book) == []


async def test_large_bodies_come_back_whole(log: Log, book: str) -> None:
    body = b'"' + b"x" * 65_534 + b'"'
    await log.append(book, [NewInput("cancel", body, f"k-{n}") for n in range(20)])
    assert [entry.body for entry in await all_inputs(log, book)] == [body] * 20


@pytest.mark.parametrize("name", ["", "Demo", "-x", "a" * 65, "a}b", "a b", "é", "a\n"])
async def test_a_wrong_book_name_is_refused(log: Log, name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a book"):
        await log.append(name, [new_input(1)])


async def test_reading_is_by_book_and_position(log: Log, new_book: Callable[[], str]) -> None:
    one, two, empty = new_book(), new_book(), new_book()
    ids = await log.append(one, [new_input(number) for number in range(5)])
    other = await log.append(two, [new_input(9)])
    found = await log.read_inputs({one: ids[1], two: "0-0", empty: "0-0"}, 2, 0)
    assert {name: [entry.id for entry in entries] for name, entries in found.items()} == {
        one: ids[2:4],
        two: other,
    }
    assert await log.read_inputs({one: ids[-1], empty: "0-0"}, 2, 0) == {}
    assert await log.read_inputs({}, 2, 0) == {}


async def test_a_blocking_read_wakes_for_any_of_its_books(
    log: Log, new_book: Callable[[], str]
) -> None:
    one, two = new_book(), new_book()
    found: dict[str, list[InputEntry]] = {}

    async def read() -> None:
        found.update(await log.read_inputs({one: "0-0", two: "0-0"}, 10, 60))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            ids = await log.append(two, [new_input(1)])
    assert {name: [entry.id for entry in entries] for name, entries in found.items()} == {two: ids}


async def test_a_blocking_read_gives_up_in_time(log: Log, book: str) -> None:
    with trio.fail_after(10):
        assert await log.read_inputs({book: "0-0"}, 10, 0.03) == {}
        assert await log.read_outcomes({book: "0-0"}, 10, 0.03) == {}
        assert await log.read_actions("payments", [book], "c1", 10, 0.03) == []


async def test_books_are_registered_once_in_order(log: Log, new_book: Callable[[], str]) -> None:
    names = [new_book() for _ in range(3)]
    known = len(await log.wait_books(0, 0))
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(log.append, names[0], [new_input(1)])
    await log.append(names[1], [new_input(1)])
    await log.take_over(names[2], "me")
    await log.append(names[0], [new_input(2)])
    books = await log.wait_books(known, 0)
    assert [name for name in books if name in names] == names
    assert await log.wait_books(len(books), 0.01) == books


async def test_waiting_for_books_wakes_up(log: Log, book: str) -> None:
    known = len(await log.wait_books(0, 0))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.append, book, [new_input(1)])
            assert book in await log.wait_books(known, 60)


async def test_a_reader_whose_position_is_gone_is_told(log: Log, vandal: Vandal, book: str) -> None:
    ids = await committed(log, book)
    vandal.trim_inputs(book, ids[3])
    for position in ("0-0", ids[0], ids[2]):
        with pytest.raises(LogTrimmedError, match="begin from the newest snapshot"):
            await log.read_inputs({book: position}, 10, 0)
    found = await log.read_inputs({book: ids[3]}, 10, 0)
    assert [entry.id for entry in found[book]] == ids[4:]
    vandal.trim_inputs(book, "9999999999999-0")
    with pytest.raises(LogTrimmedError):
        await log.read_inputs({book: ids[4]}, 10, 0)


async def test_a_reader_that_lags_is_told_when_trimming_overtakes_it(
    log: Log, vandal: Vandal, book: str
) -> None:
    _, ids = await led_book(log, book, inputs=20)
    found = await log.read_inputs({book: "0-0"}, 4, 0)
    assert len(found[book]) == 4
    vandal.trim_inputs(book, ids[10])
    with pytest.raises(LogTrimmedError):
        await log.read_inputs({book: ids[3]}, 4, 0)


async def test_a_reader_of_inputs_that_somebody_deleted_is_told(
    log: Log, vandal: Vandal, book: str
) -> None:
    """What had not been read by then is gone, also where the stream has new entries since."""
    ids = await committed(log, book)
    vandal.delete_inputs(book)
    with pytest.raises(LogTrimmedError, match="lost its tail"):
        await log.read_inputs({book: ids[3]}, 10, 0)
    await log.take_over(book, "you")
    with pytest.raises(LogTrimmedError, match=r"begun anew|lost its tail"):
        await log.read_inputs({book: ids[3]}, 10, 0)
    assert len((await log.read_inputs({book: "0-0"}, 10, 0))[book]) == 1


async def test_a_reader_ahead_of_the_log_is_told(log: Log, book: str) -> None:
    """After a failover lost the tail, a follower must not wait for ids that come again."""
    await led_book(log, book)
    with pytest.raises(TailLostError, match="lost its tail"):
        await log.read_inputs({book: "9999999999999-0"}, 10, 0)


async def test_an_input_without_type_or_body_cannot_be_read(log: Log, book: str) -> None:
    await log.append(book, [NewInput("", b"{}"), NewInput("cancel", b""), NewInput("c", b"\xff")])
    problems = [entry.problem for entry in await all_inputs(log, book)]
    assert ["type" in problems[0], "body" in problems[1], "UTF-8" in problems[2]] == [True] * 3


async def test_a_read_for_no_entries_is_refused(log: Log, book: str) -> None:
    """To the server, COUNT 0 means all of them."""
    await log.append(book, [new_input(1)])
    with pytest.raises(ValueError, match="at least one entry"):
        await log.read_inputs({book: "0-0"}, 0, 0)
    with pytest.raises(ValueError, match="no name of a book"):
        await log.read_inputs({"Wrong": "0-0"}, 1, 0)
