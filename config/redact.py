"""Keep secrets out of what people read: a URL without what it lets in with."""

from __future__ import annotations

HIDDEN = "***"
"""What stands where a secret stood."""


def redacted(url: str) -> str:
    """*url* as it may be shown: who logs in, with what, and query values are hidden.

    It also holds for a URL that is not well-formed, since that is when errors show it: whatever
    could be part of a secret goes, even if a harmless piece goes with it. The user's name goes too,
    because some services take their key there.

    Args:
      url: Any text; one with neither ``@`` nor ``?`` comes back as it is.

    Returns:
      Such as ``redis://***@host:6379/0``.
    """
    scheme, separator, rest = url.rpartition("://") if url.count("://") == 1 else ("", "", url)
    at, query = rest.rfind("@"), rest.find("?")
    if 0 <= query < at:
        return f"{scheme}{separator}{HIDDEN}"  # which of both the secret is in cannot be told
    if at >= 0:
        rest = HIDDEN + rest[at:]
        query = rest.find("?")
    if query >= 0:
        rest = rest[: query + 1] + HIDDEN
    return f"{scheme}{separator}{rest}"
