"""The command: `claude-max-api [PORT]`, also `python -m proxy`.

Exit codes: 0 after a normal end, 2 when the server cannot start (a setting, the CLI, its login, the address), 1 when
`doctor` finds something that fails.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct

import proxy
from proxy import address, demo, doctor, first_start, serve, startup
from proxy.cli import find
from proxy.keys import command as keys
from proxy.protocol.lines import ListedModel
from proxy.protocol.models import FAMILIES
from proxy.service import command as service
from proxy.settings import SETTINGS, Setting, SettingError, Settings, default
from proxy.settings.paths import state_dir
from proxy.settings.sources import load
from proxy.setup import command as setup
from proxy.setup.clients import CLIENTS
from proxy.usage import terminal

CANNOT_START: Final = 2
SUMMARY: Final = "A local server with the APIs of OpenAI, Anthropic and Ollama that drives the Claude Code CLI."
# What stands for the CLI in demo mode.
DEMO_CLI: Final = find.FoundCli(
    "recorded answers, no Claude model is asked",
    find.version_of(demo.version()) or find.FLOOR,
    find.LoginState(True, "demo"),
    demo=True,
)


def _refuse(message: str, help: str = "") -> int:
    """Say on stderr why the server does not start; the exit code."""
    lines = ["What helps:", *(f"    {line}" for line in help.splitlines())] if help else []
    print("\n".join((f"claude-max-api cannot start. {message}", *lines)), file=sys.stderr)
    return CANNOT_START


def welcome(
    settings: Settings, cli: find.FoundCli, port: int, models: Sequence[ListedModel], *, stored_keys: bool = False
) -> str:
    """What is said once the server can be reached. `stored_keys`: there are keys beside those of the settings."""
    needs_key = bool(settings.api_keys) or stored_keys
    base = address.base_url(settings, port)
    where = base if settings.uds is None else address.spoken(settings)
    curl = "curl" if settings.uds is None else f"curl --unix-socket {shlex.quote(where)}"
    names = (model.name for model in settings.models), FAMILIES, (model.value for model in models)
    offered = dict.fromkeys(name for group in names for name in group if name != "default")
    header = " -H 'Authorization: Bearer YOUR_KEY'" if needs_key else ""
    other = address.of_ollama(settings)
    ollama = "" if other is None else f"\n  Ollama    {address.base_url(other, other.port)}"
    body = '{"model": "sonnet", "messages": [{"role": "user", "content": "Say hello."}]}'
    return f"""\
claude-max-api {proxy.__version__} is ready{", in DEMO MODE" if cli.demo else ""}.
  Address   {where}{ollama}
  CLI       {cli.version_text}, {cli.path}
  Login     {cli.login}
  Models    {", ".join(offered)}

Point any client of these APIs at it (claude-max-api setup does it for many):
  Base URL  {base}/v1
            {base} for Anthropic's API
  API key   {"one of this server's keys" if needs_key else "any text; none is needed"}
  Page      {"on a port only" if settings.uds else f"{base}/"}
  Try it    {curl} {base}/v1/chat/completions{header} -H 'Content-Type: application/json' -d {shlex.quote(body)}
