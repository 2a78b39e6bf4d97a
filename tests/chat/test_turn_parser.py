"""A turn taken apart while it comes: any cut into pieces gives the same, and drift is forgiven."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.test_tool_calls import TOOLS, call
from flashmoe.chat.tool_calls import ToolCall, Turn, parse_turn
from flashmoe.chat.turn_parser import Called, Content, Thinking, TurnParser

LYON = ToolCall("weather", {"city": "Lyon"})
LYON_TEXT = call("weather", city="Lyon")


def joined(events):
    """Neighbouring pieces of one kind as one piece."""
    result = []
    for event in events:
        if result and type(result[-1]) is type(event) is not Called:
            event = type(event)(result.pop().text + event.text)
        result.append(event)
    return result


def parse(pieces, *, cut=False, tools=TOOLS, thinking_open=False):
    parser = TurnParser(tools, thinking_open=thinking_open)
    events = [event for piece in pieces for event in parser.push(piece)]
    return joined(events + parser.finish(cut=cut))


def turn(events):
    return Turn(
        "".join(e.text for e in events if isinstance(e, Thinking)),
        "".join(e.text for e in events if isinstance(e, Content)),
        tuple(e.call for e in events if isinstance(e, Called)),
    )


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
    assert [type(e) for e in events] == [Thinking, Called, Thinking, Content]
    assert turn(events) == Turn("I should look.\n\nand then", "Done.", (LYON,))


def test_thinking_about_calls_is_no_call():
    thought = "I could write <tool_call> or <function=weather> here, or call\n<tool_call>\n<function=unknown>"
    assert turn(parse([thought], thinking_open=True)) == Turn(thought, "", ())


def test_text_around_calls_is_kept():
    events = parse([f"Before.\n\n{LYON_TEXT}\n\nBetween.\n\n{LYON_TEXT}\n\nAfter."])
    assert [e if isinstance(e, Content) else "call" for e in events] == [
        Content("Before."),
        "call",
        Content("\n\n\n\nBetween."),
        "call",
        Content("\n\n\n\nAfter."),
    ]


def test_tags_in_prose_are_prose():
    prose = "Write </function> or <function=mine> or <tool_call> at will, or <tool_ca"
    assert turn(parse([prose])) == Turn("", prose, ())


def test_a_call_comes_with_the_text_it_was_written_in():
    drifted = LYON_TEXT.replace("\n", "")
    assert parse([f"Now: {drifted}"])[-1] == Called(LYON, drifted)


def test_a_call_that_the_limit_cuts_off_is_text():
    half = LYON_TEXT[:50]
    assert turn(parse([half], cut=True)) == Turn("", half, ())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("days", "soon", "soon"), ("celsius", "True", True), ("note", "None", "None"), ("days", " 5 ", 5)],
)
def test_arguments_of_the_wrong_type_reach_the_tool(name, text, value):
    assert parse([call("weather", **{name: text})])[0].call.arguments == {name: value}


def test_a_call_of_what_there_is_not_reaches_the_client():
    assert parse([call("forecast", city="Lyon")])[0].call == ToolCall("forecast", {"city": "Lyon"})
