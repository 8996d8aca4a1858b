"""Clients of a soak: one conversation each, over one of the APIs, whose every answer is looked at.

A `Talk` keeps a conversation as clients of its API do; `Client` asks, dawdles, leaves, asks again, forks and edits.
"""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import httpx

from conformance.apis import chat, messages, ollama, responses
from conformance.events import named

# Seconds; short, so that some clients come back after their conversation has been given up.
PARKED_AGE = 2
ROUNDS = 2
RESULT = "result for {}"
NAME, DESCRIPTION = "look_up", "Look something up."
PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {"marker": {"type": "string"}}}
FUNCTION: Mapping[str, Any] = {"name": NAME, "description": DESCRIPTION, "parameters": PARAMETERS}


class Wrong(Exception):
    """Something was paired with what it does not belong to. The message says what."""


class Talk:
    """One conversation as a client of an API keeps it; this one is chat's. `facts`: an answer as the API reads it."""

    api: ClassVar[ModuleType] = chat
    tools: ClassVar[Sequence[Mapping[str, Any]]] = ({"type": "function", "function": FUNCTION},)

    def __init__(self, opening: str) -> None:
        self.history: list[dict[str, Any]] = [{"role": "user", "content": opening}]

    def body(self) -> dict[str, Any]:
        return {"model": "opus", "messages": self.history, "tools": list(self.tools)}

    def answered(self, facts: Mapping[str, Any], response: str | None) -> None:
        """The history gains an answer."""
        self.history.append({"role": "assistant", "content": facts["content"], "tool_calls": facts["tool_calls"]})

    def results(self, calls: Sequence[Mapping[str, Any]]) -> None:
        """The history gains the results of all calls of the last answer."""
        self.history += [
            {"role": "tool", "tool_call_id": self.identifier(call), "content": RESULT.format(self.identifier(call))}
            for call in calls
        ]

    def edit(self, opening: str) -> None:
        """The first message becomes another one."""
        self.history[0] = self.history[0] | {"content": opening}

    @staticmethod
    def identifier(call: Mapping[str, Any]) -> str:
        return str(call["id"])

    @staticmethod
    def arguments(call: Mapping[str, Any]) -> Any:
        return json.loads(call["function"]["arguments"])


class Messages(Talk):
    api: ClassVar[ModuleType] = messages
    tools: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"name": NAME, "description": DESCRIPTION, "input_schema": PARAMETERS},
    )

    def body(self) -> dict[str, Any]:
        return super().body() | {"max_tokens": 32000}

    def answered(self, facts: Mapping[str, Any], response: str | None) -> None:
        text = [{"type": "text", "text": facts["content"]}] if facts["content"] else []
        calls = [
            {"type": "tool_use", "id": call["id"], "name": NAME, "input": self.arguments(call)}
            for call in facts["tool_calls"]
        ]
        self.history.append({"role": "assistant", "content": text + calls})

    def results(self, calls: Sequence[Mapping[str, Any]]) -> None:
        content = [
            {"type": "tool_result", "tool_use_id": call["id"], "content": RESULT.format(call["id"])} for call in calls
        ]
        self.history.append({"role": "user", "content": content})


class Responses(Talk):
    """It hands its whole history back with each request, and has nothing stored."""

    api: ClassVar[ModuleType] = responses
    tools: ClassVar[Sequence[Mapping[str, Any]]] = ({"type": "function", **FUNCTION},)

    def body(self) -> dict[str, Any]:
        return {"model": "opus", "input": self.history, "tools": list(self.tools), "store": False}

    def answered(self, facts: Mapping[str, Any], response: str | None) -> None:
        self.history += facts["tool_calls"]
        if facts["content"]:
            self.history.append({"role": "assistant", "content": facts["content"]})

    def results(self, calls: Sequence[Mapping[str, Any]]) -> None:
        self.history += [
            {"type": "function_call_output", "call_id": call["call_id"], "output": RESULT.format(call["call_id"])}
            for call in calls
        ]

    @staticmethod
    def identifier(call: Mapping[str, Any]) -> str:
        return str(call["call_id"])

    @staticmethod
    def arguments(call: Mapping[str, Any]) -> Any:
        return json.loads(call["arguments"])


