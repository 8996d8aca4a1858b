"""How the CLI is started: its arguments, and the whole of its environment.

There are two kinds of children: those with no tool of the CLI's own, and those with its web search alone. The arguments
are the same for every child of a kind and say nothing of any request: nothing of the user's is ever on a command line.
The environment is built from nothing: what is not named here does not reach the child.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.cli.process import Launch
from proxy.protocol.plan import LAUNCHED, SERVER
from proxy.protocol.web_search import WEB_SEARCH
from proxy.settings import Login, Settings

FLAGS: Final = (
    "--print",
    "--input-format", "stream-json",
    "--output-format", "stream-json",
    "--verbose",
    "--include-partial-messages",
    "--setting-sources", "",
    "--strict-mcp-config",
    "--disable-slash-commands",
    "--tools", "",
    "--no-session-persistence",
    "--permission-mode", "dontAsk",
    "--allowedTools", f"mcp__{SERVER}",
    "--model", LAUNCHED,
)  # fmt: skip

# What a child that may search the web is started with instead: that tool and no other.
SEARCHING: Final = {"--tools": WEB_SEARCH, "--allowedTools": f"mcp__{SERVER},{WEB_SEARCH}"}

# Asks for a summary of what the model thinks; left alone it gives short notes of its progress.
SHOWN_THINKING: Final = ("--thinking-display", "summarized")

# What a program needs to run and to reach the network, and where the CLI finds its own login.
PASSED: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS",
    "CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME",
)  # fmt: skip

# What each login needs beyond that. The subscription's token comes from the CLI's own store, or from this variable.
PASSED_FOR_LOGIN: Final[dict[Login, tuple[str, ...]]] = {
    "subscription": ("CLAUDE_CODE_OAUTH_TOKEN",),
    "api-key": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "bedrock": (
        "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
        "ANTHROPIC_BEDROCK_BASE_URL",
    ),
    "vertex": (
        "CLOUD_ML_REGION", "ANTHROPIC_VERTEX_PROJECT_ID", "ANTHROPIC_VERTEX_BASE_URL",
        "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "CLOUDSDK_CONFIG",
    ),
}  # fmt: skip
SET_FOR_LOGIN: Final[dict[Login, dict[str, str]]] = {
    "subscription": {},
    "api-key": {},
    "bedrock": {"CLAUDE_CODE_USE_BEDROCK": "1"},
    "vertex": {"CLAUDE_CODE_USE_VERTEX": "1"},
}

# Variables that would make the CLI bill an API account: kept from it unless `login` is `api-key`.
BILLED: Final = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")

FIXED: Final = {
    # The client's tools keep their own names, and are not hidden behind a search tool.
    "CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1",
    "ENABLE_TOOL_SEARCH": "false",
    # A second lock on the door that `client_composed` shuts: text such as `@/etc/hostname` stays text.
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",
    # The working directory lies where others may write: no file of instructions above it is looked for.
    "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1",
    # A client's tool named `Bash` would bring instructions about co-authors into the user's message.
    "CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS": "1",
    # Descriptions of tools arrive whole: without this they are cut at 4,096 characters. As much as the CLI can count.
    "CLAUDE_CODE_MAX_MCP_DESCRIPTION_LENGTH": "2147483647",
    # An answer comes as a stream or not at all (fixtures errors/stream_error).
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    # A version id that the client names is asked for, not its successor.
    "CLAUDE_CODE_DISABLE_LEGACY_MODEL_REMAP": "1",
    # A model that is out of reach is an error, not another model's answer.
    "CLAUDE_CODE_NO_MODEL_FALLBACK": "1",
    # A conversation that is too long is an error; it is not put in short and answered from that.
    "DISABLE_COMPACT": "1",
    # An answer that does not fit the schema is asked for once more, no oftener (fixtures schema/*).
    "MAX_STRUCTURED_OUTPUT_RETRIES": "2",
    # A tool call is held for as long as its conversation is kept, a day at the most (milliseconds).
    "MCP_TOOL_TIMEOUT": "86400000",
    # Every 10 s the runtime may collect garbage while it is idle, most often in 0.01 s. At its own pace of a second it
    # does so just when an idle process gets its request (0.09 s); every 30 s leaves 5 MB in a process that is kept,
    # none at all 40 MB.
    "BUN_GC_TIMER_INTERVAL": "10000",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
}


def environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The child's whole environment, from the server's."""
    passed = (*PASSED, *PASSED_FOR_LOGIN[settings.login])
    child = {name: environ[name] for name in passed if name in environ}
    child |= SET_FOR_LOGIN[settings.login] | FIXED
    child["CLAUDE_CODE_MAX_RETRIES"] = str(settings.retries)
    if settings.upstream_url is not None:
        child["ANTHROPIC_BASE_URL"] = settings.upstream_url
    return child


def launch(cli: str, settings: Settings, environ: Mapping[str, str], cwd: str) -> Launch:
    """The one way in which children are started, but for those that may search the web. `cwd`: a workspace's."""
    shown = SHOWN_THINKING if settings.reasoning else ()
    return Launch((cli, *FLAGS, *shown), environment(settings, environ), cwd)


def searching(plain: Launch) -> Launch:
    """How a child that may search the web is started, where others are started so."""
    before = (None, *plain.argv)
    argv = tuple(SEARCHING.get(flag or "", value) for flag, value in zip(before, plain.argv, strict=False))
    return Launch(argv, plain.env, plain.cwd)
