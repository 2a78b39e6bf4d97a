"""What counts as valid, as the right functions and as right."""

import pytest

from flashmoe.evaluation.cases import Case
from flashmoe.evaluation.score import Verdict, judge

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
    for name in ("weather", "store")
]
WRONG, VALID, NAMED, RIGHT = (
    Verdict(False, False, False),
    Verdict(True, False, False),
    Verdict(True, True, False),
    Verdict(True, True, True),
)


def case(kind, expected, *, thinking=False, tools=None):
    return Case("x", "f", thinking, [{"role": "user", "content": "?"}], tools, kind, expected)


def call(name, **parameters):
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters.items())
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


def wanted(name, **arguments):
    return {"name": name, "arguments": arguments}


LYON = wanted("weather", city="Lyon", days=3)


@pytest.mark.parametrize(
    ("expected", "text", "verdict"),
    [
        ([LYON], call("weather", city="Lyon", days="3"), RIGHT),
        ([LYON], call("weather", days="3", city="Lyon"), RIGHT),
        ([LYON], "Let me see.\n\n" + call("weather", city="Lyon", days="3"), RIGHT),
        ([LYON], call("weather", city="Rome", days="3"), NAMED),
        ([LYON], call("weather", city="Lyon"), NAMED),
        ([LYON], call("store", city="Lyon", days="3"), VALID),
        ([LYON], call("weather", city="Lyon", days="3") * 2, VALID),
        ([LYON], "It rains in Lyon.", VALID),
        ([LYON], call("weather", days="3"), WRONG),
        ([LYON], call("weather", city="Lyon", days="soon"), WRONG),
        ([LYON], call("weather", city="Lyon", days="1.5"), WRONG),
        ([LYON], call("weather", city="Lyon", days="3")[:-5], WRONG),
        ([LYON], "", WRONG),
        ([], "It rains in Lyon.", RIGHT),
        ([], call("weather", city="Lyon"), VALID),
        (
            [wanted("weather", city="a"), wanted("weather", city="b")],
            f"{call('weather', city='b')}\n{call('weather', city='a')}",
            RIGHT,
        ),
        (
            [wanted("weather", city="a"), wanted("weather", city="b")],
            f"{call('weather', city='a')}\n{call('weather', city='a')}",
            NAMED,
        ),
    ],
)
def test_calls(expected, text, verdict):
    assert judge(text, case("calls", expected, tools=TOOLS)) == verdict


@pytest.mark.parametrize(
    ("expected", "text", "verdict"),
    [
        ({"a": [1, True]}, ' {"a": [1.0, true]}\n', RIGHT),
        ({"a": 1, "b": 2}, '{"b": 2, "a": 1}', RIGHT),
        ({"a": 1}, '{"a": 2}', VALID),
        ({"a": 1}, '{"a": true}', VALID),
        ({"a": 1}, '{"a": 1} or so', WRONG),
        ({"a": 1}, '```json\n{"a": 1}\n```', WRONG),
        ({"a": 1}, '{"a": 0, "a": 1}', WRONG),
        ({"a": 1}, '{"a": NaN}', WRONG),
        (None, "null", RIGHT),
        (None, "", WRONG),
    ],
)
def test_json(expected, text, verdict):
    assert judge(text, case("json", expected)) == verdict


@pytest.mark.parametrize(
    ("kind", "expected", "text", "verdict"),
    [
        ("exact", "34.1", " 34.1\n", RIGHT),
        ("exact", "34.1", "34.10", VALID),
        ("exact", "34.1", "", WRONG),
        ("text", ["rain", "Lyon"], "Lyon has rain.", RIGHT),
        ("text", ["rain", "Lyon"], "Lyon has sun.", VALID),
    ],
)
def test_text(kind, expected, text, verdict):
    assert judge(text, case(kind, expected)) == verdict


def test_a_call_where_words_were_due_is_not_valid():
    text = f"34.1\n\n{call('weather', city='Lyon')}"
    assert judge(text, case("exact", "34.1", tools=TOOLS)) == WRONG


def test_only_what_follows_the_thinking_is_judged():
    thoughtful = case("json", [1], thinking=True)
    assert judge("[2]?\n</think>\n\n[1]", thoughtful) == RIGHT
    assert judge("[1]", thoughtful) == WRONG
    assert judge("[1]", thoughtful, thinking_open=False) == RIGHT
