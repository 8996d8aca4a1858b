"""Ollama's API, on recordings of its own and on those that chat completions have: the CLI is asked the same."""

from typing import Any

import ollama

from conformance.apis.ollama import lines
from conformance.cases import case
from conformance.target import Target, Unmet, must, need, same

CHAT = "endpoint.POST /api/chat"
GENERATE = "endpoint.POST /api/generate"
DOCS = "ollama/docs/api.md"
TYPES = "ollama._types"
# Options that no model of Claude has; a value of each that asks for something.
OPTIONS: dict[str, Any] = {
    "embedding_only": False, "f16_kv": True, "frequency_penalty": 1.0, "logits_all": False, "low_vram": True,
    "main_gpu": 0, "mirostat": 1, "mirostat_eta": 0.2, "mirostat_tau": 0.8, "num_batch": 2, "num_ctx": 1024,
    "num_gpu": 1, "num_keep": 5, "num_thread": 8, "numa": False, "penalize_newline": True, "presence_penalty": 1.5,
    "repeat_last_n": 33, "repeat_penalty": 1.2, "seed": 42, "tfs_z": 0.5, "typical_p": 0.7, "use_mlock": True,
    "use_mmap": True, "vocab_only": False,
}  # fmt: skip
REFUSED_BY_CHAT: dict[str, tuple[dict[str, Any], str]] = {
    "an_unknown_format": ({"format": "yaml"}, "format"),
    "an_unknown_level": ({"think": "much"}, "think"),
    "a_role_that_is_none": ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
    "a_result_of_no_call_of_several": (
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}, {"function": {"name": "g"}}]},
                {"role": "tool", "tool_name": "h", "content": "x"},
            ]
        },
        "messages",
    ),
    "an_image_that_is_none": ({"messages": [{"role": "user", "images": ["aGVsbG8="]}]}, "messages"),
    "two_tools_of_one_name": ({"tools": [{"function": {"name": "f"}}] * 2}, "tools"),
    "a_negative_limit": ({"options": {"num_predict": -3}}, "options"),
    "an_empty_model": ({"model": " "}, "model"),
}
REFUSED_BY_GENERATE: dict[str, Any] = {"suffix": "return", "template": "{{ .Prompt }}", "context": [1, 2]}
NEVER = ("logprobs", "context", "image", "completed", "total")


def chat(target: Target, scenario: str = "chat/plain", **changes: Any) -> dict[str, Any]:
    """The request of a chat scenario, as one of Ollama's."""
    asked = target.body(scenario)
    return {"model": asked["model"], "stream": False, "messages": asked["messages"]} | changes


def prompt(target: Target, **changes: Any) -> dict[str, Any]:
    """The question of a chat scenario as a prompt."""
    asked = target.body("chat/plain")
    return {"model": asked["model"], "stream": False, "prompt": asked["messages"][-1]["content"]} | changes


async def answered(target: Target, body: dict[str, Any], api: str = "ollama") -> dict[str, Any]:
    """The facts of an answer, which must be good."""
    came = await target.ask(body, api)
    same(200, came["status"], f"status ({came.get('error')})")
    need(came["content"] or came["tool_calls"], "there is neither text nor a call")
    return came


async def refused(target: Target, body: dict[str, Any], param: str, api: str = "ollama") -> None:
    came = await target.ask(body, api)
    same(400, came["status"], "status")
    need(param in came["error"]["message"], f"{param} is not named: {came['error']}")


def _ignored(option: str, value: Any) -> None:
    words = f"The option {option} is accepted, and named in x-ignored-params."

    @case(
        f"{TYPES}.Options", name=f"ignores_{option}", requirement=words, shows=[f"ollama_options.{option}"],
        uses=["chat/plain"],
    )  # fmt: skip
    async def run(target: Target) -> None:
        came = await answered(target, chat(target, options={option: value}))
        if target.scripted:
            same(option, came["headers"].get("x-ignored-params"), "x-ignored-params")


def _refused(name: str, changes: dict[str, Any], param: str) -> None:
    words = f"Ollama's chat answers 400 and names {param}: {name.replace('_', ' ')}."

    @case(DOCS, name=f"refuses_{name}", requirement=words, shows=[CHAT, f"ollama.{next(iter(changes))}"])
    async def run(target: Target) -> None:
        await refused(target, chat(target, **changes), param)


