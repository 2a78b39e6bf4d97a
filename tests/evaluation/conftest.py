"""A speaking model and a more precise pack of the same checkpoint."""

import shutil
from pathlib import Path

import pytest

import flashmoe
from flashmoe.text_engine import TextEngine
from packs import reseal


@pytest.fixture(scope="session")
def spoken(speaking_model: Path) -> TextEngine:
    """Loaded on the reference backend, several sequences at a time."""
    with flashmoe.load(speaking_model, backend="reference", context=1024, sequences=3) as engine:
        yield engine


@pytest.fixture(scope="session")
def other_tokenizer(speaking_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a tokenizer of its own."""
    directory = tmp_path_factory.mktemp("other") / "packed"
    shutil.copytree(speaking_model, directory)
    tokenizer = directory / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|im_end|>", "<|the_end|>"))
    reseal(directory)
    return directory
