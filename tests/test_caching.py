"""Where a conversation that is put in again is marked, judged by the prompt cache of the loopback Messages API."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from conformance import promptcache
from conformance.promptcache import Counted, PromptCache
from proxy.protocol import commands, fingerprint
from proxy.protocol.caching import LOOK_BACK, in_reach, remarked
from proxy.protocol.plan import Caching, Message, Plan, TextBlock, ToolResultBlock, ToolUseBlock

CLIENTS = Caching("1h", (0, 0))
HOUR = {"type": "ephemeral", "ttl": "1h"}


def asked(text: str) -> Message:
    return Message("user", (TextBlock(text * 6000),))


def said(text: str) -> Message:
    return Message("assistant", (TextBlock(text),))


def calls(number: int) -> tuple[Message, Message]:
    """So many at once, and their results."""
    ids = [f"toolu_{one}" for one in range(number)]
    called = Message("assistant", tuple(ToolUseBlock(id, "look", Raw(b"{}")) for id in ids))
    return called, Message("user", tuple(ToolResultBlock(id, (TextBlock("sunny"),)) for id in ids))


def marked(*messages: Message, before: int = 0, caching: Caching | None = None) -> Caching | None:
    """The marks of a plan of these messages, of which the first `before` have been asked."""
    plan = Plan("opus", None, messages, caching=caching)
    keys = fingerprint.of_all(plan, "")[1]
    return remarked(plan, keys, keys[before - 1 : before], "1h").caching


def arrives(messages: tuple[Message, ...], caching: Caching | None) -> dict[str, Any]:
    """The request as it comes upstream: the CLI marks the end."""
    lines = [commands.marked(message, index, caching) for index, message in enumerate(messages)]
    body: list[Any] = msgspec.json.decode(msgspec.json.encode(lines))
    body[-1]["content"][-1]["cache_control"] = HOUR
    return {"model": "claude-x", "messages": body}


def counted(*messages: Message, before: int, own: bool) -> Counted:
    """What is read of a conversation of which the first messages have been asked; `own`: with a mark of our own."""
    cache = PromptCache()
    cache.count(arrives(messages[:before], None), 0)
    return cache.count(arrives(messages, marked(*messages, before=before) if own else None), 1)


@pytest.mark.parametrize(("number", "lost"), [(2, False), (8, False), (12, True), (60, True)])
def test_a_conversation_is_found_after_any_number_of_calls_at_once(number: int, lost: bool) -> None:
    talk = (asked("a"), *calls(number))
    assert (counted(*talk, before=1, own=False).read == 0) is lost
    assert counted(*talk, before=1, own=True).read > 1400
    assert (marked(*talk, before=1) is not None) is lost
    assert in_reach(talk[1:]) is not lost


def test_what_precedes_an_edit_far_back_is_found() -> None:
    """As where a client clears old results: all up to there was asked, and much has been since."""
    steps = [message for number in range(12) for message in (said(f"{number}"), asked(f"{number}"))]
    talk = (asked("a"), *steps)
    assert counted(*talk, before=3, own=False).read == 0
    assert counted(*talk, before=3, own=True).read > 2900
    assert marked(*talk, before=3) == Caching("1h", (2, 0))


def test_where_nothing_is_known_the_step_before_is_marked() -> None:
    """As after a restart."""
    talk = (asked("a"), said("b"), asked("c"), *calls(30))
    assert marked(*talk) == Caching("1h", (2, 0))
    assert counted(*talk, before=3, own=True).read > 2900
    assert marked(asked("a"), said("b"), asked("c")) is None
    assert marked(asked("a")) is None
    assert marked(Message("user", (TextBlock("a"),) * 30)) is None


def test_a_mark_of_the_clients_stays_and_so_does_its_time() -> None:
    talk = (asked("a"), said("b"), asked("c"), *calls(30))
    assert marked(*talk, caching=CLIENTS) == CLIENTS
    assert marked(*talk, caching=Caching("5m")) == Caching("5m", (2, 0))


def test_the_look_back_is_that_of_the_api() -> None:
    assert LOOK_BACK == promptcache.LOOK_BACK
