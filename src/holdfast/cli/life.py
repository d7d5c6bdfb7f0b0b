"""One life of an actor, or of the sandbox payment provider: the process that a supervisor starts.

It takes the options of ``holdfast actor`` that a supervisor gives, and no others. To make out what a
person typed would be a third of an actor's start, and whoever starts one again has books that wait.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import trio

from holdfast.cli.children import die_with_parent, say_ready, tell_troubles, watch_parent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from holdfast.bootstrap import ActorKind
    from holdfast.config.settings import Settings

_GOOD: Final = 0
_FAILED: Final = 1
_INTERRUPTED: Final = 130


class Life(msgspec.Struct, frozen=True):
    """What one life is to be.

    Attributes:
      parent: End with this process; 0 for none.
      ready_fd: Say there when ready, and of troubles; -1 for nowhere.
      place: The same for actors of which one begins when the other is dead.
      script: The sandbox provider's.
    """

    kind: Literal["booking", "payment", "notification", "provider"]
    parent: int = 0
    ready_fd: int = -1
    place: str = ""
    script: Path | None = None


def argv_of(kind: str) -> list[str]:
    """How this process starts one as its child: see :class:`holdfast.cli.children.Child`."""
    argv = [sys.executable, "-P", "-m", "holdfast.cli.life", kind]
    return [*argv, "--parent", str(os.getpid()), "--ready-fd", "{ready_fd}"]


def live(settings: Settings, life: Life) -> int:
    """Run until SIGTERM; the exit code."""
    from holdfast.config.logging import configure

    configure(settings.log, life.kind)
    if life.kind != "provider":
        return trio.run(_until_stopped, life.kind, settings, life)

    def ready(url: str) -> None:
        if life.ready_fd >= 0:
            say_ready(life.ready_fd, {"url": url})

    _provide(settings, life.script, ready)
    return _GOOD


def _provide(settings: Settings, script: Path | None, ready: Callable[[str], None]) -> None:
    from holdfast.actors.payment.journal import JournalError
    from holdfast.bootstrap import run_provider
    from holdfast.cli.common import CliError

    try:
        run_provider(settings, script, ready)
    except JournalError as error:
        raise CliError(str(error)) from None
    except OSError as error:
        raise CliError(f"the sandbox provider cannot run: {error}") from None


async def _until_stopped(kind: ActorKind, settings: Settings, life: Life) -> int:
    from holdfast.actors.health import Health
    from holdfast.bootstrap import run_actor

    health = Health()
    async with _stop_on_signal() as stop, trio.open_nursery() as nursery:
        if life.parent:
            nursery.start_soon(watch_parent, life.parent)

        def ready() -> None:
            if life.ready_fd >= 0:
                say_ready(life.ready_fd, {"url": ""})
                nursery.start_soon(tell_troubles, life.ready_fd, health)

        await run_actor(kind, settings, stop, ready, health, life.place)
        nursery.cancel_scope.cancel()
    return _GOOD if stop.is_set() else _FAILED


@asynccontextmanager
async def _stop_on_signal() -> AsyncGenerator[trio.Event, None]:
    """Yield an event that the first SIGINT or SIGTERM sets; a second one ends the process."""
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for _ in signals:
                    if stop.is_set():
                        os._exit(_INTERRUPTED)
                    stop.set()

            nursery.start_soon(watch)
            yield stop
            nursery.cancel_scope.cancel()


def main() -> None:
    """Live as the arguments say, with settings from the environment alone."""
    parser = argparse.ArgumentParser(prog="python -m holdfast.cli.life", description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("--parent", type=int, default=0)
    parser.add_argument("--ready-fd", type=int, default=-1)
    parser.add_argument("--place", default="")
    parser.add_argument("--script", type=Path)
    life = msgspec.convert(vars(parser.parse_args()), Life)
    if life.parent:
        die_with_parent(life.parent)
    try:
        from holdfast.config.settings import load

        sys.exit(live(load(None, os.environ, {}), life))
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        from holdfast.cli.common import sentence_of

        expected = sentence_of(error)
        if expected is None:
            raise
        sentence, code = expected
        print(f"holdfast: {sentence}", file=sys.stderr, flush=True)
        sys.exit(code)


if __name__ == "__main__":
    main()
