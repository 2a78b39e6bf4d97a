"""A finished turn taken apart: what the model's own template writes comes back, anything else is a sentence."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashmoe.chat.arguments import MalformedCallError
from flashmoe.chat.template import ChatTemplate
from flashmoe.chat.tool_calls import ToolCall, parse_turn, thinking_is_open

PROPERTIES = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "exact": {"type": "number"},
    "celsius": {"type": "boolean"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "place": {"type": "object"},
    "note": {"type": ["string", "null"]},
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": PROPERTIES}}}
    for name in ("weather", "store")
]
TEMPLATE = ChatTemplate((Path(__file__).parents[1] / "chat_template.jinja").read_text())


def call(name: str, **parameters: str) -> str:
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters.items())
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


def test_arguments_have_the_types_of_the_schema():
    text = call(
        "weather", city="5", days="5", exact="5", celsius="true", tags='["a", "b"]', place='{"x": [1]}', other="7"
    )
    (found,) = parse_turn(text, TOOLS).calls
    assert found == ToolCall(
        "weather",
        {"city": "5", "days": 5, "exact": 5, "celsius": True, "tags": ["a", "b"], "place": {"x": [1]}, "other": "7"},
    )


@pytest.mark.parametrize(("text", "value"), [("null", None), ("nothing", "nothing"), ("7", "7"), ('"x"', '"x"')])
def test_where_a_schema_allows_strings_and_more_json_of_another_type_it_allows_is_taken_for_that(text, value):
    assert parse_turn(call("weather", note=text), TOOLS).calls[0].arguments == {"note": value}


def test_thinking_content_and_calls_are_told_apart():
    text = f"first I look\n</think>\n\nOne moment.\n\n{call('weather', city='Lyon')}\n{call('store', days='2')}\n"
    turn = parse_turn(text, TOOLS, thinking_open=True)
    assert (turn.thinking, turn.content) == ("first I look", "One moment.")
    assert [c.name for c in turn.calls] == ["weather", "store"]
    assert parse_turn("<think>\n" + text, TOOLS) == turn


def test_thinking_that_never_ends_leaves_no_content():
    turn = parse_turn("so many ways", TOOLS, thinking_open=True)
    assert (turn.thinking, turn.content, turn.calls) == ("so many ways", "", ())


def test_without_tools_tags_are_ordinary_text():
    assert parse_turn(call("weather", city="Lyon")).content == call("weather", city="Lyon")


def test_a_prompt_says_whether_it_ends_inside_a_thinking_block():
    ask = [{"role": "user", "content": "Hello, <think>"}]
    assert thinking_is_open(TEMPLATE.render(ask))
    assert not thinking_is_open(TEMPLATE.render(ask, enable_thinking=False))


@pytest.mark.parametrize(
    "value", ["", "two\nlines", "</parameter>", "x\n</parameter>\ny", "</function>\n</tool_call>", " spaces ", "\n"]
)
def test_a_value_may_hold_anything_that_does_not_end_it(value):
    (found,) = parse_turn(call("store", city=value, days="3"), TOOLS).calls
    assert found.arguments == {"city": value, "days": 3}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (call("forecast", city="Lyon"), "forecast, which is none of the tools"),
        (call("weather", days="soon"), "days of weather is not valid JSON"),
        (call("weather", city="Lyon").removesuffix("</tool_call>"), "is not complete"),
        (call("weather", city="Lyon").removeprefix("<tool_call>\n"), "has </tool_call> outside a call"),
        (call("weather", city="Lyon") + "\n</function>", "must begin with its function"),
        (call("weather", city="Lyon").replace("<parameter", "well, <parameter"), "is not complete"),
        ("<tool_call>\n{}\n</tool_call>", "must begin with its function"),
        (
            call("weather", city="Lyon").replace("</function>", "<parameter=city>\nRome\n</parameter>\n</function>"),
            "twice",
        ),
        ("I would say <tool_call>", "must begin with its function"),
    ],
)
def test_drift_is_a_sentence(text, sentence):
    with pytest.raises(MalformedCallError, match=sentence):
        parse_turn(text, TOOLS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
plain_text = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda s: "</parameter>" not in s)


@given(
    city=plain_text,
    days=st.integers(),
    tags=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
    place=st.dictionaries(st.sampled_from("abc"), json_values, max_size=3),
)
def test_what_the_template_renders_is_parsed_back(city, days, tags, place):
    arguments = {"city": city, "days": days, "tags": tags, "place": place}
    message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "store", "arguments": arguments}}],
    }
    messages = [{"role": "user", "content": "Do it."}]
    prompt = TEMPLATE.render(messages, tools=TOOLS, enable_thinking=False)
    whole = TEMPLATE.render([*messages, message], tools=TOOLS, add_generation_prompt=False)
    turn = parse_turn(whole.split("</think>")[-1].removesuffix("<|im_end|>\n"), TOOLS)
    assert whole.startswith(prompt.split("<think>")[0])
    assert turn.calls == (ToolCall("store", arguments),), json.dumps(arguments)


@given(st.text(), st.booleans())
def test_whatever_a_model_writes_the_outcome_is_a_turn_or_a_sentence(noise, thinking_open):
    pieces = noise + call("weather", city=noise) + noise
    with suppress(MalformedCallError):
        parse_turn(pieces, TOOLS, thinking_open=thinking_open)
