"""Streams through the official clients: they add up to the whole answer, and never fall silent for long."""

import asyncio
import json
import threading

import anthropic
import httpx
import openai
import pytest

from flashmoe.errors import FlashMoeError
from flashmoe.server import chat_answer, completions, messages_answer, responses_answer
from flashmoe.server.sse import EventStream, comment
from server.test_anthropic import TOOL
from server.test_openai import CALL, SECOND, THINKING, WEATHER
from server.waiting import idle, until

QUESTION = [{"role": "user", "content": "Rain?"}]
JSON_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Lyon \\"x\\"", "days": 3}}\n</tool_call>'
BROKEN = '<tool_call>\n{"name": "weather", "arguments": {"days": 3, "city": "\\d"}}\n</tool_call>'
TURNS = {
    "text": "It rains.",
    "text and calls": f"Wait.\n\n{CALL}\n{SECOND}",
    "a call in JSON": f"Wait. {JSON_CALL}",
    "a call that is no JSON": BROKEN,
    "a call without arguments": "<tool_call>\n<function=weather>\n</function>\n</tool_call>",
    "a tag in an argument": CALL.replace("Lyon", "a </think> b"),
    "text after a call": f"{CALL}\nDone.",
}
PATHS = ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions"]
ASKED = {
    PATHS[0]: {"messages": QUESTION},
    PATHS[1]: {"input": "Rain?"},
    PATHS[2]: {"messages": QUESTION, "max_tokens": 300},
    PATHS[3]: {"prompt": "<|im_start|>assistant\n"},
}
EVENTS = {
    PATHS[0]: chat_answer.Chunks,
    PATHS[1]: responses_answer.ResponseEvents,
    PATHS[2]: messages_answer.MessageEvents,
    PATHS[3]: completions.Completion,
}


def chat(server, max_tokens):
    """The message and why it ended, streamed and whole, without what differs from answer to answer."""
    options = {"model": "small", "messages": QUESTION, "tools": [WEATHER], "max_tokens": max_tokens}
    with server.openai.chat.completions.stream(**options) as stream:
        stream.until_done()
        streamed = stream.current_completion_snapshot.choices[0]  # the final one is refused where it was cut
    whole = server.openai.chat.completions.create(**options).choices[0]
    found = []
    for choice in (streamed, whole):
        message = choice.message.model_dump(exclude={"parsed", "refusal"}, exclude_none=True)
        calls = [(c["type"], c["function"]["name"], c["function"]["arguments"]) for c in message.pop("tool_calls", ())]
        message["content"] = message.get("content", "")
        found.append((message, calls, choice.finish_reason))
    return found


def responses(server, max_tokens):
    tools = [{"type": "function", **WEATHER["function"]}]
    options = {"model": "small", "input": "Rain?", "tools": tools, "max_output_tokens": max_tokens}
    with server.openai.responses.stream(**options) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    whole = server.openai.responses.create(**options)
    strip = {"id": True, "call_id": True, "parsed_arguments": True, "content": {"__all__": {"parsed"}}}
    return [
        ([item.model_dump(exclude=strip) for item in response.output], response.status)
        for response in (events[-1].response, whole)
    ]


