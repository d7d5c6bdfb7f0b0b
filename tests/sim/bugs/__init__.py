"""Bugs for the simulator to catch: each a small change of the product, made here and undone again.

A bug replaces functions of the product for as long as :meth:`Bug.planted` is entered. Most are
edits: a few words of a function's source are replaced, as a mistaken hand would have written them,
and the result is compiled in the function's own module. Words that are not there any more are an
error, so a bug cannot quietly stop being one.
"""

# What is replaced here is private, and each replacement takes whatever the original takes.
# ruff: noqa: ANN401

from __future__ import annotations
import __future__

import inspect
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

Patch: TypeAlias = "tuple[Any, str, Callable[[Any], Any]]"
"""``(owner, attribute, make)``: *make* gets what is there and gives what replaces it."""


class Bug:
    """One planted bug.

    Args:
      group: What it is about.
      name: In the table.
      does: What it does, one sentence.
      scenario: Where it is looked for.
      patches: What it replaces.
      harmless: Why nothing goes wrong by it, where that is so.
      rare: Why it is hardly ever seen, where that is so.
    """

    def __init__(
        self,
        group: str,
        name: str,
        does: str,
        scenario: str,
        *patches: Patch,
        harmless: str = "",
        rare: str = "",
    ) -> None:
        self.group, self.name, self.does = group, name, does
        self.scenario, self.patches = scenario, patches
        self.harmless, self.rare = harmless, rare

    @contextmanager
    def planted(self) -> Generator[None]:
        """The product has the bug for as long as this is entered."""
        before = [(owner, name, owner.__dict__[name]) for owner, name, _ in self.patches]
        try:
            for owner, name, make in self.patches:
                setattr(owner, name, make(owner.__dict__[name]))
            yield
        finally:
            for owner, name, found in reversed(before):
                setattr(owner, name, found)


def edit(owner: Any, name: str, old: str, new: str, *more: str) -> Patch:
    """A patch of a function's source: *old* becomes *new*; *more* are further such pairs.

    Each *old* must be there exactly once.
    """
    pairs = [(old, new), *zip(more[::2], more[1::2], strict=True)]

    def make(real: Any) -> Any:
        function = inspect.unwrap(getattr(real, "__func__", real))
        source = textwrap.dedent(inspect.getsource(function))
        for was, becomes in pairs:
            assert source.count(was) == 1, f"{function.__qualname__} has no single {was!r} any more"
            source = source.replace(was, becomes)
        path = inspect.getsourcefile(function) or "<planted>"
        code = compile(
            source, path, "exec", __future__.annotations.compiler_flag, dont_inherit=True
        )
        made: dict[str, Any] = {}
        exec(code, function.__globals__, made)
        return made[function.__name__]

    return owner, name, make
