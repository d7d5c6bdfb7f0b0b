"""Every planted bug is caught in the world, and by the check, that the table names."""

from __future__ import annotations

import pytest

from holdfast.actors.booking import rules

from .bugs import Bug, edit  # noqa: TID251 - our own package sim
from .planted import (  # noqa: TID251 - our own package sim
    BEGIN,
    END,
    PAGE,
    PLANTED,
    Row,
    figures,
    look,
    read_rows,
    section,
)

ROWS = read_rows()


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", [row for row in ROWS.values() if row.check], ids=lambda row: row.bug
)
def test_a_planted_bug_is_caught(row: Row) -> None:
    """Worlds that have changed draw other seeds: ``python -m tests.sim.planted`` looks anew."""
    assert look(PLANTED[row.bug], row.seed)[0] == row.check


def test_the_page_tells_what_was_found() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0] == section(ROWS)


def test_every_bug_was_looked_for_where_it_says() -> None:
    assert list(ROWS) == list(PLANTED)
    assert {name: row.scenario for name, row in ROWS.items()} == {
        name: bug.scenario for name, bug in PLANTED.items()
    }


def test_nearly_all_bugs_are_caught_and_half_of_them_soon() -> None:
    harmful, caught, median = figures(ROWS)
    assert harmful >= 44
    assert caught >= 0.95 * harmful
    assert median <= 200


def test_nearly_every_check_is_the_first_to_see_some_bug() -> None:
    seen = {row.check for row in ROWS.values()}
    assert seen >= {"S1 no overlap", "S2 opening hours", "S3 calendar", "S4 money", "S5 confirmed"}
    assert seen >= {"S6 one effect", "S7 one outcome", "S8 store", "S9 actions", "S10 replay"}
    assert seen >= {"S11 sealed", "S13 messages", "S14 poison", "S16 bounds", "L1 terminal"}
    assert seen >= {"timers", "idempotency", "restore", "L2 no lag", "L3 leader", "L8 no orphan"}


def test_what_does_no_harm_says_why() -> None:
    for name, bug in PLANTED.items():
        assert not (bug.harmless and ROWS[name].check), name
        assert bug.does.endswith(".")


def test_planting_is_undone() -> None:
    for name, bug in PLANTED.items():
        before = [owner.__dict__[attribute] for owner, attribute, _ in bug.patches]
        with bug.planted():
            assert [owner.__dict__[attribute] for owner, attribute, _ in bug.patches] != before, (
                name
            )
        assert [owner.__dict__[attribute] for owner, attribute, _ in bug.patches] == before, name


def test_an_edit_of_words_that_are_gone_is_an_error() -> None:
    """Else a bug could quietly stop being one."""
    bug = Bug("", "", "", "", edit(rules, "_notice", "no such words", "others"))
    with (
        pytest.raises(AssertionError, match="_notice has no single 'no such words'"),
        bug.planted(),
    ):
        pass
