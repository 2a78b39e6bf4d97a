"""The decoder that every model_type here shares: what differs between them is in their configs and trunk tensors.

Invariant: a token's result depends on its own sequence alone, not on what shares the batch or how a prompt was cut.
Knows no files, no sampling and no text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flashmoe.models.architecture import ModelConfig
from flashmoe.models.attention import FullAttention
from flashmoe.models.batch import Batch
from flashmoe.models.forward_context import BLOCK, ForwardContext, PrefetchCallback, Step
from flashmoe.models.gated_delta_net import GatedDeltaNet
from flashmoe.models.moe import MixtureOfExperts
from flashmoe.models.observer import RoutingObserver
from flashmoe.models.readahead import ReadAhead
from flashmoe.models.rope import Rope
from flashmoe.models.source import ExpertSource
from flashmoe.ops.interface import Array, Handle, Ops


@dataclass(frozen=True, slots=True)
class Layer:
    """x + mixer(norm(x)), then + moe(norm(.)); each half has its norm."""

    mixer: FullAttention | GatedDeltaNet
    moe: MixtureOfExperts


class Decoder:
    """Weights by canonical name (models.trunk), one record layout a layer, and the arena in which experts lie."""

    def __init__(
        self,
        ops: Ops,
        config: ModelConfig,
        weights: Mapping[str, Handle],
        layouts: Sequence[Handle],
        arena: NDArray[np.uint8],
    ) -> None:
        self.ops, self.config = ops, config
        self.embedding = weights["model.embed_tokens"]
        self.head = [weights["model.embed_tokens" if config.tied else "lm_head"]]
        self.final_norm = weights["model.norm.weight"]
        self.rope = Rope(config.rope_theta, config.rotary_dim)
        self.layers = [
            Layer(
                self._mixer(i, weights),
                MixtureOfExperts(ops, config, weights, f"model.layers.{i}", layouts[i], arena),
            )
            for i in range(config.layers)
        ]

    def _mixer(self, i: int, weights: Mapping[str, Handle]) -> FullAttention | GatedDeltaNet:
        if self.config.layer_types[i] == "full_attention":
            return FullAttention(self.ops, self.config, weights, f"model.layers.{i}")
        assert self.config.delta is not None
        return GatedDeltaNet(self.ops, self.config, self.config.delta, weights, f"model.layers.{i}")

    def new_states(self) -> list[Handle]:
        """The mixers' states of an empty sequence, one a layer."""
        return [layer.mixer.new_state() for layer in self.layers]

    def forward(
        self,
        batch: Batch,
        source: ExpertSource,
        observers: Sequence[RoutingObserver] = (),
        step: Step | None = None,
        prefetch_callback: PrefetchCallback | None = None,
    ) -> Array:
        """The last layer's output [T, D]; the batch's states go on by its tokens, unless `step` or an error ends it."""
        for observer in observers:
            observer.begin(batch)
        ops, tokens = self.ops, len(batch.tokens)
        with ReadAhead(source, self.config, tokens) as ahead:
            outputs = ops.empty(tokens * self.config.top_k, self.config.hidden)
            context = ForwardContext(self.config, batch.blocks(BLOCK), source, ahead, outputs, step, prefetch_callback)
            cos, sin = self.rope(batch.positions)
            rope = ops.vector(cos), ops.vector(sin)
            x = ops.embed(self.embedding, batch.tokens)
            for i, layer in enumerate(self.layers):
                for number, block in enumerate(context.blocks):
                    own = block.own
                    layer.mixer(x[own], block, i, (rope[0][own], rope[1][own]))
                    context.block_done(i, number)
                y, ids, weights = layer.moe.route(x)
                for observer in observers:
                    observer.routed(i, x, ids, weights)
                layer.moe.add_to(x, y, ids, weights, i, context)
        return x

    def logits(self, x: Array) -> Array:
        """Logits [n, vocab] of rows [n, D] of `forward`'s result."""
        return self.ops.linears(self.ops.rms_norm(x, self.final_norm, self.config.eps), self.head)[0]
