"""Asking before something is changed."""

from __future__ import annotations

import sys
from typing import Annotated, TypeAlias

import typer

from holdfast.cli.common import CliError

YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


async def confirmed(doing: str, yes: bool) -> bool:
    """Whether *doing* is to be done: said beforehand with --yes, or asked for on a terminal.

    Args:
      doing: What would be done, the beginning of a sentence.
      yes: Whether ``--yes`` was given.

    Raises:
      CliError: There is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise CliError(f"{doing}: say --yes to do it")
    import trio

    print(f"{doing}. Go on? [y/N]", file=sys.stderr, flush=True)
    # In a thread, so that Ctrl-C ends the question.
    answer = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    if answer.strip().lower() in ("y", "yes"):
        return True
    print("Nothing was done.", file=sys.stderr)
    return False
