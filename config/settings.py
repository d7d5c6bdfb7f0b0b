"""Everything that can be set, checked once and then frozen.

A setting comes from its default, a TOML file, the environment, or whoever calls :func:`load` (the
command line); the later of these wins. ``booking.batch_max`` is ``batch_max`` in the file's table
``[booking]``, ``HOLDFAST_BOOKING__BATCH_MAX`` in the environment, and ``booking.batch_max`` among the
overrides. Nothing else in the project reads the environment.

Whatever is wrong is a :class:`SettingsError`: one sentence that names where, which key, what was
found and what is allowed. A setting that nobody knows is wrong too: a typo must not be a default.
Secrets in URLs are shown neither there nor in a ``repr``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from holdfast.config.redact import redacted
from holdfast.config.sources import (
    SettingsError,
    environ_name,
    known_settings,
    read_environ,
    read_file,
    read_overrides,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Settings", "SettingsError", "load", "to_environ"]

RedisUrl: TypeAlias = Annotated[
    str,
    Meta(
        pattern=(
            r"^rediss?://([^\s@/]*@)?(\[[0-9A-Fa-f:.]+\]|[^\s@/:?\[\]]+)(:[0-9]{1,5})?(/[0-9]*)?(\?\S*)?$"
            r"|^unix://([^\s@/]*@)?/\S+$"
        ),
        description="a URL that begins with redis://, rediss:// or unix:///, or empty for our own server",
    ),
]
HttpUrl: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s/]\S*$",
        description="a URL that begins with http:// or https://, or empty for the sandbox",
    ),
]
Host: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9:][A-Za-z0-9.:-]*$", max_length=253, description="a host or an address"
    ),
]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65_535)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0.01, le=3_600.0)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields whose ``repr`` hides secrets."""

    def __repr__(self) -> str:
        """The fields as they may be shown."""
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same for rich."""
        pairs = [(field.name, getattr(self, field.name)) for field in msgspec.structs.fields(self)]
        return [(n, redacted(v) if isinstance(v, str) else v) for n, v in pairs]


class Provider(_Section, frozen=True):
    """The payment provider.

    Attributes:
      url: Where it is; None for the built-in sandbox.
      sandbox_host: Where the sandbox listens.
      sandbox_port: Likewise; 0 takes any free port.
    """

    url: HttpUrl | None = None
    sandbox_host: Host = "127.0.0.1"
    sandbox_port: Port = 0


class Booking(_Section, frozen=True):
    """The booking actor.

    Attributes:
      batch_max: Most inputs of one book in one commit.
      snapshot_inputs: A snapshot is due after so many inputs.
      snapshot_s: A snapshot is due after so long, if there was any input.
      trim: After a snapshot, trim the log of what came before the older one and is carried out. Off:
        what is trimmed is gone, so the book can no longer be decided from its first input; export it
        first, or keep a backup.
      grace_s: How long a stop may take to finish the batch, commit and snapshot.
      lease_s: How long others wait for a booking process that is silent before one of them leads its
        books; a process renews its lease three times as often.
    """

    batch_max: Annotated[int, Meta(ge=1, le=512)] = 512
    snapshot_inputs: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    snapshot_s: Annotated[float, Meta(ge=0.1, le=86_400.0)] = 300.0
    trim: bool = False
    grace_s: Seconds = 10.0
    lease_s: Annotated[float, Meta(ge=0.2, le=300.0)] = 3.0


class Payment(_Section, frozen=True):
    """The payment actor.

    Attributes:
      concurrency_max: Most provider calls at a time.
      call_timeout_s: After so long a call's result is unknown, and its status will be asked for.
      attempts_max: How often one call is tried before its result is unknown.
      backoff_s: The wait before the second try; it doubles with every further one.
      backoff_max_s: The longest wait between two tries.
      claim_idle_s: An action that its executor left alone so long goes to another one.
    """

    concurrency_max: Annotated[int, Meta(ge=1, le=1_024)] = 32
    call_timeout_s: Seconds = 5.0
    attempts_max: Annotated[int, Meta(ge=1, le=100)] = 3
    backoff_s: Seconds = 0.2
    backoff_max_s: Seconds = 5.0
    claim_idle_s: Seconds = 30.0


class Notification(_Section, frozen=True):
    """The notification actor.

    Attributes:
      concurrency_max: Most messages written at a time.
      attempts_max: How often one message is tried before it is reported as failed.
      backoff_s: The wait before the second try; it doubles with every further one.
      backoff_max_s: The longest wait between two tries.
      claim_idle_s: An action that its executor left alone so long goes to another one.
    """

    concurrency_max: Annotated[int, Meta(ge=1, le=1_024)] = 32
    attempts_max: Annotated[int, Meta(ge=1, le=100)] = 3
    backoff_s: Seconds = 0.2
    backoff_max_s: Seconds = 5.0
    claim_idle_s: Seconds = 30.0


class Log(_Section, frozen=True):
    """What is logged, and how.

    Attributes:
      format: ``auto`` is readable on a terminal and JSON elsewhere.
      level: The least severe line that is written.
    """

    format: Literal["auto", "console", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(_Section, frozen=True):
    """All settings.

    Attributes:
      data: Folder of the embedded server's files and of written messages; where it is relative,
        to the working directory.
      redis_url: The server; None for our own, embedded one.
      durability: What the server promises of an accepted outcome; an actor refuses one that does not.
        ``durable``: it is on disk (``appendfsync always``). ``relaxed``: it will be within about a
        second (``everysec``). ``replicated``: it is on disk, and *replicas* have it too.
      replicas: How many replicas must have an outcome, or an action, before it is acted upon.
      replicas_wait_s: How long one attempt waits for them.
    """

    data: Path = Path("data")
    redis_url: RedisUrl | None = None
    durability: Literal["relaxed", "durable", "replicated"] = "durable"
    replicas: Annotated[int, Meta(ge=1, le=16)] = 1
    replicas_wait_s: Seconds = 1.0
    provider: Provider = Provider()
    booking: Booking = Booking()
    payment: Payment = Payment()
    notification: Notification = Notification()
    log: Log = Log()


_KNOWN = known_settings(Settings)


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """The settings: defaults, then *file*, then *environ*, then *overrides*; the later wins.

    Args:
      file: TOML; None for none.
      environ: Such as ``os.environ``; only names that begin with ``HOLDFAST_`` count.
      overrides: Dotted keys, such as ``"booking.batch_max"``; None as a value means "not given".
        Text stands for a number where the setting is one.

    Raises:
      SettingsError: Something is unknown, of a wrong type or out of range, or the file cannot be read.
    """
    found = {
        **(read_file(_KNOWN, file) if file else {}),
        **read_environ(_KNOWN, environ or {}),
        **read_overrides(_KNOWN, overrides or {}),
    }
    nested: dict[str, object] = {}
    for key, (value, _) in found.items():
        section, _, name = key.rpartition(".")
        target = nested if not section else nested.setdefault(section, {})
        assert isinstance(target, dict)
        target[name] = value
    settings = msgspec.convert(nested, Settings, dec_hook=_to_path)
    if settings.durability == "replicated" and settings.redis_url is None:
        raise SettingsError(
            f"{found['durability'][1]}: durability is 'replicated', but our own server has no "
            "replicas; name one that has, with redis_url, or choose 'durable'."
        )
    for section in ("payment", "notification"):
        backoff: Payment | Notification = getattr(settings, section)
        if backoff.backoff_s > backoff.backoff_max_s:
            where = found.get(f"{section}.backoff_s") or found[f"{section}.backoff_max_s"]
            raise SettingsError(
                f"{where[1]}: {section}.backoff_s is {backoff.backoff_s}, which is more than"
                f" {section}.backoff_max_s, {backoff.backoff_max_s}; lower one or raise the other."
            )
    return settings


def to_environ(settings: Settings) -> dict[str, str]:
    """*settings* as environment variables, every one of them, for a process that we start.

    ``load(None, to_environ(settings))`` gives the same settings.
    """
    environ: dict[str, str] = {}
    for key in _KNOWN:
        value: object = settings
        for name in key.split("."):
            value = getattr(value, name)
        environ[environ_name(key)] = "" if value is None else str(value)
    return environ


def _to_path(_type: type, value: object) -> Path:
    """Path is the one type here that msgspec does not know."""
    return Path(str(value))
