"""What ``show`` shows of a book."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import msgspec

from holdfast.actors.booking import views
from holdfast.actors.booking.views import Appointment, PaymentView
from holdfast.cli.follow import follow, require_book
from holdfast.tools.drained import count_after

if TYPE_CHECKING:
    from holdfast.actors.ports import Log


class View(msgspec.Struct, frozen=True):
    """What is shown.

    Attributes:
      position: Id of the last input that the booking actor has committed.
      lag: Inputs in the log after it.
      last: Id of the last input in the log; the rest is as of that.
      first_day: First local date of ``calendar``.
    """

    book: str
    position: str
    lag: int
    last: str
    first_day: str
    last_day: str
    calendar: list[Appointment]
    holds: list[Appointment]
    payments: list[PaymentView]


async def look(log: Log, book: str, days: tuple[date, date] | None) -> View:
    """*book* as it is now.

    Raises:
      CliError: There is no such book.
    """
    await require_book(log, book)
    record = await log.read_record(book)
    lag = await count_after(log, book, record.position)
    runner = await follow(log, book)
    first, last = days or _next_week(views.whole_calendar(runner.state))
    return View(
        book=book,
        position=record.position,
        lag=lag,
        last=runner.position,
        first_day=first.isoformat(),
        last_day=last.isoformat(),
        calendar=views.calendar(runner.state, first, last),
        holds=views.holds(runner.state),
        payments=views.payments(runner.state),
    )


def week_of(day: date) -> tuple[date, date]:
    """Monday and Sunday of the week of *day*."""
    monday = day - timedelta(days=day.weekday())
    return monday, monday + timedelta(days=6)


def _next_week(calendar: list[Appointment]) -> tuple[date, date]:
    """The week of the next appointment; this week where there is none."""
    today = date.today()  # noqa: DTZ011 - only chooses what is shown first
    for item in calendar:
        day = date.fromisoformat(item.start[:10])
        if day >= today:
            return week_of(day)
    return week_of(today)
