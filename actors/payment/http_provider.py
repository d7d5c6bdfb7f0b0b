"""The payment provider over HTTP: the :class:`~holdfast.actors.ports.Provider` port on the sandbox's API.

What an answer means is decided here, and carefully, for money hangs on it:

- A payment in the answer is the truth: its status is reported, also where the call itself was
  refused because of that status (a void of what was captured is answered ``captured``).
- A refusal for another reason (too large, a key used for something else) is ``failed``.
- Anything that does not prove what the provider knows (no connection, no answer in time, 5xx, 429,
  a proxy's page, a body that is no JSON of ours) is
  :class:`~holdfast.actors.ports.ProviderUnavailableError`: what was asked may have happened. In
  particular a 404 counts as ``none`` only if the provider itself says so.

Connections are ours to hand out, one transport for each: the pool of httpcore looks at every
connection for every request, which at 32 of them took four fifths of the time.
"""

from __future__ import annotations

from typing import Literal, TypeVar
from urllib.parse import quote

import anyio
import httpx
import msgspec

from holdfast.actors.ports import ProviderAnswer, ProviderUnavailableError

Method = Literal["GET", "POST"]
_AnswerT = TypeVar("_AnswerT")

PAGES_MAX = 1_000_000
"""Most pages of one ledger; more means that the provider goes in circles."""

_IDLE_S = 10.0  # less than a server keeps an idle connection, so that none is cut under a request

_DEFINITE = frozenset({400, 402, 404, 409, 413, 422})
_COME_BACK = frozenset({"idempotency_in_progress"})


class _Payment(msgspec.Struct, frozen=True, gc=False):
    id: str
    reference: str
    status: str
    amount_cents: int = 0
    reason: str = ""


class _Problem(msgspec.Struct, frozen=True, gc=False):
    code: str
    message: str = ""


class _Refused(msgspec.Struct, frozen=True, gc=False):
    error: _Problem
    payment: _Payment | None = None


class _Page(msgspec.Struct, frozen=True, gc=False):
    payments: list[_Payment]
    next: int | None = None


_payment_decoder = msgspec.json.Decoder(_Payment)
_refused_decoder = msgspec.json.Decoder(_Refused)
_page_decoder = msgspec.json.Decoder(_Page)


class _Body(httpx.AsyncByteStream):
    """A request's body. httpx's own is an async generator, left open when a connection breaks."""

    def __init__(self, content: bytes) -> None:
        self._rest = [content] if content else []

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        if not self._rest:
            raise StopAsyncIteration
        return self._rest.pop()


