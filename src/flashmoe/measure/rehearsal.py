"""What a token costs on this machine besides the disk, as a few layers of the model's shapes measure it.

One layer of each kind, with random weights and few experts, is written, loaded and run by the engine itself: kernels
that stay below plain reading, Python, look-ups and the bookkeeping of a miss are all in the figures, since they are in
the run. Invariant: what was written is gone afterwards. Knows the engine as a whole, not its parts.
"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from flashmoe.engine.engine import Engine
from flashmoe.engine.loader import load_engine
from flashmoe.engine.sampling import Sampler, Sampling
from flashmoe.measure.pipeline import PYTHON, Pipeline, pipeline
from flashmoe.measure.processor import probe_first_use
from flashmoe.measure.roofline import Costs, PromptCosts
from flashmoe.measure.sizes import packed_sizes
from flashmoe.measure.timing import COMBINE, EXPERTS, FETCH, MIXER, ROUTER, SHARED, WAIT, timed
from flashmoe.models.architecture import ModelConfig
from flashmoe.pack.synth import Choices, synth_config
from flashmoe.settings import Settings
from flashmoe.streaming.memory import available_memory

_TOKENS = 48
_PROMPTS = (16, 64, 256)
"""Tokens of the rehearsed prompts, of which an expert gets a quarter."""
_VOCABULARY = 1 << 14
"""Rows of the rehearsed head: a tenth of a real one's, and 19 MB at 2048 columns."""
_EXPERTS = 4
"""Times as many experts a layer as a token takes, half of which fit where misses are rehearsed."""


