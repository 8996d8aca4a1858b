"""What has to be right before an answer can come, looked at one by one: `claude-max-api doctor`.

`ok`: as it should be. `warn`: it works, and there is something to know. `FAIL`: it does not work.
The start of the server uses the same pieces.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from proxy import files
from proxy.address import check_address, check_tls, of_ollama
from proxy.checks import Check
from proxy.cli import capacity, find, memory, refusals, unproven
from proxy.cli.capacity import Memory
from proxy.cli.conversation import Conversation, Timeouts
from proxy.cli.find import CliProblem
from proxy.cli.launch import BILLED, environment, launch
from proxy.cli.process import STOP_GRACE
from proxy.cli.workspace import BASE, Workspace, locate
from proxy.cli_check import check_cli
from proxy.protocol.deltas import Failed, Finished, Started
from proxy.protocol.known_lines import NEWEST, NEWEST_JUDGED
from proxy.protocol.plan import Message, Plan, TextBlock
from proxy.settings import SETTINGS, SettingError, Settings, unknown
from proxy.settings.paths import make_private, state_dir
from proxy.settings.sources import Loaded, load

# The newest CLI version with fixtures.
NEWEST_PROVEN: Final = find.shown(NEWEST)
# So many names of what is new about the CLI are shown.
SHOWN: Final = 5
# Seconds within which the live request has to be answered.
LIVE_TIMEOUT: Final = 90.0
LIVE_PLAN: Final = Plan("haiku", None, (Message("user", (TextBlock("Reply with the word ok."),)),), max_tokens=32)


def environment_notes(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    """Variables that a user may expect to matter here, and that do not."""
    for name in BILLED:
        if environ.get(name) and settings.login != "api-key":
            yield Check(
                "warn", "billing", f"{name} is set and is kept from the CLI: nothing is billed to that account.",
                "to have it billed: CLAUDE_PROXY_LOGIN=api-key",
            )  # fmt: skip
    for name, login in (("CLAUDE_CODE_USE_BEDROCK", "bedrock"), ("CLAUDE_CODE_USE_VERTEX", "vertex")):
        if environ.get(name) and settings.login != login:
            yield Check(
                "warn", "login", f"{name} is set and is kept from the CLI.",
                f"to log in that way: CLAUDE_PROXY_LOGIN={login}",
            )  # fmt: skip
    if environ.get("ANTHROPIC_BASE_URL") and settings.upstream_url is None:
        yield Check(
            "warn", "upstream", "ANTHROPIC_BASE_URL is set and is kept from the CLI.",
            "to send requests there: CLAUDE_PROXY_UPSTREAM_URL",
        )  # fmt: skip
    for name in unknown(environ):
        yield Check("warn", "settings", f"{name} is set and is no setting of this program.", "claude-max-api --help")


def setting_checks(loaded: Loaded) -> Iterator[Check]:
    """Each setting that was given: its value, unless that is secret, and where it comes from."""
    yield Check("ok", "settings", f"configuration file: {loaded.path or 'none'}")
    for setting in SETTINGS:
        if given := loaded.given.get(setting.field):
            value = "(not shown)" if setting.secret else given.text
            yield Check("ok", "settings", f"{setting.field} = {value}, from {given.origin}")


# This computer.


def check_state_directory(directory: Path) -> Check:
    """It is made if need be."""
    try:
        make_private(directory)
        status = directory.stat()
    except OSError as error:
        return Check(
            "FAIL", "state", files.in_words(error), "make room there, or choose another with CLAUDE_PROXY_STATE_DIR"
        )
    if status.st_uid != os.geteuid():
        return Check("FAIL", "state", f"{directory} belongs to somebody else.", "CLAUDE_PROXY_STATE_DIR=another")
    narrow = f"chmod 700 {shlex.quote(str(directory))}"
    if status.st_mode & 0o022:
        return Check("FAIL", "state", f"{directory} can be changed by other users.", narrow)
    if not os.access(directory, os.W_OK | os.X_OK):
        return Check("FAIL", "state", f"{directory} cannot be written to.", narrow)
    if status.st_mode & 0o077:
        return Check("warn", "state", f"{directory} can be read by other users.", narrow)
    return Check("ok", "state", f"{directory}: private")


def check_workspace(state: Path, base: Path = BASE) -> Check:
    """The directory where the CLI runs, below `base` or else below the state directory; it is made if need be."""
    try:
        root = locate(state, base)
    except OSError as error:
        return Check("FAIL", "workspace", files.in_words(error), f"rm -r {shlex.quote(str(state / 'workspace'))}")
    message = f"{root / 'empty'}, where the CLI runs: private and empty"
    if root.parent == state:
        message += f"; the model is told this path, as no private directory can be made in {base}."
        return Check("warn", "workspace", message, f"look who owns {base}/workspace-{os.geteuid()}")
    return Check("ok", "workspace", message)


def check_memory(settings: Settings, memory: Memory) -> Check:
    """Whether there is enough for as many processes as the settings ask for. What is `auto` fits by itself."""
    idle = capacity.MAX_IDLE if settings.waiting == "auto" else settings.waiting
    parked = capacity.max_parked(settings.parked, memory, 0, capacity.PARKED_COST)
    fixed = idle, settings.max_conversations, 0 if settings.parked == "auto" else settings.parked
    taken, needed = capacity.taken(idle, settings.max_conversations, parked), capacity.taken(*fixed)
    message = (
        f"{idle} waiting, {settings.max_conversations} answering and {parked} parked processes of the CLI take up to "
        f"{taken >> 20} MB"
    )
    if memory.free is None:
        return Check("ok", "memory", message)
    if memory.free < needed:
        lower = "lower CLAUDE_PROXY_MAX_CONVERSATIONS, CLAUDE_PROXY_PARKED or CLAUDE_PROXY_WAITING"
        return Check("warn", "memory", f"{message}, and {memory.free >> 20} MB are free.", lower)
    return Check("ok", "memory", f"{message}; {memory.free >> 20} MB are free")


# The CLI.


def check_version(version: find.Version) -> Check:
    if version > NEWEST_JUDGED:
        newest = find.shown(NEWEST_JUDGED)
        message = f"{find.shown(version)}, newer than the newest one that this release was tested with ({newest})."
        return Check("warn", "version", message, "to try it: claude-max-api doctor --cli-check")
    return Check("ok", "version", find.shown(version))


def _check_login(settings: Settings, path: str, env: Mapping[str, str]) -> Check:
    try:
        login = find.login(path, env)
        find.check_login(login, settings.login, path)
    except CliProblem as problem:
        return Check("FAIL", "login", problem.message, problem.help)
    return Check("ok" if settings.login != "api-key" else "warn", "login", str(login))


async def _answer(conversation: Conversation, began: float) -> Check:
    model = LIVE_PLAN.model
    await conversation.ask_new(LIVE_PLAN)
    while True:
        for delta in await conversation.deltas(LIVE_TIMEOUT):
            match delta:
                case Started(model=name):
                    model = name
                case Failed(failure=failure):
                    return Check("FAIL", "live", failure.message)
                case Finished():
                    return Check("ok", "live", f"{model} answered after {time.monotonic() - began:.1f} s")


async def check_live(settings: Settings, path: str, environ: Mapping[str, str], root: Path) -> Check:
    """One small real request, through a child that is started as the server starts them."""
    began = time.monotonic()
    workspace = Workspace(root)
    try:
        child = await workspace.start(launch(path, settings, environ, str(workspace.cwd)))
    except OSError as error:
        workspace.close()
        return Check("FAIL", "live", f"The CLI cannot be started: {error.strerror or error}.")
    conversation = Conversation(child, Timeouts(LIVE_TIMEOUT, LIVE_TIMEOUT), settings.system_prompt_mode)
    try:
        check = await _answer(conversation, began)
        taken = memory.pss(child.pid)
        return (
            check if taken is None else replace(check, message=f"{check.message}; its process takes {taken >> 20} MB")
        )
    finally:
        await child.stop(STOP_GRACE)
        workspace.close()


def check_unproven(state: Path, version: find.Version) -> Check | None:
    """What servers have seen this CLI write that no recording of this release has; None: nothing."""
    seen = unproven.read(state / unproven.FILE).get(find.shown(version), [])
    if not seen:
        return None
    shown = ", ".join(map(str, sorted(seen)[:SHOWN])) + (f" and {len(seen) - SHOWN} more" if len(seen) > SHOWN else "")
    message = f"CLI {find.shown(version)} has written what this release was not tested with: {shown}."
    return Check("warn", "cli lines", message, "claude-max-api doctor --cli-check")


def check_refusals(state: Path, version: find.Version) -> Check | None:
    """Which fields of the Messages API models have refused with this CLI; None: none, as far as is known."""
    path = state / refusals.FILE
    known = refusals.Refusals(path, find.shown(version))
    if not known.models:
        return None
    told = [
        f"{model} ({', '.join(sorted({name for one in known.of(model) for name in one}))})" for model in known.models
    ]
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    message = f"models have refused fields, which are left out for them: {', '.join(told[:SHOWN])}{more}"
    return Check("ok", "refusals", f"{message}; delete {path} to have them tried again")


def _checks(
    arguments: Mapping[str, str | None], environ: Mapping[str, str], live: bool, cli_check: bool
) -> Iterator[Check]:
    """All of them, in the order in which they depend on one another; what cannot be looked at is left out."""
    try:
        loaded = load(arguments, environ)
    except SettingError as error:
        yield Check("FAIL", "settings", str(error), "claude-max-api --help")
        return
    settings, environ = loaded.settings, loaded.environ
    yield from setting_checks(loaded)
    yield from environment_notes(settings, environ)
    directory = state_dir(settings, environ, sys.platform)
    state = check_state_directory(directory)
    if settings.tls_cert is not None:
        yield check_tls(settings)
    yield from (check_address(place) for place in (settings, of_ollama(settings)) if place is not None)
    yield from (state, check_workspace(directory), check_memory(settings, memory.read()))
    name = "cli"
    try:
        path = find.find(settings, environ)
        yield Check("ok", name, path)
        name, env = "version", environment(settings, environ)
        version = find.version(path, env)
        yield check_version(version)
    except CliProblem as problem:
        yield Check("FAIL", name, problem.message, problem.help)
        return
    login = _check_login(settings, path, env)
    yield login
    yield from filter(None, (check_unproven(directory, version), check_refusals(directory, version)))
    if cli_check and state.state != "FAIL":
        yield from asyncio.run(check_cli(settings, path, environ, locate(directory)))
    if live and "FAIL" not in (state.state, login.state):
        yield asyncio.run(check_live(settings, path, environ, locate(directory)))


def run(
    arguments: Mapping[str, str | None], environ: Mapping[str, str], live: bool = False, cli_check: bool = False
) -> int:
    """Print a line for each check; the exit code is 0 only if none failed."""
    failed = False
    for check in _checks(arguments, environ, live, cli_check):
        print(check, flush=True)
        failed |= check.state == "FAIL"
    print("Some checks failed." if failed else "All checks passed.")
    return int(failed)
