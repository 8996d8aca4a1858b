"""A chat request's body → a `ChatPlan`: the plan for the CLI and how its answer is to be delivered, or a `Rejection`.

Tolerant where clients are sloppy (unknown keys, null for optional, string or array content, `developer`, `function`,
assistant messages echoed back whole), strict where an answer would be to another question: then a 400 that names the
parameter. Shapes: `openai.types.chat.completion_create_params` of the PyPI package `openai`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from proxy.dialects import RULES, Rules
from proxy.dialects.openai.messages import conversation
from proxy.dialects.openai.response_format import response_format
from proxy.dialects.openai.tools import CallStyle, tool_use
from proxy.protocol import native
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.models import EFFORTS, Abilities, effort_level
from proxy.protocol.plan import Plan, Sampling, ToolUseBlock

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
    audio: Raw = ABSENT
    frequency_penalty: Raw = ABSENT
    logit_bias: Raw = ABSENT
    logprobs: Raw = ABSENT
    metadata: Raw = ABSENT
    moderation: Raw = ABSENT
    prediction: Raw = ABSENT
    presence_penalty: Raw = ABSENT
    prompt_cache_key: Raw = ABSENT
    prompt_cache_options: Raw = ABSENT
    prompt_cache_retention: Raw = ABSENT
    safety_identifier: Raw = ABSENT
    seed: Raw = ABSENT
    service_tier: Raw = ABSENT
    store: Raw = ABSENT
    top_logprobs: Raw = ABSENT
    user: Raw = ABSENT
    verbosity: Raw = ABSENT
    web_search_options: Raw = ABSENT


# Accepted, without effect, and said so in the response header `x-ignored-params`.
IGNORED: Final = (
    "temperature", "top_p", "audio", "frequency_penalty", "logit_bias", "logprobs", "metadata", "moderation",
    "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "safety_identifier", "seed", "service_tier", "store", "top_logprobs", "user", "verbosity", "web_search_options",
)  # fmt: skip


# Values of theirs that ask for what is done anyway.
NEUTRAL: Final[dict[str, tuple[bytes, ...]]] = {
    "frequency_penalty": (b"0", b"0.0"),
    "logit_bias": (b"{}",),
    "logprobs": (b"false",),
    "metadata": (b"{}",),
    "presence_penalty": (b"0", b"0.0"),
    "service_tier": (b'"auto"', b'"default"'),
    "store": (b"false",),
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
    past_calls = any(isinstance(block, ToolUseBlock) for message in messages for block in message.content)
    use = tool_use(
        chat.tools,
        chat.functions,
        chat.tool_choice if given(chat.tool_choice) else None,
        chat.function_call if given(chat.function_call) else None,
        chat.parallel_tool_calls,
        past_calls,
    )
    abilities = rules.abilities_of(model)
    effort, thinking = _effort(chat.reasoning_effort, abilities, rules)
    ignored = (*ignored_of(chat, IGNORED, rules), *talk.ignored)
    options = chat.stream_options
    schema = response_format(chat.response_format) if given(chat.response_format) else None
    plan = Plan(
        model=model,
        system=talk.system,
        messages=messages,
        tools=use.tools,
        tool_choice=use.choice,
        must_call=use.demand is not None,
        demand=use.demand,
        max_tokens=limit_of(chat.max_completion_tokens, chat.max_tokens),
        effort=effort,
        thinking=thinking,
        schema=schema,
        sampling=sampling_of(chat.temperature, chat.top_p, rules),
    )
    if schema is not None or not rules.native:
        # The answer's form is a tool, too: a call must not be forced while it is offered.
        plan = native.without(plan, {native.TOOL_CHOICE})
    return ChatPlan(
        plan=plan,
        model=chat.model,
        stream=bool(chat.stream),
        include_usage=bool(chat.stream and options is not None and options.include_usage),
        ignored=ignored,
        style=use.style,
        stop=stops_of(chat.stop),
        n=count_of(chat.n),
    )


def ignored_of(asked: object, names: Sequence[str], rules: Rules) -> tuple[str, ...]:
    """The parameters given that have no effect. Raises Rejection when the server is strict about them."""

    def idle(name: str, value: object) -> bool:
        if not given(value) or (rules.native and name in ("temperature", "top_p")):
            return False
        return not (isinstance(value, Raw) and bytes(value) in NEUTRAL.get(name, ()))

    ignored = tuple(name for name in names if idle(name, getattr(asked, name)))
    if ignored and rules.strict:
        raise bad_request(f"`{ignored[0]}` has no effect here, and the server is set to refuse such.", ignored[0])
    return ignored


def sampling_of(temperature: float | None, top_p: float | None, rules: Rules) -> Sampling:
    """Checked always, passed on unless the settings say otherwise. OpenAI's temperature goes to 2, Claude's to 1."""
    for name, value, most in (("temperature", temperature, 2), ("top_p", top_p, 1)):
        if value is not None and not 0 <= value <= most:
            raise bad_request(f"Must be between 0 and {most}.", name)
    if not rules.native:
        return Sampling()
    return Sampling(None if temperature is None else min(temperature, 1.0), top_p)


def _effort(asked: str | None, abilities: Abilities, rules: Rules) -> tuple[str | None, bool]:
    """The CLI's effort level, and whether there is thinking at all."""
    if asked is not None and asked not in EFFORTS:
        raise bad_request(f"Must be one of {', '.join(EFFORTS)}.", "reasoning_effort")
    if asked == "none" and rules.native:
        return None, False
    return effort_level(asked, abilities)


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
