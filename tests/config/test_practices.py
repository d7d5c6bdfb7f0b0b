"""Practices from files: friendly weekdays, typos named where they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from holdfast.actors.booking.messages import DefinePractice, Policies, Service, Staff
from holdfast.config import practices
from holdfast.config.practices import SHIPPED, WEEKDAYS, find_practice, load_practice_body
from holdfast.config.sources import SettingsError

if TYPE_CHECKING:
    from pathlib import Path


def define(body: dict[str, object]) -> DefinePractice:
    """The command itself, checked as strictly as anybody's."""
    return msgspec.json.decode(msgspec.json.encode(body), type=DefinePractice)


@pytest.mark.parametrize(
    ("fields", "struct"),
    [
        (practices.FIELDS, DefinePractice),
        (practices.SERVICE_FIELDS, Service),
        (practices.STAFF_FIELDS, Staff),
        (practices.POLICY_FIELDS, Policies),
    ],
)
def test_the_names_are_those_of_the_command(
    fields: tuple[str, ...], struct: type[msgspec.Struct]
) -> None:
    """Settings may not import the messages, so the names stand twice; here they are one."""
    assert fields == tuple(field.name for field in msgspec.structs.fields(struct))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_practice_is_a_command(name: str) -> None:
    assert define(load_practice_body(find_practice(name))).services


def test_the_dentist_is_the_documented_one() -> None:
    """Domain U-01."""
    dentist = define(load_practice_body(find_practice("dentist")))
    assert dentist.hours == {
        "1": [("09:00", "12:00"), ("14:00", "17:00")],
        "2": [("09:00", "12:00"), ("13:00", "16:00")],
        "3": [("09:00", "12:00"), ("14:00", "18:00")],
        "4": [("10:00", "13:00"), ("14:00", "17:00")],
        "5": [("09:00", "15:00")],
    }
    assert {s.id: (s.duration_min, s.price_cents) for s in dentist.services} == {
        "cleaning": (15, 5_000),
        "checkup": (30, 7_500),
        "filling": (45, 15_000),
        "root-canal": (60, 20_000),
    }
    assert (dentist.grid_min, dentist.currency, dentist.zone) == (15, "EUR", "Europe/Berlin")
    assert len(dentist.staff) == 1


def test_the_salon_keeps_the_documented_hours() -> None:
    """Domain F-077, C1, F-070, F-074."""
    salon = define(load_practice_body(find_practice("salon")))
    week = {day: [("09:00", "18:00")] for day in "123"} | {
        day: [("09:00", "19:00")] for day in "45"
    }
    assert salon.hours == week | {"6": [("08:00", "16:00")]}
    assert salon.policies == Policies(
        minimum_notice_min=120, advance_days_max=30, cancellation_deadline_min=1_440
    )


def test_the_bay_is_open_every_day_by_the_hour() -> None:
    """Domain F-135, C31."""
    bay = define(load_practice_body(find_practice("bay")))
    assert bay.hours == {day: [("09:00", "17:00")] for day in "0123456"}
    assert bay.grid_min == bay.services[0].duration_min == 60


MINIMAL = """
name = "P"
zone = "UTC"
currency = "EUR"
services = [{ id = "s", name = "S", duration_min = 30, price_cents = 1 }]
staff = [{ id = "a", name = "A" }]
hours = { monday = [["09:00", "12:00"]] }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "practice.toml"


@pytest.mark.parametrize("number", range(7))
def test_weekdays_have_names_and_numbers(file: Path, number: int) -> None:
    """Domain C2: Sunday is 0."""
    for day in (WEEKDAYS[number], WEEKDAYS[number].title(), str(number)):
        file.write_text(MINIMAL.replace("monday", day))
        assert load_practice_body(file)["hours"] == {str(number): [["09:00", "12:00"]]}


def test_a_member_of_staff_may_have_hours_of_its_own(file: Path) -> None:
    file.write_text(
        MINIMAL.replace('name = "A"', 'name = "A", hours = { friday = [["10:00", "11:00"]] }')
    )
    assert define(load_practice_body(file)).staff[0].hours == {"5": [("10:00", "11:00")]}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("zone", "zoen", "{f}: zoen means nothing here; did you mean zone?"),
        ("duration_min", "duration", "{f}: services[0].duration means nothing here; did you mean duration_min?"),
        ('name = "A"', 'nmae = "A"', "{f}: staff[0].nmae means nothing here; did you mean name?"),
        ("monday", "mondy", "{f}: hours.mondy is not a weekday; did you mean monday?"),
        ("monday", "7", "{f}: hours.7 is not a weekday; known are sunday, monday, tuesday, wednesday,"
         " thursday, friday, saturday."),
        ("hours = {", 'hours = { 1 = [["09:00", "10:00"]],',
         "{f}: hours.monday is there twice, by name and by number; keep one of them."),
        ("hours = {", "policies = { hold = 1 }\nhours = {",
         "{f}: policies.hold means nothing here; did you mean hold_s?"),
        ("hours = {", "policies = 5\nhours = {", "{f}: policies is 5, but must be a table."),
        ('hours = { monday = [["09:00", "12:00"]] }', "hours = 'always'",
         "{f}: hours is 'always', but must be a table."),
        ('[{ id = "a", name = "A" }]', "'A'", "{f}: staff is 'A', but must be a list of tables."),
        ('[{ id = "a", name = "A" }]', "['A']", "{f}: staff[0] is 'A', but must be a table."),
        ('id = "a"', 'id = "a", hours = { mon = [] }',
         "{f}: staff[0].hours.mon is not a weekday; did you mean monday?"),
    ],
)  # fmt: skip
def test_a_typo_is_named_where_it_was_made(file: Path, old: str, new: str, message: str) -> None:
    assert old in MINIMAL
    file.write_text(MINIMAL.replace(old, new))
    with pytest.raises(SettingsError) as caught:
        load_practice_body(file)
    assert str(caught.value) == message.format(f=file)


def test_values_are_left_to_the_command(file: Path) -> None:
    """Their rules stand in one place, the message."""
    file.write_text(MINIMAL.replace("duration_min = 30", "duration_min = -1"))
    body: dict[str, Any] = load_practice_body(file)
    assert body["services"][0]["duration_min"] == -1
    with pytest.raises(msgspec.ValidationError, match="duration_min"):
        define(body)


def test_a_practice_is_found_by_name_or_path(file: Path) -> None:
    file.write_text(MINIMAL)
    assert find_practice(str(file)) == file
    assert find_practice("salon").name == "salon.toml"
    with pytest.raises(SettingsError, match="did you mean dentist"):
        find_practice("dentits")
    with pytest.raises(SettingsError, match="known are bay, dentist, salon"):
        find_practice(str(file.with_name("nowhere.toml")))
