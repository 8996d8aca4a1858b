"""The names by which a CLI knows tools, as far as its program text lists them."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from conformance import install, record

_NAME = rb"[A-Za-z_]{2,60}"
_LIST = re.compile(rb'\[(?:"' + _NAME + rb'",){2,}"' + _NAME + rb'"\]')
_TABLE = re.compile(rb"\{(?:" + _NAME + rb':"' + _NAME + rb'",){2,}' + _NAME + rb':"' + _NAME + rb'"\}')
_PAIR = re.compile(rb"(" + _NAME + rb'):"(' + _NAME + rb')"')
# A list with two of these is one of tools; a table with this pair says what tools were called before.
_SURE = frozenset((
    b"Bash", b"Read", b"Edit", b"Write", b"Grep", b"Glob", b"NotebookEdit", b"WebFetch", b"WebSearch", b"TodoWrite",
    b"Task", b"Agent", b"ToolSearch", b"TaskCreate", b"ExitPlanMode",
))  # fmt: skip
_RENAMED = b'Task:"Agent"'
# Found nowhere in such a list.
_OTHERS = ("ArtifactCheck", "ArtifactComments", "ArtifactData", "DeferredToolPlaceholder", "ExitPlanMode",
           "StructuredOutput", "TaskOutput")  # fmt: skip


def known(cli: Path) -> frozenset[str]:
    """The names of tools in the program text of a CLI. Takes seconds: the file is large."""
    text = cli.read_bytes()
    found = {name.encode() for name in _OTHERS if f'"{name}"'.encode() in text}
    for listed in _LIST.finditer(text):
        names = set(re.findall(rb'"(' + _NAME + rb')"', listed[0]))
        if len(names & _SURE) >= 2:
            found |= names
    for table in _TABLE.finditer(text):
        if _RENAMED in table[0]:
            found.update(name for pair in _PAIR.findall(table[0]) for name in pair)
    return frozenset(name.decode() for name in found)


def main(arguments: Sequence[str]) -> int:
    """`tools`: prints the names, sorted."""
    parser = argparse.ArgumentParser(prog="python -m conformance tools", description=__doc__)
    parser.add_argument("--cli", help="a version, `latest` or a path; else CLAUDE_CLI")
    try:
        cli = record.find(parser.parse_args(arguments).cli)
    except install.NotInstalled as fault:
        print(fault)
        return 2
    print("\n".join(sorted(known(cli.path))))
    return 0
