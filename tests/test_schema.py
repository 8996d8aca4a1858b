"""proxy/protocol/schema.py, judging.py and checking.py: what the CLI gets of a schema, what fits it, unwrapping."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from proxy.dialects.openai.chat_body import JsonFormat, SchemaFormat
from proxy.dialects.openai.chat_tools import PlainText
from proxy.dialects.openai.response_format import response_format
from proxy.protocol.checking import fault
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import About, Kind, Rejection
from proxy.protocol.judging import MAX_SCHEMAS, Item, Limit, Verdicts, of_plan, rejection
from proxy.protocol.plan import Plan, Schema, Tool
from proxy.protocol.schema import FREE, MAX_BYTES, _clean, _TooMany, answer_schema
from tests.direct import check

_format: msgspec.json.Decoder[Any] = msgspec.json.Decoder(PlainText | JsonFormat | SchemaFormat)


def asked_for(asked: bytes) -> Schema | None:
    """What a `response_format` comes to."""
    return response_format(decoded(_format, asked, "response_format"))


def checked(asked: bytes) -> Schema | None:
    """The form that is asked for, judged as it is before a request is served."""
    found = asked_for(asked)
    check(Plan("opus", None, (), schema=found))
    return found


def made(schema: Any, **more: Any) -> Schema:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema} | more}
    found = checked(json.dumps(asked).encode())
    assert found is not None
    return found


def misfit(schema: Schema, text: str) -> str | None:
    """Why `text` is no answer to `schema`."""
    return fault(Item("value", schema.source, text))


def odd_arguments(schema: Raw, text: str) -> bool:
    """Whether `text` is not what a tool with this schema takes."""
    return fault(Item("value", schema, text)) is not None


def offered(schema: Any) -> Any:
    """What the CLI gets."""
    return json.loads(bytes(made(schema).offered))


def refused(asked: Any) -> tuple[str | None, str]:
    with pytest.raises(Rejection) as caught:
        checked(asked if isinstance(asked, bytes) else json.dumps(asked).encode())
    assert caught.value.failure.kind is Kind.BAD_REQUEST
    return caught.value.failure.param, caught.value.failure.message


def refused_schema(schema: Any) -> str:
    param, words = refused({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert param == "response_format.json_schema.schema"
    return words


STRING = {"type": "string"}
POINT: dict[str, Any] = {
    "type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x", "y"],
    "additionalProperties": False,
}  # fmt: skip


# What is asked for


def test_text_is_no_schema() -> None:
    assert asked_for(b'{"type":"text"}') is None


@pytest.mark.parametrize(
    "asked",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": None}},
        {"type": "json_schema", "json_schema": {}},
    ],
)
def test_any_object(asked: Any) -> None:
    assert asked_for(json.dumps(asked).encode()) is FREE


def test_what_stands_beside_the_schema_is_skipped() -> None:
    assert made(POINT, strict=True, name="point") == made(POINT)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (5, "response_format"),
        ("json_object", "response_format"),
        ([], "response_format"),
        ({}, "response_format.type"),
        ({"type": "grammar", "grammar": "x"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": None}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": "x"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"name": 5}}, "response_format.json_schema.name"),
    ],
)
def test_a_format_that_is_none(asked: Any, param: str) -> None:
    assert refused(asked)[0] == param


def test_it_is_said_which_formats_there_are() -> None:
    assert refused({"type": "grammar"})[1] == (
        "Invalid value 'grammar', must be one of text, json_object, json_schema: `response_format.type`."
    )


@pytest.mark.parametrize(
    "schema",
    [
        5, "x", [], '{"type":"object"}', {"type": "wrong"}, {"type": 5}, {"properties": []}, {"required": "x"},
        {"pattern": "("}, {"pattern": "(a{1000}){1000}{1000}"}, {"$ref": "#/nope"}, {"$schema": "http://foo/bar"},
        {"$ref": "#/%ff"}, {"allOf": [{"$ref": "#/allOf/x"}]}, {"allOf": [{"$ref": "#/allOf/1"}]},
        {"$ref": "#name", "$anchor": "name"},
        {"minLength": -1}, {"multipleOf": 0}, {"anyOf": []},
    ],
)  # fmt: skip
def test_a_schema_that_is_none(schema: Any) -> None:
    words = refused_schema(schema)
    assert len(words) < 400


@pytest.mark.parametrize("more", [{}, {"$schema": "http://json-schema.org/draft-07/schema#"}])
def test_a_schema_may_have_any_name(more: dict[str, str]) -> None:
    """Some clients name it in plain words where a URI should stand; nothing refers to it."""
    named = {"$id": "Output Format", "type": "object", "properties": {"a": {"$ref": "#/$defs/b"}},
             "$defs": {"b": {"type": "string"}}} | more  # fmt: skip
    schema = made(named)
    assert misfit(schema, '{"a": "x"}') is None
    assert misfit(schema, '{"a": 5}') is not None
    assert fault(Item("tool", schema.source, "")) is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/schema", "https://example.com/x", "file:///etc/passwd", "x.json"])
def test_nothing_is_fetched(url: str) -> None:
    refused_schema({"type": "object", "properties": {"a": {"$ref": url}}})
    refused_schema({"$id": "http://127.0.0.1:1/", "$ref": "x"})


# What the CLI gets


def test_an_object_stays_as_it_is() -> None:
    assert offered(POINT) == POINT
    assert not made(POINT).wrapped


@pytest.mark.parametrize(
    ("schema", "clean"),
    [
        ({"x-foo": "uri", "example": 5}, {}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "urn:x", "$comment": "x"}, {}),
        ({"properties": {"a": {"type": "string", "example": "x"}}}, {"properties": {"a": STRING}}),
        ({"properties": {"a": {"items": {"x-order": 1, "type": "string"}}}}, {"properties": {"a": {"items": STRING}}}),
        ({"items": {"anyOf": [{"example": "uri"}, True]}}, {"items": {"anyOf": [{}, True]}}),
        ({"items": {"oneOf": [{"example": "uri"}, True]}}, {"items": {"anyOf": [{}, True]}}),
        ({"$defs": {"example": {"example": "uri", "type": "string"}}}, {"$defs": {"example": STRING}}),
        ({"additionalProperties": {"nullable": True, "type": "string"}}, {"additionalProperties": STRING}),
        ({"additionalProperties": False}, {"additionalProperties": False}),
        # Data is not a schema: what looks like a keyword in it stays.
        ({"enum": [{"format": "uri"}], "default": {"$id": 5}}, {"enum": [{"format": "uri"}], "default": {"$id": 5}}),
    ],
)
def test_unknown_keywords_are_dropped_wherever_they_stand(schema: Any, clean: Any) -> None:
    schema.setdefault("$schema", "http://json-schema.org/draft-07/schema#")
    assert offered({"type": "object"} | schema) == {"type": "object"} | clean


LOOSER: list[tuple[Any, Any]] = [
    ({"prefixItems": [{"type": "integer"}], "items": False}, [1]),
    ({"not": {"format": "email", "type": "string"}}, "x"),
    ({"not": {"not": {"not": {"$comment": "x", "type": "string"}}}}, 5),
    ({"oneOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "ipv4"}]}, "127.0.0.1"),
    ({"if": {"properties": {"a": {"format": "ipv4"}}}, "then": {"required": ["b"]}}, {"a": "x"}),
    ({"contains": {"type": "string"}, "minContains": 0}, [1]),
    ({"contains": {"type": "string", "format": "ipv4"}, "maxContains": 1}, ["127.0.0.1", "x"]),
    ({"anyOf": [STRING], "oneOf": [{"format": "date"}, {"format": "ipv4"}]}, "127.0.0.1"),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 5, "exclusiveMaximum": True}, 4),
    ({"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "string", "format": "ipv4"}}}, "x"),
]


@pytest.mark.parametrize(("schema", "value"), LOOSER)
def test_what_fits_the_schema_fits_what_the_cli_gets(schema: Any, value: Any) -> None:
    """What is dropped may let more pass, and never less: the CLI would refuse each of the model's answers."""
    for whole, inside in (
        (schema, value),
        (
            {keyword: schema[keyword] for keyword in ("$schema", "$defs") if keyword in schema} | {"items": schema},
            [value],
        ),
    ):
        assert misfit(made(whole), json.dumps(inside)) is None
        jsonschema_rs.validator_for(offered(whole)).validate({"value": inside})


