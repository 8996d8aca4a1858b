"""How children are started: nothing of a request on the command line, nothing unwanted in the environment."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest

from proxy.cli.launch import BILLED, FIXED, FLAGS, PASSED_FOR_LOGIN, SET_FOR_LOGIN, environment, launch
from proxy.settings import Login, Settings

LOGINS: tuple[Login, ...] = get_args(Login)
SECRETS = {
    "API_KEYS": "of the proxy",
    "CLAUDE_PROXY_CLI": "of the proxy",
    "CLAUDECODE": "1",
    "CLAUDE_CODE_ENTRYPOINT": "cli",
    "CLAUDE_CODE_SSE_PORT": "1",
    "ANTHROPIC_BASE_URL": "http://elsewhere",
    "ANTHROPIC_MODEL": "other",
    "ANTHROPIC_API_KEY": "billed",
    "ANTHROPIC_AUTH_TOKEN": "billed",
    "CLAUDE_CODE_OAUTH_TOKEN": "token",
    "AWS_ACCESS_KEY_ID": "aws",
    "GOOGLE_CLOUD_PROJECT": "gcp",
    "OPENAI_API_KEY": "other",
    "SSH_AUTH_SOCK": "socket",
    "NODE_OPTIONS": "--require x",
    "LD_PRELOAD": "x",
}
PLAIN = {"PATH": "/bin", "HOME": "/h", "LANG": "C.UTF-8", "HTTPS_PROXY": "http://p", "CLAUDE_CONFIG_DIR": "/c"}


def test_every_login_has_its_rows() -> None:
    assert set(LOGINS) == set(PASSED_FOR_LOGIN) == set(SET_FOR_LOGIN)


def test_the_environment_is_built_from_nothing() -> None:
    child = environment(Settings(), PLAIN | SECRETS)
    assert child == PLAIN | FIXED | {"CLAUDE_CODE_OAUTH_TOKEN": "token", "CLAUDE_CODE_MAX_RETRIES": "1"}


@pytest.mark.parametrize("login", LOGINS)
def test_each_login_gets_its_own_secrets_and_no_others(login: Login) -> None:
    child = environment(Settings(login=login), PLAIN | SECRETS)
    given = set(child) & set(SECRETS)
    assert (
        given
        == {
            "subscription": {"CLAUDE_CODE_OAUTH_TOKEN"},
            "api-key": {"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"},
            "bedrock": {"AWS_ACCESS_KEY_ID"},
            "vertex": {"GOOGLE_CLOUD_PROJECT"},
        }[login]
    )
    assert SET_FOR_LOGIN[login].items() <= child.items()
    assert bool(given & set(BILLED)) == (login == "api-key")


def test_what_is_not_there_is_not_made_up() -> None:
    assert environment(Settings(), {}) == FIXED | {"CLAUDE_CODE_MAX_RETRIES": "1"}


def test_settings_that_reach_the_child() -> None:
    child = environment(Settings(retries=0, upstream_url="http://127.0.0.1:1"), SECRETS)
    assert child["CLAUDE_CODE_MAX_RETRIES"] == "0"
    assert child["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:1"


def test_the_launch() -> None:
    made = launch("/opt/claude", Settings(), PLAIN, "/empty")
    assert made.argv == ("/opt/claude", *FLAGS, "--thinking-display", "summarized")
    assert launch("/opt/claude", Settings(reasoning=False), PLAIN, "/empty").argv == ("/opt/claude", *FLAGS)
    assert made.cwd == "/empty"
    assert made.env == environment(Settings(), PLAIN)


def test_no_built_in_tools_no_files_of_the_host_no_session_left_behind() -> None:
    pairs = list(pairwise(FLAGS))
    assert ("--tools", "") in pairs
    assert ("--setting-sources", "") in pairs
    assert ("--permission-mode", "dontAsk") in pairs
    assert {"--strict-mcp-config", "--disable-slash-commands", "--no-session-persistence"} <= set(FLAGS)
    # Refused for root, and not needed: there are no built-in tools to permit.
    assert "--dangerously-skip-permissions" not in FLAGS
