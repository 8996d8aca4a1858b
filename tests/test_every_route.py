"""What holds of every route: who may ask, and bodies that clients or attackers may send to any."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from proxy.http.openapi import Route
from proxy.http.routes import ROUTES
from tests import fake_cli
from tests.outcomes import Expects
from tests.served import Served

SECRET = "sk-ann-0123456789"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("routes")
    with Served(fake_cli.write(home / "cli"), home / "state", {"API_KEYS": f"ann:{SECRET}"}) as served:
        yield served


def key(**more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRET}", **more}


HALF = '"model": "opus", "user": "\\ud83d"'
HALVES = {
    "/v1/chat/completions": '"messages": [{"role": "user", "content": "x\\ud83d"}]',
    "/v1/completions": '"prompt": "x\\ud83d"',
    "/v1/responses": '"input": [{"role": "user", "content": "x\\ud83d"}]',
    "/v1/responses/input_tokens": '"input": "x\\ud83d"',
    "/v1/responses/compact": '"input": "x\\ud83d"',
    "/openai/deployments/opus/chat/completions": '"messages": [{"role": "user", "content": "x\\ud83d"}]',
    "/v1/messages": '"max_tokens": 9, "messages": [{"role": "user", "content": "x\\ud83d"}]',
    "/v1/messages/count_tokens": '"messages": [{"role": "user", "content": "x\\ud83d"}]',
    "/api/chat": '"stream": false, "messages": [{"role": "user", "content": "x\\ud83d"}]',
    "/api/generate": '"stream": false, "prompt": "x\\ud83d"',
}


def sent(server: Served, path: str, content: str) -> httpx.Response:
    headers = key(**{"content-type": "application/json"})
    return httpx.post(server.url + path, content=content, headers=headers, trust_env=False, timeout=60)


@pytest.mark.parametrize("path", HALVES)
def test_half_a_character(server: Served, expects: Expects, path: str) -> None:
    expects("faults", f"half a character in a body to {path}", "200: clients cut text anywhere")
    answer = sent(server, path, f"{{{HALF}, {HALVES[path]}}}")
    assert answer.status_code == 200, answer.text


NUMBERS = ("1e400", "NaN", str(2**63), str(2**70), "9" * 5000, "1" + "0" * 400 + ".0", "-0", "1e-400", "5.0", '"5"')
NUMERIC = {
    "/v1/responses": ("max_output_tokens", "max_tool_calls", "temperature", "top_logprobs", "metadata"),
    "/v1/messages": ("max_tokens", "temperature", "top_k", "thinking"),
    "/api/chat": ("keep_alive", "options"),
}


@pytest.mark.parametrize("path", NUMERIC)
def test_odd_numbers(server: Served, expects: Expects, path: str) -> None:
    expects("faults", f"numbers without end, none, or of 5,000 digits to {path}", "200 or 4xx in the API's own form")
    forms = {"metadata": '{"a": %s}', "thinking": '{"type": "enabled", "budget_tokens": %s}', "options": '{"seed": %s}'}
    for field in NUMERIC[path]:
        for number in NUMBERS:
            value = forms.get(field, "%s") % number
            answer = sent(server, path, f'{{"model": "opus", {HALVES[path]}, "{field}": {value}}}')
            assert answer.status_code in (200, 400), (field, number, answer.text)
            assert "error" in answer.json() or answer.status_code == 200


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_who_may_ask(server: Served, expects: Expects, route: Route) -> None:
    name = f"{route.method.upper()} {route.path}"
    without = "served" if route.open else "401"
    expects("security", f"{name} without a key; of another host name; from another page", f"{without}; 403; 403")
    path = re.sub(r"\{\w+\}", "abc", route.path)

    def status(**headers: str) -> int:
        return httpx.request(
            route.method.upper(), server.url + path, headers=headers, trust_env=False, timeout=60
        ).status_code

    assert (status() == 401) != route.open
    assert status(**key(host="evil.example")) == 403
    assert status(**key(origin="http://evil.example")) == 403
