"""`claude-max-api usage`: the report as text."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from proxy.protocol.allowance import REJECTED
from proxy.settings import SettingError
from proxy.settings.paths import usage_file
from proxy.settings.sources import load
from proxy.usage.estimate import WindowEstimate
from proxy.usage.reader import Reader, UsageGroup, UsageSums
from proxy.usage.report import PlanState, RecentUsage, UsageReport, empty, moment, recent, report

# What is shown in a terminal: characters of a bar and of a name, days, rows, and the last moment that is a date there.
BAR: Final = 20
NAME: Final = 24
MAX_DAYS: Final = 14
MAX_ROWS: Final = 20
LAST_SHOWN: Final = 250_000_000_000
# Why conversations were not continued in their processes.
WHY: Final[dict[str, str]] = {
    "continued": "continued by another request",
    "ended": "whose process had ended",
    "evicted": "given up for memory",
    "settings": "with other settings",
    "unfit": "with what is better put in again",
    "unknown": "not known",
}


class _Ink(Struct, frozen=True):
    """What bars are made of."""

    full: str
    empty: str

    def bar(self, share: float) -> str:
        filled = round(BAR * min(max(share, 0.0), 1.0))
        return self.full * filled + self.empty * (BAR - filled)


def _ink(encoding: str | None) -> _Ink:
    try:
        "█░".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _Ink("#", ".")
    return _Ink("█", "░")


def _name(text: str | None, other: str) -> str:
    """A name for a terminal: a client may have chosen it."""
    shown = "".join(char if char.isprintable() else "?" for char in text or other)
    return shown if len(shown) <= NAME else f"{shown[: NAME - 1]}~"


def _count(number: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= size:
            return f"{number / (1000 if unit == 'k' else size):.1f} {unit}"
    return str(number)


def _when(moment: float, now: float) -> str:
    if moment - now < 86_400:
        minutes = max(0, round((moment - now) / 60))
        return f"in {minutes // 60} h {minutes % 60:02} min"
    return datetime.fromtimestamp(min(moment, now + 366 * 86_400)).strftime("on %Y-%m-%d at %H:%M")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""


def _plan(plan: PlanState, worth: WindowEstimate | None, ink: _Ink, now: float) -> Iterator[str]:
    yield "Plan" if plan.seen_at is not None else "Plan: the CLI has not reported it yet"
    for name, window in plan.windows.items() if plan.seen_at is not None else ():
        known = window.utilization
        share = "used up" if window.status == REJECTED else "unknown" if known is None else f"{known:.0%}"
        ends = "" if window.resets_at is None else f"  new {_when(window.resets_at, now)}"
        full = 1.0 if window.status == REJECTED else known or 0.0
        yield f"  {_name(name.replace('_', ' '), ''):<{NAME}}  {ink.bar(full)}  {share:>8}{ends}"
    if worth is not None:
        usd, tokens = worth.list_price_usd_per_percent, _count(round(worth.tokens_per_percent))
        yield f"  Estimate: a percent of five hours has lately been worth {usd:.2f} $ at list price, {tokens} tokens."


def _line(name: str, bar: str, sums: UsageSums) -> str:
    cached = _share(sums.cached_tokens, sums.prompt_tokens)
    continued = _share(sums.served.get("continued", 0), sum(sums.served.values()))
    tokens = f"{_count(sums.prompt_tokens):>9} {cached:>7} {_count(sums.cache_write_tokens):>9}"
    answer = f"{_count(sums.completion_tokens):>9} {sums.list_price_usd:>9.2f}"
    return f"  {name:<{NAME}}  {bar:<{BAR}} {_count(sums.requests):>8} {continued:>9} {tokens} {answer}"


def _groups(title: str, groups: Sequence[UsageGroup], other: str, ink: _Ink) -> Iterator[str]:
    most = max((group.prompt_tokens + group.completion_tokens for group in groups), default=0)
    yield f"{title:<{NAME + 2}}  {'':<{BAR}} requests continued    prompt  cached   written    answer   price $"
    for group in groups:
        share = (group.prompt_tokens + group.completion_tokens) / most if most else 0.0
        yield _line(_name(group.name, other), ink.bar(share), group)


def words(found: UsageReport, ink: _Ink, now: float) -> Iterator[str]:
    """The report, line by line."""
    totals = found.totals
    yield from _plan(found.plan, found.five_hour_estimate, ink, now)
    yield ""
    yield from _groups("By model", found.by_model[:MAX_ROWS], "(no answer)", ink)
    if len(found.by_key) > 1 or any(group.name for group in found.by_key):
        yield ""
        yield from _groups("By key", found.by_key[:MAX_ROWS], "(no key)", ink)
    if len(found.by_api) > 1:
        yield ""
        yield from _groups("By API", found.by_api[:MAX_ROWS], "(not known)", ink)
    yield ""
    days = found.by_day[-MAX_DAYS:]
    yield from _groups("By day" if len(days) == len(found.by_day) else "Last days", days, "", ink)
    yield ""
    yield _line("Total", "", totals)
    ends = {"failed": totals.failed, "cancelled": totals.cancelled, "interrupted": totals.interrupted}
    ends["still running"] = totals.running
    said = ", ".join(f"{count} {end}" for end, count in ends.items() if count)
    if said:
        yield f"  Of these {said}."
    for said, counts, why in (("Served", totals.served, {}), ("Not continued", totals.not_continued, WHY)):
        if counts:
            ways = ", ".join(f"{count} {why.get(way) or _name(way, way)}" for way, count in sorted(counts.items()))
            yield f"  {said}: {ways}."
    if totals.without_price:
        yield f"  For {totals.without_price} the CLI has not said what they would have cost: they are not in the price."
    if totals.savings_usd >= 0.005:
        yield f"  At list price the subscription has saved {totals.savings_usd:.2f} $, its own price aside."


def rows(found: RecentUsage) -> Iterator[str]:
    """The requests, line by line."""
    yield f"{'Began':<19}  {'Model':<{NAME}}  {'Outcome':<18} {'Prompt':>9} {'Answer':>9} {'Seconds':>8} {'$':>9}  Key"
    for row in found.data:
        began = datetime.fromtimestamp(min(row.began, LAST_SHOWN)).strftime("%Y-%m-%d %H:%M:%S")
        took = "" if row.duration is None else f"{row.duration:.1f}"
        price = "" if row.list_price_usd is None else f"{row.list_price_usd:.4f}"
        tokens = f"{_count(row.prompt_tokens):>9} {_count(row.completion_tokens):>9}"
        model, key = _name(row.model or row.model_asked, ""), _name(row.key, "")
        yield f"{began}  {model:<{NAME}}  {row.outcome:<18} {tokens} {took:>8} {price:>9}  {key}".rstrip()


def _bound(arguments: Mapping[str, str | None], name: str) -> float | None:
    try:
        text = arguments.get(name)
        return None if text is None else moment(text, end=name == "until")
    except ValueError as error:
        raise ValueError(f"--{name} {error}") from None


def run(arguments: Mapping[str, str | None], environ: Mapping[str, str], latest: bool) -> int:
    """Print it; the exit code. 1: the file cannot be read; 2: an argument that cannot be used."""
    try:
        loaded = load(arguments, environ)
        since, until = (_bound(arguments, name) for name in ("since", "until"))
        if empty(since, until):
            raise ValueError("--until must be later than --since")
    except (SettingError, ValueError) as error:
        print(f"claude-max-api usage: {error}", file=sys.stderr)
        return 2
    path = usage_file(loaded.settings, loaded.environ, sys.platform)
    ink = _ink(sys.stdout.encoding)
    try:
        with Reader(path) as reader:
            lines = rows(recent(reader, MAX_ROWS)) if latest else words(report(reader, since, until), ink, time.time())
    except sqlite3.Error as error:
        print(f"claude-max-api usage: {path} cannot be read: {error}", file=sys.stderr)
        return 1
    try:
        text = "\n".join((f"{path}\n", *lines))
        print(text if path.exists() else f"Nothing has been used yet: there is no {path}.", flush=True)
    except BrokenPipeError:
        # Its reader has seen enough; the interpreter must not try to say more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
