"""The hash chain: framed, resumable, and quick to search."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.machine.digest import DIGEST_BYTES, Chain, digest, first_difference


def links_of(history: list[bytes]) -> list[str]:
    chain = Chain()
    links: list[str] = []
    for part in history:
        chain.feed(part)
        links.append(chain.hex)
    return links


def test_a_digest_is_blake2b_of_the_encoding() -> None:
    assert digest(b"state") == hashlib.blake2b(b"state", digest_size=16).hexdigest()
    assert len(digest(b"")) == 2 * DIGEST_BYTES


def test_a_link_is_the_hash_of_the_link_before_and_each_part_after_its_length() -> None:
    """Written out, since other languages must be able to follow it."""
    chain = Chain()
    chain.feed(b"one", b"three")
    first = hashlib.blake2b(b"\x03\0\0\0one\x05\0\0\0three", digest_size=16)
    assert chain.hex == first.hexdigest()
    chain.feed(b"")
    assert chain.hex == hashlib.blake2b(first.digest() + b"\0\0\0\0", digest_size=16).hexdigest()


def test_where_parts_end_matters() -> None:
    one, other = Chain(), Chain()
    one.feed(b"ab", b"c")
    other.feed(b"a", b"bc")
    assert one.hex != other.hex


def test_a_chain_resumes_from_its_link() -> None:
    chain = Chain()
    assert chain.hex == ""
    assert Chain("").hex == ""
    chain.feed(b"a")
    resumed = Chain(chain.hex)
    chain.feed(b"b")
    resumed.feed(b"b")
    assert resumed.hex == chain.hex


@pytest.mark.parametrize("link", ["abcd", "00" * 17, "zz" * 16])
def test_what_is_no_link_is_refused(link: str) -> None:
    with pytest.raises(ValueError, match=r"link has 32|non-hexadecimal"):
        Chain(link)


@given(
    history=st.lists(st.binary(max_size=4), min_size=1, max_size=60),
    at=st.integers(min_value=0),
)
def test_the_first_difference_is_found(history: list[bytes], at: int) -> None:
    at %= len(history)
    other = [*history]
    other[at] += b"!"
    a, b = links_of(history), links_of(other)
    assert first_difference(len(a), a.__getitem__, b.__getitem__) == at
    assert first_difference(len(a), a.__getitem__, a.__getitem__) is None


def test_it_takes_twenty_looks_at_a_million_links() -> None:
    looks: list[int] = []

    def link_a(index: int) -> str:
        looks.append(index)
        return "same"

    def link_b(index: int) -> str:
        return "same" if index < 765_432 else "other"

    assert first_difference(1_000_000, link_a, link_b) == 765_432
    assert len(looks) <= 21


def test_empty_chains_do_not_differ() -> None:
    def no_link(index: int) -> str:
        raise AssertionError(f"there is no link {index}")

    assert first_difference(0, no_link, no_link) is None