def test_properties_that_are_named_like_keywords_are_kept() -> None:
    names = ["format", "$schema", "$id", "type", "properties", "$ref", "items", "enum", "x", "not", "__proto__"]
    named = {"type": "object", "properties": dict.fromkeys(names, STRING), "required": names}
    schema = {"type": "object", "properties": {"a": named}}
    assert offered(schema) == schema
    assert made(schema).source == Raw(json.dumps(schema, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object"}, "Beside."),
        ({"type": "object", "description": "Within."}, "Within."),
        ({"type": "array", "description": "Within."}, "Beside."),
    ],
)
def test_what_is_said_of_a_schema_is_shown_with_it(schema: Any, said: str) -> None:
    made = answer_schema(Raw(json.dumps(schema).encode()), "schema", "Beside.")
    assert json.loads(bytes(made.offered))["description"] == said
    assert json.loads(bytes(made.source)) == schema


@pytest.mark.parametrize("format", ["date-time", "email", "uri", "uuid", "int32", "frobnicate"])
def test_a_format_is_kept_for_the_model_to_see(format: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": format}}}
    assert offered(schema) == schema


@pytest.mark.parametrize(
    "keyword",
    [
        {"prefixItems": [STRING, {"type": "integer"}]}, {"items": [STRING]}, {"dependentRequired": {"a": ["b"]}},
        {"dependencies": {"a": ["b"]}}, {"dependentSchemas": {"a": STRING}}, {"minContains": 2}, {"maxContains": 2},
        {"unevaluatedProperties": False}, {"unevaluatedItems": STRING}, {"additionalItems": False},
        {"pattern": "^\\d{3}\\-\\d{4}$"}, {"not": STRING}, {"if": STRING, "then": {"minLength": 2}, "else": True},
        {"prefixItems": [STRING], "items": False}, {"contains": STRING, "minContains": 0},
    ],
)  # fmt: skip
def test_the_model_is_told_what_the_cli_does_not_take(keyword: dict[str, Any]) -> None:
    draft = {"$schema": "http://json-schema.org/draft-07/schema#"}
    schema = {"type": "object", "properties": {"a": keyword, "b": keyword | {"description": "Words."}}} | draft
    told = f"Must also fit this JSON Schema: {json.dumps(keyword, separators=(',', ':'))}"
    assert offered(schema)["properties"] == {"a": {"description": told}, "b": {"description": f"Words. {told}"}}


# Each was put to `new RegExp(pattern, "u")`, which is what the CLI's validator does.
PATTERNS = [
    "", "^a|b$", "^[a-z0-9_.+-]+@[^@ ]+$", r"^\d{1,3}(?:,\d{3})*(\.\d+)?$", r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
    "(?<=a)b", r"^[\w\-.]+$", "^[-a]$", "[^a-]", "a*?b+?c??d{2,}?", r"\bx\B", r"[\^\]\-]", "ä🌍.", r"\/",
    r"^([0-9a-fA-F]{8}-[0-9a-fA-F]{4})$",
]  # fmt: skip
ODD_PATTERNS = [
    r"\-", r"\_", r"^\w+\@\w+$", "(?P<a>x)", "(?i)x", r"\Ax\z", r"[\w-.]", r"[a-\d]", r"[\_]", "}", "a{,3}", "x{a}",
    "a**", "^*", r"\b+", "(?#x)", r"\h", "[[:alpha:]]", "(?x: a )", "a++",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_that_javascript_takes_is_kept(pattern: str) -> None:
    schema = {"type": "object", "properties": {"a": {"pattern": pattern}}}
    assert offered(schema) == schema


@pytest.mark.parametrize("pattern", ODD_PATTERNS)
def test_another_pattern_is_told_in_words(pattern: str) -> None:
    assert _clean({"pattern": pattern}, "").keys() == {"description"}


def test_a_pattern_where_no_metaschema_looks_need_not_be_one() -> None:
    draft = {"$schema": "http://json-schema.org/draft-07/schema#"}
    assert "description" in offered({"type": "object", "$defs": {"a": {"pattern": 5}}} | draft)["$defs"]["a"]


def test_an_answer_is_checked_against_what_the_cli_does_not_check() -> None:
    schema = made({"type": "object", "properties": {"a": {"type": "string", "format": "email"}}})
    assert misfit(schema, '{"a":"someone@example.com"}') is None
    assert "email" in (misfit(schema, '{"a":"nobody"}') or "")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": STRING}, STRING, {"anyOf": [POINT, STRING]}, {"enum": [1, "a"]}, {"const": None},
        {"allOf": [POINT]}, POINT | {"anyOf": [POINT, True]}, {"type": ["object", "null"]}, {},
        {"properties": {"a": STRING}}, {"type": "object", "properties": {"first name": STRING}},
        {"type": "object", "properties": {"prénom": STRING}}, {"type": "object", "properties": {"x" * 65: STRING}},
    ],
)  # fmt: skip
def test_a_root_that_is_no_object_is_wrapped(schema: Any) -> None:
    assert made(schema).wrapped
    assert offered(schema) == {
        "type": "object", "properties": {"value": schema}, "required": ["value"], "additionalProperties": False,
    }  # fmt: skip


