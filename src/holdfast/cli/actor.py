"""``holdfast actor KIND``: one process of the service, run by hand; a supervisor starts the same anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from holdfast.cli.common import (
    ConfigOption,
    DataOption,
    RedisOption,
    errors_of_one_sentence,
    settings_of,
)

Kind = Literal["booking", "payment", "notification", "provider"]


def actor(
    kind: Annotated[Kind, typer.Argument(help="Which one.")],
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    place: Annotated[
        str, typer.Option(help="The same for actors of which one begins when the other is dead.")
    ] = "",
    script: Annotated[Path | None, typer.Option(help="The sandbox provider's script.")] = None,
) -> None:
    """Run one actor, or the sandbox payment provider, until SIGTERM."""
    from holdfast.cli.life import Life, live

    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)
        raise typer.Exit(live(settings, Life(kind, place=place, script=script)))
