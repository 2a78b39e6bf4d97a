"""Offer tools, ask, and check the call: it must parse, fit the schema and be the expected one. Exit code 1 if not."""

import sys

import flashmoe
from flashmoe.chat.arguments import MalformedCallError, Signatures
from flashmoe.chat.schema import fault
from flashmoe.chat.tool_calls import ToolCall, parse_turn

TIMER = {
    "type": "object",
    "properties": {"minutes": {"type": "integer"}, "label": {"type": "string"}},
    "required": ["minutes"],
}
POPULATION = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"name": "set_timer", "description": "Starts a timer.", "parameters": TIMER},
    {"name": "get_population", "description": "Population of a city.", "parameters": POPULATION},
]
QUESTION = "Set a timer for 25 minutes with label tea."
EXPECTED = ToolCall("set_timer", {"minutes": 25, "label": "tea"})


def main() -> int:
    tools = [{"type": "function", "function": tool} for tool in TOOLS]
    messages = [{"role": "user", "content": QUESTION}]
    with flashmoe.load("demo") as model:
        answer = model.generate(messages, tools=tools, enable_thinking=False, temperature=0, max_tokens=200)
    print(f"tools: {', '.join(tool['name'] for tool in TOOLS)}\n> {QUESTION}\n{answer.text}")
    try:
        calls = parse_turn(answer.text, tools).calls
    except MalformedCallError as error:
        calls = ()
        print(error)
    for call in calls:
        print(f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})")
    right = (
        calls == (EXPECTED,) and fault(calls[0].arguments, Signatures(tools).arguments("set_timer"), "The call") is None
    )
    print("The call is right." if right else f"The call is wrong; expected: {EXPECTED}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
