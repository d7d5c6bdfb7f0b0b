"""What every command shares: options, running under trio, and errors of one sentence.

Exit codes: 0 good; 1 what was asked for does not hold or could not be done; 2 wrong usage or
configuration; 130 Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, TypeAlias, cast

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.config.settings import Settings

EXIT_GOOD: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

DataOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The service's data folder.  \\[default: data]"),
]
RedisOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--redis", metavar="URL", help="A Valkey or Redis server instead of the embedded one."
    ),
]
ConfigOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings in TOML.", dir_okay=False),
]
JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one line of JSON for scripts.")
]


class CliError(Exception):
    """Something that the user can put right.

    Args:
      sentence: What is wrong and what to do next.
      code: The exit code.
    """

    def __init__(self, sentence: str, code: int = EXIT_USAGE) -> None:
        super().__init__(sentence)
        self.code = code


def fail(sentence: str, code: int = EXIT_FAILED) -> NoReturn:
    """Say *sentence* on stderr and end the command."""
    print(f"holdfast: {sentence}", file=sys.stderr, flush=True)
    raise typer.Exit(code)


@contextmanager
def errors_of_one_sentence() -> Generator[None, None, None]:
    """Turn what a user can put right into a sentence and an exit code; let bugs through."""
    try:
        yield
    except (typer.Exit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if _nobody_reads(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it
            raise typer.Exit(EXIT_FAILED) from None
        expected = sentence_of(error)
        if expected is None:
            raise
        sentence, code = expected
        fail(sentence, code)


def sentence_of(error: BaseException) -> tuple[str, int] | None:
    """The sentence and exit code of an error that is no bug of ours."""
    found: tuple[str, int] | None = None
    for leaf in _leaves(error):
        said = _sentence(leaf)
        if said is None:
            return None  # a bug beside it must not be hidden
        found = found or said
    return found


def _sentence(leaf: BaseException) -> tuple[str, int] | None:
    from holdfast.actors.booking.loading import DivergedError
    from holdfast.actors.booking.runner import BookBugError, VersionError
    from holdfast.actors.ports import LogError, ProviderUnavailableError
    from holdfast.cli.commands import MessageError
    from holdfast.cli.mapping import MappingError
    from holdfast.config.settings import SettingsError
    from holdfast.tools.errors import ToolError

    if isinstance(leaf, CliError):
        return str(leaf), leaf.code
    if isinstance(leaf, SettingsError | MappingError | MessageError):
        return str(leaf), EXIT_USAGE
    if isinstance(leaf, ToolError | LogError | VersionError | BookBugError | DivergedError):
        return str(leaf), EXIT_FAILED
    if isinstance(leaf, ProviderUnavailableError):
        return f"the payment provider does not answer: {leaf}", EXIT_FAILED
    return None


def _nobody_reads(error: BaseException) -> bool:
    """Whether all that went wrong is that our output's reader is gone, as behind ``| head``."""
    # rich turns it into a SystemExit.
    return all(
        isinstance(leaf, BrokenPipeError)
        or (isinstance(leaf, SystemExit) and isinstance(leaf.__context__, BrokenPipeError))
        for leaf in _leaves(error)
    )


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [leaf for part in group.exceptions for leaf in _leaves(part)]
    return [error]


def run(main: Callable[[], Awaitable[int]], *, sigterm_code: int = EXIT_INTERRUPTED) -> NoReturn:
    """Run *main* under trio and end the command with the exit code it returns.

    The first Ctrl-C or SIGTERM cancels it, so that what it started is stopped in order; a second
    one ends the process at once, and the kernel ends its children.

    Args:
      main: The command.
      sigterm_code: Exit code after a SIGTERM.
    """
    import trio

    with errors_of_one_sentence():
        raise typer.Exit(trio.run(_interruptible, main, sigterm_code))


async def _interruptible(main: Callable[[], Awaitable[int]], sigterm_code: int) -> int:
    import trio

    code = EXIT_FAILED
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            caught: list[int] = []

            async def watch() -> None:
                async for number in signals:
                    if caught:
                        os._exit(EXIT_INTERRUPTED)
                    caught.append(number)
                    scope.cancel()

            nursery.start_soon(watch)
            with scope:
                code = await main()
            nursery.cancel_scope.cancel()
        if caught and scope.cancelled_caught:
            return EXIT_INTERRUPTED if caught[0] == signal.SIGINT else sigterm_code
    return code


def settings_of(
    data: Path | None = None,
    redis: str | None = None,
    config: Path | None = None,
    **overrides: object,
) -> Settings:
    """The settings as the options, the environment and *config* give them.

    Raises:
      SettingsError: One of them is wrong.
    """
    from holdfast.config.settings import load

    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(config, os.environ, {"data": data, "redis_url": redis, **named})


def console(*, stderr: bool = False) -> Console:
    """Where tables and sentences go."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=not sys.stdout.isatty())


def print_json(value: object) -> None:
    """Print *value* as one line of JSON."""
    import msgspec

    print(msgspec.json.encode(value).decode(), flush=True)


def parse_date(text: str) -> date:
    """A date that somebody typed.

    Raises:
      CliError: It is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise CliError(f"{text!r} is no date; write it like 2026-06-02") from None
