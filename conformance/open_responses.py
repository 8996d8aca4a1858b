"""Judges Responses answers by the types of the Open Responses specification (PyPI: `openresponses-types`).

The specification knows fewer kinds of items, tools and events than the API that it was made of: those are left out.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, cast

import openresponses_types as types
from pydantic import BaseModel, TypeAdapter

from conformance.shapes import misfits

_ITEMS = ("message", "function_call", "function_call_output", "reasoning", "compaction")
_CHOICES = ("function", "allowed_tools")
_response: TypeAdapter[Any] = TypeAdapter(types.ResponseResource)


def _events() -> dict[str, TypeAdapter[Any]]:
    """The types of events by their `type`."""
    found = {}
    for name, type in vars(types).items():
        if name.endswith("StreamingEvent") and issubclass(type, BaseModel):
            (word,) = cast(Iterable[Enum], type.model_fields["type"].annotation)
            found[str(word.value)] = TypeAdapter(type)
    return found


EVENTS: Mapping[str, TypeAdapter[Any]] = _events()


def _known(response: Mapping[str, Any]) -> dict[str, Any]:
    """The response without what the specification has no type for."""
    choice, text = response["tool_choice"], response["text"]
    if isinstance(choice, dict) and choice.get("type") not in _CHOICES:
        choice = "auto"
    if text["format"]["type"] == "json_schema":
        # The package's type of it wants no schema in it.
        text = text | {"format": {"type": "text"}}
    return {
        **response,
        "output": [item for item in response["output"] if item["type"] in _ITEMS],
        "tools": [tool for tool in response["tools"] if tool["type"] == "function"],
        "tool_choice": choice,
        "text": text,
    }


def wrong(response: Mapping[str, Any]) -> list[str]:
    """Where a response is not what the specification says, in words."""
    return [f"Open Responses: {words}" for words in misfits(_response, _known(response))]


def wrong_event(data: Mapping[str, Any]) -> list[str]:
    """The same of an event's data."""
    type, item = EVENTS.get(data["type"]), data.get("item")
    if type is None or (item is not None and item["type"] not in _ITEMS):
        return []
    if "response" in data:
        data = {**data, "response": _known(data["response"])}
    return [f"Open Responses: {words}" for words in misfits(type, data)]
