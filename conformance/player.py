"""The player: a program that the proxy takes for the CLI, and that plays recorded transcripts.

It picks the transcript by what it is sent: it waits for what a recording says the proxy sent, then writes what the
CLI answered. Anything else ends it with exit code 3 and a readable difference on stderr, which it also appends to
`differences.txt` beside its executable. Stdin may end, or SIGTERM come, at any time.

Names such as `request-1` or `uuid-2` in a recording stand for whatever the proxy uses there, the same each time.
Windows of the plan end as long after the line that tells of them as they did when it was recorded.

Standard library only, and as little of it as possible: it is started for every conversation.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False  # importing `typing` would double the time it takes to start
if TYPE_CHECKING:
    from typing import Any

MISMATCH = 3
_BIG = 6_000_000
# How long a recorded silence is, in seconds: longer than it was, so that it is one on a busy machine too.
_SILENCE = 0.6
# Without these there is no conversation in lines of JSON; what else a recording needs is in its header.
_NEEDED = ("--print", "--input-format stream-json", "--output-format stream-json", "--verbose")
# Asides that may come at any time; the others before a conversation alone.
_ANY_TIME = ("list_models", "get_usage")
INTERRUPT = "control_request/interrupt"
# The time of every recorded line, in seconds since 1970, and how far ahead of it a date can be.
_EPOCH = 946_684_800
_YEAR = 366 * 86_400
_NAMES = ("request", "uuid", "session", "path", "socket")
_UNKNOWN = (
    {"type": "conformance_unknown", "value": {"nested": [1, None, "x"]}},
    {"type": "system", "subtype": "conformance_unknown", "session_id": "session-1"},
    {"type": "stream_event", "event": {"type": "conformance_unknown"}, "session_id": "session-1"},
)


def build_index(version: str, files: dict[str, str], asides: str | None, initialize: str = "") -> dict[str, Any]:
    """What the player wants to know of transcripts (path by name) before it has picked one.

    `asides` is the file of requests that are no part of a conversation, each with its answer; `initialize` the text
    that stands for the mark in the recorded replies to it.
    """
    transcripts = []
    for name, path in sorted(files.items()):
        rows = _rows(path)
        sent = [[place, row["line"]] for place, row in enumerate(rows) if row.get("to") == "cli"]
        transcripts.append(
            {"name": name, "path": path, "sent": sent, "needs": rows[0]["needs"], "ends": rows[0]["ends"]}
        )
    answers = {}
    lines = [row["line"] for row in _rows(asides)[1:]] if asides else []
    for line in lines:
        if line["type"] == "control_request":
            identifier = line["request_id"]
            answers[line["request"]["subtype"]] = next(
                each for each in lines if each.get("response", {}).get("request_id") == identifier
            )
    return {"version": version, "transcripts": transcripts, "asides": answers, "initialize": initialize}


def _rows(path: str) -> list[Any]:
    with open(path, "rb") as file:
        return [json.loads(row) for row in file]


class Mismatch(Exception):
    """What was sent is not what any recording expects."""


class Ended(Exception):
    """The player is to end with this code."""

    def __init__(self, code: int) -> None:
        self.code = code


# At the end of a header's `ends`: any lines may follow.
MORE = "+"


class Candidate:
    """A transcript that everything sent so far agrees with. `lacking`: what it needs, and was not launched with."""

    def __init__(self, entry: dict[str, Any], lacking: list[str]) -> None:
        self.lacking = lacking
        self.name: str = entry["name"]
        self.path: str = entry["path"]
        self.sent: list[tuple[int, object]] = entry["sent"]
        self.ends: str = entry["ends"]
        self.names: dict[str, str] = {}
        self._rows: list[str] | None = None

    def rows(self) -> list[str]:
        """The lines of the file; the first is the header."""
        if self._rows is None:
            with open(self.path, encoding="utf-8") as file:
                self._rows = file.read().split("\n")[:-1]
        return self._rows

    def answers(self, number: int) -> range:
        """Where the rows are that follow the line of that number and precede the next one sent."""
        first = self.sent[number][0] + 1
        return range(first, self.sent[number + 1][0] if number + 1 < len(self.sent) else len(self.rows()))

    def spelled(self, text: str) -> str:
        """A line of the CLI with the names that the proxy uses in this conversation."""
        for name, actual in self.names.items():
            if name != actual:
                text = text.replace(f'"{name}"', json.dumps(actual))
        return text


def difference(recorded: Any, sent: Any, names: dict[str, str], path: str = "") -> str | None:
    """The first place where a line differs from the recorded one, or None. Binds names."""
    where = path or "the line"
    if isinstance(recorded, dict) and isinstance(sent, dict):
        for key in recorded:
            if key not in sent:
                return f"{where}: {key} is missing"
            if found := difference(recorded[key], sent[key], names, f"{path}.{key}" if path else key):
                return found
        extra = [key for key in sent if key not in recorded]
        return f"{where}: {extra[0]} is not in the recording" if extra else None
    if isinstance(recorded, list) and isinstance(sent, list):
        for place, (old, new) in enumerate(zip(recorded, sent)):  # noqa: B905 (the lengths are compared below)
            if found := difference(old, new, names, f"{path}[{place}]"):
                return found
        return None if len(recorded) == len(sent) else f"{where}: {len(sent)} items instead of {len(recorded)}"
    if isinstance(recorded, str) and isinstance(sent, str) and _is_name(recorded):
        if names.setdefault(recorded, sent) == sent:
            return None
        return f"{where}: {recorded} was {names[recorded]!r} before and is now {sent!r}"
    if type(recorded) is type(sent) and recorded == sent:
        return None
    return f"{where}: expected {_short(recorded)}, got {_short(sent)}"


def _is_name(text: str) -> bool:
    kind, _, number = text.lstrip("/").partition("-")
    return kind in _NAMES and number.isdigit()


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 400 else f"{text[:400]}… ({len(text)} characters)"


def kind(line: Any) -> str:
    """What sort of line this is, as a path: `stream_event/content_block_delta`, `system/init`, …"""
    if not isinstance(line, dict):
        return "(not JSON)"
    inner = line.get("request") or line.get("response") or {}
    parts = [line.get("type"), line.get("subtype") or inner.get("subtype"), (line.get("event") or {}).get("type")]
    return "/".join(str(part) for part in parts if part)


class Output:
    """Stdout, with the faults that are asked for. A place is a number of lines written or a kind of line."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._written = 0
        self._silent = False

    def write(self, text: str) -> None:
        """Writes one line, or what the faults make of it. Raises Ended where the player is to die."""
        if self._silent:
            return
        settings, data = self._settings, text.encode("utf-8", "surrogatepass") + b"\n"
        if settings["die"] == 0:
            raise Ended(settings["exit_code"])
        self._written += 1
        if self._here("cut", text):
            middle = next((at + 1 for at, byte in enumerate(data) if byte >= 0xC0), len(data) // 2)
            self._bytes(data[:middle])
            raise Ended(settings["exit_code"])
        self._bytes(data)
        if self._here("garbage", text):
            self._bytes(b'{"type": "stream_event", "event": \xff\xfe this is not JSON\n')
        if self._here("big", text):
            self._bytes(b'{"type":"conformance_unknown","value":"%s"}\n' % (b"x" * _BIG))
        if settings["unknown"] and self._written % settings["unknown"] == 0:
            self._bytes(json.dumps(_UNKNOWN[self._written % len(_UNKNOWN)]).encode() + b"\n")
        if self._here("die", text):
            raise Ended(settings["exit_code"])
        if self._here("silence", text):
            self._silent = True

    def _here(self, fault: str, text: str) -> bool:
        place = self._settings[fault]
        if isinstance(place, str):
            return place == kind(json.loads(text))
        return bool(place == self._written)

    def _bytes(self, data: bytes) -> None:
        size = self._settings["chunk"] or len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            while piece:
                piece = piece[os.write(1, piece) :]


class Conversation:
    """Follows the transcripts that agree with what is sent; the first of them answers."""

    def __init__(self, candidates: list[Candidate], output: Output, initialize: str = "") -> None:
        self._candidates = candidates
        self._output = output
        self._initialize = initialize
        self._received = 0
        self._written: list[tuple[str, str]] = []

    def receive(self, line: object) -> None:
        """Takes one line of the proxy and writes what follows it. Raises Mismatch or Ended."""
        place, before = self._received, self._candidates
        agreeing, near = [], []
        for candidate in before:
            if place >= len(candidate.sent):
                near.append((candidate, "the recording ends before this line"))
                continue
            names = dict(candidate.names)
            found = difference(candidate.sent[place][1], line, names)
            if found is None:
                candidate.names = names
                agreeing.append(candidate)
            else:
                near.append((candidate, found))
        if not agreeing and kind(line) == INTERRUPT:
            raise Ended(0)  # What the CLI says then is in recordings that go on to it (fixtures tools/price).
        if not agreeing:
            raise Mismatch(_report(place, line, near))
        agreeing.sort(key=lambda candidate: bool(candidate.lacking))
        first = agreeing[0]
        if first.lacking:
            raise Mismatch(f"player: launched without {', '.join(first.lacking)}, which {first.name} needs")
        self._candidates = agreeing
        self._received += 1
        self._answer(first, changed=before[0] is not first, alone=len(agreeing) == 1)

    def _answer(self, candidate: Candidate, *, changed: bool, alone: bool) -> None:
        here = candidate.answers(self._received - 1)
        # Recordings that begin alike can differ in when the first answers came: what another one has already
        # written is not written again, and what it left out is made up for.
        known = list(self._written) if changed else []
        last = ""
        for row in candidate.rows()[candidate.answers(0).start if changed else here.start : here.stop]:
            if '"to":"cli"' in row[:40]:
                continue
            if row.startswith('{"exit":'):
                raise Ended(json.loads(row)["exit"])
            last = row
            if '"silence":' in row[:40]:
                # It is part of the answer: whether the client has seen anything by then decides what a failure after
                # it looks like (fixtures errors/cut_after_text).
                time.sleep(_SILENCE)
            text = row[row.index('"line":') + 7 : -1].replace('"$initialize":true', self._initialize)
            text = json.loads(text) if text.startswith('"') else candidate.spelled(text)
            if changed or not alone:
                line = json.loads(text)
                sort = (kind(line), line["response"]["request_id"] if "response" in line else "")
                if sort in known:
                    known.remove(sort)
                    continue
                self._written.append(sort)
            if '"control_request"' in text:
                # Its answer has to carry this id, and no other.
                identifier = json.loads(text).get("request_id")
                candidate.names.setdefault(identifier, identifier)
            self._output.write(_dated(text))
        if here.stop == len(candidate.rows()) and alone:
            _check_end(candidate, last)


def _check_end(candidate: Candidate, row: str) -> None:
    """Raises Mismatch if a recording ends before its end: a proxy would wait for what cannot come."""
    found = kind(json.loads(row)["line"]) if row else "nothing"
    if not candidate.ends.endswith(MORE) and not found.startswith(candidate.ends):
        raise Mismatch(f"player: the recording of {candidate.name} ends with {found}; no {candidate.ends} can come")


def _dated(text: str) -> str:
    """A line with the ends of the plan's windows counted from the present."""
    first, *rest = text.split('"resetsAt":')
    for part in rest:
        recorded = part[: len(part) - len(part.lstrip("0123456789"))]
        ahead = int(recorded or 0) - _EPOCH
        now = str(round(time.time()) + ahead) if 0 < ahead < _YEAR else recorded
        first += f'"resetsAt":{now}{part[len(recorded) :]}'
    return first


def _report(place: int, line: object, near: list[tuple[Candidate, str]]) -> str:
    def unlike(item: tuple[Candidate, str]) -> tuple[bool, bool, int]:
        candidate = item[0]
        if place >= len(candidate.sent):
            return (True, True, 0)
        old, new = candidate.sent[place][1], line
        return (kind(old) != kind(new), False, -_common(json.dumps(old), json.dumps(new)))

    candidate, found = min(near, key=unlike)
    expected = candidate.sent[place][1] if place < len(candidate.sent) else None
    others = f" and {len(near) - 1} others" if len(near) > 1 else ""
    # The last line says it all: it is the one that a proxy shows.
    return (
        f"  recorded: {_short(expected)}\n  sent:     {_short(line)}\n"
        f"player: line {place + 1} from the proxy is not what {candidate.name}{others} recorded: {found}"
    )


def _common(one: str, two: str) -> int:
    length = min(len(one), len(two))
    return next((at for at in range(length) if one[at] != two[at]), length)


def _launched(index: dict[str, Any], argv: list[str]) -> list[Candidate]:
    if missing := lacking(_NEEDED, argv, ()):
        raise Mismatch(f"  launched: {_short(argv)}\nplayer: launched without {', '.join(missing)}")
    return [Candidate(entry, lacking(entry["needs"], argv, os.environ)) for entry in index["transcripts"]]


def lacking(needs: Any, argv: list[str], environment: Any) -> list[str]:
    """Which launch arguments (`--tools`, `--model opus`) and variables (`DISABLE_COMPACT`) are not there."""

    def given(words: list[str]) -> bool:
        return any(argv[place : place + len(words)] == words for place in range(len(argv)))

    return [need for need in needs if not (given(need.split(" ")) if need[:1] == "-" else need in environment)]


def _lines() -> Any:
    rest = b""
    while data := os.read(0, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    if rest:
        yield rest


def main(settings: dict[str, Any], argv: list[str]) -> int:
    """Runs the player; `settings` come from `replay.player_shim`. Returns the exit code."""
    folder: str = settings["directory"]
    with open(f"{folder}/index.json", "rb") as file:
        index = json.loads(file.read())
    if argv == ["--version"]:
        print(f"{index['version']} (Claude Code)")
        return 0
    if "auth" in argv and "status" in argv:
        known = settings["logged_in"]
        method = "oauth_token" if known else "none"
        print(json.dumps({"loggedIn": known, "authMethod": method, "apiProvider": "firstParty"}))
        return 0 if known else 1
    try:
        return _converse(settings, argv, index)
    except Mismatch as found:
        print(found, file=sys.stderr)
        with open(f"{folder}/differences.txt", "a", encoding="utf-8") as file:
            file.write(f"{found}\n")
        return MISMATCH
    except Ended as end:
        return end.code
    except BrokenPipeError:
        return 0  # the proxy has gone


def _converse(settings: dict[str, Any], argv: list[str], index: dict[str, Any]) -> int:
    if settings["exit_at_start"]:
        print("error: unknown option '--input-format'", file=sys.stderr)
        return int(settings["exit_code"])
    time.sleep(settings["slow_start"])
    if settings["stubborn"]:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if settings["stderr"]:
        os.write(2, b"noise on stderr\n" * (settings["stderr"] // 16))
    output = Output(settings)
    conversation = Conversation(_launched(index, argv), output, index["initialize"])
    begun = False
    for text in _lines():
        try:
            line = json.loads(text)
        except ValueError:
            raise Mismatch(f"player: the proxy sent a line that is not JSON: {text[:200]!r}") from None
        subtype = (line.get("request") or {}).get("subtype")
        begun = begun or subtype not in index["asides"]
        if (not begun or subtype in _ANY_TIME) and (answer := index["asides"].get(subtype)):
            answer["response"]["request_id"] = line["request_id"]
            output.write(json.dumps(answer, ensure_ascii=False, separators=(",", ":")))
        else:
            conversation.receive(line)
    while settings["stubborn"]:
        time.sleep(60)  # nor does it end with its stdin
    return 0
