"""What is generated under a grammar fits its schema: random walks through what the grammar allows, no model at all."""

import json
import random

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from llguidance import LLParserLimits

from chat.schema_documents import documents
from flashmoe.chat.arguments import MalformedCallError, Signatures
from flashmoe.chat.call_style import XML, CallStyle
from flashmoe.chat.call_writer import Called
from flashmoe.chat.schema_resolution import resolve
from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.chat.tool_calls import parse_turn
from flashmoe.chat.turn_parser import TurnParser
from flashmoe.errors import FlashMoeError
from flashmoe.server import grammar as grammar_module
from flashmoe.server.grammar import Grammars
from flashmoe.server.json_grammar import FORMATS

JSON_CALLS = CallStyle('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n")
ENDINGS = (b'"', b"}", b"]", b",", b"\n</parameter>\n", b"\n</function>\n", b"</tool_call>")


@pytest.fixture(scope="module")
def grammars(text_files):
    tokenizer = Tokenizer.from_dir(text_files)
    return {
        style: Grammars(text_files, tokenizer, 1024, frozenset(tokenizer.eos_ids), lambda style=style: style)
        for style in (XML, JSON_CALLS)
    }


class Walk:
    """A random answer of a form. Tokens that go on towards an end are taken more often, so that most walks end."""

    def __init__(self, text_files):
        self.tokenizer = Tokenizer.from_dir(text_files)
        files = json.loads((text_files / "tokenizer.json").read_text())
        size = len(files["model"]["vocab"]) + len(files["added_tokens"])
        self.bytes = [self.tokenizer.token_bytes(i) for i in range(size)]
        self.towards_end = [i for i, b in enumerate(self.bytes) if b and any(b in end for end in ENDINGS)]

    def __call__(self, form, seed, most=250):
        """The text; None if it does not end."""
        choose, said = random.Random(seed), b""
        for _ in range(most):
            mask = form.allowed()
            allowed = np.flatnonzero(mask[: len(self.bytes)])
            assert len(allowed), said
            stops = [i for i in allowed if i in self.tokenizer.eos_ids]
            if (stops and choose.random() < 0.5) or len(stops) == len(allowed):
                return said.decode()
            ends = [i for i in self.towards_end if mask[i] and _goes_on(said, self.bytes[i])]
            tokens = ends if ends and choose.random() < 0.6 else [i for i in allowed if i not in stops]
            token = int(choose.choice(tokens))
            form.accept(token)
            said += self.bytes[token]
        return None


def _goes_on(said, more):
    """Whether the end of what is said then, `more` and what is before it, is a beginning of an ending."""
    return any(end.startswith((said + more)[-n:]) for end in ENDINGS for n in range(len(more), len(end) + 1))


@pytest.fixture(scope="module")
def walk(text_files):
    return Walk(text_files)


def tool(parameters, **more):
    return {"type": "function", "function": {"name": "act", "parameters": parameters, **more}}


def held(make):
    """The grammar of a strict schema; schemas that are refused are not the point here."""
    try:
        return make()
    except FlashMoeError as error:
        if "cannot be held" not in str(error):
            raise
        return assume(False)


@settings(max_examples=100, deadline=None)
@given(documents(), st.integers(0, 2**20))
def test_json_that_the_grammar_of_a_strict_schema_allows_fits_the_schema(grammars, walk, document, seed):
    resolved = resolve(document)
    assume(not resolved.faults and not resolved.unheld)
    grammar = held(lambda: grammars[XML].json(document, strict=True))
    said = walk(grammars[XML].form(grammar, thinking_open=False), seed)
    assume(said is not None)
    jsonschema_rs.validate(document, json.loads(said))


@settings(max_examples=100, deadline=None)
@given(documents(arguments=True), st.integers(0, 2**20), st.sampled_from([XML, JSON_CALLS]))
@example({"type": "object"}, 40341, JSON_CALLS)  # a key occurs twice
def test_a_call_that_the_grammar_allows_fits_the_schema_once_it_is_parsed(grammars, walk, document, seed, style):
    tools = [tool(document, strict=True)]
    resolved = resolve(document)
    assume(not resolved.faults and not resolved.unheld and "object" in resolved.schema.implied)
    grammar = held(lambda: grammars[style].calls(Signatures(tools), several=False))
    said = walk(grammars[style].form(grammar, thinking_open=False), seed)
    assume(said is not None)
    parser = TurnParser(tools)
    (called,) = [e.call for e in [*parser.push(said), *parser.finish()] if isinstance(e, Called)]
    jsonschema_rs.validate(document, called.arguments)
    if style is XML:
        try:
            assert parse_turn(said, tools).calls == (called,)
        except MalformedCallError as error:  # strict even where grammars cannot be
            if "twice" not in str(error):
                raise


ROOT = {"type": "object", "additionalProperties": False}


def parameter(schema, **more):
    return {**ROOT, "properties": {"p": schema}, "required": ["p"], **more}


@pytest.mark.parametrize("style", [XML, JSON_CALLS], ids=["tags", "JSON"])
@pytest.mark.parametrize(
    "schema",
    [
        {"const": "fixed"},
        {"enum": ["red", None]},
        {"type": ["string", "null"], "enum": ["red", None]},
        {"type": "string", "pattern": "^[A-Z]{3}$"},
        {"type": "string", "pattern": "^a$|^b+$"},
        {"type": "string", "pattern": "[0-9]", "maxLength": 3},
        {"type": "string", "pattern": "^\\d/\\w", "maxLength": 5},
        {"type": "string", "minLength": 2, "maxLength": 4},
        {"enum": ["a", "B", "C"], "pattern": "[A-Z]"},
        {"type": "integer", "multipleOf": 700, "minimum": 1, "maximum": 9999},
        {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 2},
        {"allOf": [{"type": "string", "pattern": "a"}, {"pattern": "b", "maxLength": 6}]},
        {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "integer", "minimum": 3, "maximum": 99}]},
        {"enum": ['\U0001f600 \u2028 "quoted"\n&', "é/"]},
        {"$ref": "#/$defs/P", "$defs": {}},
        {"type": "array", "prefixItems": [{"const": 1}, {"type": "null"}], "items": False, "minItems": 2},
        *({"type": "string", "format": name} for name in FORMATS),
    ],
    ids=str,
)
def test_what_a_strict_argument_may_be_is_held(grammars, walk, schema, style):
    document = parameter(schema, **{"$defs": {"P": {"items": {"enum": [1, "x"]}, "minItems": 1, "maxItems": 2}}})
    tools = [tool(document, strict=True)]
    grammar = grammars[style].calls(Signatures(tools), several=False)
    validator = jsonschema_rs.Draft202012Validator(document, validate_formats=True)
    ended = 0
    for seed in range(12):
        if (said := walk(grammars[style].form(grammar, thinking_open=False), seed)) is not None:
            parser = TurnParser(tools)
            (called,) = [e.call for e in [*parser.push(said), *parser.finish()] if isinstance(e, Called)]
            arguments = called.arguments
            if schema.get("type") != "array" and "$ref" not in schema:
                validator.validate(arguments)
            else:
                assert isinstance(arguments["p"], list)
            ended += 1
    assert ended


