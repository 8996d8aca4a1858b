"""Errors: their shape, their status, and what a client makes of them."""

import json
from collections.abc import AsyncIterator

import openai

from conformance import judge
from conformance.cases import case
from conformance.target import CHAT, Target, must, need, same

SHAPE = "behaviour.error shape"
CLASSES = "behaviour.openai-python, exceptions"


@case("openai-python, APIStatusError", shows=[SHAPE])
async def an_unknown_path_is_not_found(target: Target) -> None:
    """A path that does not exist is a 404 in OpenAI's shape."""
    for path in ("/v1/no/such/path", "/v1/chat", "/no/such/path"):
        answer = await target.send("GET", path)
        need(answer.status_code == 404, f"{path}: status {answer.status_code}")


@case("RFC 9110, 15.5.6", shows=[SHAPE])
async def a_wrong_method_is_told_the_right_ones(target: Target) -> None:
    """A method that a path does not take is a 405 with Allow."""
    for method, path, right in (("GET", CHAT, "POST"), ("DELETE", CHAT, "POST"), ("POST", "/v1/models", "GET")):
        answer = await target.send(method, path)
        need(answer.status_code == 405, f"{method} {path}: status {answer.status_code}")
        same({"$contains": right}, answer.headers.get("allow", ""), "Allow")


@case("a web page could send it without asking", shows=[SHAPE, "behaviour.content type"])
async def a_body_must_say_that_it_is_json(target: Target) -> None:
    """A body that does not say that it is JSON is a 415."""
    content = json.dumps(target.body("chat/plain")).encode()
    for media_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = await target.send("POST", CHAT, content=content, headers={"content-type": media_type})
        need(answer.status_code == 415, f"{media_type!r}: status {answer.status_code}")


@case("RFC 8259", shows=[SHAPE])
async def a_body_that_is_no_json_is_bad(target: Target) -> None:
    """A body that is cut, of broken UTF-8, too deep, or no object, is a 400."""
    bodies = {
        "cut": b'{"model": "opus", "messages": [',
        "empty": b"",
        "no object": b"[]",
        "broken UTF-8": b'{"model": "\xff\xfe", "messages": []}',
        "deep": b'{"model": "opus", "messages": ' + b"[" * 100_000,
        "NaN": b'{"model": "opus", "messages": [], "temperature": NaN}',
    }
    for name, content in bodies.items():
        answer = await target.send("POST", CHAT, content=content, headers={"content-type": "application/json"})
        need(answer.status_code == 400, f"{name}: status {answer.status_code}")


@case("openai.types.chat.completion_create_params", shows=["request.model", "request.messages", SHAPE])
async def what_is_missing_is_named(target: Target) -> None:
    """A request without model or messages is a 400 that names the field."""
    for field in ("model", "messages"):
        body = target.body("chat/plain")
        del body[field]
        await target.refused(body, 400, field)


@case("openai-python, BadRequestError", shows=[CLASSES])
async def a_bad_request_is_raised_as_such(target: Target) -> None:
    """The client raises BadRequestError with message and param."""
    async with target.async_client() as client:
        try:
            await client.chat.completions.create(**target.body("chat/plain", messages=[]))
        except openai.BadRequestError as error:
            same("messages", error.param, "param")
            need(error.message, "no message")
        else:
            need(False, "nothing was raised")


# Scenario, status, the client's exception, whether a client is told to try again (None: by its own rules).
UPSTREAM: dict[str, tuple[int, type[openai.APIStatusError], bool | None]] = {
    "errors/not_logged_in": (401, openai.AuthenticationError, False),
    "errors/no_permission": (403, openai.PermissionDeniedError, False),
    "errors/model_not_found": (404, openai.NotFoundError, None),
    "errors/rate_limit": (429, openai.RateLimitError, None),
    "errors/plan_limit": (429, openai.RateLimitError, False),
    "errors/prompt_too_long": (400, openai.BadRequestError, None),
    "errors/refused_by_upstream": (400, openai.BadRequestError, None),
    "errors/overloaded": (503, openai.InternalServerError, None),
    "errors/server_error": (502, openai.InternalServerError, None),
}


