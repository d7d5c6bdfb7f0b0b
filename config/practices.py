"""Practices from TOML files: what a practice offers, as the body of a ``define_practice`` command.

The file says what the command says, under the same names, but for one thing: weekdays may have
their English names (``monday``) beside the wire's numbers ("0" is Sunday). Here only the names of
things are checked, to catch a typo where it was made; whether the values can be is checked where the
command is made, by the same rules as for everyone else's commands.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TypeAlias, cast

from holdfast.config.sources import SettingsError, did_you_mean, read_toml, shown

Table: TypeAlias = dict[str, object]

SHIPPED = ("bay", "dentist", "salon")
"""The example practices that come with Holdfast."""

WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
"""In the order of the wire's numbers, from 0."""

FIELDS = ("name", "zone", "currency", "services", "staff", "hours", "grid_min", "policies")
SERVICE_FIELDS = ("id", "name", "duration_min", "price_cents")
STAFF_FIELDS = ("id", "name", "hours")
POLICY_FIELDS = (
    "contention",
    "hold_s",
    "minimum_notice_min",
    "advance_days_max",
    "cancellation_deadline_min",
    "cooling_off_min",
    "holds_per_customer_max",
    "contenders_max",
    "late_authorization",
    "idempotency_h",
    "keep_past_days",
    "keep_failed_h",
    "check_settle_s",
)


def find_practice(name: str) -> Path:
    """The file of a practice: the name of a shipped one (``dentist``), or a path.

    Raises:
      SettingsError: There is no such file.
    """
    if name in SHIPPED:
        return Path(str(resources.files("holdfast.config") / f"{name}.toml"))
    file = Path(name)
    if not file.is_file():
        raise SettingsError(
            f"{name} is neither a file nor a practice of ours{did_you_mean(name, SHIPPED)}"
        )
    return file


def load_practice_body(file: Path) -> Table:
    """The body of the ``define_practice`` command that *file* describes, ready to become JSON.

    Args:
      file: TOML; see ``dentist.toml`` beside this module.

    Returns:
      Shape: only known fields; weekdays by their numbers as text.

    Raises:
      SettingsError: The file cannot be read, is no TOML, or names something that nobody knows.
    """
    body = _known(read_toml(file), FIELDS, f"{file}: ")
    for name, fields in (("services", SERVICE_FIELDS), ("staff", STAFF_FIELDS)):
        if name in body:
            body[name] = [
                _known(item, fields, f"{file}: {name}[{index}].")
                for index, item in enumerate(_list(body[name], f"{file}: {name}"))
            ]
    if "policies" in body:
        body["policies"] = _known(body["policies"], POLICY_FIELDS, f"{file}: policies.")
    if "hours" in body:
        body["hours"] = _by_number(body["hours"], f"{file}: hours.")
    for index, member in enumerate(cast("list[Table]", body.get("staff", []))):
        if "hours" in member:
            member["hours"] = _by_number(member["hours"], f"{file}: staff[{index}].hours.")
    return body


def _known(table: object, fields: tuple[str, ...], where: str) -> Table:
    """*table* itself, once each of its keys is one of *fields*."""
    entries = _table(table, where)
    for key in entries:
        if key not in fields:
            raise SettingsError(f"{where}{key} means nothing here{did_you_mean(key, fields)}")
    return entries


def _by_number(hours: object, where: str) -> Table:
    """Opening hours by the wire's number of the weekday, ascending."""
    found: Table = {}
    for day, ranges in _table(hours, where).items():
        known = day.lower() in WEEKDAYS
        number = str(WEEKDAYS.index(day.lower())) if known else day
        if number not in {"0", "1", "2", "3", "4", "5", "6"}:
            raise SettingsError(
                f"{where}{day} is not a weekday{did_you_mean(day.lower(), WEEKDAYS)}"
            )
        if number in found:
            raise SettingsError(
                f"{where}{day} is there twice, by name and by number; keep one of them."
            )
        found[number] = ranges
    return dict(sorted(found.items()))


def _table(value: object, where: str) -> Table:
    if not isinstance(value, dict):
        raise SettingsError(f"{where.rstrip('.')} is {shown(value)}, but must be a table.")
    return cast("Table", value)


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise SettingsError(f"{where} is {shown(value)}, but must be a list of tables.")
    return cast("list[object]", value)
