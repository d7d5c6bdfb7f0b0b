"""What stands beside the timeline: the log of each book, the options, the trace as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.sim.report.text import clock, count, of_bytes, plain
from holdfast.sim.report.timeline import title_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from holdfast.actors.ports import ActionEntry, InputEntry, OutcomeEntry
    from holdfast.sim.history import BookHistory
    from holdfast.sim.options import Options
    from holdfast.sim.report.story import Story

INPUTS_MAX: Final = 250
"""Inputs of each book that the page shows, the last ones and those that the violation names."""

TRACE_MAX: Final = 400
"""Lines of the trace, the last before the violation."""

_BODY_MAX: Final = 400
_SHORT: Final = 34
_LAST: Final = ("practice", "changed")
_FAULTS: Final = ("server", "provider", "mailer", "process")


class _Book:
    """One book's history, by input."""

    def __init__(self, history: BookHistory, owners: Mapping[str, str]) -> None:
        self.outcomes: dict[str, OutcomeEntry] = {}
        self.actions: dict[str, list[ActionEntry]] = {}
        self.results: dict[str, InputEntry] = {}
        self.commits: dict[str, tuple[int, str]] = {}
        for written in history.commits:
            commit = written.commit
            writer = f"epoch {commit.epoch} {owners.get(commit.owner, '')}".rstrip()
            for outcome in commit.outcomes:
                self.outcomes[outcome.id] = outcome
                self.commits[outcome.id] = (written.order, writer)
            for action in (*commit.payments, *commit.notifications):
                self.actions.setdefault(action.action.partition(":")[0], []).append(action)
        for entry in history.inputs:
            if entry.type in ("payment_result", "delivery_report"):
                self.results.setdefault(str(_object(entry.body).get("action", "")), entry)


def log_of(story: Story, name: str, history: BookHistory, owners: Mapping[str, str]) -> str:
    """The inputs of a book in their order, each with its outcome, its actions and their results.

    Args:
      story: Numbers of inputs.
      name: The book's.
      history: What was written to it.
      owners: Processes by the tokens that they write.
    """
    book = _Book(history, owners)
    late = len(history.inputs) - INPUTS_MAX
    shown = [
        entry
        for number, entry in enumerate(history.inputs)
        if number >= late or story.inputs[entry.id] in story.violated_inputs
    ]
    left = len(history.inputs) - len(shown)
    note = f'<p class="note">{count(left, "earlier input")} left out.</p>' if left else ""
    entries = "".join(_input(story, book, entry) for entry in shown)
    heading = f"{plain(name)} <small>{count(len(history.inputs), 'input')}</small>"
    return f'<section class="book"><h3>{heading}</h3>{note}<ol>{entries}</ol></section>'


def _input(story: Story, book: _Book, entry: InputEntry) -> str:
    number = story.inputs[entry.id]
    class_ = "input violated" if number in story.violated_inputs else "input"
    by = f'<span class="by">{plain(entry.by)} {plain(entry.key)}</span>'
    actions = "".join(_action(story, book, one) for one in book.actions.get(entry.id, []))
    body = entry.problem or of_bytes(entry.body)
    return (
        f'<li class="{class_}" tabindex="0" data-inputs="{number}">'
        f"<div><time>{clock(max(0, entry.ms - story.start_ms))}</time> "
        f"<b>{plain(entry.type, 60) or 'no message'}</b> {by}</div>"
        f'<code class="id">{plain(entry.id)}</code> <code class="body">{plain(body, _BODY_MAX)}</code>'
        f"{_outcome(book, entry)}"
        + (f'<ul class="actions">{actions}</ul>' if actions else "")
        + "</li>"
    )


def _outcome(book: _Book, entry: InputEntry) -> str:
    outcome = book.outcomes.get(entry.id)
    if outcome is None:
        return '<p class="outcome none">no outcome</p>'
    order, writer = book.commits[entry.id]
    again = " again" if outcome.replayed else ""
    return (
        f'<p class="outcome {plain(outcome.status)}" title="{plain(of_bytes(outcome.body), 2_000)}">'
        f"{plain(outcome.status)}{again} <span>{plain(', '.join(_says(outcome)), _BODY_MAX)}</span> "
        f'<a href="#e{order}" data-event="{order}">{plain(writer)}</a></p>'
    )


