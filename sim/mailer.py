"""The mailer of the simulated world: it records what arrived, and fails as it is told to."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import msgspec
import trio

from holdfast.actors.ports import Message

if TYPE_CHECKING:
    from holdfast.sim.draws import Draws
    from holdfast.sim.marks import Marks
    from holdfast.sim.trace import Trace


class MailerFaults(msgspec.Struct, frozen=True):
    """How the mailer misbehaves.

    Attributes:
      error_before: Share of calls that fail and deliver nothing.
      error_after: Share of calls that deliver and fail.
      latency_ms_max: Longest time of a call.
    """

    error_before: float = 0.0
    error_after: float = 0.0
    latency_ms_max: int = 20


class Arrival(msgspec.Struct, frozen=True):
    """A message that was handed over, again or for the first time.

    Attributes:
      order: Number of the event in the trace.
      new: It went out now; False where its key had been seen.
    """

    order: int
    message: Message
    new: bool


class SimMailer:
    """The port ``Mailer``. One for the world; processes reach it through their gates."""

    def __init__(self, draws: Draws, faults: MailerFaults, trace: Trace, marks: Marks) -> None:
        self._draws = draws
        self._trace = trace
        self._marks = marks
        self._attempts: dict[str, int] = {}
        self._seen: dict[str, Message] = {}
        self.faults = faults
        self.arrivals: list[Arrival] = []

    def heal(self) -> None:
        """No faults from now on."""
        self.faults = MailerFaults()

    async def deliver(self, message: Message) -> bool:
        """See ``Mailer.deliver``."""
        attempt = self._attempts.get(message.key, 0) + 1
        self._attempts[message.key] = attempt
        drawn = (message.key, attempt)
        draws, faults = self._draws, self.faults
        await trio.sleep(draws.below("mailer.latency", faults.latency_ms_max + 1, *drawn) / 1000)
        if draws.chance("mailer.error_before", faults.error_before, *drawn):
            self._trace.fault("mailer", "error_before", message.key)
            raise OSError(errno.ENOSPC, "the mailer is full")
        new = message.key not in self._seen
        self._seen.setdefault(message.key, message)
        order = self._trace.note("mailer", "delivered" if new else "duplicate", message.key)
        self.arrivals.append(Arrival(order, message, new))
        if not new:
            self._marks.hit("mail_duplicate")
        await trio.sleep(draws.below("mailer.answer", faults.latency_ms_max + 1, *drawn) / 1000)
        if draws.chance("mailer.error_after", faults.error_after, *drawn):
            self._trace.fault("mailer", "error_after", message.key)
            raise OSError(errno.EIO, "the mailer failed after it had delivered")
        return new
