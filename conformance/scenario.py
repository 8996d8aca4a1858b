"""Scenarios: what is asked of the proxy, what must come back, and what must arrive at the Messages API."""

import json
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from conformance import apis
from conformance.apis import Api
from conformance.facts import differences

Mode = Literal["whole", "stream"]
REPEAT = "$repeat"


def _told(what: str) -> Meta:
    """A field of a file, as it is described to whoever writes one."""
    return Meta(description=what)


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What must hold of one answer. Values compare as in `conformance.facts`; what is not set is not compared."""

    status: Annotated[Any, _told("the HTTP status; 200 if it is not given")] = UNSET
    headers: Annotated[Any, _told("headers of the answer, in small letters")] = UNSET
    model: Annotated[Any, _told("the model that is said to have answered")] = UNSET
    content: Annotated[Any, _told("the text of the first choice")] = UNSET
    refusal: Annotated[Any, _told("the refusal of the first choice")] = UNSET
    reasoning: Annotated[Any, _told("the reasoning of the first choice")] = UNSET
    tool_calls: Annotated[Any, _told("the calls of the first choice: id, function (name, arguments as text)")] = UNSET
    citations: Annotated[Any, _told("what the first choice cites: text (the part of it), title, url")] = UNSET
    searches: Annotated[
        Any, _told("searches of the web in the first choice: query, and pages (addresses) or error")
    ] = UNSET
    finish_reason: Annotated[Any, _told("why the first choice ended, in the API's own word")] = UNSET
    choices: Annotated[Any, _told("all choices, each with the facts above")] = UNSET
    usage: Annotated[Any, _told("tokens, in the API's own fields")] = UNSET
    error: Annotated[Any, _told("the error, in the API's own fields; must be absent if it is not given")] = UNSET

    def told(self) -> dict[str, Any]:
        """The facts that are set."""
        return {
            name: value for name in self.__struct_fields__ if not isinstance(value := getattr(self, name), UnsetType)
        }


class Exchange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request and the facts of its answer."""

    body: Annotated[str, _told('the request as JSON; {"$repeat": ["x", 1000]} is a long text')]
    expect: Annotated[Facts, _told("what must hold of its answer")]
    streamed: Annotated[Facts, _told("what else, or instead, must hold when it is streamed")] = Facts()
    api: Annotated[str, _told("the API that it speaks; that of the scenario if it is not given")] = ""
    after: Annotated[int, _told("seconds to wait before it is sent, while it is recorded")] = 0

    @property
    def speaks(self) -> Api:
        """The API that this is a request of."""
        return apis.named(self.api)

    def request(self, mode: Mode) -> dict[str, Any]:
        """The body to send. A stream is asked for with its usage."""
        body: dict[str, Any] = _expanded(json.loads(self.body))
        return self.speaks.streamed(body) if mode == "stream" else body

    def differences(self, came: dict[str, Any], mode: Mode) -> list[str]:
        """What of the facts does not hold; a failed stream must not end as a good one does."""
        facts = self.expect.told() | (self.streamed.told() if mode == "stream" else {})
        facts = {"status": 200} | facts
        if "error" not in facts:
            facts["error"] = {"$absent": True}
        if mode == "stream" and facts["status"] == 200:
            facts["done"] = facts["error"] == {"$absent": True}
            if not facts["done"]:
                facts.setdefault("finish_reason", {"$null": True})
        return differences(facts, came)


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of fixtures/scenarios; `name` is its path there without the suffix."""

    name: str
    title: Annotated[str, _told("what it shows: a fact, and the only scenario that shows it")]
    origin: Annotated[str, _told("where the requirement comes from")]
    request: Annotated[list[Exchange], _told("what is asked, in order")]
    upstream: Annotated[
        list[dict[str, Any]], _told("what must reach the Messages API, in order: any field of its requests")
    ]
    api: Annotated[str, _told("the API that its requests speak: a module of conformance/apis")] = "chat"
    modes: Annotated[tuple[Mode, ...], _told("the forms in which it is asked")] = ("whole", "stream")
    settings: Annotated[dict[str, str], _told("variables of the proxy's environment, for a proxy of its own")] = {}
    needs: Annotated[
        list[str],
        _told(
            "launch arguments (`--tools`, `--model opus`) and names of environment variables of the CLI without which "
            "it would answer otherwise: a recording is played only to a proxy that launches it with them"
        ),
    ] = []
    ends: Annotated[
        str | list[str],
        _told(
            "the kind of the CLI's last line, or its beginning, with a `+` if any lines may follow, as the proxy ends "
            "the CLI while it writes; a list if there are several processes, in order"
        ),
    ] = "result"
    more: Annotated[bool, _told("the CLI may send requests beyond those in `upstream`, after the answer has ended")] = (
        False
    )
    killed: Annotated[str, _told("the kind of line after which the CLI is killed while it is recorded")] = ""
    cut: Annotated[
        bool, _told("the proxy kills the CLI once it has written the line of `ends`: what may follow is left out")
    ] = False
    pending: Annotated[str, _told("why there is no recording of it yet")] = ""

    @property
    def start(self) -> str:
        """The first text of its user, by which upstream and player know it."""
        return self.request[0].speaks.opening(self.request[0].request("whole"))

    def ending(self, process: int) -> str:
        """The kind of the last line of that process, counted from 0."""
        return self.ends if isinstance(self.ends, str) else self.ends[min(process, len(self.ends) - 1)]

    def arrived(self, bodies: list[dict[str, Any]]) -> list[str]:
        """What of the expectations does not hold for the simplified requests that reached the Messages API."""
        found = [
            f"request {number} to the Messages API: {line}"
            for number, (want, body) in enumerate(zip(self.upstream, bodies, strict=False), 1)
            for line in differences(want, body)
        ]
        if len(bodies) < len(self.upstream) or (len(bodies) > len(self.upstream) and not self.more):
            found.append(f"{len(bodies)} requests to the Messages API, expected {len(self.upstream)}")
        return found


def load(path: Path, root: Path) -> Scenario:
    """Reads a scenario. Raises ValueError, naming the file, for anything that is not one."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        name = path.relative_to(root).with_suffix("").as_posix()
        scenario = msgspec.convert(_expanded(table) | {"name": name}, Scenario)
        requests = [replace(each, api=each.api or scenario.api) for each in scenario.request]
        scenario = replace(scenario, request=requests)
        if not scenario.start:
            raise ValueError("the first user message has no text to know the conversation by")
    except (ValueError, KeyError, IndexError, TypeError) as fault:
        raise ValueError(f"{path}: {fault}") from fault
    return scenario


def every(root: Path, patterns: Iterable[str] = ()) -> list[Scenario]:
    """The scenarios below a folder whose name matches a pattern such as `errors/*` (all without one), by name."""
    wanted = tuple(patterns)
    return [
        load(path, root)
        for path in sorted(root.rglob("*.toml"))
        if not wanted or any(fnmatch(path.relative_to(root).with_suffix("").as_posix(), pattern) for pattern in wanted)
    ]


def _expanded(value: Any) -> Any:
    """Texts that are given as `{"$repeat": [text, times]}`, written out."""
    if isinstance(value, dict):
        if value.keys() == {REPEAT}:
            piece, times = value[REPEAT]
            return str(piece) * int(times)
        return {key: _expanded(inner) for key, inner in value.items()}
    return [_expanded(inner) for inner in value] if isinstance(value, list) else value
