"""Every operation of ops/interface.py as its formula says it, in NumPy and float32; activations are never rounded.

Invariant: one row at a time where a BLAS would choose its order of summation by the number of rows.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flashmoe.ops.reference.dequantise import matrix_in_record, rows_of, values_of
from flashmoe.ops.reference.state import DeltaState, KeyValueCache
from flashmoe.ops.weights import ExpertWork, Matrix, RecordLayout

Floats = NDArray[np.float32]


def softplus(x: Floats) -> Floats:
    return np.logaddexp(np.float32(0), x)


def sigmoid(x: Floats) -> Floats:
    """exp(-softplus(-x)): 1 / (1 + exp(-x)) without its overflow."""
    return np.exp(-softplus(-x))


def silu(x: Floats) -> Floats:
    return x * sigmoid(x)


def softmax(x: Floats) -> Floats:
    e: Floats = np.exp(x - x.max(axis=-1, keepdims=True))
    e /= e.sum(axis=-1, keepdims=True)
    return e


def normalise(x: Floats, eps: float) -> Floats:
    """x * rsqrt(mean(x^2) + eps)."""
    y: Floats = x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(eps))
    return y


def l2_normalise(x: Floats) -> Floats:
    y: Floats = x / np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True) + np.float32(1e-6))
    return y


def linear(x: Floats, w: Floats) -> Floats:
    return np.stack([w @ row for row in x])


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

    def empty(self, rows: int, columns: int) -> Floats:
        return np.empty((rows, columns), np.float32)

    def concatenate(self, parts: Sequence[Floats]) -> Floats:
        return np.concatenate(parts)

    def embed(self, table: Matrix, token_ids: NDArray[np.int32]) -> Floats:
        return rows_of(table, token_ids)

    def rms_norm(self, x: Floats, weight: Floats, eps: float) -> Floats:
        return normalise(x, eps) * weight

    def linears(self, x: Floats, matrices: Sequence[Matrix]) -> list[Floats]:
        return [linear(x, values_of(m)) for m in matrices]

    def gated_mlp(self, x: Floats, gate: Matrix, up: Matrix, down: Matrix) -> Floats:
        return linear(silu(linear(x, values_of(gate))) * linear(x, values_of(up)), values_of(down))

    def norm_rope(self, x: Floats, weight: Floats, eps: float, cos: Floats, sin: Floats) -> Floats:
        y = normalise(x, eps) * weight
        half = cos.shape[1]
        first, second = y[..., :half], y[..., half : 2 * half]
        c, s = cos[:, None, :], sin[:, None, :]
        return np.concatenate([first * c - second * s, second * c + first * s, y[..., 2 * half :]], axis=-1)

    def attention(self, q: Floats, k: Floats, v: Floats, cache: KeyValueCache, scale: float) -> Floats:
        past = cache.length
        cache.extend(k, v)
        tokens, heads, d = q.shape
        kv_heads = k.shape[1]
        out = np.empty_like(q)
        for t in range(tokens):
            keys, values = cache.keys[: past + t + 1], cache.values[: past + t + 1]
            query = q[t].reshape(kv_heads, heads // kv_heads, d)
            weights = softmax(np.einsum("grd,ngd->grn", query, keys) * np.float32(scale))
            out[t] = np.einsum("grn,ngd->grd", weights, values).reshape(heads, d)
        return out

    def sigmoid_gate(self, x: Floats, gate: Floats) -> Floats:
        return (x * sigmoid(gate)).reshape(len(x), -1)

    def causal_conv_silu(self, x: Floats, weight: Floats, state: DeltaState) -> Floats:
        kernel = weight.shape[1]
        inputs: Floats = np.concatenate([state.conv, x])
        state.conv = inputs[len(inputs) - (kernel - 1) :]
        total: Floats = inputs[: len(x)] * weight[:, 0]
        for j in range(1, kernel):
            total += inputs[j : j + len(x)] * weight[:, j]
        return silu(total)

    def gated_delta_rule(
        self, qkv: Floats, a: Floats, b: Floats, a_log: Floats, dt_bias: Floats, key_heads: int, state: DeltaState
    ) -> Floats:
        value_heads, dk, dv = state.recurrent.shape
        tokens, width = len(qkv), key_heads * dk
        repeats = value_heads // key_heads
        q = l2_normalise(qkv[:, :width].reshape(tokens, key_heads, dk)) * np.float32(dk**-0.5)
        k = l2_normalise(qkv[:, width : 2 * width].reshape(tokens, key_heads, dk))
        q, k = q.repeat(repeats, axis=1), k.repeat(repeats, axis=1)
        v = qkv[:, 2 * width :].reshape(tokens, value_heads, dv)
        decay = np.exp(-np.exp(a_log) * softplus(a + dt_bias))
        beta = sigmoid(b)
        out = np.empty((tokens, value_heads, dv), np.float32)
        for t in range(tokens):
            state.recurrent *= decay[t][:, None, None]
            delta = (v[t] - np.einsum("hkv,hk->hv", state.recurrent, k[t])) * beta[t][:, None]
            state.recurrent += k[t][:, :, None] * delta[:, None, :]
            out[t] = np.einsum("hkv,hk->hv", state.recurrent, q[t])
        return out

    def gated_rms_norm(self, x: Floats, z: Floats, weight: Floats, eps: float) -> Floats:
        return (normalise(x, eps) * weight * silu(z.reshape(x.shape))).reshape(len(x), -1)

    def route(self, x: Floats, router: Matrix, top_k: int, renormalise: bool) -> tuple[NDArray[np.int32], Floats]:
        p = softmax(linear(x, values_of(router)))
        # A stable sort of -p puts the lower id first on a tie.
        ids = np.argsort(-p, axis=-1, kind="stable")[:, :top_k]
        weights = np.take_along_axis(p, ids, axis=-1)
        if renormalise:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        return ids.astype(np.int32), weights

    def experts(self, x: Floats, arena: NDArray[np.uint8], layout: RecordLayout, work: ExpertWork, out: Floats) -> None:
        for i, slot in enumerate(work.slots):
            entries = slice(work.starts[i], work.starts[i + 1])
            gate, up, down = (matrix_in_record(arena[slot], layout, name) for name in ("gate", "up", "down"))
            out[work.outputs[entries]] = self.gated_mlp(x[work.rows[entries]], gate, up, down)

    def combine(self, outputs: Floats, weights: Floats, shared: Floats | None, shared_gate: Floats | None) -> Floats:
        total: Floats = weights[:, 0, None] * outputs[:, 0]
        for rank in range(1, outputs.shape[1]):
            total = total + weights[:, rank, None] * outputs[:, rank]
        if shared is None or shared_gate is None:
            return total
        return total + sigmoid(shared_gate) * shared
