"""The configuration file: what it may hold, who may read it, and what it is weaker than."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.settings import Key, ModelName, SettingError, Settings
from proxy.settings.paths import config_file
from proxy.settings.sources import load, parse


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("environ", "platform", "path"),
    [
        ({"HOME": "/h"}, "linux", "/h/.config/claude-max-api-proxy/config.toml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}, "linux", "/c/claude-max-api-proxy/config.toml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "c"}, "linux", "/h/.config/claude-max-api-proxy/config.toml"),
        ({"HOME": "/h"}, "darwin", "/h/Library/Application Support/claude-max-api-proxy/config.toml"),
    ],
)
def test_where_it_is_looked_for(environ: dict[str, str], platform: str, path: str) -> None:
    assert config_file(environ, platform) == Path(path)


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    loaded = load({}, {"HOME": str(tmp_path)}, "linux")
    assert (loaded.settings, loaded.path, dict(loaded.given)) == (Settings(), "", {})


def test_every_kind_of_value(tmp_path: Path) -> None:
    path = write(
        tmp_path / ".config" / "claude-max-api-proxy" / "config.toml",
        """
        port = 3457
        queue_wait = 0.5
        strict_params = true
        log_level = "warn"
        hosts = ["nas.local", "box"]
        models = {fast = "haiku"}
        [api_keys]
        laptop = "sesame"
        [environment]
        AWS_REGION = "eu-central-1"
        PATH = "/not/this"
        """,
    )
    environ = {"HOME": str(tmp_path), "PATH": "/bin"}
    loaded = load({}, environ, "linux")
    assert loaded.settings == Settings(
        port=3457, queue_wait=0.5, strict_params=True, log_level="warn", hosts=("nas.local", "box"),
        models=(ModelName("fast", "haiku"),), api_keys=(Key("laptop", "sesame"),),
    )  # fmt: skip
    assert loaded.path == str(path)
    assert loaded.environ == {"HOME": str(tmp_path), "PATH": "/bin", "AWS_REGION": "eu-central-1"}
    assert loaded.given["port"].origin == f"port in {path}"


def test_arguments_then_variables_then_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", "port = 1\nwaiting = 1\nparked = 1\nlog_level = 'error'\n")
    environ = {"CLAUDE_PROXY_CONFIG": str(path), "CLAUDE_PROXY_WAITING": "2", "CLAUDE_PROXY_PORT": "2", "DEBUG": "1"}
    loaded = load({"port": "3"}, environ, "linux")
    assert (loaded.settings.port, loaded.settings.waiting, loaded.settings.parked) == (3, 2, 1)
    assert loaded.settings.log_level == "debug"
    origins = {field: given.origin for field, given in loaded.given.items()}
    assert origins == {
        "port": "port",
        "waiting": "CLAUDE_PROXY_WAITING",
        "parked": f"parked in {path}",
        "log_level": "DEBUG",
        "config": "CLAUDE_PROXY_CONFIG",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port = ", "/c.toml is not valid TOML: "),
        ("prot = 1", "prot in /c.toml: is not a setting; did you mean port?"),
        ("config = '/other'", "config in /c.toml: is not a setting"),
        ("port = " + "[" * 5000, "/c.toml is not valid TOML: "),
        ("port = [1]", "port in /c.toml: must be text, a number, true or false, or a list of texts"),
        ("port = 2026-01-01", "port in /c.toml: must be text, a number"),
        ("api_keys = {a = 'x,y'}", "api_keys in /c.toml: must not hold commas in the texts of its list or table"),
        ("hosts = ['a,b']", "must not hold commas"),
        ("models = {'a,b' = 'opus'}", "must not hold commas"),
        ("api_keys = {a = 1}", "or a table of texts"),
        ("environment = 'x'", "environment in /c.toml: must be a table of texts"),
        ("environment = {A = 1}", "environment in /c.toml: must be a table of texts"),
        ("environment = {CLAUDE_PROXY_PORT = '1'}", "'CLAUDE_PROXY_PORT' is none"),
        ("environment = {'A B' = '1'}", "'A B' is none"),
    ],
)
def test_what_cannot_be_used_is_named(text: str, words: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse(text, "/c.toml")
    assert words in str(caught.value)


def test_a_value_out_of_range_is_named_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", "port = 70000")
    with pytest.raises(SettingError) as caught:
        load({"config": str(path)}, {}, "linux")
    assert str(caught.value).startswith(f"port in {path}: must be a whole number between 0 and 65535 (given: '70000')")


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o606, 0o640])
def test_a_file_that_others_could_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "it is.toml", "port = 1", mode)
    with pytest.raises(SettingError, match="is open to other users") as caught:
        load({"config": str(path)}, {}, "linux")
    assert os.system(str(caught.value).partition("private: ")[2]) == 0
    assert load({"config": str(path)}, {}, "linux").settings.port == 1


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^--config: there is no file /nowhere/c\.toml\.$"):
        load({"config": "/nowhere/c.toml"}, {}, "linux")
    with pytest.raises(SettingError, match="cannot be read: Is a directory"):
        load({"config": str(tmp_path)}, {}, "linux")
    (tmp_path / "latin").write_bytes(b"# caf\xe9")
    with pytest.raises(SettingError, match="cannot be read"):
        load({"config": str(tmp_path / "latin")}, {}, "linux")


def test_no_file_at_all_can_be_asked_for(tmp_path: Path) -> None:
    write(config_file({"HOME": str(tmp_path)}, "linux"), "port = 1")
    environ = {"HOME": str(tmp_path)}
    assert load({}, environ, "linux").settings.port == 1
    assert load({"config": os.devnull}, environ, "linux").settings == Settings(config=os.devnull)
