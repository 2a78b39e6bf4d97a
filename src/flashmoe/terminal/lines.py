"""Lines that the user types: editing, history and completion by prompt_toolkit, without escape sequences for terminals
that know none. Knows no chat."""

import sys
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.output.plain_text import PlainTextOutput
from rich.console import Console


def lines(console: Console, words: Iterable[str], history: Path | None) -> PromptSession[str]:
    """For lines, or several with Alt-Enter. words: what Tab completes. history: the file of lines typed before."""
    kept: History = FileHistory(str(history)) if history else InMemoryHistory()
    return PromptSession(
        history=kept,
        completer=WordCompleter(list(words), sentence=True),
        complete_while_typing=False,
        key_bindings=_keys(),
        enable_open_in_editor=True,
        output=_output(console),
    )


def questions(console: Console) -> PromptSession[str]:
    """For answers to the program's own questions, which no history keeps."""
    return PromptSession(output=_output(console))


def _output(console: Console) -> Output | None:
    return PlainTextOutput(sys.stdout) if console.is_dumb_terminal else None


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
