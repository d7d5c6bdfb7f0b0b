"""Calls of a log that may be away: the caller waits, and calls again, longer each time.

The waits have jitter, so that many actors that lost one server do not come back to it at once.
"""

from __future__ import annotations

import math
from itertools import chain, count, repeat
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import structlog
import trio

from holdfast.actors.ports import LogUnavailableError

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from holdfast.actors.health import Health

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")
_log = structlog.get_logger("booking")


class Patience:
    """How one actor waits for its log.

    Args:
      retry_s: The first wait, at most; it doubles with every further one.
      retry_s_max: The longest wait.
      rng: Where the jitter comes from.
      health: Told that the log is away, as long as anybody waits for it.

    Attributes:
      away_at_s: When the log was last found to be away, in trio's time; minus infinity if never.
    """

    def __init__(
        self, retry_s: float, retry_s_max: float, rng: random.Random, health: Health
    ) -> None:
        self._retry_s = retry_s
        self._retry_s_max = retry_s_max
        self._rng = rng
        self._health = health
        self._calls = count()
        self.away_at_s = -math.inf

    async def call(self, call: Callable[[Unpack[_Args]], Awaitable[_T]], *args: *_Args) -> _T:
        """What *call* answers in the end.

        Raises:
          LogError: Any but :class:`LogUnavailableError`.
        """
        doing = f"call {next(self._calls)}"
        try:
            for tries in count():
                try:
                    return await call(*args)
                except LogUnavailableError as error:
                    await self.pause(tries, error, doing)
        finally:
            self.done(doing)
        raise AssertionError

    async def wait(
        self,
        call: Callable[[Unpack[_Args], float], Awaitable[_T]],
        *args: *_Args,
        wait_s: float,
    ) -> _T:
        """What *call* answers in the end, which takes last how long it may wait for something.

        When it is tried again it waits for nothing: that the log is back shall be seen at once.

        Raises:
          LogError: Any but :class:`LogUnavailableError`.
        """
        waits_s = chain([wait_s], repeat(0.0))
        return await self.call(lambda: call(*args, next(waits_s)))

    async def pause(self, tries: int, error: Exception, doing: str) -> None:
        """Wait after *error*, which ended the try number *tries*, from 0, of *doing* something."""
        most_s = min(self._retry_s_max, self._retry_s * 2 ** min(tries, 30))
        wait_s = most_s * (0.5 + self._rng.random() / 2)
        self.away_at_s = trio.current_time()
        self._health.trouble("log", str(error), doing=doing)
        _log.warning("log_away", why=str(error), wait_s=round(wait_s, 3))
        await trio.sleep(wait_s)
        self.away_at_s = trio.current_time()

    def done(self, doing: str) -> None:
        """What was waited for in *doing* something is over, for better or worse."""
        self._health.well("log", doing=doing)
