"""Leases, standing by, and taking a book over from whoever led it."""

# What is replaced here is private, and each replacement takes whatever the original takes.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from holdfast.actors.booking import keeping
from holdfast.actors.booking.actor import _Actor
from holdfast.actors.booking.keeping import Keeping
from holdfast.actors.booking.leading import Leading
from holdfast.actors.booking.lease import Lease
from holdfast.actors.booking.standby import Standby
from holdfast.transport.memory_log import MemoryLog

from . import Bug, edit  # noqa: TID251 - our own package sim

_AHEAD = "if order(runner.position) > order(record.position):"
_DIGEST = "if record.digest and runner.digest != record.digest:"

BUGS = [
    Bug(
        "leases",
        "lease-ignored",
        "Who stands by takes a book over though its leader's lease is held.",
        "rivals",
        edit(Lease, "_is_free", 'return place != "" and place == self._place', "return True"),
    ),
    Bug(
        "leases",
        "lease-once",
        "A lease is not renewed after the first time.",
        "rivals",
        edit(
            Lease,
            "renew",
            "await trio.sleep(self._lease_s / RENEWALS)",
            "await trio.sleep_forever()",
        ),
    ),
    Bug(
        "leases",
        "never-looks",
        "Who stands by never looks at leases.",
        "rivals",
        edit(
            Keeping,
            "look",
            "await self._lead_free(await self._lease.without_leader(followed))",
            "pass",
        ),
    ),
    Bug(
        "leases",
        "never-compares",
        "A leader never looks whether another one has taken its book over.",
        "rivals",
        edit(
            Keeping,
            "look",
            "self.leading.compare(await self._read_records(books[number % LOOKS :: LOOKS]))",
            "await self._read_records(books[number % LOOKS :: LOOKS])",
        ),
        rare="It takes a read that is never answered while another one takes the book, and that one's "
        "death before the wait is over; a test of the booking actor's own shows it.",
    ),
    Bug(
        "leases",
        "takes-without-lease",
        "Who takes a book over holds no lease of its own where that was lost.",
        "stress",
        edit(Keeping, "_lead_free", "await self._lease.hold()", "pass"),
        rare="All leases must vanish just before one looks and long before either is renewed; a test of "
        "the booking actor's own shows it.",
    ),
    Bug(
        "leases",
        "keeps-its-lease",
        "A clean stop keeps the lease.",
        "rivals",
        edit(_Actor, "_leave", "await self._lease.drop()", "self._lease._renewing.cancel()"),
    ),
    Bug(
        "leases",
        "hasty-judge",
        "Leases that nobody could renew while the log was away are taken for lapsed.",
        "rivals",
        edit(Lease, "_is_free", "return judged", "return True"),
        harmless="It costs a book a takeover from the living, which is fenced like any other.",
    ),
    Bug(
        "standby",
        "takes-unseen",
        "A takeover does not say which epoch it saw.",
        "rivals",
        edit(
            Keeping,
            "_lead",
            "self._log.take_over, book, self._owner, seen.epoch",
            "self._log.take_over, book, self._owner",
        ),
        harmless="Who is slower takes the book from who was faster: one takeover more, fenced like any "
        "other.",
    ),
    Bug(
        "standby",
        "seen-not-compared",
        "A takeover is made whichever epoch was seen.",
        "rivals",
        edit(MemoryLog, "take_over", "if seen is not None and record.epoch != seen:", "if False:"),
        harmless="The same: one takeover more.",
    ),
    Bug(
        "standby",
        "decides-the-late-read",
        "What was read before a takeover is decided after it.",
        "rivals",
        edit(Leading, "_read", "if self._led.get(book) is reading[book]", "if book in self._led"),
        rare="An answer must be under way while its book is lost and led again; a test of the booking "
        "actor's own shows it.",
    ),
    Bug(
        "standby",
        "follows-no-more",
        "Who was superseded never follows the book again.",
        "rivals",
        edit(Keeping, "_give_up", "self.want([book])\n        return", "return"),
    ),
    Bug(
        "standby",
        "keeps-what-it-decided",
        "Who was superseded leads again from the book that it had, uncommitted decisions and all.",
        "rivals",
        edit(
            Leading,
            "_lose",
            "self.drop(book)",
            "self.__dict__.setdefault('_kept', {})[book] = self._led[book].runner\n"
            "    self.drop(book)",
        ),
        edit(
            Keeping,
            "_catch_up",
            "try:\n        await advance(",
            "kept = self.leading.__dict__.get('_kept', {}).pop(runner.book, None)\n"
            "    if kept is not None: return kept\n"
            "    try:\n        await advance(",
        ),
    ),
    Bug(
        "standby",
        "trusts-what-it-followed",
        "Who takes a book over compares what it followed with the record neither by position nor "
        "by digest.",
        "rivals",
        edit(keeping, "advance", _AHEAD, "if False:", _DIGEST, "if False:"),
        rare="A failover must take away what was followed, and the takeover come before the next read of "
        "outcomes tells.",
    ),
    Bug(
        "standby",
        "follows-what-is-undecided",
        "Who stands by follows inputs that are not decided yet, and leads from there.",
        "rivals",
        edit(
            Standby,
            "_advance",
            "len(outcomes), 0.0",
            "self._batch_max, 0.0",
            "[entry.id for entry in inputs] != [outcome.id for outcome in outcomes]",
            "False",
            "if runner.decide(inputs).outcomes != outcomes:",
            "runner.decide(inputs)\n    if False:",
        ),
        edit(keeping, "advance", _AHEAD, "if False:", _DIGEST, "if False:"),
    ),
    Bug(
        "standby",
        "given-up-for-good",
        "A book that was given up is never tried again.",
        "rivals",
        edit(
            Keeping,
            "_give_up",
            "self.want([book], min(RETAKE_S * 2 ** min(failures - 1, 30), RETAKE_S_MAX))",
            "self._wanted.pop(book, None)",
        ),
        rare="Hardly anything in a world makes an actor give up one book of several, and with none left it "
        "ends and begins anew; a test of the booking actor's own shows it.",
    ),
]
