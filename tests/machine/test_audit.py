"""Each rule has a machine that breaks it, and the audit names the rule and the step."""

from __future__ import annotations

import datetime
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from datetime import UTC
from datetime import datetime as bound_datetime
from pathlib import Path
from random import Random
from time import monotonic as bound_monotonic
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
import pytest

from holdfast.machine import (
    Completed,
    Emit,
    EmitFullError,
    Input,
    Normal,
    Tracked,
    TransitionError,
    action_order,
)
from holdfast.machine.audit import Audited, AuditError, Rule
from holdfast.machine.digest import digest
from holdfast.machine.guard import Guard, TouchedError
from holdfast.machine.hosts import decide, restored

if TYPE_CHECKING:
    from collections.abc import Callable

BAD_STEP = 3
"""Number of the step at which the broken machines break their rule."""


class Order(msgspec.Struct, frozen=True):
    """Ask for so many things; one tracked action for each."""

    what: str
    count: int = 1


class Shelf(msgspec.Struct):
    """The state: tracked actions by id, and a counter."""

    orders: dict[str, str] = {}
    done: int = 0


Said: TypeAlias = Literal["ordered", "none wanted", "done", "unknown"]
AnyInput: TypeAlias = Input[Order, bool]


class Good:
    """Keeps every rule."""

    version = 1

    def genesis(self) -> Shelf:
        return Shelf()

    def transition(self, state: Shelf, input: AnyInput, emit: Emit[str]) -> str:  # noqa: A002
        if isinstance(input, Completed):
            if state.orders.pop(input.action_id, None) is None:
                return "unknown"
            state.done += 1
            return "done"
        return self.order(state, input, emit)

    def order(self, state: Shelf, input: Normal[Order], emit: Emit[str]) -> str:  # noqa: A002
        message = input.message
        if message.count < 0:
            raise TransitionError(f"count must not be negative, and is {message.count}")
        if message.count == 0:
            return "none wanted"
        emit.reserve(message.count + 1)
        for _ in range(message.count):
            state.orders[emit.tracked(message.what)] = message.what
        emit.untracked(f"{message.count} ordered")
        return "ordered"

    def outstanding(self, state: Shelf) -> list[str]:
        return sorted(state.orders, key=action_order)

    def restore(self, state: Shelf, emit: Emit[str], after: str = "") -> bool:
        start = action_order(after) if after else (0, 0, -1)
        for action_id in sorted(state.orders, key=action_order):
            if action_order(action_id) <= start:
                continue
            if not emit.room:
                return False
            emit.again(action_id, f"did {state.orders[action_id]} arrive?")
        return True

    def encode(self, state: Shelf) -> bytes:
        return msgspec.json.encode(state, order="deterministic")

    def decode(self, data: bytes) -> Shelf:
        return msgspec.json.decode(data, type=Shelf)


def run(
    machine: Good, *, steps: int = BAD_STEP, message: Order | None = None, every: int = 1
) -> Audited[Shelf, Order, bool, str, str]:
    """Give good orders, but *message* as the last one."""
    audited = Audited(machine, every=every)
    state, emit = audited.genesis(), Emit[str](8)
    for step in range(1, steps + 1):
        last = step == steps and message is not None
        order = message if last and message is not None else Order("milk")
        decide(audited, state, Normal(f"{step}-0", step, order), emit)
    return audited


def breaks(rule: Rule, machine: Good, message: Order | None = None, step: int = BAD_STEP) -> str:
    """*machine* breaks *rule* at *step* and the audit says so; return its detail."""
    with pytest.raises(AuditError) as caught:
        run(machine, message=message)
    assert (caught.value.rule, caught.value.step) == (rule, step)
    assert f"step {step} breaks the rule {rule.value!r}" in str(caught.value)
    return caught.value.detail


BAD = Order("bad")


# --- the good one --------------------------------------------------------------------------------


