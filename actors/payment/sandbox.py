"""The sandbox payment provider: a small HTTP service that behaves, and misbehaves, like a real one.

========================================  ==========================================================
``POST /v1/holds``                        ``{reference, amount_cents, currency, customer}``
``GET /v1/holds/{reference}``             the payment
``POST /v1/holds/{reference}/capture``    ``{amount_cents}`` or nothing: all of it
``POST /v1/holds/{reference}/void``
``POST /v1/holds/{reference}/refund``     ``{amount_cents}`` or nothing: all of it
``GET /v1/ledger?prefix=&after=&limit=``  a page of payments, in the order in which they came to be
``GET /v1/sandbox/totals``                money by currency
``GET``, ``PUT /v1/sandbox/script``       how it behaves from now on; not kept over a restart
``GET /healthz``
========================================  ==========================================================

Every ``POST`` needs an ``Idempotency-Key``. A decline is 402 with the payment; a refusal is
``{"error": {"code", "message"}, "payment": …}`` under 404, 409 or 422.

It runs on asyncio in a process of its own. All that changes the ledger happens between two awaits:
look the key up, write the journal, change the ledger.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec
import structlog
import uvicorn
from msgspec import Meta
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from holdfast.actors.payment.journal import Journal
from holdfast.actors.payment.ledger import (
    Call,
    Capture,
    Cents,
    Change,
    Currency,
    Hold,
    Key,
    Ledger,
    Payment,
    Reference,
    Refund,
    Reply,
    Settle,
    Void,
)
from holdfast.actors.payment.script import Attempt, Operation, Plan, Script

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    from starlette.requests import Request

PAGE_MAX = 2_000
"""Most payments in one page of the ledger."""

SCAN_MAX = 50_000
"""Most payments looked at for one page, so that a rare prefix never stalls the service."""

_BODY_BYTES_MAX = 1_048_576
_CONNECTIONS_MAX = 4_096
_ATTEMPTS_MAX = 1_000_000
_STOP_S = 1

_log = structlog.get_logger(__name__)
_encoder = msgspec.json.Encoder()
_T = TypeVar("_T")


class _HoldBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reference: Reference
    amount_cents: Cents
    currency: Currency
    customer: Annotated[str, Meta(max_length=255)] = ""


class _AmountBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    amount_cents: Cents | None = None


class _EmptyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _RequestError(Exception):
    """The request is malformed."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = _error(status, code, message)


_STATUS = {
    "not_found": 404,
    "wrong_state": 409,
    "mismatch": 409,
    "amount_too_large": 422,
    "key_reused": 422,
}


