"""The loop of a chat: a line, an answer, tool calls that the user allows, and again.

Invariant: the conversation consists of whole turns, also after Ctrl-C and errors, and what its file holds is never
older than the last answer. Knows a text engine, a conversation and the screen.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from flashmoe.engine.generation import Statistics
from flashmoe.engine.session import SessionCache
from flashmoe.errors import FlashMoeError
from flashmoe.terminal.answering import Answer, Choices
from flashmoe.terminal.calls import DECLINED, Calls, Stopped
from flashmoe.terminal.commands import COMMANDS, obey
from flashmoe.terminal.conversation import Conversation
from flashmoe.terminal.lines import lines
from flashmoe.terminal.tools import UserTool, trouble, whole
from flashmoe.terminal.view import AnswerView, harmless, markdown
from flashmoe.text_engine import TextEngine

_STOPPED = trouble("The user stopped this call.")


class Chat:
    """session: the file in which the conversation lives, if any. cache: where states of it are kept, None for memory
    alone. history: the file of lines typed, if any.

    Raises FlashMoeError if the session's file is there and holds no conversation that the template takes.
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
        cache: SessionCache | None = None,
        history: Path | None = None,
    ) -> None:
        self.engine, self.console, self.choices = engine, console, choices
        self.conversation = Conversation.read(session) if session and session.exists() else Conversation()
        if system is not None:
            self.conversation.system = system
        self.stats: Statistics | None = None
        self.fold, self.ended = True, False
        self._calls = Calls(console, tools)
        self._state = engine.engine.session(cache)
        self._session = session
        self._used = self._count(self.conversation)
        self._lines = lines(console, (f"/{name}" for name in COMMANDS), history)

    def run(self) -> None:
        """Until Ctrl-D or /exit."""
        self.show_last()
        while not self.ended:
            if self.console.is_dumb_terminal:  # it has no place for a footer
                self.say(self.footer())
            try:
                line = whole(self._lines.prompt("> ", bottom_toolbar=self.footer).strip())
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
                self.console.print(Text(harmless(str(error)), style="red"))
            except KeyboardInterrupt:  # before the answer began
                self.say("(stopped; nothing was asked)")

    def ask(self, text: str) -> None:
        """One question, until the model has answered without calling a tool. Where that fails nothing was asked."""
        before = list(self.conversation.messages)
        self.conversation.ask(text)
        try:
            while self._answer():
                self.keep()
        except BaseException:
            self.conversation.messages = before
            raise
        finally:
            self.keep()

    def go_on_with(self, conversation: Conversation) -> None:
        """Raises FlashMoeError where the template does not take it; then nothing changes."""
        self._used = self._count(conversation)
        self.conversation = conversation
        self.keep()

    def _count(self, conversation: Conversation) -> int:
        """Tokens of what was said."""
        if not conversation.messages:
            return 0
        tools = self._calls.described or None
        return len(self.engine.prompt_ids(conversation.prompt(), tools=tools, add_generation_prompt=False))

    def _answer(self) -> bool:
        """One turn of the model and its calls; whether it has results to go on from."""
        with AnswerView(self.console, fold=self.fold) as view:
            answer = Answer(
                self.engine, self.conversation.prompt(), self._calls.described, self.choices, view.progress, self._state
            )
            for event in answer:
                self._measure(answer.stats)
                view.show(event, self.footer())
        self._measure(answer.stats)
        self.conversation.answer(answer.turn)
        if answer.stopped or answer.cut:
            self.say("(stopped)" if answer.stopped else "(cut: no tokens are left)")
        stopped = answer.stopped
        for call in answer.turn.calls:
            try:
                result = DECLINED if stopped else self._calls.run(call)
            except Stopped:
                self.say("(stopped)")
                stopped, result = True, _STOPPED
            self.conversation.result(call.name, result)
        return bool(answer.turn.calls) and not stopped

    def _measure(self, stats: Statistics) -> None:
        self.stats, self._used = stats, stats.prompt_tokens + stats.generated_tokens

    def footer(self) -> str:
        """Speed, hits and context, in as many lines as the terminal's width takes."""
        parts = [f"context {self._used} of {self.engine.engine.limits.context}", "/help"]
        if (s := self.stats) is not None:
            parts = [f"{s.generation_rate:.1f} tokens/s", f"expert hits {s.hit_rate:.1%}", *parts]
        lines = [parts[0]]
        for part in parts[1:]:
            if len(longer := f"{lines[-1]} · {part}") <= self.console.width:
                lines[-1] = longer
            else:
                lines.append(part)
        return "\n".join(lines)

    def keep(self) -> None:
        """Write the session's file, if there is one."""
        if self._session:
            self.conversation.save(self._session)

    def show_last(self) -> None:
        """The last question and its answer, of a conversation that goes on."""
        if not (messages := self.conversation.messages):
            return
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=0)
        self.say(f"{len(messages)} messages; the last:\n> {messages[last]['content']}")
        self.console.print(markdown(messages[-1]["content"]))

    def say(self, text: str) -> None:
        """Something of the program's own."""
        self.console.print(Text(harmless(text), style="dim"))
