"""What an actor says of itself: one sentence for each subject, and a word only when that changes."""

from __future__ import annotations

from holdfast.actors.health import Health


class Listener:
    """Notes the troubles at each change."""

    def __init__(self, health: Health) -> None:
        self.heard: list[dict[str, str]] = []
        health.listen(lambda: self.heard.append(health.troubles))


def test_it_begins_well_and_nobody_need_listen() -> None:
    health = Health()
    assert health.troubles == {}
    health.trouble("log", "away")
    assert health.troubles == {"log": "away"}


def test_a_listener_hears_of_changes_only() -> None:
    health = Health()
    listener = Listener(health)
    health.well("log")
    health.trouble("log", "away")
    health.trouble("log", "away")
    health.trouble("log", "full")
    health.trouble("provider", "slow")
    health.well("log")
    health.well("log")
    assert listener.heard == [
        {"log": "away"},
        {"log": "full"},
        {"log": "full", "provider": "slow"},
        {"provider": "slow"},
    ]


def test_a_subject_is_well_when_all_that_was_done_with_it_gets_through() -> None:
    """A log that is full can be read: that it can says nothing of what waits to be written."""
    health = Health()
    listener = Listener(health)
    health.trouble("log", "full", doing="write")
    health.trouble("log", "slow", doing="read")
    health.well("log", doing="read")
    assert listener.heard == [{"log": "full"}]
    health.trouble("log", "slow", doing="read")
    health.well("log", doing="write")
    health.well("log", doing="read")
    assert listener.heard == [{"log": "full"}, {"log": "slow"}, {}]
