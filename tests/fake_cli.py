"""A small fake of the CLI, driven by the text of the question; for tests of the process, HTTP and serving edges.

The question's text is a JSON list of steps, or else it is answered with "echo: " and itself. Steps:

    ["say", "text"]        a text delta (the message is begun first)
    ["think", "text"]      a thinking delta
    ["end", "reason"]      the message ends, then the turn; without a reason "end_turn"
    ["line", {...}]        this line;  ["raw", "text"] these bytes, as they are
    ["many", n, "text"]    n text deltas
    ["sleep", seconds]     ["exit", code]     ["stderr", "text"]
    ["hang"]               nothing more, but its stdin is read on
    ["past"]               says how many messages of the past it was given, and in which order, as JSON
    ["call", id, name]     a call without arguments, in a message that ends; asks for its result, and says the results
                           as JSON when all have come

Only the standard library, and little of it: it is started for every conversation. `write` makes an executable of it;
what it is sent goes into `<directory>/<pid>.in`, one file for each start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

_MODEL = "claude-opus-5-5"
_RESOLVED = {"haiku": "claude-haiku-5-5"}
_USAGE = {"input_tokens": 10, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 1}


def write(directory: Path, **faults: Any) -> Path:
    """An executable in `directory`. Faults, all at the start:

    slow        seconds before it reads anything
    exit        ends with this code at once; with `stderr` it says so first
    mute        answers nothing at all, ever
    stubborn    ignores SIGTERM and the end of its stdin
    child       starts a grandchild that sleeps, and writes its pid to `<directory>/grandchild`
    refuse      answers this subtype of control request with an error
    limited     says these lines to every question, unless it has an API key or is to use the model `haiku`
    cost        what it says that an answer has cost, by a login with an API key
    price       what it says that all has cost when it is interrupted; without it, it says nothing then
    window      how many tokens each of its models takes; None: it does not say
    uncounted   the Messages API counts nothing for it: it says its own guess for a count
    leaves      ends with this code as soon as it has listed its models
    questions   ends with exit code 9 at the question after so many
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "claude"
    settings = faults | {"directory": str(directory)}
    python = sys.executable
    source = Path(__file__).parent
    path.write_text(
        f"#!{python} -IS\nimport sys\nsys.path.insert(0, {str(source)!r})\n"
        f"from fake_cli import main\nsys.exit(main({settings!r}))\n"
    )
    path.chmod(0o755)
    return path


