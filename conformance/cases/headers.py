"""Headers, keys, and what web pages may do."""

import asyncio

import openai

from conformance.cases import case
from conformance.target import CHAT, KEY, Target, need, same

KEYED = {"API_KEYS": KEY}
PAGE = "https://app.example.com"


@case("openai-python, _request_id", shows=["behaviour.request ids"], uses=["chat/plain"])
async def every_answer_has_an_id(target: Target) -> None:
    """Each answer, good or bad, has an x-request-id of its own."""
    answers = [
        await target.send("POST", CHAT, target.body("chat/plain")),
        await target.send("POST", CHAT, target.body("chat/plain", stream=True)),
        await target.send("GET", "/v1/models"),
        await target.send("POST", CHAT, {}),
        await target.send("GET", "/v1/no/such/path"),
    ]
    ids = [answer.headers.get("x-request-id") for answer in answers]
    need(all(ids) and len(set(ids)) == len(ids), f"ids {ids}")


@case("recorded from api.openai.com", shows=["behaviour.request ids"])
async def the_time_is_told(target: Target) -> None:
    """An answer tells in openai-processing-ms how long it took."""
    answer = await target.send("GET", "/v1/models")
    need(int(answer.headers.get("openai-processing-ms", "-1")) >= 0, "no openai-processing-ms")


@case("README, conversations", shows=["behaviour.living conversations"], uses=["chat/follow_up"], scripted=True)
async def it_is_told_how_a_request_was_served(target: Target) -> None:
    """x-claude-proxy-served tells a new conversation from one that went on."""
    answer = await target.send("POST", CHAT, target.body("chat/follow_up"))
    same("new", answer.headers.get("x-claude-proxy-served"), "first")
    answer = await target.send("POST", CHAT, target.body("chat/follow_up", 1))
    same("continued", answer.headers.get("x-claude-proxy-served"), "second")


@case("openai-python, AuthenticationError", shows=["behaviour.keys"], settings=KEYED)
async def a_key_is_needed(target: Target) -> None:
    """Without a key, or with a wrong one, all but /health is a 401, which the client raises as AuthenticationError."""
    for given in ("", "Bearer wrong", f"Basic {KEY}", KEY, "Bearer"):
        for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/v1/no/such/path"), ("GET", "/docs")):
            answer = await target.send(method, path, headers={"authorization": given})
            need(answer.status_code == 401, f"{given!r} {path}: status {answer.status_code}")
            same("invalid_api_key", answer.json()["error"]["code"], "code")

    def ask() -> None:
        with openai.OpenAI(base_url=f"{target.url}/v1", api_key="wrong", max_retries=0) as client:
            try:
                client.models.list()
            except openai.AuthenticationError:
                return
            need(False, "nothing was raised")

    await asyncio.to_thread(ask)


@case("OpenAI API reference, authentication", shows=["behaviour.keys"], settings=KEYED, uses=["chat/plain"])
async def the_right_key_opens(target: Target) -> None:
    """With its key a server answers as without one, whatever the case of the word Bearer."""
    await target.whole(target.body("chat/plain"))
    answer = await target.send("GET", "/v1/models", headers={"authorization": f"bearer {KEY}"})
    need(answer.status_code == 200, f"status {answer.status_code}")


@case("monitoring has no key", shows=["behaviour.keys", "endpoint.GET /health"], settings=KEYED)
async def health_needs_no_key(target: Target) -> None:
    """/health answers without a key."""
    need((await target.http.get("/health")).status_code == 200, "it does not")


@case("Fetch standard, CORS", shows=["behaviour.web pages"])
async def no_web_page_may_ask(target: Target) -> None:
    """A request from a web page of another origin is refused, and no origin is allowed to read an answer."""
    for origin in (PAGE, "null", "http://localhost.example.com"):
        answer = await target.send("GET", "/v1/models", headers={"origin": origin})
        need(answer.status_code == 403, f"{origin}: status {answer.status_code}")
        need("access-control-allow-origin" not in answer.headers, "it is allowed to read the answer")


@case("Fetch standard, CORS preflight", shows=["behaviour.web pages"], settings={"CLAUDE_PROXY_ORIGINS": PAGE})
async def a_page_that_was_named_may_ask(target: Target) -> None:
    """An origin from the settings passes its preflight, may ask, and may read the answer; others may not."""
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    answer = await target.http.options(CHAT, headers={"origin": PAGE, **ask})
    need(answer.status_code in (200, 204), f"status {answer.status_code}")
    same(PAGE, answer.headers.get("access-control-allow-origin"), "access-control-allow-origin")
    same({"$contains": "POST"}, answer.headers.get("access-control-allow-methods", ""), "methods")
    same({"$contains": "authorization"}, answer.headers.get("access-control-allow-headers", "").lower(), "headers")
    answer = await target.http.get("/v1/models", headers={"origin": PAGE})
    same([200, PAGE], [answer.status_code, answer.headers.get("access-control-allow-origin")], "the request")
    answer = await target.http.options(CHAT, headers={"origin": "https://other.example.com", **ask})
    need("access-control-allow-origin" not in answer.headers, "another origin passes")


@case("DNS rebinding", shows=["behaviour.web pages"], scripted=True)
async def another_host_name_is_refused(target: Target) -> None:
    """A request to a host name that is not this server's is refused."""
    answer = await target.send("GET", "/v1/models", headers={"host": "rebound.example.com"})
    need(answer.status_code == 403, f"status {answer.status_code}")
