"""An item of an answer while it is under way, and the item of a call at any time of it."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from proxy.dialects.openai.responses.builtin import call_item
from proxy.dialects.openai.responses.tools import CallForm
from proxy.dialects.openai.responses.types import CustomCallItem, FunctionCallItem, ItemStatus
from proxy.dialects.openai.responses.web_search import UrlCitation
from proxy.protocol.deltas import ToolCall
from proxy.protocol.tools import custom_input


class UnderWay:
    """An item under way. `index` None: the client is not shown it."""

    __slots__ = ("begun", "call", "cited", "form", "id", "index", "pieces", "redacted", "signature")

    def __init__(self, id: str, index: int | None, call: ToolCall | None = None, form: CallForm | None = None) -> None:
        self.id = id
        self.index = index
        self.call = call
        self.form = form
        self.pieces: list[str] = []
        self.signature: list[str] = []
        # What the text cites, and how much of it stood there when its last block began.
        self.cited: list[UrlCitation] = []
        self.begun = 0
        self.redacted: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def is_object(self) -> bool:
        """Its text is a whole JSON object."""
        try:
            return isinstance(msgspec.json.decode(self.text), dict)
        except (ValueError, RecursionError):
            return False


def item_of_call(open: UnderWay, arguments: str, status: ItemStatus) -> Any:
    """The item of a call with these arguments."""
    assert open.call is not None
    assert open.form is not None
    form, call_id = open.form, open.call.id
    namespace = UNSET if form.namespace is None else form.namespace
    if form.kind == "custom":
        text = custom_input(arguments) if arguments else ""
        return CustomCallItem(
            id=open.id, call_id=call_id, name=form.name, namespace=namespace, input=text, status=status
        )
    if form.kind != "function":
        item = call_item(form.kind, open.id, call_id, arguments, status)
        if item is not None:
            return item
    return FunctionCallItem(
        id=open.id, call_id=call_id, name=form.name, namespace=namespace, arguments=arguments, status=status
    )
