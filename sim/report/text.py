"""Text on the page: what comes from strangers is escaped, times and lengths are for people."""

from __future__ import annotations

import unicodedata
from html import escape
from typing import Final

_CUT: Final = "…"


def plain(text: str, length_max: int = 0) -> str:
    """*text* as HTML. What cannot be seen, or changes how its neighbours are seen, is spelled out.

    Args:
      text: Of anybody.
      length_max: The rest is cut off; 0 for all of it.
    """
    if length_max and len(text) > length_max:
        text = text[: length_max - 1] + _CUT
    return escape("".join(one if _is_visible(one) else _spelled(one) for one in text))


def _is_visible(one: str) -> bool:
    return one == " " or unicodedata.category(one)[0] not in "CZ"


def _spelled(one: str) -> str:
    return one.encode("unicode_escape").decode()


def of_bytes(body: bytes) -> str:
    """Bytes of a stranger as text."""
    return body.decode("utf-8", "backslashreplace")


def clock(ms: int) -> str:
    """A time of the run: ``0:01.606``, ``1:00:05.000``."""
    seconds, rest = divmod(ms, 1000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minute:02}:{second:02}.{rest:03}"
    return f"{minute}:{second:02}.{rest:03}"


def length(ms: int) -> str:
    """How long something took, in a word or two."""
    if ms < 1_000:
        return f"{ms} ms"
    if ms < 10_000:
        return f"{ms / 1000:.1f} s"
    if ms < 120_000:
        return f"{round(ms / 1000)} s"
    if ms < 7_200_000:
        return f"{round(ms / 60_000)} min"
    return f"{round(ms / 3_600_000)} h"


def count(number: int, one: str, many: str = "") -> str:
    """``1 fault``, ``2,000 faults``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
