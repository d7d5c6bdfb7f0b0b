"""``holdfast check``: whether a book holds."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.common import (
    EXIT_FAILED,
    EXIT_GOOD,
    CliError,
    ConfigOption,
    DataOption,
    JsonOption,
    RedisOption,
    console,
    errors_of_one_sentence,
    print_json,
    run,
    settings_of,
)

if TYPE_CHECKING:
    from holdfast.cli.checks import Report
    from holdfast.config.settings import Settings


def check(
    book: Annotated[str, typer.Argument(help="The book's name, such as demo.")],
    ledger: Annotated[bool, typer.Option(help="Compare the provider's ledger too.")] = True,
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a book: its rules, its log decided anew, and the provider's ledger. Exit 1 if it fails.

    Examples:

      holdfast check demo

      holdfast check demo --data /var/lib/holdfast --json
    """
    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)

    async def main() -> int:
        report = await _check(settings, book, ledger)
        if as_json:
            print_json({"holds": report.holds, "report": report})
        else:
            _print(report)
        return EXIT_GOOD if report.holds else EXIT_FAILED

    run(main)


async def _check(settings: Settings, book: str, ledger: bool) -> Report:
    from holdfast.bootstrap import open_operator, open_provider
    from holdfast.cli.checks import Checker
    from holdfast.cli.follow import require_book
    from holdfast.cli.service import log_to_look_at
    from holdfast.tools.history import look_until_steady

    async with AsyncExitStack() as stack:
        found, log = await stack.enter_async_context(
            log_to_look_at(settings, ("server", "provider") if ledger else ("server",))
        )
        await require_book(log, book)
        provider = None
        if ledger:
            if found.provider.url is None:
                raise CliError(
                    "it is not known where the payment provider is: set HOLDFAST_PROVIDER__URL, "
                    "or check the rest with --no-ledger"
                )
            provider = await stack.enter_async_context(open_provider(found))
        operator = await stack.enter_async_context(open_operator(found))
        return await look_until_steady(operator, book, lambda: Checker(log, provider, book).run())


def _print(report: Report) -> None:
    from holdfast.cli.tables import finding_lines

    out = console()
    out.print(f"{report.book} at {report.position}, {report.inputs} inputs")
    for line in finding_lines(report.findings):
        out.print(line)
