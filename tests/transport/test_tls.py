"""TLS: who a server must be able to show to be, and what is said where it cannot.

The bundled server speaks no TLS, so a door of the test's own does, in front of it. Certificates are
made by openssl, which is on every machine that runs these tests.
"""

from __future__ import annotations

import random
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest
import trio

from holdfast.actors.ports import LogError, LogUnavailableError, NewInput
from holdfast.config.settings import load
from holdfast.transport.connection import Address, parse_url
from holdfast.transport.redis_log import open_redis_log

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from holdfast.transport.server import EmbeddedServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl"),
]

SECRET = "open-sesame"


class Files:
    """A certificate for localhost that is its own authority, and its key."""

    def __init__(self, folder: Path, name: str) -> None:
        self.certificate = folder / f"{name}.pem"
        self.key = folder / f"{name}.key"
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-nodes", "-days", "2", "-subj", f"/CN={name}"),
                *("-addext", "subjectAltName=DNS:localhost"),
                *("-keyout", str(self.key), "-out", str(self.certificate)),
            ],
            check=True,
            capture_output=True,
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"), "server")


@asynccontextmanager
async def door(
    server: EmbeddedServer, files: Files, asks_for: Path | None = None
) -> AsyncGenerator[int]:
    """The port of a door that speaks TLS, and leads to *server*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    if asks_for is not None:
        context.load_verify_locations(asks_for)
        context.verify_mode = ssl.CERT_REQUIRED

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            inner = await trio.open_unix_socket(str(server.socket))
            async with inner, stream, trio.open_nursery() as nursery:
                nursery.start_soon(pass_on, inner, stream)
                await pass_on(stream, inner)
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        listen = partial(
            trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1", https_compatible=True
        )
        (listener,) = await nursery.start(listen)
        yield listener.transport_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def pass_on(one: trio.abc.ReceiveStream, other: trio.abc.SendStream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await one.receive_some():
            await other.send_all(data)


async def refusal(url: str) -> str:
    with pytest.raises(LogError) as caught:
        async with open_redis_log(url):
            raise AssertionError("not reached")
    assert SECRET not in str(caught.getrepr(style="long"))
    return str(caught.value)


def test_a_url_names_the_files_as_redis_py_does() -> None:
    url = f"rediss://u:{SECRET}@h:1/2?ssl_ca_certs=/c%20a.pem&ssl_certfile=/c.pem&ssl_keyfile=/k"
    assert parse_url(url) == Address(
        "h", 1, "", "u", SECRET, 2, True, "/c a.pem", "/c.pem", "/k"
    )  # fmt: skip
    assert parse_url("rediss://h").tls
    assert load(None, {"HOLDFAST_REDIS_URL": url}).redis_url == url
    assert SECRET not in repr(load(None, {"HOLDFAST_REDIS_URL": url}))
    for wrong in ("rediss://h?ssl_ca_cert=/c", "redis://h?ssl_ca_certs=/c", "unix:///s?ssl=1"):
        with pytest.raises(ValueError, match="rediss:// for TLS"):
            parse_url(wrong)


async def test_the_log_over_tls(real_server: EmbeddedServer, files: Files, book: str) -> None:
    async with door(real_server, files) as port:
        url = f"rediss://localhost:{port}?ssl_ca_certs={files.certificate}"
        async with open_redis_log(url, rng=random.Random(1)) as log:
            big = NewInput("tick", b'"' + b"x" * 60_000 + b'"')
            ids = await log.append(book, [big] * 20)
            found = (await log.read_inputs({book: "0-0"}, 100, 1))[book]
            assert [entry.id for entry in found] == ids
            assert await log.read_inputs({book: ids[-1]}, 100, 0.05) == {}
            with trio.move_on_after(0.05) as scope:
                await log.read_inputs({book: ids[-1]}, 100, 60)
            assert scope.cancelled_caught
            assert (await log.facts(book, "inputs")).length == 20
            assert log.statistics().connections_lost == 0


def test_the_log_over_tls_under_asyncio(
    real_server: EmbeddedServer, files: Files, book: str
) -> None:
    """The HTTP door runs there."""

    async def main(port: int) -> None:
        url = f"rediss://localhost:{port}?ssl_ca_certs={files.certificate}"
        async with open_redis_log(url) as log:
            (id_,) = await log.append(book, [NewInput("tick", b"{}")])
            assert (await log.read_inputs({book: "0-0"}, 9, 0))[book][0].id == id_

    async def outer() -> None:
        async with door(real_server, files) as port:
            await trio.to_thread.run_sync(lambda: anyio.run(main, port, backend="asyncio"))

    trio.run(outer)


async def test_a_server_that_cannot_show_who_it_is_is_refused(
    real_server: EmbeddedServer, files: Files, tmp_path: Path
) -> None:
    other = Files(tmp_path, "other")
    async with door(real_server, files) as port:
        why = await refusal(f"rediss://u:{SECRET}@localhost:{port}")
        assert "its certificate is not accepted (self-signed certificate)" in why.replace(
            "self signed", "self-signed"
        )
        assert "name its authority with ssl_ca_certs" in why
        why = await refusal(f"rediss://localhost:{port}?ssl_ca_certs={other.certificate}")
        assert "its certificate is not accepted" in why
        why = await refusal(f"rediss://127.0.0.1:{port}?ssl_ca_certs={files.certificate}")
        assert "the host as the certificate does" in why
        why = await refusal(f"rediss://localhost:{port}?ssl_ca_certs={tmp_path}/none.pem")
        assert "none.pem cannot be used (No such file or directory)" in why


async def test_a_server_may_ask_for_our_certificate(
    real_server: EmbeddedServer, files: Files, tmp_path: Path
) -> None:
    mine = Files(tmp_path, "mine")
    async with door(real_server, files, asks_for=mine.certificate) as port:
        url = f"rediss://localhost:{port}?ssl_ca_certs={files.certificate}"
        with pytest.raises(LogUnavailableError):
            async with open_redis_log(url):
                raise AssertionError("not reached")
        ours = f"&ssl_certfile={mine.certificate}&ssl_keyfile={mine.key}"
        async with open_redis_log(url + ours) as log:
            await log.read_record("demo")
        why = await refusal(f"{url}&ssl_certfile={mine.certificate}&ssl_keyfile={files.key}")
        assert "our certificate" in why


async def test_a_port_without_tls_is_told(real_server: EmbeddedServer) -> None:
    async def plain(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"-ERR Protocol error\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, plain, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        why = await refusal(f"rediss://u:{SECRET}@localhost:{port}")
        assert "see whether it speaks TLS on this port" in why
        nursery.cancel_scope.cancel()
