"""Cases: worlds kept as files, to be run again.

A case says all that decides a world: its seed, scenario and fault groups, the keyed draws that differ
from what the seed gives, and the tape of the schedule. The shrinker writes one for each failure. A
file put into ``tests/sim/cases`` is a regression test: from then on every check must hold in its world.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from holdfast.sim.options import FAULT_GROUPS, SCENARIOS
from holdfast.sim.run import run_world
from holdfast.sim.violations import CHECKS

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.sim.run import Result
    from holdfast.sim.world import World

Value = Annotated[int, msgspec.Meta(ge=0)]

_NUMBERS: Final = re.compile(r"\[\n[\d,\s]+\]")  # no string of JSON holds a line break
_DRAW: Final = re.compile(r"[^(]+\(.*\)", re.DOTALL)


class CaseError(ValueError):
    """A file holds no case. The message is a sentence that names the file and what is wrong."""


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One world.

    Attributes:
      seed: As everywhere.
      scenario: One of ``SCENARIOS``.
      groups: Fault groups that may happen.
      changes: Values of keyed draws by name, instead of those that the seed gives.
      tape: Values of the scheduling draws, going on with zeros; None draws them from the seed.
      check: The check that fails, or failed when the case was found; "" for none.
      why: What the case is about, in a sentence.
    """

    seed: int
    scenario: str
    groups: tuple[str, ...] = FAULT_GROUPS
    changes: dict[str, Value] = {}
    tape: tuple[Value, ...] | None = None
    check: str = ""
    why: str = ""


class Size(msgspec.Struct, frozen=True):
    """How much happens in a world.

    Attributes:
      client_events: Commands and other entries that producers sent; repeats for want of an answer
        count once.
      faults: What befell processes, wires, the server and the provider until the faults stopped.
        What a person restarts after that is none; an outage of the provider, or a connection that is
        cut off, is one, however many calls it befalls.
      deviations: How often the schedule took another task than the one that waited longest.
    """

    client_events: int
    faults: int
    deviations: int

    def __str__(self) -> str:
        return (
            f"{self.client_events} client events, {self.faults} faults, "
            f"{self.deviations} schedule deviations"
        )


def run_case(case: Case) -> tuple[Result, World]:
    """Run the world of *case* to its end."""
    return run_world(case.seed, case.scenario, case.groups, case.tape, case.changes)


def size_of(world: World) -> Size:
    """How much happened in *world*, which has ended."""
    deviations = sum(1 for value in world.draws.schedule_tape() if value)
    return Size(world.crowd.sent, _faults(world), deviations)


def _faults(world: World) -> int:
    """How many faults there were until the world healed; one that befell many calls is one."""
    faults: dict[tuple[object, ...], None] = {}
    lines = world.trace.lines
    end = next((at for at, line in enumerate(lines) if line[1:3] == ("world", "heal")), len(lines))
    for at in world.trace.faults:
        ms, _, what, details = lines[at]
        fault: tuple[object, ...] = (at,)
        if what == "outage":
            fault = what, *(one for one in world.options.provider.outages if one[0] <= ms < one[1])
        elif what == "partition":
            fault = what, details.partition(" ")[0]  # whose connection it is
        if at < end:
            faults[fault] = None
    return len(faults)


def unused(case: Case, world: World) -> list[str]:
    """The changes of *case* that no draw of its *world* asked for: it may be of another version."""
    made = {name for name, _, _ in world.draws.tape}
    return [name for name in case.changes if name not in made]


def read_case(path: Path) -> Case:
    """The case in a file.

    Raises:
      CaseError: There is none.
    """
    try:
        case = msgspec.json.decode(path.read_bytes(), type=Case)
    except OSError as error:
        raise CaseError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise CaseError(f"{path} is no case: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CaseError(f"{path} is not JSON: {error}") from None
    if case.scenario not in SCENARIOS:
        raise CaseError(f"{path}: there is no scenario {case.scenario!r}; see 'holdfast sim list'")
    for group in case.groups:
        if group not in FAULT_GROUPS:
            raise CaseError(f"{path}: there is no fault group {group!r}; see 'holdfast sim list'")
    if case.check and case.check not in CHECKS:
        raise CaseError(f"{path}: there is no check {case.check!r}; see 'holdfast sim list'")
    for name in case.changes:
        if not _DRAW.fullmatch(name):
            raise CaseError(f"{path}: {name!r} is no draw; they look like \"drop('reply', 5)\"")
    return case


def write_case(path: Path, case: Case) -> None:
    """Write *case* as JSON for people; zeros at the end of its tape go without saying."""
    text = msgspec.json.format(msgspec.json.encode(trimmed(case)), indent=2).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_NUMBERS.sub(_on_one_line, text) + "\n", encoding="utf-8")


def trimmed(case: Case) -> Case:
    """The same case without the zeros at the end of its tape."""
    if case.tape is None:
        return case
    end = len(case.tape)
    while end and not case.tape[end - 1]:
        end -= 1
    return msgspec.structs.replace(case, tape=case.tape[:end])


def _on_one_line(numbers: re.Match[str]) -> str:
    return f"[{', '.join(numbers[0].strip('[]').replace(',', ' ').split())}]"
