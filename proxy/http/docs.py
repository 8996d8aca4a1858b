"""The page at `/docs`: an OpenAPI document as HTML to read. One file, no script, nothing from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from proxy.http.page import STYLE

Schema = Mapping[str, Any]


def page(document: Schema) -> str:
    """The whole page."""
    info = document["info"]
    parts = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{_prose(info['summary'])} <a href='openapi.json'>openapi.json</a></p>",
        "<p>What can be asked with GET can be asked with HEAD, too.</p>",
        "<ul>",
        *(
            f"<li><a href='#{one['operationId']}'><code><span class='method'>{method}</span> {escape(path)}</code></a> "
            f"{_prose(one['summary'])}</li>"
            for path, method, one in _operations(document)
        ),
        "</ul>",
    ]
    for path, method, one in _operations(document):
        parts += _operation(path, method, one)
    parts.append("<h2>Types</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts += [f"<h3 id='{name}'>{name}</h3>", f"<p>{_prose(schema.get('description', ''))}</p>", *_fields(schema)]
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{escape(info['title'])}</title><style>{STYLE}</style><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _operations(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    """All but HEAD, which is GET without the body."""
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            if method != "head":
                yield path, method, one


def _operation(path: str, method: str, one: Schema) -> Iterator[str]:
    yield f"<h2 id='{one['operationId']}'><code><span class='method'>{method}</span> {escape(path)}</code></h2>"
    key = "No key is needed." if one.get("security") == [] else ""
    yield f"<p>{_prose(one['summary'])} {_prose(one['description'])} {key}</p>"
    if one.get("parameters"):
        yield "<table><tr><th>Parameter<th>In<th>Type<th></tr>"
        for each in one["parameters"]:
            kind, words = _type(each["schema"]), _prose(_description(each) or _description(each["schema"]))
            yield f"<tr><td><code>{escape(each['name'])}</code><td>{each['in']}<td>{kind}<td>{words}</tr>"
        yield "</table>"
    for content in one.get("requestBody", {}).get("content", {}).values():
        yield f"<p>Body: {_type(content['schema'])}, for example</p>"
        yield f"<pre>{escape(json.dumps(content['example'], indent=2))}</pre>"
    yield "<table><tr><th>Status<th>What<th>Body</tr>"
    for status, response in one["responses"].items():
        bodies = "<br>".join(_content(*content) for content in response.get("content", {}).items())
        yield f"<tr><td>{status}<td>{_prose(response['description'])}<td>{bodies}</tr>"
    yield "</table>"


def _content(media_type: str, content: Schema) -> str:
    if "itemSchema" in content:
        item = content["itemSchema"]
        if "properties" not in item:
            return f"{_type(item)} <small>{media_type}</small>"
        data = item["properties"]["data"]
        values = data["anyOf"][1] if "anyOf" in data else data
        return f"{_type(values['contentSchema'])} <small>{media_type}</small>"
    codes = [each for part in content["schema"].get("allOf", [])[1:] for each in _codes(part)]
    return f"{_type(content['schema'])} <small>{media_type}{' '.join(['', *codes])}</small>"


def _codes(part: Schema) -> Iterator[str]:
    said = part.get("properties", {}).get("error", {}).get("properties", {})
    for code in said.get("code", said.get("type", {})).get("enum", ()):
        if code is not None:
            yield f"<code>{escape(code)}</code>"


def _fields(schema: Schema) -> Iterator[str]:
    if "properties" not in schema:
        yield f"<p>{_type(schema)}</p>"
        return
    required = schema.get("required", ())
    yield "<table><tr><th>Field<th>Type<th></tr>"
    for name, field in schema["properties"].items():
        needed = "" if name in required else " <small>optional</small>"
        yield f"<tr><td><code>{escape(name)}</code>{needed}<td>{_type(field)}<td>{_prose(_description(field))}</tr>"
    yield "</table>"


def _description(field: Schema) -> str:
    found = [field, *field.get("anyOf", ())]
    return " ".join(one["description"] for one in found if "description" in one)


_LIMITS: Final = {
    "minimum": "from {}", "maximum": "to {}", "minItems": "(at least {})", "maxItems": "(at most {})",
}  # fmt: skip


def _type(schema: Schema) -> str:
    """A schema in a few words, with links to the types that have a name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"<a href='#{name}'>{name}</a>"
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return " or ".join(_type(one) for one in schema[keyword])
    if "allOf" in schema:
        return _type(schema["allOf"][0])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    kind = escape(schema.get("type", "anything"))
    limits = [words.format(schema[keyword]) for keyword, words in _LIMITS.items() if keyword in schema]
    kind = " ".join([kind, *([f"({escape(schema['format'])})"] if "format" in schema else []), *limits])
    if schema.get("items"):
        return f"{kind} of {_type(schema['items'])}"
    return kind


def _prose(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text, quote=False))
