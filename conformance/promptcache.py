"""What the Messages API's prompt cache does with a request, as its documentation says it.

- A prompt is its tools, then its system prompt, then its messages. A change in one of them loses it and all after it;
  another `tool_choice`, other thinking, another effort and the first or last image lose the messages. The order of the
  members counts where an object is the client's or the model's own (a call's input, a tool's schema).
- Only what ends in a block with `cache_control` is written, at most four such marks in a request. An entry can be read
  once the answer that wrote it has begun, until its time to live is over; reading begins that time anew.
- Each mark looks for an entry at its own block and at the 19 before it. The longest prefix that is found is read.
- A prefix that is shorter than the model's least length is neither written nor read.

Tokens are estimated: a quarter of the bytes. The CLI's billing line, which differs from request to request, is left
out, as it must be by the API: else nothing would ever be read.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from conformance.messages import unmarked

BILLING = "x-anthropic-billing-header:"
MARKS = 4
LOOK_BACK = 20
SECONDS = {"5m": 300.0, "1h": 3600.0}
# Tokens below which nothing is cached; models that are named nowhere have the length of most.
LEAST = {
    "claude-opus-5": 512,
    "claude-fable-5": 512,
    "claude-opus-4-5": 4096,
    "claude-opus-4-6": 4096,
    "claude-opus-4-7": 2048,
    "claude-haiku-4-5": 4096,
    "claude-3-5-haiku": 2048,
    "claude-3-haiku": 2048,
}
LEAST_ELSE = 1024

# Members whose value is the client's or the model's own.
_FREE = frozenset(("input", "input_schema"))

Place = Literal["tools", "system", "messages"]


class Block(msgspec.Struct, frozen=True):
    """A piece of a prompt, without its mark; `ttl`: that of the mark on it, None without one."""

    place: Place
    text: str
    ttl: str | None

    @property
    def tokens(self) -> float:
        return len(self.text.encode()) / 4


class Counted(msgspec.Struct, frozen=True):
    """Tokens of one prompt: read from the cache, written to it (by time to live), and neither. They add up to it."""

    read: float
    written_5m: float
    written_1h: float
    fresh: float

    @property
    def total(self) -> float:
        return self.read + self.written_5m + self.written_1h + self.fresh

    def usage(self) -> dict[str, int]:
        """As an answer's `usage` has it."""
        return {
            "input_tokens": round(self.fresh),
            "cache_creation_input_tokens": round(self.written_5m + self.written_1h),
            "cache_read_input_tokens": round(self.read),
        }


class Refused(ValueError):
    """A request that the API answers with 400."""


def blocks(body: Mapping[str, Any]) -> list[Block]:
    """The request's blocks in the order of the cache. Text that stands alone and a list of that one text are alike."""
    found = [_block("tools", "", tool) for tool in body.get("tools") or []]
    found += [_block("system", "", block) for block in _listed(body.get("system") or [])]
    for message in body.get("messages", []):
        found += [_block("messages", message["role"], block) for block in _listed(message["content"])]
    return [block for block in found if BILLING not in block.text[:80]]


def check(body: Mapping[str, Any]) -> None:
    """Raises Refused where `PromptCache.count` does."""
    _marks(blocks(body))


def _marks(prompt: Sequence[Block]) -> list[int]:
    marks = [index for index, block in enumerate(prompt) if block.ttl is not None]
    if len(marks) > MARKS:
        raise Refused(f"A maximum of {MARKS} blocks with cache_control may be provided. Found {len(marks)}.")
    odd = [block.ttl for block in prompt if block.ttl not in (None, *SECONDS)]
    if odd:
        raise Refused(f"cache_control.ttl: {odd[0]!r} is not one of {', '.join(SECONDS)}")
    lives = [SECONDS[prompt[index].ttl or ""] for index in marks]
    if lives != sorted(lives, reverse=True):
        raise Refused("a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block")
    return marks


