"""What is kept of a response and of a conversation, and how it is shown again.

Items have ids then, and the form in which the API lists them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from proxy.dialects.openai.responses.ending import Ended
from proxy.dialects.openai.responses.types import NO_OUTPUT, ReasoningItem

# `input` and `output`: shown as they are. `sealed`: without `encrypted_content`, unless that is asked for. `hidden`:
# not shown at all.
Part = Literal["input", "output", "sealed", "hidden"]
_PREFIXES: Final = {
    "message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco",
    "custom_tool_call": "ctc", "custom_tool_call_output": "ctco", "compaction": "cmp", "web_search_call": "ws",
}  # fmt: skip
_NULL: Final = Raw(b"null")
_COMPLETED: Final = Raw(b'"completed"')
_object: Final = msgspec.json.Decoder(dict[str, Raw])
_text: Final[msgspec.json.Decoder[str | None]] = msgspec.json.Decoder(str | None)


class KeptItem(Struct, frozen=True):
    """`data`: the item's JSON, with its id in it."""

    id: str
    data: Raw
    part: Part


def listed(raws: Iterable[Raw], token: str) -> Iterator[KeptItem]:
    """The items of a request as they are listed. `token`: random; ids are made from it for those that have none.

    Raises no error for what has been accepted as items.
    """
    for index, raw in enumerate(raws):
        item = _object.decode(raw)
        kind = _string(item, "type") or "message"
        id = _string(item, "id") or f"{_PREFIXES.get(kind, 'item')}_{_number(token, index)}"
        item["type"], item["id"] = _encoded(kind), _encoded(id)
        if kind == "message":
            item["content"] = _content(item.get("content", _NULL), _string(item, "role"))
        if kind == "message" or kind.endswith(("_call", "_call_output")):
            item["status"] = _COMPLETED if item.get("status", _NULL) == _NULL else item["status"]
        yield KeptItem(id, Raw(msgspec.json.encode(item)), "input")


def _number(token: str, index: int) -> str:
    return hashlib.sha256(f"{token} {index}".encode()).hexdigest()[:48]


def _content(content: Raw, role: str | None) -> Raw:
    """A message's content as parts."""
    try:
        text = _text.decode(content)
    except msgspec.ValidationError:
        return content
    if role == "assistant":
        return _encoded([{"type": "output_text", "text": text or "", "annotations": [], "logprobs": []}])
    return _encoded([{"type": "input_text", "text": text or ""}])


def _string(item: dict[str, Raw], name: str) -> str | None:
    return _text.decode(item.get(name, _NULL))


def _encoded(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


def body(ended: Ended) -> bytes:
    """The response without its output, which is kept as items."""
    return msgspec.json.encode(replace(ended.response, output=NO_OUTPUT))


def answered(ended: Ended) -> Iterator[KeptItem]:
    """The items of an answer."""
    shown = {item.id: item for item in ended.response.output}
    for item in ended.output:
        told = shown.get(item.id)
        part: Part = "output"
        if told is None:
            part = "hidden"
        elif isinstance(item, ReasoningItem) and told != item:
            part = "sealed"
        yield KeptItem(item.id, _encoded(item), part)


def shown(items: Iterable[tuple[Raw, str]], encrypted: bool) -> Iterator[Raw]:
    """Items with their parts as the client sees them. `encrypted`: with `encrypted_content`."""
    for data, part in items:
        if part == "sealed" and not encrypted:
            yield _encoded(_object.decode(data) | {"encrypted_content": _NULL})
        elif part != "hidden":
            yield data


def assembled(body: Raw, output: Sequence[Raw]) -> bytes:
    """The response with its output."""
    return msgspec.json.encode(_object.decode(body) | {"output": _encoded(list(output))})
