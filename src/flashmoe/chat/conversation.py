"""A conversation in the shape that chat templates are made for, from what clients send.

Invariant: nothing that was said is lost, and what cannot be put right is refused in a sentence. Knows messages and
tools as OpenAI's clients write them (`role`, `content`, `tool_calls`, ...), not templates.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from flashmoe.errors import FlashMoeError

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


def results_by_call(messages: Sequence[Message], goes_on: bool = False) -> list[Message]:
    """The messages, with the tool results of each turn of the model right after it and in the order of its calls, by
    which templates tell them apart.

    What has no ids stays where it is. Raises FlashMoeError for a result of a call that the turn before does not make, a
    second result of one call, and a call without a result though the conversation goes on: after the last message too
    if `goes_on`.
    """
    ordered: list[Message] = []
    turns = [-1, *(i for i, message in enumerate(messages) if message.get("role") == "assistant"), len(messages)]
    for turn, following in pairwise(turns):
        said = messages[turn] if turn >= 0 else {}
        ordered += [said] if turn >= 0 else []
        ordered += _by_id(said, messages[turn + 1 : following], goes_on or following < len(messages))
    return ordered


def _by_id(said: Message, following: Sequence[Message], goes_on: bool) -> Sequence[Message]:
    """What follows a turn of the model, the results of its calls first."""
    calls = [call.get("id") for call in said.get("tool_calls") or ()]
    results = [message for message in following if message.get("role") == "tool"]
    given = [result.get("tool_call_id") for result in results]
    if None in calls or (None in given and calls):
        return following
    if unknown := [name for name in given if name is not None and name not in calls]:
        raise FlashMoeError(
            f"There is a tool result for the call {unknown[0]!r:.80}, which the turn before does not make."
        )
    if not calls or len(set(calls)) < len(calls):
        return following
    if twice := [name for i, name in enumerate(given) if name in given[:i]]:
        raise FlashMoeError(f"There are two tool results for the call {twice[0]!r:.80}.")
    others = [message for message in following if message.get("role") != "tool"]
    missing = [name for name in calls if name not in given]
    if missing and (given or others or goes_on):
        raise FlashMoeError(f"There is no tool result for the call {missing[0]!r:.80}; each call needs one.")
    return [*sorted(results, key=lambda result: calls.index(result["tool_call_id"])), *others]


def instructions_first(messages: Sequence[Message]) -> list[Message]:
    """All system messages as one, in their order, before everything else."""
    instructions = [message for message in messages if message["role"] == "system"]
    merged = {**instructions[0], "content": _joined([message.get("content") for message in instructions])}
    return [merged, *(message for message in messages if message["role"] != "system")]


def _joined(contents: Sequence[Any]) -> Any:
    """Texts as one text; where some are lists of parts, as one list."""
    said = [content for content in contents if content]
    if all(isinstance(content, str) for content in said):
        return "\n\n".join(said)
    parts: list[Any] = []
    for content in said:
        parts += [{"type": "text", "text": "\n\n"}] if parts else []
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return parts


def with_user(messages: Sequence[Message]) -> list[Message]:
    """The messages with an empty one of a user after the instructions."""
    begin = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    return [*messages[:begin], {"role": "user", "content": ""}, *messages[begin:]]


def with_parameters(tool: Tool) -> Tool:
    """The tool with the schema of no arguments where it has none, before what follows its description."""
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or function.get("parameters") is not None:
        return tool
    first = {key: function[key] for key in ("type", "name", "description") if key in function}
    filled = {**first, "parameters": {"type": "object", "properties": {}}}
    filled |= {key: value for key, value in function.items() if key not in filled}
    return {**tool, "function": filled} if "function" in tool else filled
