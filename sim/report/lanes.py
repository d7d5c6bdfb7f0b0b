"""Lanes of the timeline: one for each actor with all its lives, one for each place and producer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CUSTOMER_LANES_MAX: Final = 6
"""With more of them, all customers share a lane."""

Kind: TypeAlias = Literal[
    "fault", "send", "answer", "write", "error", "effect", "call", "read", "life", "world"
]

PROCESS: Final = re.compile(r"(booking|payment|notification)-\d+(\.\d+)?")
_RANKS: Final = ("world", "customers", "others", "server", "booking", "payment", "provider",
                 "notification", "mailer", "more")  # fmt: skip
_PLACES: Final = ("world", "server", "provider", "mailer")
_READS: Final = ("read_", "wait_", "claim_", "keep_", "hold_", "facts", "resolve")


class Lanes:
    """The lanes of a run, and which of them an event belongs to.

    Args:
      whos: Of all events.
      senders: Who sent an input, by its id.

    Attributes:
      names: From top to bottom, in the order in which a request passes through.
    """

    def __init__(self, whos: Sequence[str], senders: Mapping[str, str]) -> None:
        self._senders = senders
        customers = {who for who in whos if who.startswith("customer:K")}
        self._few = len(customers) <= CUSTOMER_LANES_MAX
        found = dict.fromkeys(self._name(who) for who in whos)
        self.names = sorted((name for name in found if name), key=_rank)
        self._index = {name: number for number, name in enumerate(self.names)}

    def _name(self, who: str) -> str:
        if process := PROCESS.fullmatch(who):
            return who.removesuffix(process[2] or "")
        if who in _PLACES:
            return who
        if who == "customer:G" or who in ("nobody", "x", ""):
            return "strangers"
        if who.startswith(("customer:K", "customer-")):
            number = who.removeprefix("customer:K").removeprefix("customer-")
            return f"customer {number}" if self._few else "customers"
        if who.startswith(("service:", "operator-")):
            return "operator"
        if who.startswith("stranger-"):
            return "strangers"
        return "" if who.startswith("book") else who

    def known(self, who: str) -> int | None:
        """The lane of *who*; None where there is none."""
        return self._index.get(self._name(who))

    def lane(self, who: str, what: str, details: str) -> int:
        """The lane of an event; an outcome was seen by the one whose input it is."""
        if what == "outcome":
            who = self._senders.get(details.partition(" ")[0], who)
        found = self.known(who)
        if found is None:
            found = self._index.get("server", 0)
        return found


def _rank(name: str) -> tuple[int, int, str]:
    word, _, number = name.replace(" ", "-").partition("-")
    if word == "customer":
        word = "customers"
    elif word in ("operator", "strangers"):
        word = "others"
    rank = _RANKS.index(word) if word in _RANKS else len(_RANKS) - 1
    return rank, int(number) if number.isdecimal() else 0, name


def kind_of(lane: str, who: str, what: str, details: str) -> Kind:
    """What an event is, if it is no fault."""
    if lane == "world":
        return "world"
    if lane == "server":
        return "error" if what == "refused" else "write"
    if lane in ("provider", "mailer"):
        return "effect"
    if what == "send":
        return "send"
    if what in ("sent", "outcome"):
        return "answer"
    if what in ("start", "ended", "stop", "resume"):
        return "life"
    if details and PROCESS.fullmatch(who):
        return "error"  # a call that ended by an error is noted with its name
    return "read" if what.startswith(_READS) else "call"