class HttpProvider:
    """A client of the provider; use it from one event loop, under trio or asyncio.

    Args:
      base_url: Such as ``http://127.0.0.1:8631``.
      timeout_s: Most time to connect, and between two bytes of an answer.
      connections_max: Most connections; calls beyond wait for one, up to *timeout_s*.
    """

    def __init__(self, base_url: str, timeout_s: float = 5.0, connections_max: int = 32) -> None:
        self._base_url = base_url.rstrip("/")
        self._host = httpx.URL(base_url).netloc.decode("ascii")
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._timeout_s = timeout_s
        self._extensions = {"timeout": httpx.Timeout(timeout_s).as_dict()}
        self._turns = anyio.Semaphore(connections_max, max_value=connections_max)
        # The last one used comes first, so that those not needed go idle and close.
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._transports: list[httpx.AsyncHTTPTransport] = []

    async def preauthorize(
        self, payment: str, amount_cents: int, currency: str, customer: str, key: str
    ) -> ProviderAnswer:
        """Put *amount_cents* on hold."""
        body: dict[str, object] = {
            "reference": payment,
            "amount_cents": amount_cents,
            "currency": currency,
            "customer": customer,
        }
        return await self._ask("POST", "/v1/holds", key, body)

    async def capture(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        """Take money that is on hold."""
        return await self._ask("POST", _path(payment, "/capture"), key, _amount(amount_cents))

    async def void(self, payment: str, key: str) -> ProviderAnswer:
        """Release money that is on hold."""
        return await self._ask("POST", _path(payment, "/void"), key)

    async def refund(self, payment: str, amount_cents: int, key: str) -> ProviderAnswer:
        """Give back money that was taken."""
        return await self._ask("POST", _path(payment, "/refund"), key, _amount(amount_cents))

    async def status(self, payment: str) -> ProviderAnswer:
        """What the provider knows of *payment*."""
        return await self._ask("GET", _path(payment))

    async def ledger(self, prefix: str = "") -> dict[str, ProviderAnswer]:
        """Every payment whose id begins with *prefix*, by id, in the order in which they came to be."""
        found: dict[str, ProviderAnswer] = {}
        after = 0
        for _ in range(PAGES_MAX):
            path = f"/v1/ledger?prefix={quote(prefix, safe='')}&after={after}"
            response = await self._send("GET", path)
            if response.status_code != 200:
                raise ProviderUnavailableError(f"the provider answered {response.status_code}")
            page = _decode(response, _page_decoder)
            for payment in page.payments:
                found[payment.reference] = _answer(payment)
            if page.next is None:
                return found
            if page.next <= after:
                break
            after = page.next
        raise ProviderUnavailableError("the provider's pages do not end; see its log")

    async def aclose(self) -> None:
        """Close the connections."""
        for transport in self._transports:
            await transport.aclose()

    async def _ask(
        self, method: Method, path: str, key: str = "", body: dict[str, object] | None = None
    ) -> ProviderAnswer:
        response = await self._send(method, path, key, body)
        status = response.status_code
        if status in (200, 201, 202):
            return _answer(_decode(response, _payment_decoder))
        if status not in _DEFINITE:
            raise ProviderUnavailableError(f"the provider answered {status}")
        if status == 402:
            return _answer(_decode(response, _payment_decoder))
        return _refusal(_decode(response, _refused_decoder))

    async def _send(
        self, method: Method, path: str, key: str = "", body: dict[str, object] | None = None
    ) -> httpx.Response:
        headers = {"host": self._host, "accept": "application/json"}
        if key:
            headers["idempotency-key"] = quote(key, safe=":@/")
        content = b"" if body is None else msgspec.json.encode(body)
        if content:
            headers["content-type"] = "application/json"
        if method == "POST":
            headers["content-length"] = str(len(content))
        request = httpx.Request(
            method,
            self._base_url + path,
            headers=headers,
            stream=_Body(content),
            extensions=self._extensions,
        )
        try:
            with anyio.fail_after(self._timeout_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise ProviderUnavailableError("every connection is busy") from error
        transport = self._idle.pop() if self._idle else self._transport()
        try:
            response = await transport.handle_async_request(request)
            try:
                await response.aread()
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            # The class says what happened; its text may carry addresses and adds nothing.
            raise ProviderUnavailableError(type(error).__name__) from error
        finally:
            self._idle.append(transport)
            self._turns.release()
        return response

    def _transport(self) -> httpx.AsyncHTTPTransport:
        """One more connection, opened at its first call. It goes through no proxy."""
        limits = httpx.Limits(
            max_connections=1, max_keepalive_connections=1, keepalive_expiry=_IDLE_S
        )
        transport = httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=limits)
        self._transports.append(transport)
        return transport


def _path(payment: str, call: str = "") -> str:
    return f"/v1/holds/{quote(payment, safe='')}{call}"


def _amount(amount_cents: int) -> dict[str, object]:
    return {"amount_cents": amount_cents}


def _decode(response: httpx.Response, decoder: msgspec.json.Decoder[_AnswerT]) -> _AnswerT:
    try:
        return decoder.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProviderUnavailableError(
            f"the provider's answer {response.status_code} cannot be read"
        ) from error


def _answer(payment: _Payment) -> ProviderAnswer:
    return ProviderAnswer(payment.status, payment.id, payment.reason, payment.amount_cents)


def _refusal(refused: _Refused) -> ProviderAnswer:
    """What a definite refusal says of the payment."""
    code, payment = refused.error.code, refused.payment
    if code in _COME_BACK:
        raise ProviderUnavailableError(code)
    if code == "not_found":
        return ProviderAnswer("none")
    if code == "wrong_state" and payment is not None:
        return _answer(payment)
    return ProviderAnswer("failed", payment.id if payment else "", code)
