"""What a chat template is given: messages, tools and switches as exact JSON types, the control tokens in them sealed.

Objects with methods of their own would be a way out of the sandbox, and a way to fool it. Knows the shape of messages
and who wrote which part of them, not what a template makes of them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from flashmoe.chat.conversation import Message, Tool
from flashmoe.chat.marking import Marking
from flashmoe.errors import FlashMoeError

_REASONING = ("reasoning_content", "thinking", "reasoning")


def checked(messages: Sequence[Message]) -> list[Message]:
    """The messages as templates expect them: keys without a value dropped (clients send `content: null`), the reasoning
    under `reasoning_content` and `thinking` whichever of its names it came by. Raises FlashMoeError."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise FlashMoeError("messages must be a list of at least one message, each with a role and a content.")
    result: list[Message] = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise FlashMoeError(
                f"messages[{i}] must be an object with a role, like {{'role': 'user', 'content': 'Hi'}}."
            )
        calls = message.get("tool_calls") or []
        if not (isinstance(calls, list | tuple) and all(isinstance(call, Mapping) for call in calls)):
            raise FlashMoeError(f"messages[{i}].tool_calls must be a list of objects.")
        said = {key: value for key, value in message.items() if value is not None}
        reasoning = next((said[name] for name in _REASONING if name in said), None)
        if reasoning is not None:
            said = {"thinking": reasoning, **said, "reasoning_content": reasoning}
        result.append(said)
    return result


def template_values(
    marking: Marking, messages: Sequence[Message], tools: Sequence[Tool] | None, variables: Mapping[str, Any]
) -> dict[str, Any]:
    """What the names of a template stand for. Raises FlashMoeError for what is no data."""
    others = partial(marking.mark, own=False)
    return {
        "messages": [_message(message, f"messages[{i}]", marking) for i, message in enumerate(messages)],
        "tools": None if tools is None else _plain(list(tools), "tools", others),
        **{name: _plain(value, name, others) for name, value in variables.items()},
    }


def _message(message: Message, where: str, marking: Marking) -> dict[str, Any]:
    own = message["role"] == "assistant"
    mark = partial(marking.mark, own=own)
    plain = {key: _plain(value, f"{where}.{key}", mark) for key, value in message.items()}
    if own and "reasoning_content" not in message and isinstance(said := message.get("content"), str):
        plain["content"] = _with_thinking(str(said), mark)
    return plain


def _with_thinking(text: str, mark: Callable[[str], str]) -> str:
    """Of a turn that begins with its thinking, as some clients keep it: only these two tags are for the template."""
    opening, begin, after = text.partition("<think>")
    thinking, end, answer = after.partition("</think>")
    if opening.strip() or not end:
        return mark(text)
    return opening + begin + mark(thinking) + end + mark(answer)


def _plain(value: Any, where: str, mark: Callable[[str], str]) -> Any:
    if value is None or type(value) in (int, float, bool):
        return value
    if isinstance(value, str):
        return mark(str(value))
    if isinstance(value, Mapping):
        return {mark(str(k)): _plain(v, f"{where}.{k}", mark) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]", mark) for i, v in enumerate(value)]
    for base in (int, float):
        if isinstance(value, base):
            return base(value)
    raise FlashMoeError(f"{where} must be text, a number, a list or an object, not a {type(value).__name__}.")
