"""`python -m conformance COMMAND`; each command says more with `--help`."""

import importlib
import sys

COMMANDS = {
    "run": "judge a server: ours on recorded answers, or any other by its URL",
    "matrix": "write or check COMPATIBILITY.md",
    "record": "record scenarios with a real CLI, or cassettes from the real API",
    "lint": "check the fixtures",
    "schema": "write the JSON Schema of scenarios, by which editors complete them",
    "bump": "check a CLI version against the newest recorded one",
    "install": "put a CLI version into the cache and print its path",
    "tools": "print the names by which a CLI knows tools",
    "clients": "print the fields of the newest clients that COMPATIBILITY.md has no row for",
    "soak": "many tool conversations on the real CLI over all APIs, with clients that dawdle, leave, fork and edit",
    "bench": "measure the server against the CLI driven without it",
}


def main(arguments: list[str]) -> int:
    """Runs one command; its module is imported only then."""
    if not arguments or arguments[0] not in COMMANDS:
        print("usage: python -m conformance COMMAND …")
        print("\n".join(f"  {name:<8} {what}" for name, what in COMMANDS.items()))
        return 0 if arguments in ([], ["-h"], ["--help"]) else 2
    code: int = importlib.import_module(f"conformance.{arguments[0]}").main(arguments[1:])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
