"""Each planted leak of determinism is found, and named with the place where it happens."""

from __future__ import annotations

import gc
import random
import time
from contextlib import aclosing
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import trio

import holdfast.machine
from holdfast.sim.clock import WorldClock
from holdfast.sim.draws import Draws
from holdfast.sim.leak_lint import find_leaks
from holdfast.sim.leaks import LeakError, Sealed, generators_closed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PLANTED = "holdfast.actors.planted"

LIGHT = {
    "time": ("import time", "time.time()", "time.time"),
    "monotonic": ("import time", "time.monotonic_ns()", "time.monotonic_ns"),
    "localtime": ("import time", "time.localtime()", "time.localtime"),
    "sleep": ("import time", "time.sleep(0)", "time.sleep"),
    "random": ("import random", "random.random()", "random.random"),
    "shuffle": ("import random", "random.shuffle([1, 2])", "random.shuffle"),
    "no seed": ("import random", "random.Random()", "random.Random without a seed"),
    "uuid": ("import uuid", "uuid.uuid4()", "uuid.uuid4"),
    "secrets": ("import secrets", "secrets.token_hex()", "secrets.token_hex"),
    "urandom": ("import os", "os.urandom(4)", "os.urandom"),
    "thread": (
        "import threading",
        "threading.Thread(target=print).start()",
        "threading.Thread.start",
    ),
    "trio's thread": (
        "import trio",
        "await trio.to_thread.run_sync(print)",
        "trio.to_thread.run_sync",
    ),
    "file": ("import os", "open(os.devnull)", "open '/dev/null'"),
    "socket": ("import socket", "socket.socket()", "socket.__new__"),
    "trio's socket": ("import trio", "trio.socket.socket()", "socket.__new__"),
    "process": ("import subprocess", "subprocess.run(['true'])", "subprocess.Popen"),
}

THOROUGH = {
    "datetime": ("from datetime import datetime", "datetime.now()", "datetime.datetime.now"),
    "today": ("from datetime import date", "date.today()", "datetime.date.today"),
    "time by name": ("from time import time", "time()", "time.time"),
    "random by name": ("from random import choice", "choice([1, 2])", "random.getrandbits"),
    "environment": ("from os import environ", "environ.get('TZ')", "os.environ"),
    **{name: LIGHT[name] for name in ("time", "no seed", "urandom", "thread", "file", "socket")},
}


def planted(header: str, statement: str, module_name: str = PLANTED) -> Any:  # noqa: ANN401
    """A module of ours in which an async function does *statement*."""
    module = ModuleType(module_name)
    source = f"{header}\n\nasync def act():\n    {statement}\n"
    exec(compile(source, f"/somewhere/{module_name}.py", "exec"), module.__dict__)
    return module


def found(sealed: Sealed, module: Any) -> str:  # noqa: ANN401
    with pytest.raises(LeakError) as caught, sealed:
        WorldClock().run(module.act)
    return str(caught.value)


@pytest.mark.parametrize("name", LIGHT)
def test_a_planted_leak_is_found_and_named(name: str) -> None:
    header, statement, what = LIGHT[name]
    sealed = Sealed()
    text = found(sealed, planted(header, statement))
    assert what in text
    assert (
        f"in {PLANTED}, /somewhere/{PLANTED}.py:4: a simulated run must not reach outside" in text
    )
    assert len(sealed.touched) == 1
    assert what in sealed.touched[0]


@pytest.mark.parametrize("name", THOROUGH)
def test_a_thorough_run_finds_what_goes_by_any_name(name: str) -> None:
    header, statement, what = THOROUGH[name]
    text = found(Sealed(thorough=True), planted(header, statement))
    assert f"{PLANTED}.py:4" in text
    assert what in text


def test_a_leak_that_the_code_swallows_fails_the_run_all_the_same() -> None:
    swallows = planted("import time", "\n    try: time.time()\n    except Exception: pass")
    sealed = Sealed()
    with pytest.raises(LeakError, match=r"time\.time in .*: the code swallowed"), sealed:
        WorldClock().run(swallows.act)
    assert len(sealed.touched) == 1
    with sealed:  # an earlier run's leak is not this one's
        WorldClock().run(planted("import math", "math.pi").act)


