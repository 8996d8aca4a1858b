"""A chat request's body → a `ChatPlan`: the plan for the CLI and how its answer is to be delivered, or a `Rejection`.

Tolerant where clients are sloppy (unknown keys, null for optional, string or array content, `developer`, `function`,
assistant messages echoed back whole), strict where an answer would be to another question: then a 400 that names the
parameter. Shapes: `openai.types.chat.completion_create_params` of the PyPI package `openai`.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from proxy.dialects import RULES, Rules, parameters
from proxy.dialects.openai.chat_body import MAX_CHOICES, MAX_STOPS, ChatRequest
from proxy.dialects.openai.messages import conversation
from proxy.dialects.openai.response_format import response_format
from proxy.dialects.openai.tools import CallStyle, tool_use, without_effect
from proxy.dialects.openai.web_search import web_search_options
from proxy.dialects.parameters import Ignored
from proxy.dialects.undeclared import Undeclared
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Plan

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
    """`model` is what the client asked for, `plan.model` what the CLI is asked for. `style`: how calls go back.

    `to_disk`: the client does not say that nothing is to be stored. `shown`: it wants to see what the model thinks.
    """

    plan: Plan
    model: str
    stream: bool
    include_usage: bool
    ignored: tuple[str, ...]
    style: CallStyle
    stop: tuple[str, ...]
    n: int
    to_disk: bool
    shown: bool = True


# OpenAI's highest temperature.
HOTTEST: Final = 2


_request_decoder: Final = msgspec.json.Decoder(ChatRequest)
_undeclared: Final = Undeclared(
    ChatRequest,
    {
        "messages.content.detail": ("auto",),
        "messages.content.image_url.detail": ("auto",),
        "messages.tool_calls.type": ("function", "custom"),
        "stream_options.include_obfuscation": (False,),
    },
)
# What clients send back of an answer, or of its stream, and what is not put in again.
ECHOED: Final = frozenset(
    f"messages.{name}"
    for name in (
        "annotations", "audio", "id", "reasoning", "reasoning_content", "reasoning_details", "thinking",
        "thinking_blocks", "tool_calls.index",
    )
)  # fmt: skip


def decode(body: bytes, rules: Rules = RULES) -> ChatPlan:
    """The request that `body` holds, under the server's rules. Raises `Rejection`."""
    chat = decoded(_request_decoder, body, "")
    if not chat.model.strip():
        raise bad_request("A model must be named.", "model")
    if any(one != "text" for one in chat.modalities or ()):
        raise bad_request("Claude Code gives text and nothing else.", "modalities")
    model = parameters.model_of(rules, chat.model)
    talk = conversation(chat.messages)
    messages = talk.messages
    search, no_effect = web_search_options(chat.web_search_options)
    use, style = tool_use(chat, messages, search)
    parameters.may_search(use, "web_search_options", rules)
    caching, lost_marks = talk.marks.placed(messages, rules.cache_ttl)
    ignored = (
        *parameters.without_effect(chat, IGNORED, rules), *no_effect, *talk.ignored, *without_effect(chat),
        *lost_marks, *_undeclared(body),
    )  # fmt: skip
    effort, where = effort_of(chat)
    plan = parameters.plan_of(
        rules,
        model,
        talk.system,
        messages,
        use=use,
        max_tokens=limit_of(chat.max_completion_tokens, chat.max_tokens),
        thinking=parameters.thinking(effort, where, model, rules),
        schema=response_format(chat.response_format),
        sampling=parameters.sampling(rules, chat.temperature, chat.top_p, hottest=HOTTEST),
    )
    return ChatPlan(
        plan=msgspec.structs.replace(plan, caching=caching),
        model=chat.model,
        stream=bool(chat.stream),
        include_usage=bool(chat.stream and usage_wanted(chat)),
        ignored=parameters.told(ignored, rules, ECHOED),
        style=style,
        stop=stops_of(chat.stop),
        n=count_of(chat.n),
        to_disk=chat.store is not False,
        shown=chat.include_reasoning is not False and not (chat.reasoning is not None and chat.reasoning.exclude),
    )


def effort_of(chat: ChatRequest) -> tuple[str | None, str]:
    """The effort that is asked for, in whichever form, and the field that says so. OpenAI's own form counts first."""
    asked = chat.reasoning
    if chat.reasoning_effort is not None:
        return chat.reasoning_effort, "reasoning_effort"
    if asked is not None and asked.effort is not None:
        return asked.effort, "reasoning.effort"
    off = (
        (asked is not None and asked.enabled is False, "reasoning.enabled"),
        (chat.thinking is not None and chat.thinking.type == "disabled", "thinking.type"),
        (chat.enable_thinking is False, "enable_thinking"),
    )
    return next((("none", where) for says, where in off if says), (None, "reasoning_effort"))


def usage_wanted(chat: ChatRequest) -> bool:
    options, usage = chat.stream_options, chat.usage
    return bool((options is not None and options.include_usage) or (usage is not None and usage.include))


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    return parameters.stops_of([stop] if isinstance(stop, str) else stop or (), "stop", MAX_STOPS)


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
