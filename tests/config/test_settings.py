"""Settings: where they come from, which wins, and what is said where one is wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from holdfast.actors import ports
from holdfast.actors.booking.options import BookingOptions
from holdfast.actors.notification.actor import NotificationOptions
from holdfast.actors.payment.actor import PaymentOptions
from holdfast.config.settings import (
    Booking,
    Log,
    Notification,
    Payment,
    Provider,
    Settings,
    SettingsError,
    load,
    to_environ,
)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "holdfast.toml"


def test_without_any_source_the_defaults_hold() -> None:
    assert load() == Settings()
    assert Settings().redis_url is None
    assert Settings().durability == "durable"


def test_no_batch_is_larger_than_the_log_allows() -> None:
    """The limit stands in the actors' ports too, which settings may not import."""
    assert Settings().booking.batch_max == ports.BATCH_MAX
    with pytest.raises(SettingsError, match=f"from 1 to {ports.BATCH_MAX}"):
        load(overrides={"booking.batch_max": ports.BATCH_MAX + 1})


@pytest.mark.parametrize(
    ("section", "options"),
    [
        (Booking, BookingOptions),
        (Payment, PaymentOptions),
        (Notification, NotificationOptions),
    ],
)
def test_an_actor_of_its_own_does_as_the_settings_say(
    section: type[msgspec.Struct], options: type[msgspec.Struct]
) -> None:
    """An actor started without settings, in a test or a tool, is the one that runs in service."""
    own = {field.name: field.default for field in msgspec.structs.fields(options)}
    assert {
        field.name: own.get(field.name, "missing") for field in msgspec.structs.fields(section)
    } == {field.name: field.default for field in msgspec.structs.fields(section)}


def test_the_later_source_wins(toml: Path) -> None:
    toml.write_text("data = 'f'\n[booking]\nbatch_max = 1\nsnapshot_inputs = 1\ngrace_s = 1\n")
    environ = {"HOLDFAST_BOOKING__BATCH_MAX": "2", "HOLDFAST_BOOKING__SNAPSHOT_INPUTS": "2"}
    settings = load(toml, environ, {"booking.batch_max": 3})
    assert settings.data == Path("f")
    assert settings.booking == Booking(grace_s=1.0, snapshot_inputs=2, batch_max=3)


def test_sections_do_not_replace_each_other(toml: Path) -> None:
    toml.write_text("[payment]\nattempts_max = 9\n")
    payment = load(toml, {"HOLDFAST_PAYMENT__CONCURRENCY_MAX": "2"}).payment
    assert payment == Payment(attempts_max=9, concurrency_max=2)


def test_empty_text_takes_an_optional_setting_back(toml: Path) -> None:
    toml.write_text('redis_url = "redis://h"\n')
    assert load(toml).redis_url == "redis://h"
    assert load(toml, {"HOLDFAST_REDIS_URL": ""}).redis_url is None
    assert load(toml, {}, {"redis_url": ""}).redis_url is None


def test_an_override_of_none_was_not_given() -> None:
    """So that a command line can hand over all its options as they are."""
    settings = load(None, {"HOLDFAST_DURABILITY": "relaxed"}, {"durability": None, "data": None})
    assert settings == Settings(durability="relaxed")


def test_a_text_may_look_like_nothing() -> None:
    """Lax conversion reads "null" as None; a URL must be a URL."""
    with pytest.raises(SettingsError, match="HOLDFAST_REDIS_URL"):
        load(None, {"HOLDFAST_REDIS_URL": "null"})


def test_other_peoples_variables_are_left_alone() -> None:
    assert load(None, {"PATH": "/bin", "HOLDFASTER": "1"}) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bookng = 1", "{f}: bookng is not a setting; did you mean booking?"),
        ("[booking]\nbatch_mx = 1", "{f}: booking.batch_mx is not a setting; did you mean booking.batch_max?"),
        ("booking = 1", "{f}: booking is 1, but must be a table, [booking]."),
        ("[durability]\nx = 1", "{f}: durability is a table, but must be one of 'relaxed', 'durable', 'replicated'."),
        ("durability = 'durabel'", "{f}: durability is 'durabel', but must be one of 'relaxed', 'durable', 'replicated'."),
        ("[booking]\nbatch_max = 0", "{f}: booking.batch_max is 0, but must be a whole number from 1 to 512."),
        ("[booking]\nbatch_max = '5'", "{f}: booking.batch_max is '5', but must be a whole number from 1 to 512."),
        ("[booking]\nbatch_max = true", "{f}: booking.batch_max is True, but must be a whole number from 1 to 512."),
        ("[booking]\ngrace_s = nan", "{f}: booking.grace_s is nan, but must be a number from 0.01 to 3600.0."),
        ("[booking]\ngrace_s = inf", "{f}: booking.grace_s is inf, but must be a number from 0.01 to 3600.0."),
        ("data = 1", "{f}: data is 1, but must be the path of a folder."),
        ("data = ['a']", "{f}: data is a list, but must be the path of a folder."),
        ("[provider]\nsandbox_host = 'a b'", "{f}: provider.sandbox_host is 'a b', but must be a host or an address."),
        ("x = ", "{f} is not valid TOML: Invalid value (at end of document)."),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_in_one_sentence(toml: Path, text: str, message: str) -> None:
    toml.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(toml)
    assert str(caught.value) == message.format(f=toml)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"data = '\xe4'")
    with pytest.raises(SettingsError, match="is not UTF-8 text at byte 8"):
        load(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "BOOKING__BATCH_MXA",
            "1",
            "HOLDFAST_BOOKING__BATCH_MXA, an environment variable, is not a setting;"
            " did you mean HOLDFAST_BOOKING__BATCH_MAX?",
        ),
        (
            "BOOKING__BATCH_MAX",
            "many",
            "HOLDFAST_BOOKING__BATCH_MAX is 'many', but must be a whole number from 1 to 512.",
        ),
        (
            "LOG__LEVEL",
            "INFO",
            "HOLDFAST_LOG__LEVEL is 'INFO', but must be one of 'debug', 'info', 'warning', 'error'.",
        ),
        ("DATA", "", "HOLDFAST_DATA is '', but must be the path of a folder."),
        ("PROVIDER__SANDBOX_PORT", "65536", "HOLDFAST_PROVIDER__SANDBOX_PORT is '65536', but must be a whole number from 0 to 65535."),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_told_in_one_sentence(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, {f"HOLDFAST_{name}": value})
    assert str(caught.value) == message


