"""A turn taken apart while it comes: any cut into pieces gives the same, and drift is forgiven."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jiter import from_json

from chat.test_tool_calls import TOOLS, call
from flashmoe.chat.arguments import forgiving_value
from flashmoe.chat.call_writer import CallArguments, CallBegun, CallBroken, Called
from flashmoe.chat.schema_resolution import resolve
from flashmoe.chat.tool_calls import ToolCall, Turn, parse_turn
from flashmoe.chat.turn_parser import Content, Thinking, TurnParser
from flashmoe.chat.xml_call import surely_text

LYON = ToolCall("weather", {"city": "Lyon"})
LYON_TEXT = call("weather", city="Lyon")


def joined(events):
    """Neighbouring pieces of one kind as one piece."""
    result = []
    for event in events:
        if result and type(result[-1]) is type(event) in (Thinking, Content):
            event = type(event)(result.pop().text + event.text)
        elif isinstance(event, CallArguments):
            before = result.pop().json if isinstance(result[-1], CallArguments) else ""
            event = CallArguments(before + event.json)
        result.append(event)
    return result


def parse(pieces, *, cut=False, tools=TOOLS, thinking_open=False):
    """The events, neighbours joined. Whatever the text is, those of a call stand together and say what the call is."""
    parser = TurnParser(tools, thinking_open=thinking_open)
    events = joined([event for piece in pieces for event in parser.push(piece)] + parser.finish(cut=cut))
    of_calls = iter([event for event in events if not isinstance(event, Thinking | Content)])
    for begun in of_calls:
        assert isinstance(begun, CallBegun)
        written, end = "", next(of_calls)
        if isinstance(end, CallArguments):
            written, end = end.json, next(of_calls)
        assert end.call.name == begun.name
        if isinstance(end, Called):
            assert written == json.dumps(end.call.arguments, ensure_ascii=False)
        else:
            # As Anthropic's client reads what is broken off: the strings that have no end are left out.
            assert (from_json(written.encode(), partial_mode=True) if written else {}) == end.call.arguments
    return events


def turn(events):
    return Turn(
        "".join(e.text for e in events if isinstance(e, Thinking)),
        "".join(e.text for e in events if isinstance(e, Content)),
        calls_of(events),
    )


def calls_of(events):
    return tuple(e.call for e in events if isinstance(e, Called))


SNIPPETS = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<function=weather>",
        "<function=",
        "</function>",
        "\n",
        "<parameter=city>",
        "<parameter=days>",
        "</parameter>",
        "Lyon",
        "5",
        " ",
        "<",
        ">",
        '{"name": "weather"',
        "}",
        ', "arguments": {"city": "x"}',
        "<function=other>",
        LYON_TEXT,
        "\n</parameter>\n",
        "\n</function>\n</tool_call>",
        '<tool_call>{"name": "weather", "arguments": {',
        '"city": "',
        '"days": ',
        '"note": null',
        '"',
        ", ",
        "}}",
        "\\u00e9",
        "\\ud83d",
        "\\ude00",
        "\\n",
        "\\",
        "[1, {}]",
        "\n<parameter=days>\n",
    ]
)
TEXTS = st.one_of(st.lists(SNIPPETS, max_size=14).map("".join), st.text("<>/=tolcaf_un \n", max_size=40))


@settings(max_examples=600)
@given(TEXTS, st.lists(st.integers(0, 300), max_size=8), st.booleans(), st.booleans())
def test_any_cut_into_pieces_gives_the_same_events(text, places, thinking_open, cut):
    edges = [0, *sorted(min(p, len(text)) for p in places), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    whole = parse([text], cut=cut, thinking_open=thinking_open)
    assert parse(pieces, cut=cut, thinking_open=thinking_open) == whole
    assert parse(list(text), cut=cut, thinking_open=thinking_open) == whole


WORDS = st.text("abc .\n{}", max_size=12)
VALUES = st.sampled_from(["Lyon", "", "two\nlines", "</parameter>", "x\n</parameter>\ny", " spaces ", "a < b", "\n"])


@settings(max_examples=200)
@given(WORDS, WORDS, st.lists(st.tuples(st.sampled_from(["weather", "store"]), VALUES, st.integers()), max_size=3))
def test_what_is_well_formed_is_read_as_the_strict_parser_reads_it(thought, content, calls):
    text = f"{thought}</think>{content}" + "\n".join(call(name, city=v, days=str(n)) for name, v, n in calls)
    assert turn(parse([text], thinking_open=True)) == parse_turn(text, TOOLS, thinking_open=True)


@settings(max_examples=200)
@given(TEXTS)
def test_without_tools_nothing_but_space_at_the_ends_is_lost(text):
    events = parse([text], tools=None, thinking_open=False)
    if not text.lstrip().startswith("<think>"):
        assert turn(events) == Turn("", text.strip(), ())


@pytest.mark.parametrize(
    "text",
    [
        LYON_TEXT.removeprefix("<tool_call>\n"),
        LYON_TEXT + "\n</function>",
        LYON_TEXT + "\n</function>\n</tool_call>\n",
        LYON_TEXT.removesuffix("</tool_call>"),
        LYON_TEXT.removesuffix("\n</function>\n</tool_call>"),
        LYON_TEXT.removesuffix("\n</parameter>\n</function>\n</tool_call>"),
        LYON_TEXT.replace("\n</parameter>", ""),
        LYON_TEXT.replace("\n</function>", ""),
        LYON_TEXT.replace("\n", ""),
        LYON_TEXT.replace("<parameter", "well, <parameter"),
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Lyon"}}\n</tool_call>',
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Lyon\\"}"}</tool_call>',
    ],
)
def test_drift_is_forgiven(text):
    for pieces in ([text], list(text)):
        events = parse(["Let me look.\n\n", *pieces])
        assert turn(events) == Turn("", "Let me look.", (LYON,))


def test_a_missing_closing_tag_does_not_swallow_the_next_call():
    text = LYON_TEXT.replace("\n</parameter>", "") + "\n" + call("store", days="2")
    assert turn(parse([text])).calls == (LYON, ToolCall("store", {"days": 2}))


def test_a_call_inside_the_thinking_block_is_a_call():
    events = parse([f"I should look.\n{LYON_TEXT}\nand then\n</think>\n\nDone."], thinking_open=True)
    assert [type(e) for e in events] == [Thinking, CallBegun, CallArguments, Called, Thinking, Content]
    assert turn(events) == Turn("I should look.\n\nand then", "Done.", (LYON,))


def test_thinking_about_calls_is_no_call():
    thought = "I could write <tool_call> or <function=weather> here, or call\n<tool_call>\n<function=unknown>"
    assert turn(parse([thought], thinking_open=True)) == Turn(thought, "", ())


def test_text_around_calls_is_kept():
    events = parse([f"Before.\n\n{LYON_TEXT}\n\nBetween.\n\n{LYON_TEXT}\n\nAfter."])
    assert [
        e if isinstance(e, Content) else "call" for e in events if not isinstance(e, CallBegun | CallArguments)
    ] == [
        Content("Before."),
        "call",
        Content("\n\n\n\nBetween."),
        "call",
        Content("\n\n\n\nAfter."),
    ]


def test_tags_in_prose_are_prose():
    prose = "Write </function> or <function=mine> or <tool_call> at will, or <tool_ca"
    assert turn(parse([prose])) == Turn("", prose, ())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("days", "soon", "soon"), ("celsius", "True", True), ("note", "None", "None"), ("days", " 5 ", 5)],
)
def test_arguments_of_the_wrong_type_reach_the_tool(name, text, value):
    assert calls_of(parse([call("weather", **{name: text})]))[0].arguments == {name: value}


def test_a_call_of_what_there_is_not_reaches_the_client():
    assert calls_of(parse([call("forecast", city="Lyon")])) == (ToolCall("forecast", {"city": "Lyon"}),)


# While a call is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "opening",
    [
        "<tool_call>\n<function=weather>\n<parameter=city>\nLyo",
        "<function=weather>\n<parameter=city>\nLyo",
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Lyo',
        '<tool_call>{"name":"weather","parameters":{"city":"Ly\\u006f',
    ],
)
def test_a_string_goes_out_while_it_is_written(opening):
    parser = TurnParser(TOOLS)
    assert joined(parser.push(opening)) == [CallBegun("weather"), CallArguments('{"city": "Lyo')]
    assert parser.push("n or \u00e9") == [CallArguments("n or \u00e9", "city", "n or \u00e9")]


def test_the_text_of_a_string_comes_with_its_json():
    parser = TurnParser(TOOLS)
    events = [e for c in call("weather", city='two\nlines, "quoted"') for e in parser.push(c)] + parser.finish()
    pieces = [e for e in events if isinstance(e, CallArguments)]
    assert "".join(piece.text for piece in pieces if piece.parameter == "city") == 'two\nlines, "quoted"'
    assert json.loads("".join(piece.json for piece in pieces)) == {"city": 'two\nlines, "quoted"'}


@pytest.mark.parametrize("tag", ["", "<tool_call>\n", "<tool_call>\n<fun", "<function=weather", "<function=weather>"])
def test_nothing_of_a_call_goes_out_before_it_is_certain_to_be_one(tag):
    assert TurnParser(TOOLS).push(tag) == []


OPTIONAL = {"anyOf": [{"type": "string"}, {"type": "null"}]}
SCHEMAS = [{"type": "string"}, {}, OPTIONAL, {"type": ["string", "integer", "boolean"]}, {"type": "integer"}]
SCHEMAS += [{"type": ["string", "number", "null"]}, {"type": ["string", "object"]}, {"type": ["array", "string"]}]
WRITTEN = st.one_of(
    st.text('nulNoetrfas{}[]"0123456789.-+eE \n', max_size=12),
    st.sampled_from(["null", " null ", "None", "true", "12", "-3.5e2", '{"a": 1}', "[1]", '"quoted"', "nullable"]),
)


@settings(max_examples=1000)
@given(WRITTEN, st.sampled_from(SCHEMAS), st.integers(0, 12))
def test_what_is_surely_text_is_never_anything_else(text, schema, length):
    schemas = [resolve(schema).schema]
    if surely_text(text[:length], schemas):
        assert forgiving_value(text, schemas) == text


@pytest.mark.parametrize(("schema", "begin"), [(OPTIONAL, "no"), (SCHEMAS[3], "x"), (SCHEMAS[6], "a")])
def test_a_string_that_may_also_be_null_goes_out_once_it_is_not(schema, begin):
    tool = {"name": "f", "parameters": {"properties": {"x": schema}}}
    parser = TurnParser([tool])
    events = parser.push(f"<tool_call>\n<function=f>\n<parameter=x>\n{begin}")
    assert joined(events)[-1] == CallArguments('{"x": "' + begin)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab<\"\\", max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=300)
@given(
    st.dictionaries(st.text('abc\u00e9"\\', max_size=4), JSON, max_size=4),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.sampled_from(["arguments", "parameters"]),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_a_call_in_json_has_the_arguments_that_were_written(arguments, ascii_only, indent, key, places):
    body = json.dumps({"name": "weather", key: arguments}, ensure_ascii=ascii_only, indent=indent)
    text = f"Well. <tool_call>\n{body}\n</tool_call> Done."
    edges = [0, *sorted(min(p, len(text)) for p in places), len(text)]
    for pieces in ([text[a:b] for a, b in itertools.pairwise(edges)], list(text)):
        assert turn(parse(pieces)) == Turn("", "Well.  Done.", (ToolCall("weather", arguments),))


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "weather", "arguments": {"city": "Lyon"}}',
        '{"name": "weather", "arguments": {"city": "Lyon"}</tool_call>',
        '{"name": "weather", "arguments": {"city": "Lyon"</tool_call>',
        '{"name": "weather", "arguments": {"city": "Lyon"',
        '{"name": "weather", "arguments": {"city": "Lyon",}}}</tool_call>',
        '{"arguments": {"city": "Lyon"}, "name": "weather"}</tool_call>',
        '{"name": "weather", "arguments": {"city": "Lyon"}, "id": 3}</tool_call>',
        '{"name": "weather", "parameters": {"city": "Lyon"}}</tool_call>',
        '{"name": "weather", "parameters": "{\\"city\\": \\"Lyon\\"}"}</tool_call>',
    ],
)
def test_drift_of_json_is_forgiven(text):
    for pieces in ([text], list(text)):
        assert turn(parse(["<tool_call>", *pieces])) == Turn("", "", (LYON,))


def test_a_value_in_a_string_of_json_is_read_where_no_string_is_allowed():
    values = '"days": "5", "tags": "[\\"a\\"]", "place": {"x": "1"}, "city": "7", "celsius": "hot"'
    whole = '{"arguments": {%s}, "name": "weather"}'
    for form in ('{"name": "weather", "arguments": {%s}}', whole):
        text = f"<tool_call>{form % values}</tool_call>"
        for pieces in ([text], list(text)):
            (made,) = calls_of(parse(pieces))
            assert made.arguments == {"days": 5, "tags": ["a"], "place": {"x": "1"}, "city": "7", "celsius": "hot"}


def test_a_line_break_within_a_string_of_json_is_one():
    text = '<tool_call>{"name": "weather", "arguments": {"city": "two\nlines"}}</tool_call>'
    assert calls_of(parse(list(text)))[0].arguments == {"city": "two\nlines"}


def test_a_missing_closing_tag_does_not_swallow_the_next_parameter():
    text = call("weather", city="Lyon", days="5").replace("\n</parameter>", "", 1)
    for pieces in ([text], list(text)):
        assert calls_of(parse(pieces)) == (ToolCall("weather", {"city": "Lyon", "days": 5}),)


def test_what_follows_a_call_without_its_closing_tag_is_kept():
    text = LYON_TEXT.replace("\n</parameter>", "")
    for said in (text + "\n<tool_call></tool_call>", text + "\n</function>\nDone."):
        events = parse(list(said))
        assert calls_of(events) == (LYON,)
        assert turn(events).content == said.removeprefix(text).removeprefix("\n</function>").strip()


def test_of_a_parameter_given_twice_the_first_value_counts():
    text = call("weather", city="Lyon").replace("</function>", "<parameter=city>\nOslo\n</parameter>\n</function>")
    assert calls_of(parse(list(text))) == (LYON,)


def test_a_call_that_the_limit_cuts_off_is_broken_and_keeps_what_is_whole():
    half = call("weather", days="5", city="Lyon in the rain").partition(" the")[0]
    assert parse([half], cut=True) == [
        CallBegun("weather"),
        CallArguments('{"days": 5, "city": "Lyon in'),
        CallBroken(ToolCall("weather", {"days": 5}), half),
    ]


def test_a_call_that_lacks_nothing_but_its_closing_tag_is_whole_where_the_limit_cuts():
    assert calls_of(parse([LYON_TEXT.removesuffix("</tool_call>")], cut=True)) == (LYON,)


def test_json_that_turns_out_to_be_none_breaks_the_call_and_calls_nothing_it_quotes():
    inside = "<tool_call>\\n<function=store>\\n</function>\\n</tool_call>"
    text = (
        f'<tool_call>{{"name": "weather", "arguments": {{"city": "\\d", "note": "{inside}{LYON_TEXT}"}}}}</tool_call>'
    )
    events = parse(list(text))
    assert [type(e) for e in events] == [CallBegun, CallArguments, CallBroken, Content]
    assert events[2].text + events[3].text == text


def test_json_that_begins_no_call_is_text():
    for text in ('<tool_call>{"name": 3}</tool_call>', "<tool_call>{weather}</tool_call>", '<tool_call>{"name": "wea'):
        assert turn(parse(list(text))) == Turn("", text, ())


def test_the_end_of_the_thinking_counts_once():
    text = call("weather", city="a </think> b")
    parser = TurnParser(TOOLS, thinking_open=True)
    said = f"Hm.</think>So </think> be it.\n{text}"
    events = [event for c in said for event in parser.push(c)] + parser.finish()
    found = ToolCall("weather", {"city": "a </think> b"})
    assert turn(events) == Turn("Hm.", "So </think> be it.", (found,))
    assert parser.answer == f"So </think> be it.\n{text}"
    thought = parse(list(f"I look. {text} Hm.</think>Done."), thinking_open=True)
    assert turn(thought) == Turn("I look.  Hm.", "Done.", (found,))


@pytest.mark.parametrize("said", ["Write <function=weather> to ask.", "See `<function=weather>`."])
def test_a_function_that_is_only_mentioned_is_text(said):
    for pieces in ([said], list(said)):
        assert turn(parse(pieces)) == Turn("", said, ())
