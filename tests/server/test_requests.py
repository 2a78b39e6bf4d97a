"""What the fields of a request do: which reach the prompt, which shape the answer, and how wishes are refused."""

from pathlib import Path

import httpx
import openai
import pytest
from anthropic.types import beta as anthropic_beta
from anthropic.types import message_create_params as anthropic_messages
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chats
from openai.types.responses import response_create_params as responses

from flashmoe.chat.template import ChatTemplate
from flashmoe.server.field_docs import BODIES, renewed
from flashmoe.server.fields import rows
from server.field_bodies import CHATS, COMPLETIONS, MESSAGE, RESPONSE, SMALL
from server.test_anthropic import NEVER
from server.test_field import hints_of
from server.test_openai import THINKING, WEATHER

# The table ------------------------------------------------------------------------------------------------------------
SDKS = {
    CHATS: [chats.CompletionCreateParamsStreaming, chats.CompletionCreateParamsNonStreaming],
    COMPLETIONS: [completions.CompletionCreateParamsStreaming],
    RESPONSE: [responses.ResponseCreateParamsStreaming],
    MESSAGE: [
        anthropic_messages.MessageCreateParamsStreaming,
        anthropic_beta.message_create_params.MessageCreateParamsStreaming,
    ],
}


@pytest.mark.parametrize("path", SDKS)
def test_every_field_of_the_official_clients_is_in_the_table(path):
    known = {name for name, _ in rows(BODIES[path])}
    sent = {name for kind in SDKS[path] for base in kind.__mro__ for name in getattr(base, "__annotations__", {})}
    assert sent - known == set()


OUTERMOST = [(path, name, use) for path, kind in BODIES.items() for name, use in rows(kind) if name.isidentifier()]


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, name, use in OUTERMOST if use.kind == "hint"])
def test_a_hint_may_be_any_json_and_is_named_in_a_header(roomy, path, name):
    tools = {"tools": [WEATHER]} if name == "web_search_options" else {}
    for value in (7, "x", [[]], {"a": {"b": None}}):
        response = roomy.post(path, {**SMALL[path], **tools, name: value})
        assert response.status_code == 200, response.text
        assert name in hints_of(response)
    assert name not in hints_of(roomy.post(path, {**SMALL[path], name: None}))


@pytest.mark.parametrize(
    ("path", "name", "harmless"), [(p, name, use.harmless) for p, name, use in OUTERMOST if use.kind == "refused"]
)
def test_a_wish_that_cannot_be_met_is_refused_by_name_unless_it_asks_for_nothing(roomy, path, name, harmless):
    error = roomy.post(path, {**SMALL[path], name: {"a": 1}}).json()["error"]
    assert error["message"].startswith(f"{name} is not supported here: ")
    assert path == MESSAGE or (error["param"], error["code"]) == (name, "unsupported_parameter")
    for value in (None, *harmless):
        response = roomy.post(path, {**SMALL[path], name: value})
        assert response.status_code == 200, response.text
        assert name not in hints_of(response)


@pytest.mark.parametrize("path", SMALL)
def test_a_field_that_is_in_no_table_is_refused_as_perhaps_misspelt(roomy, path):
    error = roomy.post(path, {**SMALL[path], "max_tokns": 5}).json()["error"]
    assert "max_tokns" in error["message"]
    assert "spelt" in error["message"]