def next_input(rng: Random, step: int, waiting: list[str]) -> AnyInput:
    """An order, or a result: of something outstanding, or of something unknown."""
    entry_id = f"{1000 + step // 3}-{step % 3}"
    if rng.random() < 0.3 or len(waiting) > 12:
        known = bool(waiting) and rng.random() < 0.9
        return Completed(entry_id, step, rng.choice(waiting) if known else "1-0:0", result=True)
    count = rng.choice((-1, 0, 0, 1, 2, 3, 9))
    return Normal(entry_id, step, Order(rng.choice(("tea", "milk")), count))


@pytest.mark.slow
def test_a_good_machine_passes_thousands_of_steps() -> None:
    """And the audit changes nothing: a bare machine ends with the same state and actions."""
    rng = Random(20)
    audited, bare = Audited(Good()), Good()
    state, bare_state = audited.genesis(), bare.genesis()
    emit, bare_emit = Emit[str](6), Emit[str](6)
    refused = 0
    for step in range(3000):
        entry = next_input(rng, step, bare.outstanding(bare_state))
        said: list[str] = []
        for machine, its_state, its_emit in ((audited, state, emit), (bare, bare_state, bare_emit)):
            try:
                said.append(decide(machine, its_state, entry, its_emit))
            except (TransitionError, EmitFullError) as error:
                said.append(repr(error))
                refused += 1
        assert said[0] == said[1]
        assert emit.actions == bare_emit.actions
    assert audited.steps == 3000
    assert refused > 500
    assert state.done > 500
    assert digest(bare.encode(bare_state)) == digest(audited.encode(state))
    assert [action.id for action in restored(audited, state, page=2)] == bare.outstanding(state)


def test_a_state_that_was_decoded_goes_on_alike() -> None:
    audited = Audited(Good())
    state, emit = audited.genesis(), Emit[str](6)
    decide(audited, state, Normal("1-0", 1, Order("tea", 2)), emit)
    state = audited.decode(audited.encode(state))
    assert decide(audited, state, Completed("2-0", 2, "1-0:1", result=True), emit) == "done"
    assert audited.outstanding(state) == ["1-0:0"]
    assert audited.version == 1


def test_a_refusal_passes_through_the_audit() -> None:
    audited = Audited(Good())
    with pytest.raises(TransitionError, match="must not be negative"):
        decide(audited, audited.genesis(), Normal("1-0", 1, Order("tea", -1)), Emit[str]())
    with pytest.raises(EmitFullError, match="wants 5 more actions"):
        decide(audited, audited.genesis(), Normal("2-0", 1, Order("tea", 4)), Emit[str](4))


# --- atomic --------------------------------------------------------------------------------------


class ChangesThenRefuses(Good):
    def order(self, state: Shelf, input: Normal[Order], emit: Emit[str]) -> str:  # noqa: A002
        if input.message == BAD:
            state.done += 1
            raise TransitionError("too late")
        return super().order(state, input, emit)


class ChangesThenFindsNoRoom(Good):
    """C42: the first example of S2 does it."""

    def order(self, state: Shelf, input: Normal[Order], emit: Emit[str]) -> str:  # noqa: A002
        for n in range(input.message.count):
            state.orders[f"{input.id}:{n}"] = input.message.what
            emit.tracked(input.message.what)
        return "ordered"


def test_a_refusal_after_a_change_is_caught() -> None:
    assert "too late" in breaks(Rule.ATOMIC, ChangesThenRefuses(), BAD)


def test_an_emit_that_fails_after_a_change_is_caught() -> None:
    detail = breaks(Rule.ATOMIC, ChangesThenFindsNoRoom(), Order("tea", 9))
    assert "EmitFullError" in detail


# --- deterministic -------------------------------------------------------------------------------


