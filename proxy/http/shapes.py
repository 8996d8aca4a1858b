"""What a request may hold, written down for the document at `/openapi.json`.

The decoder keeps many parts of a request undecoded (`Raw`) until it knows where they stand; here is the shape that each
of them must have. Nothing is decoded with these types: that they agree with the decoder is what tests/test_schemathesis
shows, with data made from them and with data made to break them.

Tolerances are part of the shapes: null for whatever is optional, unknown fields anywhere, anything for what is ignored.
"""

from __future__ import annotations

from collections.abc import Container
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args

from msgspec import Meta, Raw, Struct, defstruct, structs

from proxy.dialects.openai import chat_request, completions
from proxy.dialects.openai.chat_request import MAX_CHOICES, MAX_STOPS
from proxy.dialects.openai.web_search import WebSearchOptions
from proxy.protocol.models import EFFORTS

BASE64: Final = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})"

ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
ArgumentName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
Tokens = Annotated[int, Meta(ge=-1, description="null, 0 and -1 mean no limit.")]


class TextPart(Struct, tag_field="type", tag="text"):
    text: str


class InputTextPart(Struct, tag_field="type", tag="input_text"):
    text: str


class OutputTextPart(Struct, tag_field="type", tag="output_text"):
    text: str


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    refusal: str | None = None


class ImageUrl(Struct):
    """A data URL (png, jpeg, gif or webp), or an address that the Messages API fetches."""

    url: Annotated[str, Meta(pattern=rf"^(?:https?://.*|data:image/(?:png|jpe?g|gif|webp);base64,{BASE64})$")]
    detail: str | None = None


class ImagePart(Struct, tag_field="type", tag="image_url"):
    image_url: ImageUrl


class FileData(Struct):
    """A PDF or UTF-8 text."""

    file_data: Annotated[str, Meta(pattern=rf"^(?:data:(?:application/pdf|text/[a-z]+);base64,)?{BASE64}$")]
    filename: str | None = None


class FilePart(Struct, tag_field="type", tag="file"):
    file: FileData


Words = str | list[TextPart | InputTextPart | OutputTextPart | RefusalPart] | None
Content = str | list[TextPart | InputTextPart | OutputTextPart | RefusalPart | ImagePart | FilePart] | None


class SystemMessage(Struct, tag_field="role", tag="system"):
    content: Words = None
    name: str | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer"):
    content: Words = None
    name: str | None = None


class UserMessage(Struct, tag_field="role", tag="user"):
    content: Content = None
    name: str | None = None


class PastFunctionCall(Struct):
    """`arguments` is JSON text."""

    name: ToolName
    arguments: str | None = ""


class PastCustomCall(Struct):
    name: ToolName
    input: str | None = ""


class PastCall(Struct):
    """One of `function` and `custom` is needed."""

    id: str
    function: PastFunctionCall | None = None
    custom: PastCustomCall | None = None


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    """An answer of the past, as it came."""

    content: Words = None
    refusal: str | None = None
    tool_calls: list[PastCall] | None = None
    function_call: PastFunctionCall | None = None
    name: str | None = None


class ToolMessage(Struct, tag_field="role", tag="tool"):
    """The result of a call of the assistant message before it."""

    tool_call_id: str
    content: Content = None


class FunctionMessage(Struct, tag_field="role", tag="function"):
    """The same for a `function_call`."""

    content: Content = None
    name: str | None = None


Conversation = Annotated[
    list[SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage],
    Meta(min_length=1, description="The last message is one of the user's, or the results of the calls before it."),
]


class Parameters(Struct):
    """A JSON Schema of an object."""

    type: Literal["object"] = "object"
    properties: dict[ArgumentName, Any] = {}


class FunctionDefinition(Struct):
    name: ToolName
    description: str | None = None
    parameters: Parameters | None = None
    strict: bool | None = None


class FunctionTool(Struct, tag_field="type", tag="function"):
    function: FunctionDefinition


class CustomFormat(Struct):
    type: Literal["text"]


class CustomDefinition(Struct):
    name: ToolName
    description: str | None = None
    format: CustomFormat | None = None


