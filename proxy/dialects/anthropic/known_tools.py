"""Tools whose form the Messages API knows by their type, and which the client runs: here they are offered by a schema.

A request names them by type alone. Their arguments are those that Anthropic documents: clients find what they expect.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

_PATH: Final = {"type": "string", "description": "Absolute path of a file or directory."}
_FILES: Final[dict[str, Any]] = {
    "path": _PATH,
    "file_text": {"type": "string", "description": "For `create`: the content of the file."},
    "old_str": {"type": "string", "description": "For `str_replace`: the text to replace. It must occur exactly once."},
    "new_str": {"type": "string", "description": "For `str_replace`: the text that takes its place."},
    "insert_line": {
        "type": "integer",
        "description": "For `insert`: the line after which the text is inserted; 0: at the beginning.",
    },
    "insert_text": {"type": "string", "description": "For `insert`: the text to insert."},
    "view_range": {
        "type": "array",
        "items": {"type": "integer"},
        "minItems": 2,
        "maxItems": 2,
        "description": "For `view` of a file: the first and the last line, counted from 1; -1: to the end.",
    },
}


class KnownTool(Struct, frozen=True):
    """What the model is told of a tool: its description and the schema of its arguments, an object."""

    description: str
    schema: Raw


def _known(description: str, properties: dict[str, Any], *required: str) -> KnownTool:
    schema = {"type": "object", "properties": properties, "required": required}
    return KnownTool(description, Raw(msgspec.json.encode(schema)))


def _commands(*names: str) -> dict[str, Any]:
    return {"command": {"type": "string", "enum": names, "description": "What to do."}}


_BASH: Final = _known(
    "Runs a command in a bash session that is kept between calls.",
    {
        "command": {"type": "string", "description": "The command. Needed unless the tool is restarted."},
        "restart": {"type": "boolean", "description": "True restarts the session; otherwise leave it out."},
    },
)
_EDITOR: Final = _known(
    "Shows, creates and edits text files. `view` shows a file with numbered lines, or lists a directory; `create` "
    "writes a file; `str_replace` replaces one text of a file by another; `insert` inserts text after a line.",
    _commands("view", "create", "str_replace", "insert") | _FILES,
    "command",
    "path",
)
_MEMORY: Final = _known(
    "Your memory: files below `/memories`, which outlive this conversation. Before anything else, `view` that "
    "directory for earlier progress. As you work, record in it what is worth keeping: the conversation may end at any "
    "moment, and what is not in your memory is then lost. `view` shows a file or lists a directory; `create` writes a "
    "file; `str_replace` and `insert` edit one; `delete` removes a file or directory; `rename` moves one.",
    _commands("view", "create", "str_replace", "insert", "delete", "rename")
    | _FILES
    | {
        "old_path": {"type": "string", "description": "For `rename`: the present path."},
        "new_path": {"type": "string", "description": "For `rename`: the new path."},
    },
    "command",
)
KNOWN: Final = {
    "bash_20250124": _BASH,
    "text_editor_20250429": _EDITOR,
    "text_editor_20250728": _EDITOR,
    "memory_20250818": _MEMORY,
}