def told(directory: Path) -> list[list[dict[str, Any]]]:
    """What each start was sent, in the order of their pids."""
    return [
        [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        for path in sorted(directory.glob("*.in"), key=lambda path: int(path.stem))
    ]


def pids(directory: Path) -> list[int]:
    """Every start there has been."""
    return sorted(int(path.stem) for path in directory.glob("*.in"))


class _Fake:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.past: list[str] = []
        self.begun = False
        self.blocked = False
        self.asked = 0
        self.model = ""
        self.said: list[str] = []
        self.calls: list[str] = []
        self.results: dict[str, Any] = {}
        self.log = open(f"{settings['directory']}/{os.getpid()}.in", "ab", buffering=0)  # noqa: SIM115

    def put(self, line: dict[str, Any]) -> None:
        self.bytes(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")

    def bytes(self, data: bytes) -> None:
        while data:
            data = data[os.write(1, data) :]

    def event(self, event: dict[str, Any]) -> None:
        self.put({"type": "stream_event", "event": event, "session_id": "s", "parent_tool_use_id": None})

    def begin(self) -> None:
        if not self.begun:
            self.begun = True
            head = {"id": "msg_1", "type": "message", "role": "assistant", "model": _MODEL, "content": []}
            self.event({"type": "message_start", "message": head | {"stop_reason": None, "usage": _USAGE}})
            self.event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})

    def delta(self, **delta: Any) -> None:
        self.begin()
        self.said.append(delta.get("text", ""))
        self.event({"type": "content_block_delta", "index": 0, "delta": delta})

    def end(self, reason: str) -> None:
        self.begin()
        self.event({"type": "content_block_stop", "index": 0})
        delta = {"stop_reason": reason, "stop_sequence": None}
        self.event({"type": "message_delta", "delta": delta, "usage": _USAGE | {"output_tokens": 12}})
        self.event({"type": "message_stop"})
        result = {"subtype": "success", "is_error": False, "num_turns": 1, "stop_reason": reason}
        if "cost" in self.settings and "ANTHROPIC_API_KEY" in os.environ:
            result["total_cost_usd"] = self.settings["cost"]
        self.put({"type": "result", "result": "".join(self.said), **result})
        self.begun = False
        self.said.clear()

    def take(self, line: dict[str, Any]) -> None:
        if self.settings.get("mute"):
            return
        if line["type"] == "control_request":
            self.control(line)
        elif line["type"] == "control_response":
            result = line["response"]["response"]["mcp_response"]["result"]
            self.results[line["response"]["request_id"]] = [part["text"] for part in result["content"]]
            if len(self.results) == len(self.calls):
                self.delta(type="text_delta", text=json.dumps(self.results, sort_keys=True))
                self.end("end_turn")
        elif line["type"] == "assistant":
            self.past.append("assistant")
        elif line["type"] == "user":
            if line.get("shouldQuery") is False:
                self.past.append("user")
                self.put({"type": "result", "subtype": "success", "is_error": False, "num_turns": 0})
            elif self.blocked:
                self.past.append("user")
                said = {"subtype": "success", "is_error": True, "num_turns": 1, "result": "Prompt is too long"}
                self.put({"type": "result", "terminal_reason": "blocking_limit", **said})
            else:
                self.ask(line["message"]["content"])

    def control(self, line: dict[str, Any]) -> None:
        subtype = line["request"]["subtype"]
        response: dict[str, Any] = {"subtype": "success", "request_id": line["request_id"]}
        if subtype == self.settings.get("refuse"):
            response |= {"subtype": "error", "error": "not today"}
        elif subtype == "apply_flag_settings":
            self.model = line["request"]["settings"].get("model", self.model)
        elif subtype == "list_models":
            models = [
                {"value": "default", "resolvedModel": _MODEL, "displayName": "Default"},
                {"value": "opus", "resolvedModel": _MODEL, "displayName": "Opus"},
                {"value": "haiku", "resolvedModel": _RESOLVED["haiku"], "displayName": "Haiku"},
            ]
            response["response"] = {"models": models}
        elif subtype == "get_context_usage":
            guess = len(self.past) * 5
            true = self.settings.get("uncounted") or line["request"]["detail"] == "summary"
            response["response"] = self.context(guess if true else guess + 7)
        if subtype == "apply_flag_settings":
            env = line["request"]["settings"].get("env", {})
            self.blocked = bool(env.get("CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE", self.blocked))
        self.put({"type": "control_response", "response": response})
        if subtype == "interrupt" and "price" in self.settings:
            said = {"subtype": "error_during_execution", "is_error": True, "num_turns": 2}
            self.put({"type": "result", "total_cost_usd": self.settings["price"], **said})
        if subtype == "list_models" and "leaves" in self.settings:
            os._exit(self.settings["leaves"])

    def context(self, tokens: int) -> dict[str, Any]:
        window = self.settings.get("window", 1_000_000)
        used = {"name": "Messages", "tokens": tokens, "kind": "used"}
        free = {"name": "Free space", "tokens": (window or 0) - tokens, "kind": "free"}
        model = _RESOLVED.get(self.model, _MODEL)
        return {"categories": [used, free], "totalTokens": tokens, "maxTokens": window, "model": model}

    def ask(self, content: list[dict[str, Any]]) -> None:
        self.asked += 1
        if self.asked > self.settings.get("questions", self.asked):
            os._exit(9)
        if "limited" in self.settings and "ANTHROPIC_API_KEY" not in os.environ and self.model != "haiku":
            for line in self.settings["limited"]:
                self.put(line)
            return
        text = "".join(block.get("text", "") for block in content)
        try:
            steps = json.loads(text)
        except ValueError:
            steps = None
        if not isinstance(steps, list):
            steps = [["say", "echo: "], ["say", text], ["end"]]
        calls = [values for name, *values in steps if name == "call"]
        first = [name for name, *_ in steps].index("call") if calls else 0
        for name, *values in steps[:first]:
            self.step(name, values)
        if calls:
            self.call(calls)
        for name, *values in steps[first:]:
            if name != "call":
                self.step(name, values)

    def call(self, calls: list[list[str]]) -> None:
        self.begin()
        for index, (id, name) in enumerate(calls, 1):
            self.calls.append(id)
            head = {"type": "tool_use", "id": id, "name": name, "input": {}}
            self.event({"type": "content_block_start", "index": index, "content_block": head})
            self.event({"type": "content_block_stop", "index": index})
            params = {"name": name, "arguments": {}, "_meta": {"claudecode/toolUseId": id}}
            message = {"jsonrpc": "2.0", "id": index, "method": "tools/call", "params": params}
            request = {"subtype": "mcp_message", "server_name": "client", "message": message}
            self.put({"type": "control_request", "request_id": f"for-{id}", "request": request})
        usage = _USAGE | {"output_tokens": 12}
        self.event({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": usage})
        self.event({"type": "message_stop"})
        self.begun = False

    def step(self, name: str, values: list[Any]) -> None:
        if name == "say":
            self.delta(type="text_delta", text=values[0])
        elif name == "think":
            self.delta(type="thinking_delta", thinking=values[0])
        elif name == "many":
            for _ in range(values[0]):
                self.delta(type="text_delta", text=values[1])
        elif name == "end":
            self.end(values[0] if values else "end_turn")
        elif name == "line":
            self.put(values[0])
        elif name == "raw":
            self.bytes(values[0].encode("utf-8", "surrogateescape"))
        elif name == "sleep":
            time.sleep(values[0])
        elif name == "stderr":
            os.write(2, values[0].encode())
        elif name == "exit":
            os._exit(values[0])
        elif name == "past":
            self.delta(type="text_delta", text=json.dumps(self.past))
            self.end("end_turn")
        else:
            assert name == "hang", name
            self.settings["mute"] = True


def main(settings: dict[str, Any]) -> int:
    if sys.argv[1:] == ["--version"]:
        os.write(1, b"2.1.330 (Claude Code)\n")
        return 0
    if {"auth", "status"} <= set(sys.argv):
        os.write(1, b'{"loggedIn": true, "authMethod": "oauth_token"}\n')
        return 0
    fake = _Fake(settings)
    if "stderr" in settings:
        os.write(2, settings["stderr"].encode())
    if "exit" in settings:
        return int(settings["exit"])
    if settings.get("stubborn"):
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if settings.get("child"):
        import subprocess

        child = subprocess.Popen(["sleep", "600"])
        Path(settings["directory"], "grandchild").write_text(str(child.pid))
    time.sleep(settings.get("slow", 0))
    parts: list[bytes] = []
    try:
        while data := os.read(0, 1 << 20):
            fake.log.write(data)
            parts.append(data)
            if b"\n" in data:
                *lines, rest = b"".join(parts).split(b"\n")
                parts = [rest]
                for line in lines:
                    fake.take(json.loads(line))
    except BrokenPipeError:
        pass
    while settings.get("stubborn"):
        time.sleep(60)
    return 0
