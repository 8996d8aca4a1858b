"""Transcripts: what crossed between the proxy and a CLI, in a form that two CLI versions can be compared in.

A file is JSON Lines: a `Header`, then a `Crossing` for each line, in order. A `line` that is a string is one that
was not JSON. If the CLI ended by itself the last line is an `Exit`. How the CLI was launched is kept once for each of
its versions (`conformance.launch`).
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from conformance import launch
from conformance.player import MORE, kind

FORMAT = 2
# Requests that may come at any time, with their answers, beside the recordings of conversations.
ASIDE_FILE = "asides.jsonl"


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the recording comes from.

    `needs`: the launch arguments and environment variables without which the CLI would have written something else.
    `ends`: the kind of the CLI's last line, or its beginning: a recording that ends otherwise is not whole. With a `+`
    at its end any lines may follow: the proxy ends the CLI while it writes.
    """

    format: int
    cli: str
    scenario: str
    needs: list[str]
    origin: Literal["recorded", "derived", "written"]
    upstream: Literal["live", "scripted"]
    ends: str = "result"


class Crossing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line that crossed. `silence`: milliseconds for which the Messages API kept quiet in mid-answer before it."""

    to: Literal["cli", "proxy"]
    line: dict[str, Any] | str
    silence: int = 0


class Exit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The CLI ended by itself."""

    exit: int


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    to: Literal["cli", "proxy"] | None = None
    line: dict[str, Any] | str | None = None
    silence: int = 0
    exit: int | None = None


class Transcript(msgspec.Struct, frozen=True):
    header: Header
    lines: tuple[Crossing, ...]
    exit: Exit | None = None


def read(path: Path) -> Transcript:
    """Reads a transcript. Raises ValueError, naming the file and line, for anything that is not one."""
    rows = path.read_bytes().splitlines()
    lines: list[Crossing] = []
    header: Header | None = None
    ended: Exit | None = None
    try:
        header = msgspec.json.decode(rows[0], type=Header)
        if header.format != FORMAT:
            raise ValueError(f"format {header.format}, expected {FORMAT}")
        for row in rows[1:]:
            entry = msgspec.json.decode(launch.unmarked(row, path), type=_Row)
            if ended is not None:
                raise ValueError("a line after the exit")
            if entry.exit is not None:
                ended = Exit(entry.exit)
            elif entry.to is None or entry.line is None:
                raise ValueError("neither a crossing nor an exit")
            else:
                lines.append(Crossing(entry.to, entry.line, entry.silence))
    except (ValueError, IndexError) as fault:
        raise ValueError(f"{path}:{1 if header is None else len(lines) + 2}: {fault}") from fault
    return Transcript(header, tuple(lines), ended)


def write(path: Path, transcript: Transcript, initialize: Mapping[str, Any] | None = None) -> None:
    """Writes a transcript. Raises ValueError, and writes nothing, if it holds anything private.

    `initialize` is the reply that is kept in `launch.json`; the transcript then only refers to it.
    """
    lines = transcript.lines if initialize is None else tuple(_referring(transcript.lines, initialize))
    rows: list[Header | Crossing | Exit] = [transcript.header, *lines]
    if transcript.exit is not None:
        rows.append(transcript.exit)
    data = b"".join(msgspec.json.encode(_row(row)) + b"\n" for row in rows)
    refuse_private(data.decode(), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _row(row: Header | Crossing | Exit) -> Any:
    # What the player looks at comes before the line, which can be long.
    if isinstance(row, Crossing) and row.silence:
        return {"to": row.to, "silence": row.silence, "line": row.line}
    return row


def unended(transcript: Transcript) -> str:
    """Why a recording is not whole by its last line, or nothing."""
    if transcript.exit is not None:
        return ""
    ends = transcript.header.ends
    if ends.endswith(MORE):
        kinds = [kind(line.line) for line in transcript.lines if line.to == "proxy"]
        return "" if any(one.startswith(ends[:-1]) for one in kinds) else f"it has no {ends[:-1]}"
    last = transcript.lines[-1] if transcript.lines else None
    found = kind(last.line) if last is not None and last.to == "proxy" else "nothing of the CLI"
    return "" if found.startswith(ends) else f"it ends with {found}, not with {ends}"


def cut(transcript: Transcript) -> Transcript:
    """The transcript up to the first line of the CLI's that it may end with."""
    ends = (
        at
        for at, each in enumerate(transcript.lines)
        if each.to == "proxy" and kind(each.line) == transcript.header.ends
    )
    return msgspec.structs.replace(
        transcript, lines=transcript.lines[: next(ends, len(transcript.lines)) + 1], exit=None
    )


def initialized(lines: Iterable[Crossing]) -> dict[str, Any] | None:
    """What the CLI answered to the first `initialize`, or None."""
    return next((_reply(line.line) for line in _replies(tuple(lines))), None)


def _replies(lines: tuple[Crossing, ...]) -> list[Crossing]:
    asked = {
        line.line["request_id"]
        for line in lines
        if isinstance(line.line, dict) and line.line.get("request", {}).get("subtype") == "initialize"
    }
    return [line for line in lines if line.to == "proxy" and _reply(line.line) is not None and _id(line.line) in asked]


def _id(line: Any) -> Any:
    return line["response"].get("request_id")


def _reply(line: Any) -> dict[str, Any] | None:
    if not isinstance(line, dict) or line.get("type") != "control_response":
        return None
    reply = line["response"].get("response")
    return reply if isinstance(reply, dict) else None


def _referring(lines: tuple[Crossing, ...], initialize: Mapping[str, Any]) -> Iterator[Crossing]:
    replies = _replies(lines)
    for crossing in lines:
        if any(crossing is reply for reply in replies) and isinstance(crossing.line, dict):
            response = crossing.line["response"]
            short = response | {"response": launch.marked(response["response"], initialize)}
            yield Crossing(crossing.to, crossing.line | {"response": short}, crossing.silence)
        else:
            yield crossing


_PRIVATE = {
    "a secret": re.compile(r"sk-ant-[\w-]{4,}|\bBearer\s+[\w.~+/-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY"),
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}"),
    "an IP address": re.compile(
        r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.])"
    ),
    "a home path": re.compile(r"(?<![\w.-])/(?:home|Users)/[\w.-]+|(?<![\w.-])/root(?:/|\b)"),
}
# Reserved for documentation and examples: they can belong to nobody.
_HARMLESS = re.compile(r"@(?:[\w-]+\.)*example(?:\.(?:com|org|net))?$|^noreply@anthropic\.com$")


