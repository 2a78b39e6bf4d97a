"""Tools as clients of three interfaces describe them, and how long and how answers may be."""

import json

import anthropic
import openai
import pytest

from chat.test_tool_calls import call
from server.field_bodies import CHAT, CHATS, COMPLETIONS, MESSAGE, MESSAGES, RESPONSE, RESPONSES, SMALL
from server.test_field import LEFT_OUT
from server.test_openai import CALL, SECOND, THINKING, WEATHER

# Tools ----------------------------------------------------------------------------------------------------------------
PATCH = call("patch", input="*** Begin\n+a")
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}


def test_a_custom_tool_is_a_function_for_the_model_and_a_custom_tool_for_the_client(prompts):
    server = prompts(THINKING + PATCH).server
    custom = {"name": "patch", "description": "Edits.", "format": {"type": "grammar", "grammar": GRAMMAR}}
    options = {"tools": [{"type": "custom", "custom": custom}]}
    (made,) = server.chat(**options).choices[0].message.tool_calls
    assert (made.type, made.custom.name, made.custom.input) == ("custom", "patch", "*** Begin\n+a")
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [made.to_dict()]},
        {"role": "tool", "tool_call_id": made.id, "content": "done"},
    ]
    assert server.openai.chat.completions.create(model="small", messages=messages, **options).choices


def test_a_custom_tool_of_responses_streams_its_input(prompts):
    asked = prompts(THINKING + PATCH)
    tool = {"type": "custom", "name": "patch", "description": "Edits.", "format": GRAMMAR}
    create = asked.server.openai.responses.create
    whole = create(model="small", input="Hi", tools=[tool]).output[-1]
    assert (whole.type, whole.name, whole.input) == ("custom_tool_call", "patch", "*** Begin\n+a")
    assert "must match this lark grammar:\\nstart: /.+/" in asked.seen[0]
    events = list(create(model="small", input="Hi", tools=[tool], stream=True))
    written = [e.delta for e in events if e.type == "response.custom_tool_call_input.delta"]
    assert "".join(written) == "*** Begin\n+a"
    final = events[-1].response.output[-1]
    assert (final.type, final.input, final.status) == ("custom_tool_call", "*** Begin\n+a", "completed")
    items = [{"role": "user", "content": "Hi"}, final.to_dict()]
    items.append({"type": "custom_tool_call_output", "call_id": final.call_id, "output": "done"})
    assert create(model="small", input=items, tools=[tool]).status == "completed"
    assert "<function=patch>\n<parameter=input>\n*** Begin\n+a\n</parameter>" in asked.seen[-1]


def test_a_custom_tool_of_chats_streams_its_input(prompts):
    asked = prompts(THINKING + PATCH)
    tools = [{"type": "custom", "custom": {"name": "patch"}}]
    deltas = [chunk.choices[0].delta for chunk in asked.server.chat(tools=tools, stream=True)]
    begun, *pieces = [made.model_dump(exclude_none=True) for delta in deltas for made in delta.tool_calls or ()]
    assert (begun["type"], begun["custom"]) == ("custom", {"name": "patch", "input": ""})
    assert "".join(piece["custom"]["input"] for piece in pieces) == "*** Begin\n+a"


def test_a_custom_tool_that_got_no_text_is_given_all_that_was_written(prompts):
    asked = prompts(THINKING + call("patch", other="a"))
    tools = [{"type": "custom", "name": "patch"}]
    made = asked.server.openai.responses.create(model="small", input="Hi", tools=tools).output[-1]
    assert (made.type, made.input) == ("custom_tool_call", '{"other": "a"}')


def test_tools_of_a_namespace_are_told_apart_and_go_back_to_it(prompts):
    asked = prompts(THINKING + call("files__read", path="a") + "\n" + call("read"))
    read = {"type": "function", "name": "read", "parameters": {"type": "object", "properties": {}}}
    tools = [read, {"type": "namespace", "name": "files", "description": "Files", "tools": [read]}]
    answer = asked.server.openai.responses.create(model="small", input="Hi", tools=tools)
    calls = answer.output[-2:]
    assert [(made.name, made.namespace) for made in calls] == [("read", "files"), ("read", None)]
    assert '"name": "files__read"' in asked.seen[0]
    items = [{"role": "user", "content": "Hi"}, *[item.to_dict() for item in answer.output]]
    items += [{"type": "function_call_output", "call_id": made.call_id, "output": "x"} for made in calls]
    assert asked.server.openai.responses.create(model="small", input=items, tools=tools).status == "completed"
    assert "<function=files__read>" in asked.seen[-1]


