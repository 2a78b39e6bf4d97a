"""Requests as real clients send them: answered, with what was without effect said, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.field_bodies import BODIES, LEAVE_OUT, Answered

PATHS = {"a": "/v1/messages", "b": "/v1/chat/completions", "c": "/v1/responses"}
WHOLE = Path(__file__).with_name("field")
HINTS, LEFT_OUT = "x-flashmoe-hints", "x-flashmoe-left-out"


def hints_of(response: Any) -> set[str]:
    return {name for name in response.headers.get(HINTS, "").split(", ") if name}


def whole_body(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**base, **changes}.items() if value is not LEAVE_OUT}


@pytest.mark.parametrize("name", BODIES)
def test_what_a_client_sends_is_answered_or_refused_by_name(roomy, name):
    base, changes, expected = BODIES[name]
    path = PATHS[name[0]]
    alone = roomy.post(path, base)
    response = roomy.post(path, whole_body(base, changes))
    if isinstance(expected, Answered):
        assert response.status_code == 200, response.text
        assert hints_of(response) >= set(expected.hints)
        assert hints_of(response) - set(expected.hints) <= hints_of(alone)
        assert response.headers.get(LEFT_OUT) == expected.left_out
    else:
        assert response.status_code == expected.status
        error = response.json()["error"]
        assert expected.sentence in error["message"]
        assert expected.param is None or expected.param in error["message"]
        assert path == PATHS["a"] or error["param"] == expected.param


@pytest.mark.parametrize(
    ("name", "hints", "left_out"),
    [
        (
            "claude_code",
            "messages[].content[].cache_control, system[].cache_control, output_config.effort, context_management, "
            "metadata",
            None,
        ),
        ("codex", "client_metadata, prompt_cache_key, input[].id, tools[].description, reasoning.summary, include",
         "web_search"),
    ],
)  # fmt: skip
def test_the_first_request_of_an_agent_is_answered_whole(roomy, name, hints, left_out):
    body = json.loads((WHOLE / f"{name}.json").read_text())
    path = PATHS["a" if name == "claude_code" else "c"]
    whole = roomy.post(path, {**body, "stream": False})
    assert whole.status_code == 200, whole.text
    assert hints_of(whole) == set(hints.split(", "))
    assert whole.headers.get(LEFT_OUT) == left_out
    streamed = roomy.post(path, {**body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert hints_of(streamed) == set(hints.split(", "))
    assert ("event: message_stop" if name == "claude_code" else "event: response.completed") in streamed.text
