"""The part of JSON Schema that describes arguments."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashmoe.chat.schema import fault, same
from flashmoe.chat.schema_resolution import resolve

NESTED = {
    "type": "object",
    "properties": {
        "level": {"enum": ["low", "high"]},
        "share": {"type": "number"},
        "sizes": {"type": "array", "items": {"type": "integer"}},
        "who": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        "when": {"anyOf": [{"type": "null"}, {"type": "string"}]},
    },
    "required": ["level"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "value",
    [
        {"level": "low"},
        {"level": "high", "share": 1, "sizes": [1, 2.0], "who": {"name": "Ada", "age": 3}, "when": None},
        {"level": "low", "share": 0.5, "sizes": [], "when": "now"},
    ],
)
def test_what_fits_has_no_fault(value):
    assert fault(value, resolve(NESTED).schema, "The call") is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "The call lacks 'level'"),
        ([], "The call is an array, not an object"),
        ({"level": "middling"}, "The call.level is none of the values allowed"),
        ({"level": "low", "share": True}, "The call.share is a boolean, not an integer or a number"),
        ({"level": "low", "sizes": [1, "2"]}, r"The call.sizes\[1\] is a string, not an integer"),
        ({"level": "low", "sizes": [1.5]}, "is a number, not an integer"),
        ({"level": "low", "who": {}}, "The call.who lacks 'name'"),
        ({"level": "low", "when": 3}, "The call.when is an integer, not null or a string"),
        ({"level": "low", "colour": "red"}, "The call has 'colour', which is not allowed"),
    ],
)
def test_a_fault_is_named_with_its_place(value, words):
    assert re.search(words, fault(value, resolve(NESTED).schema, "The call") or "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values)
def test_any_schema_whatever_it_holds_judges_any_value(value, schema):
    keywords = ("type", "enum", "properties", "required", "anyOf", "allOf", "items", "$ref", "minimum", "multipleOf")
    fault(value, resolve(dict.fromkeys(keywords, schema)).schema, "It")
    for keyword in keywords:
        fault(value, resolve({keyword: schema}).schema, "It")
    fault(value, resolve(schema).schema, "It")


@given(json_values)
def test_a_value_is_the_same_as_itself_and_fits_its_own_constant(value):
    assert same(value, value)
    assert fault(value, resolve({"const": value}).schema, "It") is None


def test_numbers_are_equal_by_value_and_booleans_are_no_numbers():
    assert same({"a": [1, 2.0]}, {"a": [1.0, 2]})
    assert not same(True, 1)
    assert not same([False], [0])
    assert not same({"a": 1}, {"a": 1, "b": 2})
