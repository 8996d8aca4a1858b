"""What several APIs have under one name or another, and what it comes to: so that it comes to the same everywhere.

`where` is always the path of the parameter in the request, which a `Rejection` names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from proxy.dialects import Rules, marks
from proxy.protocol import native
from proxy.protocol.failures import bad_request
from proxy.protocol.models import EFFORTS, LEAST_BUDGET, Abilities, effort_level
from proxy.protocol.plan import Message, Plan, Sampling, Schema, Search, Tool, ToolChoice, ToolUseBlock
from proxy.protocol.tools import MUST_CALL_ANY, MUST_CALL_ONE
from proxy.protocol.web_search import MUST_SEARCH

# Parameters without effect, each with the values that ask for what is done anyway.
Ignored = Mapping[str, Collection[Any]]


# Characters of a model's name: it is kept of each request, and comes back in each piece of some answers.
MAX_MODEL: Final = 256
# Names are told in a header, for which clients have little room; and what stands for those that are left out.
MAX_TOLD: Final = 2000
AND_OTHERS: Final = "others"

# All of them are looked for in every piece of an answer.
MAX_STOPS: Final = 64
MAX_STOP_CHARACTERS: Final = 4096

Mode = Literal["auto", "none", "required"]
MODES: Final[Mapping[str, Mode]] = {"auto": "auto", "none": "none", "required": "required"}


class ToolUse(Struct, frozen=True):
    """The tools that are offered, and how they may be used.

    `demand`: what the model is told when it must call and `choice` cannot say so; None when it may do as it likes.
    `search`: it may search the web, which counts as a call.
    """

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice | None = None
    demand: str | None = None
    search: Search | None = None


class Thinking(Struct, frozen=True):
    """`effort`: the CLI's level, None for its own. `on`: there is thinking at all."""

    effort: str | None = None
    on: bool = True


NO_THINKING: Final = Thinking(on=False)


def stops_of(stops: Iterable[str], where: str, most: int = MAX_STOPS) -> tuple[str, ...]:
    """Stop sequences, without empty ones. Raises Rejection for more than `most`, or too long ones."""
    found = tuple(stops)
    if len(found) > most:
        raise bad_request(f"At most {most} stop sequences can be given.", where)
    if sum(map(len, found)) > MAX_STOP_CHARACTERS:
        raise bad_request(f"Stop sequences can have {MAX_STOP_CHARACTERS} characters in all.", where)
    return tuple(filter(None, found))


def model_of(rules: Rules, name: str) -> str:
    """What the CLI is asked for when a client asks for `name`. Raises Rejection."""
    if len(name) > MAX_MODEL:
        raise bad_request(f"A model's name has at most {MAX_MODEL} characters.", "model")
    return rules.model_for(name)


def tool_use(
    tools: tuple[Tool, ...],
    mode: Mode,
    where: str,
    *,
    messages: Iterable[Message],
    single: bool = False,
    name: str | None = None,
    search: Search | None = None,
) -> ToolUse:
    """How the tools and `search` may be used. Raises Rejection when one must be called and there is none.

    `single`: one call at a time. `name`: of the one that must be called. The Messages API wants tools to be declared
    where the past (`messages`) has calls, so `none` forbids their use there instead of leaving them out.
    """
    if mode == "none":
        past_calls = any(isinstance(block, ToolUseBlock) for message in messages for block in message.content)
        return ToolUse(tools, ToolChoice("none")) if past_calls and tools else ToolUse()
    if mode == "auto":
        one = ToolChoice("auto", disable_parallel_tool_use=True) if single and tools else None
        return ToolUse(tools, one, search=search)
    if not tools and search is None:
        raise bad_request("There are no tools to call.", where)
    if name is None:
        return ToolUse(tools, ToolChoice("any", single), MUST_CALL_ANY if tools else MUST_SEARCH, search)
    return ToolUse(tools, ToolChoice("tool", single, name), MUST_CALL_ONE.format(name))


