"""Stop sequences: the text ends before the first of them, however the deltas are cut."""

from __future__ import annotations

from collections.abc import Sequence


class StopCutter:
    """Text in, text out, up to the first stop sequence; `stopped` once one has come, `matched` is that one.

    Text that may be the beginning of a stop sequence is held back until that is known. Of several the one that begins
    first counts; so one that is complete waits for one that began before it.
    """

    __slots__ = ("_held", "_stops", "matched", "stopped")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        begun = len(text) - max((_overlap(text, stop) for stop in self._stops), default=0)
        found, matched = self._first(text)
        if found is not None and found <= begun:
            self.stopped, self.matched = True, matched
            begun = found
        self._held = "" if self.stopped else text[begun:]
        return text[:begun]

    def close(self) -> str:
        """What of the text held back goes out, now that no more follows. May find a stop sequence, too."""
        held, self._held = self._held, ""
        found, matched = self._first(held)
        if found is not None:
            self.stopped, self.matched = True, matched
        return held[:found]

    def _first(self, text: str) -> tuple[int | None, str | None]:
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(found, key=lambda place: place[0], default=(None, None))


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`, and not all of it."""
    at = max(len(text) - len(stop) + 1, 0)
    # By two characters: few places of a text are like the beginning of a stop sequence.
    while (at := text.find(stop[:2], at)) >= 0:
        if text.endswith(stop[: len(text) - at]):
            return len(text) - at
        at += 1
    return int(len(stop) > 1 and text[-1:] == stop[0])
