"""How many bytes a model's state and activations take. Knows sizes from the config, not where the bytes come from."""

from flashmoe.models.architecture import ModelConfig
from flashmoe.ops.interface import Ops


def state_bytes_per_token(ops: Ops, config: ModelConfig) -> int:
    """Key/value cache of one token, all layers together."""
    full = sum(kind == "full_attention" for kind in config.layer_types)
    return full * ops.kv_bytes(config.kv_heads, config.head_dim)


def fixed_state_bytes(config: ModelConfig) -> int:
    """GatedDeltaNet states of a sequence of any length, float32."""
    d = config.delta
    if d is None:
        return 0
    layers = sum(kind == "linear_attention" for kind in config.layer_types)
    return layers * 4 * (d.value_heads * d.key_dim * d.value_dim + d.channels * (d.kernel - 1))


def scratch_bytes(config: ModelConfig, chunk: int, sequences: int) -> int:
    """An upper bound of what a forward of a chunk, or of one token of each sequence, holds at once, float32: the
    residual stream and its copies, the widest mixer, the experts' outputs, a row of logits for each sequence and what
    sampling makes of one."""
    tokens = max(chunk, sequences)
    c, d = config, config.delta
    full = c.head_dim * (4 * c.heads + 3 * c.kv_heads)
    linear = 2 * d.channels + 4 * d.value_heads * d.value_dim if d else 0
    inner = 3 * max(c.expert_inter, c.shared_inter) * (c.top_k + 1)
    per_token = 6 * c.hidden + max(full, linear, c.top_k * c.hidden + inner)
    return 4 * tokens * per_token + (7 + sequences) * 4 * c.vocab
