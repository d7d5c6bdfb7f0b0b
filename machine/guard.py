"""Notices when a transition reaches outside: clock, randomness, files, sockets, threads, environment.

Two watchers, both on only between :meth:`Guard.__enter__` and :meth:`Guard.__exit__` and only for
the thread that entered:

- a profile function sees every call that Python code makes, and knows the functions that must not
  be called by their identity. So it does not matter under which name a module imported them
  (``from time import time``, ``from datetime import datetime``), which patching modules would miss;
- an audit hook (:func:`sys.addaudithook`) sees what C code does on anyone's behalf: opening files,
  sockets, processes. Python cannot take a hook out again, so it stays, asleep.

Each touch raises :class:`TouchedError` on the spot, and is kept in :attr:`Guard.touched` for the
case that the machine swallows it. Importing a module is not counted: it reads code, not data.

What it cannot see: C code that calls C code, such as ``list(map(time.time, ...))`` with no event of
its own. The determinism check is there for that.
"""

from __future__ import annotations

import builtins
import datetime
import gc
import inspect
import os
import random
import sys
import sysconfig
import time
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType, TracebackType

    Profiler = Callable[[FrameType, str, Any], object]


class TouchedError(Exception):
    """Code inside the guard reached for something that a transition must not touch."""


_CLOCK = (  # noqa: SIM905
    "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns "
    "thread_time thread_time_ns clock_gettime clock_gettime_ns sleep localtime gmtime ctime "
    "asctime strftime mktime"
).split()
_SYSTEM = (  # noqa: SIM905
    "urandom getrandom getpid getppid getcwd getcwdb getlogin getloadavg times cpu_count uname"
).split()
_NOW = frozenset({"now", "utcnow", "today"})
_RANDOM = ("random", "getrandbits", "getstate", "setstate")
_EVENTS = (
    "open", "os.", "socket.", "subprocess.", "shutil.", "tempfile.", "glob.", "pathlib.", "pty.",
    "urllib.", "http.", "ftplib.", "smtplib.", "sqlite3.", "fcntl.", "mmap.", "syslog.", "signal.",
    "webbrowser.", "winreg.", "_thread.", "_posixsubprocess.", "time.sleep",
)  # fmt: skip
_IMPORT_SYSTEM = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
_STDLIB = sysconfig.get_paths()["stdlib"]


def _c_functions() -> dict[object, str]:
    """C functions that must not be called, with the names people know them by."""
    found: dict[object, str] = {
        builtins.print: "builtins.print",
        builtins.input: "builtins.input",
    }
    for module, names in ((time, _CLOCK), (os, _SYSTEM)):
        for name in names:
            if hasattr(module, name):
                found[getattr(module, name)] = f"{module.__name__}.{name}"
    shared = cast("Any", random.getrandbits).__self__  # behind random.random() and all the others
    for name in _RANDOM:
        found[getattr(shared, name)] = f"random.{name}"
    for module_name, name in (
        ("_thread", "start_new_thread"),
        ("_thread", "start_joinable_thread"),  # 3.13 has it
        ("_uuid", "generate_time_safe"),
    ):
        try:
            found[getattr(__import__(module_name), name)] = f"{module_name}.{name}"
        except (ImportError, AttributeError):
            continue
    return found


def _code_of(function: object) -> CodeType:
    return cast("CodeType", cast("Any", function).__code__)


_C_FUNCTIONS = _c_functions()
_SEED_CODE = _code_of(random.Random.seed)
_ENVIRON = type(os.environ)
_PYTHON_CODE: dict[int, str] = {  # by identity: hashing a code object reads all of it
    id(_code_of(getattr(_ENVIRON, name))): "os.environ"
    for name in ("__getitem__", "__setitem__", "__delitem__", "__iter__", "__len__")
} | {id(_SEED_CODE): "random.seed"}

_inside: dict[int, Guard] = {}
"""The guard that each thread is in, by thread id."""

_hooked = False


