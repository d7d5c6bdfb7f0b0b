"""Commits, fencing, and reading the log."""

# What is replaced here is private, and each replacement takes whatever the original takes.
# pyright: reportPrivateUsage=false
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false

from __future__ import annotations

from holdfast.actors.booking import leading
from holdfast.actors.booking.actor import _Actor
from holdfast.actors.booking.keeping import Keeping
from holdfast.actors.booking.leading import Leading, Led
from holdfast.actors.booking.runner import BookRunner
from holdfast.transport import memory_log
from holdfast.transport.memory_log import MemoryLog

from . import Bug, edit  # noqa: TID251 - our own package sim

_FENCE = "if _fenced(record, commit.epoch, commit.owner):"

BUGS = [
    Bug(
        "commit",
        "committed-and-not-said",
        "A booking actor whose commit had to wait says for ever that the log is away.",
        "outages",
        edit(Leading, "commit", 'self._patience.done("commit")', "pass"),
    ),
    Bug(
        "commit",
        "no-fence",
        "A commit is written whoever holds the book.",
        "rivals",
        (memory_log, "_fenced", lambda _: lambda record, epoch, owner: False),
    ),
    Bug(
        "commit",
        "younger-may-write",
        "The fence lets the epoch before the last one through.",
        "rivals",
        (memory_log, "_fenced", lambda _: lambda record, epoch, owner: epoch < record.epoch - 1),
    ),
    Bug(
        "commit",
        "position-not-compared",
        "A commit is written wherever the record is.",
        "mixed",
        edit(MemoryLog, "_commit", "if record.position != commit.after:", "if False:"),
    ),
    Bug(
        "commit",
        "epoch-stands",
        "A takeover gives a new owner the old epoch.",
        "rivals",
        edit(MemoryLog, "take_over", "epoch = record.epoch + 1", "epoch = max(record.epoch, 1)"),
    ),
    Bug(
        "commit",
        "unknown-is-written",
        "A commit whose result is unknown is taken for written.",
        "mixed",
        edit(
            memory_log,
            "resolve_commit",
            "return False if record.position == commit.after else",
            "return True if record.position == commit.after else",
        ),
    ),
    Bug(
        "commit",
        "unknown-is-not-written",
        "A commit whose result is unknown is taken for not written.",
        "mixed",
        (memory_log, "resolve_commit", lambda _: lambda commit, record: False),
        harmless="What is sent again compares the record's position and digest, finds itself "
        "written, and is answered so.",
    ),
    Bug(
        "commit",
        "unknown-sent-again",
        "A commit whose result is unknown is sent again unread.",
        "mixed",
        edit(
            Leading,
            "_write_rest",
            "answers = await self._log.resolve(commits)",
            "answers = [False] * len(commits)",
        ),
        harmless="The same: the commit's own compare-and-set is the guard, and reading the record "
        "spares the work.",
    ),
    Bug(
        "commit",
        "unknown-dropped",
        "A commit whose result is unknown is not looked after.",
        "mixed",
        edit(Leading, "_write", "unknown = True", "return [None] * len(commits)"),
    ),
    Bug(
        "commit",
        "away-dropped",
        "A commit is given up while the log is away.",
        "mixed",
        edit(
            Leading,
            "_write",
            "except LogUnavailableError as error:\n"
            '            await self._patience.pause(tries, error, "commit")',
            "except LogUnavailableError:\n            return [None] * len(commits)",
        ),
    ),
    Bug(
        "commit",
        "position-first",
        "The position is written first, the outcomes by a call of their own.",
        "crashes",
        edit(
            MemoryLog,
            "_commit",
            "stream.add(parse_id(entry.id), entry)",
            "kind == 'outcomes' or stream.add(parse_id(entry.id), entry)",
        ),
        edit(
            MemoryLog,
            "commit",
            "return [self._commit(commit) for commit in commits]",
            "answers = [self._commit(commit) for commit in commits]\n"
            "    await __import__('trio').sleep(0.05)\n"
            "    for commit, error in zip(commits, answers, strict=True):\n"
            "        for outcome in commit.outcomes if error is None else ():\n"
            "            stream = self.book(commit.book).outcomes\n"
            "            if parse_id(outcome.id) > stream.last:\n"
            "                stream.add(parse_id(outcome.id), outcome)\n"
            "        self.ring(commit.book, 'outcomes')\n"
            "    return answers",
        ),
    ),
    Bug(
        "commit",
        "actions-first",
        "Actions are handed out before the commit is written.",
        "mixed",
        edit(
            MemoryLog,
            "commit",
            "return [self._commit(commit) for commit in commits]",
            "for commit in commits:\n"
            "        for kind in ('payments', 'notifications'):\n"
            "            stream = self.book(commit.book).stream(kind)\n"
            "            for entry in getattr(commit, kind):\n"
            "                if parse_id(entry.id) > stream.last:\n"
            "                    stream.add(parse_id(entry.id), entry)\n"
            "            self.ring(commit.book, kind)\n"
            "    await __import__('trio').sleep(0.5)\n"
            "    return [self._commit(commit) for commit in commits]",
        ),
        edit(
            MemoryLog,
            "_commit",
            "if entries and parse_id(entries[0].id) <= stream.last:",
            "if kind == 'outcomes' and entries and parse_id(entries[0].id) <= stream.last:",
            "stream.add(parse_id(entry.id), entry)",
            "kind == 'outcomes' and stream.add(parse_id(entry.id), entry)",
        ),
    ),
    Bug(
        "commit",
        "no-actions",
        "Actions of a batch that brings none for the payments are forgotten.",
        "mixed",
        edit(
            Leading,
            "_decide_batch",
            "decided.notifications,\n",
            "decided.notifications if decided.payments else [],\n",
        ),
    ),
    Bug(
        "commit",
        "position-of-what-was-read",
        "The position is that of the last input read, though not all were decided.",
        "mixed",
        edit(
            Leading,
            "_decide_batch",
            "decided = runner.decide(entries)",
            "decided = runner.decide(entries[:3])\n            runner.position = entries[-1].id",
        ),
    ),
    Bug(
        "commit",
        "goes-on",
        "A booking actor goes on after it was superseded.",
        "rivals",
        edit(Leading, "commit", "self._lose(commit.book, error)", "pass"),
        edit(Leading, "compare", "self._lose(book, superseded(book, led.epoch))", "pass"),
    ),
    Bug(
        "commit",
        "two-on-their-way",
        "The next batch is sent before the last one was answered.",
        "mixed",
        edit(
            Leading,
            "commit",
            "async for batch in self._receive:\n",
            "async for batch in self._receive:\n"
            "            snapshots.start_soon(self._write, batch.commits)\n",
            "await self._write(batch.commits)",
            "[None] * len(batch.commits)",
        ),
    ),
    Bug(
        "commit",
        "chain-skips-poison",
        "The hash chain does not cover what was no message.",
        "mixed",
        edit(
            BookRunner,
            "_refuse_poison",
            'self._chain.feed(wire.encode_step(entry.id, body, b"", [], []))',
            "pass",
        ),
    ),
    Bug(
        "commit",
        "chain-of-accepted",
        "The hash chain covers only what was accepted.",
        "mixed",
        edit(
            BookRunner,
            "_decide",
            "self._chain.feed(",
            "type(outcome.result) is Accepted and self._chain.feed(",
        ),
    ),
    Bug(
        "commit",
        "poison-skipped",
        "An entry that is no message is skipped without an outcome.",
        "mixed",
        edit(
            BookRunner,
            "_refuse_poison",
            'decided.outcomes.append(OutcomeEntry(entry.id, "invalid", body))',
            "pass",
        ),
    ),
    Bug(
        "commit",
        "poison-stops",
        "An entry that is no message stops the book.",
        "mixed",
        edit(BookRunner, "_decide", "self._refuse_poison(entry, str(error), decided)", "raise"),
    ),
    Bug(
        "commit",
        "no-dead-letter",
        "An entry that is no message leaves no dead letter.",
        "mixed",
        edit(MemoryLog, "_commit", "self._bury(name, book, commit.dead_letters)", "pass"),
    ),
    Bug(
        "commit",
        "commits-what-is-lost",
        "A commit is written although the log has lost the inputs that it decided.",
        "mixed",
        edit(
            MemoryLog,
            "_commit",
            "if there is None or (commit.decided and there.fingerprint != commit.decided):",
            "if False:",
        ),
    ),
    Bug(
        "commit",
        "same-id-is-the-same",
        "A commit is written whatever lies under the id of the last input that it decided.",
        "rivals",
        edit(
            MemoryLog,
            "_commit",
            "if there is None or (commit.decided and there.fingerprint != commit.decided):",
            "if there is None:",
        ),
        rare="Two primaries that both take inputs must give out the same id, and a commit of the old one's "
        "must be on its way when its writer comes to the new one; a kept case and a test of the log show it.",
    ),
    Bug(
        "commit",
        "epoch-alone",
        "The fence compares epochs, and not whose they are.",
        "rivals",
        (memory_log, "_fenced", lambda _: lambda record, epoch, owner: record.epoch != epoch),
        rare="A failover must forget a takeover, and another actor take the book in the same epoch while "
        "the first one lives; who stands by seldom does that before the first one is refused.",
    ),
    Bug(
        "reading",
        "group-as-reader",
        "The log is read through a consumer group, which gives each entry once.",
        "mixed",
        edit(
            MemoryLog,
            "read_inputs",
            "found: dict[str, list[InputEntry]] = {}\n",
            "found: dict[str, list[InputEntry]] = {}\n"
            "        given = self.__dict__.setdefault('_given', {})\n",
            "stream.after(parse_id(position), count)",
            "stream.after("
            "max(parse_id(position), given.get(name, _ZERO) if wait_s else _ZERO), count)",
            "found[name] = entries\n",
            "found[name] = entries\n"
            "                if wait_s: given[name] = parse_id(entries[-1].id)\n",
        ),
    ),
    Bug(
        "reading",
        "cursor-of-milliseconds",
        "The reader's cursor forgets the second half of an id.",
        "stress",
        edit(
            Leading,
            "_read",
            "book: led.runner.position for",
            'book: led.runner.position.partition("-")[0] + f"-{(1 << 64) - 1}" for',
        ),
    ),
    Bug(
        "reading",
        "outcome-skipped",
        "A read of outcomes begins one too late.",
        "mixed",
        edit(
            MemoryLog,
            "read_outcomes",
            "entries := book.outcomes.after(parse_id(position), count)",
            "entries := book.outcomes.after(parse_id(position), count + 1)[1:]",
        ),
    ),
    Bug(
        "reading",
        "later-books-unseen",
        "A booking actor never looks for further books.",
        "mixed",
        edit(
            Keeping,
            "discover",
            "known = set(found)",
            "await trio.sleep_forever()",
        ),
    ),
    Bug(
        "reading",
        "no-tick",
        "Nobody wakes a book when its timer is due.",
        "long",
        edit(
            Leading,
            "_append_tick",
            "await self._patiently(self._log.append, book, [",
            "await trio.lowlevel.checkpoint(); (book, [",
        ),
    ),
    Bug(
        "reading",
        "one-tick",
        "A book is woken for its first timer only.",
        "long",
        edit(Led, "ticked", "+ self._tick_wait_s", "+ 86_400"),
    ),
    Bug(
        "reading",
        "tick-storm",
        "A book is woken again and again until it has decided.",
        "mixed",
        (leading, "TICK_AGAIN_S", lambda _: 0.0),
    ),
    Bug(
        "stop",
        "waits-for-the-log",
        "A stop waits for a log that is away.",
        "mixed",
        edit(_Actor, "_bound_the_stop", "scope.cancel()", "pass"),
    ),
]
