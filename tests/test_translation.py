"""What is sent for the client's tools, and what comes back for it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from proxy.protocol.aliases import TOOL_NAME, escaped, normalised, tool_names
from proxy.protocol.calls import Written, digest
from proxy.protocol.deltas import Arguments, Delta, Text, ToolCall, ToolEnd
from proxy.protocol.known_tools import KNOWN_TOOLS
from proxy.protocol.plan import Message, Plan, TextBlock, Tool, ToolResultBlock, ToolUseBlock
from proxy.protocol.translation import Heard, Translation
from tests import generate_known_tools


def raw(value: Any) -> Raw:
    return Raw(json.dumps(value, ensure_ascii=False).encode())


def tool(schema: Any, name: str = "tool", description: str = "d") -> Tool:
    return Tool(name, description, raw(schema))


def properties(**named: Any) -> dict[str, Any]:
    return {"type": "object", "properties": named}


def sent(schema: Any) -> Any:
    return json.loads(bytes(Translation([tool(schema)]).tools[0].schema))


def call(arguments: Any, name: str = "tool") -> Message:
    return Message("assistant", (ToolUseBlock("toolu_1", name, raw(arguments)),))


def there(translation: Translation, arguments: Any, name: str = "tool") -> Any:
    block = translation.message(call(arguments, name)).content[0]
    assert isinstance(block, ToolUseBlock)
    return json.loads(bytes(block.input))


def back(translation: Translation, text: str, name: str = "tool", cuts: tuple[int, ...] = ()) -> str:
    translator = translation.arguments(translation.name(name))
    if translator is None:
        return text
    edges = [0, *sorted(cuts), len(text)]
    pieces = [translator.feed(text[start:end]) for start, end in itertools.pairwise(edges)]
    return "".join(pieces) + translator.close()


# ── names of tools ──────────────────────────────────────────────────────────────────────────────────────────


def test_ordinary_tools_are_handed_on_themselves() -> None:
    tools = (tool(properties(q={"type": "string"}), "look_up"), tool(properties(), "b-2"))
    translation = Translation(tools, [call({"q": "x"}, "look_up")])
    assert all(one is other for one, other in zip(translation.tools, tools, strict=True))
    message = call({"q": "x"}, "look_up")
    assert translation.message(message) is message
    assert translation.arguments("look_up") is None


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("ToolSearch", "ToolSearch_tool"),
        ("Bash", "Bash_tool"),
        ("my.tool/x y", "my_tool_x_y"),
        ("はい", "tool"),
        ("Ａgent", "Agent_2"),
        ("x" * 200, "x" * 128),
        ("", "tool"),
    ],
)
def test_a_name_that_cannot_be_sent_has_an_alias(name: str, alias: str) -> None:
    translation = Translation([tool(properties(), name)], [call({}, name)])
    assert translation.tools[0].name == translation.name(name) == alias
    assert translation.tools[0].description == f"d\n\nThis tool is also called `{name}`."
    assert translation.call_name(alias) == name
    block = translation.message(call({}, name)).content[0]
    assert isinstance(block, ToolUseBlock)
    assert block.name == alias


def test_a_tool_that_is_only_in_the_history_has_an_alias_too() -> None:
    translation = Translation([tool(properties(), "x")], [call({}, "Agent")])
    block = translation.message(call({"a": 1}, "Agent")).content[0]
    assert block == ToolUseBlock("toolu_1", "Agent_tool", raw({"a": 1}))


def test_aliases_never_take_the_name_of_another_tool() -> None:
    names = ["a b", "a_b", "a/b", "Bash_tool", "Bash"]
    assert tool_names(names) == {"a b": "a_b_2", "a/b": "a_b_3", "Bash": "Bash_tool_2"}


@given(st.lists(st.one_of(st.text(max_size=140), st.sampled_from(sorted(KNOWN_TOOLS)), st.from_regex(TOOL_NAME))))
def test_every_name_has_one_alias_that_passes(names: list[str]) -> None:
    aliases = tool_names(names)
    all_sent = [aliases.get(name, name) for name in dict.fromkeys(names)]
    assert len(set(all_sent)) == len(all_sent)
    assert all(TOOL_NAME.fullmatch(name) and name not in KNOWN_TOOLS for name in all_sent)
    assert tool_names([*names, *names]) == aliases


# ── schemas as they are sent ────────────────────────────────────────────────────────────────────────────────


def test_arguments_get_names_that_the_api_takes() -> None:
    schema = {
        **properties(**{"$top": {"type": "integer"}, "top": {}, "filter[id]": {"title": "F"}, "Account Number": {}}),
        "required": ["$top", "top"],
        "dependentRequired": {"filter[id]": ["Account Number"]},
        "dependentSchemas": {"$top": {"required": ["filter[id]"]}},
        "not": {"required": ["Account Number"]},
    }
    assert sent(schema) == {
        **properties(
            top_2={"type": "integer", "title": "$top"},
            top={},
            filter_id={"title": "F"},
            Account_Number={"title": "Account Number"},
        ),
        "required": ["top_2", "top"],
        "dependentRequired": {"filter_id": ["Account_Number"]},
        "dependentSchemas": {"top_2": {"required": ["filter_id"]}},
        "not": {"required": ["Account_Number"]},
    }


def test_names_further_down_may_be_any() -> None:
    schema = properties(a=properties(**{"$top": {}, "ａ": {}}))
    assert sent(schema) == properties(a=properties(**{"$top": {}, "a_2": {}}))


def test_values_are_sent_as_the_cli_would_make_them() -> None:
    schema = properties(
        size={
            "enum": ["はい（OK）", "5 km²", "5 km2", "a\u200cb", 1, None],
            "default": "5 km²",
            "examples": ["a\u200cb", "²"],
        },
        one={"const": "①", "pattern": "^①é\\d\\²$"},
        free={"type": "string", "default": "①"},
        some={"items": {"enum": [{"ｋ": "①"}]}, "default": [{"ｋ": "①"}]},
    )
    assert sent(schema) == properties(
        size={
            "enum": ["はい(OK)", "5 km2 (2)", "5 km2", "ab", 1, None],
            "default": "5 km2 (2)",
            "examples": ["ab", "²"],
        },
        one={"const": "1", "pattern": "^\\u2460\\u00e9\\d\\u00b2$"},
        free={"type": "string", "default": "①"},
        some={"items": {"enum": [{"k": "1"}]}, "default": [{"k": "1"}]},
    )


def test_a_property_that_javascript_loses_is_renamed() -> None:
    assert sent(properties(a=properties(__proto__={}, proto={})))["properties"]["a"]["properties"] == {
        "proto_2": {},
        "proto": {},
    }


def test_schemas_that_are_no_objects_are_written_as_objects() -> None:
    assert sent(properties(a=True, b=False)) == properties(a={}, b={"not": {}})


def test_definitions_and_references_stay_together() -> None:
    schema = {
        **properties(**{"$a": {"type": "string"}, "b": {"$ref": "#/properties/$a"}, "c": {"$ref": "#/$defs/％%25"}}),
        "$defs": {"％%": {"$ref": "#/$defs/x"}, "x": {"enum": ["①"]}},
    }
    assert sent(schema) == {
        **properties(a={"type": "string", "title": "$a"}, b={"$ref": "#/properties/a"}, c={"$ref": "#/$defs/%25%25"}),
        "$defs": {"%%": {"$ref": "#/$defs/x"}, "x": {"enum": ["1"]}},
    }
    translation = Translation([tool(schema)])
    assert back(translation, '{"a":"1","c":"1"}') == '{"$a":"1","c":"①"}'


@pytest.mark.parametrize(
    ("reference", "word"),
    [
        ("#/$defs/a", "①"),
        ("#/$defs/%61", "①"),
        ("#/properties/list/prefixItems/0", "①"),
        ("#/properties/list/prefixItems/1", "1"),
        ("#/properties/list/prefixItems/" + "1" * 5000, "1"),
        ("#/properties/list/items/enum", "1"),
        ("#/nowhere", "1"),
        ("#/%ff", "1"),
        ("#anchor", "1"),
        ("https://example.com/", "1"),
    ],
)
def test_references_are_followed_as_far_as_they_lead(reference: str, word: str) -> None:
    schema = {
        **properties(x={"$ref": reference}, list={"prefixItems": [{"const": "①"}], "items": {"enum": ["②"]}}),
        "$defs": {"a": {"const": "①"}},
    }
    assert sent(schema)["properties"]["x"] == {"$ref": reference}
    assert back(Translation([tool(schema)]), '{"x":"1"}') == json.dumps({"x": word}, ensure_ascii=False).replace(
        " ", ""
    )


def test_alternatives_at_the_root_are_put_into_one_argument() -> None:
    schema = {
        "type": "object",
        "$defs": {"x": properties(**{"$x": {"const": "①"}})},
        "oneOf": [{"$ref": "#/$defs/x"}, {"$ref": "#"}, properties(arguments={})],
    }
    assert sent(schema) == {
        "type": "object",
        "$defs": {"x": properties(**{"$x": {"const": "1"}})},
        "properties": {
            "arguments_": {
                "type": "object",
                "oneOf": [{"$ref": "#/$defs/x"}, {"$ref": "#/properties/arguments_"}, properties(arguments={})],
            }
        },
        "required": ["arguments_"],
        "additionalProperties": False,
    }
    translation = Translation([tool(schema)])
    assert there(translation, {"$x": "①"}) == {"arguments_": {"$x": "1"}}
    assert back(translation, ' {"arguments_" : {"$x":"1"} , "more":[{}]}') == '{"$x":"①"}'
    # A model that does without.
    assert back(translation, '{"$x":"1"}') == '{"$x":"①"}'
    assert back(translation, "{}") == "{}"
    assert back(translation, '{"argum') == '{"argum'
    assert back(translation, "[1]") == "[1]"
    assert back(translation, '{"arguments_":7}') == "7"


@pytest.mark.parametrize("schema", [b"[]", b'{"properties":[]}', b"{", b'{"properties":{"\xc3\xa9":' + b"[" * 5000])
def test_what_is_no_schema_is_handed_on(schema: bytes) -> None:
    given = Tool("t", "d", Raw(schema))
    assert Translation([given]).tools == (given,)


def test_keywords_of_a_wrong_form_do_no_harm() -> None:
    schema = {
        "type": "object",
        "properties": {"é": {"enum": 1, "required": "é", "properties": [], "items": 3, "$ref": 4, "anyOf": [1]}},
        "dependencies": {"$é": 3},
        "required": [1, "é"],
        "propertyNames": {"enum": ["é"]},
        "patternProperties": {"^①": {"enum": ["①"]}},
        "examples": 3,
        "$defs": [],
    }
    changed = sent(schema)
    assert changed["required"] == [1, "property"]
    assert changed["propertyNames"] == {"enum": ["property"]}
    assert changed["patternProperties"] == {"^\\u2460": {"enum": ["1"]}}


# ── arguments ───────────────────────────────────────────────────────────────────────────────────────────────

ODD = properties(
    **{
        "$top": {"type": "integer"},
        "size": {"enum": ["はい（OK）", "5 km²", "plain"]},
        "list": {"type": "array", "items": {"anyOf": [{"const": "①"}, properties(**{"ｋ": {"const": "②"}})]}},
        "pair": {"prefixItems": [{"const": "①"}], "items": {"const": "②"}},
        "map": {"additionalProperties": {"enum": ["①"]}},
        "text": {"type": "string"},
        "node": {"$ref": "#/$defs/node"},
    },
)
ODD["$defs"] = {"node": properties(name={"enum": ["ｎ"]}, next={"$ref": "#/$defs/node"})}


def test_words_come_back_where_the_schema_has_them_and_nowhere_else() -> None:
    translation = Translation([tool(ODD)])
    text = (
        '{ "top" : 3.0,"size":"\\u306f\\u3044(OK)", "list":["1",{"k":"2","n":"1"},"2"],"pair":["1","2","1"],'
        '"map":{"top":"1","ｋ":"1"}, "text":"1 5 km2", "node":{"name":"n","next":{"next":{"name":"n"}}},"x":"1"}'
    )
    assert back(translation, text) == (
        '{ "$top" : 3.0,"size":"はい（OK）", "list":["①",{"ｋ":"②","n":"1"},"2"],"pair":["①","②","1"],'
        '"map":{"top":"①","ｋ":"①"}, "text":"1 5 km2", "node":{"name":"ｎ","next":{"next":{"name":"ｎ"}}},"x":"1"}'
    )


def test_a_word_written_as_the_client_has_it_is_the_clients() -> None:
    translation = Translation([tool(ODD)])
    text = '{"$top":1,"size":"はい（OK）"}'
    assert back(translation, text) == text
    assert back(translation, '{"size":"5\u00a0km²"}') == '{"size":"5 km²"}'


@pytest.mark.parametrize(
    "text",
    ['{"size":"5 k', '{"si', "nonsense", '{"size":"a\nb"}', '{"size":"\\ud83d"}', "]}", '{"a":[}', '"', ',":"', ""],
)
def test_what_is_no_json_is_handed_on(text: str) -> None:
    assert back(Translation([tool(ODD)]), text) == text


def test_a_long_text_is_not_held() -> None:
    translator = Translation([tool(properties(a={"anyOf": [{"const": "①"}, {"type": "string"}]}))]).arguments("tool")
    assert translator is not None
    assert translator.feed('{"a":"') == '{"a":'
    assert translator.feed("x" * 100) == '"' + "x" * 100
    assert translator.feed('1"}') == '1"}'
    free = Translation([tool(ODD)]).arguments("tool")
    assert free is not None
    assert free.feed('{"text":"a') == '{"text":"a'


def test_a_schema_that_leads_to_too_many_places_is_translated_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.protocol.vocabulary.MOST_LOOKED_AT", 3)
    translation = Translation([tool(ODD)])
    assert there(translation, {"$top": 1, "size": "5 km²"}) == {"top": 1, "size": "5 km2"}
    assert back(translation, '{"top":1,"node":{"name":"n"}}') == '{"$top":1,"node":{"name":"ｎ"}}'


def test_messages_without_calls_stay_as_they_are() -> None:
    translation = Translation([tool(ODD)])
    message = Message("user", (TextBlock("①"), ToolResultBlock("x", (TextBlock("②"),))))
    assert translation.message(message) is message


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────


def heard(translation: Translation, *deltas: Delta) -> list[Delta]:
    return Heard(translation).take(list(deltas))


def test_an_answer_is_put_into_the_clients_words() -> None:
    translation = Translation([tool(ODD, "Bash"), tool(properties(), "get")])
    said: list[Delta] = [
        Text("Bash_tool"),
        ToolCall(0, "toolu_1", "Bash_tool"),
        ToolCall(1, "toolu_2", "get"),
        Arguments(0, '{"to'),
        Arguments(1, '{"top":1}'),
        Arguments(0, "p"),
        Arguments(0, '":1,"size":"5 km2'),
        ToolEnd(1),
        ToolEnd(0),
        ToolCall(2, "toolu_3", "Bash_tool"),
        Arguments(2, "{}"),
        ToolEnd(2),
    ]
    assert heard(translation, *said) == [
        Text("Bash_tool"),
        ToolCall(0, "toolu_1", "Bash"),
        ToolCall(1, "toolu_2", "get"),
        Arguments(0, "{"),
        Arguments(1, '{"top":1}'),
        Arguments(0, '"$top":1,"size":'),
        ToolEnd(1),
        Arguments(0, '"5 km2'),
        ToolEnd(0),
        ToolCall(2, "toolu_3", "Bash"),
        Arguments(2, "{}"),
        ToolEnd(2),
    ]


def test_deltas_of_ordinary_tools_are_handed_on_themselves() -> None:
    said: list[Delta] = [ToolCall(0, "toolu_1", "get"), Arguments(0, "{}"), ToolEnd(0)]
    assert Heard(Translation([tool(properties(), "get")])).take(said) is said


def test_a_plan_is_carried_out_with_what_is_sent() -> None:
    hello = Message("user", (TextBlock("Hello"),))
    plan = Plan("opus", None, (hello, call({"$top": 1}), hello), (tool(ODD),))
    made = Translation(plan.tools, plan.messages).plan(plan)
    assert made.messages == (hello, call({"top": 1}), hello)
    assert b'"top"' in bytes(made.tools[0].schema)
    plain = Plan("opus", None, (hello,), (tool(properties()),))
    assert Translation(plain.tools, plain.messages).plan(plain) is plain


@pytest.mark.parametrize(
    ("written", "held", "same"),
    [
        ('{"a": 1, "b": "\\u00e9"}', '{"b":"é","a":1.0}', True),
        ('{"a":12345678901234567890}', '{"a":12345678901234567000}', True),
        ('{"a":"\\\\u00e9"}', '{"a":"é"}', False),
        ('{"a":"5"}', '{"a":5}', False),
        ('{"a"', '{"a"', True),
        ("[" * 100_000, "{}", False),
    ],
)
def test_a_call_that_the_cli_has_mended_is_known(written: str, held: str, same: bool) -> None:
    calls = Written()
    calls.take(
        [ToolCall(0, "toolu_1", "x"), Arguments(0, written[:3]), Arguments(0, written[3:]), ToolEnd(0), Text("")]
    )
    assert calls.same("toolu_1", digest(held.encode())) is same
    assert not calls.same("toolu_2", digest(held.encode()))


@pytest.mark.parametrize(
    ("ids", "may_be"),
    [((), True), (("toolu_1",), True), (("call_0",), True), (("toolu_2",), False), (("toolu_1", "toolu_3"), True)],
)
def test_calls_of_a_fork_are_told_by_the_ids_that_upstream_gave(ids: tuple[str, ...], may_be: bool) -> None:
    calls = Written()
    calls.take([ToolCall(0, "toolu_1", "x"), Arguments(0, "{}"), ToolEnd(0)])
    answer = Message("assistant", tuple(ToolUseBlock(id, "x", Raw(b"{}")) for id in ids))
    assert calls.may_be(answer) is may_be
    assert calls.may_be(None)


# ── laws ────────────────────────────────────────────────────────────────────────────────────────────────────

WORDS = st.sampled_from(
    [
        "a",
        "ａ",
        "b",
        "$b",
        "b c",
        "①",
        "1",
        "",
        "\u200b",
        "𝕏",
        "X",
        "é",
        "e\u0301",
        "__proto__",
        "proto",
        "\U0001fae8",
        '"',
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-3, 3)


def objects(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Pairs of a schema and a value that keeps to its words."""
    members = st.dictionaries(WORDS, below, max_size=4)
    return members.map(
        lambda some: (
            {"type": "object", "properties": {name: one[0] for name, one in some.items()}, "required": sorted(some)},
            {name: one[1] for name, one in some.items()},
        )
    )


