"""Packing streams: what it holds does not grow with the model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import flashmoe
from checkpoints import sized
from flashmoe.models import architecture

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc is Linux's")

CODE = """
import sys
from pathlib import Path
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe
pack(Path(sys.argv[1]), Path(sys.argv[2]), Recipe(trunk_bits=int(sys.argv[3])))
status = Path("/proc/self/status").read_text()
print(status.split("VmHWM:")[1].split()[0])
"""


def write_source(directory, **sizes):
    """float32, so that files are large; each layer's experts take 25 MB, a thousand tokens of vocabulary 2 MB."""
    config = sized("qwen3_moe", hidden_size=256, moe_intermediate_size=256, num_experts=32, **sizes)
    arch = architecture(config)
    values = np.random.default_rng(0).standard_normal(32 * 512 * 256, np.float32)
    tensors = {t.source: np.resize(values, t.shape) for t in arch.trunk}
    for prefix in arch.expert_prefixes:
        tensors[f"{prefix}.gate_up_proj"] = values.reshape(32, 512, 256)
        tensors[f"{prefix}.down_proj"] = values[: 32 * 256 * 256].reshape(32, 256, 256)
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def peak(source, out, trunk_bits=4):
    """Peak resident KiB of a process that packs. Not getrusage's: that one remembers the parent's from before exec."""
    environment = {**os.environ, "PYTHONPATH": str(Path(flashmoe.__file__).parents[1])}
    command = [sys.executable, "-c", CODE, source, out, str(trunk_bits)]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def test_peak_memory_does_not_grow_with_layers(tmp_path):
    small = peak(write_source(tmp_path / "small", num_hidden_layers=1), tmp_path / "a")
    large = peak(write_source(tmp_path / "large", num_hidden_layers=8), tmp_path / "b")
    assert (tmp_path / "large" / "model.safetensors").stat().st_size > 190e6
    assert (large - small) * 1024 < 25e6


def test_peak_memory_does_not_grow_with_a_table_kept_as_it_is(tmp_path):
    sizes = {"num_hidden_layers": 1, "tie_word_embeddings": True}
    small = peak(write_source(tmp_path / "small", vocab_size=70_000, **sizes), tmp_path / "a", 16)
    large = peak(write_source(tmp_path / "large", vocab_size=270_000, **sizes), tmp_path / "b", 16)
    table = 200_000 * 256 * 4
    assert (tmp_path / "large" / "model.safetensors").stat().st_size > table
    assert (large - small) * 1024 < table / 4
