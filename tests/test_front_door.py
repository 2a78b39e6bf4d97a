"""What README promises: its commands exist, its example runs, its links lead somewhere."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import random_checkpoint
from docs import generate
from flashmoe.cli.main import COMMANDS, group, run
from processes import HANG, flashmoe_command

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


def command_lines() -> Iterator[list[str]]:
    """Every `flashmoe ...` and `make ...` line that the documents show, without comments."""
    for document in DOCUMENTS:
        for block in blocks(document, "sh") + blocks(document, "console"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words and words[0] in ("flashmoe", "make"):
                    yield words


def test_the_documents_show_the_make_commands_and_every_subcommand() -> None:
    shown = {tuple(words[:2]) for words in command_lines()}
    assert {("make", "demo"), ("make", "test")} <= shown
    assert {("flashmoe", name) for name in COMMANDS} <= shown


@pytest.mark.parametrize("page", generate.PAGES)
def test_a_page_that_is_made_from_the_program_is_up_to_date(page: str) -> None:
    """After a change of a command or a docstring: python docs/generate.py"""
    assert (ROOT / "docs" / page).read_text() == generate.PAGES[page]()


@pytest.mark.parametrize("words", list(command_lines()), ids=shlex.join)
def test_a_command_that_is_shown_exists_with_its_options(words: list[str]) -> None:
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
        return
    command = group.get_command(click.Context(group), words[1])
    assert command is not None
    options = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
    given = {word.partition("=")[0] for word in words[2:] if re.match(r"-{1,2}[a-z]", word)}
    assert given <= options


def test_the_python_example_of_the_readme_is_the_one_that_runs() -> None:
    (shown,) = blocks(ROOT / "README.md", "python")
    example = (ROOT / "examples" / "ten_lines.py").read_text()
    assert shown.strip() == example.partition('"""\n\n')[2].strip()
    assert len([line for line in shown.splitlines() if line.strip()]) <= 10


def test_a_model_of_linear_attention_alone_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    random_checkpoint.make(tmp_path / "checkpoint", sizes=random_checkpoint.Sizes(layers=1))
    assert run(["pack", str(tmp_path / "checkpoint"), str(tmp_path / "model")]) == 0
    assert run(["run", str(tmp_path / "model"), "-p", "x", "--no-thinking", "--max-tokens", "4"]) == 0
    assert capfd.readouterr().out.strip()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "{nowhere}", "-p", "x"], "nowhere"),
        (["run", "{here}", "-p", "x"], "flashmoe pack"),
        (["run", "{model}", "-p", "x", "--memory", "12 parsecs"], "'12 parsecs' is not a size"),
        (["run", "{model}", "-p", "x", "--memory", "100kB"], "may use 100.00 kB"),
        (["run", "{model}", "-p", "x", "--max-tokens", "-3"], "-3 is not in the range"),
        (["run", "{model}", "-p", "x", "--experts-per-token", "17"], "16 experts"),
        (["run", "{model}", "-p", "x", "--temperature", "-1"], "temperature"),
        (["info", "{here}"], "flashmoe pack"),
        (["verify", "{nowhere}"], "nowhere"),
        (["pack", "{model}", "{nowhere}"], "holds no checkpoint"),
    ],
    ids=lambda value: shlex.join(value) if isinstance(value, list) else "",
)
def test_wrong_input_gives_a_sentence_that_names_it(
    speaking_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    places = {"model": str(speaking_model), "here": str(tmp_path), "nowhere": str(tmp_path / "nowhere")}
    assert run([argument.format(**places) for argument in arguments]) in (1, 2)
    error = capfd.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_written_gives_a_sentence(speaking_model: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = flashmoe_command("run", speaking_model, "-p", "x", "--max-tokens", "4", stdout=full, text=True)
        _, err = process.communicate(timeout=HANG)
    assert process.returncode == 1
    assert err.endswith("flashmoe: No space left on device.\n")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", prose)
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_what_the_documents_and_hooks_run_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert os.access(ROOT / "examples" / "demo.sh", os.X_OK)
