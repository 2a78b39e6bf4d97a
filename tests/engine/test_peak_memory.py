"""The plan is what a prompt takes: a process that reads one grows by what was planned, within 5 %."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import flashmoe
from checkpoints import sized
from flashmoe.engine.loader import load_engine
from flashmoe.pack.synth import Choices, synth_config
from flashmoe.settings import Settings

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc is Linux's")

TOKENS = 2048
SETTINGS = Settings(backend="cpu", threads=2, context=TOKENS, chunk_tokens=TOKENS, snapshots=0)
# Not getrusage's peak: that one remembers the parent's from before exec.
CODE = """
import json, sys
from pathlib import Path
import numpy as np
from flashmoe.engine.loader import load_engine
from flashmoe.settings import Settings

def resident(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) * 1024

directory, tokens, settings = Path(sys.argv[1]), int(sys.argv[2]), Settings(**json.loads(sys.argv[3]))
before = resident("VmRSS")
with load_engine(directory, settings) as engine:
    for seed in range(2):
        prompt = np.random.default_rng(seed).integers(0, engine.config.vocab, tokens, dtype=np.int32)
        engine.prefill(engine.new_sequence(), prompt)
    print(json.dumps([engine.plan.total, engine.plan.slots / engine.plan.experts, resident("VmHWM") - before]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Wide and shallow: 340 MB of experts, and a third of that for the activations of a long chunk."""
    sizes = {"hidden_size": 1024, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512}
    experts = {"num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 6, "vocab_size": 4096}
    out = tmp_path_factory.mktemp("wide") / "packed"
    synth_config(
        sized("qwen3_5_moe_text", max_position_embeddings=TOKENS, **sizes, **experts),
        Choices("wide"),
        out,
        lambda _done, _total: None,
    )
    return out


def grown(model, settings):
    """Bytes planned, the share of experts in memory, and the bytes by which a process that reads prompts grew."""
    environment = {**os.environ, "PYTHONPATH": str(Path(flashmoe.__file__).parents[1])}
    command = [sys.executable, "-c", CODE, model, str(TOKENS), json.dumps(asdict(settings))]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_the_peak_is_within_a_twentieth_of_the_plan(model, share):
    with load_engine(model, SETTINGS) as engine:
        memory = engine.plan.total - int((1 - share) * engine.plan.arena)
    planned, cached, peak = grown(model, replace(SETTINGS, memory=memory))
    assert cached == pytest.approx(share, abs=0.01)
    assert planned > 250e6
    assert 0.95 * planned < peak < 1.05 * planned
