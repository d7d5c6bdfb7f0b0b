"""What customers ask of a service that something is done to meanwhile, and the practice they go to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from holdfast.actors.booking import messages as m
from holdfast.actors.booking import wire
from holdfast.actors.ports import NewInput

if TYPE_CHECKING:
    import random

CANCELS: Final = 0.3
"""The share of appointments that are cancelled at once."""


def practice(policies: m.Policies, staff: int = 3) -> NewInput:
    """A practice with so many chairs, open every day."""
    definition = m.DefinePractice(
        name="Practice",
        zone="Europe/Berlin",
        currency="EUR",
        services=[m.Service("checkup", "Checkup", 30, 7_500)],
        staff=[m.Staff(f"s{number}", "Member") for number in range(staff)],
        hours={str(day): [("08:00", "18:00")] for day in range(7)},
        policies=policies,
    )
    body = wire.encode_message(definition)
    return NewInput("define_practice", body, key="practice", by="service:test")


def days_ahead(count: int) -> str:
    """A date that far from now."""
    return (datetime.now(UTC) + timedelta(days=count)).date().isoformat()


def any_card(draw: random.Random) -> str:
    """The first letter of a customer's name, by which the provider's script knows their card."""
    return draw.choices("KDTBP", (76, 12, 4, 4, 4))[0]


def any_wish(draw: random.Random, date: str, key: str, by: str) -> NewInput:
    """A time that others want too, or any time of a day."""
    if draw.random() < 0.5:
        hour, half = draw.randrange(8, 18), draw.choice(("00", "30"))
        slot = m.RequestSlot("checkup", f"{date}T{hour:02d}:{half}")
        return NewInput("request_slot", wire.encode_message(slot), key, by)
    return any_time(date, key, by)


def any_time(date: str, key: str, by: str) -> NewInput:
    """Whatever is free on a day."""
    body = wire.encode_message(m.RequestAuto("checkup", days=[date]))
    return NewInput("request_auto", body, key, by)


def cancel(booking: str, key: str, by: str) -> NewInput:
    """Give an appointment back: that of the input *booking*."""
    body = wire.encode_message(m.Cancel(booking=f"b{booking}"))
    return NewInput("cancel", body, f"{key}c", by)
