"""A soak's verdict must be able to fail: series that are flat, and series that only look so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from flatness import Figure, judge, table

if TYPE_CHECKING:
    from collections.abc import Callable

    Series = Callable[[float], float]

WARM = 5
IT = Figure("it")


def seen(value_at: Series, minutes: int = 20) -> list[tuple[float, float]]:
    """What is seen of a figure every ten seconds."""
    return [(at_s, value_at(at_s / 60)) for at_s in range(10, minutes * 60 + 10, 10)]


def flat(value_at: Series, figure: Figure = IT) -> bool | None:
    """The verdict after the warm-up; *value_at* gives the figure at a minute."""
    return judge(figure, seen(value_at), WARM).flat


def saw(minute: float) -> float:
    """A stream that a snapshot trims twice a minute."""
    return 5_000 + 10_000 * (2 * minute % 1)


FLAT: dict[str, Series] = {
    "it does not move": lambda _minute: 100.0,
    "there is nothing": lambda _minute: 0.0,
    "a saw": saw,
    "it falls": lambda minute: 100 - 2 * minute,
    "it was warming up": lambda minute: 100 + 20 * min(minute, WARM),
    "a bump": lambda minute: 100 + (50 if 9 < minute < 10 else 0),
    "it grows by less than a twentieth": lambda minute: 100 + 0.2 * minute,
}

NOT_FLAT: dict[str, Series] = {
    "a leak": lambda minute: 100 + 0.5 * minute,
    "from nothing": lambda minute: minute,
    "a leak under a saw": lambda minute: saw(minute) + 100 * minute,
    "a saw that grows": lambda minute: saw(minute) * (1 + minute / 100),
    "a step": lambda minute: 100 + 10 * (minute > 13),
    "late": lambda minute: 100 + 5 * max(0, minute - 15),
    "ever more slowly": lambda minute: 20 * minute**0.5,
}


@pytest.mark.parametrize("name", FLAT)
def test_what_stays_is_flat(name: str) -> None:
    assert flat(FLAT[name]) is True


@pytest.mark.parametrize("name", NOT_FLAT)
def test_what_grows_is_not_flat(name: str) -> None:
    assert flat(NOT_FLAT[name]) is False


def test_growth_by_less_than_its_grain_means_nothing() -> None:
    def few(minute: float) -> float:
        return 1 + minute / 10

    assert flat(few) is False
    assert flat(few, Figure("it", grain=2.0)) is True
    assert flat(few, Figure("it", grain=1.0)) is False


def test_a_figure_whose_waves_are_long_may_grow_by_more() -> None:
    def grows(minute: float) -> float:
        return 100 + minute

    assert flat(grows) is False
    assert flat(grows, Figure("it", share=0.2)) is True
    assert flat(grows, Figure("it", share=0.1)) is False


def test_a_figure_that_holds_its_level_may_not_fall() -> None:
    level = Figure("it", level=True)
    assert flat(lambda minute: 100 - minute, level) is False
    assert flat(lambda minute: 100 + minute, level) is False
    assert flat(lambda _minute: 100, level) is True


def test_what_grows_by_design_is_told_and_not_judged() -> None:
    figure = Figure("it", grows="by design")
    verdict = judge(figure, seen(lambda minute: minute), WARM)
    assert (verdict.flat, round(verdict.growth, 1)) == (None, 14.0)


@pytest.mark.parametrize("minutes", [0, 1, WARM, WARM + 1])
def test_too_short_a_time_tells_nothing(minutes: int) -> None:
    points = seen(lambda minute: minute, minutes)
    assert judge(IT, points, WARM).flat is None


def test_the_table_has_a_column_for_each_minute() -> None:
    figures: dict[str, Series] = {
        "steady": lambda _minute: 100,
        "leak": lambda minute: 1_000 + 100 * minute,
    }
    found = [judge(Figure(name), seen(value_at, 8), WARM) for name, value_at in figures.items()]
    assert [line.split() for line in table(found).splitlines()] == [
        ["by", "minute", *"12345678", "growth", "of", "mean"],
        ["steady", *["100"] * 8, "+0.0", "+0.0%", "flat"],
        ["leak", "1,058", "1,158", "1,258", "1,358", "1,458", "1,558", "1,658", "1,758",
         "+200", "+12.1%", "NOT", "FLAT"],
    ]  # fmt: skip