def _refused_prompt(field: str, value: Any) -> None:
    words = f"A request to generate with {field} is a 400 that names it."

    @case(DOCS, name=f"refuses_a_{field}", requirement=words, shows=[GENERATE, f"ollama_generate.{field}"])
    async def run(target: Target) -> None:
        await refused(target, prompt(target, **{field: value}), field, "ollama_generate")


for _option, _value in OPTIONS.items():
    _ignored(_option, _value)
for _name, (_changes, _param) in REFUSED_BY_CHAT.items():
    _refused(_name, _changes, _param)
for _field, _value in REFUSED_BY_GENERATE.items():
    _refused_prompt(_field, _value)


@case(
    f"{TYPES}.ChatRequest",
    shows=["ollama.logprobs", "ollama.top_logprobs", "ollama.keep_alive", "ollama_response.logprobs"],
    uses=["chat/plain"],
    scripted=True,
)
async def log_probabilities_and_keep_alive_have_no_effect(target: Target) -> None:
    """Log probabilities and keep_alive are accepted, named in x-ignored-params, and change no answer."""
    more: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "keep_alive": "5m"}
    came = await answered(target, chat(target, **more))
    same("logprobs, top_logprobs, keep_alive", came["headers"].get("x-ignored-params"), "x-ignored-params")
    generated = await target.ask(prompt(target, **more), "ollama_generate")
    same("logprobs, top_logprobs, keep_alive", generated["headers"].get("x-ignored-params"), "x-ignored-params")


@case(
    f"{TYPES}.GenerateRequest",
    shows=[f"ollama_generate.{field}" for field in ("raw", "width", "height", "steps", "logprobs", "top_logprobs",
                                                    "keep_alive", "options")],
    uses=["chat/plain"],
    scripted=True,
)  # fmt: skip
async def what_no_model_of_claude_has_is_named(target: Target) -> None:
    """What a prompt may ask for and Claude has not is accepted, and named in x-ignored-params."""
    more = {"raw": True, "width": 8, "height": 8, "steps": 2, "logprobs": True, "top_logprobs": 1, "keep_alive": 60}
    came = await answered(target, prompt(target, options={"seed": 7}, **more), "ollama_generate")
    named = came["headers"].get("x-ignored-params", "").split(", ")
    same(sorted((*more, "seed")), sorted(named), "x-ignored-params")


@case(
    DOCS,
    shows=[f"ollama_options.{option}" for option in ("num_predict", "temperature", "top_p", "top_k")],
    uses=["ollama/chat"],
)
async def options_reach_the_model(target: Target) -> None:
    """A chat with a limit and sampling options is answered, and none of them is named as without effect."""
    came = await answered(target, target.body("ollama/chat"))
    need("temperature" not in came["headers"].get("x-ignored-params", ""), "temperature has no effect")


@case(DOCS, shows=["ollama_options.stop"], uses=["chat/plain"], scripted=True)
async def an_answer_ends_at_its_stop_sequence(target: Target) -> None:
    """An answer ends before a stop sequence of the options, with the reason stop."""
    whole = await answered(target, chat(target))
    came = await answered(target, chat(target, options={"stop": [whole["content"][8:]]}))
    same((whole["content"][:8], "stop"), (came["content"], came["finish_reason"]), "content and reason")


@case(
    DOCS,
    shows=[CHAT, "ollama.messages", "ollama.messages.role", "ollama.messages.content", "ollama.model",
           "ollama.stream", *(f"ollama_response.{field}" for field in (
               "model", "created_at", "message", "message.role", "message.content", "done", "done_reason",
               "total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count",
               "eval_duration", "message.images", "message.tool_name"))],
    uses=["chat/plain"],
)  # fmt: skip
async def an_answer_has_its_fields(target: Target) -> None:
    """A chat's answer has the model as it was named, its time, its message, why it ended, durations and counts."""
    answer = await target.http.post("/api/chat", json=chat(target), headers=target.headers)
    need(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:200]}")
    body = answer.json()
    ollama.ChatResponse.model_validate_json(answer.text, strict=True)
    same(chat(target)["model"], body["model"], "model")
    same("assistant", body["message"]["role"], "role")
    same((True, "stop"), (body["done"], body["done_reason"]), "done")
    need(body["total_duration"] >= body["eval_duration"] > 0, "durations")
    need(body["prompt_eval_count"] > 0 and body["eval_count"] > 0, "counts")
    must(*(f"{name} is sent" for name in (*NEVER, "images", "tool_name") if name in body or name in body["message"]))


