"""proxy/http/health.py: what the server says of its state."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import proxy
from proxy.cli import warm_pool
from proxy.http.service import LoginSeen
from proxy.protocol.failures import Failure, Kind
from proxy.settings import Key
from proxy.usage import writer
from tests import cli_lines as say
from tests import fake_cli
from tests.conftest import Running, Serve, chat, until

COMPLETIONS = "/v1/chat/completions"


async def health(server: Running) -> tuple[int, dict[str, Any]]:
    async with server.client() as client:
        answer = await client.get("/health")
        return answer.status_code, answer.json()


async def test_a_server_that_has_not_been_used_claims_nothing(local: Serve) -> None:
    status, found = await health(await local())
    assert status == 200
    assert found["status"] == "ok"
    assert (found["version"], found["cli_version"]) == (proxy.__version__, "2.1.330")
    assert found["login"] == {"method": "oauth_token", "works": None, "last_success": None, "last_failure": None}
    assert found["children"]["busy"] == 0


async def test_it_says_nothing_of_keys_paths_or_messages(local: Serve) -> None:
    server = await local(api_keys=(Key("alice", "sk-alice"),), cli={"exit": 1, "stderr": "/secret/path\n"})
    async with server.client() as client:
        head = {"authorization": "Bearer sk-alice"}
        await client.post(COMPLETIONS, json=chat("secret question"), headers=head)
        text = (await client.get("/health")).text
    for word in ("sk-alice", "alice", "secret", str(server.directory)):
        assert word not in text


async def test_it_tells_how_many_entries_of_usage_are_lost(
    local: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_PENDING", 1)
    server = await local()
    assert (await health(server))[1]["ledger_entries_lost"] == 0
    server.service.accounts.ledger = ledger = writer.Ledger(tmp_path / "usage.sqlite3", 0, "subscription")
    for number in range(4):
        ledger.begun(f"r{number}", 1.0, "", "x")
    assert (await health(server))[1]["ledger_entries_lost"] == 3


async def test_a_real_success_shows(local: Serve) -> None:
    server = await local()
    async with server.client() as client:
        await client.post(COMPLETIONS, json=chat())
    status, found = await health(server)
    assert (status, found["status"], found["login"]["works"]) == (200, "ok", True)
    assert found["login"]["last_success"] > 1_700_000_000


async def test_a_login_that_failed_shows_until_one_works(local: Serve) -> None:
    server = await local()
    refused = [["line", say.words("Please log in", "authentication_failed")],
               ["line", say.error_result("no", api_error_status=401)]]  # fmt: skip
    async with server.client() as client:
        await client.post(COMPLETIONS, json=chat(refused))
        status, found = await health(server)
        assert (status, found["status"], found["login"]["works"]) == (503, "login_failed", False)
        await client.post(COMPLETIONS, json=chat())
    status, found = await health(server)
    assert (status, found["status"], found["login"]["works"]) == (200, "ok", True)


async def test_a_login_that_failed_is_tried_again(local: Serve) -> None:
    server = await local()
    server.service.failed(Failure(Kind.NOT_LOGGED_IN, "no"))
    assert (await health(server))[0] == 503
    # Where nobody is sent to a server that says so, nothing else would show that it works again.
    server.service.login = LoginSeen(None, time.time() - 61)
    status, found = await health(server)
    assert (status, found["status"], found["login"]["works"]) == (200, "ok", False)
    # A clock that was ahead.
    server.service.login = LoginSeen(None, time.time() + 86_400)
    assert (await health(server))[0] == 200


async def test_a_request_for_what_is_not_permitted_takes_no_server_away(local: Serve) -> None:
    server = await local()
    refused = [["line", say.error_result("not this model", api_error_status=403)]]
    async with server.client() as client:
        assert (await client.post(COMPLETIONS, json=chat(refused))).status_code == 403
        assert (await health(server))[1]["status"] == "login_failed"
        await client.post(COMPLETIONS, json=chat())
        assert (await client.post(COMPLETIONS, json=chat(refused))).status_code == 403
    status, found = await health(server)
    assert (status, found["login"]["works"]) == (200, True)


async def test_other_failures_say_nothing_of_the_login(local: Serve) -> None:
    server = await local()
    async with server.client() as client:
        await client.post(COMPLETIONS, json=chat([["line", say.error_result("no", api_error_status=529)]]))
    assert (await health(server))[1]["login"]["works"] is None


async def test_a_cli_that_cannot_be_started_shows(local: Serve) -> None:
    server = await local()
    (server.directory / "claude").unlink()
    async with server.client() as client:
        await client.post(COMPLETIONS, json=chat())
    status, found = await health(server)
    assert (status, found["status"]) == (503, "cli_unavailable")


@pytest.mark.parametrize("waiting", [0, 1])
async def test_where_none_waits_a_request_may_try_again(
    local: Serve, monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    monkeypatch.setattr(warm_pool, "START_RETRY", 0.0)
    server = await local(waiting=waiting)
    (server.directory / "claude").unlink()
    async with server.client() as client:
        while (await client.post(COMPLETIONS, json=chat())).status_code == 200:
            pass
    assert (await health(server))[1]["status"] == ("cli_unavailable" if waiting else "ok")


async def test_waiting_children_that_die_show(local: Serve) -> None:
    server = await local({"exit": 1, "stderr": "no\n"}, waiting=1)
    await until(lambda: server.pool.warm_pool.last_start_error is not None, 5, "it failed")
    await until(lambda: server.pool.counts.waiting == 0, 5, "none waits")
    assert (await health(server))[1]["status"] == "cli_unavailable"


async def test_children_are_counted(local: Serve) -> None:
    server = await local(waiting=1)
    await until(lambda: server.pool.counts.waiting == 1 and server.pool.counts.starting == 0, 5, "one waits")
    assert (await health(server))[1]["children"]["waiting"] == 1
    (pid,) = fake_cli.pids(server.directory)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: len(fake_cli.pids(server.directory)) == 2, 5, "another was started")


async def test_a_server_that_ends_says_so(local: Serve) -> None:
    server = await local()
    await server.pool.close()
    status, found = await health(server)
    assert (status, found["status"]) == (503, "shutting_down")
