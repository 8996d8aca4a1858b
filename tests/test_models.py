"""proxy/protocol/models.py: what a client's model name means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol.models import FAMILIES, Abilities, abilities, bare, claude_model, resolve


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("opus", "opus"), ("sonnet", "sonnet"), ("haiku", "haiku"), ("fable", "fable"),
        ("claude-opus-4", "opus"), ("claude-sonnet-latest", "sonnet"), ("Claude Haiku", "haiku"),
        ("my-OPUS-alias", "opus"),
        ("opus[1m]", "opus[1m]"), ("claude-opus-4[1M]", "opus[1m]"),
        # A full version is asked for as it is.
        ("claude-opus-4-7", "claude-opus-4-7"), ("claude-sonnet-4-20250514", "claude-sonnet-4-20250514"),
        ("claude-opus-4-1-20250805", "claude-opus-4-1-20250805"), ("claude-opus-4-7[1m]", "claude-opus-4-7[1m]"),
        ("claude-3-5-haiku-20241022", "claude-3-5-haiku-20241022"), 
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-latest"),
        ("claude-3-opus-20240229", "claude-3-opus-20240229"), ("claude-fable-12-34", "claude-fable-12-34"),
        # Prefixes of routers go, once.
        ("anthropic/claude-opus-4-7", "claude-opus-4-7"), ("claude-max/haiku", "haiku"),
        ("claude-code-cli/sonnet", "sonnet"),
        (" opus ", "opus"),
        # And Ollama's tag.
        ("opus:latest", "opus"), ("claude-opus-4-7:latest", "claude-opus-4-7"), ("opus[1m]:latest", "opus[1m]"),
        ("anthropic/claude-3-opus-20240229:latest", "claude-3-opus-20240229"),
    ],
)  # fmt: skip
def test_names_of_claude(name: str, meaning: str) -> None:
    assert claude_model(name) == meaning
    assert resolve(name) == meaning


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-4.1-mini", "o3", "claude", "claude-4", "default", "", "llama/3"])
def test_other_names_mean_no_model_of_claude_but_are_served_by_the_latest_opus(name: str) -> None:
    assert claude_model(name) is None
    assert resolve(name) == "opus"


def test_a_known_name_may_have_a_tag_or_not() -> None:
    assert claude_model("zzz:latest", ["zzz"]) == "zzz"
    assert claude_model("zzz:latest", ["zzz:latest", "zzz"]) == "zzz:latest"


def test_known_names_are_passed_on_as_they_are() -> None:
    assert claude_model("claude-zzz-9", ["claude-zzz-9"]) == "claude-zzz-9"
    assert claude_model("anthropic/claude-zzz-9", ["claude-zzz-9"]) == "claude-zzz-9"
    assert resolve("my-opus", {"my-opus"}) == "my-opus"


@pytest.mark.parametrize(
    "name",
    [
        "claude-opus-4-7\n",
        "claude-opus-4-7\r\nx",
        "claude-opus-4-7;rm",
        "--claude-opus-4-7",
        "claude-opus-4-7/..",
        "claude-opus-٤-٧",
    ],
)
def test_what_only_looks_like_a_full_version_is_not_passed_on(name: str) -> None:
    assert resolve(name) in (*FAMILIES, "claude-opus-4-7")


@given(st.text(max_size=40))
def test_a_name_that_is_not_known_never_reaches_the_cli_as_it_is(name: str) -> None:
    asked = resolve(name)
    assert asked in FAMILIES or asked.removesuffix("[1m]") in FAMILIES or asked.startswith("claude-")
    assert asked.isascii()


@pytest.mark.parametrize(("name", "rest"), [("anthropic/x", "x"), ("x/anthropic/", "x/anthropic/"), ("x", "x")])
def test_bare(name: str, rest: str) -> None:
    assert bare(name) == rest


@pytest.mark.parametrize(
    ("version", "budget", "unasked"),
    [
        ("claude-haiku-4-5", True, False), ("claude-haiku-4-5-20251001", True, False),
        ("claude-sonnet-4-20250514", True, False), ("claude-3-7-sonnet-latest", True, False),
        ("claude-3-opus-20240229", True, False), ("claude-opus-4-6", False, False),
        ("claude-opus-4-8[1m]", False, False), ("claude-sonnet-5", False, True), ("claude-opus-5-5", False, True),
        ("claude-fable-10", False, True), ("haiku", False, True), ("claude-next", False, True), ("", False, True),
    ],
)  # fmt: skip
def test_how_a_model_thinks_is_told_by_its_generation(version: str, budget: bool, unasked: bool) -> None:
    assert abilities(version, ("low",)) == Abilities(("low",), False, budget, unasked)
