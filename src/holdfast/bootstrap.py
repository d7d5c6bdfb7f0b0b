"""The composition root: the one place that chooses implementations.

Actors know ports (:mod:`holdfast.actors.ports`); here settings become the log on a real server, a
payment provider over HTTP, messages as files and the system's clock, and an actor is run with them. The
simulator runs the same actors through :func:`run_with`, with ports of its own.
Everything is imported where it is chosen, so that a process loads no more than it runs.
"""

from __future__ import annotations

import gc
import math
import os
import secrets
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, assert_never

from holdfast.actors.health import Health
from holdfast.config.settings import SettingsError

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    import trio

    from holdfast.actors.booking.options import BookingOptions
    from holdfast.actors.notification.actor import NotificationOptions
    from holdfast.actors.payment.actor import PaymentOptions
    from holdfast.actors.ports import Clock, Log, Mailer, Provider
    from holdfast.config.settings import Settings
    from holdfast.transport.durability import Disk
    from holdfast.transport.operator import Operator
    from holdfast.transport.pool import ServerOptions

ActorKind = Literal["booking", "payment", "notification"]

ACTORS: Final[tuple[ActorKind, ...]] = ("booking", "payment", "notification")
"""The actors that work on a log, in the order in which a service starts them."""

KEEP_CLAIM_SHARE: Final = 4
"""An executor shows four times in an action's idle time that it still works on it."""

AHEAD_MAX_S: Final = 60.0
"""A booking actor decides no input that is further ahead of the server's clock."""

OUTBOX_FOLDER: Final = "outbox"
"""Written messages, in the data folder."""

PROVIDER_FOLDER: Final = "provider"
"""The sandbox provider's ledger, in the data folder."""


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000


@asynccontextmanager
async def open_log(settings: Settings, kind: ActorKind | None = None) -> AsyncGenerator[Log, None]:
    """The log on the server that *settings* name.

    Args:
      settings: Whose ``redis_url`` is set.
      kind: The actor that it is for, whose server must keep what the settings promise; None for who
        only looks.

    Raises:
      SettingsError: They name none.
      DurabilityError: The server does not keep what they promise.
      LogUnavailableError: It does not answer.
    """
    from holdfast.transport.redis_log import open_redis_log

    if settings.redis_url is None:
        raise SettingsError("no server is named: give redis_url, or let 'holdfast up' start one.")
    options = _server_options(settings, kind)
    async with open_redis_log(settings.redis_url, options=options) as log:
        yield log


def _server_options(settings: Settings, kind: ActorKind | None) -> ServerOptions:
    """How an actor uses its server. Only who decides needs to see that it syncs to disk."""
    from holdfast.transport.pool import ServerOptions

    if kind is None:
        return ServerOptions()
    disk: Disk | None = None
    if kind == "booking":
        disk = "relaxed" if settings.durability == "relaxed" else "durable"
    return ServerOptions(
        disk=disk,
        replicas_min=settings.replicas if settings.durability == "replicated" else 0,
        replicas_s=settings.replicas_wait_s,
        ahead_max_s=AHEAD_MAX_S if kind == "booking" else math.inf,
    )


@asynccontextmanager
async def open_operator(settings: Settings) -> AsyncGenerator[Operator, None]:
    """What operators may do beside the log, on the server that *settings* name.

    Raises:
      SettingsError: They name none.
    """
    from holdfast.transport.operator import open_operator as open_at

    if settings.redis_url is None:
        raise SettingsError("no server is named: give redis_url, or let 'holdfast up' start one.")
    async with open_at(settings.redis_url) as operator:
        yield operator


@asynccontextmanager
async def open_provider(settings: Settings) -> AsyncGenerator[Provider, None]:
    """The payment provider that *settings* name.

    Raises:
      SettingsError: They name none.
    """
    from holdfast.actors.payment.http_provider import HttpProvider

    if settings.provider.url is None:
        raise SettingsError("no payment provider is named: give provider.url.")
    provider = HttpProvider(
        settings.provider.url,
        timeout_s=settings.payment.call_timeout_s,
        connections_max=settings.payment.concurrency_max,
    )
    try:
        yield provider
    finally:
        await provider.aclose()


def open_mailer(settings: Settings) -> Mailer:
    """Where messages to customers go: files in the data folder."""
    from holdfast.actors.notification.files import FileMailer

    return FileMailer(settings.data / OUTBOX_FOLDER)


@dataclass(frozen=True)
class BookingPorts:
    """What a booking actor gets; ``owner`` is new in every life, ``place`` the same in all of one place.

    Without ``rng`` its jitter is the system's.
    """

    log: Log
    clock: Clock
    owner: str
    options: BookingOptions
    place: str = ""
    rng: random.Random | None = None
    health: Health = field(default_factory=Health)


@dataclass(frozen=True)
class PaymentPorts:
    """What a payment actor gets; without ``rng`` its jitter is the system's."""

    log: Log
    provider: Provider
    consumer: str
    options: PaymentOptions
    rng: random.Random | None = None
    health: Health = field(default_factory=Health)


@dataclass(frozen=True)
class NotificationPorts:
    """What a notification actor gets; without ``rng`` its jitter is the system's."""

    log: Log
    mailer: Mailer
    consumer: str
    options: NotificationOptions
    rng: random.Random | None = None
    health: Health = field(default_factory=Health)


