"""Full attention: grouped queries, normalised q and k, partial rotary embedding, optional output gate."""

from collections.abc import Mapping

from flashmoe.models.architecture import ModelConfig
from flashmoe.models.batch import Block
from flashmoe.ops.blocks import AttentionWeights
from flashmoe.ops.interface import Array, Handle, Ops


class FullAttention:
    """The mixer of a `full_attention` layer; `prefix` is `model.layers.N`."""

    def __init__(self, ops: Ops, config: ModelConfig, weights: Mapping[str, Handle], prefix: str) -> None:
        self.ops, self.config = ops, config
        own = f"{prefix}.self_attn"
        self.weights = ops.attention_weights(
            AttentionWeights(
                norm=weights[f"{prefix}.input_layernorm.weight"],
                q=weights[f"{own}.q_proj"],
                k=weights[f"{own}.k_proj"],
                v=weights[f"{own}.v_proj"],
                q_norm=weights[f"{own}.q_norm.weight"],
                k_norm=weights[f"{own}.k_norm.weight"],
                output=weights[f"{own}.o_proj"],
                heads=config.heads,
                kv_heads=config.kv_heads,
                gated=config.attention_gate,
                eps=config.eps,
            )
        )

    def new_state(self) -> Handle:
        return self.ops.kv_cache(self.config.kv_heads, self.config.head_dim)

    def __call__(self, x: Array, block: Block, layer: int, rope: tuple[Array, Array]) -> None:
        """Add the mixer's result to rows x [T, D] of the residual stream, the block's."""
        self.ops.full_attention(x, self.weights, block.ends, block.states(layer), *rope)