def test_what_happens_in_a_call_of_the_clock_is_watched() -> None:
    module = planted("import time", "pass\n\ndef read():\n    time.time()")

    async def main() -> None:
        clock.call_after(1, module.read)
        await trio.sleep_forever()

    clock = WorldClock()
    with pytest.raises(LeakError, match=r"time\.time in holdfast\.actors\.planted"), Sealed():
        clock.run(main)


@pytest.mark.parametrize("thorough", [False, True])
def test_seeded_generators_and_other_peoples_code_may_go_on(thorough: bool) -> None:
    module = planted("import random", "return random.Random(7).random()")
    other = planted("import time", "return time.time()", "somebody.elses")
    with Sealed(thorough=thorough) as sealed:
        assert WorldClock().run(module.act) == random.Random(7).random()
        assert WorldClock().run(other.act) > 0
    assert sealed.touched == []


def test_what_is_allowed_is_let_through() -> None:
    module = planted("import os", "open(os.devnull).close()")
    with Sealed(allow=("open '/dev/null'",)) as sealed:
        WorldClock().run(module.act)
    assert sealed.touched == []


def test_the_process_is_as_before_after_a_run() -> None:
    def state() -> list[object]:
        watched = [(time, "time"), (random, "random"), (random.Random, "seed")]
        return [*(getattr(owner, name) for owner, name in watched), gc.isenabled()]

    before = state()
    with Sealed():
        assert not any(now == then for now, then in zip(state(), before, strict=True))
    assert state() == before


async def count() -> AsyncGenerator[int]:
    try:
        yield 1
        yield 2
    finally:
        pass


def test_an_async_generator_left_open_fails_the_run() -> None:
    async def main() -> None:
        with generators_closed():
            async for _ in count():
                break

    with pytest.raises(LeakError, match=r"left open: count \(.*test_leaks\.py:\d+\); use them in"):
        WorldClock().run(main)


def test_async_generators_that_are_closed_are_fine_however_many() -> None:
    async def main() -> None:
        with generators_closed():
            for _ in range(2_500):
                async with aclosing(count()) as numbers:
                    async for _ in numbers:
                        break
            assert [number async for number in count()] == [1, 2]

    WorldClock().run(main)


def test_an_error_in_the_run_comes_before_open_generators() -> None:
    numbers = count()

    async def main() -> None:
        with generators_closed():
            await anext(numbers)
            raise KeyError("first")

    with pytest.raises(KeyError, match="first"):
        WorldClock().run(main)


# -- in the source ------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("taken = {'a', 'b'}\nfor one in taken: pass", "loop over the set 'taken'"),
        ("taken = set()\nx = [one for one in taken]", "loop over the set 'taken'"),
        ("def f(a: frozenset[str]):\n    return list(a)", "loop over the set 'a'"),
        ("def f(a: 'set[int] | None' = None):\n    yield from a", "loop over the set 'a'"),
        ("def f(*, a: set[str]):\n    return ','.join(a)", "loop over the set 'a'"),
        ("class A:\n  s: set[int]\n\ndef f(a): return (*a.s,)", "loop over the set 'a.s'"),
        ("class A:\n  def f(self):\n    self.s = set()\n    next(iter(self.s))", "'self.s'"),
        ("class A:\n  def f(self):\n    self.s: set[int] = g()\n    self.s.pop()", "pop from the"),
        ("def g() -> set[str]: ...\nfor one in g(): pass", "loop over the set 'g()'"),
        ("def f(a, b):\n    for x in a.keys() - b: pass", "loop over the set 'a.keys() - b'"),
        ("a = set()\nfor one in a | {1}: pass", "loop over the set 'a | {1}'"),
        ("a = set()\nfor one in a.union([1]): pass", "loop over the set 'a.union([1])'"),
        ("a = set()\nb = []\nb += a", "loop over the set 'a'"),
        ("a = {1}\nb = {one: 1 for one in a}", "loop over the set 'a'"),
        ("a = {1}\nb = dict.fromkeys(a)", "loop over the set 'a'"),
        ("if (a := {1}):\n    x = tuple(a)", "loop over the set 'a'"),
        ("from datetime import datetime\nx = datetime.now()", "datetime.datetime.now"),
        ("import datetime as dt\nx = dt.datetime.utcnow()", "datetime.datetime.utcnow"),
        ("from time import monotonic as m\nx = m()", "time.monotonic"),
        ("import random\nx = random.choice([1])", "random.choice"),
        ("import random\nx = random.Random()", "random.Random without a seed"),
        ("import uuid\nx = uuid.uuid4()", "uuid.uuid4"),
        ("import threading\nx = threading.Thread()", "threading.Thread"),
        ("import trio\nx = trio.to_thread.run_sync(f)", "trio.to_thread.run_sync"),
        ("x = hash('a')", "hash() differs between processes"),
        ("x = {id(y): 1}", "id() differs between processes"),
    ],
)
def test_a_planted_leak_is_found_in_the_source(source: str, what: str) -> None:
    (leak,) = find_leaks({"planted.py": source})
    assert what in leak.what
    assert str(leak).startswith("planted.py:")
    assert source.splitlines()[leak.line - 1] in source