class CustomTool(Struct, tag_field="type", tag="custom"):
    """A tool that takes free text."""

    custom: CustomDefinition


class Named(Struct):
    name: str


class FunctionChoice(Struct, tag_field="type", tag="function"):
    function: Named


class CustomChoice(Struct, tag_field="type", tag="custom"):
    custom: Named


class AllowedTools(Struct):
    mode: Literal["auto", "required"]
    tools: list[FunctionChoice | CustomChoice]


class AllowedChoice(Struct, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedTools


ChoiceWord = Literal["none", "auto", "required"]


class TextFormat(Struct, tag_field="type", tag="text"):
    pass


class JsonFormat(Struct, tag_field="type", tag="json_object"):
    pass


class SchemaDefinition(Struct):
    name: str = ""
    schema: dict[str, Any] | bool | None = None
    description: Any = None
    strict: Any = None


class SchemaFormat(Struct, tag_field="type", tag="json_schema"):
    json_schema: SchemaDefinition


Stops = Annotated[list[str], Meta(max_length=MAX_STOPS)]
Model = Annotated[str, Meta(pattern=r"\S", description="A name of `/v1/models`; any other means the latest Opus.")]
Count = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
_SAMPLING: Final = "Without effect for models that refuse it; then `x-ignored-params` says so."
Temperature = Annotated[float, Meta(ge=0, le=2, description=_SAMPLING)]
Share = Annotated[float, Meta(ge=0, le=1, description=_SAMPLING)]
Prompt = Annotated[str, Meta(pattern=r"\S")]
# A pattern of a text that may be a list instead is more than msgspec 0.22 can bear: it counts references wrong.
Text = Annotated[str, Meta(min_length=1)]
Ignored = Annotated[Any, Meta(description="Has no effect, which the response header `x-ignored-params` says.")]

# The declared shape of every field that the decoder's type leaves open, or bounds in code.
CHAT: Final[dict[str, Any]] = {
    "model": Model,
    "messages": Conversation,
    "max_tokens": Tokens | None,
    "max_completion_tokens": Tokens | None,
    "n": Count | None,
    "tools": list[FunctionTool | CustomTool] | None,
    "functions": list[FunctionDefinition] | None,
    "tool_choice": ChoiceWord | FunctionChoice | CustomChoice | AllowedChoice | None,
    "function_call": ChoiceWord | Named | None,
    "response_format": TextFormat | JsonFormat | SchemaFormat | None,
    "reasoning_effort": Literal[EFFORTS] | None,
    "modalities": list[Literal["text"]] | None,
    "stop": str | Stops | None,
    "temperature": Temperature | None,
    "top_p": Share | None,
    "web_search_options": WebSearchOptions | None,
}
COMPLETIONS: Final[dict[str, Any]] = {
    "model": Model,
    "prompt": Text | Annotated[list[Prompt], Meta(min_length=1, max_length=MAX_CHOICES)],
    "max_tokens": Tokens | None,
    "n": Count | None,
    "best_of": Annotated[int, Meta(le=1, description="Not above `n`.")] | None,
    "echo": Literal[False] | None,
    "stop": str | Stops | None,
    "temperature": Temperature | None,
    "top_p": Share | None,
}


def declared(name: str, decoded: type[Struct], shapes: dict[str, Any], ignored: Container[str]) -> type[Struct]:
    """`decoded` with the declared shapes. Raises ValueError for a field whose shape is not known."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in structs.fields(decoded):
        shape = shapes.get(field.name, Ignored if field.name in ignored else field.type)
        if shape is Raw:
            raise ValueError(f"{name}.{field.name} has no declared shape")
        optional = shape is Ignored or NoneType in get_args(shape)
        fields.append((field.name, shape, None) if optional else (field.name, shape))
    return defstruct(name, fields, namespace={"__doc__": decoded.__doc__}, kw_only=True)


ChatRequest: Final = declared("ChatRequest", chat_request.ChatRequest, CHAT, chat_request.IGNORED)
CompletionRequest: Final = declared(
    "CompletionRequest", completions.CompletionRequest, COMPLETIONS, completions.IGNORED
)