def messages(server, max_tokens):
    options = {"model": "small", "messages": QUESTION, "tools": [TOOL], "max_tokens": max_tokens}
    options["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    with server.anthropic.messages.stream(**options) as stream:
        streamed = stream.get_final_message()
    whole = server.anthropic.messages.create(**options)
    strip = {"id": True, "parsed_output": True}
    return [
        ([block.model_dump(exclude=strip) for block in m.content], m.stop_reason, m.usage.output_tokens)
        for m in (streamed, whole)
    ]


@pytest.mark.parametrize("api", [chat, responses, messages])
@pytest.mark.parametrize("turn", TURNS)
def test_a_stream_adds_up_to_the_whole_answer(scripted, api, turn):
    streamed, whole = api(scripted(THINKING + TURNS[turn]), 300)
    assert streamed == whole


@pytest.mark.parametrize("api", [chat, responses, messages])
@pytest.mark.parametrize("left_out", [4, 20, 40, 55])
def test_a_stream_that_is_cut_within_a_call_adds_up_to_the_answer_cut_there(scripted, api, left_out):
    server = scripted(THINKING + CALL)
    tokens = server.service.text.tokenizer.encode(THINKING + CALL[: -left_out or None])
    streamed, whole = api(server, len(tokens))
    assert streamed == whole
    assert "weather" in str(whole)
    assert ("length" in whole or "incomplete" in whole or "max_tokens" in whole) == (left_out > 4)


def begun_city(server, said):
    """So many tokens of what is said end within the city, and what is told of the arguments by then."""
    tokenizer = server.service.text.tokenizer
    tokens = tokenizer.encode(said)
    for most in range(len(tokens)):
        if begun := tokenizer.decode(tokens[:most]).partition("<parameter=city>\n")[2]:
            return most, f'{{"city": "{begun}'
    raise AssertionError


def test_a_call_that_is_cut_off_is_told_as_far_as_it_came(scripted):
    server = scripted(THINKING + CALL)
    most, arguments = begun_city(server, THINKING + CALL)
    made = server.chat(tools=[WEATHER], max_tokens=most).choices[0]
    assert made.finish_reason == "length"
    assert made.message.tool_calls[0].function.arguments == arguments
    item = responses(server, most)[1][0][-1]
    assert (item["status"], item["arguments"]) == ("incomplete", arguments)
    assert messages(server, most)[1][0][-1]["input"] == {}


def lines_of(server, path, **more):
    """The events of a stream as JSON, without their names."""
    body = {"model": "small", "stream": True, **ASKED[path], **more}
    with httpx.stream("POST", f"{server.url}{path}", json=body, timeout=60) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])


def is_sign_of_life(path, event):
    """Whether the event says nothing but that the answer is on its way."""
    if path == PATHS[0]:
        return event["choices"][0]["delta"] == {} and event["choices"][0]["finish_reason"] is None
    if path == PATHS[1]:
        return event["type"] in ("response.queued", "response.in_progress")
    if path == PATHS[2]:
        return event == {"type": "ping"}
    return event["choices"][0]["text"] == "" and event["choices"][0]["finish_reason"] is None


@pytest.fixture
def held(scripted):
    """A server whose engine makes no step but those that `steps` lets it."""
    server = scripted(THINKING + f"Wait.\n\n{CALL}", alive_seconds=0.01)
    server.steps = threading.Semaphore(0)
    server.engine.before_forward = server.steps.acquire
    yield server
    server.steps.release(10_000)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("steps", [0, 2, 6], ids=["the prompt is read", "it begins to answer", "it answers"])
def test_while_the_engine_says_nothing_events_come(held, path, steps):
    for _ in range(steps):
        held.steps.release()
    events = lines_of(held, path)
    signs = []
    while len(signs) < 5:
        event = next(events)
        signs += [event] if is_sign_of_life(path, event) else []
    if path == PATHS[1]:
        assert signs[-1]["type"] == "response.in_progress"
        assert signs[-1]["response"]["status"] == "in_progress"
    held.steps.release(10_000)
    assert not is_sign_of_life(path, list(events)[-1])


def test_who_waits_in_the_queue_sees_events_too(held):
    others = [lines_of(held, PATHS[2]) for _ in range(held.engine.limits.sequences)]
    for other in others:
        assert next(other)["type"] == "message_start"
    for path in PATHS:
        waiting = lines_of(held, path)
        found = 0
        while found < 3:
            found += is_sign_of_life(path, event := next(waiting))
        assert path != PATHS[1] or event["type"] == "response.queued"
        waiting.close()
    held.steps.release(10_000)
    for other in others:
        other.close()
    until(lambda: idle(held))


