"""Which fields the newest clients' types have that COMPATIBILITY.md has no row for.

The Python packages are those installed, the Node packages come from npm. Exit code: 0 none, 3 there are some, 2 the
check itself could not be done.
"""

import argparse
import re
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from conformance import apis, install
from conformance.matrix import PAGE

_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_ROW = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)


class Types(msgspec.Struct, frozen=True):
    """Where a Node package declares the fields of a section's requests."""

    package: str
    file: str
    interface: str


PYTHON = ("openai", "anthropic")
_CHAT, _MESSAGES = "resources/chat/completions/completions.d.ts", "resources/messages/messages.d.ts"
NODE: Mapping[str, Types] = {
    "request": Types("openai", _CHAT, "ChatCompletionCreateParamsBase"),
    "legacy": Types("openai", "resources/completions.d.ts", "CompletionCreateParamsBase"),
    "responses": Types("openai", "resources/responses/responses.d.ts", "ResponseCreateParamsBase"),
    "messages": Types("@anthropic-ai/sdk", _MESSAGES, "MessageCreateParamsBase"),
    "count_tokens": Types("@anthropic-ai/sdk", _MESSAGES, "MessageCountTokensParams"),
}


def rows(page: str) -> dict[str, set[str]]:
    """The rows of COMPATIBILITY.md by the title of their section."""
    title, *parts = _SECTION.split(page)[1:] or [""]
    titled = [title, *parts]
    return {name: set(_ROW.findall(text)) for name, text in zip(titled[::2], titled[1::2], strict=True)}


def declared(text: str, interface: str) -> tuple[str, ...]:
    """The fields that TypeScript declares in an interface. Raises ValueError if there is no such interface."""
    begun = re.search(rf"^export interface {re.escape(interface)}\b[^{{]*{{$", text, re.MULTILINE)
    if begun is None:
        raise ValueError(f"there is no interface {interface}")
    body = text[begun.end() :].partition("\n}")[0]
    return tuple(re.findall(r"^    (?:readonly )?'?(\w+)'?\??:", body, re.MULTILINE))


def new(page: str, found: Mapping[str, Sequence[str]]) -> list[str]:
    """Fields by section's word, compared with the page: those without a row, as `section.field`."""
    known = rows(page)
    titles = {word: section.title for word, section in apis.sections().items()}
    return [
        f"{word}.{field}"
        for word, fields in found.items()
        if word in titles
        for field in fields
        if field not in known.get(titles[word], set())
    ]


def of_node(modules: Path) -> dict[str, tuple[str, ...]]:
    """The fields of requests that packages below `node_modules` declare. Raises ValueError, OSError."""
    return {
        word: declared((modules / types.package / types.file).read_text("utf-8"), types.interface)
        for word, types in NODE.items()
        if word in apis.sections()
    }


def main(arguments: Sequence[str]) -> int:
    """`clients`: see `--help`."""
    argparse.ArgumentParser(prog="python -m conformance clients", description=__doc__).parse_args(arguments)
    page = PAGE.read_text("utf-8")
    found = {word: section.fields for word, section in apis.sections().items()}
    lines = {f"{', '.join(f'{name} {version(name)}' for name in PYTHON)} for Python": new(page, found)}
    packages = sorted({types.package for types in NODE.values()})
    try:
        with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
            latest = [f"{package}@latest" for package in packages]
            install.npm("install", "--prefix", scratch, "--no-audit", "--no-fund", "--ignore-scripts", *latest)
            lines[f"{', '.join(packages)} for Node"] = new(page, of_node(Path(scratch) / "node_modules"))
    except (install.NotInstalled, OSError, ValueError) as fault:
        print(f"the check could not be done: {fault}")
        return 2
    for name, fields in lines.items():
        print(f"{name}: {'new fields, without a row in COMPATIBILITY.md:' if fields else 'no new fields'}")
        print("".join(f"  {field}\n" for field in fields), end="")
    return 3 if any(lines.values()) else 0