@pytest.mark.parametrize(
    ("path", "changes", "param"),
    [
        (CHATS, {"logit_bias": {"": 1}}, "logit_bias"),
        (CHATS, {"logit_bias": ""}, "logit_bias"),
        (CHATS, {"logit_bias": {"²": 1}}, "logit_bias"),
        (COMPLETIONS, {"logit_bias": {"": 1}}, "logit_bias"),
        (CHATS, {"repetition_penalty": 5e-324}, "repetition_penalty"),
        (COMPLETIONS, {"repeat_penalty": 1e-9}, "repeat_penalty"),
        (CHATS, {"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        (CHATS, {"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs"),
        (CHATS, {"tool_choice": "required"}, "tool_choice"),
        (RESPONSE, {"include": ["message.output_text.logprobs"]}, "include"),
        (RESPONSE, {"input": []}, "input"),
    ],
)
def test_a_value_that_is_wrong_is_a_400_with_its_field(roomy, path, changes, param):
    response = roomy.post(path, {**SMALL[path], **changes})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert param in response.json()["error"]["message"]


def test_the_table_of_the_docs_is_made_from_the_types():
    page = Path(__file__).parents[2] / "docs/server.md"
    text = page.read_text(encoding="utf-8")
    assert text == renewed(text), "python -m flashmoe.server.field_docs docs/server.md writes it anew."


def test_the_openapi_document_says_which_fields_are_hints_and_which_are_refused(roomy):
    schemas = httpx.get(f"{roomy.url}/openapi.json").json()["components"]["schemas"]
    fields = schemas["ChatRequest"]["properties"]
    assert fields["store"]["x-flashmoe-use"] == "hint"
    assert "nothing is kept" in fields["store"]["description"]
    assert fields["audio"] == {**fields["audio"], "x-flashmoe-use": "refused", "enum": [None]}


def test_the_log_says_each_hint_once(scripted, caplog):
    server = scripted(THINKING + "Hi.")
    for _ in range(2):
        server.chat(extra_body={"verbosity": "low", "tools": [WEATHER, {"type": "web_search"}]})
    said = [record.message for record in caplog.records if record.name == "flashmoe.server"]
    assert said == [
        "/v1/chat/completions: verbosity is a hint, which changes no answer.",
        "/v1/chat/completions: web_search is a tool that is not the client's, left out.",
    ]


# Thinking -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "changes", "thinks"),
    [
        (CHATS, {"reasoning_effort": "none"}, False),
        (CHATS, {"reasoning_effort": "low"}, True),
        (CHATS, {"reasoning": {"effort": "none"}}, False),
        (CHATS, {"reasoning": {"effort": "high", "exclude": False}}, True),
        (CHATS, {"reasoning": {"enabled": False}}, False),
        (CHATS, {"thinking": {"type": "disabled"}}, False),
        (CHATS, {"thinking": {"type": "enabled", "clear_thinking": False}}, True),
        (CHATS, {"thinking": False}, False),
        (CHATS, {"enable_thinking": False}, False),
        (CHATS, {"chat_template_kwargs": {"enable_thinking": False}}, False),
        (CHATS, {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "high"}, False),
        (CHATS, {"enable_thinking": True, "reasoning_effort": "none"}, True),
        (CHATS, {}, True),
        (RESPONSE, {"reasoning": {"effort": "none"}}, False),
        (RESPONSE, {"reasoning": {"effort": "medium"}}, True),
        (RESPONSE, {"reasoning": {"summary": "auto"}}, True),
        (RESPONSE, {"reasoning": None}, True),
        (MESSAGE, {}, False),
        (MESSAGE, {"thinking": {"type": "disabled"}}, False),
        (MESSAGE, {"thinking": {"type": "adaptive", "display": "omitted"}}, True),
        (MESSAGE, {"thinking": {"type": "between_tools"}}, True),
        (MESSAGE, {"thinking": {"type": "enabled"}}, True),
    ],
)
def test_efforts_and_switches_say_whether_to_think(roomy, path, changes, thinks):
    longer = {"max_output_tokens" if path == RESPONSE else "max_tokens": 60}
    response = roomy.post(path, {**SMALL[path], **longer, **changes})
    assert response.status_code == 200, response.text
    assert "Hi." in response.text
    assert ("I look." in response.text) == thinks


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        (CHATS, {"reasoning_effort": "high"}),
        (CHATS, {"chat_template_kwargs": {"enable_thinking": True}}),
        (RESPONSE, {"reasoning": {"effort": "high"}}),
        (MESSAGE, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
    ],
)
def test_thinking_that_a_template_does_not_have_is_said_and_not_refused(scripted, path, changes):
    server = scripted(THINKING + "Hi.")
    server.service.text.__dict__["template"] = ChatTemplate(NEVER)
    response = server.post(path, {**SMALL[path], **changes})
    assert response.status_code == 200, response.text
    assert "thinking" in hints_of(response)
    off = {CHATS: {"enable_thinking": False}, RESPONSE: {"reasoning": {"effort": "none"}}}.get(path, {})
    assert "thinking" not in hints_of(server.post(path, {**SMALL[path], **off}))


