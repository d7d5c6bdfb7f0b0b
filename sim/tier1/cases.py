"""Cases of tier 1: inputs kept in a file, to be put on trial again.

A run is told from its seed as long as nobody changes how inputs are drawn. A case is told from itself:
it lists what came in, step by step, each under the id it had, and how calls fared that did not fare
well. So any step can be left out and the others keep their ids, which is what the shrinker does, and
a file put into ``tests/sim/tier1/cases`` stays a regression test: from then on every check must hold.

What the provider answers is not in the file. It follows from what the machine calls for in this very
replay, so that no list of steps makes the provider lie. An answer to what was never asked, and the
death of a process before it read anything, are passed over.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec.structs import replace

from holdfast.actors.booking import messages as m
from holdfast.sim.tier1.checks import Check, ViolationError
from holdfast.sim.tier1.trial import ANSWER_MS, Fate, Options, Past, Trial, guarded
from holdfast.sim.tier1.volume import Run

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.sim.tier1.scenarios import Scenario
    from holdfast.sim.tier1.till import Status

Count = Annotated[int, msgspec.Meta(ge=0)]


class CaseError(ValueError):
    """A file holds no case. The message is a sentence that names the file and what is wrong."""


class _Step(
    msgspec.Struct, frozen=True, tag_field="step", forbid_unknown_fields=True, omit_defaults=True
):
    """One input.

    Attributes:
      at_ms: When it comes in.
      number: Of the operation; with ``at_ms`` the input's id.
    """

    at_ms: Count
    number: Count


class Ask(_Step, frozen=True, tag="ask"):
    """A command comes in: one of the four. The rest is as in ``Asked``."""

    key: str
    by: str
    digest: str
    define_practice: m.DefinePractice | None = None
    request_slot: m.RequestSlot | None = None
    request_auto: m.RequestAuto | None = None
    cancel: m.Cancel | None = None

    def asked(self) -> m.Asked:
        """The input's message.

        Raises:
          CaseError: No command is named.
        """
        command = self.define_practice or self.request_slot or self.request_auto or self.cancel
        if command is None:
            raise CaseError(f"step {self.number} asks for nothing")
        return m.Asked(command, self.key, self.by, self.digest)


class Answer(_Step, frozen=True, tag="answer"):
    """The provider's answer to an action's call comes in.

    Attributes:
      again: A takeover asks again under the same id; this is the answer to that, from 1.
    """

    action: str
    again: Count = 0


class Effect(_Step, frozen=True, tag="effect"):
    """An action's call takes its effect late; no input."""

    action: str
    again: Count = 0


class Report(_Step, frozen=True, tag="report"):
    """A message has been delivered."""

    report: m.DeliveryReport


class Tick(_Step, frozen=True, tag="tick"):
    """A timer is due."""


class Kill(_Step, frozen=True, tag="kill"):
    """The process dies and another one takes the book over."""


