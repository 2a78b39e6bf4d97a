"""The loop of a chat: a line, an answer, tool calls that the user allows, and again.

Invariant: the conversation consists of whole turns, also after Ctrl-C and errors; no tool runs unless the user said yes
to it. Knows a text engine, a conversation and the screen.
"""

from collections.abc import Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console
from rich.text import Text

from flashmoe.chat.tool_calls import ToolCall
from flashmoe.engine.generation import Statistics
from flashmoe.errors import FlashMoeError
from flashmoe.terminal.answering import Answer, Choices
from flashmoe.terminal.commands import COMMANDS, obey
from flashmoe.terminal.conversation import Conversation
from flashmoe.terminal.tools import UserTool
from flashmoe.terminal.view import AnswerView, harmless
from flashmoe.text_engine import TextEngine

_DECLINED = '{"error": "The user did not allow this call."}'


class Chat:
    """session: the file in which the conversation lives, if any. history: the file of lines typed, if any.

    Raises FlashMoeError if the session's file is there and cannot be read.
    """

    def __init__(
        self,
        engine: TextEngine,
        console: Console,
        choices: Choices,
        *,
        system: str | None = None,
        tools: Sequence[UserTool] = (),
        session: Path | None = None,
        history: Path | None = None,
    ) -> None:
        self.engine, self.console, self.choices = engine, console, choices
        self.tools = {tool.name: tool for tool in tools}
        self.conversation = Conversation.read(session) if session and session.exists() else Conversation()
        if system is not None:
            self.conversation.system = system
        self.stats: Statistics | None = None
        self.fold, self.ended = True, False
        self._state = engine.engine.session()
        self._session = session
        self._allowed: set[str] = set()
        kept: History = FileHistory(str(history)) if history else InMemoryHistory()
        words = WordCompleter([f"/{name}" for name in COMMANDS], sentence=True)
        self._lines: PromptSession[str] = PromptSession(
            history=kept, completer=words, complete_while_typing=False, key_bindings=_keys(), enable_open_in_editor=True
        )
        self._questions: PromptSession[str] = PromptSession()

    def run(self) -> None:
        """Until Ctrl-D or /exit."""
        while not self.ended:
            try:
                line = self._lines.prompt("> ", bottom_toolbar=self.footer).strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            try:
                if line.startswith("/"):
                    obey(self, line)
                elif line:
                    self.ask(line)
            except FlashMoeError as error:
                self.console.print(Text(str(error), style="red"))
            except KeyboardInterrupt:  # before the answer began, or in a tool
                self.say("(stopped; nothing was asked)")

    def ask(self, text: str) -> None:
        """One question, until the model has answered without calling a tool. Where that fails nothing was asked."""
        before = len(self.conversation.messages)
        self.conversation.ask(text)
        try:
            while self._answer():
                pass
        except BaseException:
            del self.conversation.messages[before:]
            raise
        finally:
            self.keep()

    def _answer(self) -> bool:
        """One turn of the model and its calls; whether it has results to go on from."""
        described = [tool.as_tool() for tool in self.tools.values()]
        with AnswerView(self.console, fold=self.fold) as view:
            answer = Answer(
                self.engine, self.conversation.prompt(), described, self.choices, view.progress, self._state
            )
            for event in answer:
                view.show(event)
        self.stats = answer.stats
        self.conversation.answer(answer.turn)
        if answer.stopped or answer.cut:
            self.say("(stopped)" if answer.stopped else "(cut: no tokens are left)")
        for call in answer.turn.calls:
            self.conversation.result(call.name, _DECLINED if answer.stopped else self._run(call))
        return bool(answer.turn.calls) and not answer.stopped

    def _run(self, call: ToolCall) -> str:
        """Show a call, ask, and run it."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
        self.console.print(Text(harmless(f"▸ {call.name}({arguments})"), style="bold"))
        if not self._allows(call.name):
            self.say("not run")
            return _DECLINED
        result = self.tools[call.name].call(call.arguments)
        self.console.print(Text(harmless(result), style="dim"))
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

    def footer(self) -> str:
        """Speed, hits and context of the last answer."""
        limit = self.engine.engine.limits.context
        if (s := self.stats) is None:
            return f"context 0 of {limit} · /help"
        used = s.prompt_tokens + s.generated_tokens
        return f"{s.generation_rate:.1f} tokens/s · expert hits {s.hit_rate:.1%} · context {used} of {limit} · /help"

    def keep(self) -> None:
        """Write the session's file, if there is one."""
        if self._session:
            self.conversation.save(self._session)

    def say(self, text: str) -> None:
        """Something of the program's own."""
        self.console.print(Text(harmless(text), style="dim"))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
