"""Anthropic's own client against the server."""

import anthropic
import pytest

from flashmoe.chat.template import ChatTemplate
from server.test_openai import CALL, SECOND, THINKING, WEATHER

TOOL = {
    "name": "weather",
    "description": "The weather of some days.",
    "input_schema": WEATHER["function"]["parameters"],
    "cache_control": {"type": "ephemeral"},
}
THINK = {"type": "enabled", "budget_tokens": 1024}


def ask(server, content="Hello", **options):
    options = {"max_tokens": 300, "messages": [{"role": "user", "content": content}], **options}
    return server.anthropic.messages.create(model="small", **options)


def test_thinking_text_and_calls_are_blocks(scripted):
    message = ask(scripted(f"{THINKING}Wait.\n\n{CALL}\n{SECOND}"), tools=[TOOL], thinking=THINK)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in message.content[2:]] == [{"city": c, "days": 3} for c in ("Lyon", "Oslo")]
    assert message.stop_reason == "tool_use"


def test_without_thinking_the_model_answers_at_once(scripted):
    prompts = []
    server = scripted(lambda prompt: prompts.append(prompt) or THINKING + "Hi.")
    message = ask(server, system=[{"type": "text", "text": "Be brief."}])
    assert [(block.type, block.text) for block in message.content] == [("text", "Hi.")]
    assert "<|im_start|>system\nBe brief.<|im_end|>" in prompts[0]


def test_a_stream_adds_up_to_the_whole(scripted):
    server = scripted(f"{THINKING}Wait.\n\n{CALL}\n{SECOND}")
    options = {"model": "small", "max_tokens": 300, "tools": [TOOL], "thinking": THINK}
    messages = [{"role": "user", "content": "Rain?"}]
    with server.anthropic.messages.stream(messages=messages, **options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    whole = server.anthropic.messages.create(messages=messages, **options)
    assert text == "Wait."
    strip = {"id"}
    blocks = [[b.model_dump(exclude=strip) for b in m.content] for m in (final, whole)]
    for block in blocks[0]:
        block.pop("parsed_output", None)
    for block in blocks[1]:
        block.pop("parsed_output", None)
    assert blocks[0] == blocks[1]
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_a_tool_loop_of_several_turns(scripted):
    prompts = []

    def script(prompt):
        prompts.append(prompt)
        turns = prompt.count("<tool_response>")
        return THINKING + (f"Look {turns}.\n\n{CALL}" if turns < 3 else "All dry.")

    server = scripted(script)
    messages = [{"role": "user", "content": "Rain?"}]
    for _ in range(4):
        answer = ask(server, messages=messages, tools=[TOOL], thinking=THINK)
        if answer.stop_reason != "tool_use":
            break
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "dry"}]}
            for block in answer.content
            if block.type == "tool_use"
        ]
        messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    assert answer.content[-1].text == "All dry."
    assert prompts[-1].count(f"<think>\n{THINKING}Look") == 3


@pytest.mark.parametrize("opens", [True, False], ids=["the template opens it", "the model opens it"])
def test_the_budget_ends_the_thinking(scripted, opens):
    server = scripted("long " * 200 + "\n</think>\n\nDone.")
    if not opens:
        server.service.text.__dict__["template"] = ChatTemplate(NEVER + "{{ '' if enable_thinking }}")
    message = ask(server, thinking={"type": "enabled", "budget_tokens": 10})
    assert message.usage.output_tokens < 30
    assert message.content[0].type == "thinking"


def test_stop_sequences_are_named(scripted):
    message = ask(scripted(THINKING + "One END two"), stop_sequences=["END"])
    assert (message.content[0].text, message.stop_reason, message.stop_sequence) == ("One ", "stop_sequence", "END")


def test_tokens_are_counted_as_they_are_billed(scripted):
    server = scripted(THINKING + "Hi.")
    messages = [{"role": "user", "content": "Hello"}]
    counted = server.anthropic.messages.count_tokens(model="small", messages=messages, tools=[TOOL]).input_tokens
    assert counted == ask(server, messages=messages, tools=[TOOL]).usage.input_tokens


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_call_can_be_required(speaking, choice):
    other = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
    message = ask(speaking, tools=[other], tool_choice={**choice, "disable_parallel_tool_use": True})
    assert [(block.name, block.input) for block in message.content] == [("weather", {})]


@pytest.mark.parametrize(
    ("field", "value"),
    [("frobnicate", 1), ("mcp_servers", [{}]), ("container", "x"), ("tool_choice", {"type": "any"}),
     ("messages", [{"role": "user", "content": [{"type": "image", "source": {}}]}]), ("temperature", 2),
     ("messages", [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It is"}])],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name_in_anthropics_shape(speaking, field, value):
    with pytest.raises(anthropic.BadRequestError) as error:
        ask(speaking, extra_body={field: value})
    assert field in str(error.value)
    assert error.value.body["error"]["type"] == "invalid_request_error"


def test_models_come_in_anthropics_shape(speaking):
    assert [m.id for m in speaking.anthropic.models.list()] == ["small"]
    assert speaking.anthropic.models.retrieve("small").display_name == "small"
    with pytest.raises(anthropic.NotFoundError) as error:
        speaking.anthropic.models.retrieve("other")
    assert error.value.body["error"]["type"] == "not_found_error"


def test_the_model_is_told_that_a_tool_failed(scripted):
    prompts = []
    server = scripted(lambda prompt: prompts.append(prompt) or THINKING + "Hi.")
    use = {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Lyon", "days": 1}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "no network"}
    for failed in ({}, {"is_error": False}, {"is_error": True}):
        messages = [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [{**result, **failed}]},
        ]
        ask(server, messages=messages, tools=[TOOL])
    told = [prompt.split("<tool_response>\n")[1].split("\n")[0] for prompt in prompts if "<tool_response>" in prompt]
    assert set(told[:-1]) == {"no network", "Error: no network"}
    assert told[-1] == "Error: no network"


ALWAYS = "{% for m in messages %}{{ m.content }}{% endfor %}<|im_start|>assistant\n<think>\n"
NEVER = "{% for m in messages %}{{ m.content }}{% endfor %}<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "thinking", "fine"),
    [
        (ALWAYS, THINK, True),
        (ALWAYS, {"type": "adaptive"}, True),
        (ALWAYS, {"type": "disabled"}, False),
        (ALWAYS, None, True),
        (NEVER, THINK, True),
        (NEVER, {"type": "adaptive"}, True),
        (NEVER, {"type": "disabled"}, True),
        (NEVER, None, True),
    ],
)
def test_thinking_that_a_model_cannot_leave_is_refused(scripted, template, thinking, fine):
    server = scripted(THINKING + "Hi.")
    server.service.text.__dict__["template"] = ChatTemplate(template)
    options = {"thinking": thinking} if thinking else {}
    try:
        if fine:
            ask(server, **options, max_tokens=3)
        else:
            with pytest.raises(anthropic.BadRequestError, match="thinking cannot be"):
                ask(server, **options, max_tokens=3)
    finally:
        server.service.text.__dict__.pop("template", None)