Step = Ask | Answer | Effect | Report | Tick | Kill


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs that fail a check, or failed it once.

    Attributes:
      check: The check that fails, or failed when the case was found.
      why: What it saw, or what the case is about.
      steps: What came in, in order of time; then comes the end phase.
      fates: How calls fared, by action; those that are not named fared well.
      scenario: Where it was found; like the rest of this only for people.
    """

    check: Check
    why: str
    steps: tuple[Step, ...]
    fates: dict[str, Fate] = {}
    scenario: str = ""
    seed: int = 0
    operations: int = 0
    tier: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1


# --- playing --------------------------------------------------------------------------------------


class Replay(Trial):
    """A case on trial.

    Args:
      case: What comes in.
      closely: Look at everything after each step; else only where the check of *case* looks.
    """

    def __init__(self, case: Case, closely: bool) -> None:
        model = closely or case.check == "model"
        options = Options(0, scan_every=int(closely), audit_every=int(closely), model=model)
        super().__init__(options, case.steps[0].at_ms if case.steps else 0)
        self._case = case
        self._number = 0
        self._past: dict[tuple[str, str, str], Past] = {}
        self._asked: dict[str, list[tuple[m.PaymentAction, Status]]] = {}

    def run(self) -> None:
        """All of it, and the end phase."""
        steps = self._case.steps
        for step in steps:
            self.now, self._number = step.at_ms, step.number
            if step is steps[-1] and self._case.check == "audit":
                self.audit_next()
            self._take(step)
        self.scan()
        for action_id in list(self.book.in_flight):
            action, status = self._asked[action_id][-1]
            self._later(ANSWER_MS, action_id, action.payment, status)
        self.end()

    def input_id(self) -> str:
        """The id that the input had when the case was found."""
        if self.ending:
            self._number += 1
        return f"{self.now}-{self._number}"

    def call(self, action_id: str, action: m.PaymentAction) -> None:
        """A call fares as it did."""
        if self.ending:
            super().call(action_id, action)
            return
        status = self.provide(action, self._case.fates.get(action_id, _DULL))
        self._asked.setdefault(action_id, []).append((action, status))

    def _take(self, step: Step) -> None:
        if isinstance(step, Ask):
            self._ask(step.asked())
        elif isinstance(step, Answer | Effect):
            asked = self._asked.get(step.action, ())
            if step.again >= len(asked):
                return
            action, status = asked[step.again]
            if isinstance(step, Effect):
                self.till.do(action, self._case.fates.get(step.action, _DULL).declined)
            else:
                self.answer(step.action, m.PaymentResult(step.action, action.payment, status))
        elif isinstance(step, Report):
            self.report(step.report)
        elif isinstance(step, Tick):
            self.tick()
        else:
            self.kill()

    def _ask(self, asked: m.Asked) -> None:
        name = (asked.by, type(asked.command).__name__, asked.key)
        past = self._past.get(name)
        kept = self.remember(asked, past, self.ask(asked, past))
        if kept is not None:
            self._past[name] = kept


_DULL = Fate()


def replay(case: Case, closely: bool = True) -> None:
    """Put a case on trial.

    Args:
      case: What comes in.
      closely: Every check looks after every step, the model too; else only those that look anyway,
        and that of the case.

    Raises:
      ViolationError: A check fails.
    """
    playing = Replay(case, closely)
    with guarded(playing):
        playing.run()


# --- recording ------------------------------------------------------------------------------------


_FIELDS: Final[dict[type, str]] = {
    m.DefinePractice: "define_practice",
    m.RequestSlot: "request_slot",
    m.RequestAuto: "request_auto",
    m.Cancel: "cancel",
}


class Recorder(Run):
    """A run that writes down what comes in, so that it can be played again."""

    def __init__(self, scenario: Scenario, seed: int, options: Options) -> None:
        super().__init__(scenario, seed, options)
        self.steps: list[Step] = []
        self.fates: dict[str, Fate] = {}
        self._calls: dict[str, int] = {}
        self._agains: dict[int, int] = {}  # by the order in which answers and effects were planned

    def ask(self, asked: m.Asked, past: Past | None) -> m.Outcome:
        """Write the command down."""
        step = Ask(self.now, self.operation, asked.key, asked.by, asked.digest)
        self.steps.append(replace(step, **{_FIELDS[type(asked.command)]: asked.command}))
        return super().ask(asked, past)

    def report(self, report: m.DeliveryReport) -> None:
        """Write the report down."""
        self.steps.append(Report(self.now, self.operation, report))
        super().report(report)

    def tick(self) -> None:
        """Write the tick down."""
        self.steps.append(Tick(self.now, self.operation))
        super().tick()

    def kill(self) -> None:
        """Write the death down."""
        self.steps.append(Kill(self.now, self.operation))
        super().kill()

    def call(self, action_id: str, action: m.PaymentAction) -> None:
        """Write down how the call fares, and which of the calls of this id it is."""
        if not self.ending and self.fate(action_id) != _DULL:
            self.fates[action_id] = self.fate(action_id)
        again = self._calls.get(action_id, 0)
        self._calls[action_id] = again + 1
        before = self._order
        super().call(action_id, action)
        self._agains.update(dict.fromkeys(range(before + 1, self._order + 1), again))

    def _arrive(self) -> None:
        _, order, action_id, result, _ = self._waiting[0]
        kind = Effect if result is None else Answer
        self.steps.append(kind(self.now, self.operation, action_id, self._agains[order]))
        super()._arrive()


def record(scenario: Scenario, seed: int, options: Options) -> Case | None:
    """Run a seed again and write down what came in up to its violation; None where there is none."""
    recorder = Recorder(scenario, seed, options)
    try:
        with guarded(recorder):
            recorder.run()
    except ViolationError as error:
        steps, fates = tuple(recorder.steps), recorder.fates
        return Case(error.check, error.what, steps, fates, scenario.name, seed, options.operations)
    return None


# --- files ----------------------------------------------------------------------------------------


def read_case(path: Path) -> Case:
    """The case in a file.

    Raises:
      CaseError: There is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Case)
    except OSError as error:
        raise CaseError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise CaseError(f"{path} is no case of tier 1: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CaseError(f"{path} is not JSON: {error}") from None


def write_case(path: Path, case: Case) -> None:
    """Write *case* as JSON for people, a step a line."""
    fields = msgspec.to_builtins(case)
    steps = ",\n".join(f"    {_json(step)}" for step in fields["steps"])
    lines = [
        f'  "{name}": ' + (f"[\n{steps}\n  ]" if name == "steps" else _json(value))
        for name, value in fields.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
