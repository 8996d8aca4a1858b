"""The server under judgement, as cases speak to it. Whatever comes back is judged before a case sees it."""

import json
from collections.abc import Mapping
from typing import Any, Final

import httpx
import openai

from conformance import apis, judge, replay
from conformance import scenario as scenarios
from conformance.apis import chat
from conformance.facts import differences
from conformance.replay import tls
from conformance.scenario import Mode, Scenario

CHAT: Final = chat.PATH
# That of servers that are started with one.
KEY: Final = "sk-conformance"
# A server of their own for cases that look at its state: no other case sends it failures, or keeps it busy.
QUIET: Final = {"CLAUDE_PROXY_WAITING": "1"}
SCENARIOS: Final = replay.FIXTURES / "scenarios"


class Unmet(Exception):
    """A requirement is not met; the lines say in what."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))


class Skip(Exception):
    """A case cannot be judged here; the words say why."""


def must(*problems: str) -> None:
    """Raises Unmet if there are any."""
    found = [problem for problem in problems if problem]
    if found:
        raise Unmet(*found)


def need(holds: object, words: str) -> None:
    """Raises Unmet, with the words, if it does not hold."""
    if not holds:
        raise Unmet(words)


def same(expected: object, actual: object, what: str = "") -> None:
    """Raises Unmet for what of `expected` does not hold for `actual` (`conformance.facts`)."""
    must(*differences(expected, actual, what))


class Target:
    """One server. `scripted`: its answers are those of the recorded scenarios.

    `model` replaces that of the scenarios' requests.
    """

    def __init__(
        self, url: str, *, key: str | None = None, model: str | None = None, scripted: bool, timeout: float
    ) -> None:
        self.url = url
        self.scripted = scripted
        self._model = model
        self._key = key
        self.timeout = timeout
        self.headers = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False, verify=tls())

    async def close(self) -> None:
        await self.http.aclose()

    # What is sent.

    @staticmethod
    def scenario(name: str) -> Scenario:
        return scenarios.load(SCENARIOS / f"{name}.toml", SCENARIOS)

    def body(self, name: str, number: int = 0, mode: Mode = "whole", /, **changes: Any) -> dict[str, Any]:
        """The request of a scenario, changed."""
        body = self.scenario(name).request[number].request(mode) | changes
        if self._model is not None and "model" not in changes:
            body["model"] = self._model
        return body

    async def send(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One request, with the key unless `headers` has an `authorization`. An error must be in OpenAI's shape."""
        given = self.headers | dict(headers or {})
        answer = await self.http.request(method, path, json=json, content=content, headers=given)
        if answer.status_code >= 400 and method != "HEAD" and path != "/health":
            must(*judge.misshapen("error", body_of(answer)))
        return answer

    async def whole(self, body: Mapping[str, Any], path: str = CHAT, kind: str = "completion") -> dict[str, Any]:
        """The completion for a request that is not streamed."""
        return good(await self.send("POST", path, dict(body)), kind)

    async def stream(self, body: Mapping[str, Any], path: str = CHAT, kind: str = "chunk") -> judge.Stream:
        """The stream for a request; it may end in an error."""
        asked = {"stream": True} | dict(body)
        answer = await self.send("POST", path, asked)
        need(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:300]}")
        same({"$matches": r"^text/event-stream(;|$)"}, answer.headers.get("content-type"), "content-type")
        stream, wrong = judge.read_stream(answer.text)
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        must(*wrong, *judge.unlawful(stream, usage=usage, kind=kind))
        return stream

    async def ask(self, body: Mapping[str, Any], api: str = "chat") -> dict[str, Any]:
        """What comes for a request of that API, streamed or whole, good or bad, under the names that facts have."""
        speaks = apis.named(api)
        answer = await self.http.post(speaks.PATH, json=dict(body), headers=speaks.headers(self._key))
        came: dict[str, Any] = {"status": answer.status_code, "headers": dict(answer.headers)}
        if speaks.is_streamed(body) and answer.status_code == 200:
            must(*speaks.wrong_stream(body, answer.text))
            return came | speaks.read_stream(answer.text)
        told = body_of(answer)
        must(*speaks.wrong(answer.status_code, told))
        return came | speaks.read(told)

    async def refused(
        self,
        body: Any,
        status: int = 400,
        param: object = None,
        path: str = CHAT,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The error for a request that must be refused. `param` compares as in facts; None: whatever it is."""
        answer = await self.send("POST", path, body, headers=headers)
        need(answer.status_code == status, f"status {answer.status_code} instead of {status}: {answer.text[:300]}")
        error: dict[str, Any] = answer.json()["error"]
        if param is not None:
            same(param, error["param"], "error.param")
        return error

    # OpenAI's own client, which refuses an answer that does not have its types' shape.

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(**self._options(), http_client=openai.DefaultHttpxClient(verify=tls()))

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**self._options(), http_client=openai.DefaultAsyncHttpxClient(verify=tls()))

    def _options(self) -> dict[str, Any]:
        return {
            "base_url": f"{self.url}/v1",
            "api_key": self._key or "none",
            "max_retries": 0,
            "timeout": self.timeout,
            "_strict_response_validation": True,
        }


def body_of(answer: httpx.Response) -> Any:
    """The JSON that an answer holds. Raises Unmet if it holds none, or does not say so."""
    same({"$matches": r"^application/json(;|$)"}, answer.headers.get("content-type"), "content-type")
    try:
        return json.loads(answer.content)
    except ValueError:
        raise Unmet(f"the body is not JSON: {answer.text[:200]!r}") from None


def good(answer: httpx.Response, kind: str) -> dict[str, Any]:
    """The body of an answer that must be good and of that shape."""
    need(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:300]}")
    body: dict[str, Any] = body_of(answer)
    must(*judge.misshapen(kind, body))
    return body
