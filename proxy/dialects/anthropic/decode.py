"""A Messages request → the plan for the CLI, or a `Rejection` that names the field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from proxy.dialects import Rules, parameters
from proxy.dialects.anthropic import request as api
from proxy.dialects.anthropic import tools, web_search
from proxy.dialects.anthropic.blocks import NAMED
from proxy.dialects.anthropic.errors import THREAD
from proxy.dialects.anthropic.request import (
    IGNORED,
    IGNORED_OF_BLOCKS,
    IGNORED_OF_TOOLS,
    REFUSED,
    AnyBlock,
    Counted,
    MessagesRequest,
)
from proxy.dialects.anthropic.types import AnswerMessage
from proxy.dialects.marks import CacheControl, Marks
from proxy.dialects.parameters import NO_THINKING, Thinking
from proxy.dialects.undeclared import Undeclared
from proxy.protocol import media, plan
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import Failure, Kind, Rejection, bad_request
from proxy.protocol.history import History, PastCall
from proxy.protocol.media import MAX_IMAGES, PartBlock, images_in
from proxy.protocol.plan import AssistantBlock, Plan, Schema
from proxy.protocol.schema import answer_schema

_decoder: Final = msgspec.json.Decoder(MessagesRequest)
_counted_decoder: Final = msgspec.json.Decoder(Counted)
_undeclared: Final = Undeclared(MessagesRequest)
# Thinking of the past without a signature is not put in again.
UNSIGNED: Final = "messages.thinking"
B = TypeVar("B", bound=AnyBlock)
# What a message of the assistant has beside its content where a client sends all of an answer back.
ANSWERED: Final = frozenset(f"messages.{field}" for field in ("type", *AnswerMessage.__struct_fields__))
NO_FILES: Final = "There are no stored files here: send the file itself."
EMPTY_DOCUMENT: Final = "The document is empty."
# What the model is told in place of a reference to a tool, which the CLI does not pass on.
FOUND_TOOL: Final = "The tool `{}` has been loaded and can be called."
# A system message for one turn alone.
CLEARED: Final = "next_user_message"


class Decoded(Struct, frozen=True):
    """`model`: as the client named it. `shown`: it wants to see what the model thinks."""

    model: str
    shown: bool
    plan: Plan
    stream: bool
    stop: tuple[str, ...]
    ignored: tuple[str, ...]


def decode(body: bytes, rules: Rules, *, counting: bool = False) -> Decoded:
    """Raises Rejection. `counting`: the tokens are to be counted, not an answer made: `max_tokens` is not needed."""
    asked = decoded(_counted_decoder, body, "") if counting else decoded(_decoder, body, "")
    if not asked.model.strip():
        raise bad_request("`model` is required.", "model")
    if not asked.messages:
        raise bad_request("At least one message is required.", "messages")
    if asked.max_tokens is not None and asked.max_tokens < 1:
        raise bad_request("Must be at least 1.", "max_tokens")
    for name, neutral in REFUSED.items():
        value = getattr(asked, name)
        if value is not None and value not in neutral:
            raise bad_request("Not supported: Claude Code has no way to pass it on.", name)
    if asked.thread is not None and asked.thread.type != "create":
        raise Rejection(Failure(Kind.NOT_FOUND, "No thread is kept here: send the whole conversation.", THREAD))
    model = parameters.model_of(rules, asked.model)
    talk = _conversation(asked)
    system, messages = talk.history.finish()
    if not messages:
        raise bad_request("There is no message with content.", f"messages[{len(asked.messages) - 1}].content")
    use = tools.tool_use(asked, messages, talk.found)
    parameters.may_search(use, "tools", rules)
    thinking = _thinking(asked, talk.effort, rules, model)
    made = parameters.plan_of(
        rules,
        model,
        system,
        messages,
        use=use,
        max_tokens=asked.max_tokens,
        thinking=thinking,
        schema=_schema(asked),
        sampling=parameters.sampling(rules, asked.temperature, asked.top_p, asked.top_k),
    )
    caching, lost_marks = talk.marks.placed(messages, rules.cache_ttl)
    return Decoded(
        asked.model,
        rules.reasoning and (asked.thinking is None or asked.thinking.display != "omitted"),
        msgspec.structs.replace(made, caching=caching),
        bool(asked.stream),
        _stops(asked.stop_sequences),
        _ignored(body, asked, talk, rules, thinking.on, lost_marks),
    )


def _conversation(asked: Counted) -> _Talk:
    """System prompt and messages, put together as far as they go."""
    blocks = asked.system if isinstance(asked.system, list) else ()
    talk = _Talk()
    for marked in (asked.tools or (), blocks, (asked,)):
        talk.marks.at_ends([part.cache_control for part in marked])
    texts = [asked.system] if isinstance(asked.system, str) else [block.text for block in blocks]
    for text in texts:
        talk.history.instruct(text)
    talk.history.expect("messages", messages=len(asked.messages))
    users = [index for index, message in enumerate(asked.messages) if isinstance(message, api.UserMessage)]
    last = users[-1] if users else 0
    for index, message in enumerate(asked.messages):
        talk.take(message, f"messages[{index}]", answered=index < last)
    return talk


class _Talk:
    """A conversation while it is put together.

    `marks`: for the prompt cache. `effort`: what a message says of it last. `ignored`: fields of blocks without effect.
    `found`: names of deferred tools that results refer to.
    """

    def __init__(self) -> None:
        self.history = History()
        self.marks = Marks()
        self.effort: str | None = None
        self.ignored: list[str] = []
        self.found: set[str] = set()
        self._images = 0

    def take(self, message: api.AnyMessage, where: str, *, answered: bool) -> None:
        """`answered`: a message of the user's follows."""
        if isinstance(message, api.AssistantMessage):
            self.history.say(list(self._said(self._placed(message.content, where))))
        elif isinstance(message, api.UserMessage):
            self._heard(self._placed(message.content, where, heard=True))
        else:
            texts = [block.text for block, _ in self._placed(message.content or "", where)]
            if message.output_config is not None:
                self.effort = message.output_config.effort or self.effort
            if not (answered and message.clear_at == CLEARED):
                self.history.instruct("\n\n".join(texts))

    def _placed(
        self, content: str | Sequence[B], where: str, *, heard: bool = False
    ) -> list[tuple[B | api.TextBlock, str]]:
        """The blocks of a message, with the path of each. `heard`: it is the user's."""
        blocks: Sequence[B | api.TextBlock] = [api.TextBlock(text=content)] if isinstance(content, str) else content
        self.history.expect(where, parts=0 if isinstance(content, str) else len(blocks))
        for block in blocks:
            if not heard:
                self.marks.on(None, block.cache_control)
            self._note(block)
        return [(block, f"{where}.content[{index}]") for index, block in enumerate(blocks)]

    def _note(self, block: AnyBlock) -> None:
        """Remember what of the block has no effect."""
        for name, neutral in IGNORED_OF_BLOCKS.items():
            value = getattr(block, name, None)
            if value is not None and value not in neutral:
                self.ignored.append(f"messages.{name}")
        if (past := NAMED.get(type(block))) is not None:
            self.ignored.append(past)
        if isinstance(block, api.TextBlock) and web_search.cites_else(block.citations):
            self.ignored.append("messages.citations")

    def _said(self, placed: Sequence[tuple[api.AssistantBlock, str]]) -> Iterator[AssistantBlock | PastCall]:
        """What the assistant said, as it stands. Empty text is left out: the Messages API refuses it."""
        for block, place in placed:
            if isinstance(block, api.TextBlock):
                if block.text.strip():
                    yield plan.TextBlock(block.text)
            elif isinstance(block, api.ToolUseBlock):
                yield PastCall(block.id, block.name, _object(block.input, place))
            elif isinstance(block, api.ThinkingBlock):
                # Without its signature it is not genuine, and the API would refuse it.
                if block.signature:
                    yield plan.ThinkingBlock(block.thinking, block.signature)
                else:
                    self.ignored.append(UNSIGNED)
            elif isinstance(block, api.RedactedThinkingBlock):
                yield plan.RedactedThinkingBlock(block.data)
            elif isinstance(block, api.CompactionBlock) and block.content and block.content.strip():
                yield plan.TextBlock(block.content)
            # What a server did stands in the text; what it gave can be read by the model of that time alone.

    def _heard(self, placed: Sequence[tuple[api.UserBlock, str]]) -> None:
        said: list[PartBlock] = []
        for block, place in placed:
            if isinstance(block, api.ToolResultBlock):
                content = self._result(block, place)
                result = self.history.answer(block.tool_use_id, content, bool(block.is_error))
                if result is None:
                    message = "No `tool_use` block of the previous assistant message has this id."
                    raise bad_request(message, f"{place}.tool_use_id")
                self.marks.on(result, _mark(block))
            else:
                made = self._part(block, place)
                said += made
                self.marks.on(made[-1] if made else None, block.cache_control)
        self.history.ask(said)

    def _result(self, block: api.ToolResultBlock, place: str) -> tuple[PartBlock, ...]:
        if block.content is None or isinstance(block.content, str):
            return (plan.TextBlock(block.content),) if block.content and block.content.strip() else ()
        for index, part in enumerate(block.content):
            self._note(part)
            if block.is_error and not isinstance(part, api.TextBlock):
                # The CLI would drop it without a word.
                raise bad_request("A result that is an error can only have text.", f"{place}.content[{index}].type")
        parts = (self._part(part, f"{place}.content[{index}]") for index, part in enumerate(block.content))
        return tuple(one for part in parts for one in part)

    def _part(self, block: api.PartBlock | api.ToolReferenceBlock, place: str) -> list[PartBlock]:
        """The block as the model gets it; none for empty text."""
        found: PartBlock
        if isinstance(block, api.ToolReferenceBlock):
            self.found.add(block.tool_name)
            return [plan.TextBlock(FOUND_TOOL.format(block.tool_name))]
        if isinstance(block, api.TextBlock):
            return [plan.TextBlock(block.text)] if block.text.strip() else []
        if isinstance(block, api.SearchResultBlock):
            return [_search_result(block, place)]
        if isinstance(block, api.ImageBlock):
            found = _image(block.source, f"{place}.source")
        else:
            found = _document(block, place)
        self._images += images_in((found,))
        if self._images > MAX_IMAGES:
            raise bad_request(f"At most {MAX_IMAGES} images can be given.", place)
        return [found]


