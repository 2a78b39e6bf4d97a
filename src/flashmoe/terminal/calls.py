"""A model's calls of the user's functions: shown, confirmed, run.

Invariant: no function runs unless the user saw the call and said yes to it, or to all calls of that function. Knows the
screen and functions, not where calls come from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from flashmoe.chat.tool_calls import ToolCall
from flashmoe.terminal.lines import questions
from flashmoe.terminal.tools import UserTool, trouble
from flashmoe.terminal.view import harmless

DECLINED = trouble("The user did not allow this call.")
_SHOWN_LINES = 20


class Stopped(Exception):
    """Ctrl-C while a function ran."""


class Calls:
    """tools: what may be called."""

    def __init__(self, console: Console, tools: Sequence[UserTool]) -> None:
        self._console = console
        self._tools = {tool.name: tool for tool in tools}
        self._allowed: set[str] = set()
        self._questions = questions(console)

    @property
    def described(self) -> list[Mapping[str, Any]]:
        """The tools as templates take them."""
        return [tool.as_tool() for tool in self._tools.values()]

    def run(self, call: ToolCall) -> str:
        """What the model is told of the call. Raises Stopped."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
        self._console.print(Text(harmless(f"▸ {call.name}({arguments})"), style="bold"))
        if call.name not in self._tools:
            self._note("There is no such tool.")
            return trouble(f"There is no tool {call.name}; there are {', '.join(self._tools)}.")
        if not self._allows(call.name):
            self._note("not run")
            return DECLINED
        try:
            result = self._tools[call.name].call(call.arguments)
        except KeyboardInterrupt:
            raise Stopped from None
        lines = harmless(result).splitlines()
        self._note("\n".join(lines[:_SHOWN_LINES]))
        if len(lines) > _SHOWN_LINES:
            self._note(f"… {len(lines) - _SHOWN_LINES} more lines, which the model reads too")
        return result

    def _allows(self, name: str) -> bool:
        if name in self._allowed:
            return True
        try:
            answer = self._questions.prompt("  run it? y(es), n(o), a(lways this one): ").strip().lower()
        except (KeyboardInterrupt, EOFError):
            return False
        if answer in ("a", "always"):
            self._allowed.add(name)
        return answer in ("y", "yes", "a", "always")

    def _note(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))
