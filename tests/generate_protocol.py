"""The tables in PROTOCOL.md that are made from the code: `python -m tests.generate_protocol [--check]`.

Each stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from proxy.dialects.openai.chat import FINISH_REASONS
from proxy.dialects.openai.errors import CODES
from proxy.protocol.failures import BY_STATUS, BY_WORD, TABLE
from proxy.protocol.kinds import KINDS, Kind
from proxy.protocol.turn import OVER, TRANSITIONS, State

PAGE: Final = Path(__file__).parent.parent / "PROTOCOL.md"
_MARKED: Final = re.compile(r"(<!-- generated: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def transitions() -> str:
    """States across, lines down; a cell has the action and the next state, and is empty where the turn fails."""
    states = [state for state in State if state not in OVER]

    def cell(state: State, kind: Kind[Any]) -> str:
        step = TRANSITIONS.get((state, kind))
        if step is None:
            return ""
        after, action = step
        words = "" if after is state else f"→ {after.value}"
        name = "" if action is None else action.__name__.strip("_").replace("_", " ")
        return f"{name} {words}".strip() or "—"

    rows = [[kind.name, *(cell(state, kind) for state in states)] for kind in KINDS]
    return _table(["line", *(state.value for state in states)], rows)


def errors() -> str:
    """Every kind of failure."""
    said = {None: "by status", True: "true", False: "false"}
    rows = [
        [
            kind.value.replace("_", " "),
            str(row.status),
            f"`{CODES[kind].type}`",
            f"`{CODES[kind].code}`" if CODES[kind].code else "null",
            said[row.retry],
        ]
        for kind, row in TABLE.items()
    ]
    return _table(["what happened", "status", "`type`", "`code`", "`x-should-retry`"], rows)


def upstream() -> str:
    """What the CLI says of an error → what happened."""
    rows = [[f"`{word}`", kind.value.replace("_", " ")] for word, kind in BY_WORD.items()]
    rows += [[f"status {status}", kind.value.replace("_", " ")] for status, kind in BY_STATUS.items()]
    return _table(["the CLI says", "what happened"], rows)


def reasons() -> str:
    """`stop_reason` → `finish_reason`."""
    return _table(
        ["`stop_reason`", "`finish_reason`"], [[f"`{old.value}`", f"`{new}`"] for old, new in FINISH_REASONS.items()]
    )


TABLES: Final[dict[str, Callable[[], str]]] = {
    "transitions": transitions,
    "errors": errors,
    "upstream": upstream,
    "reasons": reasons,
}


def filled(page: str) -> str:
    """The page with every table as it is now. Raises KeyError for one that does not exist."""
    return _MARKED.sub(lambda match: f"{match[1]}{TABLES[match['name']]()}\n{match[3]}", page)


def main(arguments: Sequence[str]) -> int:
    """Writes the tables; with `--check` only compares, with exit code 1 if they have changed."""
    parser = argparse.ArgumentParser(prog="python -m tests.generate_protocol", description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    page = PAGE.read_text("utf-8")
    if parser.parse_args(arguments).check:
        return 0 if filled(page) == page else 1
    PAGE.write_text(filled(page), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