def _mark(result: api.ToolResultBlock) -> CacheControl | None:
    """The mark on a result, or within it."""
    inner = () if result.content is None or isinstance(result.content, str) else result.content
    return next((mark for mark in (result.cache_control, *(part.cache_control for part in inner)) if mark), None)


def _citing(citing: api.Citing | None) -> plan.Citing | None:
    return plan.Citing(True) if citing is not None and citing.enabled else None


def _search_result(block: api.SearchResultBlock, place: str) -> plan.SearchResultBlock:
    parts = tuple(plan.TextBlock(part.text) for part in block.content if part.text.strip())
    if not parts:
        raise bad_request("A search result needs text.", f"{place}.content")
    return plan.SearchResultBlock(block.source, block.title, parts, _citing(block.citations))


def _document(block: api.DocumentBlock, place: str) -> plan.DocumentBlock:
    made = _document_of(block.source, block.title or None, f"{place}.source")
    return msgspec.structs.replace(made, context=block.context or None, citations=_citing(block.citations))


def _document_of(source: api.AnyDocument, title: str | None, where: str) -> plan.DocumentBlock:
    if isinstance(source, api.Base64Document):
        return media.document(source.media_type or "", source.data, title, f"{where}.data")
    if isinstance(source, api.TextDocument):
        if not source.data.strip():
            raise bad_request(EMPTY_DOCUMENT, f"{where}.data")
        return plan.DocumentBlock(plan.TextSource(source.data), title)
    if isinstance(source, api.UrlDocument):
        if not media.is_url(source.url):
            raise bad_request("Must be an http or https URL.", f"{where}.url")
        return plan.DocumentBlock(plan.UrlSource(source.url), title)
    if isinstance(source, api.FileSource):
        raise bad_request(NO_FILES, f"{where}.file_id")
    return plan.DocumentBlock(plan.ContentSource(_content(source.content, f"{where}.content")), title)


