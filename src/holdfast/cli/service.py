"""Finding the service that a command is about, or running one for the command's length."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from holdfast.bootstrap import open_log
from holdfast.cli.common import EXIT_FAILED, CliError
from holdfast.cli.status_file import Status, read_status
from holdfast.cli.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from holdfast.actors.ports import Log
    from holdfast.cli.supervisor import Part
    from holdfast.config.settings import Settings


def locate(settings: Settings) -> Settings | None:
    """*settings* with the server and the provider that run for them; None where nothing runs.

    A server that was named stays the one; a provider is added if the service in the data folder
    works on that same server.
    """
    status = read_status(settings.data)
    if settings.redis_url is not None:
        if status is None or status.redis != settings.redis_url:
            return settings
    elif status is None or not status.redis:
        return None
    assert status is not None
    return _with_status(settings, status)


def _with_status(settings: Settings, status: Status) -> Settings:
    provider = settings.provider
    if provider.url is None and status.provider:
        provider = msgspec.structs.replace(provider, url=status.provider)
    return msgspec.structs.replace(settings, redis_url=status.redis, provider=provider)


@asynccontextmanager
async def log_of_running_service(settings: Settings) -> AsyncGenerator[tuple[Settings, Log], None]:
    """The log of the service that runs for *settings*, for a command that needs its actors.

    Raises:
      CliError: Nothing runs there.
    """
    found = locate(settings)
    if found is None:
        raise CliError(
            f"no service runs in {settings.data}: start one with 'holdfast up --data {settings.data}', "
            "or name a server with --redis",
            EXIT_FAILED,
        )
    async with open_log(found) as log:
        yield found, log


@asynccontextmanager
async def log_to_look_at(
    settings: Settings, parts: Sequence[Part] = ("server",), *, new: bool = False
) -> AsyncGenerator[tuple[Settings, Log], None]:
    """The log of the service that runs for *settings*, for a command that needs no actors.

    Where none runs, *parts* of it are started on the data folder for as long as the command takes;
    with *new*, also where the folder has no data yet.

    Raises:
      CliError: There is no data in the folder.
    """
    found = locate(settings)
    if found is not None:
        async with open_log(found) as log:
            yield found, log
        return
    if not new and not (settings.data / "appendonlydir").is_dir():
        raise CliError(
            f"there is no service's data in {settings.data}; name another folder with --data, "
            "or a server with --redis"
        )
    async with (
        Supervisor(settings, parts=parts, to_files=True).running() as service,
        open_log(service.settings) as log,
    ):
        yield service.settings, log
