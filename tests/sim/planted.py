"""Bugs for tier 2 to catch: where they are looked for, what catches them, and the table of it.

:func:`hunt` plants a bug of ``tests.sim.bugs`` and runs world after world of its scenario, every fault
on, until a check fails. ``python -m tests.sim.planted`` does so for all of them, writes what it found to
``planted.json`` beside this file and its table to ``docs/planted.md``.

    python -m tests.sim.planted [NAME…] [--seeds-max 2000] [--jobs 2] [--all] [--json]

Worlds change whenever anything about them does, and with them the seeds: then it is run again.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import statistics
import sys
from functools import partial
from pathlib import Path

import msgspec

from holdfast.sim import trace
from holdfast.sim.run import run_world

from .bugs import (  # noqa: TID251 - our own package sim
    Bug,
    commits,
    copies,
    decisions,
    executors,
    restores,
    standbys,
    tools,
)

PLANTED: dict[str, Bug] = {
    bug.name: bug
    for bug in (
        *decisions.BUGS,
        *commits.BUGS,
        *copies.BUGS,
        *executors.BUGS,
        *restores.BUGS,
        *standbys.BUGS,
        *tools.BUGS,
    )
}

SEEDS_MAX = 2_000
"""Worlds in which a bug is looked for where nobody says otherwise."""

EVENTS_MAX = 30_000
"""Events after which a world with a bug is taken to go round in circles; good ones have two thirds at most."""

FOUND = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[2] / "docs" / "planted.md"
BEGIN, END = "<!-- tier 2 begins -->\n", "<!-- tier 2 ends -->\n"

_COLLECT_EVERY = 10
"""Worlds between two collections of garbage, which a world turns off."""


class Row(msgspec.Struct, frozen=True):
    """What became of looking for a bug.

    Attributes:
      worlds: How many were run, seeds 0 on; in the last one the check failed.
      check: Which; "" where none did.
      details: What was seen.
    """

    bug: str
    scenario: str
    worlds: int
    check: str = ""
    details: str = ""

    @property
    def seed(self) -> int:
        """That of the last world."""
        return self.worlds - 1


def look(bug: Bug, seed: int) -> tuple[str, str]:
    """Run the world of *seed* with *bug*: the check that failed and what was seen, or two ""."""
    events_max = trace.EVENTS_MAX
    trace.EVENTS_MAX = EVENTS_MAX
    try:
        with bug.planted():
            violation = run_world(seed, bug.scenario)[0].violation
    finally:
        trace.EVENTS_MAX = events_max
    return ("", "") if violation is None else (violation.check, violation.details)


def hunt(bug: Bug, seeds_max: int = SEEDS_MAX) -> Row:
    """Run seeds from 0 on until a check fails, *seeds_max* of them at most.

    A world that fails without the bug too says nothing of it.
    """
    for seed in range(seeds_max):
        check, details = look(bug, seed)
        if check and run_world(seed, bug.scenario)[0].violation is None:
            return Row(bug.name, bug.scenario, seed + 1, check, _short(details))
        if seed % _COLLECT_EVERY == 0:
            gc.collect()
    return Row(bug.name, bug.scenario, seeds_max)


def _short(details: str) -> str:
    """The beginning of *details*, without the folder in which this runs."""
    text = details.replace(f"{Path.cwd()}{os.sep}", "")
    return text if len(text) <= 160 else f"{text[:160]}…"


def _hunt_name(name: str, seeds_max: int) -> Row:
    try:
        return hunt(PLANTED[name], seeds_max)
    except Exception as error:  # a check of the simulator's own broke, which no bug may do
        return Row(name, PLANTED[name].scenario, 0, "", f"{type(error).__name__}: {error}")


# --- what was found ---------------------------------------------------------------------------------


def read_rows() -> dict[str, Row]:
    """What was found last, by bug."""
    rows = msgspec.json.decode(FOUND.read_bytes(), type=list[Row]) if FOUND.exists() else []
    return {row.bug: row for row in rows if row.bug in PLANTED}


def write_rows(rows: dict[str, Row]) -> None:
    """Keep what was found, and put its table on the page."""
    ordered = [rows[name] for name in PLANTED if name in rows]
    FOUND.write_bytes(msgspec.json.format(msgspec.json.encode(ordered), indent=1) + b"\n")
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{section(rows)}{END}{rest.split(END)[1]}", encoding="utf-8")


def figures(rows: dict[str, Row]) -> tuple[int, int, float]:
    """How many bugs can do harm, how many of those are caught, and the median of worlds it took."""
    harmful = [rows[name] for name, bug in PLANTED.items() if not bug.harmless and name in rows]
    caught = [row.worlds for row in harmful if row.check]
    return len(harmful), len(caught), statistics.median(caught) if caught else 0


def section(rows: dict[str, Row]) -> str:
    """What the page says of tier 2 between its marks."""
    harmful, caught, median = figures(rows)
    share = 100 * caught / max(harmful, 1)
    lines = [
        f"{caught} of {harmful} are caught ({share:.0f} %), half of them within {median:g} worlds; "
        f"{sum(row.worlds > 200 for row in rows.values() if row.check)} took more than 200.",
        "",
        "| about | bug | what it does | looked for in | caught by | in world |",
        "|---|---|---|---|---|---:|",
    ]
    harmless: list[str] = []
    rare: list[str] = []
    for name, bug in PLANTED.items():
        row = rows.get(name)
        if row is None:
            continue
        begin = f"| {bug.group} | `{name}` | {bug.does} | `{bug.scenario}` |"
        if bug.harmless:
            harmless.append(f"| `{name}` | {bug.does} | {bug.harmless} | {row.worlds:,} |")
        elif row.check:
            lines.append(f"{begin} {row.check} | {row.worlds:,} |")
        else:
            lines.append(f"{begin} – | not in {row.worlds:,} |")
            rare.append(f"- `{name}`: {bug.rare or 'not explained yet.'}")
    if rare:
        lines += ["", "Not caught, and why:", "", *rare]
    lines += [
        "",
        "These are no bugs as long as the rest is right, and no world shows them:",
        "",
        "| change | what it does | why nothing goes wrong | worlds |",
        "|---|---|---|---:|",
        *harmless,
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Look for bugs, keep what was found; 1 where one that does harm was not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.planted", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which bugs; all if none is named")
    parser.add_argument("--seeds-max", type=int, default=SEEDS_MAX, help="worlds for each, at most")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument(
        "--all",
        action="store_true",
        help="those too that are known to be harmless, or hardly ever seen",
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    given = parser.parse_args()
    rows = read_rows()
    names: list[str] = given.names or [
        name
        for name, bug in PLANTED.items()
        if given.all or not (bug.harmless or bug.rare) or name not in rows
    ]
    found: dict[str, Row] = {}
    work = partial(_hunt_name, seeds_max=given.seeds_max)
    with multiprocessing.get_context("spawn").Pool(given.jobs) as pool:
        for row in pool.imap_unordered(work, names):
            found[row.bug] = rows[row.bug] = row
            what = row.check or row.details or "not caught"
            sys.stderr.write(f"{row.bug}: {what}, {row.worlds} worlds\n")
    write_rows(rows)
    if given.json:
        sys.stdout.write(msgspec.json.encode(list(found.values())).decode() + "\n")
    else:
        sys.stdout.write(section(rows))
    return int(any(not row.check and not PLANTED[row.bug].harmless for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
