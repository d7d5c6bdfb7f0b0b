"""``holdfast replay``: a log decided anew, compared, or under other policies."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

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
from holdfast.cli.export import check_id

if TYPE_CHECKING:
    from holdfast.actors.ports import Log
    from holdfast.config.settings import Settings
    from holdfast.tools.compare import Difference
    from holdfast.tools.replay import Replay
    from holdfast.tools.sources import Source
    from holdfast.tools.whatif import WhatIf
    from holdfast.transport.operator import Operator

SHOWN_MAX: Final = 20
"""So many violations are shown."""

SHOWN_BYTES: Final = 120
"""So much of an example's body is shown."""

WHAT: Final = {
    "input": "something else was asked",
    "outcome": "the same was asked, and decided otherwise",
    "before": "they differ before the first input that both have",
}


def replay(
    source: Annotated[
        str, typer.Argument(help="A book, an exported log, or a file of 'holdfast snapshot'.")
    ],
    to: Annotated[str, typer.Option(metavar="ID", help="Up to this input.")] = "",
    snapshot: Annotated[
        str, typer.Option(metavar="FILE", help="Begin there; 'newest' for the book's own.")
    ] = "",
    until_violation: Annotated[
        bool, typer.Option("--until-violation", help="Stop where the book breaks a rule; exit 1.")
    ] = False,
    diff: Annotated[
        str, typer.Option(metavar="OTHER", help="Name the first input after which OTHER differs.")
    ] = "",
    policies: Annotated[
        Path | None,
        typer.Option("--with", metavar="TOML", help="Try these \\[policies].", dir_okay=False),
    ] = None,
    since: Annotated[str, typer.Option(metavar="ID", help="--with holds from this input on.")] = "",
    data: DataOption = None,
    redis: RedisOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide a log anew, and say what came of it. Changes nothing.

    A live book must come to the digest of its commit record, an export to the links it was written
    with: exit 1 if not. With --diff exit 1 if the two differ.

    Examples:

      holdfast replay demo

      holdfast replay demo --to 1780000000000-3 --until-violation

      holdfast replay demo.jsonl.gz --diff demo

      holdfast replay demo --with stricter.toml --json
    """
    with errors_of_one_sentence():
        settings = settings_of(data, redis, config)
        for given in filter(None, (to, since)):
            check_id(given)
        if bool(diff) + (policies is not None) + until_violation > 1:
            raise CliError("give one of --diff, --with and --until-violation")
        if since and policies is None:
            raise CliError("--since says from where --with holds: give both")

    async def main() -> int:
        from holdfast.cli.progress import progress_shown
        from holdfast.tools.archive import Archive
        from holdfast.tools.compare import compare, compare_archives
        from holdfast.tools.replay import replay as decide_anew
        from holdfast.tools.whatif import read_policies, what_if

        async with AsyncExitStack() as stack:
            opener = _Opener(settings, stack)
            if diff and not to and _both_archives(source, diff):
                with progress_shown("comparing") as show:
                    archives = Archive(Path(source)), Archive(Path(diff))
                    if archives[0].begin == archives[1].begin:
                        return _tell_difference(await compare_archives(*archives, show), as_json)
            first = await opener.open(source, snapshot)
            with progress_shown(f"replaying {source}") as show:
                if diff:
                    second = await opener.open(diff, snapshot)
                    difference = await compare(first, second, to=to, tell=show)
                    return _tell_difference(difference, as_json)
                if policies is not None:
                    tried = read_policies(policies)
                    found = await what_if(first, tried, since=since, to=to, tell=show)
                    return _tell_what_if(found, as_json)
                done = await decide_anew(first, to=to, until_violation=until_violation, tell=show)
        return _tell(done, as_json)

    run(main)


class _Opener:
    """Opens what a word on the command line names; the server's log at most once."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._opened: tuple[Log, Operator] | None = None

    async def open(self, name: str, snapshot: str) -> Source:
        """A file that is there, or a book."""
        from holdfast.cli.mapping import BOOK_NAME
        from holdfast.tools.archive import Archive, is_archive
        from holdfast.tools.snapshots import is_snapshot, read_snapshot_file
        from holdfast.tools.sources import ArchiveSource, LogSource, SnapshotSource

        path = Path(name)
        if _is_file(path):
            if is_snapshot(path):
                book, found = await read_snapshot_file(path)
                return SnapshotSource(name, book, found)
            if is_archive(path):
                return ArchiveSource(Archive(path))
            raise CliError(f"{name} is neither an exported log nor a snapshot")
        if not BOOK_NAME.match(name):
            raise CliError(f"there is no file {name}, and it is no book's name")
        log, operator = await self._open_log()
        if snapshot in ("", "newest"):
            return await LogSource.open(log, name, newest=bool(snapshot), operator=operator)
        _, begin = await read_snapshot_file(Path(snapshot))
        return await LogSource.open(log, name, begin, operator=operator)

    async def _open_log(self) -> tuple[Log, Operator]:
        from holdfast.bootstrap import open_operator
        from holdfast.cli.service import log_to_look_at

        if self._opened is None:
            found, log = await self._stack.enter_async_context(log_to_look_at(self._settings))
            operator = await self._stack.enter_async_context(open_operator(found))
            self._opened = log, operator
        return self._opened


def _is_file(path: Path) -> bool:
    return path.is_file()


def _both_archives(*names: str) -> bool:
    from holdfast.tools.archive import is_archive

    return all(Path(name).is_file() and is_archive(Path(name)) for name in names)


def _tell(done: Replay, as_json: bool) -> int:
    good = not done.violated and not done.parted
    if as_json:
        print_json({"holds": good, "replay": done})
        return EXIT_GOOD if good else EXIT_FAILED
    print(f"{done.inputs} inputs of {done.book} after {done.begin}, up to {done.position}.")
    for code, count in done.outcomes.items():
        print(f"{count:>9,}  {code}")
    print(f"Digest {done.digest}.")
    if done.parted:
        print(f"✗ the digest after {done.parted} is not the one that was recorded")
    if done.violated:
        print(f"✗ after {done.position} the book breaks its rules:")
    for problem in done.violated[:SHOWN_MAX]:
        print(f"    {problem}")
    return EXIT_GOOD if good else EXIT_FAILED


def _tell_difference(found: Difference, as_json: bool) -> int:
    code = EXIT_FAILED if found.first else EXIT_GOOD
    if as_json:
        print_json({"equal": not found.first, "difference": found})
        return code
    looks = f" ({found.looks} sums looked at)" if found.looks else ""
    print(f"{found.equal} inputs are equal, up to {found.position}{looks}.")
    if found.longer:
        print(f"{found.longer} goes on where the other one ends.")
    if found.first:
        print(f"✗ They differ from {found.first} on: {WHAT[found.what]}.")
        names = dict.fromkeys((*found.left, *found.right))
        for name in names:
            left, right = found.left.get(name, ""), found.right.get(name, "")
            if left == right:
                print(f"    {name}: {left}")
            else:
                print(f"  - {name}: {left}\n  + {name}: {right}")
    return code


def _tell_what_if(found: WhatIf, as_json: bool) -> int:
    if as_json:
        print_json({"differ": found.differ, **msgspec.to_builtins(found)})
        return EXIT_GOOD
    tried = ", ".join(f"{name} = {value}" for name, value in found.policies.items())
    print(f"{found.inputs} inputs of {found.book} with {tried}: {found.differ} outcomes differ.")
    for change in found.changes:
        print(f"{change.count:>9,}  {change.was} → {change.would_be}")
        for example in change.examples:
            print(
                f"           {example.id} {example.type} {example.by} {example.body[:SHOWN_BYTES]}"
            )
    was, would_be = found.appointments
    same = "the same" if found.same_calendar else "another"
    print(f"Appointments at the end: {was} → {would_be}; it would be {same} calendar.")
    return EXIT_GOOD
