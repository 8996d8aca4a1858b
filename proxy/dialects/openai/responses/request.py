"""The body of `POST /v1/responses` → an `AskedResponse`: the plan for the CLI and how its answer is told, or a
`Rejection`.

Shapes: `openai.types.responses.response_create_params` of the package `openai`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from proxy.dialects import RULES, Rules, parameters
from proxy.dialects.openai.chat_request import HOTTEST, limit_of
from proxy.dialects.openai.responses.items import Talk
from proxy.dialects.openai.responses.reasoning import Seal
from proxy.dialects.openai.responses.tools import CallForm, flat, tool_use
from proxy.dialects.openai.responses.types import ConversationId, ReasoningConfig, Response, TextConfig
from proxy.dialects.openai.responses.web_search import SOURCES
from proxy.dialects.parameters import Ignored
from proxy.dialects.undeclared import Undeclared, word
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Plan, Schema
from proxy.protocol.schema import FREE, answer_schema

# What a field of any shape holds when it is not given: msgspec has no optional Raw.
ABSENT: Final = Raw()


def given(value: Raw) -> bool:
    """Whether a field was given, and not as null."""
    return bytes(value) not in (b"", b"null")


class _Reasoning(Struct, frozen=True):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class _Text(Struct, frozen=True):
    format: Raw = ABSENT
    verbosity: str | None = None


class _Format(Struct, frozen=True):
    """`name` and `strict` change nothing here: an answer has to fit the schema anyway."""

    type: str
    schema: Raw = ABSENT
    name: Any = None
    description: str | None = None
    strict: Any = None


class _StreamOptions(Struct, frozen=True):
    include_obfuscation: bool | None = None


class _Conversation(Struct, frozen=True):
    id: str


class ResponsesRequest(Struct, frozen=True):
    """The body of `POST /v1/responses`, field by field; unknown fields are named as ignored."""

    model: str
    input: str | list[Raw] | None = None
    instructions: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    previous_response_id: str | None = None
    conversation: str | _Conversation | None = None
    store: bool | None = None
    background: bool | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] | None = None
    tools: list[Raw] | None = None
    tool_choice: Raw = ABSENT
    parallel_tool_calls: bool | None = None
    reasoning: _Reasoning | None = None
    text: _Text | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    truncation: str | None = None
    prompt: Raw = ABSENT
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    access_programs: Any = None
    background_options: Any = None
    context_management: Any = None
    image: Any = None
    moderation: Any = None
    prompt_cache_options: Any = None
    service_tier: Any = None


# Accepted, without effect, and named in the response header `x-ignored-params`; with what asks for what is done anyway.
IGNORED: Final[Ignored] = {
    "prompt_cache_key": (),
    "prompt_cache_retention": (),
    "safety_identifier": (),
    "user": (),
    "access_programs": (),
    "background_options": (),
    "context_management": (),
    "image": (),
    "moderation": (),
    "prompt_cache_options": (),
    "service_tier": ("auto", "default"),
}
PLAIN: Final = Raw(b'{"type":"text"}')
ENCRYPTED: Final = "reasoning.encrypted_content"
SUMMARIES: Final = ("auto", "concise", "detailed")
VERBOSITIES: Final = ("low", "medium", "high")
MAX_METADATA: Final = 16
MAX_METADATA_NAME: Final = 64
MAX_METADATA_VALUE: Final = 512
# What clients send back of an answer, and what is not put in again.
ECHOED: Final = frozenset(
    f"input.{name}" for name in ("content.annotations", "content.logprobs", "created_by", "phase")
)


class AskedResponse(Struct, frozen=True):
    """What a request comes to.

    `template`: the response with all that is told back; `forms`: how calls go back, by the name that the model knows;
    `encrypted`: `encrypted_content` is to be shown; `thinking`: the model's thinking is, `sources`: what
    searches have found. `items`: what was sent as
    `input` of this request alone, references replaced by what they stand for. `shorten`: the oldest turns may go.
    `most`: bytes that can be stored of it.
    """

    plan: Plan
    model: str
    stream: bool
    template: Response
    forms: dict[str, CallForm]
    encrypted: bool
    thinking: bool
    sources: bool
    items: tuple[Raw, ...]
    ignored: tuple[str, ...]
    seal: Seal
    shorten: bool
    most: int


_request_decoder: Final = msgspec.json.Decoder(ResponsesRequest)
_format_decoder: Final = msgspec.json.Decoder(_Format)
_undeclared: Final = Undeclared(ResponsesRequest)
_undeclared_in_format: Final = Undeclared(_Format)


class _WithModel(Protocol):
    @property
    def model(self) -> str: ...


Asked = TypeVar("Asked", bound=_WithModel)


def fields(decoder: msgspec.json.Decoder[Asked], body: bytes) -> Asked:
    """The fields of a request that names a model. Raises Rejection."""
    asked = decoded(decoder, body, "")
    if not asked.model.strip():
        raise bad_request("A model must be named.", "model")
    return asked


def checked_metadata(metadata: dict[str, str] | None) -> dict[str, str]:
    """Raises Rejection for more than api.openai.com takes. It comes back in every event that holds the response."""
    metadata = metadata or {}
    if len(metadata) > MAX_METADATA:
        raise bad_request(f"At most {MAX_METADATA} pairs can be given.", "metadata")
    if any(len(name) > MAX_METADATA_NAME or len(value) > MAX_METADATA_VALUE for name, value in metadata.items()):
        words = f"Names can have {MAX_METADATA_NAME} characters, values {MAX_METADATA_VALUE}."
        raise bad_request(words, "metadata")
    return metadata


def talk_of(
    instructions: str | None,
    previous: str | None,
    conversation: ConversationId | None,
    items: Sequence[Raw],
    rules: Rules,
) -> Talk:
    """The conversation of a request: what it goes on from, and what it sends. Raises Rejection."""
    talk = Talk(instructions, rules.lookup, Seal(rules.secret, rules.owner))
    if previous is not None:
        talk.take_all(rules.lookup.response(previous), "previous_response_id", stored=True)
    if conversation is not None:
        talk.take_all(rules.lookup.conversation(conversation.id), "conversation", stored=True)
    talk.take_all(items, "input")
    return talk


def decode(body: bytes, rules: Rules = RULES) -> AskedResponse:
    """The request that `body` holds, under the server's rules. Raises `Rejection`."""
    asked = fields(_request_decoder, body)
    if given(asked.prompt):
        raise bad_request("There are no prompt templates here: send the prompt itself as `instructions`.", "prompt")
    conversation = _conversation(asked)
    talk = talk_of(asked.instructions, asked.previous_response_id, conversation, items_of(asked.input), rules)
    asked, effort_at, format_at = _updated(asked, talk)
    store = rules.lookup.stores and sum(len(bytes(raw)) for raw in talk.sent) < rules.lookup.most_stored
    if asked.background and (asked.store is False or not store):
        raise bad_request("A response is made in the background only where it is stored.", "background")
    system, messages = talk.history.finish()
    if not messages:
        raise bad_request("There is no input with content.", "input")
    choice = flat(asked.tool_choice) if given(asked.tool_choice) else None
    use = tool_use(
        asked.tools or (),
        talk.tools,
        choice,
        asked.parallel_tool_calls,
        messages,
        asked.max_tool_calls,
    )
    parameters.may_search(use, "tools", rules)
    model = parameters.model_of(rules, asked.model)
    ignored = (
        *parameters.without_effect(asked, IGNORED, rules), *_ignored_parts(asked, store, rules),
        *use.ignored, *talk.ignored,
        *(("max_tool_calls",) if asked.max_tool_calls is not None and use.search is None else ()),
        *_undeclared(body), *_undeclared_of_format(asked),
    )  # fmt: skip
    plan = parameters.plan_of(
        rules,
        model,
        system,
        messages,
        use=use,
        max_tokens=_limit(asked.max_output_tokens),
        thinking=parameters.thinking((asked.reasoning or _Reasoning()).effort, effort_at, model, rules),
        schema=_schema(asked.text, format_at),
        sampling=parameters.sampling(rules, asked.temperature, asked.top_p, hottest=HOTTEST),
    )
    return AskedResponse(
        plan=plan,
        model=asked.model,
        stream=bool(asked.stream),
        template=_template(asked, use.echo, choice, conversation, store),
        forms=use.forms,
        encrypted=ENCRYPTED in (asked.include or ()),
        thinking=rules.reasoning,
        sources=SOURCES in (asked.include or ()),
        items=tuple(talk.sent),
        ignored=told(ignored, talk, rules),
        seal=talk.seal,
        shorten=asked.truncation == "auto",
        most=rules.lookup.most_stored,
    )


