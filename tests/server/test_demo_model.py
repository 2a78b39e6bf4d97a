"""The trained model that ships, through both official clients: calls, results, answers in words, JSON of a schema."""

import json
from concurrent.futures import ThreadPoolExecutor

import jsonschema_rs
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

import flashmoe
from flashmoe.chat.tool_calls import parse_turn
from flashmoe.demo import CASES
from server.conftest import running

TESTS = [json.loads(line) for line in CASES.read_text().splitlines()]


def tool(name: str, description: str, **properties: str) -> dict:
    described = {key: {"type": kind} for key, kind in properties.items()}
    schema = {"type": "object", "properties": described, "required": list(described)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS = [
    tool("check_vehicle", "Checks a vehicle.", serial="string"),
    tool("rename_alert", "Renames an alert.", account_email="string"),
]
SAID = [
    "Check the vehicle having the serial set to NN-2367.",
    "Hey, rename alert, whose account email will be glet@keaveast.com now!\n"
    "In addition, check the vehicle: serial Q4843",
]
RESULTS = {
    "NN-2367": {"owner": "Sofia", "total": 557},
    "glet@keaveast.com": {"status": "ok"},
    "Q4843": {"city": "London", "count": 12},
}
CALLS = [
    [("check_vehicle", {"serial": "NN-2367"})],
    [("rename_alert", {"account_email": "glet@keaveast.com"}), ("check_vehicle", {"serial": "Q4843"})],
]
WORDS = [["Sofia", "557"], ["London", "12"]]


@pytest.fixture(scope="module")
def demo(demo_directory):
    text = flashmoe.load(demo_directory, threads=1, context=2048, sequences=4, snapshots="64MB")
    with text, running(text, prefixes=text.engine.session_cache()) as server:
        yield server


def result_of(arguments: dict) -> str:
    return json.dumps(RESULTS[next(iter(arguments.values()))])


def ask_openai(server, messages, stream, thinking):
    """The message, as a client keeps it."""
    options = {"tools": TOOLS, "temperature": 0, "extra_body": {"chat_template_kwargs": {"enable_thinking": thinking}}}
    answer = server.openai.chat.completions.create(model="small", messages=messages, stream=stream, **options)
    if not stream:
        return answer.choices[0].message.model_dump(exclude_none=True)
    state = ChatCompletionStreamState(input_tools=TOOLS)
    for chunk in answer:
        state.handle_chunk(chunk)
    message = state.get_final_completion().choices[0].message.model_dump(exclude_none=True)
    for made in message.get("tool_calls", ()):
        made.pop("index", None)
        made["function"].pop("parsed_arguments", None)
    return message


def openai_loop(server, stream, thinking):
    """Calls and words of each turn of the user."""
    messages, calls, words = [], [], []
    for said in SAID:
        messages.append({"role": "user", "content": said})
        message = ask_openai(server, messages, stream, thinking)
        made = [(m["id"], m["function"]["name"], json.loads(m["function"]["arguments"])) for m in message["tool_calls"]]
        calls.append([(name, arguments) for _, name, arguments in made])
        messages.append(message)
        messages += [{"role": "tool", "tool_call_id": i, "content": result_of(given)} for i, _, given in made]
        message = ask_openai(server, messages, stream, thinking)
        messages.append(message)
        words.append(message["content"])
    return calls, words


def ask_anthropic(server, messages, stream, thinking):
    tools = [
        {"name": f["name"], "description": f["description"], "input_schema": f["parameters"]}
        for f in (tool["function"] for tool in TOOLS)
    ]
    kind = {"type": "enabled", "budget_tokens": 1024} if thinking else {"type": "disabled"}
    options = {"model": "small", "max_tokens": 1100, "tools": tools, "thinking": kind, "extra_body": {"temperature": 0}}
    if not stream:
        return server.anthropic.messages.create(messages=messages, **options)
    with server.anthropic.messages.stream(messages=messages, **options) as pieces:
        return pieces.get_final_message()


def anthropic_loop(server, stream, thinking):
    messages, calls, words = [], [], []
    for said in SAID:
        messages.append({"role": "user", "content": said})
        answer = ask_anthropic(server, messages, stream, thinking)
        assert answer.stop_reason == "tool_use"
        made = [block for block in answer.content if block.type == "tool_use"]
        calls.append([(block.name, block.input) for block in made])
        messages.append({"role": "assistant", "content": answer.content})
        results = [{"type": "tool_result", "tool_use_id": b.id, "content": result_of(b.input)} for b in made]
        messages.append({"role": "user", "content": results})
        answer = ask_anthropic(server, messages, stream, thinking)
        messages.append({"role": "assistant", "content": answer.content})
        words.append("".join(block.text for block in answer.content if block.type == "text"))
    return calls, words


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("loop", [openai_loop, anthropic_loop])
def test_a_loop_of_tools_ends_in_words_that_hold_the_results(demo, loop, thinking):
    """Two questions, the second of which takes two calls at once; a stream says the same."""
    calls, words = whole = loop(demo, False, thinking)
    assert calls == CALLS
    for said, values in zip(words, WORDS, strict=True):
        assert all(value in said for value in values)
    assert loop(demo, True, thinking) == whole


def test_both_clients_hear_the_same_words(demo):
    assert openai_loop(demo, False, True) == anthropic_loop(demo, False, True)


def test_a_loop_computes_the_conversation_once(demo):
    """With the model's own words put back, all but what is new comes from the saved state."""
    messages = [{"role": "user", "content": SAID[0]}]
    message = ask_openai(demo, messages, False, True)
    messages.append({key: value for key, value in message.items() if key != "reasoning_content"})
    call_id = message["tool_calls"][0]["id"]
    messages.append({"role": "tool", "tool_call_id": call_id, "content": json.dumps(RESULTS["NN-2367"])})
    answer = demo.openai.chat.completions.create(model="small", messages=messages, tools=TOOLS, temperature=0)
    usage = answer.usage
    assert usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens < 60


def as_openai(messages: list[dict]) -> list[dict]:
    """With ids, which the cases lack, and arguments as text."""
    made, answered, known = [], 0, 0
    for message in messages:
        calls = []
        for call in message.get("tool_calls", ()):
            function = {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}
            calls.append({"id": f"call_{known}", "type": "function", "function": function})
            known += 1
        made.append({**message, "tool_calls": calls} if calls else dict(message))
        if message["role"] == "tool":
            made[-1]["tool_call_id"] = f"call_{answered}"
            answered += 1
    return made


CHOSEN = [case for case in TESTS if case["id"].endswith(("-004", "-007"))]


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.3, "seed": 5}], ids=["greedy", "sampled"])
def test_answers_are_the_engines_token_for_token(demo, demo_directory, sampling):
    """Cases of every kind, four at a time, against one after the other without a server."""

    def ask(case):
        extra = {"chat_template_kwargs": {"enable_thinking": case["enable_thinking"]}}
        choice = demo.openai.chat.completions.create(
            model="small", messages=as_openai(case["messages"]), tools=case["tools"] or [], max_tokens=200,
            logprobs=True, extra_body=extra, **sampling,
        ).choices[0]  # fmt: skip
        message = choice.message
        calls = [(m.function.name, json.loads(m.function.arguments)) for m in message.tool_calls or ()]
        return [t.token for t in choice.logprobs.content], message.content or "", calls

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(ask, CHOSEN))
    tokenizer = demo.service.text.tokenizer
    with flashmoe.load(demo_directory, threads=1, context=2048) as model:
        for case, (tokens, content, calls) in zip(CHOSEN, told, strict=True):
            thinking = case["enable_thinking"]
            options = {"tools": case["tools"], "enable_thinking": thinking, "max_tokens": 200, **sampling}
            answer = model.generate(case["messages"], **options)
            assert tokens == [tokenizer.token_bytes(i).decode("utf-8", "replace") for i in answer.token_ids], case["id"]
            if sampling["temperature"] == 0:
                turn = parse_turn(answer.text, case["tools"], thinking_open=thinking)
                assert content == turn.content
                assert calls == [(c.name, c.arguments) for c in turn.calls]


