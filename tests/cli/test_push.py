"""Waiting for the outcome of an input that the log has lost."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.cli.common import EXIT_FAILED

from .books import ask, client

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.slow
def test_an_input_that_was_lost_while_its_outcome_was_waited_for_is_told(
    server_url: str, new_book: Callable[[], str]
) -> None:
    """A failover puts the log back, which then goes on with others' inputs."""
    book = new_book()
    log = f"holdfast:{{{book}}}:inputs"
    command = ("push", book, "request_auto", "--key", "k", "--by", "customer:K", "--body")
    pushing = subprocess.Popen(
        [sys.executable, "-m", "holdfast", *command, '{"service":"checkup"}', "--wait",
         "--redis", server_url],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        with client(server_url) as foreign:
            found: Any = foreign.xread({log: "0-0"}, block=20_000)
        mine = found[0][1][0][0].decode()
        later = f"{int(mine.partition('-')[0]) + 1}-0"
        ask(server_url, "DEL", log)
        ask(server_url, "XADD", log, "1-0", "type", "tick", "body", "{}")
        ask(server_url, "XADD", log, later, "type", "tick", "body", "{}")
        outcomes = log.replace("inputs", "outcomes")
        ask(server_url, "XADD", outcomes, later, "status", "accepted", "body", "{}")
        told = pushing.communicate(timeout=20)[1]
    finally:
        pushing.kill()
        pushing.wait()
    assert pushing.returncode == EXIT_FAILED
    assert told == (
        f"holdfast: {mine} is not in the log of {book} any more, as after a failover that lost its "
        "tail: push it again under the same key\n"
    )
