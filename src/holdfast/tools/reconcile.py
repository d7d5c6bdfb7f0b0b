"""Money at the provider that no book wants: found, and given back.

After a failover lost the tail of a log, the provider may hold money for requests that never were. The
ledger is read first and the log after it, so a payment that the ledger has and the book does not know
was asked for by an input that is gone, or belongs to a booking that has left the book.

- ``authorized``, and the book does not know it: an orphan; its hold is released (``void``).
- ``captured``, and the log has no such request either: an orphan; it is given back (``refund``) only
  where that was asked for. Captured payments of bookings that have left the book are as they should be.
- Of a request later than all that was decided here: left alone. Whatever a failover lost is before the
  takeover that comes after it. What is beyond may be wanted by a log of which the server that was asked
  knows nothing, if it is an old primary that lives on: there nobody decides. A book that was lost whole,
  so that nobody ever took it over, has no such hope.
- The book says ``authorized``, say, and the ledger ``voided``: what undid it, a cancellation mostly, is
  gone, and the booking stands again without its money. The book is told, and does not believe it: it
  asks the provider itself.

Whatever is found is looked for once more after a while: what is under way gets time to arrive. Each
call has an idempotency key of its own, so that doing it twice does it once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from holdfast.actors.booking import payments, views, wire
from holdfast.actors.booking.messages import Asked, PaymentResult
from holdfast.actors.ports import NewInput
from holdfast.machine import Normal
from holdfast.tools.errors import ToolError
from holdfast.tools.history import look_until_steady
from holdfast.tools.sources import decided_to
from holdfast.transport.codec import decode_input
from holdfast.transport.keys import parse_id

if TYPE_CHECKING:
    from holdfast.actors.booking.runner import BookRunner
    from holdfast.actors.booking.views import PaymentView
    from holdfast.actors.ports import CommitRecord, Log, ProviderAnswer
    from holdfast.tools.ports import Operator
    from holdfast.transport.operator import RawEntry

RELEASED: Final = ("voided", "refunded")

_ACTION: Final = "reconcile"
"""In the place of the action that a payment's result is of: there was none."""

_BY: Final = "service:reconcile"