def _updated(asked: ResponsesRequest, talk: Talk) -> tuple[ResponsesRequest, str, str]:
    """The request with what its items have changed; and where its effort and its form of answers stand."""
    effort_at, format_at = "reasoning.effort", "text.format"
    if talk.effort is not None:
        effort, effort_at = talk.effort
        asked = replace(asked, reasoning=replace(asked.reasoning or _Reasoning(), effort=effort))
    if talk.format is not None:
        format, format_at = talk.format
        asked = replace(asked, text=replace(asked.text or _Text(), format=format))
    return asked, effort_at, format_at


def told(ignored: Iterable[str], talk: Talk, rules: Rules) -> tuple[str, ...]:
    """What had no effect, as the client is told. Raises Rejection where the server is strict about what is asked."""
    return parameters.told((*ignored, *talk.past), rules, ECHOED.union(talk.past))


def items_of(given: str | Sequence[Raw] | None) -> Sequence[Raw]:
    """`input` as items: text is a message of the user's. Raises Rejection."""
    if isinstance(given, str):
        if not given.strip():
            raise bad_request("There is no input with content.", "input")
        message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}
        return (Raw(msgspec.json.encode(message)),)
    return given or ()


def _conversation(asked: ResponsesRequest) -> ConversationId | None:
    if asked.conversation is None:
        return None
    if asked.previous_response_id is not None:
        raise bad_request("Only one of `conversation` and `previous_response_id` can be given.", "conversation")
    named = asked.conversation
    return ConversationId(named if isinstance(named, str) else named.id)


