"""proxy/http/health.py and models.py: what the server says of itself."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from openai.types import Model
from pydantic import TypeAdapter

import proxy
from proxy.http.models import CREATED
from proxy.settings import Key, ModelName
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


async def test_waiting_children_that_die_show(local: Serve) -> None:
    server = await local({"exit": 1, "stderr": "no\n"}, waiting=1)
    await until(lambda: server.pool.last_start_error is not None, 5, "it failed")
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


# Models


async def models(server: Running) -> list[dict[str, Any]]:
    async with server.client() as client:
        body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    found: list[dict[str, Any]] = body["data"]
    return found


async def test_the_list_is_what_the_openai_client_expects(local: Serve) -> None:
    found = await models(await local())
    for model in found:
        TypeAdapter(Model).validate_python(model, strict=True)
    assert [model["id"] for model in found][:4] == ["opus", "fable", "sonnet", "haiku"]


async def test_created_never_changes(local: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await local()
    before = await models(server)
    assert {model["created"] for model in before} == {CREATED}
    assert time.time() - CREATED > 86_400
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
    assert await models(server) == before


async def test_what_the_cli_lists_and_the_settings_name_is_on_offer_once(local: Serve) -> None:
    server = await local(waiting=1, models=(ModelName("fast", "haiku"), ModelName("opus", "opus")))
    await until(lambda: bool(server.pool.models), 5, "the models of the CLI")
    ids = [model["id"] for model in await models(server)]
    assert len(ids) == len(set(ids))
    assert {"fast", "opus", "haiku", "claude-opus-5-5", "claude-haiku-5-5"} <= set(ids)
    assert "default" not in ids


async def one(server: Running, id: str) -> tuple[int, Any]:
    async with server.client() as client:
        answer = await client.get(f"/v1/models/{id}")
        return answer.status_code, answer.json()


@pytest.mark.parametrize(
    "id", ["opus", "claude-opus-4", "claude-opus-4-7", "anthropic/claude-opus-4", "a/b/sonnet/c", "opus/"]
)
async def test_a_model_by_its_id(local: Serve, id: str) -> None:
    status, found = await one(await local(), id)
    assert status == 200
    TypeAdapter(Model).validate_python(found, strict=True)


@pytest.mark.parametrize(
    "id", ["gpt-4o", "nothing", "..%2f..%2fetc%2fpasswd", "%0d%0aset-cookie:%20x", "%00", "%ff", "x" * 3000]
)
async def test_names_that_mean_no_model_of_claude_are_not_found(local: Serve, id: str) -> None:
    status, found = await one(await local(), id)
    assert status == 404
    assert found["error"]["code"] == "model_not_found"


async def test_a_name_with_line_breaks_stays_in_the_body(local: Serve) -> None:
    server = await local()
    async with server.client() as client:
        answer = await client.get("/v1/models/opus%0d%0aset-cookie:%20x=1")
    assert "set-cookie" not in answer.headers


async def test_a_name_of_the_settings_reaches_the_cli_as_its_target(local: Serve) -> None:
    server = await local(models=(ModelName("fast", "claude-haiku-5-5"),))
    assert (await one(server, "fast"))[0] == 200
    async with server.client() as client:
        await client.post(COMPLETIONS, json=chat(model="claude-max/fast"))
    settings = [
        line["request"]["settings"]
        for line in fake_cli.told(server.directory)[0]
        if "settings" in line.get("request", {})
    ]
    assert settings[0]["model"] == "claude-haiku-5-5"
