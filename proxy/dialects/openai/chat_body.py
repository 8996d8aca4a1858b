"""The body of `POST /v1/chat/completions` as types: they decode it and describe it in `/openapi.json`.

Shapes: `openai.types.chat.completion_create_params` of the PyPI package `openai`, and what clients send beside them.
Fields that are not declared here have no effect, and are named.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Raw, Struct, field

from proxy.dialects.choices import AnyChoice, AutoChoice, NoChoice
from proxy.dialects.described import (
    BASE64,
    FILE_DATA,
    IMAGE_URL,
    AnswerSchema,
    Effort,
    Model,
    NoEffect,
    Share,
    Temperature,
    TokenLimit,
    ToolName,
    documented,
)
from proxy.dialects.marks import CacheControl
from proxy.dialects.openai.chat_tools import (
    TOOL_FORMS,
    AllowedChoice,
    ChoiceWord,
    CustomChoice,
    FunctionChoice,
    FunctionDefinition,
    Named,
    PlainText,
    ToolChoice,
    ToolDefinition,
)
from proxy.dialects.openai.web_search import WebSearchOptions
from proxy.protocol.media import IMAGE_TYPES

MAX_STOPS: Final = 4
MAX_CHOICES: Final = 8

# Content


class TextPart(Struct, frozen=True, tag="text"):
    text: str
    cache_control: CacheControl | None = None


class InputTextPart(TextPart, frozen=True, tag="input_text"):
    pass


class OutputTextPart(TextPart, frozen=True, tag="output_text"):
    pass


class RefusalPart(Struct, frozen=True, tag="refusal"):
    refusal: str | None = None


class ImageUrl(Struct, frozen=True):
    """A data URL (png, jpeg, gif or webp), or an address that the Messages API fetches."""

    url: Annotated[str, documented(pattern=IMAGE_URL)] = ""


class ImageUrlPart(Struct, frozen=True, tag="image_url"):
    """A URL is needed."""

    image_url: ImageUrl | Annotated[str, documented(pattern=IMAGE_URL)] | None = None
    cache_control: CacheControl | None = None


class InputImagePart(ImageUrlPart, frozen=True, tag="input_image"):
    """In the form of the Responses API."""


class AudioPart(Struct, frozen=True, tag="input_audio"):
    """Known to be refused by name: Claude Code takes no audio."""


class Base64Image(Struct, frozen=True, tag="base64"):
    media_type: Annotated[str, documented(enum=list(IMAGE_TYPES))]
    data: Annotated[str, documented(pattern=f"^{BASE64}$")]


class UrlImage(Struct, frozen=True, tag="url"):
    url: Annotated[str, documented(pattern=IMAGE_URL)]


class ImagePart(Struct, frozen=True, tag="image"):
    """In the form of the Messages API, as clients send it that know Claude by its name."""

    source: Base64Image | UrlImage
    cache_control: CacheControl | None = None


class FileData(Struct, frozen=True):
    """A PDF or UTF-8 text. There are no stored files that `file_id` could name."""

    file_data: Annotated[str, documented(pattern=FILE_DATA)] | None = None
    file_id: str | None = None
    filename: str | None = None


class FilePart(Struct, frozen=True, tag="file"):
    file: Annotated[FileData, documented(required=["file_data"], properties={"file_data": {"type": "string"}})]
    cache_control: CacheControl | None = None


class InputFilePart(FileData, frozen=True, tag="input_file"):
    """In the form of the Responses API."""

    cache_control: CacheControl | None = None


class ToolUsePart(Struct, frozen=True, tag="tool_use"):
    """A call in the form of the Messages API."""

    name: ToolName
    id: str = ""
    input: Annotated[Raw, documented(anyOf=[{"type": "object"}, {"type": "null"}])] = field(default_factory=Raw)


class ThinkingPart(Struct, frozen=True, tag="thinking"):
    """Thinking in the form of the Messages API; left out without its signature."""

    thinking: str = ""
    signature: str = ""


class RedactedThinkingPart(Struct, frozen=True, tag="redacted_thinking"):
    data: str = ""


TextLike = TextPart | InputTextPart | OutputTextPart | RefusalPart
MediaPart = (
    TextPart
    | InputTextPart
    | OutputTextPart
    | RefusalPart
    | ImageUrlPart
    | InputImagePart
    | ImagePart
    | FilePart
    | InputFilePart
    | AudioPart
)


class ToolResultPart(Struct, frozen=True, tag="tool_result"):
    """The result of a call in the form of the Messages API."""

    tool_use_id: str
    content: str | list[MediaPart] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


UserPart = MediaPart | ToolResultPart
AssistantPart = (
    TextPart | InputTextPart | OutputTextPart | RefusalPart | ToolUsePart | ThinkingPart | RedactedThinkingPart
)
AnyPart = UserPart | AssistantPart

# Messages


class SystemMessage(Struct, frozen=True, tag_field="role", tag="system"):
    content: str | list[TextLike] | None = None
    name: str | None = None
    cache_control: CacheControl | None = None


class DeveloperMessage(SystemMessage, frozen=True, tag="developer"):
    pass


class UserMessage(Struct, frozen=True, tag_field="role", tag="user"):
    content: str | list[UserPart] | None = None
    name: str | None = None
    cache_control: CacheControl | None = None


class PastFunctionCall(Struct, frozen=True):
    """`arguments` is JSON text; some clients send the object itself."""

    name: ToolName
    arguments: str | dict[str, Raw] | None = None


class PastCustomCall(Struct, frozen=True):
    name: ToolName
    input: str | None = None


class PastToolCall(Struct, frozen=True):
    """One of `function` and `custom` is needed."""

    id: str
    function: PastFunctionCall | None = None
    custom: PastCustomCall | None = None


class PastThinking(Struct, frozen=True):
    """Thinking of an answer as it came, or a piece of it as it was streamed: in LiteLLM's form or OpenRouter's."""

    type: str
    thinking: str | None = None
    text: str | None = None
    signature: str | None = None
    data: str | None = None
    format: Any = None
    id: Any = None
    index: Any = None


class AssistantMessage(Struct, frozen=True, tag_field="role", tag="assistant"):
    """An answer of the past, as it came."""

    content: str | list[AssistantPart] | None = None
    refusal: str | None = None
    tool_calls: list[PastToolCall] | None = None
    function_call: PastFunctionCall | None = None
    name: str | None = None
    thinking_blocks: list[PastThinking] | None = None
    reasoning_details: list[PastThinking] | None = None
    cache_control: CacheControl | None = None


class ToolMessage(Struct, frozen=True, tag_field="role", tag="tool"):
    """The result of a call of the assistant message before it."""

    tool_call_id: str
    content: str | list[MediaPart] | None = None
    cache_control: CacheControl | None = None


class FunctionMessage(Struct, frozen=True, tag_field="role", tag="function"):
    """The same for a `function_call`."""

    content: str | list[MediaPart] | None = None
    name: str | None = None


AnyMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage

# The form of an answer


class JsonFormat(Struct, frozen=True, tag="json_object"):
    """`schema` stands here in the form of llama.cpp and Anyscale."""

    schema: AnswerSchema = field(default_factory=Raw)


class SchemaDefinition(Struct, frozen=True):
    """`name` and `strict` change nothing: an answer has to fit the schema anyway."""

    name: str = ""
    schema: AnswerSchema = field(default_factory=Raw)
    description: str | None = None
    strict: Any = None


class SchemaFormat(Struct, frozen=True, tag="json_schema"):
    json_schema: SchemaDefinition


# The request

Count = Annotated[int, documented(minimum=1, maximum=MAX_CHOICES)]
Stop = str | Annotated[list[str], documented(maxItems=MAX_STOPS)]


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None


class Reasoning(Struct, frozen=True):
    """As OpenRouter's clients ask for thinking. `exclude`: it is not shown."""

    effort: Effort | None = None
    enabled: bool | None = None
    exclude: bool | None = None


