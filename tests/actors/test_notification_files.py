"""Messages as files: whole or absent, one for each key, and never outside their folder."""

from __future__ import annotations

import email
import email.policy
import errno
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from holdfast.actors.booking.messages import DeliveryReport, Notify
from holdfast.actors.health import Health
from holdfast.actors.notification.actor import NotificationOptions, run_notification
from holdfast.actors.notification.files import FileMailer
from holdfast.actors.notification.text import render
from holdfast.actors.ports import ActionEntry, Commit, Message, NewInput, OutcomeEntry
from holdfast.transport.memory_log import MemoryLog

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

NOTIFY = Notify(
    "b1",
    1,
    "confirmed",
    "ada@example.org",
    "Ada",
    "Bär & Co",
    "checkup",
    "2026-06-02T10:00+02:00",
    30,
)


class FixedClock:
    def now_ms(self) -> int:
        return 1_700_000_000_000


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_message_is_written_once_and_can_be_read(tmp_path: Path) -> None:
    mailer = FileMailer(tmp_path)
    message = render("demo", NOTIFY, 1_700_000_000_000)
    assert await mailer.deliver(message) is True
    assert await mailer.deliver(message) is False
    (path,) = (tmp_path / "demo").iterdir()
    read = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    assert read["to"] == "ada@example.org"
    assert read["subject"] == "Confirmed: checkup at Bär & Co, Tuesday 2 June 2026, 10:00"
    assert read["date"] == "Tue, 14 Nov 2023 22:13:20 -0000"
    assert "Bär & Co" in path.read_text("utf-8")


@pytest.mark.parametrize(
    "name", ["..", "../../x", "/etc/x", "a/b", "", ".hidden", "x\0y", "ü" * 300]
)
async def test_nothing_is_written_outside_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "mail"
    hostile = f"x\r\nBcc: evil@example.org\r\n\r\n{name}"
    await FileMailer(folder).deliver(Message(name, name, hostile, hostile, "text"))
    (path,) = files_under(tmp_path)
    assert path.parent.parent == folder
    read = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    assert read["bcc"] is None
    assert path.read_bytes().endswith(b"\r\n\r\ntext\r\n")


async def test_many_writers_of_one_key_write_it_once(tmp_path: Path) -> None:
    wrote: list[bool] = []

    async def deliver() -> None:
        wrote.append(await FileMailer(tmp_path).deliver(render("demo", NOTIFY, 0)))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(deliver)
    assert sum(wrote) == 1
    assert len(list((tmp_path / "demo").iterdir())) == 1


async def test_drafts_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    done = await trio.run_process(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_stdout=True
    )
    dead_pid = int(done.stdout)
    (tmp_path / "demo").mkdir()
    draft = tmp_path / "demo" / f".{'0' * 32}.{dead_pid}.1.tmp"
    draft.write_bytes(b"half")
    assert await FileMailer(tmp_path).deliver(render("demo", NOTIFY, 0)) is True
    assert not draft.exists()


async def emit(log: MemoryLog, *notifies: Notify) -> None:
    """Let the book commit one input that emits *notifies*."""
    await log.append("demo", [NewInput("tick", b"{}", by="service:booking")])
    record = await log.take_over("demo", "owner")
    inputs = (await log.read_inputs({"demo": record.position}, 512, 0))["demo"]
    last = inputs[-1].id
    ms, _, seq = last.partition("-")
    entries = [
        ActionEntry(f"{ms}-{int(seq) * 4096 + n}", f"{last}:{n}", "notify", msgspec.json.encode(a))
        for n, a in enumerate(notifies)
    ]
    outcomes = [OutcomeEntry(i.id, "accepted", b"{}") for i in inputs]
    commit = Commit(
        "demo", record.epoch, "owner", record.position, last, 1, "d", outcomes, [], entries, []
    )
    assert await log.commit([commit]) == [None]


async def test_a_mailer_that_fails_is_told_and_so_is_that_it_works_again(
    autojump_clock: MockClock,
) -> None:
    health, stop = Health(), trio.Event()
    heard: list[dict[str, str]] = []
    health.listen(lambda: heard.append(health.troubles))
    log = MemoryLog(FixedClock())
    await emit(log, NOTIFY)

    class FullOnce:
        """A mailer whose disk is full, once."""

        async def deliver(self, message: Message) -> bool:
            if not heard:
                raise OSError(errno.ENOSPC, "to ada@example.org")
            stop.set()
            return True

    options = NotificationOptions(wait_s=0.01)
    await run_notification(
        log, FullOnce(), consumer="one", options=options, stop=stop, health=health
    )
    why = "a message could not be delivered (ENOSPC): look at the outbox and its disk"
    assert heard == [{"mailer": why}, {}]


async def test_notifications_become_files_and_reports(tmp_path: Path) -> None:
    log = MemoryLog(FixedClock())
    await emit(log, NOTIFY, NOTIFY, msgspec.structs.replace(NOTIFY, kind="odd"))
    stop = trio.Event()
    found: list[DeliveryReport] = []
    async with trio.open_nursery() as nursery:
        options = NotificationOptions(wait_s=0.01)
        mailer = FileMailer(tmp_path)
        nursery.start_soon(
            lambda: run_notification(log, mailer, consumer="one", options=options, stop=stop)
        )
        with trio.fail_after(20):
            while len(found) < 2 or not (await log.facts("demo", "deadletters")).added:
                inputs = (await log.read_inputs({"demo": "0-0"}, 512, 0.01))["demo"]
                found = [
                    msgspec.json.decode(i.body, type=DeliveryReport)
                    for i in inputs
                    if i.type == "delivery_report" and i.by == "service:notification"
                ]
        stop.set()
    assert sorted(r.status for r in found) == ["delivered", "duplicate"]
    assert (await log.facts("demo", "notifications")).pending == 0
