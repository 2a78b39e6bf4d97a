"""Answers and calls that are held to schemas, through the server: what clients send in the field, and what nobody can
satisfy."""

import json
import threading
from pathlib import Path

import jsonschema_rs
import openai
import pytest
from llguidance import LLParserLimits

from chat.test_tool_calls import call
from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.errors import FlashMoeError
from flashmoe.server import grammar as grammar_module
from flashmoe.text_engine import TextEngine
from random_checkpoint import write_text_files
from server.conftest import running
from server.scripted import ScriptedEngine

PLAIN = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
NOTHING_FITS = [
    {"$ref": "#"},
    {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": False}}]},
    {"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": "string", "minLength": 3, "maxLength": 2}}, "required": ["a"]},
]


def book(parameters, **more):
    return {"type": "function", "function": {"name": "book", "description": "Books", "parameters": parameters, **more}}


def closed(required=None, **properties):
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def made(answer):
    (call_made,) = answer.choices[0].message.tool_calls
    return json.loads(call_made.function.arguments)


TEXT, RED = {"type": "string"}, {"type": ["string", "null"], "enum": ["red", None]}
PERSON = closed(name={"enum": ["Lena", "Ada"]})
TREE = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/T"}}}}
BOOKING = closed(who={"$ref": "#/$defs/P"}, colour={"$ref": "#/$defs/C"})
STRICT = closed(a={"const": "fixed"}, b=RED, c={"type": "string", "pattern": "^[A-Z]{3}$"})
RECORD = {"type": "object", "propertyNames": TEXT, "additionalProperties": TEXT}  # as zod writes one
NUMBER = {"properties": {"n": {"type": "number"}}}
FIELD = [
    (
        {**BOOKING, "$defs": {"P": PERSON, "C": {"type": "string", "enum": ["red", "blue"]}}},
        {"who": '{"name": "Lena"}', "colour": "red"},
        {"who": {"name": "Lena"}, "colour": "red"},
    ),
    ({"$ref": "#/$defs/A", "$defs": {"A": closed(n={"type": "integer"})}}, {"n": "5"}, {"n": 5}),
    (STRICT, {"a": "fixed", "b": "null", "c": "ABC"}, {"a": "fixed", "b": None, "c": "ABC"}),
    (closed(answers=RECORD), {"answers": '{"size": "large"}'}, {"answers": {"size": "large"}}),
    ({"allOf": [NUMBER, {"properties": {"n": {"maximum": 9}}, "required": ["n"]}]}, {"n": "2.5"}, {"n": 2.5}),
    (
        closed(size={"properties": {"w": {}}}, tags={"items": TEXT}),
        {"size": '{"w": 1}', "tags": '["a"]'},
        {"size": {"w": 1}, "tags": ["a"]},
    ),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, {"x": "1", "y": "2"}, {"x": 1, "y": 2}),
    ({**TREE, "$defs": {"T": TREE}}, {"kids": '[{"kids": []}]'}, {"kids": [{"kids": []}]}),
]


@pytest.mark.parametrize(("parameters", "written", "arguments"), FIELD)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_arguments_have_the_types_of_the_resolved_schema(scripted, parameters, written, arguments, choice):
    jsonschema_rs.validate(parameters, arguments)
    server = scripted(call("book", **written))
    for strict in ({}, {"strict": True}):
        options = {"tools": [book(parameters, **strict)], "tool_choice": choice, **PLAIN}
        assert made(server.chat(**options)) == arguments
        chunks = [c.choices[0].delta for c in server.chat(stream=True, **options) if c.choices]
        pieces = [made_here.function.arguments or "" for d in chunks for made_here in d.tool_calls or ()]
        assert json.loads("".join(pieces)) == arguments


@pytest.mark.parametrize("seed", range(3))
def test_a_strict_tool_is_held_to_constants_and_patterns_whatever_the_model(speaking, seed):
    options = {"tools": [book(STRICT, strict=True)], "tool_choice": "required", "parallel_tool_calls": False}
    arguments = made(speaking.chat(seed=seed, temperature=1.5, max_tokens=300, **options, **PLAIN))
    jsonschema_rs.validate(STRICT, arguments)
    assert arguments.keys() == {"a", "b", "c"}


def test_beside_text_a_strict_call_has_no_way_around_its_form(scripted):
    """A function's tag that stands alone is read as a call; held to the form, it cannot be written."""
    drifted = call("book", a="other", b="blue", c="abc").removeprefix("<tool_call>\n")
    server = scripted("Well. " + drifted, context=1024)
    free, held = (server.chat(tools=[book(STRICT, strict=s)], max_tokens=200, **PLAIN) for s in (False, True))
    assert made(free) == {"a": "other", "b": "blue", "c": "abc"}
    assert held.choices[0].message.tool_calls is None
    assert held.choices[0].message.content.startswith("Well. <function")


