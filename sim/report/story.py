"""What a failed world's page tells: its events on lanes, the lives of its processes, what belongs together.

The axis is the order of events, since that is what decides; time is written beside it. Everything that
names an input is linked by that input: what sent it, the log's entry, its commit, the calls it caused.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.sim.report.lanes import PROCESS, Kind, Lanes, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.sim.history import BookHistory
    from holdfast.sim.trace import Line
    from holdfast.sim.violations import Violation
    from holdfast.sim.world import World

EVENTS_MAX: Final = 800
"""Events that the timeline shows; of a longer run it is a window around the violation."""

AFTER_MAX: Final = 60
"""How many of those may lie behind the violation."""

FOLD_MIN: Final = 4
"""So many reads and waits in a row, with nothing between them, are folded into one."""

_ENTRY: Final = re.compile(r"\d{10,}-\d+")
_LANES_OF_CHECKS: Final[Mapping[str, str]] = {
    "S4 money": "provider",
    "S5 confirmed": "provider",
    "S6 one effect": "provider",
    "S9 actions": "provider",
    "S11 sealed": "world",
    "S13 messages": "mailer",
    "L4 no livelock": "world",
    "L7 no deadlock": "world",
    "L8 no orphan": "provider",
    "no bug": "world",
}
"""Where a check looks that names no process; at the log, if it is not here."""


class Event(msgspec.Struct, frozen=True):
    """An event of the trace, and where it is drawn.

    Attributes:
      number: Its number in the trace.
      lane: Index of its lane.
      inputs: Numbers of the inputs that it is about; see :class:`Story`.
    """

    number: int
    ms: int
    who: str
    lane: int
    what: str
    details: str
    kind: Kind
    inputs: tuple[int, ...]


class Life(msgspec.Struct):
    """One life of a process, by the numbers of its first and last event.

    Attributes:
      begin: None where it began before what is shown.
      end: None while it lives.
      pauses: Each with its beginning and its end, None while it lasts.
    """

    lane: int
    name: str
    begin: int
    end: int | None = None
    pauses: list[tuple[int, int | None]] = msgspec.field(
        default_factory=list[tuple[int, int | None]]
    )


class Story(msgspec.Struct):
    """Everything that the timeline shows.

    Attributes:
      lanes: Their names, from top to bottom.
      events: Those inside the window.
      folded: How many reads are left out before an event, by the event's number.
      before: How many events lie before the window.
      after: How many behind it.
      seen: Number of the event after which the violation was seen; None where that was later than
        the last one.
      violated: Indices of the lanes that it is about.
      inputs: A number for each input of all books, by its id.
      violated_inputs: Those that the violation lanes.
      arrows: From one event to another that it caused, by number.
      touched: The lane of the process that an event at the server is about, by the event's number:
        who wrote a commit, whom a fault befell.
    """

    lanes: list[str]
    events: list[Event]
    lives: list[Life]
    folded: dict[int, int]
    before: int
    after: int
    seen: int | None
    end_ms: int
    violated: list[int]
    inputs: dict[str, int]
    violated_inputs: tuple[int, ...]
    arrows: list[tuple[int, int]]
    touched: dict[int, int]
    start_ms: int
    faults: int


def books_of(world: World) -> Mapping[str, BookHistory]:
    """What was written to each book."""
    log = getattr(world, "log", None)
    return {} if log is None else log.history  # a run may fail before it has a log


def tell(world: World, violation: Violation, virtual_ms: int) -> Story:
    """The story of *world*, which has ended.

    Args:
      world: Its trace and its log.
      violation: What was seen.
      virtual_ms: How long the world lasted.
    """
    lines = world.trace.lines
    books = books_of(world)
    inputs, senders = _inputs(books)
    lanes = Lanes([who for _, who, _, _ in lines], senders)
    start_ms = lines[0][0] if lines else 0
    seen = _seen(lines, violation, start_ms + virtual_ms)
    writers = _writers(world, books)
    decided = {
        (book, written.order): tuple(
            inputs[one.id] for one in written.commit.outcomes if one.id in inputs
        )
        for book, history in books.items()
        for written in history.commits
    }
    faults = frozenset(world.trace.faults)

    def event(number: int) -> Event:
        ms, who, what, details = lines[number]
        lane = lanes.lane(who, what, details)
        about = decided.get((details.partition(" ")[0], number)) or _about(details, inputs)
        kind = "fault" if number in faults else kind_of(lanes.names[lane], who, what, details)
        return Event(number, ms, who, lane, what, details, kind, about)

    last = len(lines) if seen is None else min(len(lines), seen + 1 + AFTER_MAX)
    events, folded = _fold([event(number) for number in range(last)], seen)
    events = events[-EVENTS_MAX:]
    first = events[0].number if events else 0
    arrows = _arrows(events, senders)
    return Story(
        lanes=lanes.names,
        events=_with_inputs(events, arrows),
        lives=[life for life in _lives(lines, lanes) if _overlaps(life, first, last)],
        folded={number: count for number, count in folded.items() if number > first},
        before=first,
        after=len(lines) - last,
        seen=seen,
        end_ms=start_ms + virtual_ms,
        violated=_violated(lanes, violation, seen, writers, lines),
        inputs=inputs,
        violated_inputs=_about(violation.details, inputs),
        arrows=arrows,
        touched=_touched(events, lanes, writers),
        start_ms=start_ms,
        faults=len(faults),
    )


def _seen(lines: Sequence[Line], violation: Violation, end_ms: int) -> int | None:
    """A violation's order counts the events before it. Some are seen by waiting in vain."""
    if not lines or (violation.order >= len(lines) and end_ms > lines[-1][0]):
        return None
    return max(0, min(violation.order, len(lines)) - 1)


