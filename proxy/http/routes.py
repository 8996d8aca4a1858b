"""The table of routes: the application, the OpenAPI document and the README's table are made from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, get_args

from proxy.dialects import Dialect
from proxy.dialects.anthropic import errors as anthropic_errors
from proxy.dialects.anthropic.messages import Messages, MessagesCount, TokensCount
from proxy.dialects.anthropic.models import MAX_LIMIT, ModelInfo, ModelPage
from proxy.dialects.anthropic.request import Counted, MessagesRequest
from proxy.dialects.anthropic.types import AnswerMessage, StreamedEvent
from proxy.dialects.ollama import dialect as ollama_dialect
from proxy.dialects.ollama.request import ChatRequest as OllamaChatRequest
from proxy.dialects.ollama.request import GenerateRequest, ShowRequest
from proxy.dialects.ollama.types import ChatLine, ErrorLine, GenerateLine
from proxy.dialects.openai import chat_body, chat_types, completions
from proxy.dialects.openai.chat import Chat
from proxy.dialects.openai.completions import LegacyCompletions
from proxy.dialects.openai.errors import CODES
from proxy.dialects.openai.responses import dialect as responses
from proxy.dialects.openai.responses.compact import CompactedResponse, Compaction
from proxy.dialects.openai.responses.counting import InputTokens, ResponsesCount
from proxy.dialects.openai.responses.types import Response, ResponseEvent
from proxy.http import (
    conversations,
    health,
    inspector,
    metrics,
    models,
    ollama,
    openapi,
    page,
    response_shapes,
    status,
    usage,
)
from proxy.http import responses as responses_http
from proxy.http.counting import CountTokens
from proxy.http.listing import INCLUDE, PAGE, ItemList
from proxy.http.model_requests import ModelRequests
from proxy.http.openapi import ANYWHERE, Errors, Route
from proxy.http.service import Service
from proxy.protocol.failures import TABLE, Kind
from proxy.usage.report import SECONDS, RecentUsage, UsageReport

CHAT: Final = Chat()
LEGACY: Final = LegacyCompletions()
MESSAGES: Final = Messages()
MESSAGES_COUNT: Final = MessagesCount()
RESPONSES: Final = responses.Responses()
COMPACTION: Final = Compaction()
RESPONSES_COUNT: Final = ResponsesCount()


def _anthropic_said(kinds: Sequence[Kind]) -> dict[str, Any]:
    types = dict.fromkeys(anthropic_errors.type_of(_anthropic_status(kind)) for kind in kinds)
    return {"properties": {"error": {"properties": {"type": {"enum": list(types)}}}}}


def _anthropic_status(kind: Kind) -> int:
    return anthropic_errors.status_of(kind, TABLE[kind].status)


ANTHROPIC: Final = Errors(anthropic_errors.ErrorEnvelope, _anthropic_status, _anthropic_said)


def _responses_said(kinds: Sequence[Kind]) -> dict[str, Any]:
    types = dict.fromkeys(responses.USAGE_LIMIT if kind is Kind.PLAN_LIMIT else CODES[kind].type for kind in kinds)
    codes = dict.fromkeys(CODES[kind].code for kind in kinds)
    said = {"type": {"enum": list(types)}, "code": {"enum": list(codes)}}
    return {"properties": {"error": {"properties": said}}}


OF_RESPONSES: Final = Errors(responses.ErrorEnvelope, lambda kind: TABLE[kind].status, _responses_said)

OF_OLLAMA: Final = Errors(ErrorLine, lambda kind: TABLE[kind].status, lambda kinds: {})

ANSWERING: Final = (
    frozenset(Kind) - ANYWHERE - {Kind.UNKNOWN_PATH, Kind.UNKNOWN_MODEL, Kind.NOT_FOUND, Kind.METHOD, Kind.NO_WEBSOCKET}
)
# What can happen to a request that is counted: nobody answers it.
COUNTING: Final = ANSWERING - {Kind.SCHEMA_UNMET}
STORED: Final = frozenset((Kind.BAD_REQUEST, Kind.NOT_FOUND))
STORING: Final = STORED | {Kind.BODY_TOO_LARGE, Kind.CONTENT_TYPE}
_MOMENT: Final = {
    "anyOf": [
        {"type": "string", "format": "date"},
        {"type": "string", "format": "date-time"},
        {"type": "string", "pattern": f"^({SECONDS})$", "description": "Seconds since 1970."},
    ]
}
_HEALTH: Final = (
    "Open to all. 503 when no answer can be expected: the login failed in the last minute, the CLI cannot be started, "
    "or the server ends."
)
ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "post", "/v1/chat/completions", "createChatCompletion", "Answer a conversation, whole or as a stream.",
        "The conversation goes to a CLI process of its own, or on in the one that holds it already. With `stream` the "
        "answer comes as server-sent events that end with `[DONE]`; one that fails after its first event ends with an "
        "event that holds an error, and no `[DONE]`.",
        chat_types.Completion, chat_body.ChatRequest,
        {"model": "opus", "messages": [{"role": "user", "content": "Say hello."}]},
        chat_types.Chunk, kinds=ANSWERING, dialect=CHAT,
    ),
    Route(
        "post", "/v1/completions", "createCompletion", "Continue a text (legacy).",
        "The prompt is put to the model as a message, with an instruction to continue it; with `suffix`, to fill the "
        "gap before that.",
        completions.TextCompletion, completions.CompletionRequest, {"model": "haiku", "prompt": "Once upon a time"},
        completions.TextCompletion, kinds=ANSWERING, dialect=LEGACY,
    ),
    Route(
        "post", "/v1/messages", "createMessage", "Answer a conversation, in Anthropic's Messages API.",
        "The CLI's own events are this API's: ids, blocks with their signatures and usage are those of the Messages "
        "API that the CLI talks to. With `stream` the answer comes as named events.",
        AnswerMessage, MessagesRequest,
        {"model": "opus", "max_tokens": 1024, "messages": [{"role": "user", "content": "Say hello."}]},
        events=get_args(StreamedEvent), errors=ANTHROPIC, kinds=ANSWERING | {Kind.NOT_FOUND}, dialect=MESSAGES,
    ),
    Route(
        "post", "/v1/messages/count_tokens", "countMessageTokens", "Count the tokens of a conversation.",
        "By the Messages API itself, through the CLI: nothing is answered and nothing is billed. Where it does not "
        "count, the CLI guesses, and the header `x-claude-proxy-count` says so.",
        TokensCount, Counted, {"model": "opus", "messages": [{"role": "user", "content": "Say hello."}]},
        errors=ANTHROPIC, kinds=COUNTING | {Kind.NOT_FOUND}, counting=MESSAGES_COUNT,
    ),
    Route(
        "post", "/v1/responses", "createResponse", "Answer a conversation, given as items, whole or as a stream.",
        "With `stream` the answer comes as named server-sent events that end with `response.completed`, "
        "`response.incomplete` or `response.failed`.",
        Response, response_shapes.ResponsesRequest, {"model": "opus", "input": "Say hello."},
        events=get_args(ResponseEvent), errors=OF_RESPONSES, kinds=ANSWERING | {Kind.NOT_FOUND}, dialect=RESPONSES,
        resource=lambda service: responses_http.ResponseRequests(service, RESPONSES),
    ),
    Route(
        "post", "/v1/responses/compact", "compactResponse", "Make a long conversation short.",
        "The model writes a summary of it. The answer holds all messages but the assistant's, and the summary as an "
        "item of type `compaction`: together they are the input to go on with.",
        CompactedResponse, response_shapes.CompactRequest,
        {"model": "opus", "input": [{"role": "user", "content": "Remember that my number is 7."}]},
        errors=OF_RESPONSES, kinds=ANSWERING | {Kind.NOT_FOUND}, dialect=COMPACTION,
    ),
    Route(
        "post", "/v1/responses/input_tokens", "countInputTokens", "Count the tokens of a request.",
        "As the Messages API counts them, through the CLI. Where it does not count, the answer is the CLI's estimate, "
        "and the header `x-claude-proxy-count: estimated` says so.",
        InputTokens, response_shapes.CountedRequest, {"model": "opus", "input": "Say hello."},
        errors=OF_RESPONSES, kinds=COUNTING | {Kind.NOT_FOUND}, counting=RESPONSES_COUNT,
    ),
    Route(
        "get", "/v1/responses/{response_id}", "retrieveResponse", "A stored response.",
        "Or, with `stream`, the events of one that is made in the background, behind `starting_after`; those of one "
        "that has ended can be had for ten minutes.",
        Response, events=get_args(ResponseEvent), errors=OF_RESPONSES, kinds=STORED, parameters=("response_id",),
        query=responses_http.QUERY, resource=responses_http.OneResponse,
    ),
    Route(
        "delete", "/v1/responses/{response_id}", "deleteResponse", "Forget a stored response.",
        "One that is being made in the background ends. Requests can go on from those after it no more.",
        responses_http.DeletedResponse, errors=OF_RESPONSES, kinds=STORED - {Kind.BAD_REQUEST},
        parameters=("response_id",), resource=responses_http.OneResponse,
    ),
    Route(
        "post", "/v1/responses/{response_id}/cancel", "cancelResponse", "End a response made in the background.",
        "One that has ended is answered as it is.", Response, errors=OF_RESPONSES, kinds=STORED,
        parameters=("response_id",), resource=responses_http.CancelResponse,
    ),
    Route(
        "get", "/v1/responses/{response_id}/input_items", "listInputItems", "The input of a stored response.",
        "A page of the items that were sent with that request alone.", ItemList, errors=OF_RESPONSES, kinds=STORED,
        parameters=("response_id",), query=PAGE, resource=responses_http.InputItems,
    ),
    Route(
        "post", "/v1/conversations", "createConversation", "A conversation that requests go on from and add to.",
        "Name it as `conversation` in requests to `/v1/responses`.", conversations.Conversation,
        response_shapes.NewConversation, {"metadata": {"topic": "demo"}}, errors=OF_RESPONSES, kinds=STORING,
        resource=conversations.Conversations,
    ),
    Route(
        "get", "/v1/conversations/{conversation_id}", "retrieveConversation", "One conversation.", "Without its items.",
        conversations.Conversation, errors=OF_RESPONSES, kinds=STORED - {Kind.BAD_REQUEST},
        parameters=("conversation_id",), resource=conversations.OneConversation,
    ),
    Route(
        "post", "/v1/conversations/{conversation_id}", "updateConversation", "Other metadata for a conversation.",
        "All of it, in place of what was there.", conversations.Conversation, response_shapes.ChangedConversation,
        {"metadata": {"topic": "other"}}, errors=OF_RESPONSES, kinds=STORING, parameters=("conversation_id",),
        resource=conversations.OneConversation,
    ),
    Route(
        "delete", "/v1/conversations/{conversation_id}", "deleteConversation", "Forget a conversation.",
        "With its items.", conversations.DeletedConversation, errors=OF_RESPONSES, kinds=STORED - {Kind.BAD_REQUEST},
        parameters=("conversation_id",), resource=conversations.OneConversation,
    ),
    Route(
        "get", "/v1/conversations/{conversation_id}/items", "listConversationItems", "The items of a conversation.",
        "A page of them.", ItemList, errors=OF_RESPONSES, kinds=STORED, parameters=("conversation_id",), query=PAGE,
        resource=conversations.ConversationItems,
    ),
    Route(
        "post", "/v1/conversations/{conversation_id}/items", "createConversationItems", "Add items.",
        "They are checked as the input of a request is.", ItemList, response_shapes.ConversationItems,
        {"items": [{"role": "user", "content": "Hello."}]}, errors=OF_RESPONSES, kinds=STORING,
        parameters=("conversation_id",), resource=conversations.ConversationItems,
    ),
    Route(
        "get", "/v1/conversations/{conversation_id}/items/{item_id}", "retrieveConversationItem", "One of them.",
        "As it is listed.", None, errors=OF_RESPONSES, kinds=STORED, parameters=("conversation_id", "item_id"),
        query={"include": INCLUDE}, resource=conversations.OneConversationItem,
    ),
    Route(
        "delete", "/v1/conversations/{conversation_id}/items/{item_id}", "deleteConversationItem", "Forget an item.",
        "The answer is the conversation.", conversations.Conversation, errors=OF_RESPONSES,
        kinds=STORED - {Kind.BAD_REQUEST}, parameters=("conversation_id", "item_id"),
        resource=conversations.OneConversationItem,
    ),
    Route(
        "post", "/api/chat", "ollamaChat", "Answer a conversation, in Ollama's API.",
        "Streamed as JSON lines unless `stream` is false; a stream that fails ends with a line that holds an error. "
        "Without messages nothing is asked: the model is said to be loaded, or unloaded with a `keep_alive` of 0.",
        ChatLine, OllamaChatRequest, {"model": "sonnet", "messages": [{"role": "user", "content": "Say hello."}]},
        ChatLine, errors=OF_OLLAMA, kinds=ANSWERING, dialect=ollama_dialect.CHAT,
    ),
    Route(
        "post", "/api/generate", "ollamaGenerate", "Answer a prompt, in Ollama's API.",
        "As `/api/chat`, for one prompt.", GenerateLine, GenerateRequest, {"model": "haiku", "prompt": "Say hello."},
        GenerateLine, errors=OF_OLLAMA, kinds=ANSWERING, dialect=ollama_dialect.GENERATE,
    ),
    Route(
        "get", "/api/version", "ollamaVersion", "The version of Ollama's API that is spoken here.",
        "Clients refuse servers that are older than they need.", ollama.Version, errors=OF_OLLAMA,
        resource=lambda service: ollama.VersionResource(),
    ),
    Route(
        "get", "/api/tags", "ollamaTags", "The models on offer, in Ollama's API.",
        "The names of `/v1/models`, with the tag `latest`. Nothing of a model is on this computer: its size is 0.",
        ollama.Tags, errors=OF_OLLAMA, resource=ollama.TagsResource,
    ),
    Route(
        "get", "/api/ps", "ollamaPs", "The models that are in use, in Ollama's API.",
        "Those that the conversations use that are kept alive, with the latest time until which they can be.",
        ollama.Running, errors=OF_OLLAMA, resource=ollama.RunningResource,
    ),
    Route(
        "post", "/api/show", "ollamaShow", "One model, in Ollama's API.", "What it can do, and how much it can read.",
        ollama.Shown, ShowRequest, {"model": "sonnet"}, errors=OF_OLLAMA,
        kinds=frozenset((Kind.BAD_REQUEST, Kind.UNKNOWN_MODEL, Kind.BODY_TOO_LARGE, Kind.CONTENT_TYPE)),
        resource=ollama.ShowResource,
    ),
    Route(
        "get", "/v1/models", "listModels", "The models on offer.",
        "Names from the settings, families (the latest of each), and what the CLI itself lists. With the header "
        "`anthropic-version` in the form of Anthropic's API, which alone has pages.", models.ModelList,
        other=ModelPage, other_errors=ANTHROPIC, kinds=frozenset((Kind.BAD_REQUEST,)),
        query={
            "before_id": {"type": "string"}, "after_id": {"type": "string"},
            "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
        },
        resource=models.Models,
    ),
    Route(
        "get", "/v1/models/{model}", "retrieveModel", "One model.",
        "Any name that means a model of Claude is found, listed or not; it may contain slashes.", models.Model,
        other=ModelInfo, other_errors=ANTHROPIC, kinds=frozenset((Kind.UNKNOWN_MODEL,)), parameters=("model",),
        resource=models.OneModel,
    ),
    Route(
        "get", "/v1/usage", "getUsage", "What has been used, and what the plan has left.",
        "Sums over the requests of a period: in all, by model, key and day. A date as `until` is in the period. "
        "Prices are list prices, as the CLI reports them after an answer; for some answers it does not.",
        UsageReport, kinds=frozenset((Kind.BAD_REQUEST,)), query={"since": _MOMENT, "until": _MOMENT},
        resource=usage.UsageSummary,
    ),
    Route(
        "get", "/v1/usage/recent", "listRecentUsage", "The latest requests.", "Newest first. No text of any message.",
        RecentUsage, kinds=frozenset((Kind.BAD_REQUEST,)),
        query={"limit": {"type": "integer", "minimum": 1, "maximum": usage.MAX_RECENT}}, resource=usage.RecentRequests,
    ),
    Route(
        "get", "/v1/status", "getStatus", "The server at this moment.", "Processes, memory, and requests under way.",
        status.Status, resource=status.StatusNow,
    ),
    Route(
        "get", "/v1/inspector", "listInspected", "The latest requests, looked at from inside.",
        "Newest first, those under way among them. With keys: those of the key that asks.", inspector.InspectedList,
        resource=lambda service: inspector.InspectorList(service.inspector),
    ),
    Route(
        "get", "/v1/inspector/{request_id}", "getInspected", "One of them, with headers.",
        "Bodies and the lines exchanged with the CLI are there when the server was started with `--inspect`.",
        inspector.InspectedRequest, kinds=frozenset((Kind.UNKNOWN_PATH,)), parameters=("request_id",),
        resource=lambda service: inspector.InspectorRequest(service.inspector),
    ),
    Route(
        "get", "/", "getPage", "All of that as a page to look at.", "Open to all: it asks for a key itself.", None,
        media_type="text/html", open=True, resource=lambda service: page.Page(service.settings.ollama_port),
    ),
    Route(
        "get", "/metrics", "getMetrics", "The server's state and counters.", "In the text format of Prometheus.", None,
        resource=lambda service: metrics.MetricsPage(service.accounts.metrics),
        media_type="text/plain",
    ),
    Route(
        "get", "/health", "getHealth", "Whether this server can answer, as far as is known.", _HEALTH, health.Health,
        statuses=(200, 503), open=True, resource=health.HealthCheck,
    ),
    Route("get", "/openapi.json", "getDescription", "This document.", "OpenAPI 3.2.", None,
        resource=lambda service: openapi.OpenApi(_document(service))),
    Route(
        "get", "/docs", "getDocumentation", "This document as a page to read.", "It loads nothing from elsewhere.",
        None, media_type="text/html", resource=lambda service: openapi.Docs(_document(service)),
    ),
)  # fmt: skip


def dialect_of(path: str, *, anthropic: bool) -> Dialect:
    """Whose errors a request to this path gets. `anthropic`: it comes from a client of Anthropic's API."""
    shared = MESSAGES if anthropic and not path.startswith(_OPENAI) else CHAT
    return next((dialect for prefix, dialect in _BY_PREFIX.items() if path.startswith(prefix)), shared)


# Paths below these are an API's own, known or not.
_BY_PREFIX: Final[dict[str, Dialect]] = {
    "/v1/messages": MESSAGES, "/v1/responses": RESPONSES, "/v1/conversations": RESPONSES, "/api/": ollama_dialect.CHAT,
}  # fmt: skip
_OPENAI: Final = ("/v1/chat/", "/v1/completions")


@cache
def description(keys: bool) -> dict[str, Any]:
    """The OpenAPI document. `keys`: the server wants one of its API keys."""
    return openapi.document(ROUTES, keys)


def _document(service: Service) -> dict[str, Any]:
    return description(bool(service.keyring))


def resource(route: Route, service: Service) -> object:
    """What serves the route."""
    if route.resource is not None:
        return route.resource(service)
    if route.counting is not None:
        return CountTokens(service, route.counting)
    assert route.dialect is not None
    return ModelRequests(service, route.dialect)
