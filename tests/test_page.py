"""The page at `/`: what it may do, and that its numbers are those of `/v1/usage`, in a real Chromium."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from proxy.http.page import PAGE, POLICY
from proxy.protocol.failures import TABLE
from tests import fake_cli
from tests.browser import Browser
from tests.conftest import Serve, chat
from tests.served import Served

KEYS = {"API_KEYS": "ann:sesame,bob:mellon"}
SESAME = {"authorization": "Bearer sesame"}
PLAN = {
    "type": "rate_limit_event",
    "rate_limit_info": {
        "status": "allowed", "rateLimitType": "five_hour", "resetsAt": int(time.time()) + 7000,
        "unifiedWindows": {
            "five_hour": {"status": "allowed", "utilization": 0.42, "resetsAt": int(time.time()) + 7000},
            "seven_day": {"status": "allowed_warning", "utilization": 0.81, "resetsAt": int(time.time()) + 300_000},
        },
    },
}  # fmt: skip


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


async def test_it_is_open_and_says_nothing(local: Serve) -> None:
    server = await local(api_keys=())
    async with server.client() as client:
        answer = await client.get("/")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.text == PAGE
        assert (await client.get("/", headers={"host": "evil.example"})).status_code == 403


def test_the_policy_lets_nothing_in() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules.pop("connect-src") == "'self'"
    assert rules.pop("img-src") == "data:"
    for name in ("style-src", "script-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules.pop(name))
    assert set(rules.values()) == {"'none'"}
    assert {"default-src", "base-uri", "form-action", "frame-ancestors"} == set(rules)


def test_nothing_is_loaded_from_elsewhere() -> None:
    for tag, attributes in Tags(PAGE).found:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "action"):
            value = attributes.get(name)
            assert value is None or not re.match(r"(?!data:)[a-z]*:?//|[a-z]+:(?!,)", value), (tag, value)
    assert "innerHTML" not in PAGE
    assert "localStorage" not in PAGE


def test_what_helps_is_said_of_failures_that_exist() -> None:
    table = PAGE.split("const HELP = {")[1].split("};")[0]
    named = re.findall(r'(\w+): "', re.sub(r'(?<=: )"[^"]*"', '"', table))
    assert len(named) > 15
    assert set(named) <= {kind.value for kind in TABLE}


in_a_browser = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that needs a key and has answered, refused and failed."""
    tmp_path = tmp_path_factory.mktemp("page")
    with Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state", KEYS, arguments=("--inspect",)) as served:
        steps: list[Any] = [["line", PLAN], ["say", "a secret answer"], ["end"]]
        assert served.chat(chat(steps, temperature=0.5), headers=SESAME).status_code == 200
        assert served.chat(chat("hello <b>bold</b>"), headers={"authorization": "Bearer mellon"}).status_code == 200
        assert served.chat(chat([["exit", 3]]), headers=SESAME).status_code == 502
        assert served.chat({"model": "opus"}, headers=SESAME).status_code == 400
        yield served


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as found:
        yield found


def with_key(browser: Browser, server: Served) -> None:
    """Open the page and give it the key, by keyboard alone."""
    browser.open(f"{server.url}/")
    browser.until("document.body?.dataset.loaded === 'key' && document.activeElement.id === 'key'")
    browser.send("Input.insertText", text="sesame")
    browser.key("Enter", 13, "\r")
    browser.until("document.body.dataset.loaded >= 1")


def rows(browser: Browser, section: str) -> dict[str, list[float]]:
    """The first table of a section: name to exact numbers."""
    script = f"""JSON.stringify([...document.querySelector('#{section} table').querySelectorAll('tbody tr')].map(row =>
        [row.dataset.name, [...row.querySelectorAll('[data-value]')].map(cell => Number(cell.dataset.value))]))"""
    return dict(json.loads(browser.run(script)))


