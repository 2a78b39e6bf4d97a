"""The pair of models: the same config once as a packed model and once as a GGUF, with the same routers in both.

Invariant: a model that is there is whole. Knows files, not speed.
"""

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe import _native
from flashmoe.files.atomic import write_atomically
from flashmoe.files.safetensors import read_header
from flashmoe.pack.manifest import NAME, Manifest
from flashmoe.pack.recipe import SENSITIVE_BITS
from flashmoe.pack.seal import reseal
from flashmoe.pack.skew import skewed_norms
from flashmoe.pack.synth import ROUTER_STD, SKEW_RANGE, Choices, synth_config

PEER_MODEL = Path(__file__).with_name("peer_model.py")


@dataclass(frozen=True)
class Pair:
    """config: config.json of both. peer_python: of the environment with llama-cpp-python and gguf."""

    config: dict[str, Any]
    packed: Path
    gguf: Path
    peer_python: Path

    @property
    def nbytes(self) -> int:
        """Of the smaller of the two."""
        ours = sum(file.stat().st_size for file in self.packed.rglob("*") if file.is_file())
        return min(ours, self.gguf.stat().st_size)

    @property
    def expert_files(self) -> list[Path]:
        return [layer.path for layer in Manifest.read(self.packed).layers]


def make_pair(directory: Path, like: str, layers: int | None, experts: int | None, peer_python: Path) -> Pair:
    """Both models, written unless they are there. experts: in each layer, None for the model's own number."""
    choices = Choices(like, layers)
    config = choices.config
    config["eos_token_id"] = config["vocab_size"] - 1
    config["num_experts"] = experts or config["num_experts"]
    name = f"{like}-{config['num_hidden_layers']}x{config['num_experts']}"
    pair = Pair(config, directory / name, directory / f"{name}.gguf", peer_python)
    directory.mkdir(parents=True, exist_ok=True)
    if not (pair.packed / NAME).exists():
        print(f"writing {pair.packed}", flush=True)
        synth_config(config, choices, pair.packed, lambda *_: None)
    if not pair.gguf.exists():
        print(f"writing {pair.gguf}", flush=True)
        _peer_model(pair, "write", json.dumps(config).encode())
    return pair


def _peer_model(pair: Pair, what: str, said: bytes) -> None:
    subprocess.run([str(pair.peer_python), str(PEER_MODEL), what, str(pair.gguf)], input=said, check=True)


def write_routers(pair: Pair, *, skew: bool) -> None:
    """The same routers into both models, in place: even, or with some experts as popular as in trained models."""
    c, random = pair.config, np.random.default_rng(1)
    experts, top_k = c["num_experts"], c["num_experts_per_tok"]
    routers = random.standard_normal((c["num_hidden_layers"], experts, c["hidden_size"]), np.float32)
    routers *= ROUTER_STD * c["hidden_size"] ** -0.5
    if skew:
        for router in routers:
            norms = skewed_norms(random, experts, top_k, random.uniform(*SKEW_RANGE))
            router *= norms.astype(np.float32)[:, None]
    into_packed(pair.packed, routers)
    _peer_model(pair, "routers", routers.tobytes())


def into_packed(directory: Path, routers: NDArray[np.float32]) -> None:
    manifest = Manifest.read(directory)
    path = manifest.trunk.path
    header = read_header(path)
    with path.open("r+b") as file:
        for layer, router in enumerate(routers):
            arrays = _native.quantise(router, SENSITIVE_BITS)
            for part, array in zip(("weight", "scales", "biases"), arrays, strict=True):
                place = header.tensors[f"model.layers.{layer}.mlp.gate.{part}"]
                assert place.nbytes == array.nbytes
                file.seek(place.begin)
                file.write(array)
    trunk = replace(manifest.trunk, **vars(reseal(path)))
    write_atomically(directory / NAME, replace(manifest, trunk=trunk).to_json())
