"""Whether the CLI has the tools that it must have, and no others, by its own list of them.

It drops a schema or a tool that it cannot take without a word; the list shows it.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.protocol.assembly import STRUCTURED_OUTPUT
from proxy.protocol.failures import About, Failure, Kind
from proxy.protocol.translation import Translation
from proxy.protocol.web_search import WEB_SEARCH


def fault(tools: Sequence[str], translation: Translation, *, searches: bool, in_form: bool) -> Failure | None:
    """What is wrong with the names of the CLI's tools, if anything.

    `searches`: it is to search the web, for which it has a tool of its own, and may have no other. `in_form`: its
    answer is to fit a schema.
    """
    sent = [tool.name for tool in translation.tools]
    if searches and WEB_SEARCH not in tools:
        message = "Claude Code offers no web search with this login."
        return Failure(Kind.BAD_REQUEST, message, about=About.SEARCH)
    if searches and (others := set(tools).difference(sent, (WEB_SEARCH, STRUCTURED_OUTPUT))):
        message = f"The CLI has tools of its own that it must not have here ({', '.join(sorted(others))})."
        return Failure(Kind.CLI_CONFUSED, message)
    if in_form and STRUCTURED_OUTPUT not in tools:
        message = "Claude Code does not take this schema, and does not say why: a simpler one may do."
        return Failure(Kind.BAD_REQUEST, message, about=About.SCHEMA)
    missing = next((translation.call_name(name) for name in sent if name not in tools), None)
    if missing is not None:
        message = f"Claude Code does not take the tool {missing!r}, and does not say why: its name or its parameters."
        return Failure(Kind.BAD_REQUEST, message, about=About.TOOLS)
    return None
