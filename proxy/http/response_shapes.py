"""What a request to `/v1/responses` may hold, for the document at `/openapi.json`.

The decoder keeps many parts of a request undecoded (`Raw`) until it knows where they stand; here is the shape that each
of them must have.
"""

from __future__ import annotations

from collections.abc import Container
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args

from msgspec import Meta, Raw, Struct, defstruct, structs

from proxy.dialects.described import BASE64, Model, NoEffect, Share, Temperature, TokenLimit
from proxy.dialects.openai.responses import compact, request
from proxy.http import conversations
from proxy.protocol.models import EFFORTS

Effort: Any = Literal[EFFORTS]
ArgumentName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
AnyType = Annotated[str, Meta(description="`message`; an item of a type that is not known is named as ignored.")]
# A pattern of a text that may be a list instead is more than msgspec 0.22 can bear: it counts references wrong.
Text = Annotated[str, Meta(min_length=1)]
Url = Annotated[str, Meta(pattern=rf"^(?:https?://.*|data:image/(?:png|jpe?g|gif|webp);base64,{BASE64})$")]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
CallId = Annotated[str, Meta(min_length=1)]
Encrypted = Annotated[str, Meta(pattern="^cmr1[.]")]


class Parameters(Struct):
    """A JSON Schema of an object."""

    type: Literal["object"] = "object"
    properties: dict[ArgumentName, Any] = {}


class InputText(Struct, tag_field="type", tag="input_text"):
    text: str


class PastText(Struct, tag_field="type", tag="output_text"):
    text: str
    annotations: Any = None
    logprobs: Any = None


class PastRefusal(Struct, tag_field="type", tag="refusal"):
    refusal: str | None = None


class InputImage(Struct, tag_field="type", tag="input_image"):
    """A data URL (png, jpeg, gif or webp), or an address that the Messages API fetches."""

    image_url: Url
    detail: Any = None


class InputFile(Struct, tag_field="type", tag="input_file"):
    """A PDF or UTF-8 text; or `file_url`, the address of a PDF."""

    file_data: Annotated[str, Meta(pattern=rf"^(?:data:(?:application/pdf|text/[a-z]+);base64,)?{BASE64}$")]
    filename: str | None = None


InputWords = str | list[InputText | PastText | PastRefusal] | None
InputContent = str | list[InputText | PastText | PastRefusal | InputImage | InputFile] | None


class UserItem(Struct, tag_field="role", tag="user"):
    content: InputContent = None
    type: AnyType | None = None


class SystemItem(Struct, tag_field="role", tag="system"):
    content: InputWords = None
    type: AnyType | None = None


class DeveloperItem(Struct, tag_field="role", tag="developer"):
    content: InputWords = None
    type: AnyType | None = None


class AssistantItem(Struct, tag_field="role", tag="assistant"):
    content: InputWords = None
    type: AnyType | None = None
    id: str | None = None
    status: str | None = None


Items = Annotated[
    list[Any],
    Meta(
        description="Messages (with `role`), and items by `type`: function_call, function_call_output, "
        "custom_tool_call, custom_tool_call_output, local_shell_call, local_shell_call_output, shell_call, "
        "shell_call_output, apply_patch_call, apply_patch_call_output, reasoning, compaction, item_reference, "
        "additional_tools. Others are left out and named in `x-ignored-params`."
    ),
]


class FunctionToolItem(Struct, tag_field="type", tag="function"):
    name: Name
    description: str | None = None
    parameters: Parameters | None = None
    strict: bool | None = None


class TextInput(Struct, tag_field="type", tag="text"):
    pass


class GrammarInput(Struct, tag_field="type", tag="grammar"):
    syntax: Literal["lark", "regex"]
    definition: Annotated[str, Meta(min_length=1)]


class CustomToolItem(Struct, tag_field="type", tag="custom"):
    """A tool that takes free text."""

    name: Name
    description: str | None = None
    format: TextInput | GrammarInput | None = None


class NamespaceItem(Struct, tag_field="type", tag="namespace"):
    name: Name
    tools: list[FunctionToolItem | CustomToolItem]
    description: str | None = None


class LocalShellItem(Struct, tag_field="type", tag="local_shell"):
    pass


class ShellItem(Struct, tag_field="type", tag="shell"):
    environment: Any = None


class ApplyPatchItem(Struct, tag_field="type", tag="apply_patch"):
    pass


class SearchFilters(Struct):
    allowed_domains: list[str] | None = None


