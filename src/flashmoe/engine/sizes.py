"""How many bytes a model's state and activations take. Knows sizes from the config, not where the bytes come from."""

from flashmoe.models.architecture import ModelConfig
from flashmoe.models.forward_context import BLOCK, expert_entries
from flashmoe.ops.interface import KV_BLOCK, Ops
from flashmoe.ops.weights import GROUP

_FLOAT = 4
_ENTRY_BYTES = 96
"""Who computes what: ids, weights, sorting them, and the pointers of the native core, for a token's expert."""


def state_bytes_per_token(ops: Ops, config: ModelConfig) -> int:
    """Key/value cache of one token, all layers together."""
    full = sum(kind == "full_attention" for kind in config.layer_types)
    return full * ops.kv_bytes(config.kv_heads, config.head_dim)


def whole_blocks(tokens: int) -> int:
    """The tokens that the blocks of keys and values have room for, if they are to hold so many."""
    return -(-tokens // KV_BLOCK) * KV_BLOCK


def fixed_state_bytes(config: ModelConfig) -> int:
    """GatedDeltaNet states of a sequence of any length, float32."""
    d = config.delta
    if d is None:
        return 0
    layers = sum(kind == "linear_attention" for kind in config.layer_types)
    return layers * 4 * (d.value_heads * d.key_dim * d.value_dim + d.channels * (d.kernel - 1))


def scratch_bytes(config: ModelConfig, chunk: int, sequences: int) -> int:
    """An upper bound of what a forward of a chunk, or of one token of each sequence, holds at once.

    All tokens have a row in the residual stream, its norm and the shared expert's result, one for each routed expert's
    result, the router's scores and their rounded input; only a block of them is in a mixer. Sequences have a row of
    logits each, and sampling makes some of one.
    """
    tokens = max(chunk, sequences)
    whole = tokens * (_FLOAT * (config.hidden * (3 + config.top_k) + config.experts) + config.top_k * _ENTRY_BYTES)
    rounded = tokens * _rounded(config.hidden)
    entries = min(tokens * config.top_k, expert_entries(config))
    hidden = entries * _rounded(config.expert_inter) + min(tokens, BLOCK) * _rounded(config.shared_inter)
    mixer = min(tokens, BLOCK) * (_FLOAT * _mixer_columns(config) + _rounded(_mixer_columns(config) // 4))
    return whole + rounded + hidden + mixer + (7 + sequences) * _FLOAT * config.vocab


def _mixer_columns(c: ModelConfig) -> int:
    """Floats of one token that the widest mixer holds: projections, what is made of them, and the result."""
    full = c.heads * c.head_dim * 6 + 3 * c.kv_heads * c.head_dim
    d = c.delta
    linear = 2 * d.channels + 4 * d.value_heads * d.value_dim if d else 0
    return 2 * c.hidden + max(full, linear)


def _rounded(columns: int) -> int:
    """Bytes of a row as int8 with its scales and sums, padded as csrc/backend/activations.cpp does."""
    return columns + 256 + 2 * _FLOAT * (columns // GROUP + 16)