def _content(
    content: str | Sequence[api.TextBlock | api.ImageBlock], where: str
) -> str | tuple[plan.TextBlock | plan.ImageBlock, ...]:
    """What a document of pieces holds, without blank texts."""
    if isinstance(content, str):
        found: str | tuple[plan.TextBlock | plan.ImageBlock, ...] = content if content.strip() else ""
    else:
        found = tuple(
            _image(part.source, f"{where}[{index}].source")
            if isinstance(part, api.ImageBlock)
            else plan.TextBlock(part.text)
            for index, part in enumerate(content)
            if isinstance(part, api.ImageBlock) or part.text.strip()
        )
    if not found:
        raise bad_request(EMPTY_DOCUMENT, where)
    return found


def _object(value: Raw, place: str) -> Raw:
    """The input of a call, as it was written; null and nothing at all are an empty one. Raises Rejection for others."""
    text = bytes(value).lstrip()
    if text in (b"", b"null"):
        return plan.EMPTY_OBJECT
    if text[:1] != b"{":
        raise bad_request("Must be an object.", f"{place}.input")
    return value


def _image(source: api.AnyImage, where: str) -> plan.ImageBlock:
    if isinstance(source, api.Base64Image):
        return media.image(source.media_type, source.data, f"{where}.data")
    if isinstance(source, api.UrlImage):
        return media.image_by_url(source.url, f"{where}.url")
    raise bad_request(NO_FILES, f"{where}.file_id")


