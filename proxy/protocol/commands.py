"""What is written to the CLI's stdin. Every function returns whole lines, newline included.

Rules: everything of the request goes over stdin, nothing on the command line. Every user message
is `client_composed`, or the CLI would expand `@path` and `/command` in it. The model is chosen by a setting:
`set_model` with a name that the CLI does not list costs a request of its own to the Messages API.
"""

from __future__ import annotations

import string
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from proxy.protocol.plan import (
    LAUNCHED,
    SERVER,
    Block,
    CacheLife,
    Caching,
    Message,
    Plan,
    TextBlock,
    ToolChoice,
    has_thinking,
)
from proxy.protocol.replies import Manifest, encoded, manifest
from proxy.protocol.web_search import WEB_SEARCH

SystemPromptMode = Literal["replace", "append"]

# Request ids need to be unique within one child only, and a child serves one conversation.
LIST_MODELS_ID: Final = "models"
INITIALIZE_ID: Final = "initialize"
SETTINGS_ID: Final = "settings"
UNBLOCK_ID: Final = "unblock"
COUNT_ID: Final = "count"
ESTIMATE_ID: Final = "estimate"
INTERRUPT_ID: Final = "interrupt"
SEARCH_HOOK: Final = "search"


class _Control(Struct, frozen=True):
    request_id: str
    request: object
    type: Literal["control_request"] = "control_request"


class _ListModels(Struct, frozen=True):
    subtype: Literal["list_models"] = "list_models"


class _ContextUsage(Struct, frozen=True):
    # `full` has the Messages API count; `summary` is estimated by the CLI.
    detail: Literal["full", "summary"]
    subtype: Literal["get_context_usage"] = "get_context_usage"


class _Interrupt(Struct, frozen=True):
    subtype: Literal["interrupt"] = "interrupt"


class _Hook(Struct, frozen=True):
    """The CLI asks us before it runs a tool of its own."""

    matcher: str = WEB_SEARCH
    hookCallbackIds: tuple[str, ...] = (SEARCH_HOOK,)


class _Hooks(Struct, frozen=True):
    PreToolUse: tuple[_Hook, ...] = (_Hook(),)


class _Initialize(Struct, frozen=True, omit_defaults=True):
    subtype: str
    systemPrompt: list[str] | UnsetType = UNSET
    appendSystemPrompt: str | UnsetType = UNSET
    jsonSchema: object = UNSET
    sdkMcpServers: list[str] | UnsetType = UNSET
    sdkMcpServerManifests: dict[str, Manifest] | UnsetType = UNSET
    hooks: _Hooks | UnsetType = UNSET


class _SettingsEnv(Struct, frozen=True, omit_defaults=True):
    CLAUDE_CODE_MAX_OUTPUT_TOKENS: str | UnsetType = UNSET
    # A JSON object, as text, that the CLI merges into the body of its request.
    CLAUDE_CODE_EXTRA_BODY: str | UnsetType = UNSET
    CLAUDE_CODE_DISABLE_THINKING: str | UnsetType = UNSET
    CLAUDE_CODE_PROMPT_CACHE_TTL: str | UnsetType = UNSET
    # Tokens from which on the CLI takes a conversation for too long and asks nobody; empty: as the model has it.
    CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE: str | UnsetType = UNSET


class _NoThinking(Struct, frozen=True):
    type: Literal["disabled"] = "disabled"


class _ExtraBody(Struct, frozen=True, omit_defaults=True):
    tool_choice: ToolChoice | UnsetType = UNSET
    thinking: _NoThinking | UnsetType = UNSET
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


class _Settings(Struct, frozen=True, omit_defaults=True):
    model: str | UnsetType = UNSET
    effortLevel: str | UnsetType = UNSET
    env: _SettingsEnv | UnsetType = UNSET


class _ApplySettings(Struct, frozen=True):
    settings: _Settings
    subtype: Literal["apply_flag_settings"] = "apply_flag_settings"


class _CacheControl(Struct, frozen=True):
    ttl: CacheLife
    type: Literal["ephemeral"] = "ephemeral"


class _MarkedMessage(Struct, frozen=True):
    role: str
    content: tuple[Block | Raw, ...]


class _UserLine(Struct, frozen=True, omit_defaults=True):
    type: str
    message: Message | _MarkedMessage
    client_composed: bool
    session_id: str
    parent_tool_use_id: str | UnsetType | None = UNSET
    shouldQuery: bool | UnsetType = UNSET


class _Answer(Struct, frozen=True):
    """A past answer with its thinking: without these three the CLI drops thinking without a word."""

    role: str
    content: tuple[Block, ...]
    id: str
    model: str
    type: Literal["message"] = "message"


class _AssistantLine(Struct, frozen=True):
    message: Message | _Answer
    type: Literal["assistant"] = "assistant"
    parent_tool_use_id: None = None
    session_id: str = ""


def list_models() -> bytes:
    """Asks for the models; also the sign that a child is ready. Leaves it as generic as it was."""
    return encoded(_Control(LIST_MODELS_ID, _ListModels()))


def count() -> bytes:
    """Asks how many tokens all has that was put in so far."""
    return encoded(_Control(COUNT_ID, _ContextUsage("full")))


