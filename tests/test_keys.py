"""Keys that the server keeps: made, listed, revoked, limited, and taken over by a server that runs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from proxy import running
from proxy.__main__ import main
from proxy.keys import store
from proxy.keys.keyring import Keyring
from proxy.keys.quota import Quota, UsedToday, midnight, tomorrow
from proxy.keys.store import KeyLimits, KeysUnreadable, StoredKey
from proxy.protocol.failures import Kind
from proxy.settings import Key, SettingError
from proxy.settings.sources import load
from tests import fake_cli
from tests.clock import Clock
from tests.conftest import chat
from tests.outcomes import Expects
from tests.served import ROOT, Served, wait_for


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name not in ("PATH", "LANG", "PYTHONPATH", "COVERAGE_PROCESS_START"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLAUDE_PROXY_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def stored(name: str, secret: str, limits: KeyLimits | None = None) -> StoredKey:
    return StoredKey(name, store.digest(secret.encode()), 1.7e9, limits or KeyLimits())


# The command.


def test_a_key_is_made_listed_and_revoked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list"]) == 0
    assert "There are no keys" in capsys.readouterr().out
    assert main(["keys", "add", "laptop", "--requests-per-minute", "5", "--usd-per-day", "2.50"]) == 0
    said = capsys.readouterr()
    secret = said.out.strip()
    assert secret.startswith("cmx-")
    assert len(secret) > 40
    assert "5 requests a minute, $2.5 a day at list price" in said.err
    assert "every client needs a key" in said.err
    path = home / "state" / "keys.json"
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = Keyring(stored=store.read(home / "state")).find([secret])
    assert found is not None
    assert found[0] == "laptop"
    assert main(["keys", "list"]) == 0
    assert "laptop" in capsys.readouterr().out
    assert main(["keys", "revoke", "laptop"]) == 0
    assert "It was the last one" in capsys.readouterr().err
    assert store.read(home / "state") == ()


def test_a_state_directory_that_cannot_be_is_told_in_words(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "state").write_text("")
    assert main(["keys", "add", "laptop"]) == 1
    assert capsys.readouterr().err == f"claude-max-api keys: File exists: {home / 'state'}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say one of add, list, revoke"),
        (["make", "x"], "say one of add, list, revoke"),
        (["add"], "name the key"),
        (["add", "a b"], "name the key"),
        (["add", "known"], "there is a key 'known' already"),
        (["add", "mine"], "there is a key 'mine' already"),
        (["revoke", "nobody"], "there is no key 'nobody'"),
        (["revoke", "mine"], "is a key of API_KEYS"),
        (["add", "x", "--tokens-per-day", "0"], "--tokens-per-day must be"),
        (["add", "x", "--tokens-per-day", "many"], "--tokens-per-day must be"),
        (["add", "x", "--usd-per-day", "-1"], "--usd-per-day must be"),
        (["add", "x", "--usd-per-day", "0"], "--usd-per-day must be"),
    ],
)
def test_words_that_cannot_be_used(
    words: list[str], message: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write(home / "state", (stored("known", "k"),))
    monkeypatch.setenv("API_KEYS", "mine:m")
    assert main(["keys", *words]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_a_damaged_file_stops_everything(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "state").mkdir()
    path = home / "state" / "keys.json"
    for text, mode, words in (("{", 0o600, "damaged"), ('{"keys": []}', 0o622, "can be changed by other users")):
        path.write_text(text)
        path.chmod(mode)
        with pytest.raises(KeysUnreadable, match=words):
            store.read(home / "state")
        with pytest.raises(SettingError, match=words):
            load({}, dict(os.environ))
        assert main(["keys", "list"]) == 2
        path.chmod(0o600)


@pytest.mark.parametrize("digest", ["", "x", "\u00e9" * 64, "A" * 64, "a" * 65])
def test_a_digest_that_is_none_is_damage(home: Path, digest: str) -> None:
    """Compared with one that is not ASCII no key could be told from another."""
    store.write(home / "state", (StoredKey("a", digest, 1.7e9),))
    with pytest.raises(KeysUnreadable, match="damaged"):
        store.read(home / "state")


def test_what_is_no_file_is_not_waited_for(home: Path) -> None:
    path = home / "state" / "keys.json"
    path.parent.mkdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(KeysUnreadable, match="not a regular file"):
        store.read(home / "state")
    path.unlink()
    path.mkdir()
    with pytest.raises(KeysUnreadable, match="cannot be read"):
        store.read(home / "state")
    path.rmdir()
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(KeysUnreadable, match="damaged"):
        store.read(home / "state")


def test_a_kept_key_is_enough_to_serve_beyond_loopback(home: Path) -> None:
    with pytest.raises(SettingError, match="keys add"):
        load({"host": "0.0.0.0"}, dict(os.environ))
    store.write(home / "state", (stored("a", "k"),))
    assert load({"host": "0.0.0.0"}, dict(os.environ)).stored_keys[0].name == "a"
    with pytest.raises(SettingError, match="another key 'a'"):
        load({}, {**os.environ, "API_KEYS": "a:x"})


def test_the_first_key_can_be_made_for_an_address_that_needs_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_PROXY_HOST", "0.0.0.0")
    assert main(["keys", "list"]) == 0
    assert main(["keys", "add", "a"]) == 0
    assert load({}, dict(os.environ)).stored_keys[0].name == "a"
    assert main(["keys", "revoke", "a"]) == 0


def test_both_kinds_are_found() -> None:
    keyring = Keyring((Key("given", "g"),), (stored("kept", "k", KeyLimits(tokens_per_day=1)),))
    found = [keyring.find([secret]) for secret in ("g", "k", "x")]
    assert [one and one[0] for one in found] == ["given", "kept", None]
    assert keyring.limits("kept") == KeyLimits(tokens_per_day=1)
    assert not keyring.limits("given")
    keyring.replace((), ())
    assert not keyring


# Limits.


def test_requests_a_minute() -> None:
    clock = Clock(1.7e9)
    quota, limits = Quota(clock, clock), KeyLimits(requests_per_minute=2)
    for offset, refused in ((0, None), (10, None), (20, 40.0), (59, 1.0), (60, None), (61, 9.0), (70, None)):
        clock.now = 1.7e9 + offset
        failure = quota.spent("a", limits, UsedToday())
        assert (failure and failure.retry_after) == refused
        assert failure is None or failure.kind is Kind.KEY_RATE
    assert quota.spent("b", limits, UsedToday()) is None


@pytest.mark.parametrize(
    ("limits", "used", "words"),
    [
        (KeyLimits(tokens_per_day=100), UsedToday(99, 1e9), None),
        (KeyLimits(tokens_per_day=100), UsedToday(100), "has used 100 tokens today, of 100"),
        (KeyLimits(usd_per_day=0.5), UsedToday(10**9, 0.49), None),
        (KeyLimits(usd_per_day=0.5), UsedToday(0, 0.75), "has used 0.75 dollars at list price today, of 0.5"),
    ],
)
def test_what_a_key_may_use_in_a_day(limits: KeyLimits, used: UsedToday, words: str | None) -> None:
    failure = Quota(Clock(1.7e9)).spent("a", limits, used)
    assert (failure is None) == (words is None)
    if failure is not None and words is not None:
        assert words in failure.message
        assert (failure.kind, failure.resets_at) == (Kind.KEY_LIMIT, tomorrow(1.7e9))


def test_a_day_is_the_calendars(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 27, 15, 30).timestamp()
    assert datetime.fromtimestamp(midnight(now)) == datetime(2026, 11, 27)
    assert datetime.fromtimestamp(tomorrow(now)) == datetime(2026, 11, 28)


# A server that runs.


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def keys(server: Served, *words: str) -> str:
    """Run the command beside the server; what it prints on stdout."""
    ran = subprocess.run(
        [sys.executable, "-m", "proxy", "keys", *words], capture_output=True, text=True, check=True,
        env={"PATH": os.environ["PATH"], "HOME": str(server.state.parent), "PYTHONPATH": str(ROOT),
             "CLAUDE_PROXY_STATE_DIR": str(server.state)},
    )  # fmt: skip
    assert "The running server has taken it." in ran.stderr
    return ran.stdout.strip()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    state = tmp_path / "state"
    store.write(state, (stored("first", "one"),))
    config = tmp_path / "config.toml"
    config.write_text("log_level = 'info'\n")
    config.chmod(0o600)
    with Served(fake_cli.write(tmp_path / "cli"), state, {"CLAUDE_PROXY_CONFIG": str(config)}) as served:
        yield served


def test_a_running_server_takes_and_drops_keys_at_once(server: Served) -> None:
    assert server.get("/v1/models").status_code == 401
    assert server.get("/v1/models", headers=bearer("one")).status_code == 200
    secret = keys(server, "add", "second")
    wait_for(lambda: server.get("/v1/models", headers=bearer(secret)).status_code == 200, 5, "the new key is taken")
    # A stream that is under way goes on to its end while its key is revoked.
    body = chat([["say", "slow"], ["sleep", 1.5], ["say", " end"], ["end"]], stream=True)
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=bearer(secret), timeout=60, trust_env=False) as stream:
        lines = stream.iter_lines()
        next(lines)
        keys(server, "revoke", "second")
        wait_for(lambda: server.get("/v1/models", headers=bearer(secret)).status_code == 401, 5, "it is dropped")
        assert list(lines)[-2:] == ["data: [DONE]", ""]
    assert server.recent_of("one")[0]["outcome"] == "ok"


def test_limits_are_honest(server: Served) -> None:
    secret = keys(server, "add", "small", "--tokens-per-day", "1")
    wait_for(lambda: server.get("/v1/models", headers=bearer(secret)).status_code == 200, 5, "the new key is taken")
    assert server.chat(chat("hi"), headers=bearer(secret)).status_code == 200
    refused = server.chat(chat("hi"), headers=bearer(secret))
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "key_quota_exceeded"
    assert 0 < int(refused.headers["retry-after"]) <= 90_000
    assert refused.headers["x-should-retry"] == "false"
    # Reading costs nothing, and others are not concerned.
    assert server.get("/v1/usage", headers=bearer(secret)).status_code == 200
    assert server.chat(chat("hi"), headers=bearer("one")).status_code == 200
    often = keys(server, "add", "often", "--requests-per-minute", "1")
    wait_for(lambda: server.get("/v1/models", headers=bearer(often)).status_code == 200, 5, "the new key is taken")
    assert server.chat(chat("hi"), headers=bearer(often)).status_code == 200
    refused = server.chat(chat("hi"), headers=bearer(often))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "key_rate_limit_exceeded")
    assert 0 < int(refused.headers["retry-after"]) <= 60


def test_a_file_of_keys_that_is_gone_opens_nothing(server: Served, expects: Expects) -> None:
    expects("faults", "the file of keys is deleted, then SIGHUP", "the keys before still hold, and the log says so")
    (server.state / store.FILE).unlink()
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "which held all keys, is gone or empty" in server.log(), 5, "it is told")
    assert server.get("/v1/models").status_code == 401
    assert server.get("/v1/models", headers=bearer("one")).status_code == 200
    # One that has been revoked is no longer needed.
    store.write(server.state, (stored("first", "one"),))
    keys(server, "revoke", "first")
    wait_for(lambda: server.get("/v1/models").status_code == 200, 5, "the last one is dropped")


def test_a_configuration_that_is_gone_opens_nothing(tmp_path: Path, expects: Expects) -> None:
    expects(
        "security", "the configuration file with all keys is gone, empty or a pipe at SIGHUP", "they still hold, and "
        "the log says so",
    )  # fmt: skip
    config = tmp_path / ".config" / "claude-max-api-proxy" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("api_keys = ['me:two']\n")
    config.chmod(0o600)
    with Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state") as server:

        def told(words: str) -> None:
            lines = server.log().count(words)
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: server.log().count(words) > lines, 5, "it is told")
            assert server.get("/v1/models").status_code == 401
            assert server.get("/v1/models", headers=bearer("two")).status_code == 200

        config.write_text("# nothing yet")
        told("which held all keys, is gone or empty")
        config.unlink()
        told("which held all keys, is gone or empty")
        os.mkfifo(config, 0o600)
        told("is not a regular file, which could be read again")


def test_a_revoked_key_is_dropped_whatever_else_is_wrong(server: Served, tmp_path: Path, expects: Expects) -> None:
    expects(
        "security", "keys are revoked, to the last, while the settings cannot be read", "each is refused at once, and "
        "nobody is answered without one",
    )  # fmt: skip
    config = tmp_path / "config.toml"
    config.write_text("port = ")
    secret = keys(server, "add", "second")
    wait_for(lambda: server.get("/v1/models", headers=bearer(secret)).status_code == 200, 5, "the new key is taken")
    keys(server, "revoke", "second")
    wait_for(lambda: server.get("/v1/models", headers=bearer(secret)).status_code == 401, 5, "it is dropped")
    assert server.chat(chat("hi"), headers=bearer("one")).status_code == 200
    keys(server, "revoke", "first")
    wait_for(lambda: server.get("/v1/models", headers=bearer("one")).status_code == 401, 5, "the last one is dropped")
    assert server.get("/v1/models").status_code == 401
    config.write_text("log_level = 'info'\n")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: server.get("/v1/models").status_code == 200, 5, "the settings say that none is needed")
    # What was asked with a key is shown to nobody else.
    assert server.chat(chat("hi")).status_code == 200
    assert {row["key"] for row in server.get("/v1/inspector").json()["data"]} == {None}


def test_sighup_takes_models_and_log_level(server: Served, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("log_level = 'debug'\nmodels = {fast = 'haiku'}\nparked = 1\n")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "fast" in server.get("/v1/models", headers=bearer("one")).text, 5, "the new model is offered")
    wait_for(lambda: "take effect when the server is started again: parked" in server.log(), 5, "what does not")
    config.write_text("port = ")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "those before still hold" in server.log(), 5, "a wrong file is named")
    assert "fast" in server.get("/v1/models", headers=bearer("one")).text


def test_only_servers_that_run_are_told(tmp_path: Path) -> None:
    assert running.reload(tmp_path) == 0
    (tmp_path / "servers").mkdir()
    for name, text in (("1", "another"), (str(2**22 + 1), "gone"), ("notes.txt", "")):
        (tmp_path / "servers" / name).write_text(text)
    assert running.reload(tmp_path) == 0
    assert [path.name for path in (tmp_path / "servers").iterdir()] == ["notes.txt"]
    with running.registered(tmp_path):
        assert (tmp_path / "servers" / str(os.getpid())).exists()
    assert not (tmp_path / "servers" / str(os.getpid())).exists()


def test_the_file_is_json_for_people(tmp_path: Path) -> None:
    store.write(tmp_path, (stored("a", "k", KeyLimits(requests_per_minute=3)),))
    (key,) = json.loads((tmp_path / "keys.json").read_text())["keys"]
    assert (key["name"], key["limits"]) == ("a", {"requests_per_minute": 3})
