"""Scenarios: what is asked of the proxy, what must come back, and what must arrive at the Messages API."""

import json
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from conformance.facts import differences
from conformance.upstream import opening

Mode = Literal["whole", "stream"]
REPEAT = "$repeat"


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What must hold of one answer. Values compare as in `conformance.facts`; what is not set is not compared.

    `content`, `refusal`, `reasoning`, `tool_calls` and `finish_reason` are those of the first choice.
    """

    status: Any = UNSET
    headers: Any = UNSET
    model: Any = UNSET
    content: Any = UNSET
    refusal: Any = UNSET
    reasoning: Any = UNSET
    tool_calls: Any = UNSET
    finish_reason: Any = UNSET
    choices: Any = UNSET
    usage: Any = UNSET
    error: Any = UNSET

    def told(self) -> dict[str, Any]:
        """The facts that are set."""
        return {
            name: value for name in self.__struct_fields__ if not isinstance(value := getattr(self, name), UnsetType)
        }


class Exchange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One chat request, as JSON, and the facts of its answer. `streamed` adds to or replaces facts for a stream."""

    body: str
    expect: Facts
    streamed: Facts = Facts()

    def request(self, mode: Mode) -> dict[str, Any]:
        """The body to send. A stream is asked for with its usage."""
        body: dict[str, Any] = _expanded(json.loads(self.body))
        if mode == "stream":
            return {"stream_options": {"include_usage": True}} | body | {"stream": True}
        return body

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
    """One file of fixtures/scenarios; `name` is its path there without the suffix.

    title     what it shows: a fact, and the only scenario that shows it
    origin    where the requirement comes from
    modes     the forms in which it is asked
    settings  variables of the proxy's environment, for a proxy of its own
    needs     launch arguments (`--tools`, `--model opus`) and names of environment variables of the CLI without which
              it would answer otherwise; a recording is played only to a proxy that launches it with them
    more      the CLI may send requests beyond those in `upstream`, after the answer has ended
    killed    the kind of line after which the CLI is killed while it is recorded
    pending   why there is no recording of it yet
    """

    name: str
    title: str
    origin: str
    request: list[Exchange]
    upstream: list[dict[str, Any]]
    modes: tuple[Mode, ...] = ("whole", "stream")
    settings: dict[str, str] = {}
    needs: list[str] = []
    more: bool = False
    killed: str = ""
    pending: str = ""

    @property
    def start(self) -> str:
        """The first text of its user, by which upstream and player know it."""
        return opening(self.request[0].request("whole"))

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