def _action(story: Story, book: _Book, action: ActionEntry) -> str:
    about = " ".join(
        f"{name} {value}"
        for name, value in _object(action.body).items()
        if name in ("payment", "amount_cents", "booking", "to", "about", "event")
    )
    result = book.results.get(action.action)
    told = ""
    if result is not None:
        status = str(_object(result.body).get("status", ""))
        when = clock(max(0, result.ms - story.start_ms))
        told = f' <span class="result">{plain(status)}, {when}</span>'
    return (
        f'<li title="{plain(of_bytes(action.body), 2_000)}">{plain(action.type)} '
        f"<code>{plain(action.action.partition(':')[2])}</code> "
        f'<span class="about">{plain(about, 120)}</span>{told}</li>'
    )


def _object(body: object) -> dict[str, object]:
    """A JSON object of anybody; empty where it is none."""
    try:
        if isinstance(body, bytes):
            return msgspec.json.decode(body, type=dict[str, object])
        return msgspec.convert(body, dict[str, object])
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return {}


def _objects(body: object) -> list[dict[str, object]]:
    """A JSON array of objects, likewise."""
    try:
        if isinstance(body, bytes):
            return msgspec.json.decode(body, type=list[dict[str, object]])
        return msgspec.convert(body, list[dict[str, object]])
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return []


def _says(outcome: OutcomeEntry) -> list[str]:
    """What an outcome says: the events of timers and its own, or why it refuses."""
    said = _object(outcome.body)
    events = [*_objects(outcome.timers), *_objects(said.get("events", []))]
    told = [" ".join(str(one[key]) for key in ("type", "booking") if key in one) for one in events]
    if "code" in said:
        told.append(f"{said['code']}: {said.get('details', '')}")
    return told


# -- options ----------------------------------------------------------------------------------


def options_of(options: Options) -> str:
    """What was drawn, the faults first; what is off or zero is folded away."""
    flat = list(_flat("", msgspec.to_builtins(options)))
    flat.sort(key=lambda one: _option_rank(one[0]))
    drawn = [one for one in flat if one[1] not in ("", "0", "false", "[]", "{}", "null")]
    off = [name for name, _ in flat if name not in dict(drawn)]
    rows = "".join(
        f'<tr class="{"long" if len(value) > _SHORT else "short"}">'
        f'<th scope="row">{plain(name)}</th>'
        f"<td><code>{plain(value)}</code></td></tr>"
        for name, value in drawn
    )
    rest = ", ".join(f"<code>{plain(name)}</code>" for name in off)
    return (
        f'<table class="options"><tbody>{rows}</tbody></table>'
        f"<details><summary>{count(len(off), 'option')} off or zero</summary><p>{rest}</p></details>"
    )


def _option_rank(name: str) -> int:
    first, dot, _ = name.partition(".")
    if first in _FAULTS:
        return 0
    if first in _LAST:
        return 3
    return 2 if dot else 1


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    fields = _object(value)
    if fields and not name.endswith(".hours"):
        for key, inner in fields.items():
            yield from _flat(f"{name}.{key}" if name else key, inner)
    else:
        yield name, _value(value)


def _value(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return msgspec.json.encode(value).decode().replace(",", ", ")


# -- the trace --------------------------------------------------------------------------------


def trace_of(story: Story) -> str:
    """The last lines before the violation, and those after it, as the timeline shows them."""
    seen = story.events[-1].number if story.seen is None and story.events else story.seen or 0
    before = [event for event in story.events if event.number <= seen]
    shown = [*before[-TRACE_MAX:], *story.events[len(before) :]]
    rows: list[str] = []
    for event in shown:
        class_ = "fault" if event.kind == "fault" else ""
        if event.number == story.seen:
            class_ += " violated"
        inputs = " ".join(map(str, event.inputs))
        if folded := story.folded.get(event.number):
            rows.append(f'<li class="folded">… {count(folded, "read")} and waits</li>')
        rows.append(
            f'<li class="{class_.strip()}" data-event="{event.number}" data-inputs="{inputs}">'
            f"{plain(title_of(event, story))}</li>"
        )
    left = shown[0].number if shown else 0
    note = f'<p class="note">{count(left, "earlier line")} left out.</p>' if left else ""
    return f'{note}<ol class="trace">{"".join(rows)}</ol>'
