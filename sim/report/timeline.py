"""The timeline as SVG: a lane for each actor, a column for each event, idle time cut out.

Nothing here needs a script: marks carry their text as titles and the inputs that they are about as
``data-inputs``; the page's script only makes looking around easier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.sim.report.text import clock, count, length, plain

if TYPE_CHECKING:
    from holdfast.sim.report.lanes import Kind
    from holdfast.sim.report.story import Event, Life, Story

STEP: Final = 13
"""Width of an event's column, in pixels."""

LANE: Final = 32
TOP: Final = 58
"""Room for the axis, and the violation's flag."""

BOTTOM: Final = 14
EDGE: Final = 26
IDLE_MS: Final = 1_000
"""From here on nothing happening is a gap that says how long."""

_IDLE: Final = 46
_LABEL: Final = 66
_BAND: Final = 18

_SHAPES: Final[dict[Kind, str]] = {
    "fault": "M0-6.5 6.5 0 0 6.5-6.5 0Z",
    "send": "M-4-4.5 5 0-4 4.5Z",
    "answer": "M4-4.5-5 0 4 4.5Z",
    "write": "M-4-4H4V4H-4Z",
    "error": "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0Z",
    "effect": "M-4.4 0a4.4 4.4 0 1 0 8.8 0a4.4 4.4 0 1 0-8.8 0Z",
    "call": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0Z",
    "read": "M0-4.5V4.5",
    "life": "M0-9V9",
    "world": "M0-6 5.5 4H-5.5Z",
}

_MEANINGS: Final[tuple[tuple[Kind, str], ...]] = (
    ("fault", "fault"),
    ("send", "sent"),
    ("write", "written to the log"),
    ("answer", "answer seen"),
    ("call", "call returned"),
    ("read", "read or wait returned"),
    ("error", "error or refusal"),
    ("effect", "at provider or mailer"),
    ("life", "started, asked to stop, ended"),
    ("world", "of the whole world"),
)


class _Places(msgspec.Struct):
    """Where things are, from left to right.

    Attributes:
      at: The middle of each event's column, by the event's number.
      idle: Where nothing happens: for how many milliseconds, and how many reads are folded there.
      seen: The violation.
    """

    at: dict[int, float]
    width: float
    idle: list[tuple[float, int, int]]
    seen: float


def _places(story: Story) -> _Places:
    at: dict[int, float] = {}
    idle: list[tuple[float, int, int]] = []
    x, before_ms = float(EDGE), story.events[0].ms if story.events else 0
    for event in story.events:
        passed_ms = event.ms - before_ms
        folded = story.folded.get(event.number, 0)
        if passed_ms >= IDLE_MS or folded:
            idle.append((x, passed_ms, folded))
            x += _IDLE
        elif passed_ms:
            x += 2 if passed_ms < 50 else 5
        at[event.number] = x + STEP / 2
        x += STEP
        before_ms = event.ms
    if story.seen is None:
        idle.append((x, story.end_ms - before_ms, 0))
        x += _IDLE
    seen = x + STEP / 2 if story.seen is None else at.get(story.seen, x)
    return _Places(at, x + EDGE + STEP, idle, seen)


def labels_of(story: Story) -> str:
    """The lanes' names, which stay where they are while the timeline moves."""
    rows: list[str] = []
    for number, name in enumerate(story.lanes):
        class_ = "lane violated" if number in story.violated else "lane"
        rows.append(f'<li class="{class_}" data-lane="{plain(name)}">{plain(name)}</li>')
    return f'<ol class="lanes" style="padding-top:{TOP}px">{"".join(rows)}</ol>'


def legend_of() -> str:
    """What each shape means."""
    shapes = "".join(
        f'<li><svg viewBox="-8 -10 16 20" width="16" height="18" aria-hidden="true">'
        f'<path class="m {kind}" d="{_SHAPES[kind]}"/></svg>{meaning}</li>'
        for kind, meaning in _MEANINGS
    )
    pauses = (
        '<li><svg width="26" height="18" aria-hidden="true"><rect class="life" y="2" width="26" '
        'height="14" rx="4"/><rect class="pause" x="11" y="2" width="15" height="14"/></svg>'
        "process lives, is paused</li>"
    )
    return f'<ul class="legend">{shapes}{pauses}</ul>'


