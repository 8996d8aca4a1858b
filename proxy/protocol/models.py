"""What a client's model name means to the CLI. Pure: the lists come from outside.

- Prefixes that routers put in front are dropped, and the tag `:latest`.
- A full version id (`claude-opus-4-7`, `claude-sonnet-4-20250514`, `claude-opus-5`) is passed on as it is.
- A family name anywhere in the name means the latest of the family (`claude-opus-4` → `opus`).
- Anything else (`gpt-4o`) means the latest Opus.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from msgspec import Struct

FAMILIES: Final = ("opus", "fable", "sonnet", "haiku")
FALLBACK: Final = "opus"
PREFIXES: Final = ("anthropic/", "claude-max/", "claude-code-cli/")
LATEST: Final = ":latest"
_FAMILY: Final = "|".join(FAMILIES)
_FULL: Final = re.compile(
    rf"claude-(?:(?:{_FAMILY})-\d{{1,2}}-\d{{1,2}}(?:-\d{{8}})?|(?:{_FAMILY})-\d{{1,2}}-\d{{8}}"
    rf"|(?:{_FAMILY})-(?:[5-9]|\d{{2}})"
    rf"|\d(?:-\d)?-(?:{_FAMILY})-(?:\d{{8}}|latest))(?:\[1m\])?",
    re.ASCII,
)


# Of a full version id: the family's generation, in the newer order of its parts and in the older.
_GENERATION: Final = re.compile(
    rf"claude-(?:(?:{_FAMILY})-(\d{{1,2}})(?:-(\d{{1,2}}))?|(\d)(?:-(\d))?-(?:{_FAMILY}))(?=-\d{{8}}|-latest|\[|$)"
)
# Before these generations models think within a number of tokens of their own, and none unless they are asked to.
_ADAPTIVE: Final = (4, 6)
_BY_THEMSELVES: Final = (5, 0)
# That number is at least this, and has to be less than `max_tokens`.
LEAST_BUDGET: Final = 1024


def bare(name: str) -> str:
    """The name without a router's prefix."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def untagged(name: str) -> str:
    """The name without the tag that some clients put behind names that have none."""
    return name.removesuffix(LATEST)


def claude_model(name: str, known: Collection[str] = ()) -> str | None:
    """What to ask the CLI for, or None when the name means no Claude model.

    `known`: names passed on as they are (the settings' own and those that the CLI lists).
    """
    name = bare(name.strip())
    if name in known:
        return name
    name = untagged(name)
    if name in known or _FULL.fullmatch(name):
        return name
    lower = name.lower()
    for family in FAMILIES:
        if family in lower:
            return f"{family}[1m]" if lower.endswith("[1m]") else family
    return None


def resolve(name: str, known: Collection[str] = ()) -> str:
    """As `claude_model`, with the latest Opus for every other name."""
    return claude_model(name, known) or FALLBACK


# Levels of effort, rising; the CLI has those from `low` on.
EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class Abilities(Struct, frozen=True):
    """What a model can do, as far as the CLI has said and its version tells. `efforts` empty: not known.

    `budget`: it thinks within `LEAST_BUDGET` tokens or more, for which `max_tokens` has to have room. `unasked`: in the
    Messages API it thinks without being asked to.
    """

    efforts: tuple[str, ...] = ()
    thinking_off: bool = False
    budget: bool = False
    unasked: bool = True


def abilities(version: str, efforts: tuple[str, ...] = (), *, thinking_off: bool = False) -> Abilities:
    """`version`: its full id, which tells more if it has one."""
    found = _GENERATION.match(version)
    if found is None:
        return Abilities(efforts, thinking_off)
    major, minor = found[1] or found[3], found[2] or found[4]
    generation = int(major), int(minor or 0)
    return Abilities(efforts, thinking_off, generation < _ADAPTIVE, generation >= _BY_THEMSELVES)


def effort_level(asked: str | None, abilities: Abilities) -> tuple[str | None, bool]:
    """The CLI's effort level, and whether there is thinking at all. What the model lacks becomes the next lower.

    `asked`: one of `EFFORTS`, or None for the CLI's own.
    """
    if asked is None:
        return None, True
    if asked == "none" and abilities.thinking_off:
        return None, False
    level = "low" if asked in ("none", "minimal") else asked
    if not abilities.efforts or level in abilities.efforts:
        return level, True
    lower = [one for one in EFFORTS[: EFFORTS.index(level)] if one in abilities.efforts]
    return (lower[-1] if lower else abilities.efforts[0]), True
