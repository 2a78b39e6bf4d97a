"""Full attention: grouped queries, normalised q and k, partial rotary embedding, optional output gate."""

from collections.abc import Mapping, Sequence

from flashmoe.models.architecture import ModelConfig
from flashmoe.models.batch import Span
from flashmoe.models.passage import attention_tokens
from flashmoe.ops.interface import Array, Handle, Ops


class FullAttention:
    """The mixer of a `full_attention` layer; `prefix` is `model.layers.N.self_attn`."""

    def __init__(self, ops: Ops, config: ModelConfig, weights: Mapping[str, Handle], prefix: str) -> None:
        self.ops, self.config = ops, config
        self.projections = [weights[f"{prefix}.{name}_proj"] for name in "qkv"]
        self.output = [weights[f"{prefix}.o_proj"]]
        self.q_norm = weights[f"{prefix}.q_norm.weight"]
        self.k_norm = weights[f"{prefix}.k_norm.weight"]
        self.scale = config.head_dim**-0.5

    def new_state(self) -> Handle:
        return self.ops.kv_cache(self.config.kv_heads, self.config.head_dim)

    def __call__(self, x: Array, spans: Sequence[Span], layer: int, rope: tuple[Array, Array]) -> Array:
        ops, c, (cos, sin) = self.ops, self.config, rope
        tokens, d = x.shape[0], c.head_dim
        q, k, v = ops.linears(x, self.projections)
        # Where there is an output gate, each head's rows of q_proj are [query | gate].
        q = q.reshape(tokens, c.heads, -1)
        query = ops.norm_rope(q[..., :d], self.q_norm, c.eps, cos, sin)
        key = ops.norm_rope(k.reshape(tokens, c.kv_heads, d), self.k_norm, c.eps, cos, sin)
        value = v.reshape(tokens, c.kv_heads, d)
        parts = []
        for s in spans:
            state = s.states[layer]
            most = attention_tokens(c, state.length + s.end - s.begin)
            for begin in range(s.begin, s.end, most):
                own = slice(begin, min(begin + most, s.end))
                parts.append(ops.attention(query[own], key[own], value[own], state, self.scale))
        o = parts[0] if len(parts) == 1 else ops.concatenate(parts)
        o = ops.sigmoid_gate(o, q[..., d:]) if c.attention_gate else o.reshape(tokens, -1)
        return ops.linears(o, self.output)[0]
