"""What must hold where nothing is left to do, and when that is.

Liveness is asked for after the faults have stopped: within a bounded time nothing may be left to do.
Then the provider's ledger must say of every payment what the book says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.actors.booking.book import AWAITING
from holdfast.actors.booking.payments import is_at_rest
from holdfast.transport.keys import format_id, parse_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.booking.book import Book, Booking
    from holdfast.actors.ports import ActionStream
    from holdfast.sim.checks import Checks
    from holdfast.transport.memory_log import MemoryBook

_STREAMS: Final[tuple[ActionStream, ...]] = ("payments", "notifications")


def unrest(checks: Checks, owners: Sequence[str], over_ms: int) -> tuple[str, str]:
    """The check that fails as long as something is left to do, and what; two "" at rest.

    Args:
      owners: Tokens of the living booking actors.
      over_ms: Appointments that end before then must be over.
    """
    if checks.provider.under_way:
        return "S4 money", f"the provider has {checks.provider.under_way} calls under way"
    for book, shadow in checks.shadows.items():
        held = checks.server.book(book)
        record = held.record
        known = book in checks.server.registered or any(one.key for one in held.inputs.entries)
        if checks.failover and not (known and held.inputs.added):
            continue  # the whole book is lost, whatever its executors may still report
        if not held.inputs.added:
            return "L2 no lag", f"nobody has defined {book}"
        if record.owner not in owners:
            return "L3 leader", f"nobody who lives holds {book}"
        if parse_id(record.position) != held.inputs.last:
            waiting = format_id(*held.inputs.last)
            return "L2 no lag", f"{book} is decided to {record.position}, not to {waiting}"
        if why := _left(held):
            return "L2 no lag", f"{book}: {why}"
        for booking in shadow.runner.state.bookings.values():
            if booking.status in AWAITING:
                return "L1 terminal", f"{book}: {booking.id} is still {booking.status}"
            payment = booking.payment
            if payment.amount_cents and not is_at_rest(payment):
                state = f"{payment.desired}/{payment.observed}"
                return "L1 terminal", f"{book}: payment {payment.id} is {state}, not at rest"
            if booking.status == "confirmed" and booking.end_ms < over_ms:
                return "L1 terminal", f"{book}: {booking.id} is not over yet"
    return "", ""


def at_rest(checks: Checks) -> None:
    """Compare the book with the world, where nothing is left to do."""
    for book, shadow in checks.shadows.items():
        checks.scan(book)
        _check_money(checks, book, shadow.runner.state)
    _check_ledger(checks)


def _check_money(checks: Checks, book: str, state: Book) -> None:
    provider = checks.provider
    prefix = f"{book}:"
    wanted: dict[str, Booking] = {}
    for booking in state.bookings.values():
        payment = booking.payment
        if not payment.amount_cents:
            continue
        reference = prefix + payment.id
        wanted[reference] = booking
        known = provider.book_of_record.payment(reference)
        status = known.status if known else "none"
        if known is not None and known.amount_cents != payment.amount_cents:
            checks.fail("S4 money", f"{reference}: the amounts differ")
        lapsed = reference in provider.lapsed and payment.observed == "authorized"
        turned_away = reference in provider.turned_away and status == "none"
        no_hold = turned_away and payment.observed == "declined"
        if status != payment.observed and not (lapsed or no_hold):
            check = "L8 no orphan" if status in ("authorized", "pending") else "S4 money"
            said = f"the book says {payment.observed}, the provider {status}"
            checks.fail(check, f"{reference} of a {booking.status} booking: {said}")
    for known in provider.book_of_record.payments():
        if not known.reference.startswith(prefix):
            continue
        if known.status in ("authorized", "pending"):
            owner = wanted.get(known.reference)
            if owner is None or owner.status != "confirmed":
                what = "forgotten" if owner is None else owner.status
                checks.fail("L8 no orphan", f"{known.reference} is {known.status} and {what}")


def _check_ledger(checks: Checks) -> None:
    for currency, total in checks.provider.book_of_record.totals().items():
        if (
            total.authorized != total.captured + total.voided + total.held
            or total.captured != total.retained + total.refunded
        ):
            checks.fail("S4 money", f"money is not conserved: {currency} {total}")


def _left(held: MemoryBook) -> str:
    """What executors have left to do."""
    for stream in _STREAMS:
        facts = held.actions(stream).facts(stream)
        if facts.lag or facts.pending:
            return f"{stream} has {facts.lag} not handed out and {facts.pending} pending"
        if stream not in held.actions(stream).groups and facts.length:
            return f"{stream} has no group"
    return ""
