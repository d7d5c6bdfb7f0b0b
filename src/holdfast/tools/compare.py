"""Two logs side by side, and the first input after which they differ.

They are decided together and compared input by input, by what was asked and by the hash chain's link
after it; the first difference ends the comparison, and nothing is kept, so length does not matter. Two
exported logs carry their sums and need no deciding at all: the first line that differs is found by
looking at some twenty of them.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
import trio

from holdfast.actors.ports import GENESIS
from holdfast.machine.digest import first_difference
from holdfast.tools.errors import ToolError
from holdfast.tools.history import one_history
from holdfast.tools.replay import TURN_EVERY
from holdfast.tools.sources import runner_of
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from holdfast.actors.ports import InputEntry, OutcomeEntry
    from holdfast.tools.archive import Archive, Archived
    from holdfast.tools.sources import Source, Tell


class Difference(msgspec.Struct, frozen=True):
    """Where two replays part, or that they do not.

    Attributes:
      equal: How many inputs are equal.
      position: The last of them.
      first: Id of the first input after which they differ; "" if there is none.
      what: ``input`` (something else was asked), ``outcome`` (the same was decided otherwise),
        ``before`` (they differ before the first input that both have), or "".
      left: The input and outcome on the first side; ``right`` likewise.
      longer: Which side goes on where the other one ends: its name, or "".
      looks: How many sums were looked at; 0 where both were decided.
    """

    equal: int
    position: str
    first: str = ""
    what: str = ""
    left: dict[str, str] = {}
    right: dict[str, str] = {}
    longer: str = ""
    looks: int = 0


class _Side:
    """One of two replays that go side by side."""

    def __init__(self, source: Source, inputs: AsyncGenerator[tuple[InputEntry, str]]) -> None:
        self.source = source
        self.runner = runner_of(source)
        self._inputs = inputs
        self.entry: InputEntry | None = None
        self.outcome: OutcomeEntry | None = None

    async def fetch(self) -> None:
        """The next input, not yet decided; None at the end."""
        found = await anext(self._inputs, None)
        self.entry = None if found is None else found[0]

    def decide(self) -> None:
        assert self.entry is not None
        self.outcome = self.runner.decide([self.entry]).outcomes[0]

    async def go_to(self, position: str) -> None:
        """Decide up to *position*; the input after it is fetched."""
        while self.entry is not None and parse_id(self.entry.id) <= parse_id(position):
            self.decide()
            await self.fetch()
        self.outcome = None

    def shown(self) -> dict[str, str]:
        return {"source": self.source.name, **_shown(self.entry, self.outcome)}


async def compare(left: Source, right: Source, *, to: str = "", tell: Tell) -> Difference:
    """Decide two logs side by side up to the first difference.

    One that begins later is compared from there on; the other one must have come to the same book.

    Args:
      left: One.
      right: The other.
      to: The last input to compare; "" for all.
      tell: Called now and then with inputs compared and inputs expected.

    Raises:
      ToolError: One of them ends before the other one begins.
      BookBugError: The machine failed on an input of one of them.
      HistoryChangedError: The server of a live book failed over meanwhile.
    """
    async with one_history(left.history, right.history):
        return await _compare(left, right, to, tell)


async def _compare(left: Source, right: Source, to: str, tell: Tell) -> Difference:
    async with aclosing(left.inputs()) as of_left, aclosing(right.inputs()) as of_right:
        a, b = _Side(left, of_left), _Side(right, of_right)
        await a.fetch()
        await b.fetch()
        await a.go_to(b.runner.position)
        await b.go_to(a.runner.position)
        _require_overlap(a, b)
        _require_overlap(b, a)
        count, last = 0, parse_id(to) if to else None
        if (a.runner.position, a.runner.digest) != (b.runner.position, b.runner.digest):
            return _parted(0, GENESIS, "before", a, b)
        position = a.runner.position
        while a.entry is not None and b.entry is not None:
            if last is not None and min(parse_id(a.entry.id), parse_id(b.entry.id)) > last:
                return Difference(count, position)
            if a.entry != b.entry:
                return _parted(count, position, "input", a, b)
            a.decide()
            b.decide()
            if a.runner.digest != b.runner.digest:
                return _parted(count, position, "outcome", a, b)
            position, count = a.entry.id, count + 1
            if count % TURN_EVERY == 0:
                tell(count, max(left.size, right.size))
                await trio.lowlevel.checkpoint()
            await a.fetch()
            await b.fetch()
        longer = next((side for side in (a, b) if side.entry is not None), None)
        if last is not None and longer is not None and longer.entry is not None:
            longer = longer if parse_id(longer.entry.id) <= last else None
        return Difference(count, position, longer=longer.source.name if longer else "")


def _require_overlap(a: _Side, b: _Side) -> None:
    if a.entry is None and parse_id(a.runner.position) < parse_id(b.runner.position):
        raise ToolError(
            f"{a.source.name} ends at {a.runner.position}, before {b.source.name} begins after "
            f"{b.runner.position}: compare an export that has what is between"
        )


def _parted(count: int, position: str, what: str, a: _Side, b: _Side) -> Difference:
    """The difference at the inputs that both are at; the earlier id is the first."""
    ids = [side.entry.id for side in (a, b) if side.entry is not None]
    first = min(ids, key=parse_id) if ids else a.runner.position
    return Difference(count, position, first, what, a.shown(), b.shown())


async def compare_archives(left: Archive, right: Archive, tell: Tell) -> Difference:
    """Compare two exported logs of the same beginning by their sums, without deciding anything.

    Raises:
      ToolError: They begin at different places: they must be decided to be compared.
    """
    if left.begin != right.begin:
        raise ToolError("these exports begin at different inputs")
    sums: list[bytearray] = []
    for archive in (left, right):
        packed = bytearray()
        for number, archived in enumerate(archive.inputs()):
            packed += bytes.fromhex(archived.sum)
            if number % TURN_EVERY == 0:
                tell(number, archive.header.inputs)
                await trio.lowlevel.checkpoint()
        sums.append(packed)
    looks = 0

    def sum_of(side: int) -> Callable[[int], str]:
        def look(index: int) -> str:
            nonlocal looks
            looks += 1
            return sums[side][16 * index : 16 * index + 16].hex()

        return look

    length = min(left.header.inputs, right.header.inputs)
    at = first_difference(length, sum_of(0), sum_of(1))
    if at is None:
        shorter, longer = sorted((left, right), key=lambda archive: archive.header.inputs)
        name = "" if longer.header.inputs == length else str(longer.path)
        return Difference(length, shorter.header.last, longer=name, looks=looks)
    (a, position), (b, _) = _line(left, at), _line(right, at)
    what = "outcome" if a.entry == b.entry else "input"
    first = min(a.entry.id, b.entry.id, key=parse_id)
    shown = [
        {"source": str(archive.path), **_shown(line.entry, None), "link": line.link}
        for archive, line in ((left, a), (right, b))
    ]
    return Difference(at, position, first, what, shown[0], shown[1], looks=looks)


def _line(archive: Archive, at: int) -> tuple[Archived, str]:
    """The input with the index *at*, and the id of the one before it."""
    position = archive.header.after
    for number, archived in enumerate(archive.inputs()):
        if number == at:
            return archived, position
        position = archived.entry.id
    raise AssertionError("the archive was read to its end before")


def _shown(entry: InputEntry | None, outcome: OutcomeEntry | None) -> dict[str, str]:
    """An input and its outcome as text."""
    if entry is None:
        return {"id": ""}
    body = b" ".join(entry.raw) if entry.problem else entry.body
    told = {
        "id": entry.id,
        "type": entry.type,
        "key": entry.key,
        "by": entry.by,
        "trace": entry.trace,
        "body": body.decode("utf-8", "backslashreplace"),
        "problem": entry.problem,
    }
    if outcome is not None:
        told |= {"status": outcome.status, "outcome": outcome.body.decode()}
    return {name: value for name, value in told.items() if value}