@pytest.mark.parametrize("schema", [True, False])
def test_a_root_that_is_true_or_false_is_wrapped(schema: bool) -> None:
    assert offered(schema)["properties"] == {"value": schema}
    assert offered(schema)["additionalProperties"] is False


RECURSIVE: list[tuple[Any, str]] = [
    ({"type": "object", "properties": {"next": {"$ref": "#"}}}, '{"next":{"next":{}}}'),
    ({"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": STRING}}, '{"a":"x"}'),
    ({"$ref": "#/$defs/A", "$defs": {"A": POINT}}, '{"x":1,"y":2}'),
    ({"$ref": "#/definitions/A", "definitions": {"A": {"type": "array", "items": STRING}}}, '["a"]'),
    ({"type": "array", "items": {"$ref": "#"}}, "[[],[[]]]"),
    ({"anyOf": [STRING, {"type": "array", "items": {"$ref": "#"}}]}, '["a",["b"]]'),
    ({"anyOf": [STRING, {"type": "array", "items": {"$ref": "#/anyOf/0"}}]}, '["a"]'),
    (
        {
            "anyOf": [{"type": "array", "items": {"$ref": "#/$defs/A"}}],
            "$defs": {"A": {"anyOf": [{"$ref": "#"}, STRING]}},
        },
        '["a",[]]',
    ),
    (
        {"properties": {"a": {"$ref": "#/properties/b/$defs/C"}, "b": {"$defs": {"C": STRING}}}, "type": ["object"]},
        '{"a":"x"}',
    ),
    ({"anyOf": [{"$ref": "#/$defs/A"}, STRING], "$defs": {"A": False}}, '"a"'),
    ({"type": "array", "items": {"$ref": "#/$defs/a~1b%25"}, "$defs": {"a/b%": STRING}}, '["a"]'),
    # A property and a member of an enumeration with that name are no references.
    (
        {"anyOf": [{"properties": {"$ref": STRING}}, {"enum": [{"$ref": "#"}]}, {"const": {"$ref": "#"}}]},
        '{"$ref":"#"}',
    ),
]


