"""`flashmoe run DIR`: text to stdout as it comes, everything else to stderr."""

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from flashmoe.chat.turn_parser import Content, Thinking, TurnEvent
from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.cli.printing import say, stdout_is_styled
from flashmoe.cli.progress import prompt_bar
from flashmoe.cli.prompt_text import PROMPT, from_stdin, piped
from flashmoe.cli.shared_options import ENGINE, SAMPLING, SharingCommand
from flashmoe.engine.generation import Statistics
from flashmoe.engine.routing_trace import RoutingRecorder
from flashmoe.errors import FlashMoeError
from flashmoe.measure.timeline import recorded
from flashmoe.settings import Settings, format_bytes
from flashmoe.terminal.answering import Answer, Choices, RawAnswer
from flashmoe.terminal.view import harmless
from flashmoe.text_engine import TextEngine, load_with


@click.command("run", cls=SharingCommand, groups=(SAMPLING, ENGINE))
@click.argument("directory", metavar="DIR", type=MODEL_DIRECTORY)
@click.option(
    "-p",
    "--prompt",
    type=PROMPT,
    help="What to answer or, with --raw, to go on from [default: what is piped in]",
)
@click.option("--system", help="A system message before the prompt.")
@click.option("--raw", is_flag=True, help="Complete the prompt as it is, without the chat template.")
@click.option("--no-thinking", is_flag=True, help="Ask the template for an answer without thinking.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), help="The most tokens to generate [default: what the context leaves]"
)
@click.option(
    "--record-routing", metavar="FILE", type=click.Path(path_type=Path), help="Save which experts were chosen."
)
@click.option("--trace", metavar="FILE", type=click.Path(path_type=Path), help="Save a timeline, for Perfetto.")
@click.option("--stats", is_flag=True, help="Where the time went, at the end.")
def command(
    directory: Path,
    prompt: str | None,
    system: str | None,
    raw: bool,
    no_thinking: bool,
    max_tokens: int | None,
    record_routing: Path | None,
    trace: Path | None,
    stats: bool,
    sampling: dict[str, Any],
    settings: Settings,
) -> None:
    """Generate text from a prompt with the packed model in DIR.

    The prompt is TEXT, the text of FILE, or what comes from standard input (-, or a pipe without -p). One line end at
    the end of a file or of standard input is not part of it.

    What it thinks first is dimmed on a terminal and left out elsewhere.
    """
    if raw and (system is not None or no_thinking):
        raise FlashMoeError(
            "--raw goes on from the prompt as it is; --system and --no-thinking need the chat template."
        )
    if prompt is None:
        if not piped():
            raise click.UsageError("There is no prompt: give one with -p TEXT or -p @FILE, or pipe it in.")
        prompt = from_stdin()
    with load_with(directory, settings) as engine:
        say(engine.engine.summary, err=True)
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": prompt})
        recorder = RoutingRecorder(engine.engine.config)
        if record_routing:
            engine.engine.observers.append(recorder)
        with recorded(engine.engine, trace) if trace else nullcontext(), prompt_bar() as progress:
            answer: Answer | RawAnswer
            if raw:
                stream = engine.stream(prompt, raw=True, max_tokens=max_tokens, progress=progress, **sampling)
                answer = RawAnswer(stream)
            else:
                choices = Choices(max_tokens, False if no_thinking else None, sampling)
                answer = Answer(engine, messages, (), choices, progress)
            _print_answer(answer)
        if record_routing:
            recorder.trace().save(record_routing)
        _print_statistics(engine, answer.stats, details=stats)
    if answer.stopped:
        raise click.Abort


def _print_answer(events: Iterable[TurnEvent]) -> None:
    """Write the text as UTF-8 as it comes; on a terminal the thinking too, which is all there is if it never ends."""
    out, terminal, styled = sys.stdout.buffer, sys.stdout.isatty(), stdout_is_styled()
    thought = answered = False
    for event in events:
        if not isinstance(event, Thinking | Content):
            continue  # without tools there are no calls
        text = harmless(event.text) if terminal else event.text
        if isinstance(event, Thinking):
            thought = True
            text = click.style(text, dim=True) if styled else text if terminal else ""
        else:
            text = f"\n\n{text}" if terminal and thought and not answered else text
            answered = True
        out.write(text.encode())
        out.flush()
    out.write(b"\n")
    out.flush()
    if thought and not answered:
        say("It was still thinking. Give it more --max-tokens, or --no-thinking.", err=True)


def _print_statistics(engine: TextEngine, s: Statistics, *, details: bool) -> None:
    say(
        f"prompt {s.prompt_tokens} tokens, {s.prompt_rate:.2f} tokens/s; generation {s.generated_tokens} tokens, "
        f"{s.generation_rate:.2f} tokens/s; expert hits {s.hit_rate:.1%}; {s.read}",
        err=True,
    )
    if not details:
        return
    say(
        f"prompt {s.prompt_seconds:.2f} s, generation {s.generation_seconds:.2f} s; {s.hits} hits, {s.misses} misses; "
        f"reading {s.read_seconds:.2f} s, waiting for it {s.stall_seconds:.2f} s; in native code "
        f"{s.native_seconds:.2f} s; Python {s.python_share:.1%}\n{engine.engine.plan}; one expert "
        f"{format_bytes(engine.engine.plan.slot_bytes)}",
        err=True,
    )
