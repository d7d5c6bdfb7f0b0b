"""Whatever lies in the log is a message or is refused with one sentence; nothing else can happen."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.actors.booking import machine, wire
from holdfast.actors.booking import messages as m
from holdfast.actors.booking.runner import BookBugError, BookRunner
from holdfast.actors.ports import InputEntry
from holdfast.machine import Completed, Normal

from .world import dentist, entries_of_random_run

PROFILE = settings(derandomize=True, deadline=None, max_examples=300, database=None)
GOOD = b'{"service":"checkup","start":"2026-06-02T10:00"}'
RESULT = b'{"action":"1-1:0","payment":"p1-1","status":"authorized"}'


def entry(
    body: bytes = GOOD,
    kind: str = "request_slot",
    by: str = "customer:K1",
    key: str = "k",
    entry_id: str = "1780286400000-1",
) -> InputEntry:
    return InputEntry(entry_id, kind, body, key, by)


def practice(**changes: object) -> bytes:
    return json.dumps({**json.loads(msgspec.json.encode(dentist())), **changes}).encode()


BAD: dict[str, tuple[InputEntry, str]] = {
    "empty": (entry(b""), "truncated"),
    "not JSON": (entry(b"service=checkup"), "malformed"),
    "not UTF-8": (entry(b'{"service":"\xff\xfe","start":"2026-06-02T10:00"}'), "utf-?8|Invalid"),
    "an array": (entry(b"[]"), "Expected `object`, got `array`"),
    "null": (entry(b"null"), "Expected `object`, got `null`"),
    "NaN": (entry(b'{"service":"checkup","start":NaN}'), "malformed"),
    "wrong type": (entry(b'{"service":1,"start":"2026-06-02T10:00"}'), "Expected `str`"),
    "missing field": (entry(b'{"service":"checkup"}'), "missing required field `start`"),
    "unknown field": (entry(GOOD[:-1] + b',"starts":1}'), "unknown field `starts`"),
    "64 bits": (entry(GOOD[:-1] + b',"price_cents":99999999999999999999}'), r"\$.price_cents|range"),
    "float": (entry(GOOD[:-1] + b',"price_cents":1.5}'), "price_cents"),
    "infinite": (entry(GOOD[:-1] + b',"price_cents":1e999}'), "request_slot"),
    "lone surrogate": (entry(GOOD[:-1] + b',"name":"\\ud800"}'), "request_slot"),
    "nesting": (entry(b'{"service":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "request_slot"),
    "nested unknown": (entry(b'{"x":' + b'{"x":' * 50_000 + b"1" + b"}" * 50_001), "request_slot"),
    "line end": (entry(GOOD[:-1] + b',"email":"a@b\\n"}'), "matching regex"),
    "header in an address": (entry(GOOD[:-1] + b',"email":"a@b\\nBcc: c@d"}'), "matching regex"),
    "huge id": (entry(GOOD[:-1] + b',"customer":"' + b"K" * 65 + b'"}'), "length <= 64"),
    "twice": (entry(GOOD[:-1] + b',"service":"filling"}'), "field 'service' is there twice"),
    "twice, escaped": (entry(GOOD[:-1] + b',"serv\\u0069ce":"filling"}'), "'service' is there twice"),
    "unknown type": (entry(kind="request_moon"), "unknown type 'request_moon'"),
    "no principal": (entry(by=""), "field 'by' must be customer:ID"),
    "nobody": (entry(by="customer:"), "field 'by' must be customer:ID"),
    "other principal": (entry(by="admin:root"), "field 'by' must be customer:ID"),
    "principal's line end": (entry(by="customer:K1\n"), "field 'by' must be customer:ID"),
    "long principal": (entry(by="customer:" + "K" * 65), "field 'by' must be customer:ID"),
    "long key": (entry(key="k" * 256), "may be 255 characters long"),
    "sequence": (entry(entry_id=f"1-{1 << 51}"), "sequence number is beyond"),
    "far time": (entry(entry_id=f"{(1 << 64) - 1}-1"), "time is beyond"),
    "result by a customer": (entry(RESULT, "payment_result"), "only a service may send payment_result"),
    "result twice": (entry(RESULT[:-1] + b',"status":"declined"}', "payment_result", "service:p"),
                     "'status' is there twice"),
    "tick with a field": (entry(b'{"now":1}', "tick", "service:b"), "unknown field `now`"),
    "takeover": (entry(b'{"epoch":1,"owner":"o","position":"soon"}', "taken_over", "service:b"),
                 "matching regex"),
    "zone": (entry(practice(zone="../../etc/passwd"), "define_practice", "service:w"),
             "unknown time zone"),
    "weekday": (entry(practice(hours={"7": []}), "define_practice", "service:w"), "weekdays are"),
    "ranges": (entry(practice(hours={"1": [["12:00", "13:00"], ["09:00", "10:00"]]}),
                     "define_practice", "service:w"), "must ascend and not overlap"),
    "member's ranges": (
        entry(practice(staff=[{"id": "a", "name": "A", "hours": {"x": [["09:00", "10:00"]]}}]), "define_practice",
              "service:w"), "hours of a: weekdays"),
    "services": (entry(practice(services=[]), "define_practice", "service:w"), "length >= 1"),
    "service ids": (entry(practice(services=[json.loads(msgspec.json.encode(s)) for s in
                                             dentist().services[:1] * 2]), "define_practice", "service:w"),
                    "two entries have the same service id"),
    "staff ids": (entry(practice(staff=[{"id": "a", "name": "A"}] * 2), "define_practice", "service:w"),
                  "two entries have the same member of staff id"),
    "practice twice": (entry(practice()[:-1] + b',"zone":"UTC"}', "define_practice", "service:w"),
                       "field 'zone' is there twice"),
    "hours twice": (entry(practice().replace(b'"hours": {', b'"hours": {"1": [], '), "define_practice",
                          "service:w"), "field '1' is there twice"),
    "fields": (InputEntry("1-1", "", b"", problem="the field type is missing: send it",
                          raw=(b"x", b"\xff")), "the field type is missing: send it"),
}  # fmt: skip


@pytest.mark.parametrize(("bad", "why"), BAD.values(), ids=BAD.keys())
def test_bad_entries_are_refused_with_one_sentence_and_change_nothing(
    bad: InputEntry, why: str
) -> None:
    with pytest.raises(wire.WireError, match=why) as seen:
        wire.decode(bad)
    assert "\n" not in str(seen.value)
    runner = BookRunner("b")
    runner.decide([entry(practice(), "define_practice", "service:w", entry_id="1-0")])
    before, chain = runner.snapshot().state, runner.digest
    decided = runner.decide([bad])
    (outcome,) = decided.outcomes
    (letter,) = decided.dead_letters
    refusal = json.loads(outcome.body)
    assert (outcome.id, outcome.status, outcome.timers) == (bad.id, "invalid", b"")
    assert (refusal["code"], refusal["details"]) == ("validation_failed", str(seen.value))
    assert (letter.stream, letter.id, letter.why) == ("inputs", bad.id, str(seen.value))
    assert letter.fields == (bad.raw or (b"type", bad.type.encode(), b"body", bad.body, b"key",
                                         bad.key.encode(), b"by", bad.by.encode(), b"trace", b""))  # fmt: skip
    assert decided.payments == decided.notifications == []
    assert runner.snapshot().state == before
    assert runner.position == bad.id
    assert runner.digest != chain


@pytest.mark.parametrize(
    "body",
    [
        GOOD,
        b' { "start" : "2026-06-02T10:00" , "service" : "checkup" } ',
        GOOD[:-1] + b',"staff":"","name":"","price_cents":null}',
        GOOD[:-1] + b',"name":"a \\"b\\" \\\\ c"}',
    ],
)
def test_spacing_order_defaults_and_escapes_do_not_matter(body: bytes) -> None:
    decoded = wire.decode(entry(body))
    assert isinstance(decoded, Normal)
    assert isinstance(decoded.message, m.Asked)
    named = b"name" in body and b"\\" in body
    plain = m.RequestSlot("checkup", "2026-06-02T10:00", name='a "b" \\ c' if named else "")
    assert decoded.message.command == plain
    assert decoded.message == wire.asked(plain, "k", "customer:K1")
    assert (decoded.id, decoded.now) == ("1780286400000-1", 1780286400000)


def test_the_digest_tells_what_is_asked_and_who_asks_and_under_which_key() -> None:
    cancel = m.Cancel("b1-1")
    digests = {
        wire.asked(command, key, by).digest
        for command in (cancel, m.Cancel("b1-2"))
        for key in ("k", "k k", "1 k")
        for by in ("customer:K1", "customer:K11")
    }
    assert len(digests) == 12


def test_reports_of_services_are_decoded() -> None:
    result = wire.decode(entry(RESULT, "payment_result", "service:payment", ""))
    assert result == Completed(
        "1780286400000-1", 1780286400000, "1-1:0", m.PaymentResult("1-1:0", "p1-1", "authorized")
    )
    for kind, body in (("tick", b"{}"), ("delivery_report",
                       b'{"action":"1-1:0","booking":"b1-1","status":"failed","reason":"a \\" b"}')):  # fmt: skip
        assert isinstance(wire.decode(entry(body, kind, "service:x", "")), Normal)


def test_every_message_of_ours_survives_the_wire() -> None:
    runner = BookRunner("b")
    decided = runner.decide(entries_of_random_run(3, 120, "first_payment_wins"))
    assert decided.dead_letters == []
    assert len(decided.payments) > 10
    for outcome in decided.outcomes:
        result = msgspec.json.decode(outcome.body, type=m.Accepted | m.Refused)
        assert wire.encode_result(result) == outcome.body
        if outcome.timers:
            events = msgspec.json.decode(outcome.timers, type=tuple[m.Event, ...])
            assert wire.encode_events(events) == outcome.timers
    for action in decided.payments + decided.notifications:
        assert wire.encode_action(msgspec.json.decode(action.body, type=m.Action)) == action.body
    assert wire.encode_message(m.Tick()) == b"{}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(["2026-06-02T10:00", "checkup", "09:00", "2026-06-02"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["service", "start", "days", "ranges", "staff", "booking", "price_cents", "x"]),
        inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.slow
@PROFILE
@given(
    st.sampled_from([*wire.COMMANDS, *wire.REPORTS, "", "x"]),
    st.one_of(st.binary(max_size=60), JSON.map(lambda value: json.dumps(value).encode())),
    st.text(max_size=20),
    st.one_of(st.sampled_from(["customer:K1", "service:w", "staff:a"]), st.text(max_size=12)),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
)
def test_any_bytes_are_decided(
    kind: str, body: bytes, key: str, by: str, at: int, seq: int
) -> None:
    """Whatever it is, it has one outcome, the book can be written afterwards, and the log goes on."""
    runner = BookRunner("b")
    runner.decide([entry(practice(), "define_practice", "service:w", entry_id="0-0")])
    try:
        key.encode()
        by.encode()
    except UnicodeError:
        return  # the transport has made a problem of it
    decided = runner.decide([InputEntry(f"{at}-{seq}", kind, body, key, by)])
    (outcome,) = decided.outcomes
    assert outcome.status in ("accepted", "refused", "invalid")
    assert BookRunner("b", runner.snapshot()).snapshot() == runner.snapshot()


def test_times_of_far_ids_can_still_be_written() -> None:
    runner = BookRunner("b")
    at = f"{wire.MS_MAX - 1}-{wire.SEQUENCE_MAX - 1}"
    decided = runner.decide([entry(practice(), "define_practice", "service:w", entry_id=at)])
    assert decided.outcomes[0].status == "accepted"
    assert BookRunner("b", runner.snapshot()).snapshot() == runner.snapshot()


def test_a_bug_stops_the_book_and_names_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = BookRunner("demo")

    def broken(*_: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(machine, "_command", broken)
    with pytest.raises(
        BookBugError, match=r"book demo: the machine failed at input 7-1 \(request_slot\)"
    ):
        runner.decide([entry(entry_id="7-1")])


def test_a_takeover_pages_its_restore() -> None:
    """What does not fit is asked for by another input, which the runner proposes."""
    runner = BookRunner("b")
    runner._emit = type(runner._emit)(12)  # pyright: ignore[reportPrivateUsage]
    runner.decide([entry(practice(), "define_practice", "service:w", entry_id="1-0")])
    at = 1780286400000
    for number in range(30):
        body = json.dumps(
            {
                "service": "cleaning",
                "start": f"2026-06-{2 + number // 10:02d}T{9 + number % 10 // 4:02d}:{15 * (number % 4):02d}",
            }
        )
        runner.decide([entry(body.encode(), by=f"customer:K{number}", entry_id=f"{at + number}-0")])
    waiting = list(runner.state.in_flight)
    assert len(waiting) > 20
    page: m.TakenOver | None = m.TakenOver(2, "o", runner.position)
    restored: list[str] = []
    while page is not None:
        at += 100
        take = entry(wire.encode_message(page), "taken_over", "service:b", "", f"{at}-0")
        decided = runner.decide([take])
        restored += [action.action for action in decided.payments]
        page = decided.restore_more
    assert restored == waiting
    assert runner.next_due_ms() is not None