class ThinkingSwitch(Struct, frozen=True):
    """As clients of DeepSeek's and of the Messages API ask for it: `disabled` turns it off, all else leaves it on."""

    type: str | None = None


class UsageOptions(Struct, frozen=True):
    """OpenRouter's form of `stream_options.include_usage`."""

    include: bool | None = None


class ChatRequest(Struct, frozen=True):
    """The body of `POST /v1/chat/completions`, field by field; unknown fields are named as ignored."""

    model: Model
    messages: Annotated[
        list[AnyMessage],
        documented("The last message is one of the user's, or the results of the calls before it.", minItems=1),
    ]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    n: Count | None = None
    tools: list[Annotated[ToolDefinition, TOOL_FORMS]] | None = None
    functions: list[FunctionDefinition] | None = None
    tool_choice: (
        ChoiceWord
        | FunctionChoice
        | CustomChoice
        | AllowedChoice
        | AutoChoice
        | AnyChoice
        | NoChoice
        | ToolChoice
        | None
    ) = None
    function_call: ChoiceWord | Named | None = None
    parallel_tool_calls: bool | None = None
    response_format: PlainText | JsonFormat | SchemaFormat | None = None
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | None = None
    include_reasoning: bool | None = None
    thinking: ThinkingSwitch | None = None
    enable_thinking: bool | None = None
    usage: UsageOptions | None = None
    modalities: list[Annotated[str, documented(enum=["text"])]] | None = None
    stop: Stop | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    audio: NoEffect = None
    frequency_penalty: NoEffect = None
    logit_bias: NoEffect = None
    logprobs: NoEffect = None
    metadata: NoEffect = None
    moderation: NoEffect = None
    prediction: NoEffect = None
    presence_penalty: NoEffect = None
    prompt_cache_key: NoEffect = None
    prompt_cache_options: NoEffect = None
    prompt_cache_retention: NoEffect = None
    safety_identifier: NoEffect = None
    seed: NoEffect = None
    service_tier: NoEffect = None
    store: NoEffect = None
    top_logprobs: NoEffect = None
    user: NoEffect = None
    verbosity: NoEffect = None
    web_search_options: WebSearchOptions | None = None