def _upstream(name: str, status: int, kind: type[openai.APIStatusError], retry: bool | None) -> None:
    what = name.partition("/")[2]

    @case(
        f"openai-python, {kind.__name__}",
        name=f"raises_{what}",
        requirement=f"A failure of the kind {what} is a {status}, which the client raises as {kind.__name__}.",
        shows=[CLASSES, "behaviour.early errors"],
        uses=[name],
        scripted=True,
    )
    async def run(target: Target) -> None:
        async with target.async_client() as client:
            for stream in (False, True):
                try:
                    await client.chat.completions.create(**target.body(name), stream=stream)
                except openai.APIStatusError as error:
                    must(*judge.misshapen("error", error.response.json()))
                    need(type(error) is kind and error.status_code == status, f"{type(error).__name__}: {error}")
                    said = error.response.headers.get("x-should-retry")
                    same({"$null": True} if retry is None else json.dumps(retry), said, "x-should-retry")
                else:
                    need(False, "nothing was raised")


for _name, _row in UPSTREAM.items():
    _upstream(_name, *_row)


@case("openai-python, _should_retry", shows=["behaviour.retries"], uses=["errors/plan_limit"], scripted=True)
async def a_used_up_plan_tells_when_to_come_back(target: Target) -> None:
    """The 429 of a used-up plan is insufficient_quota and tells the seconds until its reset."""
    answer = await target.send("POST", CHAT, target.body("errors/plan_limit"))
    same("insufficient_quota", answer.json()["error"]["code"], "code")
    need(int(answer.headers["retry-after"]) > 0, "retry-after")
    need(abs(int(answer.headers["retry-after-ms"]) / 1000 - int(answer.headers["retry-after"])) < 2, "retry-after-ms")


@case("the setting CLAUDE_PROXY_MAX_BODY", shows=[SHAPE], settings={"CLAUDE_PROXY_MAX_BODY": "2048"})
async def a_body_that_is_too_large_is_refused(target: Target) -> None:
    """A body above the limit is a 413, with its length told or not."""
    content = json.dumps(target.body("chat/plain", messages=[{"role": "user", "content": "x" * 4000}])).encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield content

    for body in (content, pieces()):
        answer = await target.http.post(CHAT, content=body, headers={"content-type": "application/json"})
        need(answer.status_code == 413, f"status {answer.status_code}")
        same("request_too_large", answer.json()["error"]["code"], "code")


@case(
    "endpoints that Claude Code has nothing for",
    shows=["endpoint./v1/embeddings, /v1/images, /v1/audio, /v1/moderations"],
    scripted=True,
)
async def absent_endpoints_say_so(target: Target) -> None:
    """Embeddings, images, audio and moderations are a 404 that says what there is not."""
    for path in ("embeddings", "images/generations", "audio/speech", "audio/transcriptions", "moderations"):
        answer = await target.send("POST", f"/v1/{path}", {})
        need(answer.status_code == 404, f"{path}: status {answer.status_code}")
        same({"$contains": "has no"}, answer.json()["error"]["message"], "message")


@case(
    "OpenAI API reference",
    shows=["endpoint./v1/files, /v1/batches, /v1/assistants and others"],
    scripted=True,
)
async def what_is_not_offered_is_not_found(target: Target) -> None:
    """Endpoints of OpenAI's that this server does not offer are a 404, which the client raises as NotFoundError."""
    for path in ("files", "batches", "assistants", "fine_tuning/jobs", "vector_stores"):
        answer = await target.send("POST", f"/v1/{path}", {})
        need(answer.status_code == 404, f"{path}: status {answer.status_code}")
    async with target.async_client() as client:
        try:
            await client.batches.list()
        except openai.NotFoundError as error:
            must(*judge.misshapen("error", error.response.json()))
            return
    need(False, "nothing was raised")
