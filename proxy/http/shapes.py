"""What a request may hold, written down for the document at `/openapi.json`.

The decoder keeps many parts of a request undecoded (`Raw`) until it knows where they stand; here is the shape that each
of them must have. Nothing is decoded with these types: that they agree with the decoder is what tests/test_schemathesis
shows, with data made from them and with data made to break them.

Tolerances are part of the shapes: null for whatever is optional, unknown fields anywhere, any value for what is ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Raw, Struct

from proxy.protocol.request import EFFORTS, MOST_CHOICES, MOST_STOPS, ChatRequest

_BASE64: Final = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"

ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
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

    url: Annotated[str, Meta(pattern=rf"^(?:https?://.*|data:image/(?:png|jpe?g|gif|webp);base64,{_BASE64})$")]
    detail: str | None = None


class ImagePart(Struct, tag_field="type", tag="image_url"):
    image_url: ImageUrl


class FileData(Struct):
    """A PDF or UTF-8 text."""

    file_data: Annotated[str, Meta(pattern=rf"^(?:data:(?:application/pdf|text/[a-z]+);base64,)?{_BASE64}$")]
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

    name: str
    arguments: str = ""


class PastCustomCall(Struct):
    name: str
    input: str = ""


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
    properties: dict[str, Any] = {}


class Function(Struct):
    name: ToolName
    description: str | None = None
    parameters: Parameters | None = None
    strict: bool | None = None


class FunctionTool(Struct, tag_field="type", tag="function"):
    function: Function


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
    schema: dict[str, Any] | None = None
    description: Any = None
    strict: Any = None


class SchemaFormat(Struct, tag_field="type", tag="json_schema"):
    json_schema: SchemaDefinition


Stop = Annotated[str | list[str] | None, Meta(extra_json_schema={"maxItems": MOST_STOPS})]

# The declared shape of every field that the decoder's type leaves open, or bounds in code.
CHAT: Final[dict[str, Any]] = {
    "model": Annotated[str, Meta(pattern=r"\S", description="A name of `/v1/models`; any other means the latest Opus.")],
    "messages": Conversation,
    "max_tokens": Tokens | None,
    "max_completion_tokens": Tokens | None,
    "n": Annotated[int, Meta(ge=1, le=MOST_CHOICES)] | None,
    "tools": list[FunctionTool | CustomTool] | None,
    "functions": list[Function] | None,
    "tool_choice": ChoiceWord | FunctionChoice | CustomChoice | AllowedChoice | None,
    "function_call": ChoiceWord | Named | None,
    "response_format": TextFormat | JsonFormat | SchemaFormat | None,
    "reasoning_effort": Literal[EFFORTS] | None,
    "modalities": list[Literal["text"]] | None,
    "stop": Stop,
    "temperature": Annotated[float, Meta(ge=0, le=2)] | None,
    "top_p": Annotated[float, Meta(ge=0, le=1)] | None,
}
