"""The composition root puts real parts together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from holdfast import bootstrap
from holdfast.actors.ports import LogUnavailableError, NewInput
from holdfast.cli.push import wait_outcome
from holdfast.config.settings import Settings, SettingsError, load
from holdfast.transport.durability import DurabilityError
from holdfast.transport.server import ServerConfig, embedded_server

if TYPE_CHECKING:
    from pathlib import Path


def settings_of(redis: str | None = None, provider: str | None = None) -> Settings:
    found = {"redis_url": redis, "provider.url": provider, "durability": "relaxed"}
    return load(None, {}, found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", bootstrap.ACTORS)
async def test_each_actor_runs_on_a_real_server_and_stops_when_told(
    kind: bootstrap.ActorKind, tmp_path: Path
) -> None:
    """On a server of its own: the shared one has books that tests have spoilt."""
    stop, ready = trio.Event(), trio.Event()
    async with embedded_server(ServerConfig(tmp_path, durability="relaxed")) as server:
        settings = settings_of(server.url, "http://127.0.0.1:9")
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bootstrap.run_actor, kind, settings, stop, ready.set)
                await ready.wait()
                stop.set()


@pytest.mark.slow
@pytest.mark.parametrize("trim", [False, True])
async def test_a_booking_actor_trims_its_log_only_where_the_settings_say_so(
    trim: bool, tmp_path: Path
) -> None:
    """Each life ends with a snapshot, and the second one lets what came before the first go."""
    async with embedded_server(ServerConfig(tmp_path, durability="relaxed")) as server:
        settings = settings_of(server.url)
        booking = msgspec.structs.replace(settings.booking, trim=trim)
        settings = msgspec.structs.replace(settings, booking=booking)
        ends: list[str] = []
        async with bootstrap.open_log(settings) as log:
            for _ in range(2):
                stop = trio.Event()
                tick = NewInput("tick", b"{}", by="service:timer")
                with trio.fail_after(20):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(bootstrap.run_actor, "booking", settings, stop)
                        (mine,) = await log.append("demo", [tick])
                        assert await wait_outcome(log, "demo", mine, 20)
                        stop.set()
                ends.append((await log.read_record("demo")).position)
            facts = await log.facts("demo", "inputs")
            begins = await log.facts("demo", "outcomes")
        assert (facts.length < facts.added, begins.first_id == facts.first_id) == (trim, True)
        assert (facts.first_id == ends[0]) == trim


@pytest.mark.slow
async def test_a_server_that_forgets_sooner_than_the_settings_allow_is_refused(
    tmp_path: Path,
) -> None:
    async with embedded_server(ServerConfig(tmp_path, durability="relaxed")) as server:
        settings = msgspec.structs.replace(settings_of(server.url), durability="durable")
        with pytest.raises(DurabilityError, match="'appendfsync always'"):
            await bootstrap.run_actor("booking", settings, trio.Event())
        async with bootstrap.open_log(settings):  # who only looks needs no promise
            pass
        settings = msgspec.structs.replace(settings, durability="replicated", replicas=2)
        with pytest.raises(DurabilityError, match="needs 2 replicas and the server has 0"):
            await bootstrap.run_actor("payment", settings, trio.Event())


async def test_an_actor_without_a_server_is_refused() -> None:
    with pytest.raises(SettingsError, match="no server is named"):
        await bootstrap.run_actor("booking", settings_of(), trio.Event())


async def test_an_actor_whose_server_is_away_says_so_and_is_not_ready() -> None:
    ready = trio.Event()
    with pytest.raises(LogUnavailableError):
        await bootstrap.run_actor(
            "booking", settings_of("redis://127.0.0.1:1"), trio.Event(), ready.set
        )
    assert not ready.is_set()


@pytest.mark.slow
async def test_a_payment_actor_without_a_provider_is_refused(server_url: str) -> None:
    with pytest.raises(SettingsError, match="no payment provider is named"):
        await bootstrap.run_actor("payment", settings_of(server_url), trio.Event())


def test_a_script_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text("delay_ms = 'long'")
    settings = msgspec.structs.replace(settings_of(), data=tmp_path)
    with pytest.raises(SettingsError, match="delay_ms"):
        bootstrap.run_provider(settings, script, lambda _url: None)


def test_the_clock_is_the_system_s() -> None:
    clock = bootstrap.SystemClock()
    first = clock.now_ms()
    assert 1_700_000_000_000 < first <= clock.now_ms()
