"""`input` of a request: items → system prompt and messages.

Shapes: `openai.types.responses.response_input_item_param` of the package `openai`. Ids and statuses are optional
everywhere. All items of the assistant's between two of the user's are one turn of its, in any order. What has no
meaning here is left out, and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from proxy.dialects import Lookup
from proxy.dialects.openai.responses import content
from proxy.dialects.openai.responses.reasoning import Seal, Summary
from proxy.dialects.openai.responses.tools import flat_name
from proxy.dialects.undeclared import Undeclared, named, word
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.history import History, PastCall, argument_object
from proxy.protocol.media import PartBlock, images_in
from proxy.protocol.plan import TextBlock
from proxy.protocol.tools import CUSTOM_ARGUMENT

COMPACTED: Final = "<summary_of_the_conversation_so_far>\n{}\n</summary_of_the_conversation_so_far>"

NOT_COMPACTED: Final = "Conversations are compacted by `POST /v1/responses/compact` here."
# What a tool tells without having been called, as Codex sends its user's goal: the Messages API has results of calls
# alone.
UNASKED: Final = ('<tool_output name="{}">', "</tool_output>")


class _Item(Struct, frozen=True):
    """Any item; which fields count depends on `type`. `summary`: what `encrypted_content` holds, to be read."""

    type: str | None = None
    role: str | None = None
    content: Raw = Raw()
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: Raw = Raw()
    action: Raw = Raw()
    operation: Raw = Raw()
    status: str | None = None
    encrypted_content: str | None = None
    summary: Any = None
    tools: list[Raw] | None = None


class _Effort(Struct, frozen=True):
    effort: str | None = None


class _Form(Struct, frozen=True):
    format: Raw = Raw()


class _Update(Struct, frozen=True):
    """What a `configuration_update` can hold: it counts until another one does."""

    type: str
    id: str | None = None
    reasoning: _Effort | None = None
    text: _Form | None = None


class _Outcome(Struct, frozen=True):
    type: str = "exit"
    exit_code: int | None = None


class _ShellOutput(Struct, frozen=True):
    stdout: str = ""
    stderr: str = ""
    outcome: _Outcome = _Outcome()


_item_decoder: Final = msgspec.json.Decoder(_Item)
_update_decoder: Final = msgspec.json.Decoder(_Update)
_content_decoder: Final = msgspec.json.Decoder(str | list[Raw] | None)
_object_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_shell_output_decoder: Final = msgspec.json.Decoder(list[_ShellOutput])
_undeclared: Final = Undeclared(_Item)
_undeclared_update: Final = Undeclared(_Update)
_undeclared_output: Final = Undeclared(list[_ShellOutput])
# Where a conversation goes on from.
_KEPT: Final = ("previous_response_id", "conversation")


class Talk:
    """A conversation while it is put together, item by item.

    `tools`: those that came among the items, with their paths. `effort`, `format` (of answers): the last that items
    have set, with its path. Items without effect: `ignored` of what is sent, `past` of what has been answered or stored
    here before, which nobody asks for again. `all`: the items that it consists of, references replaced by what they
    stand for; `sent`: those of them taken last.
    """

    def __init__(self, instructions: str | None, lookup: Lookup, seal: Seal) -> None:
        self.history = History("input")
        self.tools: list[tuple[str, Raw]] = []
        self.effort: tuple[str, str] | None = None
        self.format: tuple[Raw, str] | None = None
        self.ignored: list[str] = []
        self.past: list[str] = []
        self.all: list[Raw] = []
        self.sent: list[Raw] = []
        self.seal = seal
        self._lookup = lookup
        self._images = 0
        # By the ids of call items: those of their calls. The output of a local shell may name the former alone.
        self._call_ids: dict[str, str] = {}
        # The ids of its reasoning items.
        self._reasoned: set[str] = set()
        if instructions is not None:
            self.history.instruct(instructions)

    def take_all(self, raws: Sequence[Raw], where: str, *, stored: bool = False) -> None:
        """Add these items. Raises Rejection."""
        self.history.expect(where, messages=len(raws))
        before, ignored = len(self.all), len(self.ignored)
        for index, raw in enumerate(raws):
            self.take(raw, f"{where}[{index}]")
        self.sent = self.all[before:]
        if stored:
            self.past += self.ignored[ignored:]
            del self.ignored[ignored:]

    def take(self, raw: Raw, where: str) -> None:
        """Add one item. Raises Rejection."""
        item = decoded(_item_decoder, raw, where)
        kind = item.type or ("message" if item.role is not None else "")
        if kind == "item_reference" or (not kind and item.id is not None):
            self._reference(item, where)
            return
        if kind == "reasoning" and item.id is not None:
            if item.id in self._reasoned:
                # Some clients refer to it once more for the text behind it; thinking stands in its turn once.
                self.past.append("input.reasoning")
                return
            self._reasoned.add(item.id)
        self.all.append(raw)
        if kind in _KINDS:
            self._note(_undeclared(raw, named(where)), where)
        if kind == "message":
            self._message(item, where)
        elif kind == "reasoning":
            self._reasoning(item, where)
        elif kind == "compaction":
            self._compaction(item, where)
        elif kind == "additional_tools":
            self.tools += ((f"{where}.tools[{index}]", raw) for index, raw in enumerate(item.tools or ()))
        elif kind in _CALLS:
            self._call(item, kind, where)
        elif kind in _OUTPUTS:
            self._result(item, kind, where)
        elif kind == "configuration_update":
            self._update(raw, where)
        elif kind == "compaction_trigger":
            raise bad_request(NOT_COMPACTED, f"{where}.type")
        elif not kind:
            raise bad_request("An item needs a type.", f"{where}.type")
        elif kind == "web_search_call":
            # What it has found is not kept.
            self.past.append("input.web_search_call")
        else:
            self.ignored.append(f"input.{word(kind)}")

    def _blocks(self, raw: Raw, where: str, *, text_only: bool = False) -> list[PartBlock]:
        given = decoded(_content_decoder, raw, where) if bytes(raw) else None
        self.history.expect(where, parts=0 if isinstance(given, str) else len(given or ()))
        ignored: list[str] = []
        blocks = content.blocks(given, where, ignored=ignored, text_only=text_only, images_before=self._images)
        self._note(ignored, where)
        self._images += images_in(blocks)
        return blocks

    def _note(self, ignored: Iterable[str], where: str) -> None:
        """Remember what had no effect. What is kept of earlier requests has been named in their answers."""
        if not where.startswith(_KEPT):
            self.ignored += ignored

    def _message(self, item: _Item, where: str) -> None:
        where_content = f"{where}.content"
        if item.role == "user":
            self.history.ask(self._blocks(item.content, where_content))
        elif item.role in ("system", "developer"):
            blocks = self._blocks(item.content, where_content, text_only=True)
            self.history.instruct("\n\n".join(block.text for block in blocks if isinstance(block, TextBlock)))
        elif item.role == "assistant":
            blocks = self._blocks(item.content, where_content, text_only=True)
            self.history.say([block for block in blocks if isinstance(block, TextBlock)])
        else:
            raise bad_request(f"Unknown role {item.role!r}.", f"{where}.role")

    def _reference(self, item: _Item, where: str) -> None:
        place = f"{where}.id"
        if item.id is None:
            raise bad_request("A reference needs the id of an item.", place)
        found = self._lookup.item(item.id)
        if found is None:
            raise bad_request(
                f"No item {item.id[:80]!r} is stored here. Set `store: false`, so that the client sends items whole.",
                place,
            )
        self.take(found, where)

    def _reasoning(self, item: _Item, where: str) -> None:
        if not item.encrypted_content:
            # Only signed thinking can be put in again.
            self.past.append("input.reasoning")
            return
        place = f"{where}.encrypted_content"
        sealed = self.seal.open(item.encrypted_content, place)
        if isinstance(sealed.block, Summary):
            raise bad_request("This is not the content of a reasoning item.", place)
        self.history.say([sealed.block], sealed.model)

    def _compaction(self, item: _Item, where: str) -> None:
        place = f"{where}.encrypted_content"
        sealed = self.seal.open(item.encrypted_content or "", place)
        if not isinstance(sealed.block, Summary):
            raise bad_request("This is not the content of a compaction item.", place)
        self.history.ask([TextBlock(COMPACTED.format(sealed.block.text))])

    def _update(self, raw: Raw, where: str) -> None:
        update = decoded(_update_decoder, raw, where)
        self._note(_undeclared_update(raw, named(where)), where)
        if update.reasoning is not None and update.reasoning.effort is not None:
            self.effort = update.reasoning.effort, f"{where}.reasoning.effort"
        if update.text is not None and bytes(update.text.format) not in (b"", b"null"):
            self.format = update.text.format, f"{where}.text.format"

    def _call(self, item: _Item, kind: str, where: str) -> None:
        call_id = item.call_id or item.id
        if not call_id:
            raise bad_request("A call needs `call_id`.", f"{where}.call_id")
        if item.id:
            self._call_ids[item.id] = call_id
        builtin = _CALLS[kind]
        name = builtin or item.name
        if not name:
            raise bad_request("A call needs the name of its tool.", f"{where}.name")
        if kind == "function_call":
            arguments = argument_object(item.arguments)
        elif kind == "custom_tool_call":
            arguments = Raw(msgspec.json.encode({CUSTOM_ARGUMENT: item.input or ""}))
        else:
            field = "operation" if kind == "apply_patch_call" else "action"
            given = item.operation if kind == "apply_patch_call" else item.action
            if not bytes(given):
                raise bad_request(f"The call needs `{field}`.", f"{where}.{field}")
            arguments = _arguments(decoded(_object_decoder, given, f"{where}.{field}"), kind)
        self.history.say([PastCall(call_id, flat_name(name, item.namespace), arguments)])

    def _result(self, item: _Item, kind: str, where: str) -> None:
        if not item.call_id and item.name:
            self._unasked(item, f"{where}.output")
            return
        call_id = item.call_id or self._call_ids.get(item.id or "", item.id)
        place = f"{where}.call_id"
        if not call_id:
            raise bad_request("An output needs the `call_id` of its call.", place)
        blocks = tuple(self._output(item, kind, f"{where}.output"))
        failed = kind == "apply_patch_call_output" and item.status == "failed"
        if not self.history.answer(call_id, blocks, failed):
            raise bad_request(f"No tool call found for the output with call_id {call_id[:80]!r}.", place)

    def _unasked(self, item: _Item, where: str) -> None:
        """The output of a tool that the model has not called: the user's turn holds it at this place."""
        blocks = self._blocks(item.output, where)
        if not blocks:
            return
        before, after = UNASKED[0].format(flat_name(item.name or "", item.namespace)), UNASKED[1]
        if len(blocks) == 1 and isinstance(blocks[0], TextBlock):
            self.history.ask([TextBlock(f"{before}\n{blocks[0].text}\n{after}")])
        else:
            self.history.ask([TextBlock(before), *blocks, TextBlock(after)])

    def _output(self, item: _Item, kind: str, where: str) -> Iterator[PartBlock]:
        if kind != "shell_call_output":
            yield from self._blocks(item.output, where)
            return
        self._note(_undeclared_output(item.output, named(where)), where)
        for output in decoded(_shell_output_decoder, item.output, where):
            outcome = output.outcome
            ended = "timed out" if outcome.type == "timeout" else f"exit code {outcome.exit_code}"
            yield TextBlock("\n".join(filter(None, (output.stdout, output.stderr, f"[{ended}]"))))


# The kinds of calls; what the tool is called where the item does not say it.
_CALLS: Final[dict[str, str | None]] = {
    "function_call": None,
    "custom_tool_call": None,
    "local_shell_call": "local_shell",
    "shell_call": "shell",
    "apply_patch_call": "apply_patch",
}
_OUTPUTS: Final = frozenset(f"{kind}_output" for kind in _CALLS)
# Those of which fields are looked at; others are named as a whole.
_KINDS: Final = frozenset(("message", "reasoning", "compaction", "additional_tools", *_CALLS, *_OUTPUTS))


def _arguments(given: dict[str, Any], kind: str) -> Raw:
    """The arguments that the model gave, from what became of them."""
    arguments = {name: value for name, value in given.items() if value is not None}
    if kind == "local_shell_call":
        arguments.pop("type", None)
        if not arguments.get("env"):
            arguments.pop("env", None)
    return Raw(msgspec.json.encode(arguments))