def test_two_tools_that_the_model_would_see_as_one_are_refused(roomy):
    inner = {"type": "function", "name": "read"}
    tools = [{"type": "function", "name": "files__read"}, {"type": "namespace", "name": "files", "tools": [inner]}]
    with pytest.raises(openai.BadRequestError, match="files__read, and so is another tool"):
        roomy.openai.responses.create(model="small", input="Hi", tools=tools)


@pytest.mark.parametrize("stream", [False, True])
def test_functions_as_they_once_were_are_called_as_they_once_were(prompts, stream):
    asked = prompts(THINKING + CALL + "\n" + SECOND)
    functions = {"functions": [WEATHER["function"]], "function_call": "auto"}
    answer = asked.server.chat(stream=stream, extra_body=functions)
    if stream:
        choices = [chunk.choices[0] for chunk in answer]
        begun, *pieces = [choice.delta.function_call for choice in choices if choice.delta.function_call]
        made = begun.model_copy(update={"arguments": "".join(piece.arguments for piece in [begun, *pieces])})
        assert len(pieces) > 1
        reason = choices[-1].finish_reason
    else:
        made, reason = answer.choices[0].message.function_call, answer.choices[0].finish_reason
    assert (made.name, json.loads(made.arguments), reason) == ("weather", {"city": "Lyon", "days": 3}, "function_call")
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "function_call": {"name": made.name, "arguments": made.arguments}},
        {"role": "function", "name": "weather", "content": "dry"},
    ]
    prompt = asked.of(CHATS, messages=messages, **functions)
    assert "<parameter=city>\nLyon" in prompt
    assert "<tool_response>\ndry" in prompt


def test_a_tool_without_parameters_has_an_empty_object_of_them(prompts):
    shown = '"parameters": {"type": "object", "properties": {}}'
    asked = prompts()
    for parameters in ({}, {"parameters": None}, {"parameters": {}}):
        assert shown in asked.of(CHATS, tools=[{"type": "function", "function": {"name": "ping", **parameters}}])
        assert shown in asked.of(RESPONSE, tools=[{"type": "function", "name": "ping", **parameters}])


def test_examples_of_an_input_are_shown_with_its_schema(prompts):
    tool = {**MESSAGES["tools"][0], "input_examples": [{"command": "ls -l"}]}
    assert '"examples": [{"command": "ls -l"}]' in prompts().of(MESSAGE, tools=[tool])


OTHER = {"type": "function", "function": {"name": "other"}}


@pytest.mark.parametrize(
    ("choice", "seen"),
    [
        (None, {"weather", "other"}),
        ("auto", {"weather", "other"}),
        ("none", set()),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [OTHER]}}, {"other"}),
    ],
)
def test_the_model_sees_the_tools_that_it_may_call(prompts, choice, seen):
    prompt = prompts().of(CHATS, tools=[WEATHER, OTHER], tool_choice=choice)
    assert {name for name in ("weather", "other") if f'"name": "{name}"' in prompt} == seen
    flat = [{"type": "function", **tool["function"]} for tool in (WEATHER, OTHER)]
    if isinstance(choice, dict):
        choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "other"}]}
    prompt = prompts().of(RESPONSE, tools=flat, tool_choice=choice)
    assert {name for name in ("weather", "other") if f'"name": "{name}"' in prompt} == seen


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        "any",
        {"type": "function", "function": {"name": "other"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [OTHER]}},
    ],
)
def test_a_call_can_be_required_in_each_of_the_ways_to_say_so(speaking, choice):
    tools = [OTHER] if isinstance(choice, str) else [WEATHER, OTHER]
    options = {"max_tokens": 300, "parallel_tool_calls": False, "extra_body": {"enable_thinking": False}}
    message = speaking.chat(tools=tools, tool_choice=choice, **options).choices[0].message
    assert [made.function.name for made in message.tool_calls] == ["other"]


def test_a_custom_tool_can_be_required_by_its_name(speaking):
    tools = [{"type": "custom", "name": "patch"}, {"type": "function", "name": "other"}]
    answer = speaking.openai.responses.create(
        model="small", input="x", tools=tools, tool_choice={"type": "custom", "name": "patch"}, max_output_tokens=40,
        reasoning={"effort": "none"}, parallel_tool_calls=False, temperature=0,
    )  # fmt: skip
    assert {item.type for item in answer.output} <= {"message", "custom_tool_call"}
    assert "other" not in answer.output_text


