"""Secrets stay out of what people read, whatever the URL looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.config.redact import redacted


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:pw@localhost:6379", "redis://***@localhost:6379"),
        ("rediss://user:pw@h/1", "rediss://***@h/1"),
        ("https://sk_live_1@pay.example/v1", "https://***@pay.example/v1"),
        ("redis://user:p@ss/w@h", "redis://***@h"),
        ("redis://h?password=pw", "redis://h?***"),
        ("redis://:pw@h/0?db=1", "redis://***@h/0?***"),
        ("redis://h?password=p@w", "redis://***"),
        ("redis://a://b@h", "***@h"),
        (":pw@h:6379", "***@h:6379"),
        ("plain text", "plain text"),
        ("", ""),
    ],
)
def test_what_could_be_a_secret_is_hidden(url: str, expected: str) -> None:
    assert redacted(url) == expected


# Letters that stand in no scheme, host or mask, so that finding one means that it leaked.
secrets = st.text("XYZ:/?@#%= ", min_size=1).filter(lambda text: any(c in "XYZ" for c in text))


@given(secret=secrets, scheme=st.sampled_from(["redis", "https", ""]))
def test_no_piece_of_a_password_is_left(secret: str, scheme: str) -> None:
    """Passwords with the URL's own delimiters in them are the ones that leak."""
    shown = redacted(f"{scheme}://user:{secret}@host:1/0")
    assert not set(shown) & set("XYZ")


@given(secret=secrets)
def test_no_piece_of_a_query_value_is_left(secret: str) -> None:
    shown = redacted(f"https://host/path?password={secret}")
    assert not set(shown) & set("XYZ")