def rehearse(
    c: ModelConfig, bits: tuple[int, int], head_bytes: int, arena: int, threads: int, sampling: Sampling
) -> Costs:
    """The costs on this machine, with so many threads. bits: of experts, and of the trunk. head_bytes: that a token
    reads of head and embedding. arena: bytes that experts will fill, of which the last to be filled are what an answer
    waits for.

    Takes some seconds and, where temporary files are, two layers' weights: 0.2 GB for 35B-A3B, 0.9 GB for 397B. Raises
    CapacityError where memory or disk do not hold them.
    """
    with TemporaryDirectory() as directory:
        packed = Path(directory) / "rehearsal"
        choices = Choices("rehearsal", expert_bits=bits[0], trunk_bits=bits[1])
        synth_config(_few_layers(c), choices, packed, lambda *_: None)
        longest = max(_PROMPTS)
        settings = Settings(threads=threads, context=2 * longest, chunk_tokens=longest, foresight=False)
        with load_engine(packed, settings) as engine:
            _watch(engine)
            token, warm = _decode(engine), _watch(engine)
            prompt, plan = _prompts(engine), engine.plan
        least = plan.total - plan.arena + 2 * c.top_k * plan.slot_bytes
        with load_engine(packed, replace(settings, memory=least)) as engine:
            missing = _watch(engine)
        head = head_bytes / packed_sizes(packed).head
    # The clock itself takes time, so only the proportions are its.
    seen = warm.pipeline
    scale = token / (seen.seconds - seen.sampling)
    layers, kinds = seen.layers, dict.fromkeys(c.layer_types)
    return Costs(
        before={
            kind: scale * (layer[MIXER] + layer[ROUTER] + layer[PYTHON])
            for kind, layer in zip(kinds, layers, strict=True)
        },
        fetch=scale * _mean(layers, FETCH, WAIT),
        beside=scale * _mean(layers, SHARED, EXPERTS, COMBINE),
        expert=scale * _mean(layers, EXPERTS) / c.top_k,
        miss=max(0.0, missing.looking_up - warm.looking_up) / missing.misses,
        fill=plan.slot_bytes / probe_first_use(min(arena, available_memory() // 2)),
        head=scale * seen.head * head,
        sampling=_sampling(c.vocab, sampling),
        between=scale * seen.between,
        prompt=prompt,
    )


def _few_layers(c: ModelConfig) -> dict[str, Any]:
    """A config.json with one layer of each kind."""
    kinds = list(dict.fromkeys(c.layer_types))
    config: dict[str, Any] = {
        "model_type": c.model_type,
        "vocab_size": min(c.vocab, _VOCABULARY),
        "hidden_size": c.hidden,
        "num_hidden_layers": len(kinds),
        "layer_types": kinds,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "rope_parameters": {"rope_theta": c.rope_theta, "partial_rotary_factor": c.rotary_dim / c.head_dim},
        "num_experts": min(c.experts, _EXPERTS * c.top_k),
        "num_experts_per_tok": c.top_k,
        "norm_topk_prob": c.renormalise,
        "moe_intermediate_size": c.expert_inter,
        "rms_norm_eps": c.eps,
        "tie_word_embeddings": False,
        "max_position_embeddings": 2 * max(_PROMPTS),
    }
    if c.shared_inter:
        config["shared_expert_intermediate_size"] = c.shared_inter
    if (d := c.delta) is not None:
        config |= {
            "linear_num_key_heads": d.key_heads,
            "linear_num_value_heads": d.value_heads,
            "linear_key_head_dim": d.key_dim,
            "linear_value_head_dim": d.value_dim,
            "linear_conv_kernel_dim": d.kernel,
        }
    return config


def _decode(engine: Engine) -> float:
    """Seconds of a token."""
    state, seconds = engine.new_sequence(), []
    for token in _tokens(engine):
        started = perf_counter()
        engine.prefill(state, np.array([token], np.int32))
        seconds.append(perf_counter() - started)
    return statistics.median(seconds)


@dataclass(frozen=True)
class _Watched:
    """A token's pipeline, its seconds of waiting for reads, and its misses."""

    pipeline: Pipeline
    stall: float
    misses: float

    @property
    def looking_up(self) -> float:
        totals = self.pipeline.totals
        return totals[FETCH] + totals[WAIT] - self.stall


def _watch(engine: Engine) -> _Watched:
    state, ids, before = engine.new_sequence(), _tokens(engine), engine.store.stats
    with timed(engine) as clock:
        for token in ids:
            engine.prefill(state, np.array([token], np.int32))
    after = engine.store.stats
    return _Watched(
        pipeline(clock.spans, engine.config.layers),
        (after.stall_seconds - before.stall_seconds) / len(ids),
        (after.misses - before.misses) / len(ids),
    )


def _tokens(engine: Engine, count: int = _TOKENS) -> Any:
    return np.random.default_rng(0).integers(0, engine.config.vocab, count, np.int32)


def _prompts(engine: Engine) -> PromptCosts:
    c, experts = engine.config, []
    for tokens in _PROMPTS:
        ids = _tokens(engine, tokens)
        engine.prefill(engine.new_sequence(), ids)  # experts come into memory, and scratch memory grows
        with timed(engine) as clock:
            for _ in range(4):
                engine.prefill(engine.new_sequence(), ids)
        layers = pipeline(clock.spans, c.layers).layers
        experts.append((tokens * c.top_k / c.experts, _mean(layers, EXPERTS) / (tokens * c.top_k)))
    return PromptCosts(
        before={
            kind: (layer[MIXER] + layer[ROUTER] + layer[PYTHON]) / tokens
            for kind, layer in zip(dict.fromkeys(c.layer_types), layers, strict=True)
        },
        shared=_mean(layers, SHARED, COMBINE) / tokens,
        experts=tuple(experts),
    )


def _mean(layers: tuple[dict[str, float], ...], *parts: str) -> float:
    return statistics.fmean(sum(layer[part] for part in parts) for layer in layers)


def _sampling(vocab: int, sampling: Sampling) -> float:
    sampler = Sampler(sampling, vocab, np.zeros(1, np.int32))
    logits = np.random.default_rng(0).standard_normal(vocab, np.float32)
    times = []
    for _ in range(5):
        started = perf_counter()
        sampler.choose(logits)
        times.append(perf_counter() - started)
    return statistics.median(times)
