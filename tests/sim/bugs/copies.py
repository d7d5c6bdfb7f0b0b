"""Waiting for replicas, noticing what a failover took, and bringing the money in order after it."""

# What is replaced here is private, and each replacement takes whatever the original takes.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from holdfast.sim.faulty_log import FaultyLog
from holdfast.tools import reconcile
from holdfast.transport.durability import Copies
from holdfast.transport.tails import TailWatch

from . import Bug, edit  # noqa: TID251 - our own package sim

BUGS = [
    Bug(
        "copies",
        "too-few-are-enough",
        "A commit is called written, and an action handed out, whatever the replicas have.",
        "mixed",
        edit(Copies, "check", "if reply < self.wanted:", "if False:"),
    ),
    Bug(
        "copies",
        "commit-does-not-wait",
        "A commit is called written before a replica has it.",
        "mixed",
        edit(
            Copies,
            "check_commits",
            "raise CommitUnknownError(str(error)) from None",
            "pass",
        ),
    ),
    Bug(
        "copies",
        "written-before-is-copied",
        "A commit that an earlier attempt wrote is taken for copied by a wait that says nothing of it.",
        "mixed",
        edit(Copies, "check_commits", "if before:", "if False:"),
        rare="It takes a write that arrives after it was found missing, and a failover that loses it.",
    ),
    Bug(
        "copies",
        "resolved-is-copied",
        "A commit that is found written is called so, whatever the replicas have.",
        "mixed",
        edit(FaultyLog, "resolve", "if self._copies.wanted and True in answers:", "if False:"),
    ),
    Bug(
        "copies",
        "executor-does-not-wait",
        "An executor carries out what no replica has yet.",
        "mixed",
        edit(
            FaultyLog,
            "_confirmed_actions",
            "if not self._copies.wanted or not found:",
            "if True:",
        ),
    ),
    Bug(
        "copies",
        "executor-gives-up-waiting",
        "An executor that has waited long enough carries its actions out.",
        "mixed",
        edit(Copies, "until_copied", "raise\n", "return True\n"),
    ),
    Bug(
        "copies",
        "confirmed-by-epoch-alone",
        "What is confirmed is the owner's epoch, and not that his commit is still there.",
        "mixed",
        edit(
            FaultyLog,
            "_confirmed_commits",
            "(ours and record.position == commit.position)",
            "ours",
        ),
        rare="The failover must come between the reading and the confirming of one commit; "
        "`test_a_commit_that_is_lost_while_it_is_confirmed_is_not_called_written` has it.",
    ),
    Bug(
        "copies",
        "gives-out-what-is-gone",
        "Of actions that were waited for those are given out too that a failover has forgotten.",
        "mixed",
        edit(FaultyLog, "_confirmed_actions", "if (book, entry.id) in ours]", "if ours]"),
        rare="A failover must forget a part of what was read, while it is waited for, and leave the rest.",
    ),
    Bug(
        "tails",
        "tail-unseen",
        "Nobody looks whether the log has lost its tail.",
        "mixed",
        edit(TailWatch, "look", "if losses == self._losses:", "if True:"),
    ),
    Bug(
        "tails",
        "tail-told-to-nobody",
        "A lost tail is not reported where nothing that was decided is left.",
        "mixed",
        edit(
            TailWatch,
            "_look_at",
            "keep=_later(*decided) != GENESIS",
            "keep=decided[0] != GENESIS",
        ),
    ),
    Bug(
        "tails",
        "told-once",
        "A report of a lost tail that could not be written is not made again.",
        "mixed",
        edit(
            TailWatch,
            "_look_at",
            "await self._report(found[0]",
            "seen.inputs, seen.decided = _later(*kept[:2]), _later(*kept[2:])\n"
            "            await self._report(found[0]",
        ),
    ),
    Bug(
        "tails",
        "trimmed-is-lost",
        "What others trimmed away is reported as lost.",
        "mixed",
        edit(TailWatch, "_kept", "return seen if later", "return seen if False and later"),
    ),
    Bug(
        "tails",
        "new-seen-as-old",
        "What was seen after a failover is taken for what was there before it.",
        "mixed",
        edit(TailWatch, "saw", "if self._server.losses == self._losses:", "if True:"),
    ),
    Bug(
        "reconcile",
        "holds-overlooked",
        "The reconciler looks for what was taken, and not for what is on hold.",
        "mixed",
        edit(
            reconcile,
            "_find_orphans",
            'answer.status not in ("authorized", "captured")',
            'answer.status != "captured"',
        ),
    ),
    Bug(
        "reconcile",
        "releases-what-is-wanted",
        "The reconciler takes every payment for an orphan that is on hold.",
        "mixed",
        edit(reconcile, "_find_orphans", "if name in known or", "if", "if why:", "if True:"),
    ),
    Bug(
        "reconcile",
        "differing-untold",
        "The reconciler does not tell a book what the provider says otherwise.",
        "mixed",
        edit(reconcile, "tell", "for result in results]", "for result in ()]"),
    ),
    Bug(
        "reconcile",
        "same-key",
        "The reconciler asks once more under the key under which it was refused.",
        "outages",
        edit(reconcile, "release", 'f":{attempt}"', '""'),
    ),
]