Press Ctrl-C to stop."""


def _serve(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    try:
        loaded = load(vars(arguments), environ)
    except SettingError as error:
        return _refuse(str(error), "claude-max-api --help")
    settings, environ = loaded.settings, loaded.environ
    for note in doctor.environment_notes(settings, environ):
        startup.say(f"Note: {note.message} ({note.help})")
    try:
        cli = DEMO_CLI if arguments.demo else first_start.look(settings, environ, first_start.at_a_terminal())
        if settings.fallback in ("api-key", "bedrock", "vertex") and not cli.demo:
            find.look(serve.with_login(settings, settings.fallback), environ)
    except find.CliProblem as problem:
        return _refuse(problem.message, problem.help)
    if not cli.demo and (version := doctor.check_version(cli.version)).state == "warn":
        startup.say(f"Note: the CLI is {version.message} ({version.help})")
    state = state_dir(settings, environ, sys.platform)
    for check in (
        doctor.check_state_directory(state),
        doctor.check_workspace(state),
        address.check_tls(settings),
    ):
        if check.state == "FAIL":
            return _refuse(check.message, check.help)
    with contextlib.ExitStack() as stack:
        sockets = []
        for place in filter(None, (settings, address.of_ollama(settings))):
            try:
                sockets.append(stack.enter_context(address.bound(place)))
            except OSError as error:
                refused = address.address_refused(place, error)
                return _refuse(refused.message, refused.help)
        port = 0 if settings.uds is not None else sockets[0].getsockname()[1]

        def announce(models: Sequence[ListedModel]) -> None:
            startup.say(welcome(settings, cli, port, models, stored_keys=bool(loaded.stored_keys)))

        return serve.run(
            loaded, cli, sockets, announce, lambda: load(vars(arguments), os.environ), inspect=arguments.inspect
        )


def _doctor(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    return doctor.run(vars(arguments), environ, arguments.live, arguments.cli_check)


def _usage(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    return terminal.run(vars(arguments), environ, arguments.recent)


class Command(Struct, frozen=True):
    """A sub-command: what it is for, what it does, its own flags, without and with a value, and arguments without a
    dash that may follow it, all with their help; and the settings that matter to it."""

    help: str
    run: Callable[[argparse.Namespace, Mapping[str, str]], int]
    flags: Mapping[str, str] = {}
    values: Mapping[str, str] = {}
    positional: Mapping[str, str] = {}
    settings: tuple[Setting, ...] = SETTINGS


def _only(*fields: str) -> tuple[Setting, ...]:
    return tuple(setting for setting in SETTINGS if setting.field in fields)


COMMANDS: Final = {
    "serve": Command(
        "Without a command it serves until told to stop.",
        _serve,
        {
            "--demo": "Serve recorded answers, without any CLI or login, to try a client.",
            "--inspect": "Keep the texts of the latest requests in memory, to look at them on the page.",
        },
    ),
    "doctor": Command(
        "Look at everything that an answer needs, a line for each.",
        _doctor,
        {
            "--live": "Also send one tiny real request.",
            "--cli-check": "Also try this very CLI with scripted answers, offline and without a login.",
        },
    ),
    "usage": Command(
        "Show what has been used, and what the plan has left.",
        _usage,
        {"--recent": "Show the latest requests instead."},
        {
            "--since": "Requests from then on: 2026-08-01, or a date with a time.",
            "--until": "Requests up to then; a date is the end of that day.",
        },
        settings=_only("state_dir", "usage_file", "config"),
    ),
    "setup": Command(
        "Set a client up for this server; without a name: list the clients.",
        setup.run,
        {
            "--print": "Only show what would be written.",
            "--yes": "Write without asking.",
            "--restore": "Undo it: put the client's files back as they were before.",
        },
        {
            "--url": "The server's address as the client reaches it, such as http://host.docker.internal:3456.",
            "--file": "The client's configuration file, if it is not where it usually is.",
        },
        {"client": f"One of {', '.join(client.name for client in CLIENTS)}."},
        _only("host", "api_keys", "tls_cert", "tls_key", "uds", "config"),
    ),
    "keys": Command(
        "Make, list and revoke keys that clients must send; a running server takes them at once.",
        keys.run,
        values={
            "--requests-per-minute": "For add: most requests that the key may send in a minute.",
            "--tokens-per-day": "For add: tokens, input and output, that it may use in a day.",
            "--usd-per-day": "For add: what its answers may cost in a day at list price, in dollars.",
        },
        positional={"action": f"One of {', '.join(keys.ACTIONS)}.", "name": "The key's name."},
        settings=_only("state_dir", "usage_file", "config"),
    ),
    "service": Command(
        "Keep the server running as a service of yours (systemd, launchd): install, status, logs, reload, remove.",
        service.run,
        positional={"action": f"One of {', '.join(service.ACTIONS)}."},
        settings=_only("config"),
    ),
}


def _variable(setting: Setting) -> str:
    value = default(setting)
    return f"{setting.variable}, default {value}" if value else setting.variable


def _help(setting: Setting) -> str:
    return f"{setting.help.replace('`', '')} [{_variable(setting)}]"


def _epilog(settings: Sequence[Setting]) -> str:
    lines = ["commands (claude-max-api COMMAND --help tells more):"]
    lines += [f"  {name:<7} {command.help}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "Each setting is also an environment variable, and a key of the configuration file. Arguments take precedence",
        "over environment variables, and those over the file. Without an argument:",
    ]
    for setting in settings:
        if setting.argument is None:
            lines += [f"  {_variable(setting)}", f"        {setting.help.replace('`', '')}"]
    return "\n".join(lines)


def _parser(name: str) -> argparse.ArgumentParser:
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog="claude-max-api" if name == "serve" else f"claude-max-api {name}",
        description=f"{SUMMARY} {command.help}" if name == "serve" else command.help,
        epilog=_epilog(command.settings),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=8, width=100),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"claude-max-api {proxy.__version__}")
    for flag, text in command.flags.items():
        parser.add_argument(flag, action="store_true", help=text)
    for flag, text in command.values.items():
        parser.add_argument(flag, metavar="VALUE", help=text)
    for word, text in command.positional.items():
        parser.add_argument(word, nargs="?", metavar=word.upper(), help=text)
    for setting in command.settings:
        if setting.argument is not None and setting.argument.startswith("--"):
            parser.add_argument(setting.argument, dest=setting.field, metavar="VALUE", help=_help(setting))
        elif setting.argument is not None:
            parser.add_argument(setting.field, nargs="?", metavar=setting.argument.upper(), help=_help(setting))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words.pop(0) if words and words[0][:1].isalpha() else "serve"
    if name not in COMMANDS:
        _parser("serve").error(f"there is no command {name!r}, but {', '.join(COMMANDS)}")
    startup.open_standard_streams()
    try:
        with startup.orderly_termination():
            return COMMANDS[name].run(_parser(name).parse_args(words), os.environ)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
