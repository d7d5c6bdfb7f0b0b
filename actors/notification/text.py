"""What a notification says: subject and plain text, from what the book gave and nothing else."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from holdfast.actors.ports import Message

if TYPE_CHECKING:
    from holdfast.actors.booking.messages import Notify

# English, whatever the process's locale: a message must not depend on who sends it.
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)

_KINDS = {
    "confirmed": (
        "Confirmed",
        "Your appointment is confirmed.",
    ),
    "declined": (
        "Payment declined",
        "Your payment was declined, so the time was not kept for you. Nothing was taken.",
    ),
    "expired": (
        "Not confirmed in time",
        "Your payment did not come in time, so the time was not kept for you. Nothing was taken.",
    ),
    "lost": (
        "No longer free",
        "Somebody else was given this time first. Your money on hold is released.",
    ),
    "moved": (
        "Confirmed at another time",
        "The time first found for you was taken. This one fits what you asked for too, and it is "
        "confirmed.",
    ),
    "cancelled": (
        "Cancelled",
        "Your appointment is cancelled.",
    ),
}


def dedupe_key(book: str, notify: Notify) -> str:
    """What makes two notifications the same one."""
    return f"{book}:{notify.booking}:{notify.version}:{notify.kind}:{notify.recipient}"


def render(book: str, notify: Notify, time_ms: int) -> Message:
    """The message for *notify*.

    Args:
      book: Whose notification.
      notify: What to tell.
      time_ms: When what it tells was decided, milliseconds since the epoch, UTC.

    Raises:
      ValueError: The kind is unknown, or the start is no RFC 3339 time.
    """
    try:
        title, sentence = _KINDS[notify.kind]
    except KeyError:
        raise ValueError(f"kind {notify.kind!r} is unknown") from None
    when = _when(notify.start)
    greeting = f"Hello {notify.name}," if notify.name else "Hello,"
    text = (
        f"{greeting}\n\n"
        f"{sentence}\n\n"
        f"  {notify.service}, {notify.duration_min} minutes\n"
        f"  {when}\n"
        f"  {notify.practice}\n\n"
        f"Booking {notify.booking}\n"
    )
    return Message(
        key=dedupe_key(book, notify),
        book=book,
        recipient=notify.recipient,
        subject=f"{title}: {notify.service} at {notify.practice}, {when}",
        text=text,
        time_ms=time_ms,
    )


def _when(start: str) -> str:
    time = datetime.fromisoformat(start)
    day, month = _DAYS[time.weekday()], _MONTHS[time.month - 1]
    return f"{day} {time.day} {month} {time.year}, {time.hour:02}:{time.minute:02}"