@pytest.mark.parametrize("choice", [{"type": "function", "name": "nope"}, {"type": "web_search"}])
def test_a_choice_of_a_tool_that_there_is_not_is_refused(roomy, choice):
    with pytest.raises(openai.BadRequestError) as error:
        roomy.openai.responses.create(model="small", input="x", tools=RESPONSES["tools"], tool_choice=choice)
    assert error.value.param == "tool_choice"


@pytest.mark.parametrize(
    ("path", "other"),
    [
        (CHATS, {"type": "web_search"}),
        (RESPONSE, {"type": "code_interpreter", "container": {"type": "auto"}}),
        (RESPONSE, {"type": "mcp", "server_label": "x", "server_url": "https://x"}),
        (MESSAGE, {"type": "web_search_20250305", "name": "web_search"}),
        (MESSAGE, {"type": "bash_20250124", "name": "bash"}),
    ],
)
def test_a_tool_of_another_server_is_left_out_beside_others_and_refused_alone(roomy, path, other):
    own = {CHATS: [WEATHER]}.get(path) or SMALL[path]["tools"]
    response = roomy.post(path, {**SMALL[path], "tools": [other, *own]})
    assert (response.status_code, response.headers[LEFT_OUT]) == (200, other["type"])
    response = roomy.post(path, {**SMALL[path], "tools": [other]})
    assert response.status_code == 400
    assert f"tools has only {other['type']}" in response.json()["error"]["message"]


# The answer -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("most", [None, -1, 10**9])
def test_an_answer_may_take_the_room_that_there_is(speaking, most):
    context = speaking.engine.limits.context
    body = {"max_tokens": most, "ignore_eos": True, "temperature": 0}
    usage = speaking.post(CHATS, {**CHAT, **body}).json()["usage"]
    assert usage["total_tokens"] == context


def test_a_prompt_that_does_not_fit_is_refused_in_the_words_that_clients_look_for(roomy):
    context = roomy.engine.limits.context
    text = "a " * context
    with pytest.raises(openai.BadRequestError, match="maximum context length is") as refused:
        roomy.chat(text)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(anthropic.BadRequestError, match=rf"prompt is too long: \d+ tokens > {context - 1} maximum"):
        roomy.anthropic.messages.create(model="small", max_tokens=5, messages=[{"role": "user", "content": text}])
    with pytest.raises(openai.BadRequestError) as refused:
        roomy.openai.responses.create(model="small", input=text)
    assert refused.value.code == "context_length_exceeded"


def test_models_say_how_long_their_context_is(roomy):
    context = roomy.engine.limits.context
    model = roomy.openai.models.retrieve("small")
    assert (model.max_model_len, model.context_length) == (context, context)
    assert roomy.anthropic.models.retrieve("small").max_input_tokens == context


def test_an_answer_of_at_least_so_many_tokens_has_them(scripted):
    server = scripted("Hi.\n</think>\n\nHi.")
    short = server.chat().usage.completion_tokens
    more = server.chat(extra_body={"min_tokens": short + 9}).usage.completion_tokens
    assert more >= short + 9
    answer = server.chat(extra_body={"ignore_eos": True}, max_tokens=40)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (40, "length")


def test_ways_of_saying_the_same_to_the_sampler_give_the_same(speaking):
    def text(**options):
        body = {"model": "small", "prompt": "Hello", "n_predict": 8, "temperature": 1.5, "seed": 3, **options}
        response = speaking.post(COMPLETIONS, body)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["text"]

    assert text(top_k=-1) == text(top_k=0)
    assert text(repeat_penalty=1.7) == text(repetition_penalty=1.7)
    assert text(top_p=0) == text(temperature=0)
    assert text(seed=-1) == text(seed=-1) == text(seed=2**63 - 1)


def test_json_of_a_schema_can_be_asked_for_in_anthropics_way(speaking):
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "schema": schema}
    for field in ({"output_config": {"format": form}}, {"output_format": form}):
        message = speaking.anthropic.messages.create(
            model="small", max_tokens=60, messages=[{"role": "user", "content": "x"}], extra_body=field
        )
        assert json.loads(message.content[0].text)["a"] in ("x", "y")


def test_a_response_repeats_its_tools_and_their_choice(roomy):
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "shell"}]}
    answer = roomy.openai.responses.create(**{**RESPONSES, "tool_choice": choice, "metadata": {"a": "b"}})
    assert [tool.name for tool in answer.tools] == ["shell"]
    assert answer.tool_choice.mode == "auto"
    assert answer.metadata == {"a": "b"}
