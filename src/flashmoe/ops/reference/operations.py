"""Every operation of ops/interface.py as its formula says it, in NumPy and float32; activations are never rounded."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flashmoe.ops.blocks import AttentionWeights, DeltaNetWeights
from flashmoe.ops.reference.dequantise import matrix_in_record, rows_of, values_of
from flashmoe.ops.reference.formulas import Floats, linear, normalise, sigmoid, silu, softmax
from flashmoe.ops.reference.mixers import (
    attention,
    causal_conv_silu,
    gated_delta_rule,
    gated_rms_norm,
    norm_rope,
    sigmoid_gate,
)
from flashmoe.ops.reference.state import DeltaState, KeyValueCache
from flashmoe.ops.weights import ExpertWork, Matrix, RecordLayout


def gated_mlp(x: Floats, gate: Matrix, up: Matrix, down: Matrix) -> Floats:
    """down(silu(gate x) * up x)."""
    return linear(silu(linear(x, values_of(gate))) * linear(x, values_of(up)), values_of(down))


def parts(ends: Sequence[int]) -> list[slice]:
    """The rows of each sequence of a batch."""
    return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


class ReferenceOps:
    """The readable truth; ops/interface.py has the shapes. kv_bits: 16 keeps float32, 8 rounds to int8."""

    name = "reference"
    device = "reference (NumPy, slow)"
    busy_seconds = 0.0

    def __init__(self, kv_bits: int = 16) -> None:
        self._kv_bits = kv_bits

    def matrix(self, weight: Matrix, *, exact: bool = False) -> Matrix:  # noqa: ARG002
        return weight

    def vector(self, values: Floats) -> Floats:
        return values

    def layout(self, layout: RecordLayout) -> RecordLayout:
        return layout

    def kv_cache(self, kv_heads: int, head_dim: int) -> KeyValueCache:
        return KeyValueCache(kv_heads, head_dim, self._kv_bits)

    def kv_bytes(self, kv_heads: int, head_dim: int) -> int:
        return 2 * 4 * kv_heads * head_dim

    def product_bytes(self, rows: int, columns: int) -> int:
        return 17 * rows * columns  # dequantised whole, through four copies of four bytes a weight

    def delta_state(self, channels: int, kernel: int, value_heads: int, key_dim: int, value_dim: int) -> DeltaState:
        return DeltaState(
            np.zeros((kernel - 1, channels), np.float32), np.zeros((value_heads, key_dim, value_dim), np.float32)
        )

    def delta_net_weights(self, weights: DeltaNetWeights) -> DeltaNetWeights:
        return weights

    def attention_weights(self, weights: AttentionWeights) -> AttentionWeights:
        return weights

    def empty(self, rows: int, columns: int) -> Floats:
        return np.empty((rows, columns), np.float32)

    def embed(self, table: Matrix, token_ids: NDArray[np.int32]) -> Floats:
        return rows_of(table, token_ids)

    def rms_norm(self, x: Floats, weight: Floats, eps: float) -> Floats:
        return normalise(x, eps) * weight

    def linears(self, x: Floats, matrices: Sequence[Matrix]) -> list[Floats]:
        return [linear(x, values_of(m)) for m in matrices]

    def full_attention(
        self,
        x: Floats,
        weights: AttentionWeights,
        ends: Sequence[int],
        caches: Sequence[KeyValueCache],
        cos: Floats,
        sin: Floats,
    ) -> None:
        w, tokens, d = weights, len(x), len(weights.q_norm)
        q, k, v = self.linears(self.rms_norm(x, w.norm, w.eps), [w.q, w.k, w.v])
        q, k, v = q.reshape(tokens, w.heads, -1), k.reshape(tokens, w.kv_heads, d), v.reshape(tokens, w.kv_heads, d)
        query, key = norm_rope(q[..., :d], w.q_norm, w.eps, cos, sin), norm_rope(k, w.k_norm, w.eps, cos, sin)
        o = np.concatenate(
            [
                attention(query[own], key[own], v[own], cache, d**-0.5)
                for own, cache in zip(parts(ends), caches, strict=True)
            ]
        )
        o = sigmoid_gate(o, q[..., d:]) if w.gated else o.reshape(tokens, -1)
        x += self.linears(o, [w.output])[0]

    def delta_net(self, x: Floats, weights: DeltaNetWeights, ends: Sequence[int], states: Sequence[DeltaState]) -> None:
        w = weights
        qkv, z, b, a = self.linears(self.rms_norm(x, w.norm, w.eps), [w.qkv, w.z, w.b, w.a])
        outs = []
        for own, state in zip(parts(ends), states, strict=True):
            mixed = causal_conv_silu(qkv[own], w.conv, state)
            outs.append(gated_delta_rule(mixed, a[own], b[own], w.a_log, w.dt_bias, w.key_heads, state))
        x += self.linears(gated_rms_norm(np.concatenate(outs), z, w.gated_norm, w.eps), [w.output])[0]

    def route(
        self, x: Floats, norm: Floats, eps: float, router: Matrix, top_k: int, renormalise: bool
    ) -> tuple[Floats, NDArray[np.int32], Floats]:
        y = self.rms_norm(x, norm, eps)
        p = softmax(linear(y, values_of(router)))
        # A stable sort of -p puts the lower id first on a tie.
        ids = np.argsort(-p, axis=-1, kind="stable")[:, :top_k]
        weights = np.take_along_axis(p, ids, axis=-1)
        if renormalise:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        return y, ids.astype(np.int32), weights

    def shared_expert(self, y: Floats, gate: Matrix, up: Matrix, down: Matrix, share: Matrix) -> tuple[Floats, Floats]:
        return gated_mlp(y, gate, up, down), linear(y, values_of(share))

    def experts(self, x: Floats, arena: NDArray[np.uint8], layout: RecordLayout, work: ExpertWork, out: Floats) -> None:
        for i, slot in enumerate(work.slots):
            entries = slice(work.starts[i], work.starts[i + 1])
            gate, up, down = (matrix_in_record(arena[slot], layout, name) for name in ("gate", "up", "down"))
            out[work.outputs[entries]] = gated_mlp(x[work.rows[entries]], gate, up, down)

    def combine(self, x: Floats, outputs: Floats, weights: Floats, shared: Floats | None, share: Floats | None) -> None:
        by_rank = outputs.reshape(*weights.shape, -1)
        total: Floats = weights[:, 0, None] * by_rank[:, 0]
        for rank in range(1, by_rank.shape[1]):
            total = total + weights[:, rank, None] * by_rank[:, rank]
        x += total if shared is None or share is None else total + sigmoid(share) * shared
