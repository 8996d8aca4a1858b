"""Finding the CLI and asking it who it is. The CLIs here are small scripts; what they say, the real one said."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

import pytest

from proxy.cli import find
from proxy.cli.find import (
    FLOOR,
    CliLoggedOut,
    CliMissing,
    CliProblem,
    CliTooOld,
    CliUnusable,
    FoundCli,
    LoginState,
    check_login,
    look,
    update_command,
)
from proxy.settings import Login, Settings
from tests.cli_script import CLOUD, ENVIRONMENT_KEY, LOGGED_OUT, MANAGED_KEY, SUBSCRIPTION, TOKEN, cli_script


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No place outside the test's own directory is looked at."""
    monkeypatch.setattr(find, "PLACES", tuple(place for place in find.PLACES if place.startswith("~")))
    monkeypatch.setattr(find, "_bundled", lambda: None)


def environ(home: Path, *path: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.pathsep.join(map(str, (*path, "/usr/bin", "/bin")))}


# Where it is.


def test_the_setting_is_first(tmp_path: Path) -> None:
    chosen = cli_script(tmp_path / "mine" / "claude-next")
    cli_script(tmp_path / "bin" / "claude")
    assert find.find(Settings(cli=str(chosen)), environ(tmp_path, tmp_path / "bin")) == str(chosen)


def test_the_setting_may_name_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    chosen = cli_script(tmp_path / "claude")
    assert find.find(Settings(cli="~/claude"), environ(tmp_path)) == str(chosen)


@pytest.mark.parametrize(("make", "why"), [(False, "does not exist"), (True, "is no program")])
def test_a_wrong_setting_is_named(tmp_path: Path, make: bool, why: str) -> None:
    cli_script(tmp_path / "bin" / "claude")
    path = tmp_path / "nothing"
    if make:
        path.write_text("")
    with pytest.raises(CliMissing, match=f"CLAUDE_PROXY_CLI .*{why}"):
        find.find(Settings(cli=str(path)), environ(tmp_path, tmp_path / "bin"))


def test_path_comes_before_the_usual_places(tmp_path: Path) -> None:
    cli_script(tmp_path / ".local" / "bin" / "claude")
    on_path = cli_script(tmp_path / "bin" / "claude")
    assert find.find(Settings(), environ(tmp_path, tmp_path / "bin")) == str(on_path)


def test_a_relative_entry_of_path_gives_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = cli_script(tmp_path / "bin" / "claude")
    monkeypatch.chdir(tmp_path)
    assert find.find(Settings(), environ(tmp_path, Path("bin"))) == str(on_path)


@pytest.mark.parametrize("place", [place for place in find.PLACES if place.startswith("~")])
def test_the_usual_places(tmp_path: Path, place: str) -> None:
    path = cli_script(tmp_path / place[2:].replace("*", "v22.1.0"))
    assert find.find(Settings(), environ(tmp_path)) == str(path)


def test_npm_prefix(tmp_path: Path) -> None:
    path = cli_script(tmp_path / "npm" / "bin" / "claude")
    assert find.find(Settings(), environ(tmp_path) | {"NPM_CONFIG_PREFIX": str(tmp_path / "npm")}) == str(path)


def test_links_are_kept_as_they_are(tmp_path: Path) -> None:
    real = cli_script(tmp_path / "versions" / "2.1.330")
    link = tmp_path / ".local" / "bin" / "claude"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    assert find.find(Settings(), environ(tmp_path)) == str(link)


def test_the_python_package_is_the_last_place_and_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(find, "PLACES", ("~/.local/bin/claude",))
    package = tmp_path / "site" / "claude_agent_sdk"
    bundled = cli_script(package / "_bundled" / "claude")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert find.find(Settings(), environ(tmp_path)) == str(bundled)
    assert update_command(str(bundled)).endswith("-m pip install --upgrade claude-agent-sdk")
    earlier = cli_script(tmp_path / ".local" / "bin" / "claude")
    assert find.find(Settings(), environ(tmp_path)) == str(earlier)


@pytest.mark.parametrize(
    ("there", "command"),
    [(True, [sys.executable, "-m", "pip", "install"]), (False, ["uv", "pip", "install", "--python", sys.executable])],
    ids=["pip", "no pip: uv"],
)
def test_none_at_all_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, command: list[str]
) -> None:
    monkeypatch.setattr(find, "_bundled", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: there or None)
    with pytest.raises(CliMissing, match="not installed") as caught:
        find.find(Settings(), environ(tmp_path))
    assert shlex.split(caught.value.help.splitlines()[0]) == [*command, "claude-agent-sdk"]


