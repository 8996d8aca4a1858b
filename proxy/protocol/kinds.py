"""What a line of the CLI is to the state machine: its kind, and the part of it that an action reads."""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

from proxy.protocol.lines import (
    Assistant,
    BlockPiece,
    BlockStart,
    BlockStop,
    ControlRequest,
    ControlResponse,
    Garbage,
    Line,
    Malformed,
    MessageDelta,
    MessageStart,
    MessageStop,
    RateLimit,
    Result,
    StreamEvent,
    System,
    Unknown,
    User,
)

# The model's name in messages that the CLI writes itself.
SYNTHETIC: Final = "<synthetic>"

P = TypeVar("P")


class Kind(Generic[P]):
    """A kind of line; `P` is the type of what an action gets of it. Compared by identity."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name
        KINDS.append(self)

    def __repr__(self) -> str:
        return self.name


KINDS: Final[list[Kind[Any]]] = []
MESSAGE_START: Final = Kind[MessageStart]("message_start")
BLOCK_START: Final = Kind[BlockStart]("content_block_start")
BLOCK_PIECE: Final = Kind[BlockPiece]("content_block_delta")
BLOCK_STOP: Final = Kind[BlockStop]("content_block_stop")
MESSAGE_PROGRESS: Final = Kind[MessageDelta]("message_delta without stop_reason")
MESSAGE_END: Final = Kind[MessageDelta]("message_delta with stop_reason")
MESSAGE_STOP: Final = Kind[MessageStop]("message_stop")
SNAPSHOT: Final = Kind[Assistant]("assistant of a model")
CLI_MESSAGE: Final = Kind[Assistant]("assistant of the CLI itself")
RETRY: Final = Kind[System]("system/api_retry")
LIMITS: Final = Kind[RateLimit]("rate_limit_event")
RESULT: Final = Kind[Result]("result")
ERROR_RESULT: Final = Kind[Result]("result with is_error")
TOOL_RESULT: Final = Kind[User]("user with the result of a tool")
HISTORY_ACKNOWLEDGED: Final = Kind[Result]("result of a past message")
INIT: Final = Kind[System]("system/init")
CONTROL_REQUEST: Final = Kind[ControlRequest]("control_request")
CONTROL_RESPONSE: Final = Kind[ControlResponse]("control_response")
OTHER: Final = Kind[Line]("anything else")
MALFORMED: Final = Kind[Malformed]("malformed line")

Classified = tuple[Kind[Any], Any]

_EVENTS: Final[dict[type, Kind[Any]]] = {
    MessageStart: MESSAGE_START,
    BlockStart: BLOCK_START,
    BlockPiece: BLOCK_PIECE,
    BlockStop: BLOCK_STOP,
    MessageStop: MESSAGE_STOP,
}
_LINES: Final[dict[type, Kind[Any]]] = {
    RateLimit: LIMITS,
    ControlRequest: CONTROL_REQUEST,
    ControlResponse: CONTROL_RESPONSE,
    Unknown: OTHER,
    Garbage: OTHER,
    Malformed: MALFORMED,
}

_SYSTEM: Final[dict[str, Kind[Any]]] = {"api_retry": RETRY, "init": INIT}


def classify(line: Line) -> Classified:
    """The line's kind, and what an action for that kind gets; total over `Line`."""
    if isinstance(line, StreamEvent):
        event = line.event
        if line.parent_tool_use_id is not None:
            return OTHER, line
        if isinstance(event, MessageDelta):
            return MESSAGE_PROGRESS if event.delta.stop_reason is None else MESSAGE_END, event
        return _EVENTS[type(event)], event
    if isinstance(line, Assistant):
        if line.parent_tool_use_id is not None:
            return OTHER, line
        return CLI_MESSAGE if line.message.model == SYNTHETIC else SNAPSHOT, line
    if isinstance(line, User):
        ran = line.parent_tool_use_id is None and bytes(line.tool_use_result)
        return TOOL_RESULT if ran else OTHER, line
    if isinstance(line, System):
        return _SYSTEM.get(line.subtype, OTHER), line
    if isinstance(line, Result):
        if line.is_error or line.subtype != "success":
            return ERROR_RESULT, line
        return RESULT if line.num_turns else HISTORY_ACKNOWLEDGED, line
    return _LINES[type(line)], line
