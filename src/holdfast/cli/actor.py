"""``holdfast actor KIND``: one process of the service. A supervisor runs it; people need not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from holdfast.cli.common import (
    EXIT_FAILED,
    EXIT_GOOD,
    CliError,
    ConfigOption,
    DataOption,
    RedisOption,
    errors_of_one_sentence,
    settings_of,
    stop_on_signal,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.bootstrap import ActorKind
    from holdfast.config.settings import Settings

Kind = Literal["booking", "payment", "notification", "provider"]


def actor(
    kind: Annotated[Kind, typer.Argument(help="Which one.")],
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    parent: Annotated[int, typer.Option(help="End with this process.")] = 0,
    ready_fd: Annotated[int, typer.Option(help="Say there when ready, and of troubles.")] = -1,
    place: Annotated[
        str, typer.Option(help="The same for actors of which one begins when the other is dead.")
    ] = "",
    script: Annotated[Path | None, typer.Option(help="The sandbox provider's script.")] = None,
) -> None:
    """Run one actor, or the sandbox payment provider, until SIGTERM."""
    import trio

    from holdfast.cli.children import die_with_parent, say_ready
    from holdfast.config.logging import configure

    if parent:
        die_with_parent(parent)

    def ready(url: str) -> None:
        if ready_fd >= 0:
            say_ready(ready_fd, {"url": url})

    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)
        configure(settings.log, kind)
        if kind == "provider":
            _provide(settings, script, ready)
        else:
            raise typer.Exit(trio.run(_until_stopped, kind, settings, place, ready_fd, parent))


def _provide(settings: Settings, script: Path | None, ready: Callable[[str], None]) -> None:
    from holdfast.actors.payment.journal import JournalError
    from holdfast.bootstrap import run_provider

    try:
        run_provider(settings, script, ready)
    except JournalError as error:
        raise CliError(str(error)) from None
    except OSError as error:
        raise CliError(f"the sandbox provider cannot run: {error}") from None


async def _until_stopped(
    kind: ActorKind, settings: Settings, place: str, ready_fd: int, parent: int
) -> int:
    import trio

    from holdfast.actors.health import Health
    from holdfast.bootstrap import run_actor
    from holdfast.cli.children import say_ready, tell_troubles, watch_parent

    health = Health()
    async with stop_on_signal() as stop, trio.open_nursery() as nursery:
        if parent:
            nursery.start_soon(watch_parent, parent)

        def ready() -> None:
            if ready_fd >= 0:
                say_ready(ready_fd, {"url": ""})
                nursery.start_soon(tell_troubles, ready_fd, health)

        await run_actor(kind, settings, stop, ready, health, place)
        nursery.cancel_scope.cancel()
    return EXIT_GOOD if stop.is_set() else EXIT_FAILED
