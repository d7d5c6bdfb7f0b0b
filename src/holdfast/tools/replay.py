"""Deciding a log anew: up to an id, or up to the first violation of a rule."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from holdfast.actors.booking.invariants import full_scan
from holdfast.actors.booking.runner import BookBugError, BookRunner
from holdfast.actors.ports import GENESIS
from holdfast.tools.history import one_history
from holdfast.tools.sources import runner_of
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from holdfast.actors.ports import InputEntry, OutcomeEntry, Snapshot
    from holdfast.tools.sources import Source, Tell

SCAN_EVERY: Final = 512
"""With ``until_violation`` the whole book is looked at after so many inputs, then one by one."""

TURN_EVERY: Final = 256
"""After so many inputs other tasks get their turn, and progress is told."""


class Replay(msgspec.Struct, frozen=True):
    """What a replay came to.

    Attributes:
      begin: The position it began at.
      position: The last input decided.
      digest: The hash chain's link there.
      outcomes: How many by status, and by code where refused.
      violated: What the book broke after the input at ``position``; empty if nothing.
      parted: The first input after which the links that came with the log differ, or "".
    """

    source: str
    book: str
    begin: str
    position: str
    digest: str
    inputs: int
    outcomes: dict[str, int]
    violated: list[str]
    parted: str = ""


def code_of(outcome: OutcomeEntry) -> str:
    """How an outcome is counted: its status, and the code of a refusal."""
    if outcome.status == "accepted":
        return "accepted"
    result: dict[str, str] = msgspec.json.decode(outcome.body)
    return f"{outcome.status}: {result.get('code', 'unknown')}"


async def replay(
    source: Source, *, to: str = "", until_violation: bool = False, tell: Tell
) -> Replay:
    """Decide the inputs of *source*.

    Args:
      source: Where they are.
      to: The last one to decide; "" for all.
      until_violation: Stop at the first input after which the book breaks one of its rules; the
        whole book is looked at, not just what an input touched.
      tell: Called now and then with inputs decided and inputs expected.

    Raises:
      BookBugError: The machine failed on an input, without *until_violation*.
      HistoryChangedError: The server of a live book failed over meanwhile.
    """
    async with one_history(source.history):
        return await _replay(source, to, until_violation, tell)


async def _replay(source: Source, to: str, until_violation: bool, tell: Tell) -> Replay:
    runner = runner_of(source)
    begin = runner.position
    codes: Counter[str] = Counter()
    last = parse_id(to) if to else None
    violated = full_scan(runner.state) if until_violation else []
    scan = _Scan(runner) if until_violation and not violated else None
    count, parted = 0, ""
    async with aclosing(source.inputs()) as inputs:
        async for entry, link in inputs:
            if violated or (last is not None and parse_id(entry.id) > last):
                break
            try:
                decided = runner.decide([entry])
            except BookBugError as error:
                if scan is None:
                    raise
                violated = [str(error)]
                break
            count += 1
            codes[code_of(decided.outcomes[0])] += 1
            if link and link != runner.digest and not parted:
                parted = entry.id
            if scan is not None:
                violated = scan.look(entry)
            if count % TURN_EVERY == 0:
                tell(count, source.size)
                await trio.lowlevel.checkpoint()
    if scan is not None and not violated:
        violated = scan.finish()
    if scan is not None and violated:
        runner = scan.runner
    tell(count, source.size)
    return Replay(
        source=source.name,
        book=source.book,
        begin=begin,
        position=runner.position,
        digest=runner.digest,
        inputs=count,
        outcomes=dict(codes.most_common()),
        violated=violated,
        parted=parted,
    )


class _Scan:
    """Looks at the whole book now and then, and finds the input by going back to the last look."""

    def __init__(self, runner: BookRunner) -> None:
        self.runner = runner
        self._kept: Snapshot | None = None if runner.position == GENESIS else runner.snapshot()
        self._since: list[InputEntry] = []

    def look(self, entry: InputEntry) -> list[str]:
        self._since.append(entry)
        return self.finish() if len(self._since) >= SCAN_EVERY else []

    def finish(self) -> list[str]:
        if not full_scan(self.runner.state):
            self._kept = self.runner.snapshot()
            self._since.clear()
            return []
        runner = BookRunner(self.runner.book, self._kept)
        for entry in self._since:
            runner.decide([entry])
            problems = full_scan(runner.state)
            if problems:
                self.runner = runner
                return problems
        return full_scan(self.runner.state)