@pytest.mark.parametrize(("schema", "fits"), RECURSIVE)
def test_references_lead_to_the_same_place_when_wrapped(schema: Any, fits: str) -> None:
    found = made(schema)
    assert misfit(found, fits) is None
    validator = jsonschema_rs.validator_for(json.loads(bytes(found.offered)), offline=True)
    value = json.loads(fits)
    validator.validate({"value": value} if found.wrapped else value)
    for other in (5, {"value": value}, [{"value": value}], [5]):
        expected = jsonschema_rs.validator_for(schema).is_valid(other)
        assert validator.is_valid({"value": other} if found.wrapped else other) is expected


# Whether an answer fits


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"x":1,"y":2}', None),
        (' {"y":2,\n"x":1} ', None),
        ("", "It is not valid JSON"),
        ("{", "It is not valid JSON"),
        ('{"x":1,"y":2} and that is it', "It is not valid JSON"),
        ('```json\n{"x":1,"y":2}\n```', "It is not valid JSON"),
        ("[" * 100_000, "It is not valid JSON"),
        ("5", 'At the root: 5 is not of type "object".'),
        ('{"x":1}', 'At the root: "y" is a required property.'),
        ('{"x":1,"y":"2"}', 'At the root[\'y\']: "2" is not of type "number".'),
    ],
)
def test_why_an_answer_does_not_fit(text: str, words: str | None) -> None:
    found = misfit(made(POINT), text)
    assert found == words or (words is not None and found is not None and found.startswith(words))


