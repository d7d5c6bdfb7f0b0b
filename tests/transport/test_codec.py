"""Entries to field lists and back; and whatever bytes somebody else may send."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.actors.ports import (
    ActionEntry,
    DeadLetter,
    ForeignDataError,
    NewInput,
    OutcomeEntry,
)
from holdfast.machine.core import ACTIONS_MAX
from holdfast.transport.codec import (
    Argument,
    decode_action,
    decode_dead_letter,
    decode_input,
    decode_outcome,
    decode_raw,
    encode_action,
    encode_dead_letter,
    encode_input,
    encode_outcome,
    encode_raw,
)
from holdfast.transport.keys import (
    ACTION_IDS,
    BookKeys,
    action_stream_id,
    ascends,
    format_id,
    parse_id,
)

ID = b"1780000000000-7"
NAMES = [b"type", b"body", b"key", b"by", b"trace"]
text = st.text(max_size=50)
some_text = st.text(min_size=1, max_size=50)
body = st.binary(max_size=50).map(lambda data: b'"' + data.hex().encode() + b'"')


def wire(fields: list[Argument]) -> list[bytes]:
    """Field lists as the server gives them back."""
    return [field.encode() if isinstance(field, str) else cast("bytes", field) for field in fields]


@given(st.builds(NewInput, type=some_text, body=body, key=text, by=text, trace=text))
def test_an_input_comes_back(new: NewInput) -> None:
    entry = decode_input(ID, wire(encode_input(new)))
    assert entry.problem == ""
    assert NewInput(entry.type, entry.body, entry.key, entry.by, entry.trace) == new
    assert (entry.id, entry.ms) == (ID.decode(), 1780000000000)


@given(
    st.permutations([(b"type", b"tick"), (b"body", b"{}"), (b"key", b"k"), (b"by", b"service:x")])
)
def test_the_order_of_fields_does_not_matter(pairs: list[tuple[bytes, bytes]]) -> None:
    entry = decode_input(ID, [item for pair in pairs for item in pair])
    assert (entry.type, entry.body, entry.key, entry.by) == ("tick", b"{}", "k", "service:x")


pairs_of_anything = st.lists(
    st.tuples(st.sampled_from(NAMES) | st.binary(max_size=8), st.binary(max_size=30)), max_size=7
)


@given(pairs_of_anything)
@example([(b"type", b"t"), (b"body", b"\xc3"), (b"key", b"k"), (b"by", b"b")])
@example([(b"type", b"t"), (b"key", b"k"), (b"by", b"\xff"), (b"body", b"{}")])
@example([(b"type", b""), (b"key", b"k"), (b"by", b"b"), (b"body", b"{}")])
@example([(b"type", b"t"), (b"body", b"{}"), (b"by", b"b")])
@example([(b"type", b"t"), (b"body", b""), (b"by", b"b")])
def test_whatever_is_sent_never_raises(pairs: list[tuple[bytes, bytes]]) -> None:
    """A bad entry has a problem and its raw fields; a good one has neither and is text."""
    fields = [item for pair in pairs for item in pair]
    entry = decode_input(ID, fields)
    names = [name for name, _ in pairs]
    values = dict(pairs)

    def is_text(value: bytes) -> bool:
        try:
            value.decode()
        except UnicodeDecodeError:
            return False
        return True

    good = (
        len(set(names)) == len(names)
        and set(names) <= set(NAMES)
        and all(values.get(name) for name in (b"type", b"body"))
        and all(map(is_text, values.values()))
    )
    assert (entry.problem == "") == good
    assert entry.raw == (() if good else tuple(fields))
    if good:
        assert entry.type.encode() == values[b"type"]
        assert entry.body == values[b"body"]
    else:
        assert (entry.type, entry.body) == ("", b"")


@given(st.builds(OutcomeEntry, id=st.just(ID.decode()), status=text, body=body, timers=body))
@example(OutcomeEntry(ID.decode(), "accepted", b"{}"))
def test_an_outcome_comes_back(outcome: OutcomeEntry) -> None:
    assert decode_outcome(ID, wire(encode_outcome(outcome))) == outcome


@given(
    st.builds(
        ActionEntry,
        id=st.just(ID.decode()),
        action=text,
        type=text,
        body=body,
        trace=text,
        deliveries=st.just(3),
    )
)
def test_an_action_comes_back(action: ActionEntry) -> None:
    assert decode_action(ID, wire(encode_action(action)), 3) == action


@given(st.builds(DeadLetter, stream=st.just("inputs"), id=text, why=text))
def test_a_dead_letter_comes_back(letter: DeadLetter) -> None:
    assert decode_dead_letter(wire(encode_dead_letter(letter))) == letter


@given(st.lists(st.binary(max_size=20)))
def test_raw_fields_come_back(fields: list[bytes]) -> None:
    assert decode_raw(encode_raw(fields)) == tuple(fields)


@given(pairs_of_anything)
def test_what_is_not_ours_is_called_foreign(pairs: list[tuple[bytes, bytes]]) -> None:
    fields = [item for pair in pairs for item in pair]
    for decode in (decode_outcome, decode_action):
        with pytest.raises(ForeignDataError, match="find out who"):
            decode(ID, fields)
    with pytest.raises(ForeignDataError):
        decode_dead_letter(fields)


@pytest.mark.parametrize("name", ["type", "key", "by", "trace"])
def test_the_small_fields_are_bounded_too(name: str) -> None:
    values = {"type": "t", "key": "", "by": "", "trace": ""} | {name: "x" * 2000}
    with pytest.raises(ValueError, match="too long"):
        encode_input(NewInput(body=b"{}", **values))


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 9, 99, 10**12 - 1, 10**12, 10**12 + 1]), st.integers(0, 120))
    )
)
def test_ascends_knows_ids_from_text(pairs: list[tuple[int, int]]) -> None:
    """Ids are compared as numbers, whatever their length."""
    before = [(0, 0), *pairs]
    expected = all(a < b for a, b in zip(before, pairs, strict=False))
    assert ascends([format_id(*pair) for pair in pairs]) == expected


@given(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**52 - 1)),
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**52 - 1)),
    st.integers(0, 4095),
    st.integers(0, 4095),
)
def test_action_ids_grow_with_the_input_and_the_number(
    one: tuple[int, int], two: tuple[int, int], m: int, n: int
) -> None:
    of_one = parse_id(action_stream_id(format_id(*one), m))
    of_two = parse_id(action_stream_id(format_id(*two), n))
    assert (of_one < of_two) == ((one, m) < (two, n))
    assert max(of_one[1], of_two[1]) < 2**64


@pytest.mark.parametrize("number", [-1, 4096])
def test_an_action_number_out_of_bounds_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="action numbers are 0 to 4095"):
        action_stream_id("1-1", number)


def test_an_input_without_room_for_actions_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        action_stream_id(f"1-{2**52}", 0)


@pytest.mark.parametrize("entry_id", ["", "1", "1-", "-1", "01-1", "1-1 ", "a-1", "1-1-1", "1-١"])
def test_what_is_no_id_is_refused(entry_id: str) -> None:
    with pytest.raises(ValueError, match="is no entry id"):
        parse_id(entry_id)


def test_every_action_of_an_input_has_an_id() -> None:
    assert ACTION_IDS >= ACTIONS_MAX


def test_the_keys_of_a_book_share_a_hash_tag() -> None:
    keys = BookKeys("demo")
    assert keys.inputs == keys.stream("inputs") == "holdfast:{demo}:inputs"
    assert keys.snapshot("1-2") == "holdfast:{demo}:snapshot:1-2"
    assert keys.commit == "holdfast:{demo}:commit"
