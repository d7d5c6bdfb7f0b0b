"""The page about a simulated world that failed: one file, opened without a network.

It tells what should have held and what was seen, how to see it again, and what led there: a timeline with
a lane for each actor, the log beside it, the options, the end of the trace. The same case gives the same
page, byte for byte. Whatever strangers wrote into the log is escaped, and the page's policy forbids it
to load or to run anything but its own script.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Final

from holdfast.sim.options import FAULT_GROUPS, SCENARIOS
from holdfast.sim.report.story import books_of, tell
from holdfast.sim.report.tables import log_of, options_of, trace_of
from holdfast.sim.report.text import clock, count, length, plain
from holdfast.sim.report.timeline import (
    labels_of,
    legend_of,
    overview_of,
    timeline_of,
    title_of,
    window_of,
)
from holdfast.sim.runner import Job, command_of
from holdfast.sim.violations import CHECKS

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.sim.cases import Case
    from holdfast.sim.report.story import Story
    from holdfast.sim.run import Result
    from holdfast.sim.world import World

CASE_FILE: Final = "FILE"


def write_report(
    path: Path,
    case: Case,
    result: Result,
    world: World,
    difference: str = "",
    case_file: str = CASE_FILE,
) -> None:
    """Write the page about a world in which a check failed.

    Args:
      path: Where to.
      case: What was run.
      result: What became of it; holds the violation.
      world: The world itself, after its end.
      difference: The first difference to the nearest world that passes, if one is known.
      case_file: Where the case lies, for the command that repeats it.
    """
    path.write_text(page_of(case, result, world, difference, case_file), encoding="utf-8")


def page_of(
    case: Case, result: Result, world: World, difference: str = "", case_file: str = CASE_FILE
) -> str:
    """The page as HTML; see :func:`write_report`.

    Raises:
      ValueError: No check failed in that world.
    """
    violation = result.violation
    if violation is None:
        raise ValueError("no check failed in this world: there is nothing to report")
    story = tell(world, violation, result.virtual_ms)
    script = _asset("page.js")
    return Template(_asset("page.html")).substitute(
        script=script,
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        style=_asset("page.css"),
        check=plain(violation.check),
        sentence=plain(CHECKS.get(violation.check, "")),
        seen=plain(violation.details),
        seen_inputs=" ".join(map(str, story.violated_inputs)),
        seen_event="" if story.seen is None else story.seen,
        seen_at=plain(_seen_at(story)),
        facts=_facts(case, result, story),
        commands=_commands(case, case_file),
        difference=f"<h2>First difference</h2><pre>{_lines(difference)}</pre>"
        if difference
        else "",
        window=window_of(story),
        legend=legend_of(),
        overview=overview_of(story),
        labels=labels_of(story),
        timeline=timeline_of(story, violation.check),
        log="".join(
            log_of(story, name, history, world.owners) for name, history in books_of(world).items()
        ),
        options=options_of(world.options),
        trace=trace_of(story),
    )


def _asset(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _lines(text: str) -> str:
    return "\n".join(plain(line) for line in text.splitlines())


def _seen_at(story: Story) -> str:
    """The event at which it was seen, or when, if that was after the last one."""
    for event in story.events:
        if event.number == story.seen:
            return title_of(event, story)
    return f"{clock(story.end_ms - story.start_ms)}, after the last event"


def _facts(case: Case, result: Result, story: Story) -> str:
    groups = "all" if set(case.groups) == set(FAULT_GROUPS) else ", ".join(case.groups) or "none"
    told = SCENARIOS.get(case.scenario, "")
    facts = {
        "seed": str(case.seed),
        "scenario": f"{case.scenario}: {told}",
        "fault groups": groups,
        "what happened": f"{count(result.events, 'event')}, of them {count(story.faults, 'fault')}",
        "time in the world": f"{length(result.virtual_ms)} ({clock(result.virtual_ms)})",
        "customers' commands": f"{result.asked:,} decided, {result.accepted:,} of them accepted",
        "trace": result.digest,
    }
    if case.why and (result.violation is None or result.violation.details not in case.why):
        facts = {"about": case.why, **facts}
    return "".join(f"<dt>{name}</dt><dd>{plain(value)}</dd>" for name, value in facts.items())


def _commands(case: Case, case_file: str) -> str:
    """What repeats this very world, and what runs its seed as it was drawn."""
    if case.changes or case.tape is not None:
        seeds = command_of(Job(case.seed, case.scenario))
        told = "the seed that it was cut out of, with every group of faults"
    else:
        seeds = command_of(Job(case.seed, case.scenario, case.groups))
        told = "the same, by its seed"
    commands = ((f"holdfast sim --replay {case_file}", "this world"), (seeds, told))
    return "".join(
        f'<li><code class="command">{plain(command)}</code> <span>{about}</span></li>'
        for command, about in commands
    )
