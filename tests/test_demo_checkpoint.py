"""The checkpoint that the demo packs is one that transformers takes."""

from pathlib import Path

import pytest
import torch
from make_demo_checkpoint import make
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    make(directory)
    return directory


def test_transformers_loads_it_whole_and_its_choices_are_not_near_tied(checkpoint: Path) -> None:
    model, loading = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
    assert not any(loading.values()), loading
    ids = AutoTokenizer.from_pretrained(checkpoint)(
        "The lighthouse keeper counted ships", return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        logits = model(ids).logits
    assert torch.isfinite(logits).all()
    assert 1 < logits.std() < 10


def test_an_answer_ends_with_the_turn(checkpoint: Path) -> None:
    ends = GenerationConfig.from_pretrained(checkpoint).eos_token_id
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert ends == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])


def test_the_same_seed_gives_the_same_files(checkpoint: Path, tmp_path: Path) -> None:
    make(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in checkpoint.iterdir()
    }