def _thinking(asked: Counted, later: str | None, rules: Rules, model: str) -> Thinking:
    """`later`: the effort that a message asks for, which the last of them decides."""
    abilities = rules.abilities_of(model)
    can_be_off = rules.native or abilities.thinking_off
    if can_be_off and asked.thinking is not None and asked.thinking.type == "disabled":
        return NO_THINKING
    effort = None if asked.output_config is None else asked.output_config.effort
    level = parameters.thinking(later or effort, "output_config.effort", model, rules)
    unasked = asked.thinking is None and not abilities.unasked
    return Thinking(level.effort, on=False) if can_be_off and unasked else level


def _schema(asked: Counted) -> Schema | None:
    where, format = "output_format", asked.output_format
    if asked.output_config is not None and asked.output_config.format is not None:
        where, format = "output_config.format", asked.output_config.format
    return answer_schema(format.schema, f"{where}.schema") if isinstance(format, api.JsonSchema) else None


def _stops(stops: list[str] | None) -> tuple[str, ...]:
    for index, stop in enumerate(stops or ()):
        if not stop.strip():
            raise bad_request("A stop sequence must not be white space.", f"stop_sequences[{index}]")
    return parameters.stops_of(stops or (), "stop_sequences")


def _ignored(
    body: bytes, asked: Counted, talk: _Talk, rules: Rules, thinking: bool, lost_marks: tuple[str, ...]
) -> tuple[str, ...]:
    """What had no effect. Raises Rejection when the server is strict about it."""
    names = parameters.without_effect(asked, IGNORED, rules)
    if asked.thinking is not None:
        kind, display = asked.thinking.type, asked.thinking.display
        names += ["thinking.type"] if kind == "between_tools" or (kind == "disabled" and thinking) else []
        names += ["thinking.budget_tokens"] if asked.thinking.budget_tokens is not None else []
        names += ["thinking.display"] if display not in (None, "summarized", "omitted") else []
    if asked.output_config is not None and asked.output_config.task_budget is not None:
        names.append("output_config.task_budget")
    for tool in asked.tools or ():
        names += [f"tools.{name}" for name in parameters.without_effect(tool, IGNORED_OF_TOOLS, rules)]
    names += web_search.without_effect(asked.tools or ())
    names += tools.without_effect(asked.tools or ())
    names += [*talk.ignored, *lost_marks, *_undeclared(body)]
    return parameters.told(names, rules, (UNSIGNED, *NAMED.values(), *ANSWERED))
