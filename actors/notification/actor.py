"""The notification executor: tells customers what the book decided, and reports how that went.

At least once, with a dedupe key that the mailer honours. No decision depends on a report: a message
that cannot be delivered after some attempts is reported ``failed``, and that is all.
"""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

import msgspec
import structlog

from holdfast.actors.booking.messages import DeliveryReport, Notify
from holdfast.actors.executor import (
    REF_LENGTH_MAX,
    Backoff,
    ExecutorOptions,
    dead_letter_of,
    run_executor,
)
from holdfast.actors.health import Health
from holdfast.actors.notification.text import render
from holdfast.actors.ports import NewInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from holdfast.actors.ports import ActionEntry, DeadLetter, Log, Mailer, Message

PRINCIPAL = "service:notification"

_log = structlog.get_logger(__name__)


class NotificationOptions(ExecutorOptions, frozen=True, kw_only=True):
    """How the notification executor goes about it."""


class _NotificationExecutor:
    """Carries out notifications with one mailer."""

    def __init__(
        self, mailer: Mailer, options: NotificationOptions, rng: random.Random, health: Health
    ) -> None:
        self._mailer = mailer
        self._health = health
        self._attempts_max = options.attempts_max
        self._backoff = Backoff(options, rng)
        self._decoder = msgspec.json.Decoder(Notify)
        self._encoder = msgspec.json.Encoder()

    async def carry_out(self, book: str, entry: ActionEntry) -> NewInput | DeadLetter:
        """Deliver what *entry* says; the report for the book."""
        try:
            notify = self._decoder.decode(entry.body)
            if entry.type != "notify":
                raise ValueError("the entry's type must be notify")
            if not 1 <= len(notify.booking) <= REF_LENGTH_MAX:
                raise ValueError(f"the booking's id must have 1 to {REF_LENGTH_MAX} characters")
            message = render(book, notify, _time_ms(entry.action))
        except ValueError as error:  # what msgspec and UTF-8 decoding raise is one too
            why = f"the entry is no notification: {error}"
            return dead_letter_of("notifications", entry, why)
        report = await self._deliver(entry.action, notify.booking, message)
        _log.info(
            "notification_sent",
            book=book,
            action=entry.action,
            booking=notify.booking,
            kind=notify.kind,
            status=report.status,
            reason=report.reason,
            trace=entry.trace,
        )
        return NewInput(
            type="delivery_report",
            body=self._encoder.encode(report),
            by=PRINCIPAL,
            trace=entry.trace,
        )

    async def _deliver(self, action: str, booking: str, message: Message) -> DeliveryReport:
        reason = ""
        for attempt in range(1, self._attempts_max + 1):
            try:
                new = await self._mailer.deliver(message)
            except OSError as error:
                # The error's text may name the recipient; its number says enough.
                reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
                why = (
                    f"a message could not be delivered ({reason}): look at the outbox and its disk"
                )
                self._health.trouble("mailer", why)
            else:
                self._health.well("mailer")
                return DeliveryReport(action, booking, "delivered" if new else "duplicate")
            if attempt < self._attempts_max:
                await self._backoff.wait(attempt)
        return DeliveryReport(action, booking, "failed", reason)


def _time_ms(action_id: str) -> int:
    """The time of the input that emitted the action; 0 if the id is none of ours."""
    ms = action_id.partition("-")[0]
    return int(ms) if ms.isascii() and ms.isdigit() and len(ms) <= 13 else 0


async def run_notification(
    log: Log,
    mailer: Mailer,
    *,
    consumer: str,
    options: NotificationOptions,
    stop: trio.Event,
    books: Sequence[str] | None = None,
    rng: random.Random | None = None,
    health: Health | None = None,
) -> None:
    """Deliver notifications until *stop*. Several of these may run on the same books.

    Args:
      log: Where notifications come from and reports go.
      mailer: Who delivers.
      consumer: Name in the consumer group, unique among the living.
      options: Bounds and times.
      stop: Set it to end: what is held is finished and posted first, within the grace.
      books: Whose notifications; None for every registered book, new ones too.
      rng: Source of the jitter of waits.
      health: Told when the log or the mailer is away, and when they are back.

    Raises:
      LogError: The log needs a person.
    """
    rng, health = rng or random.Random(), health or Health()
    executor = _NotificationExecutor(mailer, options, rng, health)
    await run_executor(
        log,
        "notifications",
        executor.carry_out,
        consumer=consumer,
        options=options,
        stop=stop,
        books=books,
        rng=rng,
        health=health,
    )
