"""A chat request's body → a `ChatPlan`: the plan for the CLI and how its answer is to be delivered, or a `Rejection`.

Tolerant where clients are sloppy (unknown keys, null for optional, string or array content, `developer`, `function`,
assistant messages echoed back whole), strict where an answer would be to another question: then a 400 that names the
parameter. Shapes: `openai.types.chat.completion_create_params` of the PyPI package `openai`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from proxy.dialects import RULES, Rules, parameters
from proxy.dialects.openai.messages import conversation
from proxy.dialects.openai.response_format import response_format
from proxy.dialects.openai.tools import CallStyle, tool_use
from proxy.dialects.openai.web_search import WebSearchOptions, web_search_options
from proxy.dialects.parameters import Ignored
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Plan

# What a field of any shape holds when it is not given: msgspec has no optional Raw.
ABSENT: Final = Raw()


def given(value: object) -> bool:
    """Whether a field was given, and not as null."""
    return value is not None and not (isinstance(value, Raw) and bytes(value) in (b"", b"null"))


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None


class ChatRequest(Struct, frozen=True):
    """The body of `POST /v1/chat/completions`, field by field; unknown fields are skipped."""

    model: str
    messages: list[Raw]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    tools: list[Raw] | None = None
    functions: list[Raw] | None = None
    tool_choice: Raw = ABSENT
    function_call: Raw = ABSENT
    parallel_tool_calls: bool | None = None
    response_format: Raw = ABSENT
    reasoning_effort: str | None = None
    modalities: list[str] | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    audio: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    metadata: Any = None
    moderation: Any = None
    prediction: Any = None
    presence_penalty: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    seed: Any = None
    service_tier: Any = None
    store: Any = None
    top_logprobs: Any = None
    user: Any = None
    verbosity: Any = None
    web_search_options: WebSearchOptions | None = None


# Accepted, without effect, and named in the response header `x-ignored-params`; with what asks for what is done anyway.
IGNORED: Final[Ignored] = {
    "audio": (),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "metadata": ({},),
    "moderation": (),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "safety_identifier": (),
    "seed": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "top_logprobs": (),
    "user": (),
    "verbosity": (),
}


class ChatPlan(Struct, frozen=True):
    """`model` is what the client asked for, `plan.model` what the CLI is asked for. `style`: how calls go back."""

    plan: Plan
    model: str
    stream: bool
    include_usage: bool
    ignored: tuple[str, ...]
    style: CallStyle
    stop: tuple[str, ...]
    n: int


MAX_STOPS: Final = 4
# OpenAI's highest temperature.
HOTTEST: Final = 2
MAX_CHOICES: Final = 8


_request_decoder: Final = msgspec.json.Decoder(ChatRequest)


def decode(body: bytes, rules: Rules = RULES) -> ChatPlan:
    """The request that `body` holds, under the server's rules. Raises `Rejection`."""
    chat = decoded(_request_decoder, body, "")
    if not chat.model.strip():
        raise bad_request("A model must be named.", "model")
    if any(one != "text" for one in chat.modalities or ()):
        raise bad_request("Claude Code gives text and nothing else.", "modalities")
    model = rules.model_for(chat.model)
    talk = conversation(chat.messages)
    messages = talk.messages
    search, no_effect = web_search_options(chat.web_search_options)
    use, style = tool_use(
        chat.tools,
        chat.functions,
        chat.tool_choice if given(chat.tool_choice) else None,
        chat.function_call if given(chat.function_call) else None,
        chat.parallel_tool_calls,
        messages,
        search,
    )
    parameters.may_search(use, "web_search_options", rules)
    ignored = (*parameters.without_effect(chat, IGNORED, rules), *no_effect, *talk.ignored)
    options = chat.stream_options
    plan = parameters.plan_of(
        rules,
        model,
        talk.system,
        messages,
        use=use,
        max_tokens=limit_of(chat.max_completion_tokens, chat.max_tokens),
        thinking=parameters.thinking(chat.reasoning_effort, "reasoning_effort", model, rules),
        schema=response_format(chat.response_format) if given(chat.response_format) else None,
        sampling=parameters.sampling(rules, chat.temperature, chat.top_p, hottest=HOTTEST),
    )
    return ChatPlan(
        plan=plan,
        model=chat.model,
        stream=bool(chat.stream),
        include_usage=bool(chat.stream and options is not None and options.include_usage),
        ignored=parameters.told(ignored, rules),
        style=style,
        stop=stops_of(chat.stop),
        n=count_of(chat.n),
    )


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MAX_STOPS:
        raise bad_request(f"At most {MAX_STOPS} stop sequences can be given.", "stop")
    return tuple(filter(None, stops))


def count_of(n: int | None) -> int:
    if n is not None and not 1 <= n <= MAX_CHOICES:
        raise bad_request(f"Must be between 1 and {MAX_CHOICES}.", "n")
    return n or 1


def limit_of(max_completion_tokens: int | None, max_tokens: int | None) -> int | None:
    """The most tokens to write. Clients send null, 0 and -1 when they mean no limit."""
    for name, value in (("max_completion_tokens", max_completion_tokens), ("max_tokens", max_tokens)):
        if value is not None and value < -1:
            raise bad_request("Must be a positive number of tokens; null, 0 and -1 mean no limit.", name)
        if value is not None and value > 0:
            return value
    return None