class Stored(Responses):
    """It goes on from the response before, which the server has stored."""

    def __init__(self, opening: str) -> None:
        super().__init__(opening)
        self._previous: str | None = None

    def body(self) -> dict[str, Any]:
        return super().body() | {"store": True, "previous_response_id": self._previous}

    def answered(self, facts: Mapping[str, Any], response: str | None) -> None:
        self.history, self._previous = [], response

    def edit(self, opening: str) -> None:
        """It begins anew, as nothing that is stored changes."""
        self.history, self._previous = [{"role": "user", "content": opening}], None


class Ollama(Talk):
    """Its calls have arguments as values, and ids that its newer clients hand back."""

    api: ClassVar[ModuleType] = ollama

    def answered(self, facts: Mapping[str, Any], response: str | None) -> None:
        calls = [
            {"id": call["id"], "function": {"name": NAME, "arguments": self.arguments(call)}}
            for call in facts["tool_calls"]
        ]
        self.history.append({"role": "assistant", "content": facts["content"], "tool_calls": calls})


TALKS: Mapping[str, type[Talk]] = {
    "chat": Talk, "messages": Messages, "responses": Responses, "stored": Stored, "ollama": Ollama,
}  # fmt: skip


class Client:
    """One conversation from the client's side; `run` says how it ended. `asked`: requests that had their answer."""

    def __init__(self, http: httpx.AsyncClient, url: str, form: str, marker: str, luck: random.Random) -> None:
        self._http = http
        self._marker = marker
        self._luck = luck
        self._talk = TALKS[form](f"soak {marker}")
        self._url = url + self._talk.api.PATH
        self.served: list[str] = []

    async def run(self) -> str:
        """Raises `Wrong` for an answer that is not this conversation's."""
        edits = 0
        for _ in range(2 * ROUNDS + 1):
            if self._luck.random() < 0.06:
                await self._leave()
                return "left in mid-answer"
            facts, response = await self._ask()
            chance = self._luck.random()
            if chance < 0.06:
                facts, response = await self._ask()
            elif chance < 0.12:
                facts, response = (await asyncio.gather(self._ask(), self._ask(), self._ask()))[0]
            self._talk.answered(facts, response)
            calls = list(facts["tool_calls"])
            if not calls:
                if facts["content"] != f"all is known of {self._marker}":
                    raise Wrong(f"client {self._marker} was told {facts['content']!r}")
                return "complete"
            if self._luck.random() < 0.06:
                return "never came back"
            for call in calls:
                identifier = self._talk.identifier(call)
                if self._talk.arguments(call) != {"marker": self._marker} or f"_{self._marker}_" not in identifier:
                    raise Wrong(f"client {self._marker} got the call {call}")
            self._luck.shuffle(calls)
            self._talk.results(calls)
            if not edits and self._luck.random() < 0.08:
                edits += 1
                self._talk.edit(f"soak again {self._marker}")
            await asyncio.sleep(self._luck.choice((0, 0, 0.05, 0.3, PARKED_AGE + 6)))
        raise Wrong(f"client {self._marker} was never given words")

    async def _ask(self) -> tuple[Mapping[str, Any], str | None]:
        """The answer's facts, and its id where the API stores it."""
        api, stream = self._talk.api, self._luck.random() < 0.5
        body = api.streamed(self._talk.body()) if stream else self._talk.body() | {"stream": False}
        response = await self._http.post(self._url, json=body, headers=api.headers(None))
        if response.status_code != 200:
            raise Wrong(f"client {self._marker}: {response.status_code} {response.text[:300]}")
        self.served.append(response.headers["x-claude-proxy-served"])
        facts = api.read_stream(response.text) if stream else api.read(response.json())
        if "error" in facts or not facts.get("done", True):
            raise Wrong(f"client {self._marker}: the answer ended with {response.text[-300:]}")
        if api is not responses:
            return facts, None
        whole = named(response.text)[-1][1]["response"] if stream else response.json()
        return facts, whole["id"]

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(self._luck.choice((0.01, 0.05, 0.15))):
                body = self._talk.api.streamed(self._talk.body())
                await self._http.post(self._url, json=body, headers=self._talk.api.headers(None))
        except TimeoutError:
            return