def _hook(event: str, args: tuple[object, ...]) -> None:
    if not _inside:  # nearly always; every audited event of the process comes through here
        return
    guard = _inside.get(get_ident())
    if guard is None or not event.startswith(_EVENTS):
        return
    frame = _caller(inspect.currentframe())
    if frame.f_code.co_filename in _IMPORT_SYSTEM:
        return
    what = f"{event} {args[0]!r}" if event == "open" and args else event
    guard.touch(what, frame)


class Guard:
    """A context inside which touching the outside raises.

    It may be entered again after it was left, and another guard may be entered inside.

    Args:
      allow: What may be touched all the same, by the beginning of its name, such as
        ``"builtins.print"`` or ``"open '/usr/share/zoneinfo/"``.
      trusted: Packages whose code may touch anything: those through which a state in a database is
        reached, such as ``"psycopg"``.
      calls: Watch every call that Python code makes, which costs time at each; without, only what
        the audit hook sees is noticed.
    """

    __slots__ = (
        "_allow", "_base", "_calls", "_collects", "_outer", "_profiler", "_trusted", "touched",
    )  # fmt: skip

    def __init__(
        self, allow: tuple[str, ...] = (), trusted: tuple[str, ...] = (), *, calls: bool = True
    ) -> None:
        self._calls = calls
        self._allow = allow
        self._trusted = frozenset(trusted)
        self._base: FrameType | None = None
        self._outer: Guard | None = None
        self._profiler: Profiler | None = None
        self._collects = False
        self.touched: list[str] = []
        """What was touched, and where, in order; never cleared by the guard itself."""

    def __enter__(self) -> Guard:
        global _hooked  # one hook a process: it cannot be taken out
        if not _hooked:
            sys.addaudithook(_hook)
            _hooked = True
        # A collection runs other people's finalizers and callbacks in the middle of the transition.
        self._collects = gc.isenabled()
        gc.disable()
        self._base = _caller(inspect.currentframe())
        thread = get_ident()
        self._outer = _inside.get(thread)
        _inside[thread] = self
        self._profiler = cast("Profiler | None", sys.getprofile())
        if self._calls:
            sys.setprofile(self._profile)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._calls:
            sys.setprofile(cast("Any", self._profiler))
        if self._outer is None:
            del _inside[get_ident()]
        else:
            _inside[get_ident()] = self._outer
        self._base = self._outer = self._profiler = None
        if self._collects:
            gc.enable()

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:  # noqa: ANN401
        if event == "c_call":
            name = _C_FUNCTIONS.get(arg)
            if name is None:
                if arg.__name__ not in _NOW:
                    return
                owner = arg.__self__
                if not (isinstance(owner, type) and issubclass(owner, datetime.date)):
                    return
                name = f"{owner.__module__}.{owner.__name__}.{arg.__name__}"
            self.touch(name, frame)
        elif event == "call":
            code = frame.f_code
            name = _PYTHON_CODE.get(id(code))
            # Random(7) in a state is arithmetic; Random() asks the system for its seed.
            if name is not None and (code is not _SEED_CODE or frame.f_locals["a"] is None):
                self.touch(name, frame)

    def touch(self, name: str, frame: FrameType) -> None:
        """Raise for *name*, unless it is allowed or a trusted package did it."""
        if self._allow and name.startswith(self._allow):
            return
        via, culprit = "", frame
        seen: FrameType | None = frame
        while seen is not None and seen is not self._base:
            package = str(seen.f_globals.get("__name__", "")).partition(".")[0]
            if package in self._trusted:
                return
            seen = seen.f_back
        while _in_stdlib(culprit) and culprit.f_back not in (None, self._base):
            via = f"{culprit.f_globals.get('__name__')}.{culprit.f_code.co_qualname}"
            culprit = _caller(culprit)
        what = f"{name} (through {via})" if via else name
        what += f" at {culprit.f_code.co_filename}:{culprit.f_lineno}"
        self.touched.append(what)
        raise TouchedError(what)


def _caller(frame: FrameType | None) -> FrameType:
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back


def _in_stdlib(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return name.startswith("<frozen") or (
        name.startswith(_STDLIB) and "site-packages" not in name and "dist-packages" not in name
    )