def timeline_of(story: Story, check: str) -> str:
    """The timeline, from *story*; *check* is written where it failed."""
    places = _places(story)
    height = TOP + LANE * len(story.lanes) + BOTTOM
    parts = [
        f'<svg id="timeline" width="{places.width:g}" height="{height}" role="img" '
        f'aria-label="The events of the run, lane by lane">',
        '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><path class="hatch" d="M0 0V5"/></pattern></defs>',
        *_ground(story, places, height),
        *_axis(story, places, height),
        *(part for life in story.lives for part in _life(life, story, places)),
        *_folded(places, height),
        *_arrows(story, places),
        *_touched(story, places),
        *_violation(story, places, height, check),
        *(_mark(event, story, places) for event in story.events),
        "</svg>",
    ]
    return "\n".join(parts)


def overview_of(story: Story) -> str:
    """All of the window at once, as wide as the page."""
    places = _places(story)
    lanes = max(1, len(story.lanes))
    ticks: dict[str, list[str]] = {"plain": [], "fault": []}
    for event in story.events:
        name = "fault" if event.kind == "fault" else "plain"
        ticks[name].append(f"M{places.at[event.number]:g} {event.lane * 3}v3")
    paths = "".join(f'<path class="{name}" d="{"".join(d)}"/>' for name, d in ticks.items() if d)
    x = places.seen
    return (
        f'<svg id="overview" viewBox="0 0 {places.width:g} {lanes * 3}" '
        f'preserveAspectRatio="none" aria-hidden="true">{paths}'
        f'<path class="violation" d="M{x:g} 0V{lanes * 3}"/>'
        f'<rect id="view" y="0" width="0" height="{lanes * 3}"/></svg>'
    )


def _y(lane: int) -> float:
    return TOP + LANE * lane + LANE / 2


def _ground(story: Story, places: _Places, height: int) -> list[str]:
    """The lanes' lines, and where time was cut out."""
    parts = [
        f'<path class="line" d="M0 {_y(lane):g}H{places.width:g}"/>'
        for lane in range(len(story.lanes))
    ]
    for x, passed_ms, _ in places.idle:
        parts.append(
            f'<g class="idle"><rect x="{x + 4:g}" y="{TOP - 6}" width="{_IDLE - 8}" '
            f'height="{height - TOP}"/><text x="{x + _IDLE / 2:g}" y="{TOP - 11}">'
            f"{length(passed_ms)}</text></g>"
        )
    return parts


def _folded(places: _Places, height: int) -> list[str]:
    """How many reads are left out, over the bands of those who read."""
    y = (TOP + height - BOTTOM) / 2
    return [
        f'<text class="folded" transform="translate({x + _IDLE / 2 + 4:g} {y:g}) rotate(-90)">'
        f"{count(folded, 'read')} and waits folded</text>"
        for x, _, folded in places.idle
        if folded
    ]


def _axis(story: Story, places: _Places, height: int) -> list[str]:
    """Times, as many as there is room for."""
    parts: list[str] = []
    free, before_ms = 0.0, -1
    for event in story.events:
        x = places.at[event.number]
        if event.ms != before_ms and x >= free:
            parts.append(
                f'<g class="time"><path d="M{x:g} {TOP - 26}V{height - BOTTOM}"/>'
                f'<text x="{x + 3:g}" y="{TOP - 27}">{clock(event.ms - story.start_ms)}</text></g>'
            )
            free = x + _LABEL
        before_ms = event.ms
    return parts


def _life(life: Life, story: Story, places: _Places) -> list[str]:
    """The band of a process's life, and its pauses."""
    y = _y(life.lane) - _BAND / 2
    ends = places.width if life.end is None else places.at.get(life.end, places.width)
    begins = places.at.get(life.begin, 0.0)
    name = f"{story.lanes[life.lane]}.{life.name}"
    parts = [
        f'<g class="lived"><title>{plain(name)}</title><rect class="life" x="{begins:g}" y="{y:g}" '
        f'width="{max(0.0, ends - begins):g}" height="{_BAND}" rx="4"/>'
    ]
    for begin, end in life.pauses:
        left = places.at.get(begin, 0.0 if begin < story.before else places.width)
        right = ends if end is None else places.at.get(end, 0.0 if end < story.before else ends)
        parts.append(
            f'<rect class="pause" x="{left:g}" y="{y:g}" width="{max(0.0, right - left):g}" '
            f'height="{_BAND}"/>'
        )
    if life.name.isdecimal() and int(life.name) > 1:
        parts.append(f'<text x="{begins + 2:g}" y="{y - 2:g}">life {life.name}</text>')
    return [*parts, "</g>"]


