"""What would make two equal runs differ, raises where it happens.

A run is a function of its seed as long as nothing in it looks outside. :class:`Sealed` surrounds a
whole run and watches the code of our own packages; trio itself may do what it needs. It notices

- files, sockets, processes and real sleeping, by Python's audit hook, also where a library does it
  on our behalf;
- threads, the clock, the shared random generator, generators without a seed, ``uuid``, ``secrets``
  and ``os.urandom``, by standing in for the functions of these modules as long as the run lasts;
- with ``thorough=True`` every call by its identity, under whatever name it was imported, and the
  methods of C types such as ``datetime.now``. That costs a multiple of the time, so some runs do it.

It also turns garbage collection off: its finalizers run at moments that differ between processes.
What no run shows, such as a loop over a set, is found in the source: see ``holdfast.sim.leak_lint``.
"""

from __future__ import annotations

import inspect
import os
import random
import secrets
import sys
import sysconfig
import threading
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import anyio.to_thread
import trio

from holdfast.machine.guard import Guard, TouchedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from types import AsyncGeneratorType, FrameType, ModuleType, TracebackType

OUR_PACKAGES: Final = ("holdfast.",)
"""The beginnings of the names of modules that are watched."""

_STDLIB: Final = sysconfig.get_paths()["stdlib"]
_RUN_LOOP: Final = "trio._core._run"
_READS: Final = ("time.", "datetime.", "random.", "builtins.", "_uuid.")
"""What a library may do for itself: a log line's time of day is no part of the world."""

_CLOCKS: Final = (
    "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns",
    "process_time", "process_time_ns", "thread_time", "thread_time_ns", "clock_gettime",
    "clock_gettime_ns", "localtime", "gmtime", "sleep",
)  # fmt: skip

_GENERATORS_MAX: Final = 1_000


class LeakError(TouchedError):
    """Code inside a run reached outside of it. The message names what, and where."""


class Sealed(Guard):
    """A context for the length of a run: what reaches outside raises :class:`LeakError`.

    It may be entered again after it was left. Where the code swallowed the error, the context raises
    it at its end; ``touched`` keeps everything that was noticed.

    Args:
      packages: The beginnings of the names of the modules that are watched.
      thorough: Watch every call, not only those that go through the modules' attributes.
      allow: What may be touched all the same, by the beginning of its name, such as ``"open "``.
    """

    __slots__ = ("_before", "_kept", "_packages")

    def __init__(
        self,
        packages: tuple[str, ...] = OUR_PACKAGES,
        *,
        thorough: bool = False,
        allow: tuple[str, ...] = (),
    ) -> None:
        super().__init__(allow, calls=thorough)
        self._packages = packages
        self._before = 0
        self._kept: list[tuple[object, str, object]] = []

    def __enter__(self) -> Sealed:
        self._before = len(self.touched)
        self._stand_in()
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        while self._kept:
            setattr(*self._kept.pop())
        if error is None and len(self.touched) > self._before:
            raise LeakError(
                f"{self.touched[self._before]}: the code swallowed the error of this leak"
            )

    def touch(self, name: str, frame: FrameType) -> None:
        """Raise for *name* if it was done by our code, or on its behalf."""
        if self._allow and name.startswith(self._allow):
            return
        reads = name.startswith(_READS) and not name.startswith("time.sleep")
        culprit = self._culprit(frame, only_stdlib=reads)
        if culprit is None:
            return
        module = culprit.f_globals.get("__name__")
        what = f"{name} in {module}, {culprit.f_code.co_filename}:{culprit.f_lineno}"
        self.touched.append(what)
        raise LeakError(
            f"{what}: a simulated run must not reach outside; use the world's clock, draws and ports"
        )

    def _culprit(self, frame: FrameType, *, only_stdlib: bool) -> FrameType | None:
        """The innermost frame of a watched module, or None.

        Args:
          frame: Where to start.
          only_stdlib: Whether to stop at a library that is not Python's own.
        """
        seen: FrameType | None = frame
        while seen is not None:
            module = str(seen.f_globals.get("__name__", ""))
            if module.startswith(self._packages) and module != __name__:
                return seen
            if module == _RUN_LOOP and seen.f_code.co_name in ("run", "unrolled_run"):
                return None  # trio's own doing; above it is whoever started the run
            if only_stdlib and module != __name__ and not _in_stdlib(seen):
                return None
            seen = seen.f_back
        return None

    def _stand_in(self) -> None:
        for module, names in _functions():
            for name in names:
                self._replace(module, name, f"{module.__name__}.{name}")
        self._replace(threading.Thread, "start", "threading.Thread.start")
        self._replace_seed()

    def _replace(self, owner: object, attribute: str, name: str) -> None:
        real = cast("Callable[..., object]", getattr(owner, attribute))

        def watched(*args: object, **kwargs: object) -> object:
            self.touch(name, _caller())
            return real(*args, **kwargs)

        self._kept.append((owner, attribute, real))
        setattr(owner, attribute, watched)

    def _replace_seed(self) -> None:
        real = random.Random.seed

        def seed(rng: random.Random, a: Any = None, version: int = 2) -> None:  # noqa: ANN401
            if a is None:
                self.touch("random.Random without a seed", _caller())
            real(rng, a, version)

        self._kept.append((random.Random, "seed", real))
        cast("Any", random.Random).seed = seed


