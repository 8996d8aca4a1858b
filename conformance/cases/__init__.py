"""The cases: one module for each surface, one function for each case.

A case is an async function of a `Target` with the decorator `case`. Its docstring is the requirement, in one sentence.
It returns if the requirement is met, and raises `Unmet` if not, or `Skip`.
"""

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec

from conformance import replay
from conformance import scenario as scenarios
from conformance.scenario import Mode, Scenario
from conformance.target import SCENARIOS, Target, must

Run = Callable[[Target], Awaitable[None]]


class Case(msgspec.Struct, frozen=True):
    """One requirement.

    id           module and function: `streaming/done_is_last`
    requirement  one sentence
    source       where it comes from: a type of the `openai` package, a clause, a client's file
    shows        rows of COMPATIBILITY.md that it is evidence for: `request.stop`, `response.usage`, `endpoint.…`
    uses         scenarios whose requests it sends
    settings     variables of the environment of the server that it needs
    scripted     it needs the recorded answers, not a model's
    """

    id: str
    requirement: str
    source: str
    run: Run
    shows: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    settings: Mapping[str, str] = {}
    scripted: bool = False


_found: Final[dict[str, Case]] = {}
# What a scenario is evidence for by its name, beside the fields of its requests and the facts of its answers.
TOPICS: Final = {
    "counting/messages": "endpoint.POST /v1/messages/count_tokens",
    "counting/responses": "endpoint.POST /v1/responses/input_tokens",
    "responses/compacted": "endpoint.POST /v1/responses/compact",
    "messages/": "endpoint.POST /v1/messages",
    "verbatim/": "behaviour.verbatim text",
    "search/": "behaviour.web search",
    "media/": "behaviour.images and files",
    "tools/parallel": "behaviour.parallel calls",
    "tools/result": "behaviour.tool loop",
    "limits/plan_windows": "behaviour.the plan in sight",
    "limits/sampling_forwarded": "behaviour.sampling passed on",
}


def add(case: Case) -> None:
    """Raises ValueError for an id that is taken, or words that are missing."""
    if case.id in _found:
        raise ValueError(f"two cases are called {case.id}")
    if not case.requirement.endswith(".") or not case.source:
        raise ValueError(f"{case.id}: the requirement is a sentence, and has a source")
    _found[case.id] = case


def case(
    source: str,
    *,
    name: str = "",
    requirement: str = "",
    shows: Sequence[str] = (),
    uses: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    scripted: bool = False,
) -> Callable[[Run], Run]:
    """Makes a case of a function; `name` and `requirement` if they are not the function's own."""

    def take(run: Run) -> Run:
        module = run.__module__.rpartition(".")[2]
        words = requirement or " ".join((run.__doc__ or "").split())
        id = f"{module}/{name or run.__name__}"
        add(Case(id, words, source, run, tuple(shows), tuple(uses), settings or {}, scripted))
        return run

    return take


def every() -> list[Case]:
    """All cases by id: those of the modules here, and one for each scenario and mode."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    found = dict(_found)
    for scenario in scenarios.every(SCENARIOS):
        for mode in scenario.modes if _is_recorded(scenario) else ():
            one = _of_scenario(scenario, mode)
            found[one.id] = one
    return [found[id] for id in sorted(found)]


def _is_recorded(scenario: Scenario) -> bool:
    return (replay.TRANSCRIPTS / replay.NEWEST / f"{scenario.name}.jsonl").exists()


def _of_scenario(scenario: Scenario, mode: Mode) -> Case:
    """A scenario is a case: its facts hold."""

    async def run(target: Target) -> None:
        for number, exchange in enumerate(scenario.request, 1):
            came = await target.ask(target.body(scenario.name, number - 1, mode), exchange.api)
            must(*(f"request {number}: {line}" for line in exchange.differences(came, mode)))

    shows: list[str] = []
    for exchange in scenario.request:
        rows = exchange.speaks.SHOWS
        shows += [f"{exchange.speaks.REQUEST}.{field}" for field in exchange.request(mode)]
        shows += [rows[fact] for fact in exchange.expect.told() if fact in rows]
    shows += [row for start, row in TOPICS.items() if scenario.name.startswith(start)]
    return Case(
        f"scenario/{scenario.name}/{mode}",
        f"{scenario.title}.",
        scenario.origin,
        run,
        tuple(sorted(set(shows))),
        (scenario.name,),
        scenario.settings,
        scripted=True,
    )
