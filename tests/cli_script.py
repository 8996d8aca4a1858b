"""A CLI that is a few lines of shell: it says a version and a login, and no more unless it is told to."""

from __future__ import annotations

from pathlib import Path

# Said by 2.1.330 and 2.1.300 (`claude --setting-sources "" auth status --json`), shortened.
SUBSCRIPTION = '{"loggedIn": true, "authMethod": "claude.ai", "email": null, "subscriptionType": "max"}'
TOKEN = '{"loggedIn": true, "authMethod": "oauth_token", "apiProvider": "firstParty", "loginExpiresAt": null}'
MANAGED_KEY = '{"loggedIn": true, "authMethod": "api_key", "apiKeySource": "/login managed key"}'
ENVIRONMENT_KEY = '{"loggedIn": true, "authMethod": "api_key", "apiKeySource": "ANTHROPIC_API_KEY"}'
CLOUD = '{"loggedIn": true, "authMethod": "third_party", "apiProvider": "bedrock"}'
LOGGED_OUT = '{"loggedIn": false, "authMethod": "none"}'


def cli_script(
    path: Path,
    version: str = "echo '2.1.330 (Claude Code)'",
    login: str = SUBSCRIPTION,
    code: int = 0,
    otherwise: str = "exit 1",
) -> Path:
    """A CLI that runs the shell command `version` for its version, says `login`, and `otherwise` runs that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""#!/bin/sh
case "$*" in
--version) {version} ;;
"--setting-sources  auth status --json") env > "$0.env"; pwd > "$0.cwd"; cat <<'END'
{login}
END
exit {code} ;;
*) {otherwise} ;;
esac
"""
    )
    path.chmod(0o755)
    return path
