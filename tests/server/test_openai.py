"""OpenAI's own client against the server: what a model says reaches it in the API's terms."""

import json

import openai
import pytest

from chat.test_tool_calls import call

CALL = call("weather", city="Lyon", days="3")
SECOND = CALL.replace("Lyon", "Oslo")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of some days.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
THINKING = "I look.\n</think>\n\n"


def test_thinking_and_content_are_told_apart(scripted):
    message = scripted(THINKING + "It rains.").chat().choices[0].message
    assert (message.reasoning_content, message.content, message.tool_calls) == ("I look.", "It rains.", None)


def test_a_stream_says_what_the_whole_answer_says(scripted):
    server = scripted(THINKING + f"One moment.\n\n{CALL}\n{SECOND}")
    whole = server.chat(tools=[WEATHER]).choices[0]
    chunks = list(server.chat(tools=[WEATHER], stream=True, stream_options={"include_usage": True}))
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    assert "".join(d.content or "" for d in deltas) == whole.message.content == "One moment."
    thought = "".join(getattr(d, "reasoning_content", None) or "" for d in deltas)
    assert thought == whole.message.reasoning_content
    pieces = [made for d in deltas for made in d.tool_calls or ()]
    begun = [piece for piece in pieces if piece.id]
    assert [(piece.index, piece.function.name) for piece in begun] == [(0, "weather"), (1, "weather")]
    written = ["".join(piece.function.arguments for piece in pieces if piece.index == i) for i in (0, 1)]
    assert [json.loads(text) for text in written] == [{"city": c, "days": 3} for c in ("Lyon", "Oslo")]
    assert written == [c.function.arguments for c in whole.message.tool_calls]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.finish_reason == "tool_calls"
    assert chunks[-1].usage.completion_tokens == server.chat(tools=[WEATHER]).usage.completion_tokens


def test_a_tool_loop_of_several_turns_replays_the_models_own_words(scripted):
    """The model drifts from the template's form; what it wrote comes back word for word in the next prompts."""
    drifted = CALL.replace("<tool_call>\n", "").replace("\n</function>", "\n\n</function>")
    prompts = []

    def script(prompt):
        prompts.append(prompt)
        turns = prompt.count("<tool_response>")
        return THINKING + (f"Look {turns}.\n\n{drifted}" if turns < 3 else "All dry.")

    server = scripted(script)
    messages = [{"role": "user", "content": "Will it rain?"}]
    for turn in range(4):
        answer = server.openai.chat.completions.create(model="small", messages=messages, tools=[WEATHER])
        message = answer.choices[0].message
        if not message.tool_calls:
            break
        # As most clients do, without the thinking.
        messages.append({"role": "assistant", "content": message.content, "tool_calls": message.tool_calls})
        messages.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": f"dry {turn}"})
    assert message.content == "All dry."
    last = prompts[-1]
    for turn in range(3):
        assert f"<think>\n{THINKING}Look {turn}.\n\n{drifted}<|im_end|>" in last


def test_a_tool_reaches_the_prompt_as_the_client_wrote_it(scripted):
    prompts = []
    scripted(lambda prompt: prompts.append(prompt) or THINKING + "Hi.").chat(tools=[WEATHER])
    assert json.dumps(WEATHER) in prompts[0]