class Provider(Protocol):
    """What is asked of the provider: a part of ``holdfast.actors.ports.Provider``."""

    async def ledger(self, prefix: str = "") -> dict[str, ProviderAnswer]:
        """See there."""
        ...

    async def void(self, payment: str, key: str) -> ProviderAnswer:
        """See there."""
        ...

    async def refund(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        """See there."""
        ...


class Orphan(msgspec.Struct, frozen=True):
    """A payment at the provider that no book wants.

    Attributes:
      payment: Our id of it, with the book's name before it.
      status: ``authorized`` or ``captured``, before anything was done.
      why: One sentence.
      now: Its status after it was released or refunded; "" where nothing was done.
    """

    payment: str
    status: str
    amount_cents: int
    reference: str
    why: str
    now: str = ""


class Differing(msgspec.Struct, frozen=True):
    """A payment that the book knows otherwise than the provider does.

    Attributes:
      payment: Our id of it, with the book's name before it.
      booking: Whose it is.
      status: At the provider.
      in_book: As the book knows it.
      told: Whether the book was told to ask the provider.
    """

    payment: str
    booking: str
    status: str
    in_book: str
    told: bool = False


class Reconciled(msgspec.Struct, frozen=True):
    """What the comparison found.

    Attributes:
      position: The last input that was looked at.
      payments: How many the provider has of this book.
      orphans: Those that nobody wants.
      differing: Those that the book knows otherwise.
      released: How many were released or refunded.
    """

    book: str
    position: str
    payments: int
    orphans: list[Orphan]
    differing: list[Differing] = []
    released: int = 0

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be done."""
        return self.released == len(self.orphans) and all(one.told for one in self.differing)


async def find_orphans(log: Log, operator: Operator, provider: Provider, book: str) -> Reconciled:
    """Compare the provider's ledger with *book*. Changes nothing.

    Raises:
      ProviderUnavailableError: It does not answer.
      LogError: The log cannot be read.
      HistoryChangedError: The server failed over again and again.
    """
    look = partial(_find_orphans, log, operator, provider, book)
    return await look_until_steady(operator, book, look)


async def _find_orphans(log: Log, operator: Operator, provider: Provider, book: str) -> Reconciled:
    ledger = await provider.ledger(f"{book}:")
    record = await log.read_record(book)
    runner = await _decided(log, book, record)
    known = {payment.payment for payment in views.payments(runner.state)}
    differing = [
        Differing(reference, payment.booking, ledger[reference].status, payment.observed)
        for payment in views.payments(runner.state)
        if (reference := f"{book}:{payment.payment}") in ledger
        and differs(payment, ledger[reference])
    ]
    orphans: list[Orphan] = []
    for payment, answer in ledger.items():
        name = payment.removeprefix(f"{book}:")
        if name in known or answer.status not in ("authorized", "captured"):
            continue
        asked_at = _asked_at(name)
        if record.owner and asked_at is not None and asked_at > parse_id(record.position):
            continue
        why = await _why(log, operator, book, name, answer)
        if why:
            orphans.append(
                Orphan(payment, answer.status, answer.amount_cents, answer.reference, why)
            )
    return Reconciled(book, runner.position, len(ledger), orphans, differing)


async def _decided(log: Log, book: str, record: CommitRecord) -> BookRunner:
    """*book*, which was decided up to *record*, as of its last input.

    Raises:
      ToolError: Its inputs are not those that were decided: nobody could tell what it wants.
    """
    facts = await log.facts(book, "inputs")
    runner = await decided_to(log, book, facts.last_id, check=True)
    if parse_id(runner.position) < max(parse_id(record.position), parse_id(facts.last_id)):
        raise ToolError(
            f"the inputs of {book} end at {runner.position}, and it was decided up to "
            f"{record.position}: bring them back first, for without them all its money looks unwanted"
        )
    return runner


def differs(payment: PaymentView, answer: ProviderAnswer) -> bool:
    """Whether the provider knows *payment*, to which nothing is being done, otherwise than the book."""
    if not payment.at_rest or answer.status == payment.observed:
        return False
    # What was never granted, or is over, may be called by another name.
    return payment.observed not in ("none", "expired") or answer.status not in (
        "voided",
        "declined",
    )


async def release(
    provider: Provider, orphans: list[Orphan], *, refund: bool, attempt: str
) -> list[Orphan]:
    """Release what is held, and with *refund* give back what was taken. Moves money.

    Args:
      provider: Who moves it.
      orphans: What nobody wants.
      refund: Whether to give back what was taken.
      attempt: Tells this time from others: a provider remembers a refusal under its key, so what was
        refused is asked for once more under a key with this in it.

    Raises:
      ProviderUnavailableError: It does not answer: do it again, nothing is done twice.
    """
    done: list[Orphan] = []
    for orphan in orphans:
        now = ""
        if orphan.status == "authorized" or refund:
            now = await _release(provider, orphan, "")
            if now not in RELEASED:
                now = await _release(provider, orphan, f":{attempt}")
        done.append(msgspec.structs.replace(orphan, now=now))
    return done


async def _release(provider: Provider, orphan: Orphan, attempt: str) -> str:
    """The status of *orphan* after a call under the key that is the *attempt*'s."""
    payment = orphan.payment
    if orphan.status == "authorized":
        return (await provider.void(payment, f"reconcile-void:{payment}{attempt}")).status
    key = f"reconcile-refund:{payment}{attempt}"
    return (await provider.refund(payment, orphan.amount_cents, key)).status


async def tell(log: Log, book: str, differing: list[Differing]) -> list[Differing]:
    """Let *book* know what the provider says, so that it asks for itself. Appends to the log.

    Raises:
      LogUnavailableError: Some may have been told: do it again, it is no harm to be told twice.
    """
    results = [
        PaymentResult(_ACTION, one.payment.removeprefix(f"{book}:"), one.status)  # type: ignore[arg-type]
        for one in differing
    ]
    await log.append(
        book,
        [NewInput("payment_result", wire.encode_message(result), by=_BY) for result in results],
    )
    return [msgspec.structs.replace(one, told=True) for one in differing]


async def reconcile(
    log: Log,
    operator: Operator,
    provider: Provider,
    first: Reconciled,
    *,
    wait_s: float,
    orphans_max: int,
    refund: bool,
) -> Reconciled:
    """Release the orphans of *first* that are still there after *wait_s*, and tell the book what differs.

    Moves money.

    Raises:
      ToolError: There are more than *orphans_max*: rather than lost requests, that is another service
        with the same book's name at the same provider.
    """
    if len(first.orphans) > orphans_max:
        raise ToolError(
            f"{len(first.orphans)} orphans are more than {orphans_max}: make sure that no other "
            f"service has a book {first.book} at this provider, then say --most {len(first.orphans)}"
        )
    await trio.sleep(wait_s)
    again = await find_orphans(log, operator, provider, first.book)
    before = {orphan.payment for orphan in first.orphans}
    still = [orphan for orphan in again.orphans if orphan.payment in before]
    attempt = str(await operator.now_ms())
    done = await release(provider, still, refund=refund, attempt=attempt)
    differed = {one.payment for one in first.differing}
    told = await tell(log, first.book, [one for one in again.differing if one.payment in differed])
    return msgspec.structs.replace(
        again,
        orphans=done,
        differing=told,
        released=sum(orphan.now in RELEASED for orphan in done),
    )


async def _why(log: Log, operator: Operator, book: str, name: str, answer: ProviderAnswer) -> str:
    """Why nobody wants the payment *name*, which the book does not know; "" if somebody does."""
    asked = await _asked(log, operator, book, name)
    if asked is False:
        return "the log has no request of it"
    if answer.status == "captured":
        return ""  # of a booking that is over, or too old to say
    return "its booking has left the book" if asked else "the log no longer tells of its request"


async def _asked(log: Log, operator: Operator, book: str, name: str) -> bool | None:
    """Whether the log has the request that a payment is named after; None where it was trimmed."""
    wanted = _asked_at(name)
    if wanted is None:
        return False
    request = payments.request_of(name)
    outcome = await operator.read_one(book, "outcomes", request)
    if outcome is not None:
        if not any(f'"b{request}"'.encode() in field for field in outcome.fields):
            return False
        entry = await operator.read_one(book, "inputs", request)
        return entry is None or name == _asks_for(entry)
    facts = await log.facts(book, "outcomes")
    trimmed = facts.added != facts.length and wanted < parse_id(facts.first_id or facts.last_id)
    return None if trimmed else False


def _asks_for(entry: RawEntry) -> str:
    """The name of the payment that the input *entry* asks for; "" where somebody made it no request."""
    try:
        decoded = wire.decode(decode_input(entry.id.encode(), list(entry.fields)))
    except wire.WireError:
        return ""
    if isinstance(decoded, Normal) and isinstance(decoded.message, Asked):
        return payments.name_of(entry.id, decoded.message.digest)
    return ""


def _asked_at(name: str) -> tuple[int, int] | None:
    """The id of the request that the payment *name* is named after; None where it is after none."""
    try:
        return parse_id(payments.request_of(name))
    except ValueError:
        return None
