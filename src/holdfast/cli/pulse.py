"""Whether a server that runs also answers: what its process alone does not tell."""

from __future__ import annotations

from typing import Final

import hiredis

from holdfast.actors.ports import LogError
from holdfast.transport.connection import connect, error_of, parse_url

ANSWER_S_MAX: Final = 2.0
"""A server that takes longer to answer is told to be in trouble."""


async def pulse(url: str) -> str:
    """Why the server at *url* does not answer as it should; "" if it does."""
    try:
        connection = await connect(parse_url(url), timeout_s=ANSWER_S_MAX)
        try:
            reply = await connection.call("PING", timeout_s=ANSWER_S_MAX)
        finally:
            await connection.aclose()
        if isinstance(reply, hiredis.ReplyError):
            raise error_of(reply, "asking for a sign of life")
    except LogError as error:
        return str(error)
    return ""
