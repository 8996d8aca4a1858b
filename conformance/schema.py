"""Writes fixtures/scenario.schema.json, by which editors complete and check scenarios; `lint` does so too."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from conformance import apis
from conformance.replay import FIXTURES
from conformance.scenario import Scenario

NAME = "scenario.schema.json"


def schema() -> dict[str, Any]:
    """The JSON Schema of a scenario's file: what `conformance.scenario.Scenario` is made of."""
    found = msgspec.json.schema(Scenario)
    parts = found["$defs"]
    whole = parts.pop("Scenario")
    del whole["properties"]["name"]
    whole["required"].remove("name")
    for part in (whole, parts["Exchange"]):
        part["properties"]["api"]["enum"] = [*apis.names()]
        part["properties"]["api"].pop("default")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole, "$defs": parts}


def text() -> str:
    """The file's content."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """`schema`: writes the file."""
    argparse.ArgumentParser(prog="python -m conformance schema", description=__doc__).parse_args(arguments)
    path: Path = FIXTURES / NAME
    path.write_text(text(), "utf-8")
    print(path)
    return 0