def estimate() -> bytes:
    """The same, as the CLI guesses it by itself: nothing is sent to the Messages API."""
    return encoded(_Control(ESTIMATE_ID, _ContextUsage("summary")))


def interrupt() -> bytes:
    """Ends the turn: calls that wait for their results get none, and the CLI says what all has cost."""
    return encoded(_Control(INTERRUPT_ID, _Interrupt()))


def choose(model: str) -> bytes:
    """The model, and nothing else of a conversation."""
    return encoded(_Control(SETTINGS_ID, _ApplySettings(_Settings(model))))


def initialize(plan: Plan, mode: SystemPromptMode) -> bytes:
    """The first line of a conversation. Replacing with nothing means a neutral model, not the CLI's own prompt."""
    system = plan.system or UNSET
    return encoded(
        _Control(
            INITIALIZE_ID,
            _Initialize(
                "initialize",
                systemPrompt=([plan.system] if plan.system else []) if mode == "replace" else UNSET,
                appendSystemPrompt=system if mode == "append" else UNSET,
                jsonSchema=UNSET if plan.schema is None else plan.schema.offered,
                sdkMcpServers=[SERVER] if plan.tools else UNSET,
                sdkMcpServerManifests={SERVER: manifest(plan.tools)} if plan.tools else UNSET,
                hooks=UNSET if plan.search is None else _Hooks(),
            ),
        )
    )


def settings(plan: Plan, *, blocked: bool = False) -> bytes:
    """Model, limit and effort, in one line; nothing for what a child is launched with: a line costs it 0.01 s.

    `blocked`: what is asked is not sent to the Messages API, until `unblock`.
    """
    sampling, choice = plan.sampling, plan.tool_choice
    extra = _ExtraBody(
        choice or UNSET,
        UNSET if plan.thinking else _NoThinking(),
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
    )
    # The Messages API takes no choice that forces a call together with thinking.
    thinks = plan.thinking and (choice is None or not choice.forced)
    env = _SettingsEnv(
        UNSET if plan.max_tokens is None else str(plan.max_tokens),
        UNSET if extra == _ExtraBody() else msgspec.json.encode(extra).decode(),
        UNSET if thinks else "1",
        UNSET if plan.caching is None else plan.caching.ttl,
        "1" if blocked else UNSET,
    )
    flags = _Settings(plan.model, plan.effort or UNSET, UNSET if env == _SettingsEnv() else env)
    return b"" if flags == _Settings(LAUNCHED) else encoded(_Control(SETTINGS_ID, _ApplySettings(flags)))


def unblock() -> bytes:
    """What is asked from now on is sent. The other settings stay as they are."""
    flags = _Settings(env=_SettingsEnv(CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE=""))
    return encoded(_Control(UNBLOCK_ID, _ApplySettings(flags)))


# Answers that the CLI takes for its own notes on empty ones, and drops, white space around them or not.
PLACEHOLDERS: Final = frozenset(("(no content)", "[Empty text removed]"))


def is_placeholder(text: str) -> bool:
    """Whether the CLI forgets an answer that is this text and nothing else."""
    return _core(text) in PLACEHOLDERS


def _core(text: str) -> str:
    return text.strip(f"{string.whitespace}\ufeff\xa0")


def _said(message: Message) -> tuple[Block, ...]:
    """The content of an answer, so that the CLI keeps it: what it would drop comes in two blocks."""
    only = message.content[0]
    if len(message.content) == 1 and isinstance(only, TextBlock) and is_placeholder(only.text):
        core = _core(only.text)
        at = only.text.index(core) + len(core) // 2
        return TextBlock(only.text[:at]), TextBlock(only.text[at:])
    return message.content


def marked(message: Message, index: int, caching: Caching | None) -> Message | _MarkedMessage:
    """The message as it is written, with the mark for the prompt cache if that is in it. `index`: its place."""
    if caching is None or caching.mark is None or caching.mark[0] != index:
        return message
    at = caching.mark[1]
    block, mark = msgspec.json.encode(message.content[at]), msgspec.json.encode(_CacheControl(caching.ttl))
    with_mark = Raw(b'%s,"cache_control":%s}' % (block[:-1], mark))
    return _MarkedMessage(message.role, (*message.content[:at], with_mark, *message.content[at + 1 :]))


def past(message: Message, index: int = 0, caching: Caching | None = None, model: str = "") -> bytes:
    """A message of the past. One of the user's is answered by a `result`: wait for it before the next line.

    `index`: its place in the conversation; `model`: who wrote it, unless the message itself says so; `caching`: of the
    conversation.
    """
    if message.role == "user":
        return encoded(_UserLine("user", marked(message, index, caching), True, "", None, shouldQuery=False))
    if not has_thinking(message):
        return encoded(_AssistantLine(Message("assistant", _said(message))))
    # No two have the same id: the CLI would join them.
    answer = _Answer("assistant", message.content, f"msg_past_{index}", message.written_by or model)
    return encoded(_AssistantLine(answer))


def ask(message: Message, index: int = 0, caching: Caching | None = None) -> bytes:
    """The user's message that is to be answered now. `index`: as in `past`."""
    return encoded(_UserLine("user", marked(message, index, caching), True, "", None))