class CountsOutsideTheState(Good):
    def __init__(self, where: str) -> None:
        self.count = 0
        self.where = where

    def order(self, state: Shelf, input: Normal[Order], emit: Emit[str]) -> str:  # noqa: A002
        if input.message != BAD:
            return super().order(state, input, emit)
        self.count += 1
        if self.where == "error":
            raise TransitionError(f"number {self.count}")
        if self.where == "state":
            state.done += self.count
        if self.where == "actions":
            emit.untracked(f"number {self.count}")
        return f"number {self.count}" if self.where == "outcome" else "ordered"


@pytest.mark.parametrize("where", ["outcome", "error", "actions", "state"])
def test_what_is_kept_outside_the_state_is_caught(where: str) -> None:
    assert f"another {where}" in breaks(Rule.DETERMINISTIC, CountsOutsideTheState(where), BAD)


# --- encoding ------------------------------------------------------------------------------------


class ForgetsInDecoding(Good):
    def decode(self, data: bytes) -> Shelf:
        state = super().decode(data)
        state.done = 0
        return state

    def order(self, state: Shelf, input: Normal[Order], emit: Emit[str]) -> str:  # noqa: A002
        state.done += 1
        return super().order(state, input, emit)


class SharesWhatItDecodes(Good):
    def __init__(self) -> None:
        self.shared = Shelf()

    def genesis(self) -> Shelf:
        return self.shared

    def decode(self, data: bytes) -> Shelf:
        return self.shared

    def order(self, state: Shelf, input: Normal[Order], emit: Emit[str]) -> str:  # noqa: A002
        state.done += 1
        return "ordered"


def test_a_decoding_that_loses_something_is_caught() -> None:
    breaks(Rule.ENCODING, ForgetsInDecoding(), step=2)


def test_a_decoding_that_shares_with_its_original_is_caught() -> None:
    assert "happens to its original" in breaks(Rule.ENCODING, SharesWhatItDecodes(), step=1)


# --- ids -----------------------------------------------------------------------------------------


class OwnIds(Good):
    def __init__(self, action_id: str) -> None:
        self.action_id = action_id

    def order(self, state: Shelf, input: Normal[Order], emit: Emit[str]) -> str:  # noqa: A002
        if input.message != BAD:
            return super().order(state, input, emit)
        state.orders[self.action_id] = "bad"
        emit.actions.append(Tracked(self.action_id, "bad"))
        return "ordered"


@pytest.mark.parametrize("action_id", ["my-own", "3-0:7", "1-0:0", "2-0:0"])
def test_an_id_that_does_not_derive_from_the_input_is_caught(action_id: str) -> None:
    assert repr(action_id) in breaks(Rule.FRESH_IDS, OwnIds(action_id), BAD)


def test_an_input_that_comes_twice_under_one_id_is_caught() -> None:
    """The host's fault, or the log's: the id of an outstanding action would be given again."""
    audited = Audited(Good())
    state, emit = audited.genesis(), Emit[str]()
    decide(audited, state, Normal("1-0", 1, Order("tea")), emit)
    with pytest.raises(AuditError, match=r"'1-0:0' is already outstanding") as caught:
        decide(audited, state, Normal("1-0", 1, Order("tea")), emit)
    assert caught.value.rule == Rule.FRESH_IDS


def test_a_host_that_forgets_to_begin_is_caught() -> None:
    audited = Audited(Good())
    emit = Emit[str]()
    emit.begin("1-0")
    with pytest.raises(AuditError) as caught:
        audited.transition(audited.genesis(), Normal("2-0", 2, Order("tea")), emit)
    assert caught.value.rule == Rule.FRESH_IDS


class Restart(Order, frozen=True):
    """An input that stands for a restart: its actions are what restore says."""


class RestoresInALog(Good):
    def order(self, state: Shelf, input: Normal[Order], emit: Emit[str]) -> str:  # noqa: A002
        if isinstance(input.message, Restart):
            self.restore(state, emit)
            return "restored"
        return super().order(state, input, emit)


