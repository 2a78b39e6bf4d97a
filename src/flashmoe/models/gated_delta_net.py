"""GatedDeltaNet: a causal convolution and the gated delta rule in place of attention, with a state of fixed size.

Yang, Kautz and Hatamizadeh, "Gated Delta Networks" (2024).
"""

from collections.abc import Mapping, Sequence

from flashmoe.models.architecture import DeltaNet, ModelConfig
from flashmoe.models.batch import Span
from flashmoe.ops.interface import Array, Handle, Ops


class GatedDeltaNet:
    """The mixer of a `linear_attention` layer; `prefix` is `model.layers.N.linear_attn`."""

    def __init__(
        self, ops: Ops, config: ModelConfig, delta: DeltaNet, weights: Mapping[str, Handle], prefix: str
    ) -> None:
        self.ops, self.delta, self.eps = ops, delta, config.eps
        self.projections = [weights[f"{prefix}.in_proj_{name}"] for name in ("qkv", "z", "b", "a")]
        self.conv = weights[f"{prefix}.conv1d.weight"]
        self.a_log = weights[f"{prefix}.A_log"]
        self.dt_bias = weights[f"{prefix}.dt_bias"]
        self.norm = weights[f"{prefix}.norm.weight"]
        self.output = [weights[f"{prefix}.out_proj"]]

    def new_state(self) -> Handle:
        d = self.delta
        return self.ops.delta_state(d.channels, d.kernel, d.value_heads, d.key_dim, d.value_dim)

    def __call__(self, x: Array, spans: Sequence[Span], layer: int, rope: tuple[Array, Array]) -> Array:  # noqa: ARG002
        ops = self.ops
        qkv, z, b, a = ops.linears(x, self.projections)
        parts = []
        for s in spans:
            own, state = slice(s.begin, s.end), s.states[layer]
            mixed = ops.causal_conv_silu(qkv[own], self.conv, state)
            parts.append(
                ops.gated_delta_rule(mixed, a[own], b[own], self.a_log, self.dt_bias, self.delta.key_heads, state)
            )
        o = parts[0] if len(parts) == 1 else ops.concatenate(parts)
        return ops.linears(ops.gated_rms_norm(o, z, self.norm, self.eps), self.output)[0]
