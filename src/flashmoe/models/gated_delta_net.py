"""GatedDeltaNet: a causal convolution and the gated delta rule in place of attention, with a state of fixed size.

Yang, Kautz and Hatamizadeh, "Gated Delta Networks" (2024).
"""

from collections.abc import Mapping

from flashmoe.models.architecture import DeltaNet, ModelConfig
from flashmoe.models.batch import Block
from flashmoe.ops.blocks import DeltaNetWeights
from flashmoe.ops.interface import Array, Handle, Ops


class GatedDeltaNet:
    """The mixer of a `linear_attention` layer; `prefix` is `model.layers.N`."""

    def __init__(
        self, ops: Ops, config: ModelConfig, delta: DeltaNet, weights: Mapping[str, Handle], prefix: str
    ) -> None:
        self.ops, self.delta = ops, delta
        own = f"{prefix}.linear_attn"
        self.weights = ops.delta_net_weights(
            DeltaNetWeights(
                norm=weights[f"{prefix}.input_layernorm.weight"],
                qkv=weights[f"{own}.in_proj_qkv"],
                z=weights[f"{own}.in_proj_z"],
                b=weights[f"{own}.in_proj_b"],
                a=weights[f"{own}.in_proj_a"],
                conv=weights[f"{own}.conv1d.weight"],
                a_log=weights[f"{own}.A_log"],
                dt_bias=weights[f"{own}.dt_bias"],
                gated_norm=weights[f"{own}.norm.weight"],
                output=weights[f"{own}.out_proj"],
                key_heads=delta.key_heads,
                eps=config.eps,
            )
        )

    def new_state(self) -> Handle:
        d = self.delta
        return self.ops.delta_state(d.channels, d.kernel, d.value_heads, d.key_dim, d.value_dim)

    def __call__(self, x: Array, block: Block, layer: int, rope: tuple[Array, Array]) -> None:  # noqa: ARG002
        """Add the mixer's result to rows x [T, D] of the residual stream, the block's."""
        self.ops.delta_net(x, self.weights, block.ends, block.states(layer))