@pytest.mark.parametrize("style", [XML, JSON_CALLS], ids=["tags", "JSON"])
@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"not": {"const": 3}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
        ({"type": "string", "pattern": "^(?!x)"}, "pattern"),
        ({"type": "string", "allOf": [{"pattern": f"[a-z]{{{i}}}"} for i in range(40)]}, "pattern"),
        ({"type": "integer", "multipleOf": 70_000}, "multipleOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ],
    ids=str,
)
def test_what_a_grammar_cannot_hold_is_refused_where_it_is_strict_and_ignored_else(grammars, schema, keyword, style):
    document = parameter(schema)
    with pytest.raises(FlashMoeError, match=f"The schema of act is strict, .* held to its {keyword}"):
        grammars[style].calls(Signatures([tool(document, strict=True)]), several=False)
    grammar = grammars[style].calls(Signatures([tool(document)]), several=False)
    assert grammar.unheld == (keyword,)
    grammars[style].form(grammar, thinking_open=False)


def test_an_unknown_format_is_an_annotation(grammars):
    grammars[XML].calls(
        Signatures([tool(parameter({"type": "string", "format": "password"}), strict=True)]), several=False
    )
    grammars[XML].json(parameter({"type": "string", "format": "password"}), strict=True)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"$ref": "#"}, "The schema of act refers to itself"),
        ({"type": "string"}, "The schema of act allows no object"),
        ({"allOf": [{"type": "object"}, {"type": "array"}]}, "The schema of act allows no value"),
        (parameter({"type": "frob"}), "The schema of act has the type"),
        ({**ROOT, "properties": {"a>b": {}}}, "rename it"),
    ],
)
def test_a_schema_that_no_call_can_satisfy_is_a_sentence(grammars, parameters, sentence):
    for style in (XML, JSON_CALLS):
        if style is JSON_CALLS and "rename" in sentence:
            continue
        with pytest.raises(FlashMoeError, match=sentence):
            grammars[style].calls(Signatures([tool(parameters)]), several=True)


