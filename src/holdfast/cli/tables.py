"""How calendars and findings look on a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.booking.views import Appointment, PaymentView
    from holdfast.cli.checks import Finding

WIDE = 100
"""From so many columns on, ids are shown."""

STYLES = {"held": "yellow", "requested": "yellow", "confirmed": "green", "completed": "dim"}


def calendar_table(title: str, appointments: Sequence[Appointment], width: int) -> Table:
    """Appointments in order of time, a gap between days; with their ids if there is room."""
    table = _table(title)
    with_ids = width >= WIDE
    for name in ("day", "time", "staff", "service", "customer", "status"):
        table.add_column(name, no_wrap=True)
    if with_ids:
        table.add_column("booking", no_wrap=True)
    last = ""
    for item in appointments:
        day = item.start[:10]
        if last and day != last:
            table.add_section()
        style = STYLES.get(item.status, "")
        cells = [
            weekday(day) if day != last else "",
            f"{item.start[11:16]}–{item.end[11:16]}",
            escape(item.staff),
            escape(item.service),
            escape(item.customer),
            f"[{style}]{item.status}[/]" if style else item.status,
        ]
        table.add_row(*cells, *([item.booking] if with_ids else []))
        last = day
    return table


def _table(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", header_style="bold", box=SIMPLE_HEAD)


def weekday(day: str) -> str:
    """An ISO date with its weekday."""
    return f"{datetime.fromisoformat(day):%a} {day}"


def holds_table(appointments: Sequence[Appointment]) -> Table:
    """Requests that wait for a payment."""
    table = _table("Holds")
    for name in ("from", "staff", "service", "customer", "until (UTC)", "booking"):
        table.add_column(name, no_wrap=True)
    for item in appointments:
        table.add_row(
            item.start[:16].replace("T", " "),
            escape(item.staff),
            escape(item.service),
            escape(item.customer),
            clock(item.deadline_ms),
            item.booking,
        )
    return table


def payments_table(payments: Sequence[PaymentView]) -> Table:
    """Payments by what is wanted and what is known, with their sums."""
    sums: dict[tuple[str, str, str], tuple[int, int]] = {}
    for payment in payments:
        what = (payment.desired, payment.observed, payment.currency)
        count, cents = sums.get(what, (0, 0))
        sums[what] = (count + 1, cents + payment.amount_cents)
    table = _table("Payments")
    table.add_column("desired")
    table.add_column("observed")
    table.add_column("payments", justify="right")
    table.add_column("sum", justify="right")
    for (desired, observed, currency), (count, cents) in sorted(sums.items()):
        table.add_row(desired, observed, str(count), money(cents, currency))
    return table


def money(cents: int, currency: str) -> str:
    """An amount for people."""
    return f"{cents // 100:,}.{cents % 100:02d} {currency}"


def clock(ms: int) -> str:
    """The time of day of an instant, UTC."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def mark(holds: bool) -> str:
    """✓ or ✗, coloured."""
    return "[green]✓[/]" if holds else "[red]✗[/]"


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each finding, and one for each problem under it."""
    lines: list[str] = []
    for finding in findings:
        lines.append(f"{mark(finding.holds)} {escape(finding.said)}")
        lines += [f"    {escape(problem)}" for problem in finding.problems]
    return lines
