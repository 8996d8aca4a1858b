"""OpenAI's response, its output items and the events of its stream as types.

Which fields there are, and which are null, follows what api.openai.com sends.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from proxy.dialects.openai.responses.web_search import UrlCitation, WebSearchCallItem
from proxy.protocol.deltas import Tokens

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["completed", "failed", "in_progress", "cancelled", "queued", "incomplete"]


class SummaryText(Struct, frozen=True, tag_field="type", tag="summary_text"):
    text: str


class ReasoningItem(Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """The model's thinking. `encrypted_content`: what makes it genuine when it is sent back."""

    id: str
    summary: tuple[SummaryText, ...] = ()
    content: tuple[()] = ()
    encrypted_content: str | None = None
    status: ItemStatus


class OutputText(Struct, frozen=True, kw_only=True, tag_field="type", tag="output_text"):
    annotations: tuple[UrlCitation, ...] = ()
    logprobs: tuple[()] = ()
    text: str


class OutputRefusal(Struct, frozen=True, tag_field="type", tag="refusal"):
    refusal: str


ContentPart = OutputText | OutputRefusal


class OutputMessage(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: tuple[ContentPart, ...] = ()


class FunctionCallItem(Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    """`namespace`: where the tool was declared in one."""

    id: str
    call_id: str
    namespace: str | UnsetType = UNSET
    name: str
    arguments: str
    status: ItemStatus


class CustomCallItem(Struct, frozen=True, kw_only=True, tag_field="type", tag="custom_tool_call"):
    id: str
    call_id: str
    namespace: str | UnsetType = UNSET
    name: str
    input: str
    status: ItemStatus


class ExecAction(Struct, frozen=True, kw_only=True, tag_field="type", tag="exec"):
    """What is not given is left out: the AI SDK takes no null here."""

    command: tuple[str, ...]
    env: dict[str, str] = {}
    timeout_ms: int | UnsetType = UNSET
    user: str | UnsetType = UNSET
    working_directory: str | UnsetType = UNSET


class LocalShellCallItem(Struct, frozen=True, kw_only=True, tag_field="type", tag="local_shell_call"):
    id: str
    call_id: str
    action: ExecAction
    status: ItemStatus


class ShellAction(Struct, frozen=True):
    commands: tuple[str, ...]
    timeout_ms: int | None = None
    max_output_length: int | None = None


class ShellCallItem(Struct, frozen=True, kw_only=True, tag_field="type", tag="shell_call"):
    id: str
    call_id: str
    action: ShellAction
    environment: None = None
    status: ItemStatus


class CreateFile(Struct, frozen=True, tag_field="type", tag="create_file"):
    path: str
    diff: str


class UpdateFile(Struct, frozen=True, tag_field="type", tag="update_file"):
    path: str
    diff: str


class DeleteFile(Struct, frozen=True, tag_field="type", tag="delete_file"):
    path: str


PatchOperation = CreateFile | UpdateFile | DeleteFile


class ApplyPatchCallItem(Struct, frozen=True, kw_only=True, tag_field="type", tag="apply_patch_call"):
    id: str
    call_id: str
    operation: PatchOperation
    status: Literal["in_progress", "completed"]


OutputItem = (
    ReasoningItem | OutputMessage | FunctionCallItem | CustomCallItem | LocalShellCallItem | ShellCallItem
    | ApplyPatchCallItem | WebSearchCallItem
)  # fmt: skip


class InputDetails(Struct, frozen=True):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(Struct, frozen=True):
    reasoning_tokens: int = 0


class ResponseUsage(Struct, frozen=True):
    """`input_tokens` is all input; `cached_tokens` the part read from the cache, `cache_write_tokens` put into it."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


def usage_of(tokens: Tokens) -> ResponseUsage:
    return ResponseUsage(
        tokens.prompt,
        InputDetails(tokens.cache_read, tokens.cache_write),
        tokens.output,
        OutputDetails(tokens.reasoning),
        tokens.prompt + tokens.output,
    )


class ResponseError(Struct, frozen=True):
    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(Struct, frozen=True):
    reason: Literal["max_output_tokens", "content_filter"]


class ConversationId(Struct, frozen=True):
    id: str


class ReasoningConfig(Struct, frozen=True):
    effort: str | None = None
    summary: str | None = None


class TextConfig(Struct, frozen=True):
    format: Raw
    verbosity: str = "medium"


class Response(Struct, frozen=True, kw_only=True):
    """The response, in whatever state. Parameters of the request are told back."""

    id: str = ""
    object: Literal["response"] = "response"
    created_at: int = 0
    status: ResponseStatus = "in_progress"
    background: bool = False
    completed_at: int | None = None
    conversation: ConversationId | None = None
    error: ResponseError | None = None
    frequency_penalty: float = 0.0
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    model: str = ""
    output: tuple[OutputItem, ...] = ()
    parallel_tool_calls: bool = True
    presence_penalty: float = 0.0
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning: ReasoningConfig = ReasoningConfig()
    safety_identifier: str | None = None
    service_tier: Literal["default"] = "default"
    store: bool = False
    temperature: float = 1.0
    text: TextConfig
    tool_choice: Raw
    tools: tuple[Raw, ...] = ()
    top_logprobs: int = 0
    top_p: float = 1.0
    truncation: Literal["auto", "disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None
    metadata: dict[str, str] = {}


class _Event(Struct, frozen=True, kw_only=True, tag_field="type"):
    sequence_number: int


class _OfResponse(_Event, frozen=True, kw_only=True):
    response: Response


class ResponseCreated(_OfResponse, frozen=True, kw_only=True, tag="response.created"):
    pass


class ResponseQueued(_OfResponse, frozen=True, kw_only=True, tag="response.queued"):
    pass


class ResponseInProgress(_OfResponse, frozen=True, kw_only=True, tag="response.in_progress"):
    pass


class ResponseCompleted(_OfResponse, frozen=True, kw_only=True, tag="response.completed"):
    pass


class ResponseIncomplete(_OfResponse, frozen=True, kw_only=True, tag="response.incomplete"):
    pass


class ResponseFailed(_OfResponse, frozen=True, kw_only=True, tag="response.failed"):
    pass


class _OfItem(_Event, frozen=True, kw_only=True):
    output_index: int
    item: OutputItem


class OutputItemAdded(_OfItem, frozen=True, kw_only=True, tag="response.output_item.added"):
    pass


class OutputItemDone(_OfItem, frozen=True, kw_only=True, tag="response.output_item.done"):
    pass


class _InItem(_Event, frozen=True, kw_only=True):
    """`item_id` and `output_index`: the item that it is of."""

    item_id: str
    output_index: int


class _InContent(_InItem, frozen=True, kw_only=True):
    content_index: int = 0


class _OfPart(_InContent, frozen=True, kw_only=True):
    part: ContentPart


class ContentPartAdded(_OfPart, frozen=True, kw_only=True, tag="response.content_part.added"):
    pass


class ContentPartDone(_OfPart, frozen=True, kw_only=True, tag="response.content_part.done"):
    pass


class OutputTextDelta(_InContent, frozen=True, kw_only=True, tag="response.output_text.delta"):
    delta: str
    logprobs: tuple[()] = ()


class OutputTextDone(_InContent, frozen=True, kw_only=True, tag="response.output_text.done"):
    text: str
    logprobs: tuple[()] = ()


class AnnotationAdded(_InContent, frozen=True, kw_only=True, tag="response.output_text.annotation.added"):
    annotation_index: int
    annotation: UrlCitation


class RefusalDelta(_InContent, frozen=True, kw_only=True, tag="response.refusal.delta"):
    delta: str


class RefusalDone(_InContent, frozen=True, kw_only=True, tag="response.refusal.done"):
    refusal: str


class ArgumentsDelta(_InItem, frozen=True, kw_only=True, tag="response.function_call_arguments.delta"):
    delta: str


class ArgumentsDone(_InItem, frozen=True, kw_only=True, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


class CustomInputDelta(_InItem, frozen=True, kw_only=True, tag="response.custom_tool_call_input.delta"):
    delta: str


class CustomInputDone(_InItem, frozen=True, kw_only=True, tag="response.custom_tool_call_input.done"):
    input: str


class SearchInProgress(_InItem, frozen=True, kw_only=True, tag="response.web_search_call.in_progress"):
    pass


class SearchSearching(_InItem, frozen=True, kw_only=True, tag="response.web_search_call.searching"):
    pass


class SearchCompleted(_InItem, frozen=True, kw_only=True, tag="response.web_search_call.completed"):
    pass


class _InSummary(_InItem, frozen=True, kw_only=True):
    summary_index: int = 0


class SummaryPartAdded(_InSummary, frozen=True, kw_only=True, tag="response.reasoning_summary_part.added"):
    part: SummaryText


class SummaryPartDone(_InSummary, frozen=True, kw_only=True, tag="response.reasoning_summary_part.done"):
    part: SummaryText


class SummaryTextDelta(_InSummary, frozen=True, kw_only=True, tag="response.reasoning_summary_text.delta"):
    delta: str


class SummaryTextDone(_InSummary, frozen=True, kw_only=True, tag="response.reasoning_summary_text.done"):
    text: str


ResponseEvent = (
    ResponseCreated | ResponseQueued | ResponseInProgress | ResponseCompleted | ResponseIncomplete | ResponseFailed
    | OutputItemAdded | OutputItemDone | ContentPartAdded | ContentPartDone | OutputTextDelta | OutputTextDone
    | RefusalDelta | RefusalDone | ArgumentsDelta | ArgumentsDone | CustomInputDelta | CustomInputDone
    | AnnotationAdded | SearchInProgress | SearchSearching | SearchCompleted
    | SummaryPartAdded | SummaryPartDone | SummaryTextDelta | SummaryTextDone
)  # fmt: skip


def event_name(event: ResponseEvent) -> str:
    """Its `type`, which is also its `event:` line."""
    name = event.__struct_config__.tag
    assert isinstance(name, str)
    return name


NO_OUTPUT: Final[tuple[OutputItem, ...]] = ()
