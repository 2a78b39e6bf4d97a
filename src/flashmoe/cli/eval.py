"""`flashmoe eval DIR`: a table on stdout, or one JSON object; progress on stderr.

Ctrl-C ends the measurement that runs; what was measured until then is reported, and the exit code is 130.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from flashmoe.cli.model_directory import MODEL_DIRECTORY
from flashmoe.cli.printing import console, printable, say, show_json
from flashmoe.cli.progress import count_bar
from flashmoe.cli.shared_options import ENGINE, SharingCommand
from flashmoe.demo import CASES, TEXT
from flashmoe.engine.routing_trace import RoutingRecorder
from flashmoe.errors import FlashMoeError
from flashmoe.evaluation.answering import Score, answer_cases
from flashmoe.evaluation.cases import Case, read_cases, spread
from flashmoe.evaluation.divergence import check_comparable, divergence
from flashmoe.evaluation.perplexity import documents, perplexity, windows
from flashmoe.evaluation.report import Report
from flashmoe.files.opening import read_text
from flashmoe.settings import Settings
from flashmoe.streaming.memory import available_memory
from flashmoe.text_engine import TextEngine, load_with

SEQUENCES = 16
"""Cases that decode together: one step's reads and Python serve all of them (12 % less time with the demo model)."""
_SHARE_OF_MEMORY = 0.9
_MAX_TEXT_BYTES = 1_000_000_000


@click.command("eval", cls=SharingCommand, groups=(ENGINE,))
@click.argument("directory", metavar="DIR", type=MODEL_DIRECTORY)
@click.option("--text", metavar="FILE", type=click.Path(path_type=Path), help="Measure perplexity on this text.")
@click.option("--cases", metavar="FILE", type=click.Path(path_type=Path), help="Ask these cases, one JSON a line.")
@click.option("--against", metavar="DIR2", type=MODEL_DIRECTORY, help="A more precise pack to compare with.")
@click.option(
    "--limit", metavar="N", type=click.IntRange(min=1), help="At most so many cases, and windows of the text."
)
@click.option(
    "--window", type=click.IntRange(min=2), default=512, show_default=True, help="Tokens of the text at a time."
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="The longest answer.")
@click.option(
    "--record-routing", metavar="FILE", type=click.Path(path_type=Path), help="Save which experts were chosen."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    directory: Path,
    text: Path | None,
    cases: Path | None,
    against: Path | None,
    limit: int | None,
    window: int,
    max_tokens: int,
    record_routing: Path | None,
    as_json: bool,
    settings: Settings,
) -> None:
    """Measure how good the answers of the packed model in DIR are: perplexity of a text, tool calls and JSON on a test
    set, and with --against the divergence from a more precise pack of the same model.

    Without --text and --cases, the text and the cases that come with Flash-MoE. Answers are greedy. With --against,
    each of the two models gets half of the memory.
    """
    neither = text is None and cases is None
    report = Report(str(directory), window=window)
    if text or neither or against:
        report.text = str(text or TEXT)
    chosen_cases: list[Case] = []
    if cases or neither:
        report.cases = str(cases or CASES)
        chosen_cases = spread(read_cases(Path(report.cases)), limit)
    with ExitStack() as stack:
        # Recorded, one case runs at a time: a trace shall show what one user's caches would see.
        settings = replace(settings, sequences=1 if record_routing else SEQUENCES)
        engine, precise = _load(stack, directory, against, settings)
        report.chosen = engine.engine.summary
        say(report.chosen, err=True)
        recorder = RoutingRecorder(engine.engine.config)
        if record_routing:
            engine.engine.observers.append(recorder)
        try:
            if report.text:
                _measure_text(engine, precise, limit, report)
            if chosen_cases:
                _measure_cases(engine, chosen_cases, max_tokens, report)
        except KeyboardInterrupt:
            report.interrupted = True
        if record_routing:
            recorder.trace().save(record_routing)
    if as_json:
        show_json(report.as_json())
    else:
        _print_table(report)
    if report.interrupted:
        raise click.Abort


def _load(
    stack: ExitStack, directory: Path, against: Path | None, settings: Settings
) -> tuple[TextEngine, TextEngine | None]:
    """The model, and the one to compare it with; each may take half of the memory if there are two."""
    if not against:
        return stack.enter_context(load_with(directory, settings)), None
    half = (settings.memory or int(available_memory() * _SHARE_OF_MEMORY)) // 2
    engine = stack.enter_context(load_with(directory, replace(settings, memory=half)))
    # The model as it was made: what changes answers is what is measured.
    own = replace(settings, memory=half, experts_per_token=None, kv_bits=16, sequences=1)
    precise = stack.enter_context(load_with(against, own))
    check_comparable(precise, engine)
    return engine, precise


def _measure_text(engine: TextEngine, precise: TextEngine | None, limit: int | None, report: Report) -> None:
    parts = documents(_read_text(Path(report.text or "")))
    sequences = [w for part in parts for w in windows(engine.tokenizer.encode(part), report.window)][:limit]
    total = sum(len(sequence) - 1 for sequence in sequences)
    with count_bar("Reading the text", total) as progress:
        report.perplexity = perplexity(engine.engine, engine.tokenizer, sequences, progress)
    if precise:
        report.against = str(precise.directory)
        with count_bar("Comparing", total) as progress:
            report.divergence = divergence(precise.engine, engine.engine, sequences, progress)


def _measure_cases(engine: TextEngine, cases: list[Case], max_tokens: int, report: Report) -> None:
    report.score = Score()
    with count_bar("Asking", len(cases)) as progress:
        for answered in answer_cases(engine, cases, max_tokens):
            report.score.add(answered)
            progress(report.score.total.cases)


def _read_text(path: Path) -> str:
    try:
        return read_text(path, _MAX_TEXT_BYTES)
    except OSError as error:
        raise FlashMoeError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise FlashMoeError(f"{path} is not UTF-8; convert it first.") from None


def _print_table(report: Report) -> None:
    screen = console(soft_wrap=True)
    table = Table(title=Text(printable(report.directory)), title_justify="left")
    for heading in ("", "count", "share", "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left")
    for what, share in report.shares():
        low, high = share.interval
        table.add_row(what, str(share), f"{share.value:.1%}", f"{low:.1%} to {high:.1%}")
    if table.row_count:
        screen.print(table)
    if found := report.perplexity:
        say(
            f"perplexity {found.perplexity:.4f}, {found.bits_per_byte:.4f} bits a byte ({found.tokens} tokens of "
            f"{report.text}, {report.window} at a time)",
        )
    if apart := report.divergence:
        say(
            f"KL from {report.against} {apart.nats:.6f} nats a token (standard error {apart.error:.6f})",
        )
    if report.interrupted:
        say("Interrupted: these are the results so far.")