@in_a_browser
def test_the_numbers_are_those_of_usage(browser: Browser, server: Served) -> None:
    with_key(browser, server)
    fields = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "list_price_usd")
    since = int(time.time()) // 86400 * 86400 - 86400 * 3
    report = server.get(f"/v1/usage?since={since}", headers=SESAME).json()
    expected = {group["name"] or "(none)": [group[field] for field in fields] for group in report["by_model"]}
    expected["Total"] = [report["totals"][field] for field in fields]
    for section in ("today", "month"):
        assert rows(browser, section) == expected
    assert report["totals"]["requests"] == 4
    assert report["totals"]["prompt_tokens"] > 0
    script = "[one.dataset.name, one.querySelector('b').textContent, one.querySelector('[role=meter]').ariaValueNow]"
    windows = browser.run(f"JSON.stringify([...document.querySelectorAll('#plan .window')].map(one => {script}))")
    assert json.loads(windows) == [["five_hour", "42%", "0.42"], ["seven_day", "81%", "0.81"]]
    assert browser.run("document.querySelector('#errors').textContent").count("cli_died") == 1
    keys = browser.run("[...document.querySelectorAll('#today table')][1].textContent")
    assert "ann" in keys
    assert "bob" in keys


@in_a_browser
def test_it_keeps_quiet_and_stays_at_home(browser: Browser, server: Served) -> None:
    with_key(browser, server)
    browser.until("Number(document.body.dataset.loaded) >= 2")
    # The first look without a key is answered with 401: Chromium notes that, and nothing else.
    assert [line for line in browser.console if "401" not in line] == []
    assert {url for url in browser.urls if not url.startswith((f"{server.url}/", "data:", "about:"))} == set()
    assert browser.run("fetch('https://example.com/').then(() => 'sent', () => 'refused')") == "refused"
    assert browser.run("JSON.stringify([localStorage.length, document.cookie])") == '[0,""]'
    assert browser.run("sessionStorage.getItem('key')") == "sesame"


@in_a_browser
def test_the_inspector_by_keyboard(browser: Browser, server: Served) -> None:
    with_key(browser, server)
    # Requests of the other key are not shown.
    assert browser.run("document.querySelectorAll('#requests tbody tr').length") == 3
    browser.run("[...document.querySelectorAll('#requests button')].at(-1).focus()")
    browser.key("Enter", 13, "\r")
    browser.until("document.querySelector('#detail').open")
    said = browser.run("document.querySelector('#detail').textContent")
    for words in ("a secret answer", "temperature", "→ cli", "Served", "authorization: (not kept)"):
        assert words in said, words
    assert "sesame" not in said
    curl = browser.run("document.querySelector('#curl').textContent")
    assert curl.startswith(f"curl '{server.url}/v1/chat/completions' \\\n")
    assert "-H 'authorization: Bearer '\"$KEY\"" in curl
    browser.key("Escape", 27)
    browser.until("!document.querySelector('#detail').open")


@in_a_browser
@pytest.mark.parametrize(("width", "height", "phone"), [(360, 740, True), (1280, 900, False)])
@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_on_a_phone_in_dark_and_light(
    browser: Browser, server: Served, tmp_path: Path, width: int, height: int, phone: bool, dark: bool
) -> None:
    browser.look(width=width, height=height, dark=dark, phone=phone)
    with_key(browser, server)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    script = "(style => JSON.stringify([style.color, style.backgroundColor]))(getComputedStyle(document.body))"
    colours = json.loads(browser.run(script))
    text, page = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert (text > page) == dark
    assert abs(text - page) > 450
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        browser.screenshot(Path(folder) / f"page-{width}-{'dark' if dark else 'light'}.png")
    # Everything that can be pressed has a name.
    named = "each => each.textContent.trim() || each.labels?.length"
    assert browser.run(f"[...document.querySelectorAll('button, a, input')].every({named})")


@in_a_browser
def test_a_wrong_key_is_asked_for_again(browser: Browser, server: Served) -> None:
    browser.open(f"{server.url}/")
    browser.until("document.body?.dataset.loaded === 'key'")
    browser.run("document.querySelector('#key').value = 'wrong', document.querySelector('#ask').requestSubmit()")
    browser.until("document.querySelector('#why').textContent.includes('none of this server')")
    assert browser.run("document.querySelector('#main').hidden")
    assert browser.run("sessionStorage.length") == 0
