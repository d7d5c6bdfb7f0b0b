"""The service as real processes: started, used, killed, and gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, cast

import httpx
import msgspec
import pytest
import redis

from holdfast.cli.status_file import read_status

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    Holdfast = Callable[..., subprocess.CompletedProcess[str]]
    Gone = Callable[..., list[int]]
    End = Callable[[Any, signal.Signals], int]
    Service = Callable[..., AbstractContextManager[Any]]

pytestmark = pytest.mark.slow

BODY = '{"service":"checkup"}'
WAIT_S = 20


def request(key: str, *more: str) -> tuple[str, ...]:
    by = f"customer:{key}"
    return ("push", "demo", "request_auto", "--key", key, "--by", by, "--body", BODY, *more)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until *holds*, a fact that another process brings about."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.05)


def shown(holdfast: Holdfast, data: Path) -> dict[str, Any]:
    """What ``show`` knows; the position is that of the last commit."""
    out = holdfast("show", "demo", "--data", data, "--json")
    assert out.returncode == 0, out.stderr
    view: dict[str, Any] = msgspec.json.decode(out.stdout)
    return view


def confirmed(holdfast: Holdfast, data: Path, count: int) -> Callable[[], bool]:
    def holds() -> bool:
        view = shown(holdfast, data)
        return [item["status"] for item in view["calendar"]] == ["confirmed"] * count

    return holds


def test_a_request_is_pushed_decided_paid_shown_and_checked_and_ctrl_c_leaves_nothing(
    holdfast: Holdfast, up: Service, gone: Gone, end: End, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with up(data) as service:
        accepted = holdfast(*request("K1", "--wait", "--json"), "--data", data)
        assert accepted.returncode == 0, accepted.stderr
        outcome = msgspec.json.decode(accepted.stdout)
        assert outcome["status"] == "accepted"
        assert outcome["outcome"]["events"][0]["type"] == "slot_held"

        # A foreign client, in the form that `up` prints.
        with redis.Redis(unix_socket_path=service.redis.removeprefix("unix://")) as client:
            client.xadd(
                "holdfast:{demo}:inputs",
                {"type": "request_auto", "key": "k-9", "by": "customer:K9", "body": BODY},
            )

        refused = holdfast(
            "push", "demo", "cancel", "--key", "K2", "--by", "customer:K2",
            "--body", '{"booking":"b1-0"}', "--wait", "--redis", service.redis,
        )  # fmt: skip
        assert refused.returncode == 1
        assert "not_found" in refused.stdout

        wait_until(confirmed(holdfast, data, 2))
        wait_until(lambda: shown(holdfast, data)["lag"] == 0)
        table = holdfast("show", "demo", "--data", data)
        assert "K1" in table.stdout
        assert "confirmed" in table.stdout
        assert "0 inputs wait" in table.stdout

        checked = holdfast("check", "demo", "--data", data)
        assert checked.returncode == 0, checked.stdout
        assert checked.stdout.count("✓") == 3

        second = holdfast("up", "--data", data)
        assert second.returncode == 2
        assert "another service is using the data folder" in second.stderr

        assert end(service, signal.SIGINT) == 130
        assert gone(service.everything(), 5) == []
    assert read_status(data) is None

    # Looking at it needs no service: the server runs for as long as the command takes.
    assert len(shown(holdfast, data)["calendar"]) == 2
    later = holdfast("check", "demo", "--data", data, "--json")
    assert msgspec.json.decode(later.stdout)["holds"] is True


def test_parts_that_are_killed_come_back_and_nothing_is_lost(
    holdfast: Holdfast, up: Service, gone: Gone, end: End, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with up(data) as service:
        for part in ("booking", "server", "provider", "payment"):
            before = service.pids[part]
            os.kill(before, signal.SIGKILL)

            def is_back(part: str = part, before: int = before) -> bool:
                status = read_status(data)
                return (
                    status is not None
                    and status.parts[part].restarts == 1
                    and status.parts[part].pid != before
                )

            wait_until(is_back)
            out = holdfast(*request(part, "--wait"), "--data", data)
            assert out.returncode == 0, (part, out.stderr, out.stdout)
        status = read_status(data)
        assert status is not None
        wait_until(lambda: shown(holdfast, data)["payments"][-1]["observed"] == "authorized")
        assert holdfast("check", "demo", "--data", data).returncode == 0
        assert end(service, signal.SIGTERM) == 0
        pids = [service.process.pid, *(part.pid for part in status.parts.values())]
        assert gone(pids, 5) == []


def test_kill_9_of_the_supervisor_leaves_nothing_running_and_the_folder_usable(
    holdfast: Holdfast, up: Service, gone: Gone, end: End, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with up(data) as service:
        assert holdfast(*request("K1", "--wait"), "--data", data).returncode == 0
        service.process.kill()
        service.process.wait()
        assert gone(service.everything(), 10) == []
    assert read_status(data) is None
    with up(data) as service:
        again = holdfast(*request("K1", "--wait", "--json"), "--data", data)
        assert again.returncode == 0
        assert len(shown(holdfast, data)["calendar"]) == 1
        assert end(service, signal.SIGTERM) == 0


def test_a_booking_actor_beside_a_service_stands_by_and_leads_while_the_services_own_is_stopped(
    holdfast: Holdfast, up: Service, end: End, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with up(data) as service:
        holdfast(*request("K1"), "--wait", "--redis", service.redis)
        other = subprocess.Popen(
            [sys.executable, "-m", "holdfast", "actor", "booking", "--redis", service.redis],
            stderr=subprocess.DEVNULL,
        )
        own = service.pids["booking"]
        try:
            wait_until(lambda: _leases(service.redis) == 2)
            assert _takeovers(service.redis) == 1
            os.kill(own, signal.SIGSTOP)
            answer = holdfast(*request("K2"), "--wait", "--redis", service.redis)
            assert answer.returncode == 0
            assert _takeovers(service.redis) == 2
        finally:
            os.kill(own, signal.SIGCONT)
            other.kill()
            other.wait()
        answer = holdfast(*request("K3"), "--wait", "--redis", service.redis)
        assert answer.returncode == 0
        status = read_status(data)
        assert status is not None
        assert status.parts["booking"].pid == own  # it went on as a standby, and leads again
        assert end(service, signal.SIGTERM) == 0


def _leases(url: str) -> int:
    with redis.Redis(unix_socket_path=url.removeprefix("unix://")) as client:
        return len(cast("Any", client).keys("holdfast:lease:*"))


def _takeovers(url: str) -> int:
    with redis.Redis(unix_socket_path=url.removeprefix("unix://")) as client:
        entries: Any = client.xrange("holdfast:{demo}:inputs")
        return sum(fields[b"type"] == b"taken_over" for _, fields in entries)


def test_check_names_what_does_not_hold(
    holdfast: Holdfast, up: Service, end: End, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with up(data) as service:
        pushed = holdfast(*request("K1", "--wait", "--json"), "--data", data)
        entry_id = msgspec.json.decode(pushed.stdout)["id"]
        wait_until(confirmed(holdfast, data, 1))
        assert holdfast("check", "demo", "--data", data).returncode == 0

        hold = {"reference": "demo:p7-7", "amount_cents": 5, "currency": "EUR", "customer": "X"}
        url = f"{service.provider}/v1/holds"
        httpx.post(url, json=hold, headers={"idempotency-key": "x"}).raise_for_status()
        orphan = holdfast("check", "demo", "--data", data)
        assert orphan.returncode == 1
        assert "the provider has p7-7 (authorized), which nobody asked for" in orphan.stdout
        assert holdfast("check", "demo", "--no-ledger", "--data", data).returncode == 0

        with redis.Redis(unix_socket_path=service.redis.removeprefix("unix://")) as client:
            client.xdel("holdfast:{demo}:outcomes", entry_id)
        lost = holdfast("check", "demo", "--no-ledger", "--data", data, "--json")
        assert lost.returncode == 1
        assert f"input {entry_id} (request_auto) has no outcome" in lost.stdout
        assert end(service, signal.SIGTERM) == 0


def test_a_practice_can_be_changed_and_changed_back(
    holdfast: Holdfast, up: Service, end: End, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    never = '{"service":"checkup","ranges":[["00:00","00:15"]]}'  # nobody is open then
    found = {"dentist": "no_slot_found", "salon": "not_found"}  # only the dentist has checkups
    for practice in ("dentist", "salon", "dentist", "dentist"):
        with up(data, "--practice", practice) as service:
            key = f"k-{service.process.pid}"
            out = holdfast(
                "push", "demo", "request_auto", "--key", key, "--by", "customer:K1",
                "--body", never, "--wait", "--data", data,
            )  # fmt: skip
            assert f'"code": "{found[practice]}"' in out.stdout
            assert end(service, signal.SIGTERM) == 0


def test_ctrl_c_in_the_middle_of_the_demo_leaves_nothing(gone: Gone, tmp_path: Path) -> None:
    data = tmp_path / "demo"
    demo = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "demo", "--data", str(data), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:

        def all_run() -> bool:
            status = read_status(data)
            return status is not None and len(status.parts) == 5

        wait_until(all_run)
        status = read_status(data)
        assert status is not None
        demo.send_signal(signal.SIGINT)
        out, errors = demo.communicate(timeout=WAIT_S)
    finally:
        demo.kill()
        demo.communicate()
    assert (demo.returncode, out, errors) == (130, b"", b"")
    assert gone([part.pid for part in status.parts.values()], 5) == []
