"""``holdfast reconcile``: money at the provider that no book wants."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from holdfast.cli.common import (
    EXIT_FAILED,
    EXIT_GOOD,
    CliError,
    ConfigOption,
    DataOption,
    JsonOption,
    RedisOption,
    errors_of_one_sentence,
    print_json,
    run,
    settings_of,
)

if TYPE_CHECKING:
    from holdfast.config.settings import Settings
    from holdfast.tools.reconcile import Reconciled


def reconcile(
    book: Annotated[str, typer.Argument(help="The book's name, such as demo.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Release what no book wants, tell the book what differs.")
    ] = False,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="Look again after so long first.", min=0)
    ] = 30.0,
    most: Annotated[
        int, typer.Option(metavar="N", help="With more orphans than these, do nothing.", min=0)
    ] = 20,
    refund: Annotated[
        bool, typer.Option("--refund", help="Give back what was taken, too.")
    ] = False,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the provider's ledger with a book, and release money that no book wants.

    Without --yes it only lists: exit 1 if there is any. With --yes it moves money: what is still
    there after --wait is released; exit 1 if something is left. A payment that the book knows otherwise
    than the provider is listed too, and with --yes the book is told, and asks the provider itself.
    Doing it twice does it once.

    Examples:

      holdfast reconcile demo

      holdfast reconcile demo --yes --wait 60
    """
    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)
        if refund and not yes:
            raise CliError("--refund says what --yes is to do: give both")

    async def main() -> int:
        result = await _reconcile(settings, book, yes, wait, most, refund)
        if as_json:
            print_json({"dry_run": not yes, **msgspec.to_builtins(result)})
        else:
            _print(result, yes)
        return EXIT_GOOD if result.settled else EXIT_FAILED

    run(main)


async def _reconcile(
    settings: Settings, book: str, yes: bool, wait: float, most: int, refund: bool
) -> Reconciled:
    from holdfast.bootstrap import open_operator, open_provider
    from holdfast.cli.follow import require_book
    from holdfast.cli.service import log_to_look_at
    from holdfast.tools import reconcile as tool

    async with AsyncExitStack() as stack:
        found, log = await stack.enter_async_context(
            log_to_look_at(settings, ("server", "provider"))
        )
        await require_book(log, book)
        if found.provider.url is None:
            raise CliError(
                "it is not known where the payment provider is: set HOLDFAST_PROVIDER__URL"
            )
        operator = await stack.enter_async_context(open_operator(found))
        provider = await stack.enter_async_context(open_provider(found))
        result = await tool.find_orphans(log, operator, provider, book)
        if not yes or result.settled:
            return result
        return await tool.reconcile(
            log, operator, provider, result, wait_s=wait, orphans_max=most, refund=refund
        )


def _print(result: Reconciled, yes: bool) -> None:
    print(
        f"The provider has {result.payments} payments of {result.book}; "
        f"{len(result.orphans)} of them no book wants, as of {result.position}."
    )
    for orphan in result.orphans:
        done = f" → {orphan.now}" if orphan.now else ""
        print(
            f"  {orphan.payment}  {orphan.amount_cents / 100:.2f} {orphan.status}{done}: {orphan.why}"
        )
    for one in result.differing:
        done = ": the book was told, and asks the provider" if one.told else ""
        print(f"  {one.payment}  is {one.in_book} in {one.booking} and {one.status} there{done}")
    left = len(result.orphans) - result.released
    if not result.settled and not yes:
        print("Nothing was done: say --yes to release what is on hold, and to tell the book.")
    elif left:
        print(f"{left} are left: what was taken is given back with --refund only.")