def test_a_call_that_was_edited_is_rendered_as_the_client_says(scripted):
    prompts = []

    def script(prompt):
        prompts.append(prompt)
        return THINKING + CALL

    server = scripted(script)
    edited = server.chat(tools=[WEATHER]).choices[0].message.tool_calls[0].model_dump()
    edited["function"]["arguments"] = '{"city": "Rome", "days": 1}'
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "tool_calls": [edited]},
        {"role": "tool", "tool_call_id": edited["id"], "content": "dry"},
    ]
    server.openai.chat.completions.create(model="small", messages=messages, tools=[WEATHER])
    assert "Rome" in prompts[-1]
    assert "Lyon" not in prompts[-1]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_required_call_is_made_by_a_model_that_would_not(speaking, choice):
    """Of random weights nothing but the form can be expected, and that holds."""
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
    digit = {
        "type": "object",
        "properties": {"city": {"enum": ["Lyon", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
    }
    weather = {"type": "function", "function": {"name": "weather", "parameters": digit}}
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    tools = [other] if choice == "required" else [weather, other]
    options = {"tool_choice": choice, "max_tokens": 300, "parallel_tool_calls": False, "extra_body": extra}
    made = speaking.chat(tools=tools, **options).choices[0].message.tool_calls[0].function
    arguments = json.loads(made.arguments)
    if choice == "required":
        assert (made.name, arguments) == ("other", {})
    else:
        assert made.name == "weather"
        assert arguments["city"] in ("Lyon", "Oslo")
        assert 1 <= arguments["days"] <= 9


def test_no_tool_is_called_where_none_may_be(scripted):
    server = scripted(lambda prompt: THINKING + ("No." if "weather" not in prompt else CALL))
    assert server.chat(tools=[WEATHER], tool_choice="none").choices[0].message.content == "No."


def test_one_call_at_a_time_ends_the_turn_at_the_first(scripted):
    server = scripted(THINKING + f"{CALL}\n{SECOND}")
    answer = server.chat(tools=[WEATHER], parallel_tool_calls=False).choices[0]
    assert len(answer.message.tool_calls) == 1
    assert answer.finish_reason == "tool_calls"


SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["rain", "sun"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["kind", "days"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_json_keeps_to_its_schema_whatever_the_model(speaking, seed, thinking):
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA, "strict": True}}
    end = speaking.service.text.tokenizer.token_id("</think>")
    answer = speaking.chat(
        response_format=form, seed=seed, temperature=1.5, max_tokens=200,
        logit_bias={str(end): 6.0}, extra_body={"chat_template_kwargs": {"enable_thinking": thinking}},
    ).choices[0]  # fmt: skip
    assert answer.finish_reason == "stop"
    value = json.loads(answer.message.content)
    assert value["kind"] in ("rain", "sun")
    assert 1 <= value["days"] <= 9
    assert value.keys() == {"kind", "days"}


def test_any_json_object_is_one(scripted):
    answer = scripted(THINKING + '{"a": [1, 2]}').chat(response_format={"type": "json_object"}).choices[0]
    assert json.loads(answer.message.content) == {"a": [1, 2]}


@pytest.mark.parametrize("said", ['{"kind": "sun", "days": 2}', CALL])
def test_beside_tools_an_answer_keeps_to_its_schema_or_is_a_call(scripted, said):
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA}}
    message = scripted(THINKING + said).chat(response_format=form, tools=[WEATHER]).choices[0].message
    if said == CALL:
        assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Lyon", "days": 3}
    else:
        assert json.loads(message.content) == {"kind": "sun", "days": 2}


@pytest.mark.parametrize("seed", range(3))
def test_beside_tools_a_model_that_says_anything_keeps_to_one_of_both(speaking, seed):
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA}}
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    weather = {"type": "object", "properties": {"city": {"enum": ["Lyon"]}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": weather}}]
    options = {"temperature": 1.5, "seed": seed, "max_tokens": 300, "parallel_tool_calls": False}
    message = speaking.chat(response_format=form, tools=tools, extra_body=extra, **options).choices[0].message
    if message.tool_calls:
        assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Lyon"}
    else:
        assert json.loads(message.content).keys() == {"kind", "days"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_bias_of_no_token_is_refused_before_a_stream_begins(speaking, stream):
    with pytest.raises(openai.BadRequestError, match="logit_bias names token 999999"):
        speaking.chat(logit_bias={"999999": 1}, stream=stream)


def test_a_stop_string_ends_the_content_and_does_not_count_in_thinking(scripted):
    server = scripted("I say END.\n</think>\n\nOne two END three")
    assert server.chat(stop="END").choices[0].message.content == "One two "
    chunks = server.chat(stop=["END"], stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "One two "
    assert server.chat(stop="END").choices[0].finish_reason == "stop"


def test_logprobs_are_given_for_every_token(speaking):
    answer = speaking.chat(logprobs=True, top_logprobs=2, max_tokens=5, temperature=0)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert all(t.logprob == t.top_logprobs[0].logprob and len(t.top_logprobs) == 2 for t in tokens)
    streamed = speaking.chat(logprobs=True, top_logprobs=2, max_tokens=5, temperature=0, stream=True)
    found = [t for c in streamed if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert found == tokens


def test_a_bias_and_penalties_reach_the_sampler(speaking):
    token = speaking.service.text.tokenizer.encode("the")[0]
    text = speaking.openai.completions.create(model="small", prompt="x", logit_bias={str(token): 100}, max_tokens=3)
    assert text.choices[0].text == "thethethe"
    plain, penalised = (
        speaking.openai.completions.create(
            model="small", prompt="x", temperature=0, presence_penalty=p, max_tokens=60
        ).choices[0].text
        for p in (0, 2)
    )  # fmt: skip
    assert plain != penalised


@pytest.mark.parametrize(
    ("field", "value"),
    [("frobnicate", 1), ("messages", [{"role": "user", "content": "x", "colour": 1}]),
     ("top_logprobs", 3), ("tool_choice", "required"), ("temperature", "hot"), ("stop", ""), ("n", 0),
     ("messages", []), ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
     ("chat_template_kwargs", {"colour": 1}),
     ("logit_bias", {"x": 1}), ("max_tokens", 0), ("chat_template_kwargs", {"tools": []}),
     ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "frob"}}}),
     ("best_of", 2), ("modalities", ["audio"]), ("audio", {}), ("suffix", "x")],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(speaking, field, value):
    with pytest.raises(openai.BadRequestError) as error:
        speaking.chat(extra_body={field: value})
    assert field in str(error.value) or error.value.param is None
    assert error.value.body["type"] == "invalid_request_error"


def test_an_unknown_model_is_404(speaking):
    with pytest.raises(openai.NotFoundError, match="only small"):
        speaking.openai.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])
    assert [m.id for m in speaking.openai.models.list()] == ["small"]
    assert speaking.openai.models.retrieve("small").id == "small"