# Its version.


@pytest.mark.parametrize(
    ("said", "version"), [("2.1.330 (Claude Code)", (2, 1, 330)), ("2.1.292", (2, 1, 292)), ("3.0.0-rc.1 x", (3, 0, 0))]
)
def test_versions(tmp_path: Path, said: str, version: find.Version) -> None:
    path = cli_script(tmp_path / "claude", f"echo '{said}'")
    assert find.version(str(path), environ(tmp_path)) == version


@pytest.mark.parametrize("said", ["2.1.271 (Claude Code)", "1.0.128", "0.2.9"])
def test_too_old_says_how_to_update(tmp_path: Path, said: str) -> None:
    path = cli_script(tmp_path / "claude", f"echo '{said}'")
    with pytest.raises(CliTooOld, match=rf"version {said.split()[0]}; {find.shown(FLOOR)} or newer") as caught:
        find.version(str(path), environ(tmp_path))
    assert caught.value.help == f"{path} update"


def test_how_to_update_depends_on_the_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = cli_script(tmp_path / "lib" / "node_modules" / "x" / "cli")
    link = tmp_path / "bin" / "claude"
    link.parent.mkdir()
    link.symlink_to(npm)
    assert update_command(str(link)) == "npm install -g @anthropic-ai/claude-code@latest"
    native = cli_script(tmp_path / "native" / "claude")
    assert update_command(str(native)) == f"{native} update"
    monkeypatch.setenv("PATH", str(native.parent))
    assert update_command(str(native)) == "claude update"


@pytest.mark.parametrize(
    "version",
    [
        "echo hello",
        "true",
        "echo '2.1'",
        "echo 'v2.1.330'",
        "echo '2.1.330.1'",
        "echo '2.1.330'; exit 1",
        "echo 'no such library' >&2; exit 127",
        "kill -9 $$",
        "printf '\\377\\376'",
    ],
)
def test_anything_else_is_no_version(tmp_path: Path, version: str) -> None:
    path = cli_script(tmp_path / "claude", version)
    with pytest.raises(CliUnusable, match="did not say its version") as caught:
        find.version(str(path), environ(tmp_path))
    assert ("no such library" in caught.value.message) == ("no such library" in version)
    assert caught.value.help == f"{path} --version"


BEAT = "while :; do echo x >> {beat}; sleep 0.02; done"


@pytest.mark.parametrize("version", [BEAT, f"({BEAT}) & echo 2.1.330", f"exec 1>&- 2>&-; {BEAT}"])
def test_a_cli_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(find, "TIMEOUT", 0.3)
    beat = tmp_path / "beat"
    path = cli_script(tmp_path / "claude", version.format(beat=beat))
    with pytest.raises(CliUnusable, match=r"within 0\.3 seconds"):
        find.version(str(path), environ(tmp_path))
    beats = beat.stat().st_size
    time.sleep(0.1)
    assert beat.stat().st_size == beats