@case(DOCS, shows=[CHAT, "ollama.stream"], uses=["chat/plain"])
async def a_stream_is_lines(target: Target) -> None:
    """A chat is streamed unless that is denied: lines of JSON, of which the last alone is done and has the counts."""
    asked = chat(target)
    del asked["stream"]
    answer = await target.http.post("/api/chat", json=asked, headers=target.headers)
    same({"$matches": "^application/x-ndjson"}, answer.headers.get("content-type"), "content-type")
    told = lines(answer.text)
    same([False] * (len(told) - 1) + [True], [line["done"] for line in told], "done")
    need(not any("eval_count" in line for line in told[:-1]), "counts before the end")


@case(DOCS, shows=[GENERATE, "ollama_generate.prompt", "ollama_generate.model", "ollama_generate.stream",
                   *(f"ollama_generated.{field}" for field in (
                       "model", "created_at", "response", "done", "done_reason", "total_duration", "load_duration",
                       "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration", *NEVER))],
      uses=["chat/plain"])  # fmt: skip
async def a_prompt_is_answered(target: Target) -> None:
    """A prompt's answer has the text as its response, and the other fields of a chat's."""
    answer = await target.http.post("/api/generate", json=prompt(target), headers=target.headers)
    need(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:200]}")
    body = answer.json()
    ollama.GenerateResponse.model_validate_json(answer.text, strict=True)
    need(body["response"].strip(), "there is no text")
    same((True, "stop"), (body["done"], body["done_reason"]), "done")
    need(body["total_duration"] >= body["eval_duration"] > 0, "durations")
    must(*(f"{name} is sent" for name in NEVER if name in body))


@case(DOCS, shows=["ollama.format", "ollama_generate.format"], uses=["schema/kept"], scripted=True)
async def a_format_is_kept(target: Target) -> None:
    """With a JSON Schema as format the answer is JSON that fits."""
    schema = target.body("schema/kept")["response_format"]["json_schema"]["schema"]
    came = await answered(target, chat(target, "schema/kept", format=schema))
    same({"$json": {"name": "Ada", "age": 36}}, came["content"], "content")


@case(
    DOCS,
    shows=["ollama.tools", "ollama_response.message.tool_calls", "ollama.messages.tool_calls",
           "ollama.messages.tool_name"],
    uses=["tools/one_call"],
)  # fmt: skip
async def a_call_has_an_object(target: Target) -> None:
    """A call has its arguments as an object, whole in one line of a stream."""
    tools = target.body("tools/one_call")["tools"]
    for stream in (False, True):
        came = await answered(target, chat(target, "tools/one_call", tools=tools, stream=stream))
        (call,) = came["tool_calls"]
        same("get_weather", call["function"]["name"], "name")
        need(call["function"]["arguments"].startswith("{"), f"no object: {call}")


@case(
    DOCS,
    shows=["ollama.think", "ollama_generate.think", "ollama.messages.thinking", "ollama_response.message.thinking",
           "ollama_generated.thinking"],
    uses=["ollama/chat"],
    scripted=True,
)  # fmt: skip
async def thinking_is_shown_unless_it_is_off(target: Target) -> None:
    """Thinking comes as the message's thinking, and goes back with it without being refused."""
    came = await answered(target, target.body("ollama/chat"))
    same("Norway, then.", came["reasoning"], "thinking")
    streamed = await answered(target, target.body("ollama/chat", 0, "stream"))
    same(came["reasoning"], streamed["reasoning"], "streamed")


@case(DOCS, shows=["ollama.messages.images"], uses=["media/image_in_past"], scripted=True)
async def an_image_is_taken(target: Target) -> None:
    """An image, as base64 text without its type, reaches the model as an image."""
    first, *rest = target.body("media/image_in_past")["messages"]
    url, text = first["content"][0]["image_url"]["url"], first["content"][1]["text"]
    asked = {"role": "user", "content": text, "images": [url.partition(",")[2]]}
    await answered(target, chat(target, messages=[asked, *rest]))