@pytest.mark.parametrize(
    "source",
    [
        "a = {1, 2}\nb = sorted(a)\nc = 1 in a, len(a), max(a), any(x for x in a), {x for x in a}",
        "a = {'x': 1}\nfor one in a: pass\nfor one in a.keys(): pass",
        "a = {1}\na = sorted(a)\nfor one in a: pass",
        "import random\nx: random.Random = random.Random(7)\ny = x.random()",
        "a = {1}\nfor one in a: print()  # any order: nothing is decided by it",
        "import time\nx = time.time()  # outside a run: how fast we are",
        "import datetime\nx = datetime.datetime.fromtimestamp(0, tz=datetime.UTC)",
        "import time\nimport random",
        "def f(time): return time.now()",
    ],
)
def test_what_does_not_depend_on_order_is_let_through(source: str) -> None:
    assert find_leaks({"fine.py": source}) == []


def test_a_set_of_another_module_is_known_by_its_attribute() -> None:
    book = "class Book:\n    taken: frozenset[str]"
    rules = "def f(book):\n    for one in book.taken: pass"
    assert [str(leak) for leak in find_leaks({"book.py": book, "rules.py": rules})] == [
        "rules.py:2: loop over the set 'book.taken': sort it"
    ]


OUTSIDE = (
    "actors/notification/files.py",  # ends of ports to the real world: a run has others
    "actors/payment/sandbox.py",
    "sim/leaks.py",  # names what it stands in for
    "sim/runner.py",  # processes, and how fast they are
    "sim/sweep.py",
    "sim/tier1/jobs.py",
    "sim/twice.py",
)

FALLBACK = "random.Random without a seed"
"""What actors use where nobody gives them a generator; in a run, :class:`Sealed` raises there."""


@pytest.mark.slow
def test_nothing_leaks_in_the_code_that_a_run_consists_of() -> None:
    root = Path(holdfast.machine.__path__[0]).parent
    sources = {
        str(file.relative_to(root)): file.read_text()
        for folder in ("actors", "machine", "sim", "transport")
        for file in sorted((root / folder).rglob("*.py"))
        if folder in ("actors", "sim") or file.name in ("core.py", "digest.py", "memory_log.py")
    }
    assert len(sources) > 30
    for name in OUTSIDE:
        sources.pop(name)
    leaks = [
        str(leak)
        for leak in find_leaks(sources)
        if not (leak.what == FALLBACK and leak.file.startswith("actors/"))
    ]
    assert leaks == []


def test_the_draws_of_a_run_pass_under_the_guard() -> None:
    async def main() -> int:
        await clock.sleep(draws.generator("jitter").random())
        return draws.below("delay", 1_000)

    clock, draws = WorldClock(), Draws(1)
    with Sealed(thorough=True) as sealed:
        clock.run(main)
    assert sealed.touched == []