Ports = BookingPorts | PaymentPorts | NotificationPorts


async def run_with(ports: Ports, stop: trio.Event) -> None:
    """Run the actor that *ports* are for until *stop* is set, in the service and in simulation alike.

    Raises:
      LogError: What :class:`~holdfast.actors.ports.Log` says; ``SupersededError`` above all.
    """
    match ports:
        case BookingPorts(log, clock, owner, options, place, rng, health):
            from holdfast.actors.booking.actor import run_booking

            await run_booking(
                log,
                clock,
                owner=owner,
                options=options,
                stop=stop,
                place=place,
                rng=rng,
                health=health,
            )
        case PaymentPorts(log, provider, consumer, options, rng, health):
            from holdfast.actors.payment.actor import run_payment

            await run_payment(
                log,
                provider,
                consumer=consumer,
                options=options,
                stop=stop,
                rng=rng,
                health=health,
            )
        case NotificationPorts(log, mailer, consumer, options, rng, health):
            from holdfast.actors.notification.actor import run_notification

            await run_notification(
                log,
                mailer,
                consumer=consumer,
                options=options,
                stop=stop,
                rng=rng,
                health=health,
            )
        case _:
            assert_never(ports)


async def run_actor(
    kind: ActorKind,
    settings: Settings,
    stop: trio.Event,
    ready: Callable[[], None] | None = None,
    health: Health | None = None,
    place: str = "",
) -> None:
    """Run one actor until *stop* is set.

    Args:
      kind: Which.
      settings: Whose ``redis_url`` is set, and for the payment actor ``provider.url``.
      stop: Set it for a clean stop.
      ready: Called once, when the server answers.
      health: Where the actor says how it fares.
      place: See :func:`~holdfast.actors.booking.actor.run_booking`.

    Raises:
      SettingsError: A setting that the actor needs is missing.
      LogError: What :class:`~holdfast.actors.ports.Log` says; ``SupersededError`` above all.
    """
    health = health or Health()
    async with open_log(settings, kind) as log:
        if ready is not None:
            ready()
        match kind:
            case "booking":
                calm_garbage_collection()
                await run_with(_booking_ports(settings, log, place, health), stop)
            case "payment":
                async with open_provider(settings) as provider:
                    await run_with(_payment_ports(settings, log, provider, health), stop)
            case "notification":
                await run_with(_notification_ports(settings, log, health), stop)
            case _:
                assert_never(kind)


def calm_garbage_collection() -> None:
    """Look for reference cycles seldom: a book has none, and looking costs more the larger it is."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def _booking_ports(settings: Settings, log: Log, place: str, health: Health) -> BookingPorts:
    from holdfast.actors.booking.options import BookingOptions

    own = settings.booking
    options = BookingOptions(
        batch_max=own.batch_max,
        snapshot_inputs=own.snapshot_inputs,
        snapshot_s=own.snapshot_s,
        trim=own.trim,
        grace_s=own.grace_s,
        lease_s=own.lease_s,
        stay=True,
    )
    return BookingPorts(log, SystemClock(), secrets.token_hex(16), options, place, health=health)


def _payment_ports(
    settings: Settings, log: Log, provider: Provider, health: Health
) -> PaymentPorts:
    from holdfast.actors.payment.actor import PaymentOptions

    own = settings.payment
    options = PaymentOptions(
        concurrency_max=own.concurrency_max,
        call_timeout_s=own.call_timeout_s,
        attempts_max=own.attempts_max,
        backoff_s=own.backoff_s,
        backoff_max_s=own.backoff_max_s,
        claim_idle_s=own.claim_idle_s,
        keep_claim_s=own.claim_idle_s / KEEP_CLAIM_SHARE,
    )
    return PaymentPorts(log, provider, _consumer(), options, health=health)


def _notification_ports(settings: Settings, log: Log, health: Health) -> NotificationPorts:
    from holdfast.actors.notification.actor import NotificationOptions

    own = settings.notification
    options = NotificationOptions(
        concurrency_max=own.concurrency_max,
        attempts_max=own.attempts_max,
        backoff_s=own.backoff_s,
        backoff_max_s=own.backoff_max_s,
        claim_idle_s=own.claim_idle_s,
        keep_claim_s=own.claim_idle_s / KEEP_CLAIM_SHARE,
    )
    return NotificationPorts(log, open_mailer(settings), _consumer(), options, health=health)


def _consumer() -> str:
    """A consumer's name, different in every process: what a dead one left is claimed, not shared."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def run_provider(settings: Settings, script: Path | None, ready: Callable[[str], None]) -> None:
    """Run the sandbox payment provider in this process until SIGTERM or SIGINT.

    Args:
      settings: Where it listens and keeps its ledger.
      script: How it shall misbehave; None for not at all.
      ready: Called with its URL when it takes connections.

    Raises:
      SettingsError: The script cannot be read.
      OSError: The address is taken, or the folder cannot be written.
    """
    from holdfast.actors.payment.sandbox import serve
    from holdfast.actors.payment.script import load_script

    try:
        behaviour = None if script is None else load_script(script)
    except (OSError, ValueError) as error:
        raise SettingsError(f"the provider's script cannot be used: {error}.") from None
    serve(
        settings.data / PROVIDER_FOLDER,
        settings.provider.sandbox_host,
        settings.provider.sandbox_port,
        behaviour,
        ready,
    )