@case(DOCS, shows=[CHAT, GENERATE])
async def a_model_is_only_loaded(target: Target) -> None:
    """Without messages or a prompt nothing is asked: the model is loaded, or unloaded with a keep_alive of 0."""
    for path, more in (("/api/chat", {"messages": []}), ("/api/generate", {"prompt": ""})):
        for keep_alive, reason in (("5m", "load"), (0, "unload")):
            asked: dict[str, Any] = {"model": "opus", "keep_alive": keep_alive, **more}
            body = (await target.http.post(path, json=asked, headers=target.headers)).json()
            same((True, reason), (body["done"], body["done_reason"]), path)


@case("ollama-python, AsyncClient", shows=[CHAT, GENERATE, "behaviour.ollama-python"], uses=["chat/plain"])
async def the_python_client_reads_it(target: Target) -> None:
    """Ollama's Python client chats and generates, whole and streamed."""
    asked = chat(target)
    async with ollama.AsyncClient(target.url, headers=target.headers, trust_env=False) as client:
        whole = await client.chat(asked["model"], asked["messages"])
        parts = [part async for part in await client.chat(asked["model"], asked["messages"], stream=True)]
        generated = await client.generate(asked["model"], prompt(target)["prompt"])
    same(whole.message.content, "".join(part.message.content or "" for part in parts), "streamed")
    need(generated.response, "there is no response")


@case("ollama-python, ResponseError", shows=["behaviour.ollama-python"], uses=["errors/cut_after_text"], scripted=True)
async def the_python_client_raises(target: Target) -> None:
    """A failure is an exception of Ollama's Python client: with a status, or from the last line of a stream."""
    asked = chat(target, "errors/cut_after_text")
    async with ollama.AsyncClient(target.url, headers=target.headers, trust_env=False) as client:
        said = []
        for stream in (False, True):
            try:
                if stream:
                    async for part in await client.chat(asked["model"], asked["messages"], stream=True):
                        said.append(part.message.content or "")
                else:
                    await client.chat(asked["model"], asked["messages"])
            except ollama.ResponseError as error:
                need(error.error, "it says nothing")
                same(-1 if stream else 502, error.status_code, "status")
            else:
                raise Unmet("there was no exception")
    same("Half an", "".join(said), "text before it")


@case("ollama-python, list, ps and show", shows=["endpoint.GET /api/tags", "endpoint.GET /api/ps",
                                                 "endpoint.POST /api/show"])  # fmt: skip
async def the_python_client_lists_and_shows(target: Target) -> None:
    """Models are listed with a tag, shown with context length and abilities, and said to be in use."""
    async with ollama.AsyncClient(target.url, headers=target.headers, trust_env=False) as client:
        names = [model.model or "" for model in (await client.list()).models]
        shown = await client.show(names[0])
        await client.ps()
    need(names and all(":" in name for name in names), f"names {names}")
    information = shown.modelinfo or {}
    length = information.get(f"{information.get('general.architecture')}.context_length")
    need(isinstance(length, int) and length > 0, f"context length {length}")
    need({"completion", "tools", "vision", "thinking"} <= set(shown.capabilities or ()), f"{shown.capabilities}")


@case("VS Code wants 0.6.4 or later", shows=["endpoint.GET /api/version"])
async def the_version_is_late_enough(target: Target) -> None:
    """The version has three numbers, and is not below those that clients want."""
    version = (await target.http.get("/api/version", headers=target.headers)).json()["version"]
    numbers = tuple(map(int, version.split(".")))
    need(len(numbers) == 3 and numbers >= (0, 14, 2), f"version {version}")


@case(DOCS, shows=["endpoint./api/embed, /api/pull, /api/push, /api/create, /api/copy, /api/delete, /api/blobs"])
async def what_is_not_there_is_said(target: Target) -> None:
    """What no model of Claude can do is a 404 with an error in Ollama's form."""
    for method, path in (
        ("POST", "embed"), ("POST", "embeddings"), ("POST", "pull"), ("POST", "push"), ("POST", "create"),
        ("POST", "copy"), ("DELETE", "delete"), ("POST", "blobs/sha256:0"),
    ):  # fmt: skip
        answer = await target.http.request(method, f"/api/{path}", json={"model": "x"}, headers=target.headers)
        same(404, answer.status_code, path)
        same({"error": {"$matches": "."}}, answer.json(), path)