def _schema(text: _Text | None, where: str) -> Schema | None:
    """The schema that `text.format` asks for; None for text. `where`: its path. Raises Rejection."""
    if text is None or not given(text.format):
        return None
    format = decoded(_format_decoder, text.format, where)
    if format.type == "text":
        return None
    if format.type == "json_object":
        return FREE
    if format.type != "json_schema":
        raise bad_request("Must be one of text, json_object, json_schema.", f"{where}.type")
    if not given(format.schema):
        raise bad_request("A schema is needed.", f"{where}.schema")
    return answer_schema(format.schema, f"{where}.schema", format.description)


def _undeclared_of_format(asked: ResponsesRequest) -> Iterator[str]:
    if asked.text is not None and given(asked.text.format):
        yield from _undeclared_in_format(asked.text.format, "text.format")


def _limit(limit: int | None) -> int | None:
    if limit is not None and limit < -1:
        raise bad_request("Must be a positive number of tokens; null, 0 and -1 mean no limit.", "max_output_tokens")
    return limit_of(limit, None)


def _ignored_parts(asked: ResponsesRequest, store: bool, rules: Rules) -> list[str]:
    """What has no effect and is not a field of its own. `store`: it can be stored. Raises Rejection for what is none of
    its values."""
    found = []
    if asked.text is not None and asked.text.verbosity is not None:
        if asked.text.verbosity not in VERBOSITIES:
            raise bad_request(f"Must be one of {', '.join(VERBOSITIES)}.", "text.verbosity")
        found += ["text.verbosity"] if asked.text.verbosity != "medium" else []
    wanted = asked.reasoning or _Reasoning()
    for name in ("summary", "generate_summary"):
        if getattr(wanted, name) not in (None, *SUMMARIES):
            raise bad_request(f"Must be one of {', '.join(SUMMARIES)}.", f"reasoning.{name}")
    found += ["reasoning.mode"] if wanted.mode not in (None, "standard") else []
    if asked.truncation not in (None, "auto", "disabled"):
        raise bad_request("Must be one of auto, disabled.", "truncation")
    if asked.top_logprobs is not None and not 0 <= asked.top_logprobs <= 20:
        raise bad_request("Must be between 0 and 20.", "top_logprobs")
    found += ["top_logprobs"] if asked.top_logprobs else []
    found += [f"include.{word(one)}" for one in asked.include or () if one not in (ENCRYPTED, SOURCES)]
    options = asked.stream_options
    found += ["stream_options.include_obfuscation"] if options is not None and options.include_obfuscation else []
    # Where nothing is stored nobody counts on it unasked.
    found += ["store"] if not store and (asked.store or (asked.store is None and rules.lookup.stores)) else []
    return found


def _template(
    asked: ResponsesRequest,
    tools: tuple[Raw, ...],
    choice: Raw | None,
    conversation: ConversationId | None,
    store: bool,
) -> Response:
    """The response with what is told back of the request."""
    metadata = checked_metadata(asked.metadata)
    wanted, text = asked.reasoning or _Reasoning(), asked.text or _Text()
    return Response(
        background=bool(asked.background),
        instructions=asked.instructions,
        conversation=conversation,
        max_output_tokens=asked.max_output_tokens,
        max_tool_calls=asked.max_tool_calls,
        model=asked.model,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        previous_response_id=asked.previous_response_id,
        prompt_cache_key=asked.prompt_cache_key,
        prompt_cache_retention=asked.prompt_cache_retention,
        reasoning=ReasoningConfig(wanted.effort, wanted.summary or wanted.generate_summary),
        safety_identifier=asked.safety_identifier,
        store=store and asked.store is not False,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        text=TextConfig(text.format if given(text.format) else PLAIN, text.verbosity or "medium"),
        tool_choice=choice or Raw(b'"auto"'),
        tools=tools,
        top_logprobs=asked.top_logprobs or 0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        truncation="auto" if asked.truncation == "auto" else "disabled",
        user=asked.user,
        metadata=metadata,
    )