def _listed(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _block(place: Place, role: str, block: Mapping[str, Any]) -> Block:
    plain = unmarked(dict(block))
    if plain.get("type") == "tool_result":
        plain["content"] = _listed(plain.get("content") or [])
        if not plain.get("is_error"):
            plain.pop("is_error", None)
    mark = block.get("cache_control")
    text = f"{role} {json.dumps(_ordered(plain), ensure_ascii=False)}"
    return Block(place, text, None if mark is None else mark.get("ttl", "5m"))


def _ordered(value: Any) -> Any:
    """The API's own objects with their members in one order; others as they are written."""
    if isinstance(value, dict):
        return {key: value[key] if key in _FREE else _ordered(value[key]) for key in sorted(value)}
    return [_ordered(inner) for inner in value] if isinstance(value, list) else value


def _has_image(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("type") == "image" or any(
            _has_image(inner) for key, inner in value.items() if key not in _FREE
        )
    return isinstance(value, list) and any(map(_has_image, value))


class PromptCache:
    """See the module. Times are in seconds, and only ever compared with each other."""

    def __init__(self) -> None:
        # When an entry can first be read, when no more, and for how long it lives after each use.
        self._entries: dict[bytes, tuple[float, float, float]] = {}

    def count(self, body: Mapping[str, Any], at: float, *, begins: float | None = None) -> Counted:
        """What a request that comes at `at` reads and writes. `begins`: when its answer begins; None: at once.

        Raises Refused for too many marks, for a shorter time to live before a longer one and one that there is not.
        """
        prompt = blocks(body)
        marks = _marks(prompt)
        keys = list(_keys(body, prompt))
        totals = list(itertools.accumulate(block.tokens for block in prompt))
        least = LEAST.get(next((name for name in LEAST if str(body.get("model")).startswith(name)), ""), LEAST_ELSE)
        hit = self._longest(keys, marks, totals, at, least)
        read = done = totals[hit] if hit is not None else 0.0
        written = {"5m": 0.0, "1h": 0.0}
        for index in marks:
            if totals[index] < least:
                continue
            ttl = prompt[index].ttl or ""
            written[ttl] += max(0.0, totals[index] - done)
            done = max(done, totals[index])
            ready, until, _ = self._entries.get(keys[index], (at if begins is None else begins, 0.0, 0.0))
            if until <= at:
                ready = at if begins is None else begins
            self._entries[keys[index]] = (ready, at + SECONDS[ttl], SECONDS[ttl])
        whole = totals[-1] if totals else 0.0
        return Counted(read, written["5m"], written["1h"], whole - done)

    def _longest(
        self, keys: Sequence[bytes], marks: Sequence[int], totals: Sequence[float], at: float, least: float
    ) -> int | None:
        """The last block of the longest prefix that can be read; its time begins anew."""
        looked = {index for mark in marks for index in range(max(0, mark - LOOK_BACK + 1), mark + 1)}
        for index in sorted(looked, reverse=True):
            ready, until, life = self._entries.get(keys[index], (0.0, 0.0, 0.0))
            if ready <= at < until and totals[index] >= least:
                self._entries[keys[index]] = (ready, at + life, life)
                return index
        return None


def _keys(body: Mapping[str, Any], prompt: Sequence[Block]) -> Iterator[bytes]:
    """One hash for the prefix that ends with each block."""
    key = hashlib.sha256(str(body.get("model")).encode()).digest()
    place: Place = "tools"
    for block in prompt:
        if block.place == "messages" != place:
            effort = (body.get("output_config") or {}).get("effort")
            settings = [body.get("tool_choice"), body.get("thinking"), effort, _has_image(body.get("messages"))]
            key = hashlib.sha256(key + json.dumps(settings, sort_keys=True).encode()).digest()
        place = block.place
        key = hashlib.sha256(key + f"{place} {block.text}".encode()).digest()
        yield key


def share(counted: Sequence[Counted]) -> float | None:
    """The share of all input that was read from the cache; None if there was no input."""
    total = sum(each.total for each in counted)
    return sum(each.read for each in counted) / total if total else None
