"""Tiny packed models and their oracles, made once a session."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe
from oracle import CONFIGS, make_checkpoint
from random_checkpoint import write_text_files


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of the tiny checkpoint of that name (oracle.CONFIGS), as transformers saves it."""
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
    write_text_files(source)
    generation = (source / "generation_config.json").read_text()
    tokens = {
        "vocab_size": json.loads((source / "config.json").read_text())["vocab_size"],
        "eos_token_id": json.loads(generation)["eos_token_id"],
    }
    make_checkpoint(source, {**CONFIGS["qwen3_5_moe_text"], "num_hidden_layers": 4, **tokens})
    (source / "generation_config.json").write_text(generation)
    return source


@pytest.fixture(scope="session")
def speaking_model(speaking_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, packed."""
    out = tmp_path_factory.mktemp("speaks") / "packed"
    pack(speaking_checkpoint, out, Recipe())
    return out
