"""Whatever a body is, it is an answer or a 4xx with a sentence: never a 500, and nothing in the log of defects."""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashmoe.server.field_docs import BODIES as FIELDS
from flashmoe.server.fields import rows
from flashmoe.server.limits import NESTING
from processes import HANG
from server.conftest import Running
from server.field_bodies import (
    BODIES,
    CHAT,
    CHATS,
    COMPLETIONS,
    LEAVE_OUT,
    MESSAGE,
    MESSAGES,
    RESPONSE,
    RESPONSES,
    SMALL,
)

JSON_TYPE = {"Content-Type": "application/json"}
PATHS = {"a": MESSAGE, "b": CHATS, "c": RESPONSE}
COUNT = "/v1/messages/count_tokens"
FIELD = Path(__file__).with_name("field")
QUIET = [
    HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
]


def deep(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + closing * levels


def bodies() -> list[tuple[str, dict[str, Any]]]:
    """Requests of real clients, with their paths."""
    found = [
        (PATHS[name[0]], {k: v for k, v in {**base, **changes}.items() if v is not LEAVE_OUT})
        for name, (base, changes, _) in BODIES.items()
    ]
    found += [(path, json.loads((FIELD / f"{name}.json").read_text())) for path, name in
              ((MESSAGE, "claude_code"), (RESPONSE, "codex"))]  # fmt: skip
    found += [(CHATS, RICH), (COMPLETIONS, {**SMALL[COMPLETIONS], "logprobs": 1, "stop": ["a"], "seed": 1})]
    found += [(COMPLETIONS, SMALL[COMPLETIONS]), (COUNT, {k: v for k, v in MESSAGES.items() if k in COUNTED})]
    return found


RICH: dict[str, Any] = {
    **CHAT,
    "temperature": 0.5, "top_p": 0.9, "top_k": 4, "min_p": 0.1, "seed": 1, "presence_penalty": 1, "n": 2,
    "stop": ["a"], "logit_bias": {"5": 1.5}, "logprobs": True, "top_logprobs": 2, "min_tokens": 2,
    "chat_template_kwargs": {"enable_thinking": False}, "thinking": {"type": "enabled", "budget_tokens": 5},
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"]}}},
    "stream": True, "stream_options": {"include_usage": True},
}  # fmt: skip
"""What small requests of real clients do not have."""
COUNTED = ("model", "messages", "system", "tools")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something could stand in place of what does, the outermost first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, v in inner for place in places(v, (*path, key)))]


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    value = copy.copy(value)
    value[place[0]] = replaced(value[place[0]], place[1:], new)
    return value


STRINGS = ["", "x", "\x00", "𝄞" * 3, "<|im_end|>", "</think>", "<tool_call>"]
NUMBERS = [0, -1, 2**31, 2**63, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308, 5e-324]
ODD = st.sampled_from(
    [*STRINGS, *NUMBERS, True, False, None, [], {}, [[]], [None], {"": 1}, {"type": 1}, {"type": ["string", "x"]},
     {"$ref": "#/nowhere"}, {"type": "object", "properties": {"a": {"$ref": "#"}}}]
)  # fmt: skip
TREE = st.recursive(
    ODD | st.text(max_size=6) | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


NAMES = {path: [name for name, _ in rows(kind) if name.isidentifier()] for path, kind in FIELDS.items()}
NAMES[COUNT] = NAMES[MESSAGE]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, Any]:
    """A real request with up to three of its values replaced, some by what stands elsewhere in it, or fields added."""
    path, body = draw(st.sampled_from(bodies()))
    for _ in range(draw(st.integers(1, 3))):
        if isinstance(body, dict) and draw(st.booleans()):
            body = {**body, draw(st.sampled_from(NAMES[path])): draw(TREE)}
            continue
        place = draw(st.sampled_from(places(body)))
        other = draw(st.sampled_from(places(body)))
        taken = body
        for key in other:
            taken = taken[key]
        body = replaced(body, place, draw(TREE | st.just(taken)))
    return path, body


def send(server: Running, path: str, content: str | bytes) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", content=content, headers=JSON_TYPE, timeout=HANG, verify=False)


def check(server: Running, caplog: pytest.LogCaptureFixture, path: str, content: str | bytes) -> httpx.Response:
    """Send it, and see that it is answered or refused with a sentence in the shape of its API."""
    caplog.clear()
    response = send(server, path, content)
    defects = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert (response.status_code < 500, defects) == (True, []), (content, response.text)
    if response.status_code != 200:
        answer = response.json()
        assert path not in (MESSAGE, COUNT) or answer["type"] == "error"
        assert answer["error"]["message"].endswith((".", "?")), answer
        assert len(answer["error"]["message"]) < 1000
    return response


