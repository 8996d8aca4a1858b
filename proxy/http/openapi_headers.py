"""The headers of answers, as the OpenAPI document describes them, and which come with what."""

from __future__ import annotations

from typing import Any, Final

HEADERS: Final[dict[str, dict[str, Any]]] = {
    "x-request-id": {
        "description": "Names the request in the server's log.", "required": True, "schema": {"type": "string"},
    },
    "openai-processing-ms": {
        "description": "Milliseconds until the headers were sent.", "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "x-claude-proxy-served": {
        "description": "`new`: a conversation's first question. `continued`: asked in the living conversation. "
        "`replayed`: the past was put into a new one.",
        "schema": {"enum": ["new", "continued", "replayed"]},
    },
    "x-claude-proxy-fallback": {
        "description": "The plan is used up: by what it was answered instead, as the settings say.",
        "schema": {"type": "string"},
    },
    "x-claude-proxy-truncated": {
        "description": "Oldest messages that were left out, since all of them do not fit into the model's window.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "x-claude-proxy-demo": {
        "description": "The answer is a recorded one: the server is in demo mode.", "schema": {"const": "recorded"},
    },
    "x-ignored-params": {
        "description": "Parameters of the request that had no effect, separated by commas.",
        "schema": {"type": "string"},
    },
    "x-claude-proxy-emulated": {
        "description": "What the model refuses as a field of the Messages API, and got in another way instead.",
        "schema": {"enum": ["tool_choice", "thinking", "tool_choice, thinking"]},
    },
    "x-claude-proxy-tool-choice": {
        "description": "`unmet`: the model was to call a tool, and did not when it was asked again either.",
        "schema": {"const": "unmet"},
    },
    "x-claude-proxy-count": {
        "description": "The Messages API did not count (all of) the request: the number is the CLI's guess.",
        "schema": {"const": "estimated"},
    },
    "x-claude-proxy-validation": {
        "description": "`skipped`: whether the answer, or a call in it, fits its schema took too long to find out.",
        "schema": {"const": "skipped"},
    },
    "x-claude-plan-five-hour-utilization": {
        "description": "Used share of the plan's five hours, as last reported by the CLI; likewise for `seven-day`.",
        "schema": {"type": "number", "minimum": 0},
    },
    "x-claude-plan-five-hour-reset": {
        "description": "When they end, in seconds since 1970; likewise for `seven-day`.",
        "schema": {"type": "number"},
    },
    "x-ratelimit-reset-requests": {
        "description": "Time until the plan's tightest window starts anew, such as `2h30m0s`.",
        "schema": {"type": "string"},
    },
    "x-ratelimit-remaining-requests": {
        "description": "0 when the plan is used up; otherwise nobody knows.", "schema": {"const": "0"},
    },
    "retry-after": {"description": "Seconds until a retry makes sense.", "schema": {"type": "integer", "minimum": 0}},
    "retry-after-ms": {"description": "The same in milliseconds.", "schema": {"type": "integer", "minimum": 0}},
    "x-should-retry": {
        "description": "Whether OpenAI's clients are to try again by themselves.",
        "schema": {"enum": ["true", "false"]},
    },
}  # fmt: skip
ALWAYS: Final = ("x-request-id", "openai-processing-ms")
SERVED: Final = (
    "x-claude-proxy-served", "x-claude-proxy-fallback", "x-claude-proxy-demo", "x-ignored-params",
    "x-claude-proxy-emulated", "x-claude-proxy-tool-choice",
    "x-claude-proxy-validation", "x-claude-proxy-truncated",
)  # fmt: skip
COUNTED: Final = ("x-claude-proxy-count", "x-ignored-params")
PLAN: Final = (
    "x-claude-plan-five-hour-utilization", "x-claude-plan-five-hour-reset", "x-ratelimit-reset-requests",
    "x-ratelimit-remaining-requests",
)  # fmt: skip
RETRIES: Final = ("retry-after", "retry-after-ms", "x-should-retry")
