"""Where `sdk.d.ts`, the types that are published with each release of the CLI, describes a field."""

import json
import re
import tarfile
import tempfile
from pathlib import Path

from conformance import install

PACKAGE = "@anthropic-ai/claude-agent-sdk"
_TYPE = re.compile(r"^(?:export )?(?:declare )?(?:type|interface) (\w+)")


def types(version: str) -> str:
    """The `sdk.d.ts` of the package that belongs to that CLI version. Raises install.NotInstalled if there is none."""
    path = install.cache() / "sdk" / f"{version}.d.ts"
    if not path.exists():
        content = _fetch(version)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    return path.read_text("utf-8")


def _fetch(version: str) -> str:
    # The CLI's 2.1.N goes with the package's 0.3.N, which says so itself.
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        install.npm("pack", f"{PACKAGE}@0.3.{version.rpartition('.')[2]}", "--pack-destination", scratch, "--silent")
        (path,) = Path(scratch).glob("*.tgz")
        with tarfile.open(path) as packed:
            files = {name: packed.extractfile(f"package/{name}") for name in ("package.json", "sdk.d.ts")}
            text = {name: file.read().decode() for name, file in files.items() if file is not None}
    if json.loads(text["package.json"]).get("claudeCodeVersion") != version:
        raise install.NotInstalled(f"no release of {PACKAGE} says that it is of {version}")
    return text["sdk.d.ts"]


def described(path: str, text: str) -> str:
    """Where the last name of a path is declared: `sdk.d.ts:123, SDKResultSuccess`; empty if nowhere."""
    name = path.rpartition(".")[2].removesuffix("[]")
    declared = re.compile(rf"^\s*'?{re.escape(name)}'?\??:")
    inside = ""
    for number, line in enumerate(text.splitlines(), 1):
        if opened := _TYPE.match(line):
            inside = opened[1]
        if name and declared.match(line):
            return f"sdk.d.ts:{number}, {inside}" if inside else f"sdk.d.ts:{number}"
    return ""
