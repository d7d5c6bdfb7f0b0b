"""``holdfast show``: the book as its log has it now, whether or not anything is running."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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
    from holdfast.cli.looking import View


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
        first = parse_date(day or week) if day or week else None
        settings = settings_of(data, redis, config)

    async def main() -> int:
        from holdfast.cli.looking import look, week_of
        from holdfast.cli.service import log_to_look_at

        days = None if first is None else (first, first) if day else week_of(first)
        async with log_to_look_at(settings) as (_, log):
            view = await look(log, book, days)
        if as_json:
            print_json(view)
        else:
            _print(view)
        return EXIT_GOOD

    run(main)


def _print(view: View) -> None:
    from holdfast.cli.tables import calendar_table, holds_table, payments_table

    out = console()
    days = view.first_day + (f" to {view.last_day}" if view.last_day != view.first_day else "")
    if view.calendar:
        out.print(calendar_table(f"{view.book}, {days}", view.calendar, out.width))
    else:
        out.print(f"{view.book}, {days}: no appointments")
    if view.holds:
        out.print(holds_table(view.holds))
    if view.payments:
        out.print(payments_table(view.payments))
    out.print(f"Committed up to {view.position}; {view.lag} inputs wait behind it.")
