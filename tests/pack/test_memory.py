"""Packing streams: what it holds does not grow with the model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import flashmoe
from checkpoints import sized
from flashmoe.models import architecture

CODE = """
import resource, sys
from pathlib import Path
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe
pack(Path(sys.argv[1]), Path(sys.argv[2]), Recipe())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_source(directory, layers):
    """float32, so that files are large; each layer's experts take 25 MB."""
    config = sized("qwen3_moe", num_hidden_layers=layers, hidden_size=256, moe_intermediate_size=256, num_experts=32)
    arch = architecture(config)
    values = np.random.default_rng(0).standard_normal(32 * 512 * 256, np.float32)
    tensors = {t.source: values[: int(np.prod(t.shape))].reshape(t.shape) for t in arch.trunk}
    for prefix in arch.expert_prefixes:
        tensors[f"{prefix}.gate_up_proj"] = values.reshape(32, 512, 256)
        tensors[f"{prefix}.down_proj"] = values[: 32 * 256 * 256].reshape(32, 256, 256)
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def peak(source, out):
    """Peak resident KiB of a process that packs."""
    environment = {**os.environ, "PYTHONPATH": str(Path(flashmoe.__file__).parents[1])}
    command = [sys.executable, "-c", CODE, source, out]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def test_peak_memory_does_not_grow_with_layers(tmp_path):
    small = peak(write_source(tmp_path / "small", 1), tmp_path / "a")
    large = peak(write_source(tmp_path / "large", 8), tmp_path / "b")
    source = (tmp_path / "large" / "model.safetensors").stat().st_size
    assert source > 190e6
    assert (large - small) * 1024 < 25e6
