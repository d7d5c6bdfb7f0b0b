"""Executors: how actions are taken, carried out, posted and acknowledged."""

# What is replaced here is private, and each replacement takes whatever the original takes.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from holdfast.actors.executor import Backoff, Executor
from holdfast.actors.notification import text
from holdfast.actors.notification.actor import _NotificationExecutor
from holdfast.actors.payment import actor as payment
from holdfast.actors.payment.actor import _PaymentExecutor
from holdfast.transport.memory_log import MemoryLog

from . import Bug, edit  # noqa: TID251 - our own package sim

_NO_ANSWER = 'return ProviderAnswer("unknown", reason=reason), options.attempts_max'
_POST = "await self._log.finish_actions(self._stream, book, finished, letters)"

BUGS = [
    Bug(
        "executors",
        "acknowledges-first",
        "An action is acknowledged before it is carried out.",
        "crashes",
        edit(
            Executor,
            "_work",
            "result = await self._carry_out(book, entry)",
            "try: await self._log.finish_actions(self._stream, book, [(entry.id, None)])\n"
            "            except LogUnavailableError: pass\n"
            "            result = await self._carry_out(book, entry)",
        ),
    ),
    Bug(
        "executors",
        "acknowledges-apart",
        "The result is posted after the acknowledgement, by a call of its own.",
        "stress",
        edit(
            Executor,
            "_finish",
            _POST,
            "bare = [(entry, None) for entry, _ in finished]\n"
            "            await self._log.finish_actions(self._stream, book, bare, letters)\n"
            "            results = [r for _, r in finished if r is not None]\n"
            "            if results: await self._log.append(book, results)",
        ),
    ),
    Bug(
        "executors",
        "never-acknowledged",
        "A result is posted and its action not acknowledged.",
        "mixed",
        edit(
            Executor,
            "_finish",
            _POST,
            "await self._log.append(book, [r for _, r in finished if r is not None])",
        ),
    ),
    Bug(
        "executors",
        "result-forgotten",
        "An action is acknowledged and its result not posted.",
        "mixed",
        edit(
            MemoryLog,
            "finish_actions",
            "if result is not None:",
            "if result is not None and stream == 'notifications':",
        ),
    ),
    Bug(
        "executors",
        "posts-twice",
        "Every result is posted twice.",
        "mixed",
        edit(Executor, "_finish", _POST, _POST + "\n            " + _POST),
        harmless="The book knows which call it waits for, and notes a result that comes again.",
    ),
    Bug(
        "executors",
        "post-dropped",
        "A result is dropped where it cannot be posted.",
        "mixed",
        edit(Executor, "_finish", "await self._backoff.wait(failures)", "return"),
    ),
    Bug(
        "executors",
        "dead-left-alone",
        "Nobody takes over what a dead executor has left.",
        "crashes",
        edit(Executor, "_claim", "while not stop.is_set():", "while False:"),
    ),
    Bug(
        "executors",
        "claims-once",
        "What the dead have left is looked for at the start alone.",
        "crashes",
        edit(Executor, "_claim", "await stop.wait()", "await stop.wait()\n        return"),
    ),
    Bug(
        "executors",
        "claims-its-own",
        "An executor that claims takes what it holds for somebody else's.",
        "outages",
        edit(Executor, "_take", "if (book, entry.id) not in self._held:", "if True:"),
    ),
    Bug(
        "executors",
        "no-sign-of-life",
        "A long call's entry is not kept claimed.",
        "outages",
        edit(Executor, "_keep_claims", "while True:", "while False:"),
        harmless="Two carry out one action then, under one key: the provider and the mailer do it "
        "once, and the book notes the result that comes again.",
    ),
    Bug(
        "executors",
        "no-bound",
        "What an executor holds is not bounded.",
        "stress",
        edit(Executor, "_room", "self._options.read_max - len(self._held)", "256"),
    ),
    Bug(
        "executors",
        "too-many-hands",
        "More actions are carried out at a time than the options allow.",
        "stress",
        edit(
            Executor,
            "_run",
            "for _ in range(options.concurrency_max):",
            "for _ in range(2 * options.concurrency_max):",
        ),
    ),
    Bug(
        "executors",
        "rest-of-batch-lost",
        "Of more results than fit one transaction, the rest is lost.",
        "stress",
        edit(Executor, "_post", "self._ready[book] = batch[limit:]\n", "pass\n"),
    ),
    Bug(
        "executors",
        "first-book-only",
        "An executor never looks for further books.",
        "mixed",
        edit(
            Executor, "_follow_books", "self._books = served", "self._books = self._books or served"
        ),
    ),
    Bug(
        "executors",
        "gives-up-reading",
        "A log that was away is never read again.",
        "mixed",
        edit(Executor, "_read", "await self._backoff.wait(failures)\n", "return\n"),
    ),
    Bug(
        "executors",
        "dies-of-the-log",
        "A log that is away ends the executor.",
        "mixed",
        edit(Executor, "_keep_claims", "break  # the next round tries again", "raise"),
    ),
    Bug(
        "executors",
        "stop-drops-all",
        "A stop ends an executor at once, whatever it holds.",
        "mixed",
        edit(Executor, "_limit_stop", "await trio.sleep(self._options.stop_grace_s)", "pass"),
        harmless="What it held stays pending in the log, and the next one claims it.",
    ),
    Bug(
        "executors",
        "stop-waits-for-ever",
        "A stop waits until everything held is finished.",
        "outages",
        edit(Executor, "_limit_stop", "everything.cancel()", "pass"),
    ),
    Bug(
        "executors",
        "no-back-off",
        "What fails is tried again at once.",
        "outages",
        edit(
            Backoff,
            "wait",
            "await trio.sleep(longest * (0.5 + self._rng.random() / 2))",
            "await trio.lowlevel.checkpoint()",
        ),
    ),
    Bug(
        "executors",
        "back-and-not-said",
        "An executor that could not read says for ever that the log is away.",
        "outages",
        edit(
            Executor,
            "_read",
            'failures = 0\n        self._health.well("log", doing="read")',
            "failures = 0",
        ),
    ),
    Bug(
        "payment",
        "no-answer-is-no",
        "Where no answer comes the payment is reported as declined.",
        "mixed",
        edit(_PaymentExecutor, "_call", _NO_ANSWER, _NO_ANSWER.replace("unknown", "declined")),
    ),
    Bug(
        "payment",
        "no-answer-is-failed",
        "Where no answer comes the call is reported as failed for good.",
        "mixed",
        edit(_PaymentExecutor, "_call", _NO_ANSWER, _NO_ANSWER.replace("unknown", "failed")),
    ),
    Bug(
        "payment",
        "new-key-each-time",
        "Every attempt has a key of its own.",
        "mixed",
        edit(
            _PaymentExecutor,
            "_call",
            "await self._ask(book, action)",
            "await self._ask(book, action if attempt == 1 or not hasattr(action, 'key') else "
            "msgspec.structs.replace(action, key=f'{action.key}:{attempt}'))",
        ),
    ),
    Bug(
        "payment",
        "waits-for-ever",
        "A call to the provider has no time limit.",
        "outages",
        edit(
            _PaymentExecutor,
            "_call",
            "trio.move_on_after(options.call_timeout_s)",
            "trio.CancelScope()",
        ),
    ),
    Bug(
        "payment",
        "key-without-book",
        "Two books share the provider's keys.",
        "mixed",
        edit(
            _PaymentExecutor,
            "_ask",
            '                action.customer,\n                f"{book}:{action.key}",',
            "                action.customer,\n                action.key,",
        ),
    ),
    Bug(
        "payment",
        "asks-about-another",
        "A status is asked for under a reference the provider does not know.",
        "outages",
        edit(
            _PaymentExecutor, "_ask", "provider.status(payment)", "provider.status(action.payment)"
        ),
    ),
    Bug(
        "payment",
        "result-of-the-entry",
        "A result names the stream's entry, not the action.",
        "mixed",
        edit(
            _PaymentExecutor,
            "carry_out",
            "_result(entry.action, action.payment, answer)",
            "_result(entry.id, action.payment, answer)",
        ),
    ),
    Bug(
        "payment",
        "none-is-no",
        "'Never heard of it' is reported as a decline.",
        "outages",
        edit(
            payment,
            "_result",
            '"status": answer.status,',
            '"status": "declined" if answer.status == "none" else answer.status,',
        ),
    ),
    Bug(
        "payment",
        "voids-what-fails",
        "A preauthorization without an answer is voided to be safe.",
        "outages",
        edit(
            _PaymentExecutor,
            "_call",
            _NO_ANSWER,
            'payment = f"{book}:{action.payment}"\n'
            '    await self._provider.void(payment, f"{payment}:safety")\n'
            f"    {_NO_ANSWER}",
        ),
    ),
    Bug(
        "notification",
        "failure-is-delivered",
        "A message that could not be sent is reported as delivered.",
        "mixed",
        edit(
            _NotificationExecutor,
            "_deliver",
            'DeliveryReport(action, booking, "failed", reason)',
            'DeliveryReport(action, booking, "delivered")',
        ),
    ),
    Bug(
        "notification",
        "key-of-the-moment",
        "A message that is tried again has another key.",
        "mixed",
        edit(
            _NotificationExecutor,
            "_deliver",
            "self._mailer.deliver(message)",
            "self._mailer.deliver("
            "msgspec.structs.replace(message, key=f'{message.key}:{attempt}'))",
        ),
    ),
    Bug(
        "notification",
        "key-of-the-booking",
        "One message a booking is enough for the mailer.",
        "mixed",
        edit(
            text,
            "dedupe_key",
            "{notify.booking}:{notify.version}:{notify.kind}:{notify.recipient}",
            "{notify.booking}:{notify.recipient}",
        ),
    ),
    Bug(
        "notification",
        "failure-ends-it",
        "A mailer that fails ends the executor.",
        "mixed",
        edit(
            _NotificationExecutor,
            "_deliver",
            "except OSError as error:",
            "except ValueError as error:",
        ),
    ),
]
