"""benchmarks/vs_llama_cpp: routers reach the model, limits the process, and the table says what the runs were."""

import subprocess
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from benchmarks.vs_llama_cpp.models import into_packed
from benchmarks.vs_llama_cpp.results import OURS, Run, speed, table
from benchmarks.vs_llama_cpp.system import run_in
from flashmoe.files.safetensors import read_header
from flashmoe.ops.reference.dequantise import dequantise
from flashmoe.ops.weights import AffineMatrix
from flashmoe.pack.verify import verify

READING = {"bytes": 1e6, "native": 0.1, "stall": 0.1, "slots": 0.25, "hit_rate": 0.2}


def test_the_second_half_of_a_run_counts():
    assert Run("memory", OURS, (9.0, 9.0, 1.0, 3.0)).token == 2.0
    runs = [Run("memory", OURS, (0.0, each)) for each in (1.0, 2.0, 4.0)]
    assert speed(runs) == 0.5
    assert speed([*runs, Run("memory", OURS, None)]) == 0


def test_a_table_compares_with_the_best_row_of_the_peer():
    runs = [
        Run("memory", OURS, (1.0, 0.1), memory=1e9),
        *[Run("memory", f"peer {i}", (9.0, each)) for i, each in enumerate((0.5, 0.4))],
        Run("even", OURS, (1.0, 0.2), disk=1e7, more=READING),
        Run("even", "peer 0", None),
    ]
    found = table(runs, 50_000_000)
    for line in (
        "| Flash-MoE | 10 (10-10) | 100 | 4.00 |",
        "| peer 1 | 2.5 (2.5-2.5) | 400 |  |",
        "| peer 0 | ended by a signal | | |",
        "0.05 GB a token at 1.0 GB/s, 50.0 ms: 50% reached.",
        "max(disk 100 ms at 0.01 GB/s, compute 100 ms): 50% reached.",
    ):
        assert line in found


def test_routers_reach_a_packed_model_that_stays_whole(tiny_packed, tmp_path):
    directory = Path(copytree(tiny_packed("qwen3_5_moe_text"), tmp_path / "copy"))
    header = read_header(directory / "trunk.safetensors")
    layers = sum(name.endswith("mlp.gate.scales") for name in header.tensors)
    experts, groups = header.tensors["model.layers.0.mlp.gate.scales"].shape
    routers = np.random.default_rng(0).standard_normal((layers, experts, 64 * groups), np.float32)
    into_packed(directory, routers)
    assert verify(directory)[1] == []
    for layer, router in enumerate(routers):
        np.testing.assert_allclose(stored_router(directory, layer), router, atol=0.04)


def stored_router(directory: Path, layer: int):
    data = (directory / "trunk.safetensors").read_bytes()
    places = [
        read_header(directory / "trunk.safetensors").tensors[f"model.layers.{layer}.mlp.gate.{part}"]
        for part in ("weight", "scales", "biases")
    ]
    arrays = [
        np.frombuffer(data[p.begin : p.end], kind).reshape(p.shape)
        for p, kind in zip(places, (np.uint32, np.uint16, np.uint16), strict=True)
    ]
    return dequantise(AffineMatrix(*arrays))


def test_what_a_command_prints_comes_back_unless_a_signal_ended_it():
    assert run_in(None, ["cat"], "said") == "said"
    assert run_in(None, ["sh", "-c", "kill -9 $$"], "") is None
    with pytest.raises(subprocess.CalledProcessError):
        run_in(None, ["false"], "")
