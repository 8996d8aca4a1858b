"""Settings: what each text means, what is refused and in which words, and what follows from one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.settings import (
    SETTINGS,
    Key,
    ModelName,
    SettingError,
    Settings,
    default,
    loopback,
    read,
    unknown,
)
from proxy.settings.paths import state_dir

# For every setting: a text, and the value that it means.
GOOD: dict[str, tuple[str, Any]] = {
    "port": ("0", 0),
    "ollama_port": ("11434", 11434),
    "host": ("::1", "::1"),
    "api_keys": ("mine:abc, def", (Key("mine", "abc"), Key("key-2", "def"))),
    "models": ("fast=haiku, opus-next", (ModelName("fast", "haiku"), ModelName("opus-next", "opus-next"))),
    "system_prompt_mode": ("Append", "append"),
    "log_level": ("WARN", "warn"),
    "cli": ("~/bin/claude", "~/bin/claude"),
    "login": ("api-key", "api-key"),
    "upstream_url": ("http://127.0.0.1:9/v", "http://127.0.0.1:9/v"),
    "max_conversations": ("1", 1),
    "waiting": ("0", 0),
    "waiting_age": ("60", 60.0),
    "parked": ("AUTO", "auto"),
    "parked_age": ("1", 1.0),
    "native": ("off", False),
    "web_search": ("off", False),
    "reasoning_format": ("thinking_blocks", "thinking_blocks"),
    "strict_params": ("On", True),
    "reasoning": ("no", False),
    "max_queue": ("0", 0),
    "queue_wait": ("0.5", 0.5),
    "limit_retry": ("0", 0.0),
    "idle_timeout": ("1", 1.0),
    "total_timeout": ("604800", 604800.0),
    "client_timeout": ("1", 1.0),
    "retries": ("0", 0),
    "grace": ("0", 0.0),
    "max_body": ("1024", 1024),
    "origins": ("https://a.example, http://b.example:8080", ("https://a.example", "http://b.example:8080")),
    "hosts": ("nas.local", ("nas.local",)),
    "state_dir": ("/tmp/x", "/tmp/x"),
    "usage_file": ("~/usage", "~/usage"),
    "usage_days": ("0", 0),
    "store": ("File", "file"),
    "store_entries": ("1", 1),
    "store_bytes": ("1024", 1024),
    "store_days": ("1", 1),
    "fallback": ("Model:haiku", "model:haiku"),
    "fallback_usd": ("2.5", 2.5),
    "uds": ("~/claude.sock", "~/claude.sock"),
    "tls_cert": ("/tmp/cert.pem", "/tmp/cert.pem"),
    "tls_key": ("/tmp/key.pem", "/tmp/key.pem"),
    "config": ("/tmp/config.toml", "/tmp/config.toml"),
}
# Settings that only come together: what the other is then.
SET_TOO = {"tls_cert": {"tls_key": "k"}, "tls_key": {"tls_cert": "c"}}
TOGETHER = {"tls_cert": {"CLAUDE_PROXY_TLS_KEY": "k"}, "tls_key": {"CLAUDE_PROXY_TLS_CERT": "c"}}

BAD = [
    ("port", "65536"),
    ("store", "disk"),
    ("store_days", "0"),
    ("port", "-1"),
    ("port", "80_80"),
    ("port", "٣٤٥٦"),
    ("port", "http"),
    ("ollama_port", "0"),
    ("host", "http://127.0.0.1"),
    ("host", "127.0.0.1:80"),
    ("host", "*"),
    ("host", "a b"),
    ("origins", "*"),
    ("origins", "app.example"),
    ("origins", "https://app.example/page"),
    ("origins", "https://*.example"),
    ("hosts", "http://nas.local"),
    ("hosts", "nas.local,b c"),
    ("api_keys", ","),
    ("api_keys", "name:"),
    ("api_keys", ":sesame"),
    ("api_keys", "open sesame"),
    ("api_keys", "sésame"),
    ("api_keys", "a:sesame,a:other"),
    ("api_keys", "a\nb:sesame"),
    ("models", "=opus"),
    ("models", "fast="),
    ("models", "fast=haiku,fast=opus"),
    ("fallback", "another"),
    ("fallback_usd", "-1"),
    ("fallback_usd", "much"),
    ("system_prompt_mode", "prepend"),
    ("log_level", "loud"),
    ("login", "mine"),
    ("upstream_url", "api.example"),
    ("upstream_url", "ftp://api.example"),
    ("upstream_url", "http://"),
    ("upstream_url", "https://api.example/?a=b"),
    ("max_conversations", "0"),
    ("waiting", "1.5"),
    ("parked", "automatic"),
    ("waiting", "65"),
    ("waiting_age", "0"),
    ("reasoning_format", "yes"),
    ("strict_params", "maybe"),
    ("reasoning", "2"),
    ("queue_wait", "-1"),
    ("limit_retry", "-1"),
    ("idle_timeout", "0"),
    ("idle_timeout", "nan"),
    ("idle_timeout", "soon"),
    ("total_timeout", "inf"),
    ("retries", "11"),
    ("grace", "604801"),
    ("max_body", "1023"),
    ("max_queue", "9" * 5000),
]

BY_FIELD = {setting.field: setting for setting in SETTINGS}


def test_every_field_is_a_setting_and_every_setting_a_field() -> None:
    assert tuple(BY_FIELD) == tuple(dict.fromkeys(setting.field for setting in SETTINGS))
    assert set(BY_FIELD) == set(Settings.__struct_fields__) == set(GOOD)
    assert len({setting.variable for setting in SETTINGS}) == len(SETTINGS)
    assert all(setting.help.endswith(".") for setting in SETTINGS)
    assert all(setting.variable.removeprefix("CLAUDE_PROXY_").lower() == setting.field for setting in SETTINGS)


def test_nothing_given_means_the_defaults() -> None:
    assert read({}, {}) == Settings()


@pytest.mark.parametrize("field", GOOD)
def test_a_variable_is_read(field: str) -> None:
    text, value = GOOD[field]
    settings = read({}, {BY_FIELD[field].variable: f" {text} ", **TOGETHER.get(field, {})})
    assert settings == msgspec.structs.replace(read({}, {}), **{field: value}, **SET_TOO.get(field, {}))


@pytest.mark.parametrize("field", [setting.field for setting in SETTINGS if setting.argument])
def test_an_argument_beats_a_variable(field: str) -> None:
    text, value = GOOD[field]
    settings = read({field: text}, {BY_FIELD[field].variable: "not usable\0", **TOGETHER.get(field, {})})
    assert getattr(settings, field) == value


@pytest.mark.parametrize("field", GOOD)
def test_empty_text_counts_as_not_given(field: str) -> None:
    assert read({field: ""}, {BY_FIELD[field].variable: "  "}) == Settings()


@pytest.mark.parametrize(("field", "text"), BAD)
def test_a_wrong_value_is_named_as_it_was_given(field: str, text: str) -> None:
    setting = BY_FIELD[field]
    with pytest.raises(SettingError, match=f"^{setting.variable}: must "):
        read({}, {setting.variable: text})
    if setting.argument is not None:
        with pytest.raises(SettingError, match=f"^{setting.argument}: must "):
            read({field: text}, {})


def test_a_wrong_value_is_shown_unless_it_is_secret() -> None:
    with pytest.raises(SettingError, match=r"\(given: 'loud'\)$"):
        read({}, {"LOG_LEVEL": "loud"})
    for field, text in BAD:
        setting = BY_FIELD[field]
        if setting.secret and len(text) > 8:
            with pytest.raises(SettingError) as caught:
                read({}, {setting.variable: text})
            assert text not in str(caught.value)
            assert "sesame" not in str(caught.value)


def test_the_second_port_is_another_one() -> None:
    with pytest.raises(SettingError, match=r"^--ollama-port: 11434 is the port that is served on already\.$"):
        read({"port": "11434", "ollama_port": "11434"}, {})


def test_the_second_port_needs_keys_where_others_can_reach_it() -> None:
    given = {"CLAUDE_PROXY_UDS": "/run/c.sock", "CLAUDE_PROXY_HOST": "0.0.0.0"}
    read({}, given)
    with pytest.raises(SettingError, match="can be reached from other computers"):
        read({"ollama_port": "11434"}, given)


def test_keys_are_not_in_the_settings_repr() -> None:
    assert "sesame" not in repr(read({}, {"API_KEYS": "mine:sesame"}))


def test_keys_cannot_be_given_where_others_see_them() -> None:
    assert all(setting.argument is None for setting in SETTINGS if setting.secret)


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({"DEBUG": "1"}, "debug"),
        ({"DEBUG": "True"}, "debug"),
        ({"DEBUG": "0"}, "info"),
        ({"DEBUG": "app:*"}, "info"),
        ({"DEBUG": "1", "LOG_LEVEL": "error"}, "error"),
    ],
)
def test_debug_is_an_alias(environ: dict[str, str], level: str) -> None:
    assert read({}, environ).log_level == level


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_needs_no_key(host: str) -> None:
    settings = read({"host": host}, {})
    assert loopback(settings.host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "nas.local", "localhost.example", "0", "127.1"])
def test_beyond_loopback_needs_a_key(host: str) -> None:
    with pytest.raises(SettingError, match=r"^--host: .*API_KEYS"):
        read({"host": host}, {})
    with pytest.raises(SettingError, match=r"^CLAUDE_PROXY_HOST: .*API_KEYS"):
        read({}, {"CLAUDE_PROXY_HOST": host})
    assert read({"host": host}, {"API_KEYS": "sesame"}).host == host


def test_a_unix_socket_needs_no_key() -> None:
    assert read({"uds": "/run/x", "host": "0.0.0.0"}, {}).uds == "/run/x"


@pytest.mark.parametrize(("field", "other"), [("tls_cert", "--tls-key"), ("tls_key", "--tls-cert")])
def test_tls_needs_both_files(field: str, other: str) -> None:
    with pytest.raises(SettingError, match=rf"^{BY_FIELD[field].variable}: .*{other}"):
        read({}, {BY_FIELD[field].variable: "/x"})


def test_misspelt_variables_are_seen() -> None:
    environ = {"CLAUDE_PROXY_PROT": "1", "CLAUDE_PROXY_PORT": "1", "CLAUDE_CODE_X": "1", "API_KEYS": "a"}
    assert unknown(environ) == ("CLAUDE_PROXY_PROT",)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("port", "3456"),
        ("waiting_age", "1800"),
        ("waiting", "auto"),
        ("api_keys", ""),
        ("cli", ""),
        ("login", "subscription"),
        ("reasoning", "on"),
    ],
)
def test_defaults_in_words(field: str, text: str) -> None:
    assert default(BY_FIELD[field]) == text


@pytest.mark.parametrize(
    ("environ", "platform", "path"),
    [
        ({"HOME": "/h"}, "linux", "/h/.local/state/claude-max-api-proxy"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/s"}, "linux", "/s/claude-max-api-proxy"),
        ({"HOME": "/h", "XDG_STATE_HOME": "s"}, "linux", "/h/.local/state/claude-max-api-proxy"),
        ({"HOME": "/h"}, "darwin", "/h/Library/Application Support/claude-max-api-proxy"),
    ],
)
def test_where_state_is_kept(environ: dict[str, str], platform: str, path: str) -> None:
    assert state_dir(Settings(), environ, platform) == Path(path)


def test_state_goes_where_the_setting_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/h")
    assert state_dir(Settings(state_dir="x"), {}, "linux") == tmp_path / "x"
    assert state_dir(Settings(state_dir="~/x"), {}, "linux") == Path("/h/x")
