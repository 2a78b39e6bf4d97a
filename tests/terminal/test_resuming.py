"""A chat that goes on at the next start computes what is new and no more."""

import io
from pathlib import Path

from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

import flashmoe
from flashmoe.terminal.answering import Choices
from flashmoe.terminal.app import Chat


def talk(model: Path, line: str, directory: Path) -> tuple[int, int]:
    """One question in a program of its own: tokens of the prompt, and how many of them were computed."""
    with (
        flashmoe.load(model, threads=1, context=512, snapshots=None) as text,
        create_pipe_input() as pipe,
        create_app_session(input=pipe, output=DummyOutput()),
    ):
        engine, computed = text.engine, []
        forward = engine.forward

        def counted(parts, *rest):
            computed.append(sum(len(tokens) for _, tokens in parts))
            return forward(parts, *rest)

        engine.forward = counted
        cache = engine.session_cache(directory / "states")
        choices = Choices(max_tokens=4, thinking=False, sampling={"seed": 1})
        pipe.send_text(f"{line}\r\x04")
        chat = Chat(text, Console(file=io.StringIO()), choices, session=directory / "talk", cache=cache)
        chat.run()
        cache.flush()
        return chat.stats.prompt_tokens, sum(computed) - chat.stats.steps


def test_a_chat_that_goes_on_computes_what_is_new(speaking_model: Path, tmp_path: Path):
    first, computed = talk(
        speaking_model, "Is it warm in Lyon, and will it stay so for as long as we are there?", tmp_path
    )
    assert computed == first
    second, computed = talk(speaking_model, "Why?", tmp_path)
    assert computed < second - first // 2
