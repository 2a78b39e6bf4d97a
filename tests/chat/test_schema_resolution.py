"""One resolved schema of what clients write in many ways: it judges as another validator does; faults are sentences."""

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.schema_documents import VALUES, documents
from flashmoe.chat.schema import fault
from flashmoe.chat.schema_resolution import resolve


@settings(max_examples=250, deadline=None)
@given(documents(), st.lists(VALUES, min_size=1, max_size=8))
def test_a_value_fits_where_another_validator_says_so(document, values):
    resolved = resolve(document)
    validator = jsonschema_rs.Draft202012Validator(document)
    for value in values:
        assert (fault(value, resolved.schema, "It") is None) == validator.is_valid(value), (value, document)


def chain(count, **first):
    """Definitions, each of which refers to the next."""
    links = {f"D{i}": {"type": "object", "properties": {"next": {"$ref": f"#/$defs/D{i + 1}"}}} for i in range(count)}
    return {"$ref": "#/$defs/D0", "$defs": {**links, f"D{count}": {"type": "integer"}}, **first}


@pytest.mark.parametrize(
    "document",
    [
        False,
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"type": "object"}]},
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"enum": []},
        {"type": "integer", "enum": ["1", "2"]},
        {"const": "abc", "maxLength": 2},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"allOf": [{"minimum": 3}, {"exclusiveMaximum": 3}, {"type": "number"}]},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "integer", "minimum": 0.1, "maximum": 0.9},
        {"type": "number", "multipleOf": 5, "exclusiveMinimum": 5, "maximum": 9},
        {"type": "array", "items": False, "minItems": 1},
        {"type": "array", "prefixItems": [{"type": "null"}, False], "minItems": 2},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "object", "minProperties": 2, "properties": {"a": {}}, "additionalProperties": False},
        {"type": "object", "required": ["a", "b"], "maxProperties": 1},
        {"type": "object", "propertyNames": {"enum": ["a"]}, "required": ["b"]},
        {"$ref": "#/$defs/A", "$defs": {"A": {"properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a"]}}},
    ],
)
def test_a_schema_that_no_value_fits_is_told_so(document):
    assert "allows no value at all." in resolve(document).faults


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


TWO_WAYS = {
    "$ref": "#/$defs/A",
    "$defs": {"A": {"items": {"anyOf": [{"$ref": "#/$defs/A", "minItems": i} for i in (0, 1)]}}},
}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "where a schema belongs"),
        ({"type": "text"}, 'the type "text"'),
        ({"properties": {"a": {"type": ["string", 3]}}}, "the type"),
        ({"properties": []}, "properties"),
        ({"required": "a"}, "required"),
        ({"enum": "a"}, "enum"),
        ({"anyOf": []}, "anyOf"),
        ({"allOf": {}}, "allOf"),
        ({"minLength": "3"}, "minLength"),
        ({"maxItems": 1.5}, "maxItems"),
        ({"multipleOf": 0}, "multipleOf"),
        ({"pattern": 3}, "pattern"),
        ({"$ref": "#/$defs/Missing"}, "#/$defs/Missing"),
        ({"$ref": 3}, "$ref"),
        ({"type": "object", "properties": {f"p{i}": {} for i in range(20_000)}}, "too large"),
        ({"enum": list(range(60_000))}, "too large"),
        ({"const": "x" * 300_000}, "too large"),
        ({"allOf": [{"anyOf": [{"minLength": i}, {"maxLength": i}]} for i in range(40)]}, "too large"),
        ({"anyOf": [{"pattern": f"{i}"} for i in range(2_000)]}, "too large"),
        (chain(20_000), "too large"),
        ({"oneOf": [{"enum": list(range(100 * i, 100 * i + 100))} for i in range(100)]}, "too large"),
        ({**TWO_WAYS, "const": nested(60)}, "too large"),
    ],
)
def test_what_is_wrong_with_a_schema_is_one_sentence(document, words):
    resolved = resolve(document)
    assert words in resolved.faults[0]
    assert len(resolved.faults[0]) < 200