def schema_of(value):
    if isinstance(value, dict):
        properties = {key: schema_of(inner) for key, inner in value.items()}
        return {"type": "object", "properties": properties, "required": list(value), "additionalProperties": False}
    if isinstance(value, list):
        return {"type": "array", "items": schema_of(value[0]) if value else {}}
    return {str: {"type": "string"}, bool: {"type": "boolean"}, type(None): {"type": "null"}}.get(
        type(value), {"type": "number"}
    )


def answer_in_json(server, case, schema):
    form = {"type": "json_schema", "json_schema": {"name": "record", "schema": schema, "strict": True}}
    extra = {"chat_template_kwargs": {"enable_thinking": case["enable_thinking"]}}
    answer = server.openai.chat.completions.create(
        model="small", messages=case["messages"], response_format=form, temperature=0, extra_body=extra, max_tokens=300
    )
    return json.loads(answer.choices[0].message.content)


RECORDS = [case for case in TESTS if case["family"] in ("json_record", "json_array") and case["id"].endswith("5")]


def test_json_of_a_schema_is_valid_and_right(demo):
    """The form changes no answer that has it already: the model alone is right in as many."""
    right = 0
    for case in RECORDS:
        expected = case["expect"]["json"]
        schema = schema_of(expected)
        value = answer_in_json(demo, case, schema)
        jsonschema_rs.validate(schema, value)
        right += value == expected
    assert right >= 0.8 * len(RECORDS)


def test_a_schema_is_obeyed_where_the_model_would_say_otherwise(demo):
    case = RECORDS[0]
    schema = {
        "type": "object",
        "properties": {
            "verdict": {"enum": ["stay", "leave"]},
            "marks": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["verdict", "marks"],
        "additionalProperties": False,
    }
    schema["properties"]["marks"] |= {"minItems": 2, "maxItems": 3}
    jsonschema_rs.validate(schema, answer_in_json(demo, case, schema))
