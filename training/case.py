"""One example: a conversation with its answer, and how an answer is judged. Knows no family of tasks."""

from dataclasses import dataclass, field
from typing import Any

Json = Any
Message = dict[str, Json]


@dataclass
class Case:
    """`messages` ends with the right assistant turn. `expect` is what another model's last turn is judged by:
    {"kind": "calls", "calls": [{"name", "arguments"}]}  the same calls in any order; [] means none
    {"kind": "json", "json": value}                      the content is JSON and equal to it
    {"kind": "text", "contains": [...]}                  the content has each of these
    {"kind": "exact", "text": "..."}                     the content is this
    """

    family: str
    messages: list[Message]
    expect: dict[str, Json]
    tools: list[dict[str, Json]] | None = None
    thinking: bool = False
    used: set[tuple[str, str]] = field(default_factory=set)

    def as_test(self, identifier: str) -> dict[str, Json]:
        """The JSON line of the test set: what is asked, without the answer's turn."""
        return {
            "id": identifier,
            "family": self.family,
            "enable_thinking": self.thinking,
            "messages": self.messages[:-1],
            "tools": self.tools,
            "expect": self.expect,
        }


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def assistant(text: str, thought: str = "", calls: list[dict[str, Json]] | None = None) -> Message:
    """`thought` becomes reasoning_content, which the template shows in the last turns only."""
    message: Message = {"role": "assistant", "content": text}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return message


def tool_result(text: str) -> Message:
    return {"role": "tool", "content": text}
