"""``holdfast show``: the book as its log has it now, whether or not anything is running."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from holdfast.cli.common import (
    EXIT_GOOD,
    CliError,
    ConfigOption,
    DataOption,
    JsonOption,
    RedisOption,
    console,
    errors_of_one_sentence,
    parse_date,
    print_json,
    run,
    settings_of,
)

if TYPE_CHECKING:
    from holdfast.actors.booking.views import Appointment, PaymentView
    from holdfast.actors.ports import Log


def show(
    book: Annotated[str, typer.Argument(help="The book's name, such as demo.")],
    day: Annotated[str, typer.Option(metavar="DATE", help="Only this day.")] = "",
    week: Annotated[
        str, typer.Option(metavar="DATE", help="The week, Monday to Sunday, of this day.")
    ] = "",
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a book's calendar, holds and payments, and how far it is decided.

    Without --day or --week: the week of the next appointment.

    Examples:

      holdfast show demo

      holdfast show demo --day 2026-06-02 --json
    """
    with errors_of_one_sentence():
        if day and week:
            raise CliError("give --day or --week, not both")
        days = _days(parse_date(day), 1) if day else None
        if week:
            days = _week(parse_date(week))
        settings = settings_of(data, redis, config)

    async def main() -> int:
        from holdfast.cli.service import log_to_look_at

        async with log_to_look_at(settings) as (_, log):
            view = await look(log, book, days)
        if as_json:
            print_json(view)
        else:
            _print(view)
        return EXIT_GOOD

    run(main)


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
    from holdfast.actors.booking import views
    from holdfast.cli.follow import count_after, follow, require_book

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


def _days(first: date, count: int) -> tuple[date, date]:
    return first, first + timedelta(days=count - 1)


def _week(day: date) -> tuple[date, date]:
    return _days(day - timedelta(days=day.weekday()), 7)


def _next_week(calendar: list[Appointment]) -> tuple[date, date]:
    """The week of the next appointment; this week where there is none."""
    today = date.today()  # noqa: DTZ011 - only chooses what is shown first
    for item in calendar:
        day = date.fromisoformat(item.start[:10])
        if day >= today:
            return _week(day)
    return _week(today)


def _print(view: View) -> None:
    from holdfast.cli.tables import calendar_table, holds_table, payments_table

    out = console()
    days = view.first_day + (f" to {view.last_day}" if view.last_day != view.first_day else "")
    if view.calendar:
        out.print(calendar_table(f"{view.book}, {days}", view.calendar))
    else:
        out.print(f"{view.book}, {days}: no appointments")
    if view.holds:
        out.print(holds_table(view.holds))
    if view.payments:
        out.print(payments_table(view.payments))
    out.print(f"Committed up to {view.position}; {view.lag} inputs wait behind it.")