def test_the_words_are_bounded() -> None:
    assert len(misfit(made({"enum": ["x" * 10_000]}), json.dumps("y" * 10_000)) or "") < 400


def test_a_place_deep_inside_is_named() -> None:
    schema = made({"type": "array", "items": {"type": "object", "properties": {"a": STRING}}})
    assert (misfit(schema, '[{},{"a":5}]') or "").startswith("At the root[1]['a']: ")


@pytest.mark.parametrize(
    ("schema", "text", "odd"),
    [
        (POINT, '{"x":1,"y":2}', False), (POINT, "{}", True), (POINT, "", True), ({"type": "object"}, "[]", True),
        ({"$ref": "http://127.0.0.1:1/x"}, "{}", False), ({"type": "wrong"}, "{}", False),
        ({"type": "wrong"}, "{", True),
    ],
)  # fmt: skip
def test_odd_arguments(schema: Any, text: str, odd: bool) -> None:
    assert odd_arguments(Raw(json.dumps(schema).encode()), text) is odd


# What is judged of a request, and what it is told

TOOLS = (Tool("a", "", Raw(b'{"type":"object"}'), "tools[0]"), Tool("b", "", Raw(b"{}"), "tools[1]"))
PLAN = Plan("opus", None, (), TOOLS, schema=Schema(Raw(b"{}"), Raw(b"[]"), False, "format"))


def test_tools_are_judged_before_the_form_of_the_answer() -> None:
    assert of_plan(PLAN) == (
        Item("tool", TOOLS[0].schema), Item("tool", TOOLS[1].schema), Item("format", Raw(b"[]")),
    )  # fmt: skip
    assert of_plan(Plan("opus", None, ())) == ()


@pytest.mark.parametrize(
    ("verdicts", "param", "about", "words"),
    [
        (Verdicts((None, "It is none.", None)), "tools[1]", About.TOOLS, "must be a JSON Schema. It is none."),
        (Verdicts((None, None, "It is none.")), "format", About.SCHEMA, "is not a JSON Schema that can be used: It is"),
        (Verdicts((), Limit.TIME), "tools[0]", About.TOOLS, "It cannot be validated in time."),
        (Verdicts((None, None), Limit.MEMORY), "format", About.SCHEMA, "it takes too much memory."),
        (Verdicts(("It is none.",), Limit.BUSY), "tools[0]", About.TOOLS, "It is none."),
    ],
)
def test_a_schema_that_is_refused_is_named(verdicts: Verdicts, param: str, about: About, words: str) -> None:
    found = rejection(PLAN, verdicts)
    assert found is not None
    assert (found.failure.kind, found.failure.param, found.failure.about) == (Kind.BAD_REQUEST, param, about)
    assert words in found.failure.message


def test_a_schema_that_had_no_turn_may_come_again() -> None:
    found = rejection(PLAN, Verdicts((None,), Limit.BUSY))
    assert found is not None
    assert (found.failure.kind, found.failure.retry_after) == (Kind.QUEUE_WAIT, 1.0)
    assert rejection(PLAN, Verdicts((None,) * 3)) is None


# Hostile schemas


def test_a_schema_is_too_large_before_it_is_looked_at() -> None:
    made({"enum": ["x" * (MAX_BYTES - 20)]})
    assert refused_schema({"enum": ["x" * MAX_BYTES]}) == f"A JSON Schema has at most {MAX_BYTES} bytes."


