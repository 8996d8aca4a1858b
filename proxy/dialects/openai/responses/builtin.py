"""The tools of OpenAI's own that the client runs: as the model is offered them, and their calls as items.

A call whose arguments are not of the tool's shape is handed on as a function call: the client decides.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct

from proxy.dialects.openai.responses.types import (
    ApplyPatchCallItem,
    CreateFile,
    DeleteFile,
    ExecAction,
    ItemStatus,
    LocalShellCallItem,
    PatchOperation,
    ShellAction,
    ShellCallItem,
    UpdateFile,
)
from proxy.protocol.plan import Tool

BuiltinName = Literal["local_shell", "shell", "apply_patch"]


class _LocalShell(Struct, frozen=True):
    command: tuple[str, ...]
    env: dict[str, str] = {}
    timeout_ms: int | None = None
    user: str | None = None
    working_directory: str | None = None


class _Patch(Struct, frozen=True):
    type: Literal["create_file", "update_file", "delete_file"]
    path: str
    diff: str = ""


_local_shell: Final = msgspec.json.Decoder(_LocalShell)
_shell: Final = msgspec.json.Decoder(ShellAction)
_patch: Final = msgspec.json.Decoder(_Patch)

TOOLS: Final[dict[BuiltinName, Tool]] = {
    "local_shell": Tool(
        "local_shell",
        "Runs a command on the user's computer. `command` is the program and its arguments; for shell syntax use "
        '`["bash", "-lc", "..."]`.',
        Raw(
            b'{"type":"object","properties":{"command":{"type":"array","items":{"type":"string"},"minItems":1},'
            b'"env":{"type":"object","additionalProperties":{"type":"string"}},'
            b'"timeout_ms":{"type":"integer","minimum":1},"working_directory":{"type":"string"}},'
            b'"required":["command"],"additionalProperties":false}'
        ),
    ),
    "shell": Tool(
        "shell",
        "Runs commands in a shell on the user's computer, one after another.",
        Raw(
            b'{"type":"object","properties":{"commands":{"type":"array","items":{"type":"string"},"minItems":1},'
            b'"timeout_ms":{"type":"integer","minimum":1},"max_output_length":{"type":"integer","minimum":1}},'
            b'"required":["commands"],"additionalProperties":false}'
        ),
    ),
    "apply_patch": Tool(
        "apply_patch",
        "Creates, updates or deletes one file. `diff` is a V4A diff without file headers: for `create_file` every line "
        "of the new file, each with `+` in front; for `update_file` sections that begin with `@@` (optionally followed "
        "by the line of the enclosing class or function), whose lines begin with a space (context), `-` (removed) or "
        "`+` (added), with three lines of context before and after each change. `delete_file` needs no `diff`.",
        Raw(
            b'{"type":"object","properties":{"type":{"type":"string","enum":["create_file","update_file",'
            b'"delete_file"]},"path":{"type":"string"},"diff":{"type":"string"}},"required":["type","path"],'
            b'"additionalProperties":false}'
        ),
    ),
}


def _operation(patch: _Patch) -> PatchOperation:
    if patch.type == "create_file":
        return CreateFile(patch.path, patch.diff)
    return UpdateFile(patch.path, patch.diff) if patch.type == "update_file" else DeleteFile(patch.path)


def call_item(
    tool: BuiltinName, id: str, call_id: str, arguments: str, status: ItemStatus
) -> LocalShellCallItem | ShellCallItem | ApplyPatchCallItem | None:
    """The item of a call; None where the arguments are not of the tool's shape."""
    try:
        if tool == "local_shell":
            local = _local_shell.decode(arguments)
            action = ExecAction(
                command=local.command,
                env=local.env,
                timeout_ms=UNSET if local.timeout_ms is None else local.timeout_ms,
                user=UNSET if local.user is None else local.user,
                working_directory=UNSET if local.working_directory is None else local.working_directory,
            )
            return LocalShellCallItem(id=id, call_id=call_id, action=action, status=status)
        if tool == "shell":
            return ShellCallItem(id=id, call_id=call_id, action=_shell.decode(arguments), status=status)
        operation = _operation(_patch.decode(arguments))
    except (ValueError, RecursionError):
        return None
    if status == "incomplete":
        return None
    return ApplyPatchCallItem(id=id, call_id=call_id, operation=operation, status=status)
