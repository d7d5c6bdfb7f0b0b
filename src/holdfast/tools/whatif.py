"""What other policies would have done to the same inputs.

The log is decided twice side by side: as it was, and with the policies replaced. What came from
outside stays as it was: customers ask for the same, and the provider's and the post's results are
those of the log. So this tells what the policies would have answered to what was asked, and not what
people would have asked then.
"""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, cast

import msgspec
import trio

from holdfast.actors.booking import wire
from holdfast.actors.booking.messages import DefinePractice, Policies
from holdfast.actors.booking.views import calendar_digest, whole_calendar
from holdfast.actors.ports import InputEntry
from holdfast.config.practices import POLICY_FIELDS
from holdfast.config.sources import did_you_mean, read_toml
from holdfast.tools.errors import ToolError
from holdfast.tools.history import one_history
from holdfast.tools.replay import code_of
from holdfast.tools.sources import runner_of
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.actors.booking.runner import BookRunner
    from holdfast.tools.sources import Source, Tell

EXAMPLES_MAX: Final = 3
"""So many inputs are shown of each kind of difference."""

TURN_EVERY: Final = 256
BY: Final = "service:what-if"


class Example(msgspec.Struct, frozen=True):
    """One input that would have been answered otherwise."""

    id: str
    type: str
    by: str
    body: str
    was: str
    would_be: str


class Change(msgspec.Struct, frozen=True):
    """One kind of difference.

    Attributes:
      was: Status, and code where refused; ``would_be`` likewise.
    """

    was: str
    would_be: str
    count: int
    examples: list[Example]


class WhatIf(msgspec.Struct, frozen=True):
    """What other policies would have done.

    Attributes:
      since: They hold from this input on; "" for the first.
      inputs: How many were decided with them.
      changes: Differences in outcomes, the most frequent first.
      appointments: In the calendar at the end: as it was, and as it would be.
      same_calendar: Whether the two calendars are equal.
    """

    book: str
    policies: dict[str, object]
    since: str
    inputs: int
    changes: list[Change]
    appointments: tuple[int, int]
    same_calendar: bool

    @property
    def differ(self) -> int:
        """How many outcomes differ."""
        return sum(change.count for change in self.changes)


def read_policies(file: Path) -> dict[str, object]:
    """The table ``[policies]`` of *file*.

    Raises:
      SettingsError: The file cannot be read.
      ToolError: It says something else, or a policy that there is not.
    """
    table = read_toml(file)
    policies = table.pop("policies", None)
    if table or not isinstance(policies, dict) or not policies:
        raise ToolError(
            f"{file} must have one table [policies] with what is to be tried, and nothing else"
        )
    named = cast("dict[str, object]", policies)
    for name in named:
        if name not in POLICY_FIELDS:
            raise ToolError(f"{file}: there is no policy {name}{did_you_mean(name, POLICY_FIELDS)}")
    try:
        msgspec.convert(named, Policies)
    except msgspec.ValidationError as error:
        raise ToolError(f"{file}: {error}") from None
    return named


async def what_if(
    source: Source, policies: dict[str, object], *, since: str = "", to: str = "", tell: Tell
) -> WhatIf:
    """Decide *source* as it was and with *policies*, and count the outcomes that differ.

    Args:
      source: The inputs.
      policies: Those to be replaced, by name.
      since: From this input on; "" for all.
      to: Up to this one; "" for all.
      tell: Called now and then with inputs decided and inputs expected.

    Raises:
      BookBugError: The machine failed on an input.
      HistoryChangedError: The server of a live book failed over meanwhile.
    """
    async with one_history(source.history):
        return await _what_if(source, policies, since, to, tell)


async def _what_if(
    source: Source, policies: dict[str, object], since: str, to: str, tell: Tell
) -> WhatIf:
    was, other = runner_of(source), runner_of(source)
    first, last = parse_id(since or "0-0"), parse_id(to) if to else None
    changes: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[Example]] = {}
    read = count = 0
    async with aclosing(source.inputs()) as inputs:
        async for entry, _ in inputs:
            entry_id = parse_id(entry.id)
            if last is not None and entry_id > last:
                break
            read += 1
            if read % TURN_EVERY == 0:
                tell(read, source.size)
                await trio.lowlevel.checkpoint()
            decided = was.decide([entry]).outcomes[0]
            if entry_id < first:
                other.decide([entry])
                continue
            if not count:
                _introduce(other, entry, policies)
            count += 1
            would = other.decide([_with(entry, policies)]).outcomes[0]
            pair = code_of(decided), code_of(would)
            if pair[0] == pair[1]:
                continue
            changes[pair] += 1
            shown = examples.setdefault(pair, [])
            if len(shown) < EXAMPLES_MAX:
                body = entry.body.decode("utf-8", "backslashreplace")
                before, after = decided.body.decode(), would.body.decode()
                shown.append(Example(entry.id, entry.type, entry.by, body, before, after))
    return WhatIf(
        book=source.book,
        policies=policies,
        since=since,
        inputs=count,
        changes=[Change(*pair, number, examples[pair]) for pair, number in changes.most_common()],
        appointments=(len(whole_calendar(was.state)), len(whole_calendar(other.state))),
        same_calendar=calendar_digest(was.state) == calendar_digest(other.state),
    )


def _introduce(runner: BookRunner, entry: InputEntry, policies: dict[str, object]) -> None:
    """Give a book that has a practice already the other policies, just before *entry*."""
    if not runner.state.revisions:
        return
    definition = _replaced(runner.state.revisions[-1].definition, policies)
    ms, sequence = parse_id(entry.id)
    before = f"{ms}-{sequence - 1}" if sequence else f"{ms - 1}-0"
    body = wire.encode_message(definition)
    # Its id is that of no input, or of one that is decided: only its time counts.
    runner.decide([InputEntry(before, "define_practice", body, f"what-if-{entry.id}", BY)])


def _with(entry: InputEntry, policies: dict[str, object]) -> InputEntry:
    """*entry*, and where it defines the practice, with the other policies."""
    if entry.type != "define_practice" or entry.problem:
        return entry
    try:
        definition = _replaced(msgspec.json.decode(entry.body, type=DefinePractice), policies)
    except msgspec.DecodeError:
        return entry  # refused as it is
    return msgspec.structs.replace(entry, body=wire.encode_message(definition))


def _replaced(definition: DefinePractice, policies: dict[str, object]) -> DefinePractice:
    known: dict[str, object] = msgspec.to_builtins(definition.policies)
    changed = msgspec.convert({**known, **policies}, Policies)
    return msgspec.structs.replace(definition, policies=changed)
