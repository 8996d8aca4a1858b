"""A request in Ollama's API → the plan for the CLI, or a `Rejection` that names the field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from proxy.dialects import Rules, parameters
from proxy.dialects.ollama.request import (
    IGNORED,
    IGNORED_BY_GENERATE,
    IGNORED_OPTIONS,
    Asked,
    ChatRequest,
    GenerateRequest,
    InMessage,
    Options,
    Tool,
)
from proxy.dialects.ollama.request import PastCall as SentCall
from proxy.dialects.undeclared import Undeclared
from proxy.protocol import media, plan
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.history import History, PastCall, argument_object
from proxy.protocol.media import MAX_IMAGES, PartBlock
from proxy.protocol.plan import Plan, Schema, TextBlock
from proxy.protocol.schema import FREE, answer_schema
from proxy.protocol.tools import Offer

_chat_decoder: Final = msgspec.json.Decoder(ChatRequest)
_generate_decoder: Final = msgspec.json.Decoder(GenerateRequest)
_undeclared_of_chat: Final = Undeclared(ChatRequest, {"messages.tool_calls.type": ("function",)})
_undeclared_of_generate: Final = Undeclared(GenerateRequest)
# What clients send back of an answer, and what is not put in again; and what decides nothing, as nothing is loaded.
HARMLESS: Final = frozenset(("messages.thinking", "messages.tool_calls.function.index", "keep_alive"))
# A duration of nothing, as seconds or in Go's notation.
_NOTHING: Final = re.compile(r"[+-]?0*\.?0*(?:ns|us|µs|ms|s|m|h)?")
# Ollama's temperature may be higher than Claude's.
HOTTEST: Final = 2
NO_CALL: Final = "No call of the assistant message before it is the one that this result names."
# A result that no call waits for: clients that leave out the oldest messages may leave out its call.
LOST: Final = "<tool_result>\n{}\n</tool_result>"


class Decoded(Struct, frozen=True):
    """`model`: as the client named it. `plan` None: the model is only to be loaded, or unloaded if `unload`.

    `thinking`: the client is to see it.
    """

    model: str
    plan: Plan | None
    stream: bool = True
    stop: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    thinking: bool = True
    unload: bool = False


def decode_chat(body: bytes, rules: Rules) -> Decoded:
    """A chat request. Raises Rejection."""
    asked = decoded(_chat_decoder, body, "")
    if not asked.messages:
        return _load(asked)
    system, messages = _conversation(asked.messages)
    return _decoded(asked, rules, system, messages, _tools(asked.tools or ()), _undeclared_of_chat(body))


def decode_generate(body: bytes, rules: Rules) -> Decoded:
    """A prompt that is answered by itself. Raises Rejection."""
    asked = decoded(_generate_decoder, body, "")
    if asked.raw and (asked.system or asked.template or asked.context):
        raise bad_request("Raw mode does not support template, system, or context.", "raw")
    if asked.suffix:
        raise bad_request("No model of Claude supports insert.", "suffix")
    if asked.template and asked.template.strip():
        raise bad_request("Models of Claude have no prompt template that could be replaced.", "template")
    if asked.context:
        raise bad_request("Tokens of an earlier answer mean nothing here: send the messages to /api/chat.", "context")
    if not asked.prompt and not asked.images:
        return _load(asked)
    blocks = _blocks(asked.prompt, asked.images, "", 0)
    if not blocks:
        raise bad_request("The prompt has no visible text.", "prompt")
    history = History()
    history.instruct(asked.system or "")
    history.ask(blocks)
    system, messages = history.finish()
    return _decoded(asked, rules, system, messages, (), _undeclared_of_generate(body))


def _load(asked: Asked) -> Decoded:
    kept = asked.keep_alive
    unload = kept == 0 if not isinstance(kept, str) else bool(kept) and _NOTHING.fullmatch(kept) is not None
    # Written whole whatever `stream` says, as Ollama does.
    return Decoded(asked.model, None, stream=False, unload=unload)


def _decoded(
    asked: Asked,
    rules: Rules,
    system: str | None,
    messages: tuple[plan.Message, ...],
    tools: tuple[plan.Tool, ...],
    undeclared: Iterable[str],
) -> Decoded:
    model = parameters.model_of(rules, asked.model)
    options = asked.options or Options()
    limit, stops = options.num_predict, options.stop or ()
    made = parameters.plan_of(
        rules,
        model,
        system,
        messages,
        sampling=parameters.sampling(rules, options.temperature, options.top_p, options.top_k or None, hottest=HOTTEST),
        use=parameters.ToolUse(tools),
        thinking=parameters.thinking(_effort(asked), "think", model, rules),
        max_tokens=limit if limit is not None and limit > 0 else None,
        schema=_schema(asked),
    )
    return Decoded(
        asked.model,
        made,
        asked.stream is not False,
        parameters.stops_of([stops] if isinstance(stops, str) else stops, "options.stop"),
        _ignored(asked, options, rules, undeclared),
        thinking=rules.reasoning and _effort(asked) != "none",
    )


def _effort(asked: Asked) -> str | None:
    return asked.think if isinstance(asked.think, str) else "none" if asked.think is False else None


def _schema(asked: Asked) -> Schema | None:
    if not asked.format:
        # An empty schema asks for JSON of any kind.
        return FREE if asked.format == {} else None
    if asked.format == "json":
        return FREE
    return answer_schema(Raw(msgspec.json.encode(asked.format)), "format")


def _ignored(asked: Asked, options: Options, rules: Rules, undeclared: Iterable[str]) -> tuple[str, ...]:
    """What had no effect. Raises Rejection when the server is strict about it."""
    names = parameters.without_effect(options, IGNORED_OPTIONS, rules)
    names += parameters.without_effect(asked, IGNORED, rules)
    if isinstance(asked, GenerateRequest):
        names += parameters.without_effect(asked, IGNORED_BY_GENERATE, rules)
    names += [] if asked.keep_alive is None else ["keep_alive"]
    messages = asked.messages or () if isinstance(asked, ChatRequest) else ()
    names += ["messages.name"] if any(message.name and message.role != "tool" for message in messages) else []
    return parameters.told((*names, *undeclared), rules, HARMLESS)


def _tools(offered: Sequence[Tool]) -> tuple[plan.Tool, ...]:
    offer = Offer()
    for index, tool in enumerate(offered):
        function = tool.function
        schema = Raw() if function.parameters is None else Raw(msgspec.json.encode(function.parameters))
        offer.add(function.name, function.description, schema, f"tools[{index}].function")
    return tuple(offer.tools.values())


def _blocks(text: str | None, images: Sequence[str] | None, where: str, images_before: int) -> list[PartBlock]:
    """What a user shows and says, in that order, as Ollama puts it to its models."""
    found: list[PartBlock] = []
    for index, data in enumerate(images or ()):
        place = f"{where}.images[{index}]".removeprefix(".")
        if images_before + index >= MAX_IMAGES:
            raise bad_request(f"At most {MAX_IMAGES} images can be given.", place)
        found.append(media.sniffed_image(data, place))
    if text and text.strip():
        found.append(TextBlock(text))
    return found


def _conversation(messages: Sequence[InMessage]) -> tuple[str | None, tuple[plan.Message, ...]]:
    talk = _Talk()
    talk.history.expect("messages", messages=len(messages))
    for index, message in enumerate(messages):
        talk.take(message, index)
    system, turns = talk.history.finish()
    if not turns:
        raise bad_request("There is no message with content.", f"messages[{len(messages) - 1}].content")
    return system, turns


class _Talk:
    """A conversation while it is put together."""

    def __init__(self) -> None:
        self.history = History()
        self._images = 0
        # Calls of the assistant's last turn that have no result yet, and ids of those that have; whether it may go on.
        self._waiting: list[PastCall] = []
        self._done: set[str] = set()
        # Of all calls.
        self._ids: set[str] = set()
        self._speaking = False

    def take(self, message: InMessage, index: int) -> None:
        where = f"messages[{index}]"
        self.history.expect(where, parts=len(message.images or ()) + len(message.tool_calls or ()))
        if message.images and message.role in ("system", "assistant"):
            raise bad_request("Only messages of the user and results of tools can have images.", f"{where}.images")
        if message.role == "assistant":
            self._say(message, index)
            return
        self._speaking = False
        if message.role == "system":
            self.history.instruct(message.content or "")
            return
        blocks = _blocks(message.content, message.images, where, self._images)
        self._images += media.images_in(blocks)
        if message.role == "user":
            self.history.ask(blocks)
        elif message.tool_call_id in self._done:
            self.history.answer(message.tool_call_id or "", tuple(blocks))
        elif self._waiting:
            self.history.answer(self._answered(message, where).id, tuple(blocks))
        else:
            images = [block for block in blocks if not isinstance(block, TextBlock)]
            self.history.ask([*images, TextBlock(LOST.format(message.content or ""))])

    def _say(self, message: InMessage, index: int) -> None:
        calls = [_call(call, f"call_{index}_{number}") for number, call in enumerate(message.tool_calls or ())]
        said = [TextBlock(message.content)] if message.content and message.content.strip() else []
        if not self._speaking:
            self._waiting = []
            self._done = set()
        self._speaking = True
        self._waiting += calls
        self._ids.update(call.id for call in calls)
        self.history.say([*said, *calls])

    def _answered(self, message: InMessage, where: str) -> PastCall:
        """The call whose result this is: by id, by the tool's name, or the oldest one where nothing is said.

        Raises Rejection when several wait and it names none of them, or when it names one of an earlier turn.
        """
        found = next((call for call in self._waiting if call.id == message.tool_call_id), None)
        if message.tool_call_id not in self._ids:
            for name in filter(None, (message.tool_name, message.name)):
                found = found or next((call for call in self._waiting if call.name == name), None)
            if found is None and (len(self._waiting) == 1 or not (message.tool_name or message.tool_call_id)):
                found = next(iter(self._waiting), None)
        if found is None:
            raise bad_request(NO_CALL, f"{where}.{'tool_call_id' if message.tool_call_id else 'tool_name'}")
        self._waiting.remove(found)
        self._done.add(found.id)
        return found


def _call(call: SentCall, id: str) -> PastCall:
    given = call.function.arguments
    text = given if given is None or isinstance(given, str) else msgspec.json.encode(given).decode()
    return PastCall(call.id or id, call.function.name, argument_object(text))
