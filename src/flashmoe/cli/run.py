"""`flashmoe run DIR -p PROMPT`: text to stdout as it comes, everything else to stderr."""

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from flashmoe.chat.turn_parser import Content, Thinking, TurnEvent
from flashmoe.cli.kv_bits import KV_BITS_OPTION
from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.cli.progress import prompt_bar
from flashmoe.engine.generation import Statistics
from flashmoe.engine.routing_trace import RoutingRecorder
from flashmoe.engine.sampling import Sampling
from flashmoe.errors import FlashMoeError
from flashmoe.measure.timeline import recorded
from flashmoe.settings import BACKENDS, CACHES, format_bytes
from flashmoe.terminal.answering import Answer, Choices, RawAnswer
from flashmoe.terminal.view import harmless
from flashmoe.text_engine import TextEngine, load

_SETTINGS = (
    "memory",
    "threads",
    "backend",
    "experts_per_token",
    "context",
    "kv_bits",
    "cache",
    "learn",
    "verify_reads",
)


@click.command("run")
@click.argument("directory", metavar="DIR", type=MODEL_DIRECTORY)
@click.option("-p", "--prompt", required=True, help="What to answer or, with --raw, to go on from.")
@click.option("--system", help="A system message before the prompt.")
@click.option("--raw", is_flag=True, help="Complete the prompt as it is, without the chat template.")
@click.option("--no-thinking", is_flag=True, help="Ask the template for an answer without thinking.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), help="The most tokens to generate [default: what the context leaves]"
)
@click.option("--memory", help="Memory for everything, like 4GiB [default: what the machine leaves]")
@click.option("--threads", type=int, help="Compute threads [default: one a core, one less on 8 or more]")
@click.option("--backend", type=click.Choice(BACKENDS), default="cpu", show_default=True)
@click.option(
    "--cache",
    type=click.Choice(CACHES),
    default="arena",
    show_default=True,
    help="os leaves the experts to the page cache instead of memory of its own.",
)
@click.option("--learn", is_flag=True, help="Remember beside the model which experts are used, for the next run.")
@click.option("--context", type=int, help="Tokens a conversation may grow to [default: 32768, or what fits]")
@KV_BITS_OPTION
@click.option("--experts-per-token", type=int, help="Instead of the model's own number. Changes the answers.")
@click.option("--verify-reads", is_flag=True, help="Check every record that is read against its checksum.")
@click.option("--temperature", type=float, help="0 is greedy [this and the next: default as the checkpoint says]")
@click.option("--top-k", type=int)
@click.option("--top-p", type=float)
@click.option("--min-p", type=float)
@click.option("--presence-penalty", type=float)
@click.option("--frequency-penalty", type=float)
@click.option("--repetition-penalty", type=float)
@click.option("--seed", type=int, help="Makes sampling repeatable.")
@click.option(
    "--record-routing", metavar="FILE", type=click.Path(path_type=Path), help="Save which experts were chosen."
)
@click.option("--trace", metavar="FILE", type=click.Path(path_type=Path), help="Save a timeline, for Perfetto.")
@click.option("--stats", is_flag=True, help="Where the time went, at the end.")
def command(
    directory: Path,
    prompt: str,
    system: str | None,
    raw: bool,
    no_thinking: bool,
    max_tokens: int | None,
    record_routing: Path | None,
    trace: Path | None,
    stats: bool,
    **options: Any,
) -> None:
    """Generate text from a prompt with the packed model in DIR.

    What it thinks first is dimmed on a terminal and left out elsewhere.
    """
    if raw and (system is not None or no_thinking):
        raise FlashMoeError(
            "--raw goes on from the prompt as it is; --system and --no-thinking need the chat template."
        )
    settings = {name: options.pop(name) for name in _SETTINGS}
    Sampling.from_generation_config({}, **options)  # wrong values are known before gigabytes are read
    with load(directory, **{name: value for name, value in settings.items() if value is not None}) as engine:
        click.echo(engine.engine.summary, err=True)
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": prompt})
        recorder = RoutingRecorder(engine.engine.config)
        if record_routing:
            engine.engine.observers.append(recorder)
        with recorded(engine.engine, trace) if trace else nullcontext(), prompt_bar() as progress:
            answer: Answer | RawAnswer
            if raw:
                stream = engine.stream(prompt, raw=True, max_tokens=max_tokens, progress=progress, **options)
                answer = RawAnswer(stream)
            else:
                choices = Choices(max_tokens, False if no_thinking else None, options)
                answer = Answer(engine, messages, (), choices, progress)
            _print_answer(answer)
        if record_routing:
            recorder.trace().save(record_routing)
        _print_statistics(engine, answer.stats, details=stats)
    if answer.stopped:
        raise click.Abort


def _print_answer(events: Iterable[TurnEvent]) -> None:
    """Write the text as UTF-8 as it comes; on a terminal the thinking too, which is all there is if it never ends."""
    out, terminal = sys.stdout.buffer, sys.stdout.isatty()
    thought = answered = False
    for event in events:
        if not isinstance(event, Thinking | Content):
            continue  # without tools there are no calls
        text = harmless(event.text) if terminal else event.text
        if isinstance(event, Thinking):
            thought = True
            text = click.style(text, dim=True) if terminal else ""
        else:
            text = f"\n\n{text}" if terminal and thought and not answered else text
            answered = True
        out.write(text.encode())
        out.flush()
    out.write(b"\n")
    out.flush()
    if thought and not answered:
        click.echo("It was still thinking. Give it more --max-tokens, or --no-thinking.", err=True)


def _print_statistics(engine: TextEngine, s: Statistics, *, details: bool) -> None:
    click.echo(
        f"prompt {s.prompt_tokens} tokens, {s.prompt_rate:.2f} tokens/s; generation {s.generated_tokens} tokens, "
        f"{s.generation_rate:.2f} tokens/s; expert hits {s.hit_rate:.1%}; {s.read}",
        err=True,
    )
    if not details:
        return
    click.echo(
        f"prompt {s.prompt_seconds:.2f} s, generation {s.generation_seconds:.2f} s; {s.hits} hits, {s.misses} misses; "
        f"reading {s.read_seconds:.2f} s, waiting for it {s.stall_seconds:.2f} s; in native code "
        f"{s.native_seconds:.2f} s; Python {s.python_share:.1%}\n{engine.engine.plan}; one expert "
        f"{format_bytes(engine.engine.plan.slot_bytes)}",
        err=True,
    )
