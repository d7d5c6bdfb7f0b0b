"""The witness of ``bench/stops.py`` must be able to say that somebody wrote who no longer may."""

from __future__ import annotations

from stops import Witness

from holdfast.transport import scripts

_KEYS = [
    f"holdfast:{{b}}:{name}" for name in ("commit", "outcomes", "payments", "x", "y", "inputs")
]


def said(who: str, *words: object) -> str:
    """A line of MONITOR."""
    return f"1732212000.1 [0 {who}] " + " ".join(f'"{word}"' for word in words)


def taken_over(epoch: int, owner: str) -> list[str]:
    return [
        said("unix:/s", "EVALSHA", scripts.TAKE_OVER.sha, 6, *_KEYS, owner),
        said("lua", "XADD", _KEYS[5], "*", "type", "taken_over"),
        said("lua", "HSET", _KEYS[0], "epoch", epoch, "owner", owner),
    ]


def committed(epoch: int, owner: str, *, written: bool = True) -> list[str]:
    call = said("unix:/s", "EVALSHA", scripts.COMMIT.sha, 6, *_KEYS, epoch, owner, "0-1", "0-2")
    writes = [
        said("lua", "XADD", _KEYS[1], "0-2", "status", "accepted"),
        said("lua", "HSET", _KEYS[0], "position", "0-2", "version", 1),
    ]
    return [call, said("lua", "HMGET", _KEYS[0], "epoch", "owner"), *(writes if written else [])]


def heard(*parts: list[str]) -> Witness:
    witness = Witness("unix:///nowhere")
    lines = [line for part in parts for line in part]
    witness.hear(iter([*lines, said("unix:/s", "ECHO", "the witness leaves")]).__next__)
    return witness


def test_a_late_commit_that_is_refused_is_no_harm() -> None:
    late = committed(1, "a", written=False)
    witness = heard(taken_over(1, "a"), committed(1, "a"), taken_over(2, "b"), late)
    assert (witness.wrong, witness.commits, witness.late) == ([], 1, 1)
    assert witness.takeovers == {"b": [1, 2]}


def test_a_late_commit_that_is_written_is_told() -> None:
    witness = heard(taken_over(1, "a"), taken_over(2, "b"), committed(1, "a"))
    assert witness.wrong == ["b: ('b', 1, 'a') wrote in (2, 'b')"] * 2


def test_the_same_epoch_of_another_owner_is_told() -> None:
    witness = heard(taken_over(1, "a"), committed(1, "b"))
    assert len(witness.wrong) == 2


def test_an_epoch_that_falls_is_told() -> None:
    witness = heard(taken_over(2, "a"), taken_over(1, "b"))
    assert witness.wrong == ["b: epoch 1 after 2"]


def test_a_write_by_no_script_of_ours_is_told() -> None:
    witness = heard(taken_over(1, "a"), [said("lua", "XADD", _KEYS[1], "0-9", "status", "x")])
    assert len(witness.wrong) == 1