def test_a_schema_of_too_many_is_not_cleaned_to_its_end() -> None:
    looked_at = 0

    class Counting(list[Any]):
        def __iter__(self) -> Any:
            for one in super().__iter__():
                nonlocal looked_at
                looked_at += 1
                yield one

    with pytest.raises(_TooMany):
        _clean({"anyOf": Counting([{}] * (5 * MAX_SCHEMAS))}, "")
    assert looked_at == MAX_SCHEMAS
    assert refused_schema({"anyOf": [{}] * MAX_SCHEMAS}) == f"It has more than {MAX_SCHEMAS} schemas."


@pytest.mark.parametrize("keyword", ["type", "required", "$ref"])
def test_a_wrong_value_that_is_nested_deeply_is_refused(keyword: str) -> None:
    value: Any = 5
    for _ in range(300):
        value = {"a": value}
    tool = Tool("a", "", Raw(json.dumps({"type": "object", keyword: value}).encode()), "here")
    with pytest.raises(Rejection) as caught:
        check(Plan("opus", None, (), (tool,)))
    assert caught.value.failure.param == "here"
    assert refused_schema({keyword: value})


def nested(depth: int, keyword: str = "items") -> bytes:
    schema = f'{{"{keyword}":' * depth + "{}" + "}" * depth
    return b'{"type":"json_schema","json_schema":{"name":"x","schema":%s}}' % schema.encode()


@pytest.mark.parametrize("depth", [300, 900, 20_000, 200_000])
@pytest.mark.parametrize("keyword", ["items", "not", "x-unknown"])
def test_deep_nesting_is_refused(depth: int, keyword: str) -> None:
    assert "response_format" in (refused(nested(depth, keyword))[0] or "")


def test_nesting_that_can_just_be_read_is_refused() -> None:
    """Whichever gives up first, the decoder or what is made of its value: it is refused, and in words."""
    words = set()
    for depth in range(900, 1010):
        try:
            answer_schema(Raw(b'{"items":' * depth + b"{}" + b"}" * depth), "here")
        except Rejection as rejection:
            words.add(rejection.failure.message)
    assert words
    assert all("nested too deeply" in each or "maximum recursion depth" in each for each in words)


def test_what_is_nested_as_deep_as_can_be_is_offered() -> None:
    found = asked_for(nested(100))
    assert found is not None
    assert bytes(found.offered).count(b"items") == 100


@pytest.mark.parametrize(
    ("pattern", "text"),
    [("^(a+)+$", "a" * 5000 + "!"), (r"^(a+)+\1$", "a" * 60 + "!"), (r"^(?!z)(a+)+$", "a" * 5000 + "!")],
)
def test_patterns_that_explode_are_bounded(pattern: str, text: str) -> None:
    schema = made({"pattern": pattern})
    began = time.process_time()
    misfit(schema, json.dumps(text))
    assert time.process_time() - began < 2