def test_a_model_whose_way_of_calling_is_not_known_is_not_forced_into_another(text_files):
    tokenizer = Tokenizer.from_dir(text_files)
    unknown = Grammars(text_files, tokenizer, 1024, frozenset(tokenizer.eos_ids), lambda: None)
    with pytest.raises(FlashMoeError, match="chat template writes none in a known way"):
        unknown.calls(Signatures([tool({})]), several=True)


def test_only_spaces_of_json_come_before_json(grammars):
    """One that JSON does not know, U+3000, was found by a walk."""
    form = grammars[XML].form(grammars[XML].json({"type": "integer"}), thinking_open=False)
    tokenizer = grammars[XML]._tokenizer
    assert form.allowed()[tokenizer.encode(" ")[0]]
    assert not form.allowed()[tokenizer.encode("\u3000")[0]]


@pytest.mark.parametrize("count", [600, 2000])
@pytest.mark.parametrize("style", [XML, JSON_CALLS], ids=["tags", "JSON"])
def test_many_optional_properties_are_no_trouble(grammars, style, count):
    properties = {f"p{i}": {"type": "integer"} for i in range(count)}
    grammar = grammars[style].calls(Signatures([tool({**ROOT, "properties": properties})]), several=False)
    form = grammars[style].form(grammar, thinking_open=False)
    last = f"p{count - 1}"
    tags = f"<tool_call>\n<function=act>\n<parameter={last}>\n7\n</parameter>\n</function>\n</tool_call>"
    said = tags if style is XML else f'<tool_call>\n{{"name": "act", "arguments": {{"{last}": 7}}}}\n</tool_call>'
    for token in grammars[style]._tokenizer.encode(said):
        assert form.allowed()[token]
        form.accept(token)


LONG = {
    "type": "object",
    "properties": {"a": {"type": "string", "pattern": "^x*y{3,90}(ab|c){4,50}$"}},
    "required": ["a"],
}


def follow(form, tokens):
    for token in tokens:
        form.accept(token)
        form.allowed()


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [({"max_grammar_size": 10}, "No answer can be held"), ({"max_lexer_states": 60}, "The answer cannot go on")],
)
def test_a_grammar_that_fails_is_one_sentence_and_the_library_is_not_quoted(
    grammars, caplog, monkeypatch, limits, sentence
):
    monkeypatch.setattr(grammar_module, "_limits", lambda: LLParserLimits(**limits))  # with its verbose errors
    schema = parameter({"type": "string", "pattern": "^x*y{3,90}(ab|c){4,50}$"})
    schema["properties"][sentence] = {"type": "null"}  # a grammar that was not compiled before
    grammar = grammars[XML].json(schema)
    tokens = grammars[XML]._tokenizer.encode('{"p": "xxxyyyyyyyyabcabcabcabcccccc"}')
    with pytest.raises(FlashMoeError, match=sentence) as error:
        follow(grammars[XML].form(grammar, thinking_open=False), tokens)
    assert len(str(error.value)) < 120
    assert [len(record.getMessage()) < 300 for record in caplog.records] == [True]