def arrays(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    listed = st.lists(below, max_size=3)
    return listed.map(lambda some: ({"prefixItems": [one[0] for one in some]}, [one[1] for one in some])) | below.map(
        lambda one: ({"type": "array", "items": {"anyOf": [one[0], {"type": "integer"}]}}, [1, one[1], one[1]])
    )


CONSTANTS = st.recursive(
    WORDS | SCALARS, lambda below: st.lists(below, max_size=2) | st.dictionaries(WORDS, below, max_size=2), max_leaves=4
)
LEAVES: st.SearchStrategy[Any] = (
    st.lists(CONSTANTS, min_size=1, max_size=4).flatmap(
        lambda some: st.sampled_from(some).map(lambda value: ({"enum": some}, value))
    )
    | SCALARS.map(lambda value: ({}, value))
    | st.text(max_size=5).map(lambda value: ({"type": "string"}, value))
)
PAIRS = objects(st.recursive(LEAVES, lambda below: objects(below) | arrays(below), max_leaves=12))


@given(PAIRS, st.booleans(), st.lists(st.integers(0, 400), max_size=4))
def test_there_and_back_is_the_same(pair: tuple[Any, Any], alternatives: bool, cuts: list[int]) -> None:
    schema, arguments = pair
    if alternatives:
        schema = {"type": "object", "allOf": [schema]}
    translation = Translation([tool(schema)])
    changed = there(translation, arguments)
    for ascii in (True, False):
        text = json.dumps(changed, ensure_ascii=ascii)
        whole = back(translation, text)
        assert json.loads(whole) == arguments
        assert back(translation, text, cuts=tuple(min(cut, len(text)) for cut in cuts)) == whole


@given(PAIRS, st.booleans())
def test_the_cli_leaves_alone_what_is_sent(pair: tuple[Any, Any], alternatives: bool) -> None:
    schema = {"type": "object", "anyOf": [pair[0]]} if alternatives else pair[0]
    changed = Translation([tool(schema)]).tools[0].schema
    left = [json.loads(bytes(changed))]
    texts: list[str] = []
    while left:
        one = left.pop()
        if isinstance(one, dict):
            # A title says what the name no longer says; it is text for the model alone.
            left += [value for key, value in one.items() if key != "title"]
            texts += one
            assert "__proto__" not in one
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str):
            texts.append(one)
    # Python may know less of Unicode than the CLI.
    assert all(normalised(text) == text.replace("\U0001fae8", normalised("\U0001fae8")) for text in texts)


@given(st.text(), st.lists(st.integers(0, 60), max_size=3))
def test_any_text_may_be_cut_anywhere(text: str, cuts: list[int]) -> None:
    translation = Translation([tool(ODD)])
    whole = back(translation, text)
    assert back(translation, text, cuts=tuple(min(cut, len(text)) for cut in cuts)) == whole


@given(st.text())
def test_a_text_is_normalised_once(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)
    assert normalised(escaped(text)) == escaped(text)


def test_the_tools_of_a_further_version_are_added_to_the_known_ones() -> None:
    text = generate_known_tools.FILE.read_text("utf-8")
    assert generate_known_tools.extended(text, "2.1.1", ()) == text
    longer = generate_known_tools.extended(text, "99.1.0", ("Invented", "Bash"))
    found: dict[str, frozenset[str]] = {}
    exec(longer, found)
    assert found["KNOWN_TOOLS"] == KNOWN_TOOLS | {"Invented"}
    assert "to 99.1.0.\n" in longer
