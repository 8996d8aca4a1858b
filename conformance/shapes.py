"""Judges bodies by the types of an API's own Python package: a field that the types do not know is refused."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs
from pydantic import TypeAdapter, ValidationError

_SHOWN = 5


def misfits(type: TypeAdapter[Any], value: Any) -> list[str]:
    """Where a value is not as a type of an API's own package has it, strictly: one line each, the first few."""
    try:
        type.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:_SHOWN]]
    return []


class Shapes:
    """The bodies of one API by kind.

    `types`: what the package has for each kind. `extensions`: fields that may come beyond the types, by the type's
    name. `always`: fields that the real API always sends, although its types do not require them. `schemas`: kinds
    that the package has no type for, as JSON Schema.
    """

    def __init__(
        self,
        types: Mapping[str, Any],
        *,
        extensions: Mapping[str, Mapping[str, Any]] | None = None,
        always: Mapping[str, Sequence[str]] | None = None,
        schemas: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._types = dict(types)
        self._extensions = extensions or {}
        self._always = always or {}
        self._schemas = dict(schemas or {})
        self._validators: dict[str, jsonschema_rs.Validator] = {}
        self.kinds = (*self._types, *self._schemas)

    def schema(self, kind: str) -> dict[str, Any]:
        """The JSON Schema of a kind."""
        if kind in self._schemas:
            return dict(self._schemas[kind])
        whole = TypeAdapter(self._types[kind]).json_schema()
        parts = {whole.get("title", ""): whole, **whole.get("$defs", {})}
        for name, part in parts.items():
            name = name.partition("[")[0]
            if part.get("type") != "object" or "properties" not in part:
                continue
            part["properties"] |= self._extensions.get(name, {})
            part["required"] = sorted({*part.get("required", ()), *self._always.get(name, ())})
            part["additionalProperties"] = False
        return dict(whole)

    def misshapen(self, kind: str, body: object) -> list[str]:
        """Where a body is not of its kind's shape, one line each."""
        if kind not in self._validators:
            self._validators[kind] = jsonschema_rs.validator_for(self.schema(kind))
        found = []
        for error in self._validators[kind].iter_errors(body):
            path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
            found.append(f"{kind}{path}: {error.message[:200]}")
        return found[:_SHOWN]