def may_search(use: ToolUse, where: str, rules: Rules) -> None:
    """Raises Rejection if the web is to be searched and the server does not."""
    if use.search is not None and not rules.web_search:
        raise bad_request("The server is set to search no web (CLAUDE_PROXY_WEB_SEARCH).", where)


def thinking(effort: str | None, where: str, model: str, rules: Rules) -> Thinking:
    """What an effort comes to for this model, as the CLI is asked for it. Raises Rejection for an unknown one."""
    if effort is not None and effort not in EFFORTS:
        raise bad_request(f"Must be one of {', '.join(EFFORTS)}.", where)
    if effort == "none" and rules.native:
        return NO_THINKING
    return Thinking(*effort_level(effort, rules.abilities_of(model)))


def sampling(
    rules: Rules, temperature: float | None, top_p: float | None, top_k: int | None = None, *, hottest: int = 1
) -> Sampling:
    """Checked always, passed on unless the settings say otherwise. `hottest`: the API's highest temperature, which
    stands for Claude's, 1. Raises Rejection."""
    for name, value, most in (("temperature", temperature, hottest), ("top_p", top_p, 1)):
        if value is not None and not 0 <= value <= most:
            raise bad_request(f"Must be between 0 and {most}.", name)
    if not rules.native:
        return Sampling()
    return Sampling(None if temperature is None else min(temperature, 1.0), top_p, top_k)


def without_effect(asked: object, ignored: Ignored, rules: Rules) -> list[str]:
    """The fields of `asked` that are given and have no effect, in their order."""
    idle = () if rules.native else native.SAMPLING
    found = [name for name in idle if getattr(asked, name, None) is not None]
    for name, neutral in ignored.items():
        value = getattr(asked, name)
        if value is not None and value not in neutral:
            found.append(name)
    return found


def told(names: Iterable[str], rules: Rules, harmless: Collection[str] = ()) -> tuple[str, ...]:
    """What had no effect, each once, as the client is told. Raises Rejection when the server is strict about it.

    `harmless`: without which an answer is the same, as it is without marks for the prompt cache: never refused.
    """
    found = dict.fromkeys(names)
    for name in found if rules.strict else ():
        if name not in harmless and name.partition(".")[0] != marks.NAME:
            raise bad_request(f"`{name}` has no effect here, and the server is set to refuse such.", name)
    kept: list[str] = []
    room = MAX_TOLD
    for name in found:
        room -= len(name) + len(", ")
        if room < 0:
            return (*kept, AND_OTHERS)
        kept.append(name)
    return tuple(kept)


def _no_room(max_tokens: int | None, abilities: Abilities) -> bool:
    return abilities.budget and max_tokens is not None and max_tokens <= LEAST_BUDGET


def plan_of(
    rules: Rules,
    model: str,
    system: str | None,
    messages: tuple[Message, ...],
    *,
    sampling: Sampling,
    use: ToolUse = ToolUse(),  # noqa: B008
    thinking: Thinking = Thinking(),  # noqa: B008
    max_tokens: int | None = None,
    schema: Schema | None = None,
) -> Plan:
    """The plan of a request. `model`: what the CLI is asked for; `schema`: the form of an answer in words. Where
    `max_tokens` has no room for the model's thinking there is none: the Messages API would refuse the request."""
    if use.demand is not None and use.search is None:
        # The answer is a call: there are no words that could have a form.
        schema = None
    abilities = rules.abilities_of(model)
    can_be_off = rules.native or abilities.thinking_off
    plan = Plan(
        model=model,
        system=system,
        messages=messages,
        tools=use.tools,
        tool_choice=use.choice,
        must_call=use.demand is not None,
        demand=use.demand,
        max_tokens=max_tokens,
        effort=thinking.effort,
        thinking=thinking.on and not (can_be_off and _no_room(max_tokens, abilities)),
        schema=schema,
        sampling=sampling,
        search=use.search,
    )
    if schema is not None or use.search is not None or not rules.native:
        # The answer's form is a tool, too: a call must not be forced while it is offered. Nor while the model may
        # search: it would have to search for ever.
        plan = native.without(plan, {native.TOOL_CHOICE})
    return plan
