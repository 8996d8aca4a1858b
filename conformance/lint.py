"""Checks the fixtures: that every file is what it says, belongs to something, and holds nothing private."""

import argparse
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import jsonschema_rs

from conformance import cassettes, launch, schema, transcript
from conformance import scenario as scenarios
from conformance.launch import Launch
from conformance.player import lacking
from conformance.replay import FIXTURES
from conformance.scenario import Scenario

_ALONE = ("README.md", schema.NAME, "relied_on.json", "versions.jsonl")
_NAME = re.compile(r"[a-z0-9_]+/[a-z0-9_]+")


def lint(root: Path = FIXTURES) -> list[str]:
    """Everything that is wrong with the fixtures below this folder, one line each."""
    return [*_files(root), *_schema(root), *_scenarios(root), *_cassettes(root), *_transcripts(root)]


def main(arguments: Sequence[str]) -> int:
    """`lint`: prints what is wrong with the fixtures; exit code 1 if anything is."""
    argparse.ArgumentParser(prog="python -m conformance lint", description=__doc__).parse_args(arguments)
    found = lint()
    print("\n".join(found) if found else "the fixtures are clean")
    return 1 if found else 0


def _files(root: Path) -> Iterator[str]:
    """Nothing lies about that no rule covers, and nothing private is in any file."""
    for path in sorted(root.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(root)
        known = {"scenarios": ".toml", "upstream": ".yaml", "transcripts": ".jsonl"}.get(name.parts[0])
        if path.suffix != known and not (name.as_posix() in _ALONE or name.match(f"transcripts/*/{launch.FILE}")):
            yield f"{name}: no place for such a file"
            continue
        yield from (f"{name}: holds {found}" for found in transcript.private(path.read_text("utf-8", "replace")))


def _schema(root: Path) -> Iterator[str]:
    """The schema is that of this package, and every scenario fits it."""
    path = root / schema.NAME
    if not path.exists() or path.read_text("utf-8") != schema.text():
        yield f"{schema.NAME} is not that of conformance/scenario.py: run `python -m conformance schema`"
        return
    validator = jsonschema_rs.validator_for(schema.schema())
    for file in sorted((root / "scenarios").rglob("*.toml")):
        try:
            table = tomllib.loads(file.read_text("utf-8"))
        except tomllib.TOMLDecodeError:
            continue  # said of the scenario
        for error in validator.iter_errors(table):
            where = ".".join(str(step) for step in error.instance_path)
            yield f"{file.relative_to(root)}: {where or 'the whole'}: {error.message[:200]}"


def _loaded(root: Path) -> tuple[dict[str, Scenario], list[str]]:
    good, bad = {}, []
    for path in sorted((root / "scenarios").rglob("*.toml")):
        try:
            one = scenarios.load(path, root / "scenarios")
            good[one.name] = one
        except ValueError as fault:
            bad.append(str(fault).replace(f"{root}/", ""))
    return good, bad


def _scenarios(root: Path) -> Iterator[str]:
    known, bad = _loaded(root)
    yield from bad
    titles, starts = defaultdict(list), defaultdict(list)
    for name, one in known.items():
        titles[one.title.casefold().rstrip(".")].append(name)
        starts[one.start].append(name)
        if not _NAME.fullmatch(name):
            yield f"{name}: a name is topic/what_it_is, in small letters"
        if not one.title.strip() or not one.origin.strip():
            yield f"{name}: title and origin must say something"
        if not one.modes or not one.request or not one.upstream or not all(one.upstream):
            yield f"{name}: nothing asked, or nothing expected at the Messages API"
        for number, exchange in enumerate(one.request, 1):
            told = exchange.expect.told()
            if not told or told == {"status": 200}:
                yield f"{name}: request {number} expects nothing of its answer"
        if not (root / "upstream" / f"{name}.yaml").exists():
            yield f"{name}: no cassette"
    yield from (f"{', '.join(names)}: the same title" for names in titles.values() if len(names) > 1)
    yield from (f"{', '.join(names)}: the same first user text" for names in starts.values() if len(names) > 1)


def _cassettes(root: Path) -> Iterator[str]:
    known, _ = _loaded(root)
    for path in sorted((root / "upstream").rglob("*.yaml")):
        name = path.relative_to(root / "upstream").with_suffix("").as_posix()
        if not (root / "scenarios" / f"{name}.toml").exists():
            yield f"upstream/{name}: belongs to no scenario"
        try:
            cassette = cassettes.load(path)
        except ValueError as fault:
            yield str(fault).replace(f"{root}/", "")
            continue
        if name in known and len(cassette.interactions) < len(known[name].upstream):
            yield f"upstream/{name}: fewer answers than the scenario expects requests"


def _transcripts(root: Path) -> Iterator[str]:
    known, _ = _loaded(root)
    versions = transcript.versions(root / "transcripts")
    recorded = defaultdict(set)
    for version in versions:
        folder = root / "transcripts" / version
        launched = _launch(folder)
        if isinstance(launched, str):
            yield launched.replace(f"{root}/", "")
        for path in transcript.every(folder):
            name = path.relative_to(folder).with_suffix("").as_posix()
            scenario = re.sub(r"\.\d+$", "", name)
            recorded[version].add(scenario)
            process = int(name.rpartition(".")[2]) - 1 if name != scenario else 0
            where = f"transcripts/{version}/{name}"
            if scenario not in known:
                yield f"{where}: belongs to no scenario"
                continue
            try:
                one = transcript.read(path)
            except ValueError as fault:
                yield str(fault).replace(f"{root}/", "")
                continue
            yield from (f"{where}: {line}" for line in _one(one, version, known[scenario], process))
            if isinstance(launched, Launch) and (
                lost := min(
                    (
                        lacking(one.header.needs, argv, launched.environment)
                        for argv in (launched.argv, launched.searching)
                    ),
                    key=len,
                )
            ):
                yield f"{where}: {launch.FILE} lacks {', '.join(lost)}, which the scenario needs"
    for name, wanted in known.items():
        if not versions or name not in recorded[versions[-1]]:
            if not wanted.pending:
                yield f"{name}: no recording of {versions[-1] if versions else 'any version'}"
        elif wanted.pending:
            yield f"{name}: says it is pending, but is recorded"


def _launch(folder: Path) -> Launch | str:
    """How the version of that folder was launched, or what is wrong with that."""
    try:
        one = launch.load(folder)
    except ValueError as fault:
        return str(fault)
    if one is None or one.cli != folder.name or not one.argv or not one.environment or not one.initialize:
        return f"transcripts/{folder.name}: {launch.FILE} does not say how this version is launched"
    return one


def _one(one: transcript.Transcript, version: str, scenario: Scenario, process: int) -> Iterator[str]:
    header = one.header
    if header.cli != version:
        yield f"header says {header.cli}"
    if header.scenario != scenario.name:
        yield f"header says {header.scenario}"
    if header.ends != scenario.ending(process):
        yield f"it ends with {header.ends}, that of the scenario with {scenario.ending(process)}"
    if header.needs != scenario.needs:
        yield f"it was recorded for {header.needs}, the scenario needs {scenario.needs}"
    said = {
        line.line["claude_code_version"]
        for line in one.lines
        if isinstance(line.line, dict) and "claude_code_version" in line.line
    }
    if said - {version}:
        yield f"the CLI itself says {', '.join(sorted(said))}"
    if not {line.to for line in one.lines} >= {"cli", "proxy"}:
        yield "nothing crossed in one of the directions"
    if unended := transcript.unended(one):
        yield unended