def _fold(events: Sequence[Event], seen: int | None) -> tuple[list[Event], dict[int, int]]:
    """Leave out reads that have only reads around them, but for the last in a row."""
    kept: list[Event] = []
    folded: dict[int, int] = {}
    for is_read, run in groupby(events, lambda one: one.kind == "read" and one.number != seen):
        row = list(run)
        if is_read and len(row) >= FOLD_MIN:
            folded[row[-1].number] = len(row) - 1
            row = row[-1:]
        kept += row
    return kept, folded


def _overlaps(life: Life, first: int, last: int) -> bool:
    return life.begin < last and (life.end is None or life.end >= first)


def _inputs(books: Mapping[str, BookHistory]) -> tuple[dict[str, int], dict[str, str]]:
    """A number for each input, and who sent it."""
    numbers: dict[str, int] = {}
    senders: dict[str, str] = {}
    for history in books.values():
        for entry in history.inputs:
            numbers.setdefault(entry.id, len(numbers))
            senders[entry.id] = entry.by
    return numbers, senders


def _about(details: str, inputs: Mapping[str, int]) -> tuple[int, ...]:
    """The inputs that a text names: ids of bookings, payments and actions hold those of inputs."""
    found = dict.fromkeys(_ENTRY.findall(details))
    return tuple(inputs[id_] for id_ in found if id_ in inputs)


def _lives(lines: Sequence[Line], lanes: Lanes) -> list[Life]:
    lives: list[Life] = []
    living: dict[str, Life] = {}
    for number, (_, who, what, _) in enumerate(lines):
        lane = lanes.known(who)
        if lane is None or not PROCESS.fullmatch(who):
            continue
        name = lanes.names[lane]
        if what == "start":
            living[name] = Life(lane, who.rpartition(".")[2], number)
            lives.append(living[name])
        elif (life := living.get(name)) is None:
            continue
        elif what == "pause":
            life.pauses.append((number, None))
        elif what == "resume" and life.pauses:
            life.pauses[-1] = (life.pauses[-1][0], number)
        elif what in ("crash", "ended"):
            life.end = number
            del living[name]
    return lives


def _violated(
    lanes: Lanes,
    violation: Violation,
    seen: int | None,
    writers: Mapping[int, str],
    lines: Sequence[Line],
) -> list[int]:
    """The processes that the violation names; the log and who wrote to it; else what is compared."""
    found = [lanes.known(name[0]) for name in PROCESS.finditer(violation.details)]
    if seen is not None and lines[seen][1] == "server":
        found.append(lanes.known("server"))
        if seen in writers:
            found.append(lanes.known(writers[seen]))
    if not any(lane is not None for lane in found):
        place = "provider" if "payment " in violation.details else "server"
        found.append(lanes.known(_LANES_OF_CHECKS.get(violation.check, place)))
    return sorted({lane for lane in found if lane is not None})


def _arrows(events: Sequence[Event], senders: Mapping[str, str]) -> list[tuple[int, int]]:
    """From what was sent to its entry in the log, from a commit to each who saw its outcome."""
    sent: dict[tuple[str, str, str], int] = {}
    committed: dict[int, int] = {}
    arrows: list[tuple[int, int]] = []
    for event in events:
        book, _, rest = event.details.partition(" ")
        if event.kind == "send":
            sent[event.who, book, rest.partition(" ")[0]] = event.number
        elif event.what == "input":
            id_, _, type_ = rest.partition(" ")
            begin = sent.get((senders.get(id_, ""), book, type_))
            if begin is not None:
                arrows.append((begin, event.number))
        elif event.what == "commit" and event.kind == "write":
            committed.update(dict.fromkeys(event.inputs, event.number))
        elif event.what == "outcome":
            arrows += [(committed[one], event.number) for one in event.inputs if one in committed]
    return arrows


def _with_inputs(events: Sequence[Event], arrows: Sequence[tuple[int, int]]) -> list[Event]:
    """What was sent is about the input that it became."""
    became = {event.number: event.inputs for event in events}
    about = {begin: became[end] for begin, end in arrows}
    return [
        msgspec.structs.replace(event, inputs=about[event.number])
        if event.kind == "send" and event.number in about
        else event
        for event in events
    ]


def _writers(world: World, books: Mapping[str, BookHistory]) -> dict[int, str]:
    """Which process wrote a commit, by the commit's event."""
    owners = world.owners
    return {
        written.order: owners[written.commit.owner]
        for history in books.values()
        for written in history.commits
        if written.commit.owner in owners
    }


def _touched(events: Sequence[Event], lanes: Lanes, writers: Mapping[int, str]) -> dict[int, int]:
    """The server's faults that befell one process tell its name first."""
    found: dict[int, int] = {}
    for event in events:
        if lanes.names[event.lane] != "server":
            continue
        who = writers.get(event.number, "")
        if event.kind == "fault" and event.details:
            who = event.details.partition(" ")[0]
        lane = lanes.known(who) if who else None
        if lane is not None and lane != event.lane:
            found[event.number] = lane
    return found