def test_only_inputs_that_stand_for_a_restart_may_emit_again() -> None:
    breaks(Rule.FRESH_IDS, RestoresInALog(), Restart("all"))
    audited = Audited(RestoresInALog(), reemitting=Restart)
    state, emit = audited.genesis(), Emit[str]()
    decide(audited, state, Normal("1-0", 1, Order("tea", 2)), emit)
    assert decide(audited, state, Normal("2-0", 2, Restart("all")), emit) == "restored"
    assert [action.id for action in emit.actions] == ["1-0:0", "1-0:1"]


# --- recorded ------------------------------------------------------------------------------------


class EmitsAndForgets(Good):
    def order(self, state: Shelf, input: Normal[Order], emit: Emit[str]) -> str:  # noqa: A002
        if input.message == BAD:
            emit.tracked("charge")
            return "ordered"
        return super().order(state, input, emit)


def test_a_tracked_action_that_is_not_in_the_state_is_caught() -> None:
    assert "3-0:0 ('charge')" in breaks(Rule.RECORDED, EmitsAndForgets(), BAD)


# --- restore -------------------------------------------------------------------------------------


class BadRestore(Good):
    """Good until three orders are outstanding, so the third step is the bad one."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.calls = 0

    def restore(self, state: Shelf, emit: Emit[str], after: str = "") -> bool:
        self.calls += 1
        if len(state.orders) < BAD_STEP:
            return super().restore(state, emit, after)
        match self.fault:
            case "forgets":
                rest = dict(list(state.orders.items())[1:])
                return super().restore(Shelf(rest), emit, after)
            case "invents":
                return super().restore(Shelf(state.orders | {"9-0:0": "more"}), emit, after)
            case "ignores the page":
                for action_id in self.outstanding(state):
                    emit.again(action_id, "again")
                return True
            case "never ends":
                super().restore(state, emit, after)
                return False
            case "starts over":
                return super().restore(state, emit)
            case "untracked":
                emit.untracked("hello")
                return True
            case "backwards":
                for action_id in reversed(self.outstanding(state)):
                    emit.again(action_id, "again")
                return True
            case "writes":
                state.done += 1
            case "other each time":
                Shelf(state.orders)
                for action_id in self.outstanding(state):
                    if after and action_order(action_id) <= action_order(after):
                        continue
                    if not emit.room:
                        return False
                    emit.again(action_id, f"call {self.calls}")
                return True
            case "looks at the clock":
                time.time()  # noqa: TID251
            case _:
                raise AssertionError(self.fault)
        return super().restore(state, emit, after)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("forgets", Rule.RESTORE_COMPLETE),
        ("invents", Rule.RESTORE_COMPLETE),
        ("ignores the page", Rule.RESTORE_COMPLETE),
        ("never ends", Rule.RESTORE_COMPLETE),
        ("untracked", Rule.RESTORE_COMPLETE),
        ("starts over", Rule.RESTORE_ORDERED),
        ("writes", Rule.RESTORE_PURE),
        ("other each time", Rule.RESTORE_REPEATABLE),
        ("looks at the clock", Rule.PURE),
    ],
)
def test_a_restore_that_misbehaves_is_caught(fault: str, rule: Rule) -> None:
    breaks(rule, BadRestore(fault))


class SortsByLetter(Good):
    """As a hash map or sorted() would have it: right until the tenth millisecond."""

    def outstanding(self, state: Shelf) -> list[str]:
        return sorted(state.orders)


class RestoresAsItComes(Good):
    """The original's fault: the order of a hash map, here the reverse of the log's."""

    def restore(self, state: Shelf, emit: Emit[str], after: str = "") -> bool:
        ids = [
            i for i in reversed(state.orders) if not after or action_order(i) < action_order(after)
        ]
        for action_id in ids[: emit.room]:
            emit.again(action_id, "again")
        return len(ids) <= emit.room or not ids


def test_a_restore_out_of_order_is_caught() -> None:
    with pytest.raises(AuditError) as caught:
        run(RestoresAsItComes())
    assert (caught.value.rule, caught.value.step) == (Rule.RESTORE_ORDERED, 2)


def test_outstanding_out_of_order_is_caught() -> None:
    with pytest.raises(AuditError, match="outstanding lists 2-0:0 after 10-0:0") as caught:
        run(SortsByLetter(), steps=10)
    assert (caught.value.rule, caught.value.step) == (Rule.RESTORE_ORDERED, 10)


def test_a_restore_that_the_host_asks_for_is_checked_too() -> None:
    audited = Audited(BadRestore("writes"), every=1000)
    state, emit = audited.genesis(), Emit[str]()
    decide(audited, state, Normal("1-0", 1, Order("tea", 3)), emit)
    for after in ("", "1-0:0"):
        with pytest.raises(AuditError) as caught:
            audited.restore(state, Emit[str](), after)
        assert (caught.value.rule, caught.value.step) == (Rule.RESTORE_PURE, 1)


def test_a_clock_in_a_later_page_of_restore_is_caught() -> None:
    audited = Audited(BadRestore("looks at the clock"), every=1000)
    state, emit = audited.genesis(), Emit[str]()
    decide(audited, state, Normal("1-0", 1, Order("tea", 3)), emit)
    with pytest.raises(AuditError, match=r"restore touched time\.time"):
        audited.restore(state, Emit[str](), "1-0:0")


# --- pure ----------------------------------------------------------------------------------------


class Reaches(Good):
    def __init__(self, reach: Callable[[], object]) -> None:
        self.reach = reach

    def order(self, state: Shelf, input: Normal[Order], emit: Emit[str]) -> str:  # noqa: A002
        if input.message == BAD:
            self.reach()
        return super().order(state, input, emit)


def start_thread() -> None:
    threading.Thread(target=str).start()


def open_socket() -> None:
    socket.socket().close()


def unseeded() -> Random:
    return Random()


REACHES: list[tuple[str, Callable[[], object]]] = [
    ("time.time ", lambda: time.time()),  # noqa: TID251
    ("time.time_ns", lambda: time.time_ns()),
    ("time.perf_counter", lambda: time.perf_counter()),
    ("time.monotonic", lambda: bound_monotonic()),
    ("time.sleep", lambda: time.sleep(0)),
    ("datetime.datetime.now", lambda: datetime.datetime.now(UTC)),
    ("datetime.datetime.now", lambda: bound_datetime.now(UTC)),
    ("datetime.datetime.utcnow", getattr(bound_datetime, "utcnow")),  # noqa: B009
    ("datetime.date.today", lambda: datetime.date.today()),  # noqa: DTZ011
    ("random.random", lambda: random.random()),  # noqa: TID251
    ("random.Random.choice", lambda: random.choice([1, 2])),
    ("random.Random.shuffle", lambda: random.shuffle([1, 2])),
    ("random.seed", unseeded),
    ("os.urandom", lambda: random.SystemRandom().random()),
    ("urandom", lambda: os.urandom(1)),
    ("secrets.token_hex", lambda: secrets.token_hex()),
    ("uuid.uuid4", lambda: uuid.uuid4()),
    ("uuid.uuid1", lambda: uuid.uuid1()),
    ("os.environ", lambda: os.environ["HOME"]),
    ("os.getenv", lambda: os.getenv("HOME")),
    ("os.environ", lambda: dict(os.environ)),
    ("os.environ", lambda: "HOME" in os.environ),
    ("getpid", lambda: os.getpid()),
    ("open '/dev/null'", lambda: open("/dev/null")),  # noqa: SIM115
    ("Path.read_text", lambda: Path("/dev/null").read_text()),
    ("os.listdir", lambda: os.listdir(".")),
    ("tempfile", lambda: tempfile.mkstemp()),
    ("socket.__new__", open_socket),
    ("subprocess.run", lambda: subprocess.run(["true"], check=True)),
    ("os.system", lambda: getattr(os, "system")("true")),  # noqa: B009
    ("start_", start_thread),
    ("builtins.print", lambda: print("hello")),  # noqa: T201
]


@pytest.mark.parametrize(("name", "reach"), REACHES, ids=[f"{i}" for i in range(len(REACHES))])
def test_reaching_outside_is_caught_and_named(name: str, reach: Callable[[], object]) -> None:
    detail = breaks(Rule.PURE, Reaches(reach), BAD)
    assert name in detail
    assert "the transition touched" in detail
    assert Path(__file__).name in detail, "it says where in the machine"


def test_a_touch_that_the_machine_swallows_is_caught() -> None:
    def swallow() -> None:
        try:
            time.time()  # noqa: TID251
        except Exception:
            return

    breaks(Rule.PURE, Reaches(swallow), BAD)


def test_a_touch_before_a_refusal_is_caught() -> None:
    def refuse() -> None:
        try:
            time.time()  # noqa: TID251
        except Exception:
            raise TransitionError("no") from None

    breaks(Rule.PURE, Reaches(refuse), BAD)


def test_a_random_generator_with_a_seed_is_arithmetic() -> None:
    run(Reaches(lambda: Random(7).random()), message=BAD)


def test_names_derived_from_names_are_arithmetic() -> None:
    run(Reaches(lambda: uuid.uuid5(uuid.NAMESPACE_URL, "x")), message=BAD)


def test_a_module_may_be_imported() -> None:
    """It reads code, not data, and only the first time."""

    def imports() -> None:
        sys.modules.pop("colorsys", None)
        import colorsys

        assert colorsys.__name__ == "colorsys"

    run(Reaches(imports), message=BAD)


def test_an_allowed_touch_passes() -> None:
    audited = Audited(Reaches(lambda: os.getpid()), allow=("os.getpid",))
    assert decide(audited, audited.genesis(), Normal("1-0", 1, BAD), Emit[str]()) == "ordered"


def test_outside_the_machine_everything_is_as_before() -> None:
    """After a step, after a fault, and all the while for other threads."""
    profiler = sys.getprofile()
    looked: list[float] = []
    guard = Guard()
    with guard:
        guarded = sys.getprofile()
    assert guarded is not profiler
    breaks(Rule.PURE, Reaches(lambda: time.time()), BAD)  # noqa: TID251
    assert sys.getprofile() is profiler
    assert time.time() > 0  # noqa: TID251
    assert Path("/dev/null").read_text() == ""

    entered, looked_at = threading.Event(), threading.Event()

    def look() -> None:
        entered.wait(10)
        looked.append(time.time())  # noqa: TID251
        Path("/dev/null").read_text()
        looked_at.set()

    other = threading.Thread(target=look)
    other.start()
    with Guard():
        entered.set()
        assert looked_at.wait(10)
    other.join()
    assert looked


def test_a_guard_within_a_guard_gives_back_what_it_found() -> None:
    with Guard():
        with Guard(allow=("time.time",)):
            time.time()  # noqa: TID251
        with pytest.raises(TouchedError):
            open("/dev/null")  # noqa: SIM115
    assert Path("/dev/null").read_text() == ""


# --- the audit itself ----------------------------------------------------------------------------


def test_a_sample_is_taken_by_count() -> None:
    """Every third step: a fault at the second is not seen, one at the third is."""
    assert run(EmitsAndForgets(), steps=2, message=BAD, every=3).steps == 2
    with pytest.raises(AuditError) as caught:
        run(EmitsAndForgets(), steps=3, message=BAD, every=3)
    assert caught.value.step == 3
    with pytest.raises(ValueError, match="every must be 1 or more"):
        Audited(Good(), every=0)


def test_a_bug_is_not_dressed_up_as_a_broken_rule() -> None:
    def bug() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run(Reaches(bug), message=BAD)


def test_a_restore_that_raises_is_a_bug_too() -> None:
    with pytest.raises(AssertionError, match="no such fault"):
        run(BadRestore("no such fault"))
