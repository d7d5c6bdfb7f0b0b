"""A book as people look at it: calendar, holds, payments. Reads only.

Every function takes the book and gives plain structs; who shows them formats them.
"""

from __future__ import annotations

import msgspec


class Appointment(msgspec.Struct, frozen=True):
    """One live booking in the calendar.

    Attributes:
      status: ``held``, ``confirmed`` or ``completed``.
      start: Local time with its offset, RFC 3339; ``end`` likewise.
      deadline_ms: Of a slot hold; 0 for anything else.
    """

    booking: str
    customer: str
    service: str
    staff: str
    status: str
    start: str
    end: str
    deadline_ms: int = 0


class PaymentView(msgspec.Struct, frozen=True):
    """One payment as the book knows it.

    Attributes:
      in_flight: The id of the action whose result is awaited, or "".
    """

    payment: str
    booking: str
    amount_cents: int
    currency: str
    desired: str
    observed: str
    in_flight: str