@pytest.mark.parametrize("path", PATHS[:3])
def test_the_official_clients_take_the_signs_of_life(held, path, monkeypatch):
    """They come in all phases of the answer, and the client ends with the same answer as without them."""
    alive, counted = EVENTS[path].alive, []

    def counting(self):
        counted.append(alive(self))
        if len(counted) % 3 == 0:
            held.steps.release(1)
        return counted[-1]

    monkeypatch.setattr(EVENTS[path], "alive", counting)
    api = {PATHS[0]: chat, PATHS[1]: responses, PATHS[2]: messages}[path]
    held.openai.timeout = held.anthropic.timeout = 60
    # Each step waits for three signs of life until the first 20 steps are made.
    threading.Thread(target=lambda: (until(lambda: len(counted) > 60, 60), held.steps.release(10_000))).start()
    streamed, whole = api(held, 300)
    assert streamed == whole
    assert len(counted) > 60


def test_the_first_event_does_not_wait_for_the_engine(held):
    first = next(lines_of(held, PATHS[0]))["choices"][0]["delta"]
    assert first == {"role": "assistant", "content": ""}
    assert next(lines_of(held, PATHS[1]))["type"] == "response.created"
    began = next(lines_of(held, PATHS[2]))
    counted = held.anthropic.messages.count_tokens(model="small", messages=QUESTION).input_tokens
    assert (began["type"], began["message"]["usage"]["input_tokens"]) == ("message_start", counted)


def test_each_choice_begins_in_order(held):
    events = lines_of(held, PATHS[0], n=3)
    assert [next(events)["choices"][0]["index"] for _ in range(3)] == [0, 1, 2]


def test_arguments_come_while_they_are_written(scripted):
    """The engine stops within an argument, and the client has what was written of it."""
    server = scripted(THINKING + CALL)
    most, arguments = begun_city(server, THINKING + CALL)
    tokens = server.chat(QUESTION[0]["content"], tools=[WEATHER]).usage.completion_tokens
    steps_of_prompt = len(server.engine.forwards) - tokens
    held = threading.Semaphore(steps_of_prompt + most - 1)
    server.engine.before_forward = held.acquire
    found = ""
    for event in lines_of(server, PATHS[0], tools=[WEATHER]):
        for made in event["choices"][0]["delta"].get("tool_calls", ()):
            found += made["function"]["arguments"]
        if found == arguments:
            break
    assert found == arguments
    held.release(10_000)


@pytest.mark.parametrize("path", PATHS)
def test_what_fails_after_the_beginning_is_an_event_in_the_apis_shape(scripted, path):
    server = scripted(THINKING + "It rains.")

    def fail():
        raise FlashMoeError("layer-001.safetensors is damaged")

    server.engine.before_forward = fail
    events = list(lines_of(server, path))
    if path == PATHS[1]:
        assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
        assert events[-1]["response"]["status"] == "failed"
        assert "layer-001" in events[-1]["response"]["error"]["message"]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
    else:
        assert "layer-001" in events[-1]["error"]["message"]


def test_the_official_clients_raise_what_fails_after_the_beginning(scripted):
    server = scripted(THINKING + "It rains.")

    def fail():
        raise FlashMoeError("layer-001.safetensors is damaged")

    server.engine.before_forward = fail
    with pytest.raises(openai.APIError, match="layer-001"):
        list(server.chat(stream=True))
    options = {"model": "small", "messages": QUESTION, "max_tokens": 9}
    with pytest.raises(anthropic.APIError, match="layer-001"), server.anthropic.messages.stream(**options) as stream:
        stream.get_final_message()


@pytest.mark.parametrize("path", PATHS)
def test_what_is_wrong_with_a_request_is_no_stream(scripted, path):
    body = {"model": "small", "stream": True, **ASKED[path], "temperature": "hot"}
    assert scripted("x").post(path, body).status_code == 400


def test_comments_put_off_no_sign_of_life():
    """A client's timer takes no notice of them."""
    signs = []

    class Commenting:
        async def events(self):
            while len(signs) < 3:
                yield comment("prompt 1/2")
                await asyncio.sleep(0.001)

        def alive(self):
            signs.append("data: {}\n\n")
            return signs[-1]

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message.get("body", b""))

    sent = []
    asyncio.run(EventStream(Commenting(), lambda: None, 0.02)({}, receive, send))
    assert b"".join(sent).count(b"data: {}") == 3
    assert sent.count(b": prompt 1/2\n\n") > 3