# Conversations --------------------------------------------------------------------------------------------------------
def test_system_messages_reach_the_model_in_order_from_all_interfaces(prompts):
    server = prompts()
    user = {"role": "user", "content": "Hi"}
    late = [{"type": "text", "text": "Late.", "cache_control": {"type": "ephemeral"}}]
    chat = [{"role": "developer", "content": "First."}, {"role": "system", "content": "Second."}, user]
    for prompt in (
        server.of(CHATS, messages=[*chat, {"role": "system", "content": late}]),
        server.of(
            RESPONSE, instructions="First.", input=[{"role": "developer", "content": "Second."}, *chat[2:],
            {"role": "system", "content": [{"type": "input_text", "text": "Late."}]}], tools=[]
        ),
        server.of(MESSAGE, system="First.", tools=[], messages=[{"role": "system", "content": "Second."}, user,
                  {"role": "system", "content": late}]),
    ):  # fmt: skip
        places = [prompt.index(text) for text in ("First.", "Second.", "Late.", "<|im_start|>user\nHi")]
        assert places == sorted(places)


CALLS = [
    {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Lyon"}'}},
    {"id": "b", "type": "function", "function": {"name": "weather", "arguments": ""}},
]


@pytest.mark.parametrize(
    "thought",
    [
        {"reasoning_content": "I look."},
        {"reasoning": "I look."},
        {"reasoning_details": [{"type": "reasoning.text", "text": "I "}, {"type": "x", "summary": "look."}]},
    ],
)
def test_thinking_comes_back_by_any_of_its_names(prompts, thought):
    said = {"role": "assistant", "content": "", "tool_calls": CALLS[:1], **thought}
    result = {"role": "tool", "tool_call_id": "a", "content": "dry"}
    prompt = prompts().of(CHATS, messages=[{"role": "user", "content": "Rain?"}, said, result], tools=[WEATHER])
    assert "<think>\nI look.\n</think>" in prompt


def test_results_go_by_the_ids_of_their_calls(prompts):
    asked = {"role": "user", "content": "Rain?"}
    results = [{"role": "tool", "tool_call_id": i, "content": f"of {i}"} for i in "ba"]
    server = prompts()
    of_chat = server.of(CHATS, messages=[asked, {"role": "assistant", "tool_calls": CALLS}, *results], tools=[WEATHER])
    items = [{"type": "function_call", "call_id": i, "name": "weather", "arguments": "{}"} for i in "ab"]
    items += [{"type": "function_call_output", "call_id": i, "output": f"of {i}"} for i in "ba"]
    of_responses = server.of(RESPONSE, input=[asked, *items])
    blocks = [{"type": "tool_use", "id": i, "name": "weather", "input": {}} for i in "ab"]
    outputs = [{"type": "tool_result", "tool_use_id": i, "content": f"of {i}"} for i in "ba"]
    turns = [asked, {"role": "assistant", "content": blocks}, {"role": "user", "content": outputs}]
    of_messages = server.of(MESSAGE, messages=turns)
    for prompt in (of_chat, of_responses, of_messages):
        assert prompt.index("of a") < prompt.index("of b")


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ("a", "no tool result for the call 'b'"),
        ("", "no tool result for the call 'a'"),
        ("abx", "'x', which the turn before does not make"),
        ("aba", "two tool results for the call 'a'"),
    ],
)
def test_a_call_without_its_result_and_a_result_without_its_call_are_refused(roomy, results, sentence):
    messages = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "tool_calls": CALLS}]
    messages += [{"role": "tool", "tool_call_id": i, "content": "dry"} for i in results]
    with pytest.raises(openai.BadRequestError, match=sentence):
        roomy.openai.chat.completions.create(model="small", messages=messages, tools=[WEATHER])


def test_what_a_document_a_search_and_a_tools_name_say_is_read(prompts):
    document = {"type": "document", "title": "Deeds", "source": {"type": "text", "data": "Of 1901."}}
    found = {
        "type": "search_result",
        "source": "https://x",
        "title": "Ships",
        "content": [{"type": "text", "text": "3"}],
    }
    reference = {"type": "tool_reference", "tool_name": "Bash"}
    prompt = prompts().of(MESSAGE, messages=[{"role": "user", "content": [document, found, reference]}])
    assert "Deeds\nOf 1901.\nShips\nhttps://x\n3\nBash" in prompt


def test_a_call_that_a_model_made_comes_back_whatever_its_name(prompts):
    odd = {"id": "a", "type": "function", "function": {"name": "my tool", "arguments": {"x": 1}}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [odd]},
        {"role": "tool", "tool_call_id": "a", "content": "no such tool"},
    ]
    assert "<function=my tool>\n<parameter=x>\n1" in prompts().of(CHATS, messages=messages)
