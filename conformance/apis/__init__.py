"""The APIs that are judged, one module each: what a scenario's `api` names.

A module has everything that only its API has: where requests go, how a stream is asked for, how an answer is read into
facts (`conformance.scenario.Facts`), the types that judge it, and its sections of COMPATIBILITY.md. The names of facts
are the same for all; the values of `finish_reason`, `usage` and `error` are the API's own. To add an API, add a module:
nothing else has to know of it.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

import msgspec


class Section(msgspec.Struct, frozen=True):
    """A section of COMPATIBILITY.md: its title, the sentence under it, and the fields that are its rows."""

    title: str
    text: str
    fields: tuple[str, ...]


class Api(Protocol):
    """What a module here has. Bodies are JSON; the text of a stream is the whole of it, decoded.

    PATH      where its requests go
    REQUEST   the section whose rows are the fields of a request
    SECTIONS  its sections of COMPATIBILITY.md, by the word that claims and cases call them
    SHOWS     of which rows the facts of an answer are evidence: `response.usage` by `usage`
    """

    PATH: str
    REQUEST: str
    SECTIONS: Mapping[str, Section]
    SHOWS: Mapping[str, str]

    def headers(self, key: str | None) -> dict[str, str]:
        """What is sent beside the body; with a key, it."""

    def opening(self, body: Mapping[str, Any]) -> str:
        """The first text a user says in a request, by which upstream and player know the conversation."""

    def streamed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The same request, to be answered by a stream that tells its usage."""

    def is_streamed(self, body: Mapping[str, Any]) -> bool:
        """Whether a request asks for a stream."""

    def read(self, body: Any) -> dict[str, Any]:
        """The facts of an answer that came whole, or of an error."""

    def read_stream(self, text: str) -> dict[str, Any]:
        """The facts of a stream; `done`: it ended as a good one does."""

    def wrong(self, status: int, body: Any) -> list[str]:
        """What is not as the API's types have it in an answer that came whole, or in an error."""

    def wrong_stream(self, asked: Mapping[str, Any], text: str) -> list[str]:
        """What breaks the laws of a stream, for the request that asked for it."""


@cache
def names() -> tuple[str, ...]:
    """All APIs, `chat` first: it is meant where none is named."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return ("chat", *(name for name in found if name != "chat"))


@cache
def named(name: str) -> Api:
    """The API of that name. Raises ValueError for one there is not."""
    if name not in names():
        raise ValueError(f"there is no API {name!r}: {', '.join(names())}")
    module: Any = importlib.import_module(f"{__name__}.{name}")
    api: Api = module
    return api


def sections() -> dict[str, Section]:
    """The sections of all APIs."""
    return {word: section for name in names() for word, section in named(name).SECTIONS.items()}
