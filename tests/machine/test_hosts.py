"""What every host does alike: the container is clean, and restore comes to an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast.machine import Completed, Emit, Normal, TransitionError
from holdfast.machine.hosts import decide, restored

if TYPE_CHECKING:
    from collections.abc import Iterable


class Machine:
    """Its state is the ids that it restores; what it is told, it emits."""

    version = 1

    def __init__(self, *, ends: bool = True) -> None:
        self.ends = ends

    def genesis(self) -> list[str]:
        return []

    def transition(
        self,
        state: list[str],
        input: Normal[str] | Completed[str],  # noqa: A002
        emit: Emit[str],
    ) -> str:
        message = input.message if isinstance(input, Normal) else input.result
        emit.tracked(message)
        if message == "refuse":
            raise TransitionError(message)
        if message == "bug":
            raise KeyError(message)
        return message

    def restore(self, state: list[str], emit: Emit[str], after: str = "") -> bool:
        rest: Iterable[str] = state[state.index(after) + 1 :] if after else state
        for action_id in rest:
            if not emit.room:
                return False
            emit.again(action_id, "again")
        return self.ends

    def outstanding(self, state: list[str]) -> list[str]:
        return state

    def encode(self, state: list[str]) -> bytes:
        return ",".join(state).encode()

    def decode(self, data: bytes) -> list[str]:
        return data.decode().split(",")


def test_each_input_finds_an_empty_container() -> None:
    emit = Emit[str](1)
    for number in (1, 2):
        assert decide(Machine(), [], Normal(f"{number}-0", number, "tell"), emit) == "tell"
        assert [action.id for action in emit.actions] == [f"{number}-0:0"]


@pytest.mark.parametrize(("message", "error"), [("refuse", TransitionError), ("bug", KeyError)])
def test_actions_of_an_input_that_raised_do_not_leave(message: str, error: type[Exception]) -> None:
    emit = Emit[str]()
    with pytest.raises(error, match=message):
        decide(Machine(), [], Normal("1-0", 1, message), emit)
    assert emit.actions == []


@pytest.mark.parametrize("page", [1, 2, 3, 7])
def test_restore_is_read_page_by_page(page: int) -> None:
    ids = [f"1-0:{n}" for n in range(6)]
    assert [action.id for action in restored(Machine(), ids, page)] == ids


def test_nothing_to_restore() -> None:
    assert list(restored(Machine(), [])) == []


def test_a_restore_without_end_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match=r"nothing after '1-0:0' but says there is more"):
        list(restored(Machine(ends=False), ["1-0:0"]))
