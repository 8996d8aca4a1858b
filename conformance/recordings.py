"""The recorder's own files, and how transcripts are made of them."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from conformance.messages import opening
from conformance.player import INTERRUPT, kind
from conformance.transcript import Crossing, Exit, Header, Names, Transcript

# How long recorders may take to end after the proxy has, in seconds.
_PATIENCE = 15


class Raw(msgspec.Struct, frozen=True):
    """The recorder's own file: the launch, and the lines just as they crossed, with milliseconds since then.

    `whole`: the CLI's process has ended, and everything it wrote was read.
    """

    launch: dict[str, Any]
    pid: int
    lines: tuple[tuple[int, Literal["cli", "proxy"], str], ...]
    exit: Exit | None
    whole: bool = True


def read_raw(path: Path) -> Raw:
    """Reads a recorder's file, which may end anywhere: the recorder can be killed while it writes."""
    launch: dict[str, Any] = {}
    lines: list[tuple[int, Literal["cli", "proxy"], str]] = []
    ended, pid, whole = None, 0, False
    for row in path.read_bytes().split(b"\n")[:-1]:
        entry = json.loads(row)
        if "exit" in entry:
            ended = Exit(entry["exit"])
        elif "whole" in entry:
            whole = True
        elif "pid" in entry:
            pid = entry["pid"]
        elif "text" in entry:
            lines.append((entry["at"], entry["to"], entry["text"]))
        else:
            launch = entry
    return Raw(launch, pid, tuple(lines), ended, whole)


_DELTA = '"content_block_delta"'
# Requests that a proxy may send at any time, to a CLI that knows nothing yet or in mid-conversation.
ASIDES = ("list_models", "get_usage")


def without_asides(raw: Raw) -> tuple[Raw, Raw]:
    """The recording without requests that are no part of the conversation, and these with their answers.

    None of what is asked before the conversation begins is a part of it.
    """
    asked: set[str] = set()
    begun = False
    for _, to, text in raw.lines:
        line = _json(text)
        subtype = line.get("request", {}).get("subtype")
        begun = begun or subtype == "initialize" or line.get("type") == "user"
        if to == "cli" and subtype is not None and (subtype in ASIDES or not begun):
            asked.add(line["request_id"])

    def aside(text: str) -> bool:
        line = _json(text)
        return (line.get("request_id") or line.get("response", {}).get("request_id")) in asked

    kept, apart = ([entry for entry in raw.lines if aside(entry[2]) is side] for side in (False, True))
    return msgspec.structs.replace(raw, lines=tuple(kept)), msgspec.structs.replace(raw, lines=tuple(apart), exit=None)


def uninterrupted(raw: Raw, ends: str) -> Raw:
    """The recording up to where the proxy interrupts a turn for which it has its answer, with what `ends` it."""
    place = next((at for at, (_, to, text) in enumerate(raw.lines) if to == "cli" and _is_interrupt(text)), None)
    if place is None or ends.startswith("result"):
        return raw
    late = [entry for entry in raw.lines[place:] if entry[1] == "proxy" and kind(_json(entry[2])).startswith(ends)]
    lines = [*raw.lines[:place], *late]
    # After some time the CLI says that the calls still wait (fixtures tools/slow_result).
    while lines and kind(_json(lines[-1][2])) == "tool_progress":
        lines.pop()
    return msgspec.structs.replace(raw, lines=tuple(lines), exit=None)


def _is_interrupt(text: str) -> bool:
    return kind(_json(text)) == INTERRUPT


def once_each(raw: Raw) -> Raw:
    """The first request of each kind with its answer."""
    kept: list[tuple[int, Literal["cli", "proxy"], str]] = []
    known: set[str] = set()
    open_requests: set[str] = set()
    for entry in raw.lines:
        line = _json(entry[2])
        subtype = line.get("request", {}).get("subtype")
        answered = line.get("response", {}).get("request_id")
        if entry[1] == "cli" and subtype not in known:
            known.add(subtype)
            open_requests.add(line["request_id"])
            kept.append(entry)
        elif answered in open_requests:
            open_requests.discard(answered)
            kept.append(entry)
    return msgspec.structs.replace(raw, lines=tuple(kept))


def conversed(raw: Raw) -> bool:
    """Whether there is a conversation in it."""
    return any(to == "cli" and _json(text).get("type") == "user" for _, to, text in raw.lines)


def _json(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}


def normalised(raw: Raw, header: Header, *, silence: int = 0) -> Transcript:
    """The transcript of a recording. `silence`: milliseconds for which its upstream keeps quiet after each delta.

    It holds no times, so that two recordings of one conversation are equal byte by byte.
    """
    began = raw.launch["time"] - raw.launch["at"] / 1000
    paths = {raw.launch["cwd"]: "/empty", raw.launch["home"]: "/user", str(Path(raw.launch["cli"]).parent): "/cli"}
    names = Names(paths)
    lines: list[Crossing] = []
    delta = None
    for at, to, text in raw.lines:
        quiet = silence and to == "proxy" and delta is not None and at - delta >= silence / 2
        lines.append(Crossing(to, _parsed(text, names, began + at / 1000), silence if quiet else 0))
        if to == "proxy":
            delta = at if _DELTA in text else None
    return Transcript(header, tuple(lines), raw.exit)


def _parsed(text: str, names: Names, now: float) -> dict[str, Any] | str:
    line = _json(text)
    return names.line(line, now) if line else text


def every(folder: Path) -> dict[Path, Raw]:
    """All that recorders have written into a folder so far, in the order in which they were started."""
    return {path: read_raw(path) for path in sorted(folder.glob("*.raw"), key=_began)}


async def ended(folder: Path) -> dict[Path, Raw]:
    """All recordings, once every recorder has said that its CLI has ended, or after a while without that."""
    end = time.monotonic() + _PATIENCE
    while True:
        found = every(folder)
        if all(raw.whole or _gone(raw.pid) for raw in found.values()) or time.monotonic() > end:
            return found
        await asyncio.sleep(0.05)


def _gone(process: int) -> bool:
    """Whether there is no such process: nothing more comes of a recorder that was killed together with its CLI."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def opened(path: Path, raw: Raw, text: str, start: int, until: int | None = None) -> int | None:
    """When a conversation opened with this text of its user, if it did so in that time (nanoseconds, monotonic)."""
    for at, to, line in raw.lines:
        if to == "cli" and (said := json.loads(line)).get("type") == "user":
            moment = _began(path) + (at + 1) * 1_000_000
            in_time = moment >= start and (until is None or moment < until)
            return moment if in_time and opening({"messages": [said["message"]]}) == text else None
    return None


def _began(path: Path) -> int:
    """When a recorder was started: the name of its file says so."""
    return int(path.name.partition("-")[0])
