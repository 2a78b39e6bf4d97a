"""Tiny packed models and their oracles, made once a session."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe
from random_checkpoint import Sizes, make

hypothesis.settings.register_profile("everywhere", deadline=None)
hypothesis.settings.load_profile("everywhere")

OPTIONAL = {
    *("langchain_core", "langchain_openai", "lm_eval", "matplotlib", "mlx", "playwright"),
    *("schemathesis", "smolagents", "torch", "transformers"),
}
"""Packages of the extra `test` that the extra `quick` has not; what needs them is skipped where they are missing."""


def missing(error: BaseException | None) -> str | None:
    """The optional package whose absence is behind an error."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and (name := str(error.name).partition(".")[0]) in OPTIONAL:
            return name
        error = error.__cause__
    return None


def skipped(report: Any, path: Path, excinfo: pytest.ExceptionInfo[BaseException] | None) -> Any:
    """The report of a failure, as that of a skip if a package is missing."""
    if report.failed and excinfo is not None and (name := missing(excinfo.value)):
        report.outcome, report.longrepr = "skipped", (str(path), 1, f"Skipped: {name} is not installed")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    return skipped(report, collector.path, report.call.excinfo)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    return skipped(report, item.path, call.excinfo)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of the tiny checkpoint of that name (oracle.CONFIGS), as transformers saves it."""
    from oracle import CONFIGS, make_checkpoint  # needs torch

    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = make_checkpoint(tmp_path_factory.mktemp(name), CONFIGS[name])
        return made[name]

    return get


@pytest.fixture(scope="session")
def tiny_packed(
    tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The packed model of that name with experts, and as far as the trunk can, of so many bits."""
    made: dict[tuple[str, int], Path] = {}

    def get(name: str, bits: int = 4) -> Path:
        if (name, bits) not in made:
            out = tmp_path_factory.mktemp(f"{name}-{bits}") / "packed"
            pack(tiny_checkpoint(name), out, Recipe(bits, max(bits, 4)))
            made[name, bits] = out
        return made[name, bits]

    return get


@pytest.fixture(scope="session")
def speaking_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with a tokenizer, a chat template and a generation_config."""
    source = tmp_path_factory.mktemp("speaking")
    make(source, sizes=Sizes(layers=4, hidden=128, experts=16, inner=64, head=32, linear=32, context=1024))
    return source


@pytest.fixture(scope="session")
def speaking_model(speaking_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, packed."""
    out = tmp_path_factory.mktemp("speaks") / "packed"
    pack(speaking_checkpoint, out, Recipe())
    return out
