"""The values of arguments: as the template writes them they come back, as models drift they are understood."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chat.test_turn_parser import parse, turn
from flashmoe.chat.arguments import Signatures, forgiving_value, python_value
from flashmoe.chat.schema import fault
from flashmoe.chat.schema_resolution import resolve
from flashmoe.chat.tool_calls import ToolCall

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def schemas(*documents):
    return [resolve(document).schema for document in documents]


def kinds(*types):
    return schemas({"type": list(types)})


@given(JSON.filter(lambda value: not isinstance(value, str)))
@example({"it's": [True, None, "\"'\\\n"]})
def test_what_python_prints_is_taken_where_it_is_of_the_type(value):
    assert python_value(repr(value), default="no") == value
    assert forgiving_value(repr(value), kinds("array", "object", "boolean", "null", "number")) == value


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("{'a': [True, None]}", ["object"], {"a": [True, None]}),
        ("('a', 1)", ["array"], ["a", 1]),
        ("True", ["boolean"], True),
        ("None", ["integer", "null"], None),
        ("{'a': 1}", ["object", "string"], "{'a': 1}"),
        ("{'a', 'b'}", ["array", "object"], "{'a', 'b'}"),
        ("{1: 2}", ["object"], "{1: 2}"),
        ("[" * 2000, ["array"], "[" * 2000),
        ("[" * 60 + "]" * 60, ["array"], json.loads("[" * 60 + "]" * 60)),
        ("['" + "x" * 70_000 + "']", ["array"], "['" + "x" * 70_000 + "']"),
        ("['\\d']", ["array"], "['\\d']"),
        ("__import__('os')", ["object"], "__import__('os')"),
        ("9" * 5000, ["integer"], "9" * 5000),
        ("soon", ["integer"], "soon"),
        ('{"a": 1, "a": [2]}', ["object"], {"a": [2]}),
        ('{"a": NaN}', ["object"], '{"a": NaN}'),
    ],
)
def test_drift_in_a_value(text, types, value, recwarn):
    assert forgiving_value(text, kinds(*types)) == value
    assert not recwarn.list


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"anyOf": [{"enum": ["1", "2"]}, {"type": "integer", "minimum": 10}]}, "1", "1"),
        ({"anyOf": [{"enum": ["1", "2"]}, {"type": "integer", "minimum": 10}]}, "12", 12),
        ({"anyOf": [{"enum": ["1", "2"]}, {"type": "integer", "minimum": 10}]}, "5", 5),
        ({"enum": ["red", None]}, "null", None),
        ({"enum": ["red", "null"]}, "null", "null"),
        ({"const": "5"}, "5", "5"),
        ({}, "5", "5"),
        ({"description": "anything"}, "[1]", "[1]"),
        ({"nullable": True, "type": "integer"}, "null", None),
        ({"type": ["string", "object"], "required": ["a"]}, '{"b": 1}', '{"b": 1}'),
    ],
)
def test_where_text_and_json_are_allowed_what_fits_is_taken(schema, text, value):
    assert forgiving_value(text, schemas(schema)) == value


PROPERTIES = {"city": {"type": "string"}, "days": {"$ref": "#/$defs/N"}, "near": {"properties": {"km": {}}}}
PARAMETERS = {"type": "object", "properties": PROPERTIES, "$defs": {"N": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "weather", "parameters": {"city": "Lyon", "days": 3}}\n</tool_call>',
        "<tool_call>\n{'name': 'weather', 'arguments': {'city': 'Lyon', 'days': 3}}\n</tool_call>",
        "<tool_call>\n<function=weather>\n<parameter=city>\nLyon\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        "<tool_call>\n<function=weather>\n<parameter=days>\n3\n<parameter=city>\nLyon\n</function>\n</tool_call>",
        "<tool_call>\n<function=weather>\n<parameter=city>\nLyon\n<parameter=days>\n3\n</function>\n</tool_call>",
    ],
)
def test_drift_of_a_whole_call_is_forgiven(text):
    for pieces in ([text], list(text)):
        (called,) = turn(parse(pieces, tools=TOOLS)).calls
        assert called == ToolCall("weather", {"city": "Lyon", "days": 3})


@pytest.mark.parametrize(
    "value",
    [
        "Write\n<parameter=other>\n3\n</parameter>\nto ask.",
        "A line\n<parameter=other>\nis no parameter of the tool",
        "The line\n<parameter=city>\nis this parameter itself",
        "in <parameter=days> a line",
    ],
)
def test_text_that_speaks_of_parameters_is_text(value):
    text = f"<tool_call>\n<function=weather>\n<parameter=city>\n{value}\n</parameter>\n</function>\n</tool_call>"
    for pieces in ([text], list(text)):
        (called,) = turn(parse(pieces, tools=TOOLS)).calls
        assert called.arguments == {"city": value}


def test_what_a_pattern_names_has_the_type_of_the_pattern():
    parameters = {"type": "object", "propertyNames": {"pattern": "^x-"}, "additionalProperties": {"type": "integer"}}
    text = "<tool_call>\n<function=f>\n<parameter=x-n>\n5\n</parameter>\n</function>\n</tool_call>"
    assert turn(parse([text], tools=[{"name": "f", "parameters": parameters}])).calls == (ToolCall("f", {"x-n": 5}),)


def test_tools_without_a_usable_schema_take_anything():
    broken = [{"name": "f", "parameters": {"$ref": "#"}}, {"name": "g", "parameters": None}, {"name": "h"}, {"name": 3}]
    signatures = Signatures(broken)
    assert all(fault({"x": 1}, signatures.arguments(name), "It") is None or name == "f" for name in "fgh")
    for name in "fgh":
        text = f"<tool_call>\n<function={name}>\n<parameter=x>\n5\n</parameter>\n</function>\n</tool_call>"
        assert turn(parse([text], tools=broken)).calls == (ToolCall(name, {"x": "5"}),)


def test_all_tools_of_a_request_share_one_limit():
    wide = {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(1500)}}
    signatures = Signatures([{"name": f"t{i}", "parameters": wide} for i in range(20)])
    signatures.resolve_all()
    faults = [signatures.resolved(f"t{i}").faults for i in range(20)]
    assert faults[0] == ()
    assert "too large" in faults[-1][0]
