"""The text side of a checkpoint (tokenizer, template, configuration) as read by Flash-MoE and by transformers."""

from pathlib import Path
from typing import Any

import pytest

from flashmoe.chat.tokenizer import Tokenizer
from random_checkpoint import write_text_files


@pytest.fixture(scope="session")
def text_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    write_text_files(directory)
    return directory


@pytest.fixture(scope="session")
def tokenizer(text_dir: Path) -> Tokenizer:
    return Tokenizer.from_dir(text_dir)


@pytest.fixture(scope="session")
def oracle(text_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(text_dir)
