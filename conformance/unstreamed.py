"""What the modules of `conformance.apis` share whose answers never come as a stream."""

from collections.abc import Mapping
from typing import Any


def streamed(body: Mapping[str, Any]) -> dict[str, Any]:
    """There is no such request: the same."""
    return dict(body)


def is_streamed(body: Mapping[str, Any]) -> bool:
    """Never."""
    return False


def read_stream(text: str) -> dict[str, Any]:
    """Raises ValueError."""
    raise ValueError(f"an answer of this API is not streamed: {text[:100]!r}")


def wrong_stream(asked: Mapping[str, Any], text: str) -> list[str]:
    """That it is one."""
    return ["an answer of this API is not streamed"]