@pytest.mark.parametrize("schema", NOTHING_FITS, ids=str)
def test_a_schema_that_nothing_fits_is_refused_in_a_sentence(speaking, schema):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for options in ({"response_format": form}, {"tools": [book(schema)], "tool_choice": "required"}):
        with pytest.raises(openai.BadRequestError) as error:
            speaking.chat(max_tokens=5, **options, **PLAIN)
        message = error.value.body["message"]
        assert message.startswith("The schema of ")
        assert len(message) < 120
        assert message.count(".") == 1


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(20_000)}},
        {"type": "object", "properties": {"a": {"enum": [f"{i}" for i in range(60_000)]}}},
        {"allOf": [{"anyOf": [{"required": [f"{i}"]}, {"minProperties": i}]} for i in range(60)]},
    ],
    ids=["properties", "values", "alternatives"],
)
def test_a_schema_that_is_too_large_is_refused_in_a_sentence(speaking, schema):
    response = speaking.post(
        "/v1/chat/completions",
        {"model": "small", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5,
         "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
    )  # fmt: skip
    assert response.status_code == 400
    assert "too large" in response.json()["error"]["message"]
    assert len(response.content) < 500


def test_six_hundred_optional_properties_are_answered(scripted):
    parameters = closed([], **{f"p{i}": {"type": "integer"} for i in range(600)})
    server = scripted(call("book", p3="3", p599="4"), context=20_000)
    options = {"tool_choice": "required", **PLAIN}
    assert made(server.chat(tools=[book(parameters, strict=True)], **options)) == {"p3": 3, "p599": 4}


@pytest.mark.parametrize("strict", [True, False])
def test_what_cannot_be_held_is_refused_by_name_only_where_it_is_strict(scripted, strict):
    schema = closed(n={"type": "integer", "not": {"const": 3}})
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}
    server = scripted('{"n": 5}')
    if strict:
        with pytest.raises(openai.BadRequestError, match="cannot be held to its not"):
            server.chat(response_format=form, **PLAIN)
    else:
        assert server.chat(response_format=form, **PLAIN).choices[0].message.content == '{"n": 5}'
        body = {"model": "small", "messages": [{"role": "user", "content": "x"}], "response_format": form}
        assert server.post("/v1/chat/completions", body).headers["x-flashmoe-hints"] == "schema.not"


def test_an_unknown_format_is_an_annotation_through_the_server(scripted):
    schema = closed(p={"type": "string", "format": "password"})
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    assert scripted('{"p": "x"}').chat(response_format=form, **PLAIN).choices[0].message.content == '{"p": "x"}'


def test_a_grammar_that_fails_ends_its_own_answer_with_an_error_and_no_other(scripted, monkeypatch, caplog):
    limits = LLParserLimits(max_lexer_states=60)  # its verbose errors are not turned off
    monkeypatch.setattr(grammar_module, "_limits", lambda: limits)
    failing = {"type": "object", "properties": {"a": {"pattern": "^x*y{3,90}(ab|c){4,50}$"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": failing}}
    long = "It rains " * 40
    server = scripted(lambda prompt: '{"a": "xxxyyyyyyyyabcabcabcabcccccc"}' if "Fail" in prompt else long)
    answers = []
    other = threading.Thread(target=lambda: answers.append(server.chat("Talk", **PLAIN)))
    other.start()
    with pytest.raises(openai.APIError) as error:
        list(server.chat("Fail", response_format=form, stream=True, **PLAIN))
    with pytest.raises(openai.InternalServerError):
        server.chat("Fail", response_format=form, **PLAIN)
    other.join()
    assert error.value.message == "The answer cannot go on within the grammar of its schema; make the schema simpler."
    assert answers[0].choices[0].message.content == long.strip()
    assert all(len(record.getMessage()) < 400 for record in caplog.records)


@pytest.fixture
def writing_json(tmp_path):
    """A server whose model writes its calls as JSON, as its template does."""
    write_text_files(tmp_path)
    template = (Path(__file__).parents[1] / "chat" / "qwen3_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").write_text(template)
    said = '<tool_call>\n{"name": "ping", "arguments": {"n": 5}}\n</tool_call>'
    text = TextEngine(tmp_path, ScriptedEngine(tmp_path, lambda _: said), Tokenizer.from_dir(tmp_path))
    with running(text) as server:
        yield server


def test_a_required_call_is_written_in_the_templates_own_way(writing_json):
    ping = {"name": "ping", "description": "d", "parameters": closed(n={"type": "integer", "maximum": 9})}
    options = {"tools": [{"type": "function", "function": ping}], "tool_choice": "required", "logprobs": True}
    answer = writing_json.chat(**options, **PLAIN).choices[0]
    written = "".join(entry.token for entry in answer.logprobs.content)
    assert written.startswith('<tool_call>\n{"name": "ping", "arguments": {"n": 5}}\n</tool_call>')
    assert json.loads(answer.message.tool_calls[0].function.arguments) == {"n": 5}


def test_long_compiling_holds_up_nobody_who_asks_for_no_form(scripted, monkeypatch):
    server = scripted("Hello.")
    begun, go = threading.Event(), threading.Event()

    def slow(*_, **__):
        begun.set()
        assert go.wait(60)
        raise FlashMoeError("It cannot be compiled.")

    monkeypatch.setattr(server.service.grammars, "form", slow)
    form = {"type": "json_object"}
    failed = []

    def ask():
        with pytest.raises(openai.APIError) as error:
            server.chat(response_format=form, **PLAIN)
        failed.append(error.value)

    waiting = threading.Thread(target=ask)
    waiting.start()
    try:
        assert begun.wait(60)
        assert server.chat(**PLAIN).choices[0].message.content == "Hello."
    finally:
        go.set()
        waiting.join()
    assert "It cannot be compiled." in str(failed[0])