def test_a_cli_that_floods_is_ended(tmp_path: Path) -> None:
    path = cli_script(tmp_path / "claude", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done")
    with pytest.raises(CliUnusable) as caught:
        find.version(str(path), environ(tmp_path))
    assert len(caught.value.message) < 1000


def test_what_cannot_be_started(tmp_path: Path) -> None:
    path = tmp_path / "claude"
    path.write_bytes(b"\0\1\2")
    path.chmod(0o755)
    with pytest.raises(CliUnusable, match="cannot be started"):
        find.version(str(path), environ(tmp_path))
    with pytest.raises(CliUnusable, match="cannot be started"):
        find.login(str(path), environ(tmp_path))


# Its login.


@pytest.mark.parametrize(
    ("said", "code", "state", "words"),
    [
        (SUBSCRIPTION, 0, LoginState(True, "claude.ai", None, "max"), "Claude subscription (max)"),
        (TOKEN, 0, LoginState(True, "oauth_token"), "token from the environment"),
        (MANAGED_KEY, 0, LoginState(True, "api_key", "/login managed key"), "API key (/login managed key), billed"),
        (LOGGED_OUT, 1, LoginState(False, "none"), "logged out"),
        ('{"loggedIn": true, "authMethod": "new_kind"}', 0, LoginState(True, "new_kind"), "new_kind"),
        ('{"loggedIn": true}', 0, LoginState(True), "unknown"),
    ],
)
def test_logins(tmp_path: Path, said: str, code: int, state: LoginState, words: str) -> None:
    path = cli_script(tmp_path / "claude", login=said, code=code)
    found = find.login(str(path), environ(tmp_path))
    assert found == state
    assert str(found).startswith(words)


@pytest.mark.parametrize("said", ["", "hello", "[]", "{}", '{"loggedIn": "yes"}', "[" * 20000])
def test_anything_else_is_no_login(tmp_path: Path, said: str) -> None:
    path = cli_script(tmp_path / "claude", login=said)
    with pytest.raises(CliUnusable, match="whether it is logged in"):
        find.login(str(path), environ(tmp_path))


def test_it_is_asked_as_children_are_run(tmp_path: Path) -> None:
    path = cli_script(tmp_path / "claude", login=TOKEN)
    given = environ(tmp_path) | {
        "ANTHROPIC_API_KEY": "billed",
        "API_KEYS": "secret",
        "CLAUDECODE": "1",
        "CLAUDE_CODE_OAUTH_TOKEN": "token",
    }
    look(Settings(cli=str(path)), given)
    seen = (tmp_path / "claude.env").read_text()
    assert "CLAUDE_CODE_OAUTH_TOKEN=token" in seen
    assert "DISABLE_AUTOUPDATER=1" in seen
    assert not any(name in seen for name in ("ANTHROPIC_API_KEY", "API_KEYS", "CLAUDECODE="))
    assert Path((tmp_path / "claude.cwd").read_text().strip()) not in (tmp_path, Path.cwd())


SAID: dict[str, str] = {
    "subscription": SUBSCRIPTION, "token": TOKEN, "managed": MANAGED_KEY, "key": ENVIRONMENT_KEY, "cloud": CLOUD,
    "out": LOGGED_OUT,
}  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "good"),
    [
        ("subscription", {"subscription", "token", "cloud"}),
        ("api-key", {"token", "managed", "key", "cloud"}),
        ("bedrock", {"cloud"}),
        ("vertex", {"cloud"}),
    ],
)
@pytest.mark.parametrize("said", SAID)
def test_the_login_must_be_there_and_of_the_kind_that_is_asked_for(
    tmp_path: Path, wanted: Login, good: set[str], said: str
) -> None:
    path = str(cli_script(tmp_path / "claude", login=SAID[said], code=1 if said == "out" else 0))
    settings = Settings(cli=path, login=wanted)
    if said in good:
        found = look(settings, environ(tmp_path))
        assert (found.path, found.version_text) == (path, "2.1.330")
        return
    with pytest.raises(CliLoggedOut) as caught:
        look(settings, environ(tmp_path))
    assert caught.value.help


def test_logged_out_says_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cli_script(tmp_path / "claude")
    with pytest.raises(CliLoggedOut) as caught:
        check_login(LoginState(False, "none"), "subscription", str(path))
    assert caught.value.help.splitlines()[0] == f"{path} auth login"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CliLoggedOut) as caught:
        check_login(LoginState(False, "none"), "subscription", str(path))
    assert caught.value.help.splitlines()[0] == "claude auth login"


def test_every_problem_has_words_and_help() -> None:
    problem = CliTooOld("words", "help")
    assert isinstance(problem, CliProblem)
    assert (str(problem), problem.message, problem.help) == ("words", "words", "help")


def test_what_is_found(tmp_path: Path) -> None:
    found = FoundCli("/c", (2, 1, 330), LoginState(True, "claude.ai"))
    assert (found.version_text, found.login_method) == ("2.1.330", "claude.ai")


@pytest.fixture
def real_cli() -> str:
    return os.environ["CLAUDE_CLI"]


@pytest.mark.real_cli
def test_the_real_cli(tmp_path: Path, real_cli: str) -> None:
    settings = Settings(cli=real_cli)
    with pytest.raises(CliLoggedOut):
        look(settings, environ(tmp_path))
    token = {"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-any", "ANTHROPIC_API_KEY": "sk-ant-any"}
    found = look(settings, environ(tmp_path) | token)
    assert found.login == LoginState(True, "oauth_token")
    assert found.version >= FLOOR
    with_key = look(Settings(cli=real_cli, login="api-key"), environ(tmp_path) | token)
    assert with_key.login == LoginState(True, "api_key", "ANTHROPIC_API_KEY")


@pytest.mark.real_cli
def test_the_users_own_settings_do_not_log_the_real_cli_in(tmp_path: Path, real_cli: str) -> None:
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / "settings.json").write_text('{"env": {"ANTHROPIC_API_KEY": "sk-ant-any"}}')
    with pytest.raises(CliLoggedOut, match="logged out"):
        look(Settings(cli=real_cli), environ(tmp_path))