def test_nesting_is_no_limit_to_resolution():
    deep = {"type": "integer"}
    for _ in range(400):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    for document in (deep, chain(400)):
        assert resolve(document).faults == ()


@pytest.mark.parametrize(
    ("document", "types"),
    [
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "integer"}}}, {"integer"}),
        ({"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"type": "boolean"}}}, {"boolean"}),
        ({"$ref": "#here", "$defs": {"A": {"$anchor": "here", "type": "null"}}}, {"null"}),
        ({"$id": "http://x/y", "$ref": "http://x/y#/$defs/A", "$defs": {"A": {"type": "array"}}}, {"array"}),
        ({"allOf": [{"type": ["integer", "string"]}, {"type": ["string", "null"]}]}, {"string"}),
        ({"allOf": [{"description": "x"}, {"properties": {"a": {}}}]}, {"object"}),
        ({"items": {"type": "string"}}, {"array"}),
        ({"pattern": "a"}, {"string"}),
        ({"minimum": 1}, {"integer", "number"}),
        ({"enum": ["red", None]}, {"string", "null"}),
        ({"const": 2.0}, {"integer"}),
        ({"type": "string", "nullable": True}, {"string", "null"}),
        ({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/A"}], "$defs": {"A": {"items": {}}}}, {"string", "array"}),
        ({"oneOf": [{"const": 1}, {"properties": {}}]}, {"integer", "object"}),
        ({"type": "number", "minimum": 0.2, "maximum": 0.8}, {"number"}),
    ],
)
def test_the_types_that_are_meant(document, types):
    assert resolve(document).schema.implied == types


@pytest.mark.parametrize(
    ("keywords", "unheld"),
    [
        ({"not": {"const": 1}}, "not"),
        ({"uniqueItems": True}, "uniqueItems"),
        ({"contains": {}}, "contains"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"if": {}, "then": False}, "if"),
        ({"propertyNames": {"minLength": 2}}, "propertyNames"),
        ({"properties": {"a": {}}, "patternProperties": {"^a": {"type": "string"}}}, "patternProperties"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"$ref": "https://elsewhere.example/schema.json"}, "$ref"),
    ],
)
def test_what_is_not_checked_is_named(keywords, unheld):
    resolved = resolve(keywords)
    assert (resolved.faults, resolved.unheld) == ((), (unheld,))


@pytest.mark.parametrize(
    "keywords",
    [
        {"format": "password", "description": "x", "examples": [1], "x-mine": {}, "default": 3, "$schema": "x"},
        {"uniqueItems": False},
        {"propertyNames": {"type": "string"}},
        {"propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "string"}},
        {"propertyNames": {"pattern": "^x-"}, "additionalProperties": {"type": "string"}},
        {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        {"oneOf": [{"properties": {"k": {"const": k}}, "required": ["k"], "type": "object"} for k in "ab"]},
    ],
)
def test_annotations_and_what_is_held_are_not_named(keywords):
    assert resolve(keywords).unheld == ()


def test_names_that_propertyNames_lists_are_the_properties():
    record = {"propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}, "required": ["a"]}
    schema = resolve(record).schema
    assert fault({"a": 1, "b": 2}, schema, "It") is None
    assert "'c', which is not allowed" in fault({"a": 1, "c": 2}, schema, "It")
    assert "not an integer" in fault({"a": "x"}, schema, "It")


def test_a_value_that_is_nested_deeper_than_a_schema_is_followed_is_a_fault():
    schema = resolve({"type": "array", "items": {"$ref": "#"}}).schema
    assert "nested too deeply" in fault(nested(150), schema, "It")


def test_a_value_with_many_ways_to_fit_is_not_checked_for_ever():
    assert "too large to be checked" in fault(nested(60), resolve(TWO_WAYS).schema, "It")