@contextmanager
def generators_closed() -> Generator[None]:
    """A context inside a run, in its main task: all async generators begun in it must be closed.

    One that is left open is closed by the garbage collector, when it likes.

    Raises:
      LeakError: At the end, naming the generators that are open.
    """
    hooks = sys.get_asyncgen_hooks()
    begun: list[AsyncGeneratorType[Any, Any]] = []

    def first(generator: AsyncGenerator[Any, Any]) -> None:
        if len(begun) >= _GENERATORS_MAX:
            begun[:] = _open(begun)
        begun.append(cast("AsyncGeneratorType[Any, Any]", generator))
        if hooks.firstiter is not None:
            hooks.firstiter(generator)

    sys.set_asyncgen_hooks(firstiter=first)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(firstiter=hooks.firstiter)
    left = ", ".join(
        f"{generator.ag_code.co_qualname} ({generator.ag_code.co_filename}:"
        f"{generator.ag_code.co_firstlineno})"
        for generator in _open(begun)
    )
    if left:
        raise LeakError(f"async generators were left open: {left}; use them in `aclosing`")


def _open(begun: list[AsyncGeneratorType[Any, Any]]) -> list[AsyncGeneratorType[Any, Any]]:
    return [generator for generator in begun if generator.ag_frame is not None]


def _functions() -> list[tuple[ModuleType, list[str]]]:
    """Functions that look outside, by module."""
    shared = [
        name
        for name in random.__all__
        if isinstance(getattr(getattr(random, name), "__self__", None), random.Random)
    ]
    system = [name for name in ("urandom", "getrandom", "getpid", "getcwd") if hasattr(os, name)]
    return [
        (time, [name for name in _CLOCKS if hasattr(time, name)]),
        (random, shared),
        (os, system),
        (uuid, ["uuid1", "uuid4"]),
        (trio.to_thread, ["run_sync"]),  # its threads wait for work: none may need to be started
        (anyio.to_thread, ["run_sync"]),
        (secrets, ["token_bytes", "token_hex", "token_urlsafe", "randbelow", "randbits", "choice"]),
    ]


def _caller() -> FrameType:
    """The frame that called the function which calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    assert frame.f_back.f_back is not None
    return frame.f_back.f_back


def _in_stdlib(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return name.startswith("<frozen") or (
        name.startswith(_STDLIB) and "site-packages" not in name and "dist-packages" not in name
    )
