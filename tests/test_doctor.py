"""The doctor: each check's good and bad, and the whole as it is printed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from proxy import doctor
from proxy.address import bind
from proxy.checks import Check
from proxy.cli import capacity, find
from proxy.cli.capacity import Memory
from proxy.cli_check import CASES, Seen
from proxy.doctor import NEWEST_PROVEN
from proxy.protocol.answer import Answer, CallPart
from proxy.protocol.known_lines import NEWEST_JUDGED
from proxy.settings import Settings
from tests import fake_cli
from tests.cli_script import LOGGED_OUT, cli_script

FIXTURES = Path(__file__).parent.parent / "fixtures"


def states(checks: str) -> dict[str, str]:
    """The printed lines: name → state."""
    rows = [line.split(maxsplit=2) for line in checks.splitlines()[:-1]]
    return {name: state for state, name, _ in rows}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """One in which all is well."""
    cli = fake_cli.write(tmp_path / "cli")
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "XDG_STATE_HOME": str(tmp_path / "state")}
    # Memory depends on the machine: little enough to be there.
    small = {"CLAUDE_PROXY_WAITING": "0", "CLAUDE_PROXY_MAX_CONVERSATIONS": "1", "CLAUDE_PROXY_PARKED": "0"}
    return home | small | {"CLAUDE_PROXY_CLI": str(cli), "CLAUDE_PROXY_PORT": "0"}


ALL = ("settings", "address", "state", "workspace", "memory", "cli", "version", "login")


def test_all_is_well(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run({}, environ, live=False) == 0
    printed = capsys.readouterr().out
    assert states(printed) == dict.fromkeys(ALL, "ok")
    assert printed.endswith("All checks passed.\n")


def test_live_asks_through_a_child_like_the_servers(
    environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.run({}, environ, live=True) == 0
    printed = capsys.readouterr().out
    assert states(printed) == dict.fromkeys((*ALL, "live"), "ok")
    assert "claude-opus-5-5 answered after" in printed
    (sent,) = fake_cli.told(tmp_path / "cli")
    assert "Reply with the word ok." in str(sent[-1])


@pytest.mark.parametrize(
    ("otherwise", "words"),
    [
        ("echo 'no such flag' >&2; exit 1", "exit code 1). It said: no such flag"),
        ("sleep 60", "longer than 0.5 seconds"),
    ],
)
def test_live_fails_in_words(
    environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    otherwise: str,
    words: str,
) -> None:
    monkeypatch.setattr(doctor, "LIVE_TIMEOUT", 0.5)
    environ["CLAUDE_PROXY_CLI"] = str(cli_script(tmp_path / "claude", otherwise=otherwise))
    assert doctor.run({}, environ, live=True) == 1
    last = capsys.readouterr().out.splitlines()[-2]
    assert last.startswith("FAIL  live ")
    assert words in last


def test_a_wrong_setting_ends_it(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run({"port": "x"}, environ, live=True) == 1
    printed = capsys.readouterr().out
    assert states(printed) == {"settings": "FAIL"}
    assert "port: must be" in printed
    assert printed.endswith("Some checks failed.\n")


def test_the_cli_is_asked_step_by_step(
    environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other"
    environ["CLAUDE_PROXY_CLI"] = str(path)
    for expected in (
        {"cli": "FAIL"},
        {"cli": "ok", "version": "FAIL"},
        {"cli": "ok", "version": "ok", "login": "FAIL"},
    ):
        assert doctor.run({}, environ, live=True) == 1
        seen = states(capsys.readouterr().out)
        assert {name: seen[name] for name in ("cli", "version", "login", "live") if name in seen} == expected
        if "version" not in expected:
            cli_script(path, "echo 2.1.0")
        else:
            cli_script(path, login=LOGGED_OUT, code=1)


def test_each_setting_is_shown_with_its_origin(
    environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("grace = 5\nport = 1\n[api_keys]\nlaptop = 'sesame'\n")
    path.chmod(0o600)
    assert doctor.run({"config": str(path), "waiting": "0"}, environ, live=False) == 0
    printed = capsys.readouterr().out
    for line in (
        f"configuration file: {path}",
        f"grace = 5, from grace in {path}",
        f"api_keys = (not shown), from api_keys in {path}",
        "port = 0, from CLAUDE_PROXY_PORT",
        "waiting = 0, from --waiting",
    ):
        assert f"ok    settings   {line}\n" in printed
    assert "sesame" not in printed


def test_a_certificate_that_cannot_be_used(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    files = {"CLAUDE_PROXY_TLS_CERT": "/nowhere/c.pem", "CLAUDE_PROXY_TLS_KEY": "/nowhere/k.pem"}
    assert doctor.run({}, environ | files, live=False) == 1
    assert "FAIL  tls        /nowhere/c.pem and /nowhere/k.pem cannot be used: No such file" in capsys.readouterr().out


def test_a_key_that_is_billed_is_a_warning(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    key = '{"loggedIn": true, "authMethod": "api_key", "apiKeySource": "ANTHROPIC_API_KEY"}'
    cli_script(Path(environ["CLAUDE_PROXY_CLI"]), login=key)
    environ |= {"CLAUDE_PROXY_LOGIN": "api-key", "ANTHROPIC_API_KEY": "sk-ant"}
    assert doctor.run({}, environ, live=False) == 0
    printed = capsys.readouterr().out
    assert states(printed) == dict.fromkeys(ALL, "ok") | {"login": "warn"}
    assert "billed per token" in printed
    assert "sk-ant" not in printed


@pytest.mark.parametrize(
    ("settings", "environ", "names"),
    [
        (Settings(), {}, []),
        (Settings(), {"ANTHROPIC_API_KEY": "secret"}, ["ANTHROPIC_API_KEY"]),
        (Settings(), {"ANTHROPIC_API_KEY": ""}, []),
        (Settings(), {"ANTHROPIC_AUTH_TOKEN": "secret"}, ["ANTHROPIC_AUTH_TOKEN"]),
        (Settings(login="api-key"), {"ANTHROPIC_API_KEY": "secret", "ANTHROPIC_AUTH_TOKEN": "secret"}, []),
        (Settings(), {"CLAUDE_CODE_USE_BEDROCK": "1"}, ["CLAUDE_CODE_USE_BEDROCK"]),
        (Settings(login="bedrock"), {"CLAUDE_CODE_USE_BEDROCK": "1"}, []),
        (Settings(login="bedrock"), {"CLAUDE_CODE_USE_VERTEX": "1"}, ["CLAUDE_CODE_USE_VERTEX"]),
        (Settings(), {"ANTHROPIC_BASE_URL": "http://secret"}, ["ANTHROPIC_BASE_URL"]),
        (Settings(upstream_url="http://x"), {"ANTHROPIC_BASE_URL": "http://secret"}, []),
        (Settings(), {"CLAUDE_PROXY_PROT": "secret"}, ["CLAUDE_PROXY_PROT"]),
    ],
)
def test_variables_that_do_not_do_what_one_may_expect(
    settings: Settings, environ: dict[str, str], names: list[str]
) -> None:
    notes = list(doctor.environment_notes(settings, environ))
    assert [note.message.split()[0] for note in notes] == names
    assert all(note.state == "warn" and note.help for note in notes)
    assert "secret" not in str(notes)


# This computer.


def test_the_state_directory_is_made_private(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    assert doctor.check_state_directory(directory).state == "ok"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert doctor.check_state_directory(directory).state == "ok"


@pytest.mark.parametrize(("mode", "state"), [(0o700, "ok"), (0o755, "warn"), (0o770, "FAIL"), (0o702, "FAIL")])
def test_others_must_not_change_it(tmp_path: Path, mode: int, state: str) -> None:
    directory = tmp_path / "it's"
    directory.mkdir()
    directory.chmod(mode)
    check = doctor.check_state_directory(directory)
    assert check.state == state
    if state != "ok":
        assert os.system(check.help) == 0
        assert doctor.check_state_directory(directory).state == "ok"


def test_where_the_cli_runs(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    check = doctor.check_workspace(tmp_path / "state", shared)
    assert (check.state, str(shared) in check.message) == ("ok", True)
    shared.chmod(0o777)
    check = doctor.check_workspace(tmp_path / "state", shared)
    assert (check.state, str(tmp_path / "state") in check.message) == ("warn", True)
    (tmp_path / "state/workspace/empty/CLAUDE.md").write_text("")
    check = doctor.check_workspace(tmp_path / "state", shared)
    assert (check.state, "must be empty" in check.message) == ("FAIL", True)
    assert os.system(check.help) == 0
    assert doctor.check_workspace(tmp_path / "state", shared).state == "warn"


def test_a_state_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check = doctor.check_state_directory(tmp_path / "file" / "state")
    assert (check.state, str(tmp_path / "file") in check.message) == ("FAIL", True)


NEEDED = capacity.taken(2, 8, 4)


@pytest.mark.parametrize(("free", "state"), [(None, "ok"), (NEEDED, "ok"), (NEEDED - 1, "warn")])
def test_memory_for_all_processes(free: int | None, state: str) -> None:
    settings = Settings(waiting=2, max_conversations=8, parked=4)
    assert doctor.check_memory(settings, Memory(free, None)).state == state


def test_what_is_automatic_fits_by_itself() -> None:
    free = capacity.taken(4, 8, 0)
    check = doctor.check_memory(Settings(), Memory(free, 16 << 30))
    assert (check.state, "4 waiting, 8 answering and 0 parked" in check.message) == ("ok", True)
    check = doctor.check_memory(Settings(), Memory(free - 1, 16 << 30))
    assert check.state == "warn"
    assert "32 parked" in doctor.check_memory(Settings(), Memory(60 << 30, 64 << 30)).message


# The CLI.


def test_a_newer_cli_than_the_newest_that_was_judged() -> None:
    assert doctor.check_version(find.FLOOR).state == "ok"
    assert doctor.check_version(NEWEST_JUDGED).state == "ok"
    newer = doctor.check_version((*NEWEST_JUDGED[:2], NEWEST_JUDGED[2] + 1))
    assert (newer.state, newer.help) == ("warn", "to try it: claude-max-api doctor --cli-check")


def test_floor_and_newest_are_those_of_the_fixtures() -> None:
    recorded = sorted(
        tuple(map(int, folder.name.split("."))) for folder in (FIXTURES / "transcripts").iterdir() if folder.is_dir()
    )
    assert (recorded[0], find.shown(recorded[-1])) == (find.FLOOR, NEWEST_PROVEN)  # type: ignore[arg-type]
    assert recorded[-1] <= NEWEST_JUDGED


def test_a_check_is_one_line() -> None:
    check = Check("FAIL", "login", "logged out.", "claude auth login\nor: claude setup-token")
    assert str(check) == "FAIL  login      logged out. -> claude auth login; or: claude setup-token"


@pytest.mark.real_cli
def test_live_with_the_real_cli_and_nobody_upstream(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    # Bound and not listening: whoever connects is refused, and nobody else gets the port.
    nobody = bind("127.0.0.1", 0)
    environ |= {
        "CLAUDE_PROXY_CLI": os.environ["CLAUDE_CLI"],
        "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-any",
        "CLAUDE_PROXY_UPSTREAM_URL": f"http://127.0.0.1:{nobody.getsockname()[1]}",
        "CLAUDE_PROXY_RETRIES": "0",
    }
    with nobody:
        assert doctor.run({}, environ, live=True) == 1
    printed = capsys.readouterr().out
    assert states(printed) == dict.fromkeys(ALL, "ok") | {"live": "FAIL"}
    assert "ECONNREFUSED" in printed


@pytest.mark.real_cli
def test_the_cli_is_tried_offline(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    environ |= {"CLAUDE_PROXY_CLI": os.environ["CLAUDE_CLI"], "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-any"}
    assert doctor.run({}, environ, cli_check=True) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "cli check" in line]
    assert rows == [f"ok    cli check  {case.name}" for case in CASES]


def test_a_cli_that_does_something_else_fails_every_case(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    # It answers by itself, and asks no Messages API.
    assert doctor.run({}, environ, cli_check=True) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if "cli check" in line]
    assert [row[:4] for row in rows] == ["FAIL"] * len(CASES)
    assert "the question did not arrive as it was put in" in rows[0]
    assert "the structured answer is" in rows[2]
    assert "the kind of failure is None" in rows[4]


@pytest.mark.parametrize(("more", "problem"), [(0, ""), (1, "the CLI sets 4 marks for the prompt cache, more than 3")])
def test_a_cli_that_leaves_no_mark_for_the_server_is_told(more: int, problem: str) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    roles = ("user", "assistant", "user", "assistant", "user")
    said = [{"role": role, "content": [{"type": "text", "text": "x"}]} for role in roles]
    said[-1] = {"role": "user", "content": [{"type": "text", "text": "x", **mark}] * (1 + more)}
    body = {"tools": [{"name": "weather"}], "system": [{"type": "text", "text": "x", **mark}] * 2, "messages": said}
    answer = Answer(model="claude-opus-5-5", parts=(CallPart("toolu_1", "weather", '{"city":"Oslo"}'),))
    assert CASES[1].problem(Seen(body, answer, None)) == problem


def test_the_cli_is_tried_without_a_login(
    environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ["CLAUDE_PROXY_CLI"] = str(cli_script(tmp_path / "claude", login=LOGGED_OUT, code=1))
    assert doctor.run({}, environ, live=True, cli_check=True) == 1
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(maxsplit=2)[:2] for row in rows if " login " in row] == [["FAIL", "login"]]
    assert len([row for row in rows if "cli check" in row]) == len(CASES)
    assert not [row for row in rows if " live " in row]


def test_a_cli_that_cannot_be_started_fails_every_case(
    environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ["CLAUDE_PROXY_CLI"] = str(cli_script(tmp_path / "claude", otherwise="echo 'no such flag' >&2; exit 1"))
    assert doctor.run({}, environ, cli_check=True) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if "cli check" in line]
    assert len(rows) == len(CASES)
    assert all(row.startswith("FAIL") and "It said: no such flag" in row for row in rows)