class WebSearchItem(Struct, tag_field="type", tag="web_search"):
    """Claude Code's own search. With `external_web_access` false nothing is searched."""

    filters: SearchFilters | None = None
    search_context_size: Literal["low", "medium", "high"] | None = None
    user_location: Annotated[dict[str, str | None] | None, Meta(description="Has no effect.")] = None
    external_web_access: bool | None = None


ToolItem = (
    FunctionToolItem | CustomToolItem | NamespaceItem | LocalShellItem | ShellItem | ApplyPatchItem | WebSearchItem
)


class NamedFunction(Struct, tag_field="type", tag="function"):
    name: str


class NamedCustom(Struct, tag_field="type", tag="custom"):
    name: str


class AllowedToolsChoice(Struct, tag_field="type", tag="allowed_tools"):
    mode: Literal["auto", "required"]
    tools: list[NamedFunction | NamedCustom]


class PlainFormat(Struct, tag_field="type", tag="text"):
    pass


class ObjectFormat(Struct, tag_field="type", tag="json_object"):
    pass


class SchemaTextFormat(Struct, tag_field="type", tag="json_schema"):
    schema: dict[str, Any] | bool
    name: Any = None
    description: Any = None
    strict: Any = None


class TextOptions(Struct):
    format: PlainFormat | ObjectFormat | SchemaTextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(Struct):
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: str | None = None
    mode: str | None = None


IgnoredText = Annotated[str, Meta(description="Has no effect, which the response header `x-ignored-params` says.")]

RESPONSES: Final[dict[str, Any]] = {
    "model": Model,
    "input": Text | list[UserItem | SystemItem | DeveloperItem | AssistantItem] | None,
    "background": Annotated[bool, Meta(description="Needs the response to be stored.")] | None,
    "previous_response_id": str | None,
    "max_output_tokens": TokenLimit | None,
    "metadata": Annotated[dict[str, str], Meta(max_length=request.MAX_METADATA)] | None,
    "tools": list[ToolItem] | None,
    "tool_choice": Literal["none", "auto", "required"] | NamedFunction | NamedCustom | AllowedToolsChoice | None,
    "reasoning": ReasoningOptions | None,
    "text": TextOptions | None,
    "temperature": Temperature | None,
    "top_p": Share | None,
    "top_logprobs": Annotated[int, Meta(ge=0, le=20)] | None,
    "truncation": Literal["auto", "disabled"] | None,
    "prompt": None,
    "max_tool_calls": Annotated[int, Meta(description="Has no effect: no tool is run here.")] | None,
    "prompt_cache_key": IgnoredText | None,
    "prompt_cache_retention": IgnoredText | None,
    "safety_identifier": IgnoredText | None,
    "user": IgnoredText | None,
}


def declared(name: str, decoded: type[Struct], shapes: dict[str, Any], ignored: Container[str]) -> type[Struct]:
    """`decoded` with the declared shapes. Raises ValueError for a field whose shape is not known."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in structs.fields(decoded):
        shape = shapes.get(field.name, NoEffect if field.name in ignored else field.type)
        if shape is Raw:
            raise ValueError(f"{name}.{field.name} has no declared shape")
        optional = shape is NoEffect or NoneType in get_args(shape)
        fields.append((field.name, shape, None) if optional else (field.name, shape))
    return defstruct(name, fields, namespace={"__doc__": decoded.__doc__}, kw_only=True)


ResponsesRequest: Final = declared("ResponsesRequest", request.ResponsesRequest, RESPONSES, request.IGNORED)
# Where tokens are counted no model has to be named.
CountedRequest: Final = declared(
    "CountedRequest", request.ResponsesRequest, RESPONSES | {"model": Model | None}, request.IGNORED
)
CompactRequest: Final = declared(
    "CompactRequest",
    compact.CompactRequest,
    {name: shape for name, shape in RESPONSES.items() if name not in compact.IGNORED},
    compact.IGNORED,
)

Metadata = RESPONSES["metadata"]
NewItems = list[UserItem | SystemItem | DeveloperItem | AssistantItem]
FewItems = Annotated[NewItems, Meta(max_length=conversations.MAX_ITEMS)]
NewConversation: Final = declared(
    "NewConversation", conversations.NewConversation, {"items": FewItems | None, "metadata": Metadata}, ()
)
ChangedConversation: Final = declared(
    "ChangedConversation", conversations.ChangedConversation, {"metadata": Metadata}, ()
)
ConversationItems: Final = declared("ConversationItems", conversations.NewItems, {"items": FewItems}, ())