def test_completions_stream(speaking):
    options = {"model": "small", "prompt": "Hello", "max_tokens": 10, "temperature": 0}
    whole = speaking.openai.completions.create(**options).choices[0]
    chunks = list(speaking.openai.completions.create(stream=True, **options))
    assert "".join(c.choices[0].text for c in chunks) == whole.text
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


def test_responses_with_tools_over_two_turns(scripted):
    server = scripted(lambda p: THINKING + ("Dry." if "<tool_response>" in p else f"Wait.\n\n{CALL}"))
    tool = {"type": "function", **WEATHER["function"]}
    client = server.openai.responses
    first = client.create(model="small", input="Rain?", instructions="Be brief.", tools=[tool])
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    assert first.output_text == "Wait."
    made = first.output[-1]
    assert json.loads(made.arguments) == {"city": "Lyon", "days": 3}
    items = [{"role": "user", "content": "Rain?"}, *[item.to_dict() for item in first.output]]
    items.append({"type": "function_call_output", "call_id": made.call_id, "output": "dry"})
    second = client.create(model="small", input=items, instructions="Be brief.", tools=[tool])
    assert second.output_text == "Dry."
    assert second.usage.output_tokens_details.reasoning_tokens > 0


def test_a_stream_of_responses_ends_with_the_whole(scripted):
    server = scripted(THINKING + f"Wait.\n\n{CALL}")
    tool = {"type": "function", **WEATHER["function"]}
    with server.openai.responses.stream(model="small", input="Rain?", tools=[tool]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [e.sequence_number for e in events if hasattr(e, "sequence_number")] == sorted(
        e.sequence_number for e in events if hasattr(e, "sequence_number")
    )
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "Wait." == final.output_text
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.status == "completed"


def test_responses_keep_to_a_schema_and_say_when_they_are_cut(speaking):
    text = {"format": {"type": "json_schema", "name": "w", "schema": SCHEMA}}
    answer = speaking.openai.responses.create(model="small", input="x", text=text, reasoning={"effort": "none"})
    assert json.loads(answer.output_text)["kind"] in ("rain", "sun")
    assert (answer.text.format.name, answer.text.format.schema_) == ("w", SCHEMA)
    assert answer.reasoning.effort == "none"
    cut = speaking.openai.responses.create(model="small", input="x", max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        speaking.openai.responses.create(model="small", input="x", previous_response_id="resp_1")