def chain(keyword: str, times: int, length: int, last: Any = STRING) -> Any:
    """Definitions that each lead `times` times to the next one."""
    levels = {f"a{n}": {keyword: [{"$ref": f"#/$defs/a{n + 1}"}] * times} for n in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": levels | {f"a{length}": last}}


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_references_that_multiply_are_refused(keyword: str) -> None:
    """A validator looks at 2^n schemas: what a schema of a few lines may cost is bounded before it is used."""
    made(chain(keyword, 2, 8))
    assert f"more than {MAX_SCHEMAS} schemas" in refused_schema(chain(keyword, 2, 12))
    assert f"more than {MAX_SCHEMAS} schemas" in refused_schema(
        {"items": chain(keyword, 2, 60)["$defs"]["a0"]} | {"$defs": chain(keyword, 2, 60)["$defs"]}
    )
    assert f"more than {MAX_SCHEMAS} schemas" in refused_schema(
        {"properties": {"a": {"not": {"then": {"$ref": "#/$defs/a0"}}}}, "$defs": chain(keyword, 2, 60)["$defs"]}
    )


def test_tools_whose_references_multiply_are_not_checked() -> None:
    schema = Raw(json.dumps({"type": "object"} | chain("anyOf", 2, 60)).encode())
    assert not odd_arguments(schema, '{"a":1}')


@pytest.mark.parametrize("schema", [
    chain("allOf", 1, 10_000), chain("anyOf", 1, 1000), chain("allOf", 9000, 1),
    {"$defs": {f"a{n}": {"items": {"$ref": f"#/$defs/a{n + 1}"}} for n in range(9000)} | {"a9000": STRING}},
    {"type": "object", "properties": {f"a{n}": STRING for n in range(10_000)}},
])  # fmt: skip
def test_what_is_too_large_for_the_validator_is_refused(schema: Any) -> None:
    """It would take its time for it, or run out of stack, and end the whole server."""
    assert len(refused_schema(schema)) < 400


def test_a_schema_may_be_large() -> None:
    names = [f"name{n}" for n in range(3000)]
    schema = made({"type": "object", "properties": dict.fromkeys(names, STRING), "required": names})
    assert misfit(schema, json.dumps(dict.fromkeys(names, "x"))) is None
    assert misfit(made({"enum": names * 10}), '"name2999"') is None


def test_a_recursive_union_is_checked_in_no_time() -> None:
    """To say why such an answer does not fit, the validator builds a tree of 4^n reasons: it is not asked to."""
    variants = {
        kind: {"type": "object", "properties": {"kind": {"const": kind}, "left": {"$ref": "#/$defs/E"}}}
        for kind in ("add", "sub", "mul", "div")
    }
    schema = made({"$ref": "#/$defs/E", "$defs": {"E": {"anyOf": [{"type": "number"}, *variants.values()]}}})
    text = '{"kind":"div","left":' * 100 + "%s" + "}" * 100
    assert misfit(schema, text % "1") is None
    assert misfit(schema, text % '"x"') == "It is no value that the schema allows."


def test_the_reasons_of_a_union_are_counted_before_they_are_told() -> None:
    schema = made({"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "null"}]}})
    assert (misfit(schema, '[1,"x"]') or "").startswith('At the root[1]: "x" is not valid under any of the schemas')


def test_an_answer_that_is_nested_too_deeply_is_a_misfit() -> None:
    deep = "[" * 900 + "5" + "]" * 900
    assert misfit(made(STRING), deep) == "It is nested too deeply."
    assert odd_arguments(Raw(b'{"properties":{"a":{"type":"string"}}}'), f'{{"a":{deep}}}')
    assert len(misfit(made({"type": "array", "items": {"$ref": "#"}}), deep) or "") < 700


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"}, {"allOf": [{"$ref": "#"}]}, {"not": {"$ref": "#"}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [STRING, {"$ref": "#/$defs/a"}]}}},
    ],
)  # fmt: skip
def test_a_schema_that_only_means_itself_is_refused(schema: Any) -> None:
    assert "leads back to itself" in refused_schema(schema)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.sampled_from(['"', "}", "{", ":", "\\", ',"value":', '"}', "日本", "\u2028"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=6) | st.sampled_from(["value", '":', "}"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
KEYWORDS = st.sampled_from(
    ["type", "properties", "items", "anyOf", "$ref", "$defs", "enum", "const", "required", "pattern", "format", "not",
     "additionalProperties", "$id", "$schema", "minimum", "if", "patternProperties", "allOf", "title", "x"]
)  # fmt: skip
VALUES = JSON | st.sampled_from(["object", "array", "string", "#", "#/$defs/a", "#/properties/a", "^a", "uri"])
SCHEMAS = st.recursive(
    VALUES,
    lambda inner: st.dictionaries(KEYWORDS | st.text(max_size=3), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300)
@given(SCHEMAS, JSON)
def test_any_schema_is_usable_or_refused(schema: Any, value: Any) -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    try:
        found = checked(json.dumps(asked).encode())
    except Rejection:
        return
    assert found is not None
    root = json.loads(bytes(found.offered))
    assert root["type"] == "object"
    misfit(found, json.dumps(value))
    odd_arguments(found.offered, json.dumps(value))
