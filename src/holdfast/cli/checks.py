"""Whether a book holds: what ``check`` says, and ``import`` and ``demo`` at their end.

Nothing the service says of itself is believed: the log is decided anew from its first input, and
what comes out is compared with everything that was written, and with the provider.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from holdfast.actors.booking.invariants import full_scan
from holdfast.actors.booking.messages import PaymentAction, Preauthorize
from holdfast.actors.booking.runner import BookRunner
from holdfast.actors.booking.views import calendar_digest, payments
from holdfast.actors.ports import GENESIS
from holdfast.cli.follow import catch_up
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.actors.booking.runner import Decided
    from holdfast.actors.booking.views import PaymentView
    from holdfast.actors.ports import InputEntry, Log, OutcomeEntry, Provider, ProviderAnswer

PROBLEMS_MAX: Final = 20
"""Most problems told of one kind; the rest is counted."""

LEDGER_TRIES_MAX: Final = 20
"""So often the ledger is read again while the book goes on meanwhile."""


WITHOUT_MONEY: Final = ("voided", "refunded", "declined")
"""What a payment is that holds no money, or no longer."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was checked.

    Attributes:
      name: ``invariants``, ``replay`` or ``ledger``.
      said: One sentence.
      problems: What does not hold; empty if all does.
    """

    name: str
    said: str
    problems: list[str] = []

    @property
    def holds(self) -> bool:
        """Whether all does."""
        return not self.problems


class Report(msgspec.Struct, frozen=True):
    """What a check of one book found.

    Attributes:
      position: Up to which input.
      digest: The hash chain's link there.
      calendar: Digest of the calendar alone.
      inputs: How many were decided anew.
    """

    book: str
    position: str
    digest: str
    calendar: str
    inputs: int
    findings: list[Finding]

    @property
    def holds(self) -> bool:
        """Whether everything does."""
        return all(finding.holds for finding in self.findings)


class Checker:
    """Checks one book.

    Args:
      log: Where it lies.
      provider: Who moved the money; None if nobody can be asked.
      book: Which.
      on_decided: Called with every input and its outcome.
    """

    def __init__(
        self,
        log: Log,
        provider: Provider | None,
        book: str,
        on_decided: Callable[[InputEntry, OutcomeEntry], None] | None = None,
    ) -> None:
        self._log = log
        self._provider = provider
        self._book = book
        self._on_decided = on_decided
        self._runner = BookRunner(book)
        self._decoder = msgspec.json.Decoder(PaymentAction)
        self._asked: dict[str, Preauthorize] = {}
        self._inputs = 0

    @property
    def runner(self) -> BookRunner:
        """The book as it was made anew."""
        return self._runner

    async def run(self) -> Report:
        """Check everything that there is to check."""
        replay = await self._replay()
        findings = [replay, self._invariants()]
        if self._provider is not None:
            findings.append(await self._ledger(self._provider))
        return Report(
            book=self._book,
            position=self._runner.position,
            digest=self._runner.digest,
            calendar=calendar_digest(self._runner.state),
            inputs=self._inputs,
            findings=findings,
        )

    # -- the log -----------------------------------------------------------

    async def _replay(self) -> Finding:
        """The log against the commit record and the outcomes."""
        facts = await self._log.facts(self._book, "inputs")
        since = "its first input"
        if facts.added != facts.length:
            snapshot = await self._log.read_snapshot(self._book)
            if snapshot is None:
                problem = "inputs were trimmed away and no snapshot is left to begin from"
                return Finding("replay", "The log cannot be replayed.", [problem])
            self._runner = BookRunner(self._book, snapshot)
            since = f"the snapshot at {snapshot.position}, since older inputs were trimmed"
        problems = await self._replay_to_record()
        said = (
            f"The log decided anew from {since} gives the same {self._inputs} outcomes, byte for "
            "byte, and the same digest."
            if not problems
            else f"The log decided anew from {since} does not give what was committed."
        )
        return Finding("replay", said, _bounded(problems))

    async def _replay_to_record(self) -> list[str]:
        """Go on to the position of the commit record as it is now; say what differs."""
        outcomes = await self._log.facts(self._book, "outcomes")  # first: what it has is committed
        record = await self._log.read_record(self._book)
        problems: list[str] = []
        if parse_id(outcomes.last_id) > parse_id(record.position):
            problems.append(
                f"the outcomes have had an entry {outcomes.last_id}, and the book is decided up to "
                f"{record.position}: somebody else writes to our keys, find out who"
            )
        position = self._runner.position

        async def compare(entries: Sequence[InputEntry], decided: Decided) -> None:
            nonlocal position
            written = await self._log.read_outcomes({self._book: position}, len(entries), 0)
            problems.extend(self._compare(entries, decided, written.get(self._book, [])))
            position = entries[-1].id

        await catch_up(self._log, self._book, self._runner, record.position, compare)
        if self._runner.position != record.position:
            problems.append(f"the record is at {record.position}, the log ends before it")
        elif self._runner.digest != record.digest and record.position != GENESIS:
            problems.append(
                f"at {record.position} the record's digest is {record.digest[:16]}…, "
                f"the replay's {self._runner.digest[:16]}…"
            )
        return problems

    def _compare(
        self, entries: Sequence[InputEntry], decided: Decided, written: Sequence[OutcomeEntry]
    ) -> list[str]:
        """What differs between the outcomes that were written and those decided anew."""
        self._inputs += len(entries)
        for action in decided.payments:
            message = self._decoder.decode(action.body)
            if isinstance(message, Preauthorize):
                self._asked[message.payment] = message
        problems: list[str] = []
        by_id = {outcome.id: outcome for outcome in written}
        for entry, outcome in zip(entries, decided.outcomes, strict=True):
            found = by_id.pop(entry.id, None)
            if found is None:
                problems.append(f"input {entry.id} ({entry.type}) has no outcome")
            elif found != outcome:
                problems.append(f"input {entry.id} ({entry.type}) has another outcome")
            if self._on_decided is not None:
                self._on_decided(entry, outcome)
        problems += [f"the outcome {other} is of no input" for other in by_id]
        return problems

    # -- the book ----------------------------------------------------------

    def _invariants(self) -> Finding:
        problems = full_scan(self._runner.state)
        said = "Every rule of the book holds." if not problems else "Rules of the book are broken."
        return Finding("invariants", said, _bounded(problems))

    # -- the money ---------------------------------------------------------

    async def _ledger(self, provider: Provider) -> Finding:
        """The provider's ledger against the book; what is under way gets a moment to arrive."""
        problems: list[str] = []
        said = ""
        for _ in range(LEDGER_TRIES_MAX):
            ledger = await provider.ledger(f"{self._book}:")
            said, problems = self._compare_ledger(ledger)
            record = await self._log.read_record(self._book)
            if not problems or record.position == self._runner.position:
                break
            # The ledger may be newer than the book as we know it: go on to the record.
            later = await self._replay_to_record()
            if later:
                said, problems = "What was committed while we compared differs.", later
                break
        return Finding("ledger", said, _bounded(problems))

    def _compare_ledger(self, ledger: dict[str, ProviderAnswer]) -> tuple[str, list[str]]:
        problems: list[str] = []
        under_way = 0
        cents = 0
        rest = {key.removeprefix(f"{self._book}:"): answer for key, answer in ledger.items()}
        count = len(rest)
        for payment in payments(self._runner.state):
            answer = rest.pop(payment.payment, None)
            if not payment.at_rest:
                under_way += 1
                continue
            problem = _differs(payment, answer)
            if problem:
                problems.append(f"payment {payment.payment} {problem}")
            elif answer is not None and answer.status == "authorized":
                cents += payment.amount_cents
        given_back = 0
        for name, answer in rest.items():
            if name not in self._asked and answer.status in WITHOUT_MONEY:
                given_back += 1  # as by 'holdfast reconcile'
            elif name not in self._asked:
                problems.append(
                    f"the provider has {name} ({answer.status}), which nobody asked for"
                )
            elif answer.status == "authorized":
                problems.append(f"the provider holds money for {name}, which has left the book")
        ours = count - given_back
        said = f"The provider's {ours} payments are the book's; {cents / 100:.2f} are on hold."
        if given_back:
            said += f" {given_back} that nobody asked for have no money any more."
        if under_way:
            said += f" {under_way} are under way."
        return said, problems


def _differs(payment: PaymentView, answer: ProviderAnswer | None) -> str:
    """How the provider's view of *payment* differs from the book's; "" if it does not."""
    if answer is None:
        known = payment.observed in ("none", "expired", "declined")
        return "" if known else f"is {payment.observed} in the book and unknown to the provider"
    if answer.status != payment.observed:
        if payment.observed in ("none", "expired") and answer.status in ("voided", "declined"):
            return ""
        return f"is {payment.observed} in the book and {answer.status} at the provider"
    if answer.amount_cents not in (0, payment.amount_cents):
        return f"is of {payment.amount_cents} in the book and {answer.amount_cents} at the provider"
    return ""


def _bounded(problems: list[str]) -> list[str]:
    if len(problems) <= PROBLEMS_MAX:
        return problems
    return [*problems[:PROBLEMS_MAX], f"and {len(problems) - PROBLEMS_MAX} more"]
