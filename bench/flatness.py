"""Whether a figure that was looked at again and again stays flat. Pure.

Figures of a service at work go up and down: a stream grows until the next snapshot trims it. So what
is judged is the mean of each minute, which such waves leave alone where they are shorter, and only
what comes after a warm-up, in which caches and pools fill. Through these means goes a straight line,
by least squares. The rule: **the line may rise by 5 % of the figure's mean from the first judged minute
to the last, or by one grain**, which is the least that means anything for that figure. What rises
more is not flat, however slowly it does so in an hour.

Falling is flat, but for figures that are to hold their level: these may not fall so much either.
"""

from __future__ import annotations

from math import ceil
from statistics import fmean, linear_regression
from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARE_MAX: Final = 0.05
"""Of its mean a flat figure may grow over the judged time."""

MINUTES_MIN: Final = 2
"""Fewer whole minutes after the warm-up tell nothing."""

MINUTE_S: Final = 60.0


class Figure(msgspec.Struct, frozen=True):
    """What is looked at.

    Attributes:
      grain: Growth by no more than this is flat whatever the mean: in the figure's own unit.
      share: Of its mean it may grow; more where a wave is longer than a minute.
      level: It must not fall either.
      grows: Why it grows by design, and is not judged; "" where it is.
    """

    name: str
    grain: float = 0.0
    share: float = SHARE_MAX
    level: bool = False
    grows: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What became of one figure.

    Attributes:
      means: Of each whole minute, from the first one on.
      mean: Of the minutes judged.
      growth: Of the line, over the time judged.
      flat: None where it is not judged, by design or since the time was too short.
    """

    name: str
    means: list[float]
    mean: float
    growth: float
    flat: bool | None

    @property
    def word(self) -> Literal["flat", "NOT FLAT", "-"]:
        """For a table."""
        return "-" if self.flat is None else "flat" if self.flat else "NOT FLAT"


def minutes(points: Sequence[tuple[float, float]]) -> list[float]:
    """The mean of each whole minute of *points*: seconds since the start, ascending, and values.

    What is seen at a minute's end belongs to it.
    """
    found: list[list[float]] = [[] for _ in range(int(points[-1][0] // MINUTE_S) if points else 0)]
    for at_s, value in points:
        number = ceil(at_s / MINUTE_S) - 1
        if number < len(found):  # the last one may not be over
            found[number].append(value)
    return [fmean(values) for values in found if values]


def judge(figure: Figure, points: Sequence[tuple[float, float]], warm_min: int) -> Verdict:
    """Whether *figure* is flat after its first *warm_min* minutes."""
    means = minutes(points)
    judged = means[warm_min:]
    if len(judged) < MINUTES_MIN:
        mean = fmean(judged or means) if means else 0.0
        return Verdict(figure.name, means, mean, 0.0, None)
    mean = fmean(judged)
    growth = linear_regression(range(len(judged)), judged).slope * (len(judged) - 1)
    allowed = max(figure.share * abs(mean), figure.grain)
    flat = growth <= allowed and (not figure.level or growth >= -allowed)
    return Verdict(figure.name, means, mean, growth, None if figure.grows else flat)


def table(verdicts: Sequence[Verdict]) -> str:
    """Figures by minute, with how each grew and the verdict."""
    count = max((len(verdict.means) for verdict in verdicts), default=0)
    head = ["by minute", *(str(minute + 1) for minute in range(count)), "growth", "of mean", ""]
    rows = [head]
    for verdict in verdicts:
        share = f"{verdict.growth / verdict.mean:+.1%}" if verdict.mean else ""
        means = [_short(mean) for mean in verdict.means]
        means += [""] * (count - len(means))
        growth = ("+" if verdict.growth >= 0 else "") + _short(verdict.growth)
        rows.append([verdict.name, *means, growth, share, verdict.word])
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if at == 0 else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"
