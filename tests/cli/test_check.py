"""``holdfast check``: what it finds in a book that somebody else wrote to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.cli.common import EXIT_FAILED, EXIT_GOOD
from holdfast.transport.keys import BookKeys

from .books import ask, make_book, requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.testing import Result

    Invoke = Callable[..., Result]

pytestmark = pytest.mark.slow


def test_an_outcome_by_hand_is_found_even_if_it_was_deleted_again(
    invoke: Invoke, server_url: str, new_book: Callable[[], str]
) -> None:
    """Its id stays: no outcome before it can be written."""
    book = new_book()
    record = make_book(server_url, book, requests(3))
    outcomes = BookKeys(book).outcomes
    arguments = ("check", book, "--no-ledger", "--redis", server_url)
    assert invoke(*arguments).exit_code == EXIT_GOOD
    ask(server_url, "XADD", outcomes, "9999999999999-0", "by", "hand")
    for remove in (False, True):
        if remove:
            ask(server_url, "XDEL", outcomes, "9999999999999-0")
        done = invoke(*arguments)
        said = " ".join(done.stdout.split())
        assert done.exit_code == EXIT_FAILED
        assert (
            f"had an entry 9999999999999-0, and the book is decided up to {record.position}" in said
        )
