"""What was said: messages as templates take them, saved and read back as JSON.

Invariant: the messages are whole turns, so a prompt can be made of them at any time. Knows no models
and no screens.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from flashmoe.chat.tool_calls import Turn
from flashmoe.errors import FormatError
from flashmoe.files.atomic import write_atomically
from flashmoe.files.jsonfile import Fields, read_object

FORMAT = 1
_ROLES = ("user", "assistant", "tool")


@dataclass
class Conversation:
    """messages: of user, assistant and tools; system stands apart, since it may change."""

    system: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)

    def prompt(self) -> list[dict[str, Any]]:
        """All messages, the system's first."""
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.messages

    def ask(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def answer(self, turn: Turn) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": turn.content}
        if turn.thinking:
            message["reasoning_content"] = turn.thinking
        if turn.calls:
            calls = [{"name": call.name, "arguments": call.arguments} for call in turn.calls]
            message["tool_calls"] = [{"type": "function", "function": call} for call in calls]
        self.messages.append(message)

    def result(self, name: str, text: str) -> None:
        """What a tool gave for a call of the last answer."""
        self.messages.append({"role": "tool", "name": name, "content": text})

    def take_back(self) -> str | None:
        """Forget the last question and all that came of it; the question, or None if there was none."""
        asked = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if not asked:
            return None
        text = self.messages[asked[-1]]["content"]
        del self.messages[asked[-1] :]
        return str(text)

    def save(self, path: Path) -> None:
        """Raises FlashMoeError if the file cannot be written."""
        value = {"format": FORMAT, "system": self.system, "messages": self.messages}
        write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises FormatError naming the file and what is wrong in it."""
        fields = Fields(read_object(path), str(path))
        if (version := fields.integer("format")) != FORMAT:
            raise FormatError(f"{path} is a conversation of format {version}; this program reads format {FORMAT}.")
        messages = [message.values for message in fields.objects("messages")]
        for number, message in enumerate(messages):
            if message.get("role") not in _ROLES or not isinstance(message.get("content"), str):
                raise FormatError(
                    f"{path}: messages[{number}] must have a role ({', '.join(_ROLES)}) and a content that is text."
                )
        system = fields.values.get("system")
        if system is not None and not isinstance(system, str):
            raise FormatError(f"{path}: system must be text or null.")
        return cls(system, messages)
