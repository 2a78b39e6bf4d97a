"""What clients send is brought into the shape that the template takes, and nothing of it is lost."""

from itertools import permutations
from typing import Any

import pytest

import random_checkpoint
from flashmoe.chat.conversation import results_by_call, with_parameters
from flashmoe.chat.template import ChatTemplate
from flashmoe.errors import FlashMoeError

WRITES_ALL = "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}"
FIRST_ONLY = (
    "{% for m in messages %}{% if m.role not in ('system', 'user', 'assistant', 'tool') or m.role == 'system' and not "
    "loop.first %}{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    "[{{ m.role }}: {{ m.content }}]{% endfor %}"
)
SILENT = (
    "{% for m in messages %}{% if m.role != 'system' or loop.first %}[{{ m.role }}: {{ m.content }}]"
    "{% endif %}{% endfor %}"
)
NEEDS_USER = (
    "{% if not messages | selectattr('role', 'equalto', 'user') | list %}{{ raise_exception('No user query found.') }}"
    "{% endif %}" + FIRST_ONLY
)


def conversation(text: str) -> list[dict[str, Any]]:
    """`s1 u2` -> a system message 1 and a user's 2."""
    roles = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[word[0]], "content": word[1:]} for word in text.split()]


@pytest.mark.parametrize("source", [FIRST_ONLY, SILENT, NEEDS_USER])
@pytest.mark.parametrize(
    ("said", "rendered"),
    [
        ("sA sB u1", "[system: A\n\nB][user: 1]"),
        ("sA u1 sB a2 u3 sC", "[system: A\n\nB\n\nC][user: 1][assistant: 2][user: 3]"),
        ("u1 sA", "[system: A][user: 1]"),
        ("u1 a2 sA u3", "[system: A][user: 1][assistant: 2][user: 3]"),
        ("sA u1 a2", "[system: A][user: 1][assistant: 2]"),
    ],
)
def test_instructions_come_first_where_a_template_refuses_or_drops_them_elsewhere(source, said, rendered):
    assert ChatTemplate(source).render(conversation(said)) == rendered


@pytest.mark.parametrize("said", ["sA sB u1", "u1 sA", "dA u1", "sA", "a1", "sA u1 a2 dB u3"])
def test_a_template_that_takes_them_keeps_its_own_way(said):
    written = "".join(f"[{m['role']}: {m['content']}]" for m in conversation(said))
    assert ChatTemplate(WRITES_ALL).render(conversation(said)) == written


def test_a_developer_is_the_system_where_the_template_knows_none():
    assert ChatTemplate(FIRST_ONLY).render(conversation("dA u1 dB")) == "[system: A\n\nB][user: 1]"


@pytest.mark.parametrize(
    ("said", "rendered"),
    [
        ("sA", "[system: A][user: ]"),
        ("sA sB", "[system: A\n\nB][user: ]"),
        ("sA a1", "[system: A][user: ][assistant: 1]"),
    ],
)
def test_a_conversation_without_a_user_gets_an_empty_question_where_the_template_wants_one(said, rendered):
    assert ChatTemplate(NEEDS_USER).render(conversation(said)) == rendered


def test_what_a_template_refuses_for_other_reasons_is_still_refused_in_its_words():
    picky = ChatTemplate("{{ raise_exception('Never.') }}")
    for said in ("u1", "sA sB u1", "sA", "u1 sA"):
        with pytest.raises(FlashMoeError, match="does not accept these messages: Never"):
            picky.render(conversation(said))


def test_instructions_in_parts_are_merged_as_parts():
    source = FIRST_ONLY.replace(
        "m.content }}", "m.content if m.content is string else m.content | map(attribute='text') | join }}"
    )
    parts = [{"type": "text", "text": "B"}, {"type": "text", "text": "C"}]
    messages = [*conversation("sA"), {"role": "system", "content": parts}, *conversation("u1")]
    assert ChatTemplate(source).render(messages) == "[system: A\n\nBC][user: 1]"


# Tools ----------------------------------------------------------------------------------------------------------------


def calls(*names: str | None) -> dict[str, Any]:
    made = [{"type": "function", "function": {"name": "f", "arguments": {}}} | ({"id": n} if n else {}) for n in names]
    return {"role": "assistant", "content": "", "tool_calls": made}


def result(name: str | None, content: str | None = None) -> dict[str, Any]:
    return {"role": "tool", "content": content or f"of {name}"} | ({"tool_call_id": name} if name else {})


USER = {"role": "user", "content": "Go."}


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_results_are_rendered_in_the_order_of_their_calls(order):
    messages = [USER, calls(*"abc"), *(result(name) for name in order), USER, calls("a"), result("a", "again")]
    text = ChatTemplate(random_checkpoint.TEMPLATE.read_text()).render(messages)
    places = [text.index(f"of {name}") for name in "abc"]
    assert places == sorted(places) < [text.index("again")]


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([USER, calls("a"), result("b")], "a tool result for the call 'b', which the turn before does not make"),
        ([result("c"), USER], "a tool result for the call 'c'"),
        ([USER, calls("a"), result("a"), USER, result("a")], "two tool results for the call 'a'"),
        ([USER, calls("a", "b"), result("a"), USER], "no tool result for the call 'b'"),
        ([USER, calls("a", "b"), result("b")], "no tool result for the call 'a'"),
        ([USER, calls("a"), USER], "no tool result for the call 'a'"),
        ([USER, calls("a"), calls("b"), result("b")], "no tool result for the call 'a'"),
        ([USER, calls("a"), result("a"), result("a")], "two tool results for the call 'a'"),
    ],
)
def test_results_that_fit_no_call_and_calls_without_a_result_are_said(messages, sentence):
    with pytest.raises(FlashMoeError, match=sentence):
        results_by_call(messages)


@pytest.mark.parametrize(
    "messages",
    [
        [USER, calls("a", "b")],
        [USER, calls(None, None), result(None, "1"), result(None, "2"), USER],
        [USER, calls("a", "b"), result(None, "1"), result(None, "2"), USER],
        [USER, calls("x", "x"), result("x", "1"), result("x", "2"), USER],
        [result(None, "1"), USER],
    ],
)
def test_what_has_no_ids_to_go_by_stays_where_it_is(messages):
    assert results_by_call(messages) == messages


@pytest.mark.parametrize("function", [{"name": "f"}, {"name": "f", "parameters": None}, {"name": "f", "strict": True}])
def test_a_tool_without_parameters_takes_none(function):
    source = "{{ tools[0] | tojson }}{% for k, v in tools[0].function.parameters.properties | items %}x{% endfor %}"
    filled = {"name": "f", "parameters": {"type": "object", "properties": {}}, **function}
    filled["parameters"] = {"type": "object", "properties": {}}
    text = ChatTemplate(source).render([USER], [{"type": "function", "function": function}])
    assert text == ChatTemplate("{{ tools[0] | tojson }}").render([USER], [{"type": "function", "function": filled}])
    assert with_parameters(function) == filled


@pytest.mark.parametrize(
    ("source", "thinks"),
    [
        ("{{ messages[0].content }}", False),
        ("<think></think>{{ messages[0].reasoning_content }}", False),
        ("{% if enable_thinking %}{% endif %}", True),
        ("{{ messages[0].content }}{% if add_generation_prompt %}<think>\n{% endif %}", True),
    ],
)
def test_a_template_says_whether_it_can_think(source, thinks):
    assert ChatTemplate(source).can_think == thinks
