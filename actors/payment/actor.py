"""The payment executor: carries out what the book decided about money, and reports what it saw.

It decides nothing. A call goes to the provider under the payment's reference and the action's
idempotency key, which are the same however often it is tried, here or by another process, so it has
one effect. What the provider says comes back to the book as ``payment_result``. Where no answer can
be had the status is ``unknown``, never a decline: the book asks again later.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import structlog
import trio

from holdfast.actors.booking.messages import (
    Capture,
    CheckStatus,
    PaymentAction,
    PaymentResult,
    Preauthorize,
    Refund,
    Void,
)
from holdfast.actors.executor import (
    REF_LENGTH_MAX,
    Backoff,
    ExecutorOptions,
    dead_letter_of,
    run_executor,
)
from holdfast.actors.health import Health
from holdfast.actors.ports import NewInput, ProviderAnswer, ProviderUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.actors.ports import ActionEntry, DeadLetter, Log, Provider

PRINCIPAL = "service:payment"

_REASON_LENGTH_MAX = 500
_REFERENCE_LENGTH_MAX = 255

_TYPES: dict[type[PaymentAction], str] = {
    Preauthorize: "preauthorize",
    Capture: "capture",
    Void: "void",
    Refund: "refund",
    CheckStatus: "check_status",
}

_log = structlog.get_logger(__name__)


class PaymentOptions(ExecutorOptions, frozen=True, kw_only=True):
    """How the payment executor goes about it.

    Attributes:
      call_timeout_s: Longest wait for one answer of the provider.
    """

    call_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.call_timeout_s <= 0:
            raise ValueError("call_timeout_s must be more than 0")


class _PaymentExecutor:
    """Carries out payment actions against one provider."""

    def __init__(
        self, provider: Provider, options: PaymentOptions, rng: random.Random, health: Health
    ) -> None:
        self._provider = provider
        self._options = options
        self._health = health
        self._backoff = Backoff(options, rng)
        self._decoder = msgspec.json.Decoder(PaymentAction)
        self._encoder = msgspec.json.Encoder()

    async def carry_out(self, book: str, entry: ActionEntry) -> NewInput | DeadLetter:
        """Call the provider as *entry* says; the result for the book."""
        try:
            action = self._decoder.decode(entry.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            why = f"the body is no payment action: {error}"
            return dead_letter_of("payments", entry, why)
        kind = _TYPES[type(action)]
        if kind != entry.type:
            return dead_letter_of("payments", entry, f"the body is of type {kind}")
        if not 1 <= len(action.payment) <= REF_LENGTH_MAX:
            why = f"the payment's id must have 1 to {REF_LENGTH_MAX} characters"
            return dead_letter_of("payments", entry, why)
        answer, attempts = await self._call(book, action)
        asked_cents = 0 if isinstance(action, Void | CheckStatus) else action.amount_cents
        if asked_cents and answer.amount_cents not in (0, asked_cents):
            # Whatever the book does about it, money is not as it should be: a person must look.
            _log.error(
                "amount_differs",
                book=book,
                payment=action.payment,
                asked_cents=asked_cents,
                told_cents=answer.amount_cents,
                trace=entry.trace,
            )
        result = _result(entry.action, action.payment, answer)
        _log.info(
            "payment_called",
            book=book,
            action=entry.action,
            payment=action.payment,
            call=kind,
            status=result.status,
            reason=result.reason,
            attempts=attempts,
            deliveries=entry.deliveries,
            trace=entry.trace,
        )
        return NewInput(
            type="payment_result",
            body=self._encoder.encode(result),
            by=PRINCIPAL,
            trace=entry.trace,
        )

    async def _call(self, book: str, action: PaymentAction) -> tuple[ProviderAnswer, int]:
        """The provider's answer and the number of attempts; ``unknown`` if none could be had."""
        options = self._options
        why = reason = ""
        for attempt in range(1, options.attempts_max + 1):
            with trio.move_on_after(options.call_timeout_s):
                try:
                    answer = await self._ask(book, action)
                except ProviderUnavailableError as error:
                    why = str(error)
                else:
                    self._health.well("provider")
                    return answer, attempt
            _log.debug("payment_retried", book=book, payment=action.payment, why=why)
            reason = f"the provider is unavailable: {why or 'no answer in time'}"
            self._health.trouble("provider", reason)
            if attempt < options.attempts_max:
                await self._backoff.wait(attempt)
        return ProviderAnswer("unknown", reason=reason), options.attempts_max

    async def _ask(self, book: str, action: PaymentAction) -> ProviderAnswer:
        provider, payment = self._provider, f"{book}:{action.payment}"
        match action:
            case Preauthorize():
                return await provider.preauthorize(
                    payment,
                    action.amount_cents,
                    action.currency,
                    action.customer,
                    f"{book}:{action.key}",
                )
            case Capture():
                return await provider.capture(payment, action.amount_cents, f"{book}:{action.key}")
            case Void():
                return await provider.void(payment, f"{book}:{action.key}")
            case Refund():
                return await provider.refund(payment, action.amount_cents, f"{book}:{action.key}")
            case CheckStatus():
                return await provider.status(payment)


def _result(action_id: str, payment: str, answer: ProviderAnswer) -> PaymentResult:
    """*answer* as the book understands it; a status that is not in the contract is ``unknown``."""
    fields = {
        "action": action_id,
        "payment": payment,
        "status": answer.status,
        "reference": answer.reference[:_REFERENCE_LENGTH_MAX],
        "reason": answer.reason[:_REASON_LENGTH_MAX],
    }
    try:
        return msgspec.convert(fields, PaymentResult)
    except msgspec.ValidationError:
        fields |= {
            "status": "unknown",
            "reason": f"the provider's status means nothing to us: {answer.status}"[
                :_REASON_LENGTH_MAX
            ],
        }
        return msgspec.convert(fields, PaymentResult)


async def run_payment(
    log: Log,
    provider: Provider,
    *,
    consumer: str,
    options: PaymentOptions,
    stop: trio.Event,
    books: Sequence[str] | None = None,
    rng: random.Random | None = None,
    health: Health | None = None,
) -> None:
    """Carry out payment actions until *stop*. Several of these may run on the same books.

    Args:
      log: Where actions come from and results go.
      provider: Who moves the money; not closed here.
      consumer: Name in the consumer group, unique among the living.
      options: Bounds and times.
      stop: Set it to end: what is held is finished and posted first, within the grace.
      books: Whose actions; None for every registered book, new ones too.
      rng: Source of the jitter of waits.
      health: Told when the log or the provider is away, and when they are back.

    Raises:
      LogError: The log needs a person.
    """
    rng, health = rng or random.Random(), health or Health()
    executor = _PaymentExecutor(provider, options, rng, health)
    await run_executor(
        log,
        "payments",
        executor.carry_out,
        consumer=consumer,
        options=options,
        stop=stop,
        books=books,
        rng=rng,
        health=health,
    )
