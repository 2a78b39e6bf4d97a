"""The commands of the documents that measure run as they stand there: from the root, on what is installed."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [path for folder in ("docs", "benchmarks") for path in (ROOT / folder).rglob("*.[mp][dy]")]
PROGRAM = re.compile(r"(-m benchmarks\.\w+|benchmarks/\w+\.py)([^\n`;()|]*)")
PASSED_ON = {("benchmarks/soak_server.py", "--memory")}
"""Options of `flashmoe serve`."""


def shown() -> dict[str, set[str]]:
    """The options that the documents show with each program."""
    found = defaultdict[str, set[str]](set)
    for document in DOCUMENTS:
        for program, rest in PROGRAM.findall(document.read_text().replace("\\\n", " ")):
            found[program] |= set(re.findall(r"(?<![\w-])--[a-z][\w-]*", rest))
    return found


PROGRAMS = shown()


@cache
def help_of(program: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *program.split(), "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_documents_show_every_benchmark() -> None:
    programs = {path.name for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()}
    assert programs <= {Path(program).name for program in PROGRAMS}
    assert "-m benchmarks.vs_llama_cpp" in PROGRAMS


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_a_benchmark_starts_without_a_path_to_the_source_and_has_the_options_that_are_shown(program: str) -> None:
    help_text = help_of(program)
    assert "usage" in help_text
    unknown = {o for o in PROGRAMS[program] if (program, o) not in PASSED_ON and not re.search(rf"{o}\b", help_text)}
    assert unknown == set()


def test_no_document_puts_the_source_on_the_path() -> None:
    """It has no native module: that is built when the package is installed."""
    assert [str(path) for path in DOCUMENTS if "PYTHONPATH=src" in path.read_text()] == []
