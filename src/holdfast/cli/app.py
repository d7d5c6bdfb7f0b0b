"""The command ``holdfast`` and its subcommands. What a command needs is imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast import __version__
from holdfast.cli.actor import actor
from holdfast.cli.check import check
from holdfast.cli.deadletters import deadletters
from holdfast.cli.demo import demo
from holdfast.cli.export import export
from holdfast.cli.importer import import_file
from holdfast.cli.keeping import drain, snapshot, trim
from holdfast.cli.push import push
from holdfast.cli.reconcile import reconcile
from holdfast.cli.replay import replay
from holdfast.cli.show import show
from holdfast.cli.sim import sim
from holdfast.cli.status import status
from holdfast.cli.tail import tail
from holdfast.cli.up import up

app = typer.Typer(
    name="holdfast",
    help="An appointment booking service that never double-books.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """An appointment booking service that never double-books.

    Try 'holdfast demo' first.
    """


app.command()(demo)
app.command()(up)
app.command()(push)
app.command()(show)
app.command()(check)
app.command()(status)
app.command()(tail)
app.command()(sim)
app.command(name="import")(import_file)
app.command()(export)
app.command()(replay)
app.command()(snapshot)
app.command()(trim)
app.command()(drain)
app.command()(reconcile)
app.add_typer(deadletters, name="deadletters")
app.command(hidden=True)(actor)