def private(content: str) -> list[str]:
    """What of this text must not be kept, one line for each find."""
    return [
        f"{what}: {found[:12]}…"
        for what, pattern in _PRIVATE.items()
        for found in dict.fromkeys(match.group() for match in pattern.finditer(content))
        if not _HARMLESS.search(found)
    ]


def refuse_private(content: str, name: str) -> None:
    """Raises ValueError if the text holds a secret, an address or a home path."""
    if found := private(content):
        raise ValueError(f"{name} would keep {', '.join(found)}")


# ── stable names ────────────────────────────────────────────────────────────────────────────────────────────

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_EMBEDDED = re.compile(
    rf"(?P<uuid>{_UUID})"
    r"|(?P<request>\breq_\w+)"
    r"|(?P<loopback>\b(?:127\.0\.0\.1|localhost)(?::\d+)?\b)"
    r"|(?P<time>\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z?)"
    r"|(?P<socket>/(?:tmp|var|run|private)/[^\s\"']*\.sock\b)"
    r"|(?P<path>/(?:tmp|private|var/folders)/[^\s\"']+)",
    re.IGNORECASE,
)
_TIME = "2000-01-01T00:00:00.000Z"
# The same in seconds since 1970, as in the player.
EPOCH = 946_684_800
_YEAR = 366 * 86_400
_ACCOUNT = {"email", "organization", "organizationUuid", "organizationName", "accountUuid", "displayName", "fullName"}


class Names:
    """Gives what differs from run to run a stable name by its first appearance; equal values get equal names.

    `paths` maps directories of this run to what they are called. Times become one constant, durations 0; the delay
    of a retry keeps its order of magnitude. The end of a window of the plan is put as far ahead of that constant as it
    was of the line's own time, in whole minutes, if that is less than a year.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._now = 0.0
        # The CLI also writes a path with its slashes turned into dashes. Longest first: one may hold another.
        known = dict(paths) | {path.replace("/", "-"): name.replace("/", "-") for path, name in paths.items()}
        self._paths = sorted(
            ((path, name) for path, name in known.items() if len(path) > 3), key=lambda pair: -len(pair[0])
        )
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def line(self, line: dict[str, Any], now: float = 0.0) -> dict[str, Any]:
        """The line, written at `now` (seconds since 1970), with stable names. Keys keep their order."""
        self._now = now
        control = line.get("type") in ("control_request", "control_response", "control_cancel_request")
        return {key: self._value(key, value, control) for key, value in line.items()}

    def _value(self, key: str, value: Any, control: bool) -> Any:
        if isinstance(value, dict):
            if key == "account":
                return {name: f"account-{name}" if name in _ACCOUNT else inner for name, inner in value.items()}
            return {self._text(name): self._value(name, inner, control) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._value(key, inner, control) for inner in value]
        if isinstance(value, str):
            if key in ("session_id", "sessionId") and value:
                return self._name("session", value)
            if key == "request_id" and control:
                return self._name("request", value)
            return self._text(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if key == "retry_delay_ms":
                return 10 ** round(math.log10(max(value, 1)))
            if key == "pid":
                return 1
            if key.endswith(("_ms", "Ms")) or key == "durationSeconds":
                return 0
            if key == "resetsAt" and 0 < value - self._now < _YEAR:
                return EPOCH + round((value - self._now) / 60) * 60
        return value

    def _text(self, text: str) -> str:
        for path, name in self._paths:
            text = text.replace(path, name)
        return _EMBEDDED.sub(self._found, text)

    def _found(self, match: re.Match[str]) -> str:
        kind = match.lastgroup or ""
        return _TIME if kind == "time" else self._name(kind, match.group())

    def _name(self, kind: str, value: str) -> str:
        if value not in self._names:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            name = f"{kind}-{self._counts[kind]}"
            self._names[value] = f"/{name}" if kind in ("path", "socket") else name
        return self._names[value]


def every(folder: Path) -> Iterator[Path]:
    """All transcripts of conversations below a folder, in a stable order."""
    return iter(sorted(path for path in folder.rglob("*.jsonl") if path.name != ASIDE_FILE))


def versions(folder: Path) -> list[str]:
    """The CLI versions that have transcripts, oldest first."""
    found: Iterable[Path] = folder.iterdir() if folder.is_dir() else ()
    return sorted((path.name for path in found if path.is_dir()), key=order)


def order(version: str) -> tuple[int, ...]:
    """A version as something that sorts."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
