"""The fixtures are clean, and the lint finds each of the defects that it is for."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import launch
from conformance.lint import lint
from conformance.replay import FIXTURES, NEWEST
from proxy.cli.launch import launch as launch_of_proxy
from proxy.settings import Settings

PLAIN = "chat/plain"
SCENARIO, CASSETTE, TRANSCRIPT = f"scenarios/{PLAIN}.toml", f"upstream/{PLAIN}.yaml", f"transcripts/V/{PLAIN}.jsonl"


def test_the_fixtures_are_clean() -> None:
    assert lint() == []


def test_the_newest_recordings_were_launched_as_the_proxy_launches_now() -> None:
    """The only test that a new flag or variable fails: then record one scenario again."""
    recorded = launch.load(FIXTURES / "transcripts" / NEWEST)
    assert recorded is not None
    of_the_run = dict.fromkeys(("PATH", "HOME", "TMPDIR", "CLAUDE_CODE_OAUTH_TOKEN"), "x")
    now = launch_of_proxy("claude", Settings(upstream_url="http://127.0.0.1:1"), of_the_run, "/")
    assert list(now.argv[1:]) == recorded.argv, "python -m conformance record --cli VERSION chat/plain"
    in_its_workspace = {*now.env, "TMPDIR", "XDG_CACHE_HOME"}
    assert sorted(in_its_workspace) == recorded.environment, "python -m conformance record --cli VERSION chat/plain"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scenario with all that belongs to it."""
    root = tmp_path_factory.mktemp("fixtures")
    for name in (
        "scenario.schema.json",
        f"scenarios/{PLAIN}.toml",
        f"upstream/{PLAIN}.yaml",
        f"transcripts/{NEWEST}/{PLAIN}.jsonl",
        f"transcripts/{NEWEST}/asides.jsonl",
        f"transcripts/{NEWEST}/launch.json",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FIXTURES / name, root / name)
    assert lint(root) == []
    return root


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        path = root / name.replace("V", NEWEST)
        content = path.read_text("utf-8")
        assert old in content
        path.write_text(content.replace(old, new), "utf-8")

    return act


def add(name: str, content: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        path = root / name.replace("V", NEWEST)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")

    return act


def move(old: str, new: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        target = root / new.replace("V", NEWEST)
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / old.replace("V", NEWEST)).rename(target)

    return act


def cut(name: str) -> Callable[[Path], None]:
    """A recording that has lost its last lines."""

    def act(root: Path) -> None:
        path = root / name.replace("V", NEWEST)
        rows = path.read_text("utf-8").splitlines(keepends=True)
        path.write_text("".join(rows[: next(n for n, row in enumerate(rows) if "message_stop" in row) + 1]), "utf-8")

    return act


def needs(what: str) -> Callable[[Path], None]:
    """A scenario that needs something, recorded by a CLI that was launched without."""

    def act(root: Path) -> None:
        replace(SCENARIO, "origin = ", f'needs = ["{what}"]\norigin = ')(root)
        replace(TRANSCRIPT, '"needs":[]', f'"needs":["{what}"]')(root)

    return act


def twice(root: Path) -> None:
    """The same scenario under another name."""
    for folder, suffix in (("scenarios", "toml"), ("upstream", "yaml")):
        shutil.copy(root / folder / f"{PLAIN}.{suffix}", root / folder / f"chat/again.{suffix}")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (replace(SCENARIO, "title =", "titel ="), "titel"),
        (replace(SCENARIO, "finish_reason", "finish_raisin"), "finish_raisin"),
        (replace(SCENARIO, "origin = ", 'api = "chatter"\norigin = '), "api: \"chatter\" is not one of"),
        (replace(SCENARIO, "origin = ", 'api = "chatter"\norigin = '), "there is no API 'chatter'"),
        (replace("scenario.schema.json", '"api"', '"apo"'), "run `python -m conformance schema`"),
        (replace(SCENARIO, "origin = ", 'origin = "" # '), "title and origin must say something"),
        (replace(SCENARIO, "[[upstream]]", "[[upstreams]]"), "upstream"),
        (replace(SCENARIO, '"role": "user"', '"role": "system"'), "no text to know the conversation by"),
        (replace(SCENARIO, "[request.expect]\ncontent", "[request.expect]\nstatus = 200\n[request.streamed]\ncontent"),
         "request 1 expects nothing of its answer"),
        (twice, "the same title"),
        (twice, "the same first user text"),
        (twice, "no recording of"),
        (move(CASSETTE, "upstream/chat/other.yaml"), "no cassette"),
        (move(CASSETTE, "upstream/chat/other.yaml"), "belongs to no scenario"),
        (replace(CASSETTE, "interactions:", "interactoins:"), "not a cassette"),
        (replace(CASSETTE, "    body:\n", "    play: {cutt: 1}\n    body:\n"), "cutt"),
        (move(TRANSCRIPT, "transcripts/V/chat/other.jsonl"), "belongs to no scenario"),
        (move(TRANSCRIPT, "transcripts/V/chat/other.jsonl"), "no recording of"),
        (move("transcripts/V", "transcripts/9.9.9"), f"header says {NEWEST}"),
        (move("transcripts/V", "transcripts/9.9.9"), "does not say how this version is launched"),
        (move("transcripts/V/launch.json", "transcripts/V/lunch.json"), "does not say how this version is launched"),
        (replace("transcripts/V/launch.json", '"argv"', '"argw"'), "argw"),
        (replace(SCENARIO, "origin = ", 'needs = ["--tools"]\norigin = '), "the scenario needs ['--tools']"),
        (needs("--nothing"), "lacks --nothing"),
        (replace(TRANSCRIPT, f'"claude_code_version":"{NEWEST}"', '"claude_code_version":"1.2.3"'),
         "the CLI itself says 1.2.3"),
        (replace(TRANSCRIPT, f'"scenario":"{PLAIN}"', '"scenario":"chat/plane"'), "header says chat/plane"),
        (replace(TRANSCRIPT, '"to":"cli"', '"to":"clu"'), "plain.jsonl:2"),
        (cut(TRANSCRIPT), "it ends with stream_event/message_stop, not with result"),
        (replace(SCENARIO, "origin = ", 'ends = "exit"\norigin = '), "that of the scenario with exit"),
        (replace(TRANSCRIPT, "What is the capital", "Bearer abcdefgh12345, what is the capital"), "a secret"),
        (replace(SCENARIO, "What is the capital", "I am ann@company.com. What is the capital"), "an e-mail address"),
        (replace(CASSETTE, "Italy", "/home/ann/Italy"), "a home path"),
        (add("scenarios/notes.txt", ""), "no place for such a file"),
        (add("transcripts/V/chat/empty.jsonl", ""), "belongs to no scenario"),
        (replace(SCENARIO, "origin = ", 'pending = "not yet"\norigin = '), "says it is pending, but is recorded"),
        (move(SCENARIO, "scenarios/Chat/Plain.toml"), "a name is topic/what_it_is"),
    ],
)  # fmt: skip
def test_the_lint_finds(pristine: Path, tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    root = tmp_path / "fixtures"
    shutil.copytree(pristine, root)
    damage(root)
    found = lint(root)
    assert any(words in line for line in found), found
