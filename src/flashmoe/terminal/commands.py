"""What begins with a slash: each a function of the chat and the rest of the line, its docstring the help."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flashmoe.engine.generation import Statistics
from flashmoe.errors import FlashMoeError
from flashmoe.terminal.conversation import Conversation
from flashmoe.terminal.view import harmless
from flashmoe.text_engine import TextEngine


class Chat(Protocol):
    """What commands need of the chat (app.Chat)."""

    engine: TextEngine
    console: Console
    conversation: Conversation
    stats: Statistics | None
    fold: bool
    ended: bool

    def ask(self, text: str) -> None: ...

    def go_on_with(self, conversation: Conversation) -> None: ...

    def show_last(self) -> None: ...

    def say(self, text: str) -> None: ...


def _help(chat: Chat, _rest: str) -> None:
    """this list"""
    table = Table.grid(padding=(0, 2))
    for name, command in COMMANDS.items():
        table.add_row(f"/{name}", command.__doc__)
    chat.console.print(table)
    chat.console.print("Alt-Enter begins a new line; Ctrl-C stops an answer; Ctrl-D ends the program.", style="dim")


def _system(chat: Chat, rest: str) -> None:
    """TEXT: a system message for what follows; alone, show it; `/system -` removes it"""
    if rest:
        chat.go_on_with(Conversation(None if rest == "-" else rest, chat.conversation.messages))
    chat.say(chat.conversation.system or "There is no system message.")


def _save(chat: Chat, rest: str) -> None:
    """FILE: write the conversation to it"""
    path = _file(rest, "save")
    if path.exists():
        Conversation.read(path)  # any other file stays what it is
    chat.conversation.save(path)
    chat.say(f"Saved to {rest}.")


def _load(chat: Chat, rest: str) -> None:
    """FILE: go on with the conversation in it"""
    chat.go_on_with(Conversation.read(_file(rest, "load")))
    chat.show_last()


def _clear(chat: Chat, _rest: str) -> None:
    """begin anew; the system message stays"""
    chat.go_on_with(Conversation(chat.conversation.system))
    chat.say("A new conversation.")


def _retry(chat: Chat, _rest: str) -> None:
    """answer the last question again"""
    before = chat.conversation
    shorter = Conversation(before.system, list(before.messages))
    question = shorter.take_back()
    if question is None:
        chat.say("There is no question yet.")
        return
    try:
        chat.conversation = shorter
        chat.ask(question)
    except BaseException:
        chat.go_on_with(before)
        raise


def _stats(chat: Chat, _rest: str) -> None:
    """what the last answer cost"""
    if (s := chat.stats) is None:
        chat.say("There is no answer yet.")
        return
    chat.say(
        f"prompt {s.prompt_tokens} tokens, {s.prompt_rate:.2f} tokens/s; answer {s.generated_tokens} tokens, "
        f"{s.generation_rate:.2f} tokens/s; expert hits {s.hit_rate:.1%}; {s.read}, "
        f"waiting for it {s.stall_seconds:.2f} s; Python {s.python_share:.1%}\n"
        f"{chat.engine.engine.summary}"
    )


def _thinking(chat: Chat, rest: str) -> None:
    """show the last thinking; `/thinking open` and `/thinking fold` say how it is shown from now on"""
    if rest in ("open", "fold"):
        chat.fold = rest == "fold"
        return
    thoughts = [m["reasoning_content"] for m in chat.conversation.messages if "reasoning_content" in m]
    chat.console.print(Text(harmless(thoughts[-1]) if thoughts else "There was no thinking yet.", style="dim italic"))


def _exit(chat: Chat, _rest: str) -> None:
    """end the program; so does Ctrl-D"""
    chat.ended = True


COMMANDS: dict[str, Callable[[Chat, str], None]] = {
    "help": _help,
    "system": _system,
    "save": _save,
    "load": _load,
    "clear": _clear,
    "retry": _retry,
    "stats": _stats,
    "thinking": _thinking,
    "exit": _exit,
}


def obey(chat: Chat, line: str) -> None:
    """Raises FlashMoeError for a command there is not, or one that fails."""
    name, _, rest = line[1:].partition(" ")
    if name not in COMMANDS:
        raise FlashMoeError(f"There is no command /{name}; /help lists them.")
    COMMANDS[name](chat, rest.strip())


def _file(rest: str, command: str) -> Path:
    if not rest:
        raise FlashMoeError(f"/{command} needs the name of a file.")
    return Path(rest).expanduser()