def _arrows(story: Story, places: _Places) -> list[str]:
    lanes = {event.number: event for event in story.events}
    parts: list[str] = []
    for begin, end in story.arrows:
        x, y = places.at[begin], _y(lanes[begin].lane)
        to_x, to_y = places.at[end], _y(lanes[end].lane)
        bend = min(40.0, (to_x - x) / 2)
        parts.append(
            f'<path class="arrow" data-inputs="{_numbers(lanes[end].inputs)}" '
            f'd="M{x:g} {y:g}C{x + bend:g} {y:g} {to_x - bend:g} {to_y:g} {to_x:g} {to_y:g}"/>'
        )
    return parts


def _touched(story: Story, places: _Places) -> list[str]:
    """A line from the log to the process that wrote to it, or that a fault on the wire befell."""
    events = {event.number: event for event in story.events}
    parts: list[str] = []
    for number, lane in story.touched.items():
        event = events[number]
        kind, end = ("befell", "m-3-3 6 6m0-6-6 6") if event.kind == "fault" else ("wrote", "")
        parts.append(
            f'<path class="{kind}" data-inputs="{_numbers(event.inputs)}" '
            f'd="M{places.at[number]:g} {_y(event.lane):g}V{_y(lane):g}{end}"/>'
        )
    return parts


def _violation(story: Story, places: _Places, height: int, check: str) -> list[str]:
    x = places.seen
    room = 8 * len(check) + 14
    left = min(x - 8, places.width - room - 2)
    event = "" if story.seen is None else story.seen
    parts = [
        f'<g id="violation" data-event="{event}" data-x="{x:g}">'
        f"<title>{plain(check)} failed here</title>"
        f'<path class="at" d="M{x:g} 22V{height}"/>'
        f'<rect class="flag" x="{left:g}" y="2" width="{room}" height="20" rx="4"/>'
        f'<text x="{left + room / 2:g}" y="16">{plain(check)}</text>'
    ]
    parts += [
        f'<circle class="violated" data-lane="{plain(story.lanes[lane])}" cx="{x:g}" '
        f'cy="{_y(lane):g}" r="11"/>'
        for lane in story.violated
    ]
    return [*parts, "</g>"]


def title_of(event: Event, story: Story) -> str:
    """An event in one line."""
    when = clock(event.ms - story.start_ms)
    kind = "fault: " if event.kind == "fault" else ""
    return f"#{event.number}  {when}  {event.who}  {kind}{event.what} {event.details}".rstrip()


def _mark(event: Event, story: Story, places: _Places) -> str:
    class_ = "mark fault" if event.kind == "fault" else "mark"
    return (
        f'<g class="{class_}" id="e{event.number}" data-x="{places.at[event.number]:g}" '
        f'data-inputs="{_numbers(event.inputs)}" '
        f'transform="translate({places.at[event.number]:g} {_y(event.lane):g})">'
        f"<title>{plain(title_of(event, story))}</title>"
        f'<rect class="hit" x="{-STEP / 2:g}" y="{-LANE / 2:g}" width="{STEP}" height="{LANE}"/>'
        f'<path class="m {event.kind}" d="{_SHAPES[event.kind]}"/></g>'
    )


def _numbers(inputs: tuple[int, ...]) -> str:
    return " ".join(map(str, inputs))


def window_of(story: Story) -> str:
    """What the timeline shows of the run, in a sentence."""
    left = [
        f"{count(number, one, many)} {where}"
        for number, one, many, where in (
            (story.before, "event", "", "before them"),
            (story.after, "event", "", "after them"),
            (sum(story.folded.values()), "read or wait", "reads and waits", "in a row"),
        )
        if number
    ]
    if not left:
        return f"All {count(len(story.events), 'event')} of the run, in their order."
    where = " around the violation" if story.before or story.after else ""
    return f"{count(len(story.events), 'event')}{where}; left out: {', '.join(left)}."
