"""Compares the recordings of two CLI versions line by line: which fields and lines came, went or changed."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from conformance.facts import shown
from conformance.player import kind
from conformance.transcript import Transcript

Sort = Literal["new line type", "line more", "line less", "line moved", "field added", "field removed", "value changed"]
# What may always differ: when lines come that do not wait for each other, and what they say.
HARMLESS: tuple[Sort, ...] = ("line moved", "value changed")
# Which fields the server reads: made of its line types by `python -m tests.generate_relied_on`.
RELIED = Path(__file__).parent.parent / "fixtures" / "relied_on.json"
_WIDE = 60
_NAME = re.compile(r"/?(request|uuid|session|path|socket|loopback)-\d+")


class Change(msgspec.Struct, frozen=True):
    """One difference: in which sort of line, at which path, with the first example of both sides."""

    sort: Sort
    line: str
    path: str
    old: str
    new: str


class Summary(msgspec.Struct, frozen=True):
    """A change, and in how many scenarios it shows."""

    change: Change
    scenarios: tuple[str, ...]

    @property
    def name(self) -> str:
        """Which line or field it is."""
        return f"{self.change.line} {self.change.path}".strip()

    def __str__(self) -> str:
        change = self.change
        old, new = (value if len(value) <= _WIDE else f"{value[:_WIDE]}…" for value in (change.old, change.new))
        values = f": {old} → {new}" if change.sort == "value changed" else f": {new or old}"
        matters = ", which the server reads" if self.is_lost else ""
        values = values if change.path else ""
        return f"{change.sort:<13}  {self.name}{matters}{values}  ({len(self.scenarios)} scenarios)"

    @property
    def is_lost(self) -> bool:
        """Whether something has gone that the server reads."""
        return self.change.sort in ("field removed", "line less") and relied_on(self.change.line, self.change.path)


def compare(old: Transcript, new: Transcript, known: frozenset[str]) -> Iterator[Change]:
    """The differences between two recordings of one scenario; `known` are all kinds of line of the old version."""
    before, after = ([(line.to, kind(line.line)) for line in one.lines] for one in (old, new))
    gone: list[tuple[str, str]] = []
    come: list[tuple[str, str]] = []
    for what, i1, i2, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if what == "equal":
            for one, other in zip(old.lines[i1:i2], new.lines[j1:j2], strict=True):
                yield from _fields(kind(one.line), "", one.line, other.line)
        else:
            gone += before[i1:i2]
            come += after[j1:j2]
    moved = Counter(gone) & Counter(come)
    for to, name in moved:
        yield Change("line moved", f"{name} to {to}", "", "", "")
    for to, name in (Counter(gone) - moved).elements():
        yield Change("line less", f"{name} to {to}", "", "", "")
    for to, name in (Counter(come) - moved).elements():
        yield Change("line more" if name in known else "new line type", f"{name} to {to}", "", "", "")


def miscounted(old: Transcript, new: Transcript, known: frozenset[str]) -> bool:
    """Whether the new recording has fewer lines of some kind, or more of a `known` one. Either may come of a busy
    machine: an upstream that hangs up, for one, is noticed before or after what it said last."""
    before, after = (Counter((line.to, kind(line.line)) for line in one.lines) for one in (old, new))
    return bool(before - after) or any(name in known for _, name in after - before)


def _fields(line: str, path: str, old: Any, new: Any) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in (old.keys() | new.keys()) - {"claude_code_version"}:
            inner = f"{path}.{key}" if path else str(key)
            if key not in new:
                yield Change("field removed", line, inner, shown(old[key]), "")
            elif key not in old:
                yield Change("field added", line, inner, "", shown(new[key]))
            else:
                yield from _fields(line, inner, old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list):
        yield from _items(line, f"{path}[]", old, new)
    elif old != new and not (_is_name(old) and _is_name(new)):
        yield Change("value changed", line, path, shown(old), shown(new))


def _items(line: str, path: str, old: list[Any], new: list[Any]) -> Iterator[Change]:
    if len(old) == len(new) and any(isinstance(item, (dict, list)) for item in old):
        for one, other in zip(old, new, strict=True):
            yield from _fields(line, path, one, other)
        return
    gone, come = [item for item in old if item not in new], [item for item in new if item not in old]
    if gone or come:
        yield Change("value changed", line, path, shown(gone), shown(come))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


@cache
def _relied() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(RELIED.read_text("utf-8"))
    return found


def relied_on(line: str, path: str) -> bool:
    """Whether the server reads a field of that kind of line, or one within it; without a path: such lines at all."""
    name = line.partition(" ")[0]
    paths = _relied().get(name) or _relied().get(name.partition("/")[0]) or []
    if not path:
        return bool(paths)
    return any(_fits(path, known) or known.startswith((f"{path}.", f"{path}[")) for known in paths)


def _fits(path: str, known: str) -> bool:
    before, star, after = known.partition(".*")
    return path == known or bool(star and path.startswith(f"{before}.") and path.endswith(after))


def is_noise(change: Change) -> bool:
    """What the CLI tells a user interface of itself, and the server does not read, changes all the time."""
    told = change.line == "control_response/success" and change.path.startswith("response.response.")
    return told and not relied_on(change.line, change.path)


def kinds(recordings: Iterable[Transcript]) -> frozenset[str]:
    """All kinds of line in these recordings."""
    return frozenset(kind(line.line) for one in recordings for line in one.lines)


def summarise(old: Mapping[str, Transcript], new: Mapping[str, Transcript]) -> list[Summary]:
    """All changes between the recordings (by name) of two versions, each kind of change once, most frequent first."""
    known = kinds(old.values())
    found: dict[tuple[str, str, str], tuple[Change, set[str]]] = {}
    for name in sorted(old.keys() & new.keys()):
        for change in compare(old[name], new[name], known):
            _, names = found.setdefault((change.sort, change.line, change.path), (change, set()))
            names.add(name)
    summaries = [Summary(change, tuple(sorted(names))) for change, names in found.values() if not is_noise(change)]
    return sorted(
        summaries, key=lambda each: (each.change.sort, -len(each.scenarios), each.change.line, each.change.path)
    )