def test_an_unknown_name_with_no_neighbour_lists_what_is_known() -> None:
    with pytest.raises(SettingsError, match="known are HOLDFAST_DATA, HOLDFAST_REDIS_URL, "):
        load(None, {"HOLDFAST_XQXQXQ": "1"})
    with pytest.raises(SettingsError, match="xqxqxq is not a setting; known are data, redis_url, "):
        load(None, None, {"xqxqxq": 1})


def test_a_long_value_is_cut() -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, {"HOLDFAST_LOG__LEVEL": "x" * 10_000})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"payment.backoff_s": 20}, "payment.backoff_s is 20.0, which is more than payment.backoff_max_s, 5.0"),
        ({"notification.backoff_max_s": 0.1}, "notification.backoff_s is 0.2, which is more than"),
        ({"durability": "replicated"}, "our own server has no replicas; name one that has, with redis_url"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(
    overrides: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError, match="the command line: ") as caught:
        load(overrides=overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "htp://u:hunter2@h",
        "hunter2",
        "redis://u:hunter2@",
        "redis:/u:hunter2@h",
        "redis:// hunter2@",
    ],
)
@pytest.mark.parametrize("name", ["HOLDFAST_REDIS_URL", "HOLDFAST_PROVIDER__URL"])
def test_an_error_never_shows_a_secret(name: str, url: str) -> None:
    """Not in its text, and not in what it was raised from either: tracebacks get pasted."""
    with pytest.raises(SettingsError) as caught:
        load(None, {name: url})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_repr_never_shows_a_secret() -> None:
    settings = load(
        None,
        {
            "HOLDFAST_REDIS_URL": "redis://u:hunter2@h",
            "HOLDFAST_PROVIDER__URL": "https://hunter2@pay.example",
        },
    )
    out = io.StringIO()
    Console(file=out, width=500).print(settings)
    for text in (repr(settings), str(settings), f"{settings}", out.getvalue()):
        assert "hunter2" not in text
        assert "redis://***@h" in text
    assert settings.redis_url == "redis://u:hunter2@h"


@pytest.mark.parametrize("url", ["redis://h", "rediss://:p@h:6380/2", "unix:///run/valkey.sock"])
def test_every_form_of_server_url_is_taken(url: str) -> None:
    assert load(None, {"HOLDFAST_REDIS_URL": url}).redis_url == url


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings().data = Path("x")  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


names = st.text("abcdefghijklmnopqrstuvwxyz0123456789/-_. äß", min_size=1)
seconds = st.floats(0.01, 3600.0)


@st.composite
def all_settings(draw: st.DrawFn) -> Settings:
    low, high = sorted((draw(seconds), draw(seconds)))
    url = draw(st.none() | st.just("redis://u:p@h:1/0"))
    return Settings(
        data=Path(draw(names)),
        redis_url=url,
        durability=draw(st.sampled_from(("relaxed", "durable", *(("replicated",) if url else ())))),
        provider=Provider(
            url=draw(st.none() | st.just("https://pay.example/v1")),
            sandbox_port=draw(st.integers(0, 65_535)),
        ),
        booking=Booking(batch_max=draw(st.integers(1, 512)), grace_s=draw(seconds)),
        payment=Payment(call_timeout_s=draw(seconds), backoff_s=low, backoff_max_s=high),
        notification=Notification(attempts_max=draw(st.integers(1, 100))),
        log=Log(format=draw(st.sampled_from(("auto", "console", "json")))),
    )


@given(all_settings())
def test_a_process_that_we_start_gets_the_same_settings(settings: Settings) -> None:
    """The supervisor hands its settings on through the environment."""
    assert load(None, to_environ(settings)) == settings


toml_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    f"{field.name}.{inner.name}" if inner else field.name
    for field in msgspec.structs.fields(Settings)
    for inner in (
        msgspec.structs.fields(field.type) if isinstance(field.default, msgspec.Struct) else (None,)
    )
]


@given(key=st.sampled_from(KEYS), value=toml_values)
def test_any_value_gives_settings_or_one_sentence(key: str, value: object) -> None:
    told = ""
    try:
        settings = load(overrides={key: value})
    except SettingsError as error:
        told = str(error)
    else:
        assert load(None, to_environ(settings)) == settings
    assert not told or (key in told and "\n" not in told)