class Sandbox:
    """The provider: its ledger, its journal, and its script.

    Args:
      ledger: What *journal* gave at its replay.
      journal: Written before every change.
      script: How to behave.
    """

    def __init__(self, ledger: Ledger, journal: Journal, script: Script) -> None:
        self._ledger = ledger
        self._journal = journal
        self._script = script
        self._attempts: dict[tuple[Operation, str], int] = {}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let every call that is kept waiting go, so that the service can leave at once."""
        self._stopping.set()

    def app(self) -> Starlette:
        """The routes."""
        hold = "/v1/holds/{reference:path}"
        return Starlette(
            routes=[
                Route("/v1/holds", self._post_hold, methods=["POST"]),
                Route(f"{hold}/capture", self._post_capture, methods=["POST"]),
                Route(f"{hold}/void", self._post_void, methods=["POST"]),
                Route(f"{hold}/refund", self._post_refund, methods=["POST"]),
                Route(hold, self._get_hold, methods=["GET"]),
                Route("/v1/ledger", self._get_ledger, methods=["GET"]),
                Route("/v1/sandbox/totals", self._get_totals, methods=["GET"]),
                Route("/v1/sandbox/script", self._get_script, methods=["GET"]),
                Route("/v1/sandbox/script", self._put_script, methods=["PUT"]),
                Route("/healthz", self._get_health, methods=["GET"]),
            ],
            exception_handlers={
                _RequestError: _answer_error,
                ClientDisconnect: _answer_nobody,
                OSError: _answer_full,
            },
        )

    # -- calls -------------------------------------------------------------

    async def _post_hold(self, request: Request) -> Response:
        body = await _read(request, _HoldBody)
        call = Hold(body.reference, _key(request), body.amount_cents, body.currency, body.customer)
        return await self._serve("hold", call)

    async def _post_capture(self, request: Request) -> Response:
        body = await _read(request, _AmountBody)
        return await self._serve(
            "capture", Capture(_reference(request), _key(request), body.amount_cents)
        )

    async def _post_void(self, request: Request) -> Response:
        await _read(request, _EmptyBody)
        return await self._serve("void", Void(_reference(request), _key(request)))

    async def _post_refund(self, request: Request) -> Response:
        body = await _read(request, _AmountBody)
        return await self._serve(
            "refund", Refund(_reference(request), _key(request), body.amount_cents)
        )

    async def _get_hold(self, request: Request) -> Response:
        return await self._serve("status", _reference(request))

    async def _serve(self, operation: Operation, call: Call | str) -> Response:
        """Answer one call as the script says: with which fault, and when."""
        attempt = self._attempt(operation, call)
        plan = self._script.plan(attempt)
        if plan.delay_s:
            await self._wait(plan.delay_s)
        if plan.fault == "none":
            return self._carry_out(call, attempt, plan)
        _log.debug("fault", fault=plan.fault, operation=operation, reference=attempt.reference)
        if plan.fault == "busy":
            return _error(429, "busy", "too many requests; try again later")
        if plan.fault == "late":
            # At a stop the call is not carried out: its caller gave up on it long ago.
            if await self._wait(self._script.wait_s):
                return self._carry_out(call, attempt, plan)
            return _error(503, "stopping", "the provider is stopping; try again")
        if plan.fault in ("timeout_after", "error_after"):
            self._carry_out(call, attempt, plan)
        if plan.fault in ("timeout_before", "timeout_after"):
            await self._wait(self._script.wait_s)
            return _error(504, "timeout", "no answer in time; ask what became of the call")
        return _error(500, "internal", "something went wrong; ask what became of the call")

    def _carry_out(self, call: Call | str, attempt: Attempt, plan: Plan) -> Response:
        if isinstance(call, str):
            return self._status(call, attempt)
        if isinstance(call, Hold):
            call = msgspec.structs.replace(call, verdict=plan.verdict, reason=plan.reason)
        reply = self._ledger.replayed(call)
        return _reply(self._change(call) if reply is None else reply)

    def _status(self, reference: str, attempt: Attempt) -> Response:
        payment = self._ledger.payment(reference)
        if payment is None:
            return _error(404, "not_found", "no payment has this reference")
        if payment.status == "pending" and attempt.number >= self._script.pending_reads:
            plan = self._script.settle(msgspec.structs.replace(attempt, operation="hold"))
            verdict: Literal["authorized", "declined"] = (
                "declined" if plan.verdict == "declined" else "authorized"
            )
            self._change(Settle(reference, verdict, plan.reason if verdict == "declined" else ""))
            payment = self._ledger.payment(reference)
        return _json(payment)

    def _change(self, change: Change) -> Reply:
        known = self._ledger.payment(change.reference) is not None
        if known or isinstance(change, Hold):  # else it is not found: nothing to remember
            self._journal.append(change)
        return self._ledger.apply(change)

    def _attempt(self, operation: Operation, call: Call | str) -> Attempt:
        """*call* as the script sees it, and count it."""
        reference = call if isinstance(call, str) else call.reference
        if isinstance(call, Hold):
            customer, amount_cents = call.customer, call.amount_cents
        else:
            payment = self._ledger.payment(reference)
            customer = payment.customer if payment else ""
            amount_cents = payment.amount_cents if payment else 0
        if len(self._attempts) >= _ATTEMPTS_MAX:
            self._attempts.clear()
        number = self._attempts.get((operation, reference), 0)
        self._attempts[operation, reference] = number + 1
        return Attempt(operation, reference, customer, amount_cents, number)

    async def _wait(self, wait_s: float) -> bool:
        """Wait; False if the service was told to stop meanwhile."""
        try:
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        except TimeoutError:
            return True
        return False

    # -- looking at it -----------------------------------------------------

    async def _get_ledger(self, request: Request) -> Response:
        query = request.query_params
        prefix = query.get("prefix", "")
        try:
            after, limit = int(query.get("after", "0")), int(query.get("limit", str(PAGE_MAX)))
        except ValueError:
            raise _RequestError(400, "bad_page", "after and limit are numbers") from None
        if after < 0 or not 1 <= limit <= PAGE_MAX:
            raise _RequestError(400, "bad_page", f"after is 0 or more, limit 1 to {PAGE_MAX}")
        found: list[Payment] = []
        last = after
        for last, payment in enumerate(self._ledger.payments(after), start=after + 1):
            if payment.reference.startswith(prefix):
                found.append(payment)
            if len(found) >= limit or last - after >= SCAN_MAX:
                break
        return _json({"payments": found, "next": last if last < len(self._ledger) else None})

    async def _get_totals(self, _request: Request) -> Response:
        return _json(self._ledger.totals())

    async def _get_script(self, _request: Request) -> Response:
        return _json(self._script)

    async def _put_script(self, request: Request) -> Response:
        self._script = await _read(request, Script)
        self._attempts.clear()
        _log.info("script_changed", rules=len(self._script.rules), seed=self._script.seed)
        return _json(self._script)

    async def _get_health(self, _request: Request) -> Response:
        return _json({"status": "ok", "payments": len(self._ledger)})


def _json(value: object, status: int = 200) -> Response:
    return Response(_encoder.encode(value), status, media_type="application/json")


def _error(status: int, code: str, message: str, payment: Payment | None = None) -> Response:
    return _json({"error": {"code": code, "message": message}, "payment": payment}, status)


def _reply(reply: Reply) -> Response:
    if reply.refused:
        return _error(_STATUS[reply.refused], reply.refused, reply.message, reply.payment)
    assert reply.payment is not None
    return _json(reply.payment, 402 if reply.payment.status == "declined" else 200)


async def _answer_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, _RequestError)
    return error.response


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # the client left in the middle of its body


async def _answer_full(_request: Request, error: Exception) -> Response:
    """The journal could not be written, so nothing was done."""
    _log.error("journal_not_written", error=str(error))
    return _error(503, "journal", "the journal cannot be written; make room on the disk")


def _reference(request: Request) -> str:
    return str(request.path_params["reference"])


def _key(request: Request) -> Key:
    key = request.headers.get("idempotency-key", "")
    if not key:
        raise _RequestError(400, "idempotency_key_required", "send an Idempotency-Key")
    if len(key) > 255:
        raise _RequestError(400, "idempotency_key_too_long", "a key has 255 characters at most")
    return key


async def _read(request: Request, kind: type[_T]) -> _T:
    """The body as *kind*; no body is an empty object."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _BODY_BYTES_MAX:
            raise _RequestError(413, "too_large", f"a body has {_BODY_BYTES_MAX} bytes at most")
    try:
        return msgspec.json.decode(bytes(data) or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _RequestError(400, "bad_body", str(error)) from None


# --- running it -------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """uvicorn that lets waiting calls go at a stop, and returns instead of raising the signal again."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and sig == signal.SIGINT  # asked a second time
        self.should_exit = True
        self._stop()


def serve(
    data: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    script: Script | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Run the sandbox provider until SIGTERM or SIGINT; call it in a process of its own.

    Args:
      data: Folder of its journal; made where there is none.
      host: Address to listen on.
      port: 0 for any free one.
      script: How to behave; None for the default one, which grants everything at once.
      ready: Called with the base URL once connections are taken.

    Raises:
      JournalError: The journal is damaged, or another process uses it.
      OSError: The address is taken, or the folder cannot be written.
    """
    data.mkdir(parents=True, exist_ok=True)
    journal = Journal(data / "provider.jsonl")
    try:
        ledger = journal.replay()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2_048)
        with listener:
            _run(Sandbox(ledger, journal, script or Script()), listener, len(ledger), ready)
    finally:
        journal.close()


def _run(
    sandbox: Sandbox, listener: socket.socket, payments: int, ready: Callable[[str], None] | None
) -> None:
    config = uvicorn.Config(
        sandbox.app(),
        access_log=False,
        log_config=None,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        limit_concurrency=_CONNECTIONS_MAX,
        timeout_keep_alive=30,  # longer than a client keeps one, so that the client closes first
        timeout_graceful_shutdown=_STOP_S,
    )
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    _log.info("sandbox_listening", url=url, payments=payments)
    if ready is not None:
        ready(url)
    _Server(config, sandbox.stop).run(sockets=[listener])
    _log.info("sandbox_stopped", url=url)