@settings(max_examples=250, suppress_health_check=QUIET, database=None, derandomize=True)
@given(case=mutated())
def test_a_real_request_with_something_wrong_in_it_is_answered_or_refused(
    roomy: Running, caplog: pytest.LogCaptureFixture, case: tuple[str, Any]
) -> None:
    path, body = case
    if isinstance(body, dict):  # so that answers are short and few
        body = {**body, "max_output_tokens" if path == RESPONSE else "max_tokens": 3}
        body |= {"n": min(body["n"], 2)} if isinstance(body.get("n"), int) else {}
    check(roomy, caplog, path, json.dumps(body))


WITH_HOLE = {
    "content": (CHATS, {**CHAT, "messages": [{"role": "user", "content": "HOLE"}]}),
    "kwargs": (CHATS, {**CHAT, "chat_template_kwargs": {"enable_thinking": "HOLE"}}),
    "parameters": (CHATS, {**CHAT, "tools": [{"type": "function", "function": {"name": "f", "parameters": "HOLE"}}]}),
    "hint": (CHATS, {**CHAT, "metadata": "HOLE"}),
    "bias": (CHATS, {**CHAT, "logit_bias": "HOLE"}),
    "stop": (COMPLETIONS, {**SMALL[COMPLETIONS], "stop": "HOLE"}),
    "input": (RESPONSE, {**RESPONSES, "input": "HOLE"}),
    "schema": (RESPONSE, {**RESPONSES, "text": {"format": {"type": "json_schema", "name": "x", "schema": "HOLE"}}}),
    "tool_use": (MESSAGE, {**MESSAGES, "messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "Bash", "input": "HOLE"}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]},
    ]}),
    "system": (COUNT, {"model": "small", "messages": MESSAGES["messages"], "system": "HOLE"}),
}  # fmt: skip
ODD_TEXT = {
    "levels": deep(NESTING - 10),
    "objects": '{"a":' * (NESTING - 10) + "1" + "}" * (NESTING - 10),
    "too many levels": deep(NESTING + 1),
    "many too many": deep(100_000),
    "unended": "[" * 100_000,
    "NaN": "NaN",
    "infinite": "1e999",
    "long number": "9" * 5000,
    "half a pair": '"\\ud800"',
    "other half": '["\\udc00x"]',
    "key of half a pair": '{"\\ud800": 1}',
    "twice": '{"a": 1, "a": 2}',
    "not UTF-8": b'"\xff\xfe"',
    "a zero byte": '"\\u0000"',
    "empty": '""',
}


@pytest.mark.parametrize("hole", WITH_HOLE)
@pytest.mark.parametrize("odd", ODD_TEXT)
def test_odd_json_anywhere_is_answered_or_refused(
    roomy: Running, caplog: pytest.LogCaptureFixture, hole: str, odd: str
) -> None:
    path, body = WITH_HOLE[hole]
    text = ODD_TEXT[odd]
    content = json.dumps(body).encode().replace(b'"HOLE"', text if isinstance(text, bytes) else text.encode())
    response = check(roomy, caplog, path, content)
    if odd in ("too many levels", "many too many"):
        assert response.status_code == 400
        assert f"deeper than {NESTING} levels" in response.text


@pytest.mark.parametrize("path", [*SMALL, COUNT])
@pytest.mark.parametrize("content", ["", "null", "[]", "1", '"x"', "{", '{"model": "small"}', "{}", "\ufeff{}"])
def test_a_body_that_is_no_request_is_a_400(
    roomy: Running, caplog: pytest.LogCaptureFixture, path: str, content: str
) -> None:
    assert check(roomy, caplog, path, content).status_code == 400


@pytest.mark.parametrize("levels", [1, NESTING, NESTING + 1, 5000])
def test_arguments_in_a_string_are_as_deep_as_a_body_may_be(
    roomy: Running, caplog: pytest.LogCaptureFixture, levels: int
) -> None:
    arguments = '{"a":' * levels + "1" + "}" * levels
    made = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [*CHAT["messages"], {"role": "assistant", "tool_calls": [made]}]
    messages.append({"role": "tool", "tool_call_id": "a", "content": ""})
    response = check(roomy, caplog, CHATS, json.dumps({**CHAT, "messages": messages}))
    assert response.status_code == (200 if levels <= NESTING else 400)
